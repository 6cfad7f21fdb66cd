"""A run: step after step from where its state stands to the end of its recipe, alone or as one of many workers.

    task = Pretraining(create("vit_tiny", task="mae", seed=0), recipe)
    state = fresh(task.model, recipe)
    for metrics in train(task, lambda start: Loader(faces, order, global_batch=..., start=start), recipe, state):
        print(metrics)           # between two steps: save the state, report, or break

Plain Python: whoever runs it decides about devices, threads, wrappers, files and what is told.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import distributed, nn

from fahr.training.loader import Batch
from fahr.training.optimizer import set_rate
from fahr.training.recipe import Recipe
from fahr.training.schedule import rate
from fahr.training.state import State
from fahr.training.step import Outcome, bare, pair_step, step, world_size


class Diverged(RuntimeError):
    """More steps than the recipe allows had a loss or a gradient that was not finite."""


class Batches(Protocol):
    """This worker's shares of the global batches, one after the other, without end."""

    def __iter__(self) -> Iterator[Batch]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Metrics:
    """Of one step. `position` counts all samples up to its end."""

    step: int  # 1 for the first
    position: int
    loss: float
    learning_rate: float
    grad_norm: float
    samples_per_second: float  # of all workers, waiting included
    waited_share: float  # of the step's time, for data
    memory_bytes: int  # the most so far: of the device, or of the process on a CPU
    skipped: int  # steps so far
    culprits: tuple[int, ...]  # positions to blame when this step was skipped


def train(
    task: nn.Module,
    open_batches: Callable[[int], Batches],
    recipe: Recipe,
    state: State,
    *,
    stop_after: int | None = None,
) -> Iterator[Metrics]:
    """`task`: a Task, in DDP or sharded where there are more workers; `state`: of its model.

    `open_batches(position)` begins at that position. `stop_after`: so many steps at most, from here.
    """
    task.train()
    done = state.position // recipe.global_batch
    last = recipe.num_steps if stop_after is None else min(recipe.num_steps, done + stop_after)
    if done >= last:
        return
    batches = open_batches(state.position)
    try:
        source = iter(batches)
        for number in range(done + 1, last + 1):
            yield _advance(task, source, recipe, state, number)
    finally:
        batches.close()


def _advance(task: nn.Module, source: Iterator[Batch], recipe: Recipe, state: State, number: int) -> Metrics:
    began = time.perf_counter()
    batch = next(source, None)
    waited = time.perf_counter() - began
    _check(batch, recipe, state)
    assert batch is not None
    learning_rate = rate(state.position, recipe)
    set_rate(state.optimizer, learning_rate)
    move = step if bare(task).pair_loss is None else pair_step
    outcome = move(task, batch, state.optimizer, recipe)
    if outcome.moved:
        if state.average is not None:
            state.average.update(state.model)
    else:
        state.skipped += 1
    if outcome.samples != recipe.global_batch:
        raise RuntimeError(f"step {number}: {outcome.samples} samples, global_batch is {recipe.global_batch}.")
    state.position += outcome.samples
    _stop_when_diverged(outcome, recipe, state, number)
    seconds = time.perf_counter() - began
    return Metrics(
        step=number,
        position=state.position,
        loss=outcome.loss,
        learning_rate=learning_rate,
        grad_norm=outcome.grad_norm,
        samples_per_second=outcome.samples / seconds,
        waited_share=waited / seconds,
        memory_bytes=_most_memory(batch.images.device),
        skipped=state.skipped,
        culprits=outcome.culprits,
    )


def _check(batch: Batch | None, recipe: Recipe, state: State) -> None:
    """A loader that stops early or stands elsewhere would change the run without a word."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    wanted = state.position + recipe.global_batch * rank // world_size()
    if batch is None:
        raise RuntimeError(f"the loader ended at position {state.position:,} of {recipe.num_samples:,}.")
    if int(batch.positions[0]) != wanted:
        raise RuntimeError(f"the loader is at position {int(batch.positions[0]):,}, the run at {wanted:,}.")


def _stop_when_diverged(outcome: Outcome, recipe: Recipe, state: State, number: int) -> None:
    if outcome.moved or state.skipped <= recipe.nonfinite_limit:
        return
    named = ", ".join(str(each) for each in outcome.culprits[:10])
    more = f" and {len(outcome.culprits) - 10:,} more" if len(outcome.culprits) > 10 else ""
    raise Diverged(
        f"step {number}: loss {outcome.loss:g}, gradient norm {outcome.grad_norm:g}, at positions {named}{more}. That "
        f"is skipped step {state.skipped}, and nonfinite_limit is {recipe.nonfinite_limit}. Lower base_lr, set clip or "
        "warm up longer, and go on from the last saved state; or look at these faces."
    )


def _most_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # not getrusage, whose maximum is inherited from the process that started us
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0
