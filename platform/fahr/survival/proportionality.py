"""Does a hazard ratio hold all along the follow-up? Schoenfeld residuals, and the test that they do not drift.

found = proportional_hazards(fit, transform="km")   # .tests by column, .overall; fit: CoxFit
found.tests["age"].p_value
found.coefficients("age")                           # (D,) what the log hazard ratio is at each event, noisily

The test is the score test for a coefficient that moves with time (Grambsch and Therneau 1994, Biometrika 81:515), with
the information of every event as it is: the exact one that R's `survival` has had since 3.0, not the approximation of
before, which lifelines has. It has no robust form: clusters are not heeded. D = events, K = columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fahr.errors import Refused, nearest
from fahr.survival.chi_squared import ChiSquared, beyond
from fahr.survival.cox import CoxFit
from fahr.survival.people import Floats

TRANSFORMS = ("km", "rank", "identity", "log")  # of time: what the coefficient may be a line of


@dataclass(frozen=True, eq=False)
class Proportionality:
    transform: str
    tests: Mapping[str, ChiSquared]
    overall: ChiSquared
    time: Floats  # (D,) of the events, in order of stratum and time
    moment: Floats  # (D,) the transformed time
    scaled: Floats = field(repr=False)  # (D, K)
    names: tuple[str, ...] = ()

    def coefficients(self, name: str) -> Floats:
        """(D,) scaled Schoenfeld residuals plus the coefficient: their mean at a time is its value then."""
        return self.scaled[:, self.names.index(name)]

    def drifting(self, level: float = 0.05) -> tuple[str, ...]:
        """Columns whose hazard ratio changes with time, by the test."""
        return tuple(name for name, test in self.tests.items() if test.p_value < level)


def proportional_hazards(
    fit: CoxFit, *, transform: str = "km", terms: Mapping[str, Sequence[str]] | None = None
) -> Proportionality:
    """`terms`: columns that are tested together, such as those of one category; by default each on its own.

    km: one minus the share without the event just before, of all strata together; rank: of the times of all people.
    """
    if transform not in TRANSFORMS:
        raise Refused(f"transform: {transform!r} is none of {', '.join(TRANSFORMS)}.{nearest(transform, TRANSFORMS)}")
    if not fit.names:
        raise Refused("proportional hazards: a model without columns has none. Fit one with a column at least.")
    assert fit.point is not None
    point = fit.point
    moment = _moments(fit, transform)
    along = moment - moment.mean()
    residuals = point.schoenfeld()
    information = [point.information(along**power) for power in (0, 1, 2)]
    drift = along @ residuals
    groups = {name: (name,) for name in fit.names} if terms is None else {name: tuple(of) for name, of in terms.items()}
    tests = {
        name: _test(information, drift, [fit.names.index(each) for each in columns]) for name, columns in groups.items()
    }
    everything = _test(information, drift, list(range(len(fit.names))))
    # in units of the columns: residuals are in those of the standardised ones, coefficients the other way round
    scaled = len(residuals) * residuals @ np.linalg.inv(information[0]) / fit.scale + fit.coefficients
    return Proportionality(transform, tests, everything, point.sets.time, moment, scaled, fit.names)


def _test(information: Sequence[Floats], drift: Floats, places: list[int]) -> ChiSquared:
    """Of `places`, allowed to move, beside all coefficients as they are."""
    whole, cross, own = information
    cross, own = cross[:, places], own[np.ix_(places, places)]
    left = own - cross.T @ np.linalg.solve(whole, cross)  # what is not explained by another constant
    statistic = float(drift[places] @ np.linalg.lstsq(left, drift[places], rcond=None)[0])
    return ChiSquared(statistic, len(places), beyond(max(statistic, 0.0), len(places)))


def _moments(fit: CoxFit, transform: str) -> Floats:
    """(D,) the time of each event, transformed."""
    assert fit.point is not None
    sets = fit.point.sets
    time = sets.time
    if transform == "identity":
        return time
    if transform == "log":
        if time.min() <= 0:
            raise Refused("transform: 'log' of an event at time 0 is none. Take 'km' or 'rank'.")
        return np.log(time)
    moments, place, number = np.unique(time, return_inverse=True, return_counts=True)
    ends = np.sort(sets.ends)
    first, past = np.searchsorted(ends, moments, "left"), np.searchsorted(ends, moments, "right")
    if transform == "rank":
        return np.asarray(((first + past + 1) / 2)[place])  # equal times share the mean of their ranks
    watched = len(ends) - first
    if sets.starts is not None:
        watched = watched - (len(ends) - np.searchsorted(np.sort(sets.starts), moments, "left"))
    left = np.concatenate(([1.0], np.cumprod(1 - number / watched)[:-1]))
    return np.asarray((1 - left)[place])
