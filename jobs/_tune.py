"""A sweep on Ray Tune: trials are asked of a chooser, watched, noted when they end, and begun again after a kill.

    sweep(trainable, plan, todo, ask, desk, data)

A trainable is a plain function of one dict (`number`, `settings`, `seed`, and what the plan adds). It reports rows with
`step`, `metric`, `score` (lower is better) and, once, at its end, a row with `ended`; what it raises it reports as
`failed`, so that its actor lives on. What a sweep goes on from is ours (fahr.search.trials): Ray's own notes of the
experiment are scratch, written every few seconds, and would lose the trials between.
"""

import os
import shutil
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from fahr.errors import Refused
from fahr.search.spaces import Settings
from fahr.search.trials import Notes, Trial

WORST = 1e30  # the score of a trial that failed: a scheduler knows no other way
FOREVER = 10**6  # steps: no trial is longer, so none is ended for its length

for _name, _value in {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # three files a trial that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # ours are written as trials end
    "TUNE_MAX_PENDING_TRIALS_PG": "2",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # it would end the sweep: here a trial without a metric has failed
    "RAY_AIR_NEW_OUTPUT": "0",
}.items():
    os.environ.setdefault(_name, _value)


@dataclass(frozen=True)
class SweepPlan:
    """How trials run."""

    concurrent: int
    resources: Mapping[str, float]  # of a trial's own process
    scheduler: Literal["asha", "none"]
    grace: int  # steps before which none is stopped
    seed: int
    more: Mapping[str, Any] = field(default_factory=dict)  # what every trial is told besides


@dataclass(frozen=True)
class Planned:
    """A trial to be run: its settings, or those that the chooser says when its turn comes."""

    number: int
    settings: Settings | None
    seed: int


def trial(work: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]) -> None:
    """What a trainable does: `work`, whose error is a row. Crashes of the process itself are told by Ray."""
    try:
        work(config)
    except Exception as error:  # noqa: BLE001 - kept with the trial; the next one gets this process
        if not isinstance(error, Refused | ArithmeticError):
            traceback.print_exc()
        tune.report({"failed": f"{type(error).__name__}: {error}", "score": WORST, "step": FOREVER - 1, "ended": True})


