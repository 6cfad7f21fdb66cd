"""The pairwise ranking loss: who died earlier should have the higher score.

loss = ranking_loss(risk, days, died, person, weight="gap", gap_unit=365.25)
loss.backward()

    L = sum of w_ij f((r_i - r_j) / tau) / sum of w_ij      over the pairs of `fahr.objectives.pairs`
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from fahr.errors import Refused, nearest
from fahr.objectives import fused, sweeps
from fahr.objectives.outcomes import Column, checked_outcomes, checked_scores, codes
from fahr.objectives.pairs import Pairs, pairs_of
from fahr.objectives.tiles import Form, Sums, in_tiles
from fahr.objectives.weights import Censoring, check_weight, weighted

KINDS = ("logistic", "hinge", "squared_hinge", "exponential")
WIDEST = 80.0  # spread of risk / tau that the exponential kind can hold
SWEEP_FROM = 16384  # people: below, tiles of a hinge are quicker than sorting (benchmarks/survival.py)


def ranking_loss(
    risk: Tensor,
    time: Column,
    event: Column,
    subject: Column | None = None,
    *,
    entry: Column | None = None,
    kind: str = "logistic",
    tau: float = 1.0,
    margin: float = 1.0,
    weight: str = "none",
    censoring: Censoring | None = None,
    gap_unit: float | None = None,
) -> Tensor:
    """Weighted mean over comparable pairs, () in fp32, or float64 where `risk` is. Lower is better.

    risk      (n,) or (n, 1), higher = worse, of any scale
    time      (n,) >= 0 to death or last contact, in any one unit; `event` 1 = death, 0 = last seen alive
    subject   (n,) who it is; photos of one person are no pair. None: all are different people
    entry     (n,) since when a person was under observation, in the unit of `time`
    kind      of s = (r_i - r_j) / tau: `logistic` log(1 + exp(-s)), `hinge` max(0, margin - s), `squared_hinge` its
              square, `exponential` exp(-s)
    weight    `none`, `ipcw` (needs `censoring`: times -> share not yet censored), `gap` (needs `gap_unit`: a year)

    Without a comparable pair, or when all weights are 0: exactly 0, with graph and gradient 0. A constant added to all
    scores, or another order of the rows, changes nothing. Value and gradient are exact, and computed together: there is
    no second derivative, asking for one is an error.
    """
    _check_form(kind, tau, margin)
    check_weight(weight, censoring, gap_unit)
    scores = checked_scores(risk)
    outcomes = checked_outcomes(len(scores), time, event, entry)
    pairs = pairs_of(outcomes, None if subject is None else codes("subject", subject, len(scores)))
    if kind == "exponential":
        _check_spread(scores.detach(), tau)
    pairs = weighted(pairs, weight, censoring, gap_unit)
    with_gradient = torch.is_grad_enabled() and scores.requires_grad
    with torch.no_grad():
        order = torch.from_numpy(pairs.order).to(scores.device)
        # index_select and scatter_, not [order]: those wait for a second thread at 8,192 numbers already
        sums = _sums(scores.index_select(0, order), pairs, Form(kind, tau, margin), with_gradient)
        whole = torch.where(sums.weight > 0, sums.weight, 1)
        gradient = torch.zeros_like(scores).scatter_(0, order, (sums.gradient / whole).to(scores.dtype))
        loss = (sums.loss / whole).to(scores.dtype)
    return _Known.apply(scores, loss, gradient)  # type: ignore[no-any-return]


class _Known(torch.autograd.Function):
    """A loss whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # or a penalty on gradients would be blind to this loss, in silence
            raise RuntimeError("ranking_loss has no second derivative: call backward without create_graph.")
        (gradient,) = ctx.saved_tensors
        return scale * gradient, None, None


def _sums(risk: Tensor, pairs: Pairs, form: Form, with_gradient: bool) -> Sums:
    """By the quickest way that is exact for these pairs."""
    if form.kind == "exponential":
        if pairs.is_suffix:
            return sweeps.exponential(risk, pairs, form)
        risk = risk.double()  # exp(80) times weights, summed up, leaves fp32
    elif form.kind != "logistic" and pairs.is_suffix and len(risk) >= SWEEP_FROM:
        return sweeps.hinges(risk, pairs, form)
    elif fused.fits(risk, pairs, form):
        return fused.logistic(risk, pairs, form)
    return in_tiles(risk, pairs, form, with_gradient)


def _check_form(kind: str, tau: float, margin: float) -> None:
    if kind not in KINDS:
        raise Refused(f"kind {kind!r}: not one of {', '.join(KINDS)}.{nearest(str(kind), KINDS)}")
    if not 0 < tau < float("inf"):
        raise Refused(f"tau {tau!r}: must be above 0; it divides the difference of two scores. Give 1.")
    if not 0 <= margin < float("inf"):
        raise Refused(f"margin {margin!r}: must be 0 or more, in units of (r_i - r_j) / tau. Give 1.")
    if margin != 1 and "hinge" not in kind:
        warnings.warn(f"margin has no effect with kind={kind!r}: only hinges have one.", stacklevel=3)


def _check_spread(scores: Tensor, tau: float) -> None:
    if len(scores):
        spread = float((scores.max().double() - scores.min().double()) / tau)
        if spread > WIDEST:
            raise Refused(
                f"kind 'exponential' with scores that spread over {spread:.4g} (largest less smallest risk / tau): at "
                f"most {WIDEST:g}, beyond it one pair outweighs all others. Take kind 'logistic', or a larger tau."
            )
