"""A run from its first step, or from its newest state, to its last: trained, told, kept and judged.

    run(task, open_batches, recipe, state, plan=plan, digest=digest, desk=desk)

What Ray adds is processes: this is the same with one worker or many, on a laptop or a card, without Ray or with it.
The first worker has a `Desk`; the others only train.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from fahr.training.background import Background
from fahr.training.journal import Journal
from fahr.training.keeper import Keeper
from fahr.training.loop import Batches, Metrics, train
from fahr.training.recipe import Recipe
from fahr.training.state import Snapshot, State, snapshot
from fahr.training.step import world_size
from fahr.training.workers import agree


class Stopped(KeyboardInterrupt):
    """Asked to stop, the state is written: the same line goes on from it."""


@dataclass(frozen=True)
class Plan:
    """When what is done. Steps, not seconds, decide what stands in the files; only kills decide what is lost."""

    log_every: int  # steps between two lines of metrics.jsonl
    judge_at: frozenset[int]  # steps after which the model is judged
    save_every_s: float  # what a kill costs at most
    look_every_s: float = 5.0  # between two questions whether this machine is about to be taken away
    leave_every_s: float = 15.0  # between two states from such a notice on: what is learned until it goes is not lost

    def pace(self, warned: bool) -> float:
        """Seconds from state to state; `warned`: this machine is about to be taken away."""
        return min(self.save_every_s, self.leave_every_s) if warned else self.save_every_s

    @classmethod
    def of(cls, recipe: Recipe, *, log_rows: int, judgements: int, save_every_s: float) -> "Plan":
        """About `log_rows` lines, and `judgements` of them evenly spaced, the last at the end of the run."""
        steps = recipe.num_steps
        judged = {round(steps * number / judgements) for number in range(1, judgements + 1)} - {0}
        return cls(max(1, steps // log_rows), frozenset(judged), save_every_s)


@dataclass
class Desk:
    """What the first worker alone does beside training."""

    keeper: Keeper
    journal: Journal
    background: Background
    judge: Callable[[Snapshot, int], Mapping[str, Any]] | None = None  # state, position -> a row of metrics.jsonl
    tell: Callable[[Mapping[str, Any]], None] = lambda row: None  # what goes to the progress bar, after every step
    flops: float = 0.0  # of one sample
    peak: float = 0.0  # FLOP/s of one device

    def judged(self, taken: Snapshot, position: int) -> Mapping[str, Any]:
        """What the judge found, noted."""
        if self.judge is None:
            return {}
        found = self.judge(taken, position)
        self.journal.note("judged", {"position": position, **found})
        return found


@dataclass
class _Window:
    """Sums since the last line of metrics.jsonl."""

    began: float = field(default_factory=time.perf_counter)
    samples: int = 0
    waited: float = 0.0
    saving: float = 0.0

    def add(self, metrics: Metrics, samples: int) -> None:
        self.samples += samples
        self.waited += metrics.waited_share * samples / metrics.samples_per_second

    def row(self, metrics: Metrics, desk: Desk) -> dict[str, Any]:
        seconds = max(time.perf_counter() - self.began, 1e-9)
        rate = self.samples / seconds
        row = {
            "position": metrics.position,
            "step": metrics.step,
            "loss": metrics.loss,
            "grad_norm": metrics.grad_norm,
            "learning_rate": metrics.learning_rate,
            "samples_per_second": rate,
            "waited_share": self.waited / seconds,
            "saving_share": self.saving / seconds,
            "memory_bytes": metrics.memory_bytes,
            "skipped_steps": metrics.skipped,
            "workers": world_size(),
        }
        if desk.flops and desk.peak:
            row["flop_utilisation"] = desk.flops * rate / (desk.peak * world_size())
        return row


def run(
    task: nn.Module,
    open_batches: Callable[[int], Batches],
    recipe: Recipe,
    state: State,
    *,
    plan: Plan,
    digest: str,
    desk: Desk | None,
    device: torch.device,
    noticed: Callable[[], bool] = lambda: False,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Mapping[str, Any]], None] = lambda row: None,
    before_judgement: Callable[[Snapshot | None], None] = lambda taken: None,
    enough: Callable[[Mapping[str, Any]], bool] = lambda row: False,
    bad: Callable[[], Mapping[int, str]] = dict,
) -> None:
    """Train to the end of the recipe, or until `enough` says of a judgement (asked of the first worker) that it is one.

    `noticed`: this machine is about to be taken away, asked of all workers at once. `stop`: end soon, with a state
    (raises `Stopped`). `report`: called by all workers after each judgement. `before_judgement`: likewise, with the
    state where a worker has it, to do in shares what the judge then looks at. `bad`: rows of this worker that did not
    decode and why, for the state.
    """
    saved = looked = time.monotonic()
    warned, first = False, desk is not None
    window = _Window()
    for metrics in train(task, open_batches, recipe, state):
        window.add(metrics, recipe.global_batch)
        judged = metrics.step in plan.judge_at
        found: Mapping[str, Any] = {}
        if desk:
            _tell(desk, metrics, recipe)
            if metrics.step % plan.log_every == 0 or judged or metrics.culprits:
                desk.journal.note("step", window.row(metrics, desk))
                window = _Window()
        now = time.monotonic()
        due, look, stopping = agree(
            [first and now - saved >= plan.pace(warned), first and now - looked >= plan.look_every_s, stop()], device
        )
        if look:
            looked, news = now, not warned and noticed()
            warned, due = warned or news, due or news
        if due or judged or stopping:
            state.bad |= gathered(bad())
            began = time.perf_counter()
            taken = copied(task, state, digest, first=first)
            window.saving += time.perf_counter() - began
            if judged:
                before_judgement(taken)
            if desk and taken:
                found = _kept(desk, taken, metrics.position, judged)
            if judged:
                window = _Window(saving=window.saving)  # what judging takes is no part of training's pace
                report({"position": metrics.position, "loss": metrics.loss, **found})
            saved = time.monotonic()
        if judged and agree([first and enough(found)], device)[0]:
            return
        if stopping and metrics.step < recipe.num_steps:
            raise _stopped(desk, metrics, recipe)


def _stopped(desk: Desk | None, metrics: Metrics, recipe: Recipe) -> Stopped:
    if desk:
        desk.background.wait()
    return Stopped(f"stopped after step {metrics.step:,} of {recipe.num_steps:,}")


def _kept(desk: Desk, taken: Snapshot, position: int, judged: bool) -> Mapping[str, Any]:
    """Judged before it is written: a run that goes on from a state does not judge it again."""
    found = desk.judged(taken, position) if judged else {}
    desk.keeper.save(taken, before=desk.journal.written())
    return found


def _tell(desk: Desk, metrics: Metrics, recipe: Recipe) -> None:
    row: dict[str, Any] = {"position": metrics.position, "loss": metrics.loss}
    if behind := desk.background.behind_s:
        row["unsaved_s"] = behind
    if metrics.culprits:
        shown = ", ".join(f"{each:,}" for each in metrics.culprits[:5])
        row["warning"] = (
            f"step {metrics.step:,}: loss {metrics.loss:g}, gradient norm {metrics.grad_norm:g}: skipped, nothing "
            f"moved. Positions {shown}{' ...' if len(metrics.culprits) > 5 else ''}; skip {metrics.skipped} of at most "
            f"{recipe.nonfinite_limit}."
        )
        desk.journal.note(
            "skipped", {"position": metrics.position, "step": metrics.step, "culprits": metrics.culprits[:100]}
        )
    desk.tell(row)


def copied(task: nn.Module, state: State, digest: str, *, first: bool) -> Snapshot | None:
    """All workers gather sharded weights; where each has all of them, the first alone copies."""
    return snapshot(state, digest) if first or isinstance(task, FSDPModule) else None


def gathered(mine: Mapping[int, str]) -> dict[int, str]:
    """Faces that did not decode, of all workers: row -> why. All call it."""
    if world_size() == 1:
        return dict(mine)
    shares: list[Any] = [None] * world_size()
    distributed.all_gather_object(shares, dict(mine))
    return {row: why for share in shares for row, why in share.items()}
