"""Discrete-time hazards: for each interval of time the probability of dying in it, having reached it. K = intervals.

loss = discrete_time_loss(logits, days, died, edges=[0, 90, 365, 730, 1825])    # logits (n, 4)

    L = -(1 / n) sum over people of  log h_k  where they died  +  sum of log(1 - h_l)  over intervals they survived

h = sigmoid(logit). Interval l reaches from edges[l], without it, to edges[l + 1], with it; a death at time 0 is in the
first. Who is censored survived those intervals of whose length they saw at least half (Gensheimer and Narasimhan 2019,
PeerJ 7:e6257). Who enters late answers for those of which they saw at least half, and for the one they died in.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused
from fahr.objectives.outcomes import Column, Floats, Outcomes, checked_outcomes, in_precision


def discrete_time_loss(
    hazard_logits: Tensor,
    time: Column,
    event: Column,
    edges: Sequence[float] | Floats,
    *,
    entry: Column | None = None,
) -> Tensor:
    """Mean over people, () in fp32, or float64 where the logits (n, K) are; higher logit = worse.

    `time`, `event`, `entry` as in `ranking_loss`; `edges`: K + 1 rising times in their unit, the first 0. Who outlives
    the last edge survived all intervals. Without people: exactly 0, graph kept. It has second derivatives.
    """
    bounds = np.asarray(edges, np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or bounds[0] != 0 or not (np.diff(bounds) > 0).all():
        raise Refused(
            f"edges {bounds.tolist()}: must be two or more rising times, the first 0. Give quantiles of time."
        )
    if hazard_logits.ndim != 2 or hazard_logits.shape[1] != len(bounds) - 1:
        raise Refused(
            f"hazard_logits of shape {tuple(hazard_logits.shape)}: {len(bounds)} edges make (n, {len(bounds) - 1})."
        )
    num_people = len(hazard_logits)
    logits = in_precision("hazard_logits", hazard_logits)
    died, survived = _lived(checked_outcomes(num_people, time, event, entry), bounds)
    softplus = torch.nn.functional.softplus
    terms = _on(died, logits) * softplus(-logits) + _on(survived, logits) * softplus(logits)
    return terms.sum() / max(num_people, 1)


def _lived(outcomes: Outcomes, edges: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, K) died in the interval; (n, K) survived it, under observation."""
    time, event = outcomes.time[:, None], outcomes.event[:, None]
    begin, end = edges[:-1], edges[1:]
    died = event & (time <= end) & ((time > begin) | (begin == 0))
    survived = np.where(event, time > end, time >= (begin + end) / 2)
    if outcomes.entry is not None:
        survived &= outcomes.entry[:, None] <= (begin + end) / 2
    return died, survived


def _on(mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(mask).to(like)
