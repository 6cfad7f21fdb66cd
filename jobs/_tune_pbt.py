"""A schedule of the head's rate by population based training: members that do badly go on from where better ones are.

    population(plan, members, desk, heads, parts=4, low=1e-3, high=0.3, storage=folder)

A member learns in parts. After each, Ray Tune may make it a copy of a better one, with that one's rate up or down by a
fifth, or drawn anew. What it is then is its rates so far, one a part: they alone are its checkpoint, since the same
rates, people and seed give the same head. So a schedule that was found is no accident of a copy: finalists learn it
from the beginning, with other seeds, and best.yaml holds it as stages of the fine-tune job.

A population cannot be cut in two: one that is killed begins again.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from fahr.search.heads import cross_validated
from fahr.search.metrics import METRICS
from fahr.search.people import folds
from fahr.search.settings import PART, PARTS
from fahr.search.spaces import Settings
from jobs import _tune
from jobs._tune import Desk, Planned, SweepPlan
from jobs._tune_features import Heads


def member(config: dict[str, Any], heads: Heads, members: Mapping[int, Settings], parts: int) -> None:
    """A trainable: `number`, and the `head_lr` of the part that comes."""
    torch.set_num_threads(1)
    _tune.trial(lambda config: _member(config, heads, members, parts), config)


def _member(config: Mapping[str, Any], heads: Heads, members: Mapping[int, Settings], parts: int) -> None:
    settings, curve = _gone_on() or (dict(members[config["number"]]), [])
    metric, seed = METRICS[heads.task], config["seed"]
    pool = heads.kept.take(heads.pool)
    fold = folds(pool.table, heads.task, heads.tune_folds, seed=seed)
    settings.pop("head_lr", None)
    curve = curve[: parts - 1]  # a copy of a member that has ended does the last part again, at its own rate
    for part in range(len(curve) + 1, parts + 1):
        settings |= {PARTS: parts, f"{PART}{part}": float(config["head_lr"])}
        judged = list(cross_validated(pool, heads.setup(settings), metric, fold, seed=seed))
        step, found = judged[-1]
        curve.append((part, found.value))
        row: dict[str, Any] = {"step": part, "metric": found.value, "score": found.score}
        if part == parts:
            row |= {"se": found.standard_error, "best_step": step, "curve": curve, "settings": settings, "ended": True}
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "schedule.json"), "w") as file:
                json.dump([settings, curve], file)
            tune.report(row, checkpoint=tune.Checkpoint.from_directory(folder))


def _gone_on() -> tuple[Settings, list[tuple[int, float]]] | None:
    """Of the member that this one now is."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder, open(os.path.join(folder, "schedule.json")) as file:
        settings, curve = json.load(file)
    return settings, [(step, value) for step, value in curve]


class _Watched(Desk):
    """Members have no searcher that says who they are: their configuration does."""

    def __init__(self, desk: Desk, planned: Mapping[int, Planned]) -> None:
        super().__init__(desk.notes, desk._told, desk._show)
        self.ended, self.running, self._planned = desk.ended, desk.running, planned

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id not in self.running:
            planned = self._planned[trial.config["number"]]
            self.given(trial.trial_id, planned, planned.settings or {})


def population(
    plan: SweepPlan, members: Mapping[int, Settings], desk: Desk, heads: Heads, *, parts: int, low: float, high: float,
    storage: str,
) -> None:  # fmt: skip
    """Each member once, told to the desk when it ends. `storage`: a folder that every machine sees."""
    planned = {number: Planned(number, settings, plan.seed) for number, settings in members.items()}
    rates = {number: float(each["head_lr"]) for number, each in members.items()}
    scheduler = PopulationBasedTraining(
        time_attr="step", metric="score", mode="min", perturbation_interval=1, quantile_fraction=0.25,
        hyperparam_mutations={"head_lr": tune.loguniform(low, high)},
    )  # fmt: skip
    data = {"heads": heads, "members": dict(members), "parts": parts}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(member, **data), dict(plan.resources)),
        param_space={
            "number": tune.grid_search(list(members)), "seed": plan.seed,
            "head_lr": tune.sample_from(lambda spec: rates[spec["config"]["number"]]),
        },
        tune_config=tune.TuneConfig(
            scheduler=scheduler, num_samples=1, max_concurrent_trials=plan.concurrent, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name="population", storage_path=storage, callbacks=[_Watched(desk, planned)], verbose=0
        ),
    )  # fmt: skip
    tuner.fit()
    if missing := [number for number in members if number not in desk.ended]:
        raise KeyboardInterrupt(f"{len(missing)} members did not end")
