"""How far to trust one person's aging rate: what rates are usual, fitted on many people, and the shrinkage towards it.

prior = fit_aging_rate_prior(aging_rates(..., repeatability_sd=sd))     # of the `calibrate` split; goes into the config
aging_rates(..., repeatability_sd=sd, prior=prior).shrunken_rate        # anybody

A measured rate scatters around the true one with variance v (the standard error squared), true rates around 1 with
variance t2. Then 1 + B (rate - 1), B = t2 / (t2 + v), is the best guess: empirical Bayes, a band at a time. P = people.
"""

from collections.abc import Mapping
from math import fsum, isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.aging_rate_results import BANDS, AgingRates
from fahr.biomarkers.deviation import Floats
from fahr.errors import Refused

PRIOR_MEAN = 1.0  # in step with the calendar
FEWEST_PEOPLE = 30  # of a band: fewer say next to nothing about a variance

Prior = Mapping[str, Mapping[str, float]]


def fit_aging_rate_prior(rates: AgingRates) -> dict[str, dict[str, float]]:
    """By band: mean (1), variance (t2), observed_mean and people. A band of fewer than 30 people is left out.

    t2 is where the mean of (rate - 1)^2 / (v + t2) is 1 (Paule and Mandel 1982, with the mean known), so that precise
    rates count for more; 0 where the errors alone explain the scatter. `observed_mean` (weights 1 / v) tells what the
    model makes of a year on average: below 1 where it reads the old too young.
    """
    rated = np.flatnonzero(~np.isnan(rates.face_aging_rate))
    if np.isnan(rates.standard_error[rated]).any():
        raise Refused("rates: have no standard error, without which no scatter is explained. Give repeatability_sd.")
    found: dict[str, dict[str, float]] = {}
    for band in BANDS:
        mine = rated[rates.band[rated] == band.name]
        if len(mine) >= FEWEST_PEOPLE:
            rate, error = rates.face_aging_rate[mine], rates.standard_error[mine]
            weight = error**-2.0
            found[band.name] = {
                "mean": PRIOR_MEAN,
                "variance": _variance(rate, error),
                "observed_mean": fsum(weight * rate) / fsum(weight),
                "people": float(len(mine)),
            }
    if not found:
        raise Refused(
            f"{len(rated)} people with an aging rate: at least {FEWEST_PEOPLE} of one band are needed to say which "
            "rates are usual. Add people with photos of several days."
        )
    return found


def shrink(rate: Floats, standard_error: Floats, band: ArrayLike, prior: Prior) -> Floats:
    """(P,) nan where the rate or its error is, or where the prior knows nothing of that band."""
    check_prior(prior)
    shrunken = np.full(len(rate), np.nan)
    names = np.asarray(band)
    for name, known in prior.items():
        mine = names == name
        v = standard_error[mine] ** 2
        trust = known["variance"] / (known["variance"] + v)
        shrunken[mine] = known["mean"] + trust * (rate[mine] - known["mean"])
    return shrunken


def check_prior(prior: Any) -> None:
    if not isinstance(prior, Mapping):
        raise Refused(f"prior: is {prior!r}; must be the aging_rate_prior of a checkpoint, or of fit_aging_rate_prior.")
    names = [band.name for band in BANDS]
    for name, known in prior.items():
        if name not in names:
            raise Refused(f"prior: has band {name!r}; there are {', '.join(names)}. Take it from fit_aging_rate_prior.")
        mean, variance = (known.get(key, float("nan")) for key in ("mean", "variance"))
        if not (isfinite(mean) and isfinite(variance) and variance >= 0):
            raise Refused(
                f"prior: band {name!r} has mean {mean} and variance {variance}; both must be finite, and the second 0 "
                "or more. Take it from fit_aging_rate_prior."
            )


def _variance(rate: Floats, error: Floats) -> float:
    """Newton's steps from 0: what is left falls and flattens with the variance, so they never go too far."""
    squares, v = (rate - PRIOR_MEAN) ** 2, error**2
    variance, step = 0.0, np.inf
    while step > 1e-12 * variance:
        left = fsum(squares / (v + variance)) - len(rate)
        if left <= 0:
            break
        step = left / fsum(squares / (v + variance) ** 2)
        variance += step
    return variance
