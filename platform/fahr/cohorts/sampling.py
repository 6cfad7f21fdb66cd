"""How often faces of rare ages are shown: weights that lift thin ages towards the usual ones, twenty times at most.

balance = age_balanced_weights(ages)                          # (N,) years
order = Order(len(ages), seed, balance.weights)               # fahr.training.sampling
ledger = Ledger("train", ..., more={"balance": balance.to_json()})

A bin b is a year of age. Counts are faces, not people; docs/age.md has the rule and its reasons.

    n_b = mean count of the ages b - 2 .. b + 2 that there can be (none below 0, none above 122)
    T   = median n_b of the ages 20 .. 60 that have a face
    k_b = min(ceil(T / n_b), 20), the weight of each face of age b, 1 at least; an age without a face has none

A table worked by hand, where T = median of 1.6, 3, 6, 7, 8, 8, 10 = 7:

    age    0       20      21      22      23      24      26      60      61      72      90
    count  3       10      10      10      10      10      5       4       4       2       1
    n_b    3/3=1   30/5=6  40/5=8  50/5=10 40/5=8  35/5=7  15/5=3  8/5=1.6 8/5=1.6 2/5=.4  1/5=.2
    T/n_b  7       1.17    .88     .7      .88     1       2.33    4.38    4.38    17.5    35
    k_b    7       2       1       1       1       1       3       5       5       18      20
"""

import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.cohorts.rules import OLDEST_YEARS
from fahr.errors import Refused

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_OLDEST = int(OLDEST_YEARS)
_DECADE = 10


@dataclass(frozen=True)
class AgeBin:
    """Ages from `age` to `age + width`, without the latter."""

    age: int  # years
    count: int  # faces
    smoothed: float  # n_b, faces
    factor: int  # k_b


@dataclass(frozen=True)
class Decade:
    """What the weights make of ten years of age."""

    age: int  # years: from here, ten years on
    rows: int  # faces
    share: float  # of all draws, 0..1
    effective: float  # faces: as many of equal weight would vary as little; a common factor leaves it at `rows`


@dataclass(frozen=True, eq=False)
class AgeBalance:
    weights: Floats = field(repr=False)  # (N,) the factor of each row's bin; draws are in proportion to it
    factors: tuple[AgeBin, ...]  # bins that have a face, from young to old
    empty: tuple[int, ...]  # first ages of the bins up to 122 years that have none, and so no factor
    effective: tuple[Decade, ...]  # decades that have a face
    target: float  # T, faces a bin
    cap: int
    smooth: int
    width: int
    reference: tuple[int, int]

    @property
    def effective_size(self) -> float:
        """(sum w)^2 / sum w^2 over all rows, faces."""
        return _effective(self.weights)

    @property
    def draws(self) -> int:
        """Draws in which a face of factor k is expected k times. An epoch of `Order` has N: k x N / draws times."""
        return int(self.weights.sum())

    def to_json(self) -> dict[str, Any]:
        """All but the weights, which follow from the factors."""
        return {
            "rows": len(self.weights),
            "draws": self.draws,
            "effective_size": self.effective_size,
            "target": self.target,
            "cap": self.cap,
            "smooth": self.smooth,
            "width": self.width,
            "reference": list(self.reference),
            "factors": [asdict(each) for each in self.factors],
            "empty": list(self.empty),
            "effective": [asdict(each) for each in self.effective],
        }


