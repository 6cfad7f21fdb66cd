"""What a survival model's number means: in standard deviations of the people it learned from, as a percentile among
them, and as one of their quarters.

scale = fit_risk_scale(risk, subjects)              # of the training people; goes into the checkpoint, field by field
shown = standardised(risk, scale.risk_mean, scale.risk_sd)
percentile(shown, scale.risk_percentiles), quartile(shown, scale.quartile_cuts)

`risk`: as the network says it, higher = worse, no unit. `shown`: standardised; everything but `standardised` and
`fit_risk_scale` takes this one. N = photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.deviation import Floats, refuse_rows
from fahr.errors import Refused
from fahr.survival.pairs import TIED
from fahr.survival.people import Ints, read_groups, read_risk

FEWEST_PEOPLE = 4  # one a quarter
PERCENT = 100


@dataclass(frozen=True)
class RiskScale:
    """The fields are those of a checkpoint's config."""

    risk_mean: float  # over people, of the network's own number
    risk_sd: float  # over people, n - 1
    risk_percentiles: tuple[float, ...]  # (101,) quantiles at 0, 1, ... 100 % of the shown risk
    quartile_cuts: tuple[float, float, float]  # of the shown risk; frozen for whoever comes later


def fit_risk_scale(risk: ArrayLike, subjects: ArrayLike | None = None) -> RiskScale:
    """From people the model learned from, or out of fold. Each counts once, by the mean over that person's photos.

    Quantiles are interpolated between people (type 7, as NumPy and R do). The order of the rows changes no bit.
    """
    raw = np.asarray(risk)
    values = read_risk("risk", raw, len(raw) if raw.ndim else 0)
    person = np.arange(len(values)) if subjects is None else read_groups("subjects", subjects, len(values))
    each = np.sort(_means(values, person))
    if len(each) < FEWEST_PEOPLE:
        raise Refused(
            f"risk: of {len(each)} people; at least {FEWEST_PEOPLE} are needed, one a quarter. Add people, or leave "
            "the risk as the network says it."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(each.mean()), float(each.std(ddof=1))
    if each[-1] - each[0] <= TIED:
        raise Refused(
            f"risk: is {each[0]:g} for all {len(each):,} people, so it ranks nobody. Train longer, or look at the loss."
        )
    if not np.isfinite(sd):
        raise Refused(f"risk: from {each[0]:g} to {each[-1]:g}, too wide to be squared. Look at the weights.")
    shown = standardised(each, mean, sd)
    quantiles = np.maximum.accumulate(np.quantile(shown, np.linspace(0, 1, PERCENT + 1)))  # rounding must not descend
    one, two, three = quantiles[[25, 50, 75]].tolist()
    return RiskScale(mean, sd, tuple(quantiles.tolist()), (one, two, three))


def standardised(risk: ArrayLike, mean: float, sd: float) -> Floats:
    """(N,) the network's own numbers -> standard deviations from the mean of the training people. Once, never twice:
    `fahr.scoring.Scorer` does it for a model whose checkpoint holds both numbers."""
    if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
        raise Refused(f"risk_mean {mean}, risk_sd {sd}: both must be finite, and the second above 0. Fit them again.")
    return np.asarray((np.asarray(risk, np.float64) - mean) / sd)


def quartile(risk_shown: ArrayLike, cuts: Sequence[float]) -> Ints:
    """(N,) 1 (lowest risk) to 4. A risk on a cut belongs to the lower quarter: each includes its upper end."""
    borders = np.asarray(cuts, np.float64)
    if borders.shape != (3,) or not np.isfinite(borders).all() or (np.diff(borders) < 0).any():
        raise Refused(f"cuts: {list(cuts)} must be three ascending numbers. Take quartile_cuts of the checkpoint.")
    shown = np.asarray(risk_shown, np.float64)
    refuse_rows("risk", shown, np.isnan(shown), "is unknown", "Leave the row out.")
    return np.asarray(np.searchsorted(borders, shown, side="left") + 1, np.int64)


def percentile(risk_shown: ArrayLike, quantiles: Sequence[float]) -> Floats:
    """(N,) 0 to 100. `quantiles`: of the risk as it is shown, evenly spaced, from the least of the training people to
    the greatest; between two of them by a straight line. A risk that several of them share gets the middle."""
    shares = np.linspace(0, PERCENT, len(quantiles))
    known = np.asarray(quantiles)
    # interp wants each value once: the middle of the shares that have it
    values, first = np.unique(known, return_index=True)
    last = len(known) - 1 - np.unique(known[::-1], return_index=True)[1]
    return np.asarray(np.interp(np.asarray(risk_shown, np.float64), values, (shares[first] + shares[last]) / 2))


def _means(values: Floats, person: Ints) -> Floats:
    """Over each person's photos; summed from the least to the greatest, so that no order of the rows matters."""
    order = np.lexsort((values, person))
    return np.asarray(np.bincount(person[order], values[order]) / np.bincount(person))
