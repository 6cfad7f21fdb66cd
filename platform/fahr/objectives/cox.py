"""Cox's partial likelihood, with delayed entry and ties. n = people, D = events, K = distinct event times.

loss = cox_loss(risk, days, died, entry=days_at_entry)

    L = -(1 / D) sum over events of r_i - log sum of exp(r_j) over those at risk at T_i

At risk at t: entry_j < t <= T_j. Breslow's ties take the same sum for all who die at t; Efron's (1977, JASA 72:557)
takes the share l / d of the d who die at t out of it for the l-th of them, l = 0 ... d - 1.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused, nearest
from fahr.objectives.outcomes import Column, Floats, Outcomes, checked_outcomes, checked_scores
from fahr.objectives.pairs import Ints

TIES = ("efron", "breslow")


def cox_loss(risk: Tensor, time: Column, event: Column, *, entry: Column | None = None, ties: str = "efron") -> Tensor:
    """Mean over events, () in fp32, or float64 where `risk` is: the log hazard (n,) or (n, 1), higher = worse.

    `time`, `event`, `entry`: as in `ranking_loss`. Without an event: exactly 0, with graph and gradient 0. O(n log n)
    time and memory; right for scores of any spread, since every sum of exponentials is kept as a logarithm.
    """
    if ties not in TIES:
        raise Refused(f"ties {ties!r}: not one of {', '.join(TIES)}.{nearest(str(ties), TIES)}")
    scores = checked_scores(risk)
    outcomes = checked_outcomes(len(scores), time, event, entry)
    if not outcomes.event.any():
        return scores.sum() * 0
    log_hazard = scores.double()
    times, own = np.unique(outcomes.time[outcomes.event], return_inverse=True)
    died = log_hazard[_on(outcomes.event, scores)]
    tied = _log_sums(died, _on(own, scores), len(times))[_on(own, scores)]
    if ties == "efron":
        tied = tied + torch.log1p(-_on(_shares_before(own), scores))
    others = _others_at_risk(log_hazard, outcomes, times)[_on(own, scores)]
    at_risk = torch.cat([others, tied[:, None]], 1).logsumexp(1)
    return (at_risk - died).mean().to(scores.dtype)


def _shares_before(own: Ints) -> Floats:
    """(D,) l / d: which of its tie group, counted from 0, an event is, over the size of the group."""
    order = np.argsort(own, kind="stable")
    sizes = np.bincount(own)
    place = np.empty(len(own), np.int64)
    place[order] = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place / sizes[own]


def _others_at_risk(log_hazard: Tensor, outcomes: Outcomes, times: Floats) -> Tensor:
    """(K, levels): logarithms whose sum of exponentials is that over everybody at risk but those who die then.

    A person is at risk at a run of event times. The runs are cut into dyadic blocks, at most two of each size, and each
    event time sums up the blocks it lies in: nothing is ever subtracted, so that no risk set loses its digits to a
    larger one.
    """
    start = np.zeros(len(outcomes.time), np.int64)
    if outcomes.entry is not None:
        start = np.searchsorted(times, outcomes.entry, side="right")
    stop = np.where(
        outcomes.event,
        np.searchsorted(times, outcomes.time, side="left"),
        np.searchsorted(times, outcomes.time, side="right"),
    )
    levels = max(len(times) - 1, 1).bit_length()
    blocks, people = _dyadic(start, stop, 1 << levels)
    logs = _log_sums(log_hazard[_on(people, log_hazard)], _on(blocks, log_hazard), 2 << levels)
    containing = (np.arange(len(times))[:, None] + (1 << levels)) >> np.arange(levels + 1)
    return logs[_on(containing, log_hazard)]


def _dyadic(start: Ints, stop: Ints, size: int) -> tuple[Ints, Ints]:
    """Blocks that make up [start, stop), and whose they are. Block 1 is all of `size`; 2b and 2b + 1 are b's halves."""
    people, left, right = np.arange(len(start)), start + size, stop + size
    blocks, whose = [], []
    while len(people):
        open_ = left < right
        people, left, right = people[open_], left[open_], right[open_]
        on_left, on_right = left % 2 == 1, right % 2 == 1
        blocks += [left[on_left], right[on_right] - 1]
        whose += [people[on_left], people[on_right]]
        left, right = (left + on_left) // 2, (right - on_right) // 2
    return np.concatenate(blocks), np.concatenate(whose)


def _log_sums(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) log of the sum of exp(values) of a group; -inf for one that has none."""
    most = values.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    sums = values.new_zeros(num_groups).index_add(0, group, (values - most[group]).exp())
    empty = most == -torch.inf
    # the logarithm of 0 would send a gradient of NaN through the branch that is not taken
    return torch.where(empty, most, torch.where(empty, 1.0, sums).log() + torch.where(empty, 0.0, most))


def _on(array: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)
