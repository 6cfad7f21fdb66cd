"""The default loss on a CPU: logistic pairs in fp32 in one compiled pass that writes no matrix at all.

n = people in sorted order (`Pairs`), D = events with a partner. exp((r_j - r_i) / tau) is a product of two numbers as
long as no exponential leaves fp32, and many factors 1 + exp(...) are multiplied before one logarithm is taken: no pair
costs more than a division. Where scores spread wider, and for all other losses, `tiles` does it.

Compiled by numba when it is first needed (seconds; kept in NUMBA_CACHE_DIR). Threads are Python's own: numba's would
end a process that forks, or one that calls from two threads.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.objectives.pairs import Pairs
from fahr.objectives.tiles import Form, Sums

WIDEST = 80.0  # spread of scores / tau: exp(80) is well inside fp32
ALONE = 1 << 20  # pairs that one thread finishes before a second one has started

Singles = NDArray[np.float32]


def fits(risk: Tensor, pairs: Pairs, form: Form) -> bool:
    """Whether it is right for these: the guard of all that follows."""
    plain = form.kind == "logistic" and pairs.is_suffix and pairs.row_weight is None and len(pairs.rows) > 0
    if not (plain and risk.device.type == "cpu" and risk.dtype == torch.float32) or _uncompiled():
        return False
    return float(risk.max().double() - risk.min().double()) / form.tau <= WIDEST


def _uncompiled() -> bool:
    """Asked to run without numba's compiler, as a debugger may."""
    return bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


def logistic(risk: Tensor, pairs: Pairs, form: Form) -> Sums:
    """`risk`: (n,) sorted."""
    scaled = risk.double().numpy() / form.tau
    low, high = scaled.min(), scaled.max()
    centred = scaled - (low + high) / 2
    height = 32 if high - low <= 20 else 8  # so many factors of 1 + exp(spread) fit float64
    rising, falling = np.exp(centred).astype(np.float32), np.exp(-centred[pairs.rows]).astype(np.float32)
    workers = torch.get_num_threads() if pairs.suffix_weight() > ALONE else 1
    pushes, pulls = np.zeros(len(pairs.rows)), np.zeros((workers, len(risk)))

    def part(worker: int) -> float:
        return float(_part(rising, falling, pairs.first, height, worker, workers, pushes, pulls[worker]))

    if workers == 1:
        losses = [part(0)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            losses = list(pool.map(part, range(workers)))
    gradient = pulls.sum(0)
    gradient[pairs.rows] -= pushes
    weight = torch.tensor(pairs.suffix_weight(), dtype=torch.float64)
    return Sums(torch.tensor(sum(losses), dtype=torch.float64), weight, torch.from_numpy(gradient / form.tau))


# Sums may be taken in any order, or no loop would use the vector unit; division stays as precise as it is.
@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _part(
    rising: Singles, falling: Singles, first: Any, height: int, worker: int, workers: int, pushes: Any, pulls: Any
) -> float:
    """Every `workers`-th block of `height` events: the sum of their losses; their pushes (D,) and the pulls (n,) on all
    people are added to what is there."""
    width, loss = 1024, 0.0
    column, excess = np.zeros(width, np.float32), np.zeros(width, np.float64)
    for top in range(worker * height, len(first), workers * height):
        bottom = min(top + height, len(first))
        for left in range(first[top], len(rising), width):
            right = min(left + width, len(rising))
            here = rising[left:right]
            for event in range(top, bottom):
                push, factor = np.float32(0), falling[event]
                for j in range(max(first[event] - left, 0), right - left):
                    odds = here[j] * factor
                    slope = odds / (np.float32(1) + odds)
                    push += slope
                    column[j] += slope
                    # the product of 1 + odds, less 1: small odds keep their digits
                    excess[j] += np.float64(odds) * (1.0 + excess[j])
                pushes[event] += push
            for j in range(right - left):
                loss += np.log1p(excess[j])
                pulls[left + j] += column[j]
                column[j] = 0
                excess[j] = 0
    return loss
