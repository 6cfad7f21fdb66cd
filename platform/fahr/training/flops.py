"""How much of what a device can do a run makes use of.

    share = count_flops(task, size=112) * samples_per_second / (peak_flops(device, "bf16") * workers)

FLOP = a multiplication or an addition. Counted are matrix products and convolutions, forward and backward, as they
are run: not the ones of a textbook's formula.
"""

import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from fahr.models.precision import autocast
from fahr.training.tasks import Labels, Task

_SAMPLES = 2  # counted over two, so that what a batch costs once is not taken for a sample's
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices by which a device is measured
_SECONDS = {"cpu": 0.5, "cuda": 0.2}


def count_flops(task: Task, size: int, labels: Labels | None = None) -> float:
    """FLOP of one sample, forward and backward. Leaves no gradient and draws no random number of torch's own.

    `labels`: of two samples, where the task's loss needs them. A loss over pairs is not counted: it is small.
    """
    device = next(task.parameters()).device
    kept = {name: each.clone() for name, each in task.named_buffers()}  # black images are nothing to take a mean from
    images = torch.zeros((_SAMPLES, size, size, 3), dtype=torch.uint8, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), FlopCounterMode(display=False) as counter:
        values = task(images, torch.arange(_SAMPLES), labels or {})
        values.sum().backward()
    task.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, each in task.named_buffers():
            each.copy_(kept[name])
    return float(counter.get_total_flops()) / _SAMPLES


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of this device on a large matrix product: its own best, not a data sheet's.

    Measured once a process, which may have many runs: folds, arms, trials.
    """
    return _measured(device, precision, torch.get_num_threads())


@cache
def _measured(device: torch.device, precision: str, threads: int) -> float:
    """`threads`: that a CPU computes with now."""
    side = _SIDE[device.type]
    with torch.no_grad(), autocast(device, precision):
        left, right = (torch.ones(side, side, device=device) for _ in range(2))
        if precision == "bf16":
            left, right = left.bfloat16(), right.bfloat16()
        left @ right
        _wait(device)
        rounds, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < _SECONDS[device.type]:
            left @ right
            _wait(device)
            rounds += 1
    return 2 * side**3 * rounds / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
