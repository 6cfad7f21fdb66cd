"""Cox's partial likelihood at one set of coefficients, and all that follows from it: slope, information, residuals.

point = Point.at(sets, table, beta)                 # sets: RiskSets; table: (n, K)
point.value, point.slope(), point.information(), point.score_residuals(), point.schoenfeld(), point.hazard()

Efron's ties. All is in the units of `table`. n = people, K = columns, D = events, in order of stratum and time.
"""

from dataclasses import dataclass, replace

import numpy as np

from fahr.survival.people import Floats
from fahr.survival.risk_sets import RiskSets

WIDE = 15.0  # log hazards that lie further apart: differences of sums lose digits that are told (1e-16 * exp(15))


@dataclass(frozen=True, eq=False)
class Point:
    sets: RiskSets
    table: Floats  # (n, K)
    score: Floats  # (n,) log hazard ratio against a row of zeros
    weight: Floats  # (n,) its exponential, the largest being 1
    weights: Floats  # (D,) their sum over those at risk
    mean: Floats  # (D, K) the columns of those at risk, weighted
    value: float  # log partial likelihood

    @staticmethod
    def at(sets: RiskSets, table: Floats, beta: Floats) -> "Point":
        score = table @ beta
        highest = score.max(initial=-np.inf)
        if highest - score.min(initial=np.inf) > WIDE:
            sets = replace(sets, exact=True)
        weight = np.exp(score - highest)
        weights = sets.at_risk(weight)
        mean = sets.at_risk(weight[:, None] * table) / weights[:, None]
        value = float((score[sets.dead] - highest - np.log(weights)).sum())
        return Point(sets, table, score, weight, weights, mean, value)

    def slope(self) -> Floats:
        return np.asarray((self.table[self.sets.dead] - self.mean).sum(0))

    def information(self, by: Floats | None = None) -> Floats:
        """(K, K) the variance of the columns among those at risk, summed over events; each times `by` (D,)."""
        times = np.ones(len(self.weights)) if by is None else by
        told = self.weight * self.sets.over_events(times / self.weights)
        return np.asarray(self.table.T @ (told[:, None] * self.table) - self.mean.T @ (times[:, None] * self.mean))

    def score_residuals(self) -> Floats:
        """(n, K) what each person adds to the slope, here and at the other events at which that person is at risk."""
        dead = self.sets.dead
        hazard = 1 / self.weights
        met = self.sets.over_events(hazard)
        found = -self.weight[:, None] * (self.table * met[:, None] - self.sets.over_events(self.mean * hazard[:, None]))
        found[dead] += self.table[dead] - self.sets.tied_mean(self.mean)
        return np.asarray(found)

    def schoenfeld(self) -> Floats:
        """(D, K) the columns of who has the event, less those of the people at risk."""
        return np.asarray(self.table[self.sets.dead] - self.sets.tied_mean(self.mean))

    def hazard(self) -> Floats:
        """(D,) what each event adds to the cumulative hazard of a row of zeros."""
        return np.asarray(np.exp(-self.score.max(initial=-np.inf)) / self.weights)
