"""What the workers of a run have to agree about: who learns what, and what all do next.

    task = wrap(task, "ddp", device)
    save, stop = agree([due, asked], device)     # True where any worker said so

Without torch.distributed there is one worker, which agrees with itself.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fahr.errors import Refused, nearest
from fahr.models import MaskedAutoencoder
from fahr.models.precision import use_fused_attention
from fahr.training.step import world_size
from fahr.training.tasks import Task

Strategy = Literal["ddp", "fsdp"]


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def placed(task: Task, device: torch.device) -> Task:
    """On its device, with the attention that is fastest there: SDPA on a GPU, plain products on a CPU."""
    task.to(device)
    use_fused_attention(task.model, on=device.type == "cuda")
    return task


def wrap(task: Task, strategy: Strategy, device: torch.device) -> nn.Module:
    """The task for several workers: `ddp` copies the weights to each, `fsdp` (FSDP2) shards them, block by block.

    Make the optimizer's state after it: sharding replaces the parameters. One worker needs no wrapper.
    """
    if strategy not in get_args(Strategy):
        known = get_args(Strategy)
        raise Refused(f"strategy {strategy!r}: not one of {', '.join(known)}.{nearest(strategy, known)}")
    if world_size() == 1:
        return task
    if strategy == "ddp":
        devices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(task, device_ids=devices, gradient_as_bucket_view=True)
    model = task.model
    blocks = [*model.encoder.blocks]
    if isinstance(model, MaskedAutoencoder):
        blocks += [*model.decoder.blocks]
    for block in blocks:
        fully_shard(block)
    fully_shard(task)
    return task


def agree(said: Sequence[bool], device: torch.device) -> list[bool]:
    """Each answer is yes if any worker says yes. All workers ask at the same step, or all would wait for ever."""
    if world_size() == 1:
        return list(said)
    votes = torch.tensor([int(each) for each in said], dtype=torch.int32, device=device)
    distributed.all_reduce(votes, distributed.ReduceOp.MAX)
    return [bool(each) for each in votes.tolist()]
