"""Time without the event, up to a horizon: the area under Kaplan-Meier. It needs no proportional hazards.

found = restricted_mean(kaplan_meier(time, event), 1825.0)         # .value .low .high, in the unit of time
difference = restricted_mean_difference(of_treated, of_others)     # .value .low .high .p_value

M = distinct times of events.
"""

import math
from dataclasses import dataclass

import numpy as np

from fahr.errors import Refused
from fahr.survival.chi_squared import two_sided
from fahr.survival.curves import Curve, Z


@dataclass(frozen=True)
class RestrictedMean:
    horizon: float
    value: float
    standard_error: float  # Greenwood's
    low: float  # 95 %
    high: float
    people: int
    events: int  # up to the horizon


@dataclass(frozen=True)
class MeanDifference:
    """One mean less the other, of different people; the interval and p are normal."""

    horizon: float
    value: float
    standard_error: float
    low: float
    high: float
    p_value: float


def restricted_mean(curve: Curve, horizon: float) -> RestrictedMean:
    """Refused past the end of follow-up, unless nobody is left there: the area is not known."""
    if not (math.isfinite(horizon) and horizon > 0):
        raise Refused(f"horizon: {horizon} must be a time above 0, in the unit of the curve.")
    left = float(curve.survival[-1]) if len(curve.survival) else 1.0
    if horizon > curve.last and left > 0:
        raise Refused(
            f"horizon: {horizon:g} lies past the longest follow-up, {curve.last:g}, with {left:.0%} still without the "
            f"event. Give {curve.last:g} or less."
        )
    known = curve.time < horizon
    steps = np.concatenate(([0.0], curve.time[known], [horizon]))
    areas = np.diff(steps) * np.concatenate(([1.0], curve.survival[known]))
    after = np.cumsum(areas[::-1])[::-1][1:]  # (M,) from each event to the horizon
    value = float(areas.sum())
    told = after > 0  # once nobody is left, there is no area, and no error of it
    error = math.sqrt(float((after[told] ** 2 * curve.greenwood[known][told]).sum()))
    events = int(curve.died[curve.time <= horizon].sum())
    return RestrictedMean(horizon, value, error, value - Z * error, value + Z * error, curve.people, events)


def restricted_mean_difference(one: RestrictedMean, other: RestrictedMean) -> MeanDifference:
    if one.horizon != other.horizon:
        raise Refused(f"horizon: {one.horizon:g} of one mean and {other.horizon:g} of the other. Take the same.")
    value, error = one.value - other.value, math.hypot(one.standard_error, other.standard_error)
    p_value = two_sided(value / error) if error > 0 else (1.0 if value == 0 else 0.0)
    return MeanDifference(one.horizon, value, error, value - Z * error, value + Z * error, p_value)
