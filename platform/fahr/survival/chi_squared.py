"""The chance that chi-squared is larger, without the seconds that scipy takes to import.

beyond(3.84, 1)                                     # 0.05
quadratic_form(score, variance)                             # a quadratic form: score' variance^-1 score
"""

import math
from dataclasses import dataclass

import numpy as np

from fahr.survival.people import Floats

ALIKE = 1e-11  # of the largest variance: below, a direction is none


@dataclass(frozen=True)
class ChiSquared:
    """Of a test: the statistic, its degrees of freedom, and the chance of as much if there is nothing."""

    statistic: float
    freedom: int
    p_value: float


def quadratic_form(score: Floats, variance: Floats) -> ChiSquared:
    """(K,), (K, K). Directions in which the score cannot vary are left out, and count as no degree of freedom."""
    values, vectors = np.linalg.eigh((variance + variance.T) / 2)
    kept = values > ALIKE * max(float(np.abs(values).max(initial=0.0)), 1e-300)
    along = (vectors.T @ score)[kept]
    statistic, freedom = float((along**2 / values[kept]).sum()), int(kept.sum())
    return ChiSquared(statistic, freedom, beyond(statistic, freedom) if freedom else 1.0)


def two_sided(z: float) -> float:
    """The chance that a standard normal number is as far from 0."""
    return math.erfc(abs(z) / math.sqrt(2))


def beyond(statistic: float, freedom: int) -> float:
    """The chance that chi-squared with so many degrees of freedom (1 or more) is larger, by the recursion in steps of
    two degrees (Abramowitz and Stegun 26.4.8)."""
    half, odd = statistic / 2, freedom % 2
    chance = math.erfc(math.sqrt(half)) if odd else math.exp(-half)
    for step in range(1, (freedom - 1) // 2 + 1):
        power = step - odd / 2
        chance += half**power * math.exp(-half) / math.gamma(power + 1)
    return chance
