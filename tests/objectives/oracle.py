"""The losses once more, pair by pair in plain Python: slow, and simple enough to be believed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

GAP_CAP, FLOOR = 5.0, 0.05


def share_uncensored(times: Any) -> Any:
    """Some survival function of censoring: falls from 1 to 0 at time 12, below the floor from 11.4 on."""
    return np.clip(1 - np.asarray(times, np.float64) / 12, 0, 1)


@dataclass(frozen=True)
class Case:
    risk: Sequence[float]
    time: Sequence[float]
    event: Sequence[int]
    subject: Sequence[int] | None = None
    entry: Sequence[float] | None = None
    kind: str = "logistic"
    tau: float = 1.0
    margin: float = 1.0
    weight: str = "none"
    gap_unit: float = 1.5

    @property
    def arguments(self) -> dict[str, Any]:
        """What `ranking_loss` takes beside risk, time and event."""
        return {
            "subject": self.subject,
            "entry": self.entry,
            "kind": self.kind,
            "tau": self.tau,
            "margin": self.margin if "hinge" in self.kind else 1.0,
            "weight": self.weight,
            "censoring": share_uncensored if self.weight == "ipcw" else None,
            "gap_unit": self.gap_unit if self.weight == "gap" else None,
        }


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


# Of s = (r_i - r_j) / tau and the margin: value, and derivative by s.
KINDS: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "logistic": (lambda s, m: softplus(-s), lambda s, m: -sigmoid(-s)),
    "hinge": (lambda s, m: max(0.0, m - s), lambda s, m: -1.0 if m - s > 0 else 0.0),
    "squared_hinge": (lambda s, m: max(0.0, m - s) ** 2, lambda s, m: -2 * max(0.0, m - s)),
    "exponential": (lambda s, m: math.exp(-s), lambda s, m: -math.exp(-s)),
}


def pairs(case: Case) -> Iterator[tuple[int, int]]:
    """(i, j): i had the event, j was seen without it later, or at the same time without ever having it."""
    for i in range(len(case.time)):
        for j in range(len(case.time)):
            later = case.time[i] < case.time[j] or (case.time[i] == case.time[j] and not case.event[j])
            other = case.subject is None or case.subject[i] != case.subject[j]
            there = case.entry is None or case.entry[j] < case.time[i]
            if i != j and case.event[i] and later and other and there:
                yield i, j


def weight(case: Case, i: int, j: int) -> float:
    if case.weight == "gap":
        return min((case.time[j] - case.time[i]) / case.gap_unit, GAP_CAP)
    if case.weight == "ipcw":
        share = float(share_uncensored(case.time[i]))
        return 0.0 if share == 0 else max(share, FLOOR) ** -2
    return 1.0


def loss_and_gradient(case: Case) -> tuple[float, list[float]]:
    value, slope = KINDS[case.kind]
    losses, weights, gradient = [], [], [0.0] * len(case.risk)
    for i, j in pairs(case):
        w, s = weight(case, i, j), (case.risk[i] - case.risk[j]) / case.tau
        losses.append(w * value(s, case.margin))
        weights.append(w)
        gradient[i] += w * slope(s, case.margin) / case.tau
        gradient[j] -= w * slope(s, case.margin) / case.tau
    total = math.fsum(weights)
    if total == 0:
        return 0.0, [0.0] * len(case.risk)
    return math.fsum(losses) / total, [each / total for each in gradient]


def all_at_once(case: Case) -> tuple[float, torch.Tensor]:
    """The same through n x n tensors and torch's own derivatives, for many people."""
    time, event = torch.tensor(case.time, dtype=torch.float64), torch.tensor(case.event).bool()
    risk = torch.tensor(case.risk, dtype=torch.float64, requires_grad=True)
    chosen = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    if case.subject is not None:
        chosen &= torch.tensor(case.subject)[:, None] != torch.tensor(case.subject)
    if case.entry is not None:
        chosen &= torch.tensor(case.entry, dtype=torch.float64) < time[:, None]
    w = torch.ones_like(chosen, dtype=torch.float64)
    if case.weight == "gap":
        w = ((time - time[:, None]) / case.gap_unit).clamp(max=GAP_CAP)
    if case.weight == "ipcw":
        share = torch.from_numpy(share_uncensored(time.numpy()))
        w = torch.where(share > 0, share.clamp(min=FLOOR) ** -2.0, 0.0)[:, None].expand(chosen.shape)
    w = torch.where(chosen, w, 0.0)
    s = (risk[:, None] - risk) / case.tau
    below = torch.where(chosen, case.margin - s, 0.0).clamp(min=0)
    value = {
        "logistic": torch.logaddexp(-s, torch.zeros_like(s)),
        "hinge": below,
        "squared_hinge": below.square(),
        "exponential": torch.exp(-torch.where(chosen, s, 0.0)),
    }[case.kind]
    loss = (w * value).sum() / w.sum()
    loss.backward()
    assert risk.grad is not None
    return float(loss.detach()), risk.grad
