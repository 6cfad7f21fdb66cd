"""Discrete-time hazards: for each interval of time the probability of dying in it, having reached it. K = intervals.

loss = discrete_time_loss(logits, days, died, edges=[0, 90, 365, 730, 1825])    # logits (n, 4)
risk = hazard_risk(logits)                                                      # (n,), higher = worse

    L = -(1 / n) sum over people of  log h_k  where they died  +  sum of log(1 - h_l)  over intervals they survived

h = sigmoid(logit). Interval l reaches from edges[l], without it, to edges[l + 1], with it; a death at time 0 is in the
first. Who is censored survived those intervals of whose length they saw at least half (Gensheimer and Narasimhan 2019,
PeerJ 7:e6257). Who enters late answers for those of which they saw at least half, and for the one they died in.

The head `hazard` of a survival model has INTERVALS outputs; its edges are `event_edges` of the people learned from.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from fahr.errors import Refused
from fahr.objectives.outcomes import Column, Floats, Outcomes, checked_outcomes, in_precision

INTERVALS = 10  # outputs of the head `hazard`: as many deaths in each


def discrete_time_loss(
    hazard_logits: Tensor,
    time: Column,
    event: Column,
    edges: Sequence[float] | Floats,
    *,
    entry: Column | None = None,
) -> Tensor:
    """Mean of `discrete_time_losses` over people, (). Without people: exactly 0, graph kept."""
    losses = discrete_time_losses(hazard_logits, time, event, edges, entry=entry)
    return losses.sum() / max(len(losses), 1)


def discrete_time_losses(
    hazard_logits: Tensor,
    time: Column,
    event: Column,
    edges: Sequence[float] | Floats,
    *,
    entry: Column | None = None,
) -> Tensor:
    """(n,) one a person, in fp32, or float64 where the logits (n, K) are; higher logit = worse.

    `time`, `event`, `entry` as in `ranking_loss`; `edges`: K + 1 rising times in their unit, the first 0. Who outlives
    the last edge survived all intervals. It has second derivatives.
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
    logits = in_precision("hazard_logits", hazard_logits)
    died, survived = _lived(checked_outcomes(len(logits), time, event, entry), bounds)
    terms = _on(died, logits) * softplus(-logits) + _on(survived, logits) * softplus(logits)
    return terms.sum(1)


def hazard_risk(hazard_logits: Tensor) -> Tensor:
    """(n, K) -> (n,) in the logits' precision, higher = worse: log of the mean over the K edges of the probability of
    having died by then.

    A mean over all edges, since the last one alone would be told by the few who were watched so long; a logarithm, so
    that a hazard twice as high adds as much to everybody's while death is rare, as in a Cox model.
    """
    with torch.autocast(hazard_logits.device.type, enabled=False):
        died = -torch.expm1(-softplus(hazard_logits.double()).cumsum(1))  # 1 - S, to its last digit where S is near 1
        return died.mean(1).clamp(min=torch.finfo(torch.float64).tiny).log().to(hazard_logits.dtype)


def event_edges(time: Column, event: Column) -> Floats:
    """(INTERVALS + 1,) of people, one row each: 0, then the tenths of the times of their events, in the unit of `time`.

    Where ties make two tenths equal they are those of the different times. Refused: fewer times than intervals.
    """
    outcomes = checked_outcomes(len(time), time, event)
    died = outcomes.time[outcomes.event & (outcomes.time > 0)]
    known = np.unique(died)
    if len(known) < INTERVALS:
        raise Refused(
            f"loss hazard: its {INTERVALS} intervals end on days on which somebody learned from had the event, and "
            f"there are {len(known)} such days. Take another loss, or more people."
        )
    shares = np.arange(1, INTERVALS + 1) / INTERVALS
    ends = np.quantile(died, shares, method="inverted_cdf")
    if len(np.unique(ends)) < INTERVALS:
        ends = np.quantile(known, shares, method="inverted_cdf")
    return np.concatenate([[0.0], ends])


def first_hazard_biases(time: Column, event: Column, edges: Floats, *, entry: Column | None = None) -> Tensor:
    """(K,) fp32 logits of everybody's hazards, which a fresh head begins with: deaths of those who answered for an
    interval, half a death and half a survivor added, so that none is infinite."""
    died, survived = (each.sum(0) + 0.5 for each in _lived(checked_outcomes(len(time), time, event, entry), edges))
    return torch.from_numpy(np.log(died / survived)).float()


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
