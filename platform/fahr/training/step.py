"""One optimizer step over a global batch, in micro-batches and on one or many workers: always the same step.

    outcome = step(task, batch, optimizer, recipe)         # losses of single samples
    outcome = pair_step(task, batch, optimizer, recipe)    # losses over pairs of the global batch

`batch` is this worker's share. With torch.distributed initialised, `task` is wrapped in DDP or sharded by FSDP2, which
both take the mean of the workers' gradients; so each worker weighs its own by the number of workers, and the sum over
all samples divided by their number comes out even where shares are uneven.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from fahr.models.precision import autocast
from fahr.training.loader import Batch
from fahr.training.optimizer import parameters_of
from fahr.training.randomness import key
from fahr.training.recipe import Recipe
from fahr.training.tasks import Labels, Task


@dataclass(frozen=True)
class Outcome:
    loss: float  # mean over the global batch, or over its pairs
    grad_norm: float  # L2 over all parameters, before clipping
    samples: int  # in the global batch
    culprits: tuple[int, ...] = ()  # positions to blame when the loss or the gradient is not finite: nothing moved

    @property
    def moved(self) -> bool:
        return not self.culprits


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def bare(task: nn.Module) -> Task:
    """The task out of its wrapper."""
    return cast(Task, task.module if isinstance(task, DistributedDataParallel) else task)


def step(task: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Outcome:
    optimizer.zero_grad(set_to_none=True)
    sharing, device = _sharing(task), batch.images.device
    total = int(_summed(torch.tensor(float(len(batch.positions)), dtype=torch.float64, device=device)))
    losses: list[Tensor] = []
    for part in _parts(batch, recipe):
        with _same_every_time(task, batch, part, recipe, sync=part.last):
            each = _run(task, batch, part, recipe)
            torch.autograd.backward(each.sum() * (sharing / total))
        losses.append(each.detach())
    own = torch.cat(losses)
    loss = float(_summed(own.double().sum())) / total
    return _move(optimizer, recipe, own, batch, loss, total)


def pair_step(task: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Outcome:
    """Two passes, since a pair may lie in two micro-batches or on two workers: the graphs of a global batch would have
    to be held at once.

    First all scores without a graph; then d loss / d score over the global batch; then each micro-batch again, with the
    randomness it had, its scores' gradient given. By the chain rule that is the gradient of the one big batch. Where a
    worker has one micro-batch, its graph is held, and the first pass is all there is to compute.
    """
    optimizer.zero_grad(set_to_none=True)
    sharing, parts = _sharing(task), _parts(batch, recipe)
    if len(parts) == 1:
        with _same_every_time(task, batch, parts[0], recipe, sync=True):
            held = _run(task, batch, parts[0], recipe)
            own = held.detach()
            loss, mine, many = _over_pairs(task, own, batch)
            torch.autograd.backward(held, mine * sharing)
        return _move(optimizer, recipe, own, batch, loss, many)
    with torch.no_grad():
        scored = []
        for part in parts:
            with _same_every_time(task, batch, part, recipe, sync=False):
                scored.append(_run(task, batch, part, recipe))
    own = torch.cat(scored)
    loss, mine, many = _over_pairs(task, own, batch)
    for part in parts:
        with _same_every_time(task, batch, part, recipe, sync=part.last):
            torch.autograd.backward(_run(task, batch, part, recipe), mine[part.rows] * sharing)
    return _move(optimizer, recipe, own, batch, loss, many)


def _over_pairs(task: nn.Module, own: Tensor, batch: Batch) -> tuple[float, Tensor, int]:
    """The loss over the scores of all workers, its gradient by those of this one, and how many scores there are."""
    pair_loss = bare(task).pair_loss
    assert pair_loss is not None, "a task over pairs is needed"
    scores, labels, start = _gathered(own, batch.labels)
    scores.requires_grad_()
    loss = pair_loss(scores, labels)
    (gradient,) = torch.autograd.grad(loss, scores)
    return float(loss.detach()), gradient[start : start + len(own)], len(scores)


class _Part(NamedTuple):
    """A micro-batch."""

    rows: slice
    position: int  # of its first sample
    last: bool


def _parts(batch: Batch, recipe: Recipe) -> list[_Part]:
    """As many on each worker: where weights are sharded, all of them gather a block's weights as often."""
    positions = batch.positions.tolist()  # once a step: each look at a number on a device waits for all work before it
    count = max(recipe.accumulation(world_size()), -(-len(positions) // recipe.micro_batch))
    count = min(count, len(positions))
    edges = [len(positions) * number // count for number in range(count + 1)]
    return [
        _Part(slice(start, stop), positions[start], stop == len(positions)) for start, stop in itertools.pairwise(edges)
    ]


def _run(task: nn.Module, batch: Batch, part: _Part, recipe: Recipe) -> Tensor:
    labels = {name: column[part.rows] for name, column in batch.labels.items()}
    with autocast(batch.images.device, recipe.precision):
        values: Tensor = task(batch.images[part.rows], batch.positions[part.rows], labels)
    if values.shape != (part.rows.stop - part.rows.start,):
        raise TypeError(f"{type(bare(task)).__name__}: gave {tuple(values.shape)}, not a number for each sample.")
    return values.float()


@contextlib.contextmanager
def _same_every_time(task: nn.Module, batch: Batch, part: _Part, recipe: Recipe, *, sync: bool) -> Iterator[None]:
    """Torch's own generators, which a foreign model's dropout draws from, seeded by the position; put back after.
    Gradients cross the workers only where `sync` says so."""
    device = batch.images.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), contextlib.ExitStack() as held:
        torch.manual_seed(key(recipe.seed, f"torch at {part.position}"))
        if isinstance(task, DistributedDataParallel) and not sync:
            held.enter_context(task.no_sync())
        elif isinstance(task, FSDPModule):
            task.set_requires_gradient_sync(sync)
        yield


def _sharing(task: nn.Module) -> int:
    """By what to multiply a worker's gradient, of which the wrapper will take the mean."""
    world = world_size()
    if world > 1 and not isinstance(task, DistributedDataParallel | FSDPModule):
        raise TypeError(f"{world} workers: wrap the task in DDP, or shard it by FSDP2, or each would learn alone.")
    return world


def _summed(value: Tensor) -> Tensor:
    """Over all workers."""
    if world_size() > 1:
        distributed.all_reduce(value)
    return value


def _gathered(scores: Tensor, labels: Labels) -> tuple[Tensor, Labels, int]:
    """Scores and labels of the global batch, in the order of the workers, and where this one's begin."""
    if world_size() == 1:
        return scores.detach().clone(), labels, 0
    shares: list[Any] = [None] * world_size()
    distributed.all_gather_object(shares, (scores.cpu(), dict(labels)))
    before = sum(len(each) for each, _ in shares[: distributed.get_rank()])
    joined = {name: np.concatenate([columns[name] for _, columns in shares]) for name in labels}
    return torch.cat([each for each, _ in shares]).to(scores.device), joined, before


def _move(
    optimizer: torch.optim.Optimizer, recipe: Recipe, own: Tensor, batch: Batch, loss: float, total: int
) -> Outcome:
    """Every worker decides the same, from numbers that all of them share."""
    moving = [each for each in parameters_of(optimizer) if each.grad is not None]
    norm = get_total_norm([each.grad for each in moving if each.grad is not None])
    length = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if not (math.isfinite(loss) and math.isfinite(length)):
        return Outcome(loss, length, total, _culprits(own, batch))
    if recipe.clip:
        clip_grads_with_norm_(moving, recipe.clip, norm)
    optimizer.step()
    return Outcome(loss, length, total)


def _culprits(own: Tensor, batch: Batch) -> tuple[int, ...]:
    """Positions whose own loss or score is not finite; all of the batch when it was the gradient alone."""
    positions = batch.positions.cpu()
    mine: tuple[Sequence[int], Sequence[int]] = positions[~own.isfinite().cpu()].tolist(), positions.tolist()
    shares: list[Any] = [mine]
    if world_size() > 1:
        shares = [None] * world_size()
        distributed.all_gather_object(shares, mine)
    blamed = [position for bad, _ in shares for position in bad]
    return tuple(blamed or [position for _, everything in shares for position in everything])
