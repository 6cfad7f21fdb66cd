"""Whether predicted chances come true: observed against expected, slope, and the mean distance from a smooth curve.

found = judge_calibration(time, event, predicted, 365)      # predicted (n,): chance of the event by the horizon
found.ratio.value, found.slope.value, found.ici.value # 1, 1 and 0 are perfect
found.curve, found.groups                             # for `calibration_chart`
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.cox import NoEstimate, fit_cox
from fahr.survival.cox_resampling import CoxRefit
from fahr.survival.curves import FEWEST, kaplan_meier
from fahr.survival.horizon import Watch, read_chances, read_horizon, read_watch, told_undefined, warn_of_few
from fahr.survival.net_benefit import standing_shares
from fahr.survival.people import Floats
from fahr.survival.resampling import Estimate, check_samples, estimates, resampled

PLACES = {3: (0.1, 0.5, 0.9), 4: (0.05, 0.35, 0.65, 0.95), 5: (0.05, 0.275, 0.5, 0.725, 0.95)}  # of knots: Harrell's
NUMBERS = ("observed", "expected", "ratio", "slope", "ici", "e50", "e90", "emax")
POINTS = 50  # of the curve, from the 1st to the 99th percentile of the chances


@dataclass(frozen=True)
class CalibrationPoint:
    predicted: float
    observed: Estimate  # of the smooth curve


@dataclass(frozen=True)
class CalibrationGroup:
    """People with chances that are alike. Intervals are 95 %, log-log."""

    people: int
    events: int  # by the horizon
    predicted: float  # mean
    observed: float  # Kaplan-Meier; nan if the follow-up of these people ends before the horizon
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    horizon: float
    observed: Estimate  # share with the event by the horizon, Kaplan-Meier
    expected: Estimate  # mean chance
    ratio: Estimate  # observed / expected; above 1: the model promises too little
    slope: Estimate  # of log(-log(1 - chance)) in a Cox model; below 1: chances are too far apart
    ici: Estimate  # integrated calibration index: mean |curve - chance|
    e50: Estimate  # median of it
    e90: Estimate  # 90th percentile
    emax: Estimate  # largest
    curve: tuple[CalibrationPoint, ...]
    groups: tuple[CalibrationGroup, ...]
    knots: int  # of the curve; 0: a straight line, since the chances take too few values
    people: int
    events: int  # by the horizon
    warnings: tuple[str, ...]
    values: Floats = field(repr=False, compare=False)  # (samples, 8 + points of the curve), in the order of NUMBERS


def judge_calibration(
    time: ArrayLike,
    event: ArrayLike,
    predicted: ArrayLike,
    horizon: float,
    *,
    knots: int = 3,
    groups: int = 10,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Calibration:
    """Arrays (n,), a row a person. The curve is a Cox model of log(-log(1 - chance)) in restricted cubic splines with 3
    to 5 knots at Harrell's percentiles (Austin, Harrell and van Klaveren 2020, Statistics in Medicine 39:2714); the
    knots stay those of the sample. With delayed entry means over people are weighted, as in `decision_curve`.
    """
    watch = read_watch(time, event, entry=entry, subject=subject)
    wanted = read_horizon(watch, horizon)
    chance = read_chances("predicted", predicted, watch)[:, 0]
    check_samples(samples, seed, confidence, threads)
    _check(watch, chance, knots, groups)
    shown = np.log(-np.log1p(-chance))
    at = np.quantile(shown, PLACES[knots])
    told = warn_of_few(watch, np.array([wanted]))
    if not (np.diff(at) > 1e-9 * np.ptp(shown)).all():
        at = np.zeros(0)
        told.append(f"predicted: too few different chances for {knots} knots, so the curve is a straight line")
    grid = np.unique(np.quantile(chance, np.linspace(0.01, 0.99, POINTS)))
    basis, grid_basis = splines(shown, at), splines(np.log(-np.log1p(-grid)), at)
    fits = {"slope": _refit(watch, {"x": shown}), "curve": _refit(watch, basis)}
    told += [f"{name}: none, since {each}" for name, each in fits.items() if isinstance(each, str)]
    straight, smooth = (None if isinstance(each, str) else each for each in fits.values())
    table, grid_table = (np.column_stack(list(each.values())) for each in (basis, grid_basis))
    judge = _Judge(watch, wanted, chance, table, grid_table, straight, smooth)
    point = judge(np.ones(len(watch)))
    values = resampled(judge, watch.cluster, samples=samples, seed=seed, threads=threads)
    found = estimates(point, values, confidence)
    size = len(NUMBERS)
    told += told_undefined(NUMBERS[:5], [each.undefined for each in found[:5]], samples)
    return Calibration(
        wanted,
        found[0],
        found[1],
        found[2],
        found[3],
        found[4],
        found[5],
        found[6],
        found[7],
        tuple(CalibrationPoint(place, seen) for place, seen in zip(grid.tolist(), found[size:], strict=True)),
        _grouped(watch, chance, wanted, groups),
        len(at),
        len(watch),
        int(watch.event[watch.time <= wanted].sum()),
        tuple(told),
        values,
    )


def _check(watch: Watch, chance: Floats, knots: int, groups: int) -> None:
    certain = (chance <= 0) | (chance >= 1)
    if certain.any():
        row = int(watch.order[certain].min())
        more = f", and {int(certain.sum()) - 1:,} more are" if certain.sum() > 1 else ""
        raise Refused(
            f"predicted: row {row} is 0 or 1{more}, and log(-log(1 - chance)) of a "
            "certainty is infinite. Clip to chances that the model could mean, such as 1e-6 and 1 - 1e-6."
        )
    if np.ptp(chance) == 0:
        raise Refused(f"predicted: is {chance[0]} for everybody, so there is no slope. Give chances that vary.")
    if knots not in PLACES:
        raise Refused(f"knots: {knots} must be 3, 4 or 5; 3 is usual.")
    if groups < 1:
        raise Refused(f"groups: {groups} must be at least 1; 10 is usual.")


def splines(values: Floats, knots: Floats) -> dict[str, Floats]:
    """Restricted cubic: linear beyond the outer knots. (n,) the values and one column for each knot but two."""
    columns = {"x": values}
    if not len(knots):
        return columns
    last, before = knots[-1], knots[-2]
    for number, knot in enumerate(knots[:-2].tolist()):
        parts = np.maximum(values - knot, 0) ** 3
        parts = parts - np.maximum(values - before, 0) ** 3 * (last - knot) / (last - before)
        parts = parts + np.maximum(values - last, 0) ** 3 * (before - knot) / (last - before)
        columns[f"x{number + 1}"] = parts / (last - knots[0]) ** 2
    return columns


@dataclass(frozen=True, eq=False)
class _Judge:
    """Counts (n,) -> the eight NUMBERS and the curve (G,)."""

    watch: Watch
    horizon: float
    chance: Floats
    basis: Floats  # (n, K) of the curve
    grid_basis: Floats  # (G, K)
    straight: CoxRefit | None  # None: the people determine no slope
    smooth: CoxRefit | None

    def __call__(self, counts: Floats) -> Floats:
        shares = standing_shares(self.watch, counts, self.horizon)
        observed = 1 - self.watch.survival(counts, self.horizon)
        expected = float((shares * self.chance).sum())
        straight = self.straight(counts) if self.straight else None
        slope = float(straight.coefficients[0]) if straight else float("nan")
        smooth = self.smooth(counts) if self.smooth else None
        if smooth is None:
            distances, curve = [float("nan")] * 4, np.full(len(self.grid_basis), np.nan)
        else:
            hazard = smooth.hazard(self.horizon)
            seen, curve = (
                -np.expm1(-hazard * np.exp(np.einsum("nk,k", each, smooth.coefficients)))
                for each in (self.basis, self.grid_basis)
            )
            gap = np.abs(seen - self.chance)
            middle, far = quantiles(gap, shares, (0.5, 0.9))
            distances = [float((shares * gap).sum()), middle, far, float(gap[shares > 0].max(initial=0.0))]
        return np.array([observed, expected, observed / expected, slope, *distances, *curve])


def _refit(watch: Watch, columns: dict[str, Floats]) -> CoxRefit | str:
    """Or why there is none."""
    try:
        return CoxRefit.of(watch, columns, fit_cox(watch.time, watch.event, columns, entry=watch.entry))
    except NoEstimate as error:
        return str(error)


def quantiles(values: Floats, weights: Floats, shares: tuple[float, ...]) -> list[float]:
    """Weighted: linear between the middles of the values' weights, scaled so that equal ones give NumPy's."""
    order = np.argsort(values)
    there = weights[order] > 0
    ranked, heavy = values[order][there], weights[order][there]
    places = np.cumsum(heavy) - heavy / 2
    places = (places - places[0]) / (places[-1] - places[0]) if len(places) > 1 else places
    return np.interp(shares, places, ranked).tolist()


def _grouped(watch: Watch, chance: Floats, horizon: float, groups: int) -> tuple[CalibrationGroup, ...]:
    """By quantiles of the chance; as many groups as have ten people each, if they all differ."""
    number = max(1, min(groups, len(watch) // FEWEST))
    cuts = np.unique(np.quantile(chance, np.arange(1, number) / number))
    whose = np.searchsorted(cuts, chance, "right")
    found = []
    for group in range(len(cuts) + 1):
        rows = np.flatnonzero(whose == group)
        if not len(rows):
            continue
        those = watch.only(rows)
        curve = kaplan_meier(those.time, those.event, entry=those.entry)
        place = int(np.searchsorted(curve.time, horizon, "right")) - 1
        left = those.survival(np.ones(len(rows)), horizon)
        low, high = (float(each[place]) if place >= 0 else 1.0 for each in (curve.low, curve.high))
        low, high = (float("nan") if np.isnan(left) else end for end in (low, high))
        events = int(those.event[those.time <= horizon].sum())
        found.append(CalibrationGroup(len(rows), events, float(chance[rows].mean()), 1 - left, 1 - high, 1 - low))
    return tuple(found)