class Desk(Callback):
    """Watches: what was reported becomes a Trial when it ends."""

    def __init__(
        self, notes: Notes, told: Callable[[Trial], None], show: Callable[[int, bool], None] = lambda n, end: None
    ) -> None:
        """`told`: of each trial that ended. `show`: now and then, with the number of those that run."""
        self.notes, self._told, self._show = notes, told, show
        self.running: dict[str, tuple[Planned, Settings]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._began: dict[str, float] = {}
        self.ended: dict[int, Trial] = {}

    def given(self, trial_id: str, planned: Planned, settings: Settings) -> None:
        self.running[trial_id] = planned, settings
        self._rows[trial_id] = []
        self._began[trial_id] = time.time()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._began[trial.trial_id] = time.time()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:  # fmt: skip
        self._rows[trial.trial_id].append(result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.trial_id, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.trial_id, _death(trial.error_file))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._show(len(self.running), False)

    def _end(self, trial_id: str, error: str) -> None:
        planned, settings = self.running.pop(trial_id)
        rows, began = self._rows.pop(trial_id), self._began.pop(trial_id)
        last = next((row for row in rows if row.get("ended")), None)
        error = error or str((last or {}).get("failed", ""))
        curve = (last or {}).get("curve") or [(row["step"], row["metric"]) for row in rows if "metric" in row]
        scored = [row for row in rows if row.get("metric") is not None and "failed" not in row]
        if not scored and not error:
            error = "it reported no metric"
        whole = [row for row in scored if row is last]  # it has chosen its best step itself
        best = min(whole or scored, key=lambda row: float(row["score"]), default=None)
        seconds = float((last or {}).get("seconds", time.time() - began))  # of computing, where that was measured
        settings = (last or {}).get("settings") or settings  # a schedule is known at its end
        self.ended[planned.number] = found = Trial(
            planned.number, settings, planned.seed, "failed" if error else "done" if last else "stopped",
            metric=None if error or best is None else float(best["metric"]),
            metric_se=None if error or best is None or best.get("se") is None else float(best["se"]),
            score=None if error or best is None else float(best["score"]),
            best_step=None if error or best is None else int(best.get("best_step", best["step"])),
            curve=tuple((float(step), float(value)) for step, value in curve), seconds=seconds,
            started=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"), error=error,
        )  # fmt: skip
        self.notes.ended(found)
        self._told(found)


def _death(place: str | None) -> str:
    """What Ray wrote of a trial whose process ended: of a traceback the last line, of a death the first."""
    lines: list[str] = []
    if place and os.path.exists(place):
        with open(place) as file:
            lines = [line.strip() for line in file.read().splitlines()[1:] if line.strip()]
    if not lines:
        return "its process died"
    return lines[0] if "died" in lines[0] else lines[-1]


class _Asker(Searcher):
    def __init__(self, todo: Sequence[Planned], ask: Callable[[int], Settings], desk: Desk, plan: SweepPlan) -> None:
        super().__init__(metric="score", mode="min")
        self._todo, self._ask, self._desk, self._more = deque(todo), ask, desk, plan.more

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        if not self._todo:
            return Searcher.FINISHED
        planned = self._todo.popleft()
        settings = self._ask(planned.number) if planned.settings is None else planned.settings
        self._desk.notes.given(planned.number, settings)
        self._desk.given(trial_id, planned, settings)
        return {"number": planned.number, "settings": settings, "seed": planned.seed, **self._more}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The desk is told by Ray."""

    def save(self, checkpoint_path: str) -> None:
        """What ended is in the notes."""

    def restore(self, checkpoint_path: str) -> None:
        """What ended is in the notes."""


def sweep(
    trainable: Callable[..., None],
    plan: SweepPlan,
    todo: Sequence[Planned],
    ask: Callable[[int], Settings],
    desk: Desk,
    data: Mapping[str, Any],
) -> None:
    """All of `todo`; `data` goes to every process once. Stopped by the user: raises KeyboardInterrupt."""
    if not todo:
        return
    scratch = tempfile.mkdtemp(prefix="fahr-tune-")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, **data), dict(plan.resources)),
        tune_config=tune.TuneConfig(
            search_alg=_Asker(todo, ask, desk, plan), scheduler=_scheduler(plan), num_samples=len(todo),
            max_concurrent_trials=plan.concurrent, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep", storage_path=scratch, callbacks=[desk], verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )  # fmt: skip
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if missing := [each.number for each in todo if each.number not in desk.ended]:
        raise KeyboardInterrupt(f"{len(missing)} trials were not run")


class _Asha(AsyncHyperBandScheduler):
    """The default is compared with, whatever it is worth: it runs to its end."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        said: str = super().on_trial_result(tune_controller, trial, result)
        return said if trial.config["number"] else str(TrialScheduler.CONTINUE)


def _scheduler(plan: SweepPlan) -> TrialScheduler | None:
    if plan.scheduler == "none":
        return None
    return _Asha(
        time_attr="step", metric="score", mode="min", max_t=FOREVER, grace_period=plan.grace, reduction_factor=3
    )


def most_concurrent(asked: int | None, each: Mapping[str, float], flag: str) -> int:
    """Trials at a time that never starve each other. Refused, with the numbers: more than the cluster has.

    `each`: what one trial takes in all, its workers counted. On one machine no more than it has cores, unless asked.
    """
    whole, machines = ray.cluster_resources(), len(ray.nodes())  # type: ignore[no-untyped-call]
    has = {name: float(whole.get(name, 0)) for name in each}
    fits = {name: int((has[name] + 1e-9) // amount) for name, amount in each.items() if amount > 0}
    most = min(fits.values())
    wanted = asked or 1
    if most >= wanted:
        cores = os.cpu_count() or 1 if machines == 1 else most
        return asked or max(1, min(most, int((cores + 1e-9) // each.get("CPU", 1.0))))
    told = ". It needs ".join(
        f"{wanted} x {_amount(name, each[name])} = {_amount(name, wanted * each[name])}; the cluster has "
        f"{_amount(name, has[name])}"
        for name, number in fits.items() if number < wanted
    )  # fmt: skip
    remedy = f"Use at most {most}, or lower {flag}." if most else f"Lower {flag}, or start a larger cluster."
    raise Refused(f"--concurrent {wanted}: needs {told}. {remedy}")


def _amount(name: str, number: float) -> str:
    return f"{number / 2**30:.1f} GiB of heap" if name == "memory" else f"{number:g} {name}"