def age_balanced_weights(
    ages: ArrayLike,
    *,
    cap: int = 20,
    target: float | None = None,
    smooth: int = 2,
    width: int = 1,
    reference: tuple[int, int] = (20, 60),
) -> AgeBalance:
    """(N,) ages in 0..122 years -> a weight for each row and the table it comes from.

    `cap`: no factor is above it; 1 balances nothing. `target`: T in faces a bin, instead of the median. `smooth`: years
    to either side over which counts are averaged, a multiple of `width`. `width`: whole years a bin; bins begin at 0.
    `reference`: the ages, first and last, whose bins make the median; bins that reach beyond do not count.
    """
    _check_options(cap, target, smooth, width, reference)
    values = _checked_ages(ages)
    bins = (values // width).astype(np.int64)
    counts = np.bincount(bins, minlength=_OLDEST // width + 1)
    smoothed = {b: _smoothed(counts, b, smooth // width) for b in np.flatnonzero(counts).tolist()}
    wanted = _median(smoothed, width, reference) if target is None else Fraction(target)
    # In fractions: 4.2 / 0.6 is a little more than 7 in binary, of which a ceiling makes 8. Never below 1, both being
    # above 0.
    factors = {b: min(math.ceil(wanted / each), cap) for b, each in smoothed.items()}
    weights = np.array([factors.get(b, 0) for b in range(len(counts))], np.float64)[bins]
    weights.setflags(write=False)
    return AgeBalance(
        weights=weights,
        factors=tuple(
            AgeBin(b * width, int(counts[b]), float(each), factors[b]) for b, each in sorted(smoothed.items())
        ),
        empty=tuple((np.flatnonzero(counts == 0) * width).tolist()),
        effective=_decades(values, weights),
        target=float(wanted),
        cap=cap,
        smooth=smooth,
        width=width,
        reference=reference,
    )


def _smoothed(counts: Ints, b: int, reach: int) -> Fraction:
    """Mean count of bins b - reach .. b + reach, of those that there can be: newborns are not rare for want of younger
    neighbours."""
    window = counts[max(b - reach, 0) : b + reach + 1]
    return Fraction(int(window.sum()), len(window))


def _median(smoothed: dict[int, Fraction], width: int, reference: tuple[int, int]) -> Fraction:
    first, last = reference
    inside = [each for b, each in smoothed.items() if first <= b * width and (b + 1) * width - 1 <= last]
    if not inside:
        raise Refused(
            f"no face of {first} to {last} years in a bin of {width}: rare compared with which ages? Give target, the "
            "faces a bin of age that count as enough, or another reference."
        )
    return median(inside)


def _decades(ages: Floats, weights: Floats) -> tuple[Decade, ...]:
    decades = (ages // _DECADE).astype(np.int64)
    found = []
    for decade in np.unique(decades).tolist():
        own = weights[decades == decade]
        share = float(own.sum() / weights.sum())
        found.append(Decade(decade * _DECADE, len(own), share, _effective(own)))
    return tuple(found)


def _effective(weights: Floats) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())


def _checked_ages(ages: ArrayLike) -> Floats:
    try:
        values = np.asarray(ages, np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"ages: hold something that is not a number ({error}). Give years.") from error
    if values.ndim != 1:
        raise Refused(f"ages of shape {values.shape}: one age a row is needed, (N,).")
    if not len(values):
        raise Refused("ages: none. There is nothing to balance; check what the rows were filtered by.")
    bad = np.flatnonzero(~((values >= 0) & (values <= _OLDEST)))  # NaN, which nulls become, as well
    if len(bad):
        what = "is missing" if np.isnan(values[bad[0]]) else f"is {values[bad[0]]:g}, not in 0..{_OLDEST} years"
        raise Refused(
            f"age of row {bad[0]:,} {what} ({len(bad):,} such rows of {len(values):,}). Leave them out before "
            "balancing, or correct them: an age that nobody knows is neither rare nor common."
        )
    return values


def _check_options(cap: int, target: float | None, smooth: int, width: int, reference: tuple[int, int]) -> None:
    for name, value, least in (("cap", cap, 1), ("smooth", smooth, 0), ("width", width, 1)):
        if not float(value).is_integer() or value < least:
            raise Refused(f"{name}={value}: must be a whole number, {least} or more.")
    if smooth % width:
        raise Refused(f"smooth={smooth} years in bins of width={width}: give 0, or a multiple of the width.")
    if target is not None and not 0 < target < math.inf:
        raise Refused(f"target={target}: must be a finite number of faces a bin, above 0.")
    first, last = reference
    if not 0 <= first <= last:
        raise Refused(f"reference={first} to {last} years: must be two ages from 0 on, the younger first.")
