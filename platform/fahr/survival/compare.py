"""Whether one marker ranks the same people better than another.

found = compare_concordance(time, event, risk, age)
found.difference, found.low, found.high, found.p_value      # above 0: the first is better
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused, nearest
from fahr.survival.bootstrap import check_resampling, read_clusters, resample, summarise
from fahr.survival.censoring import Survival
from fahr.survival.cindex import Concordance, Kind, influence, judge, read_sample, standard_error
from fahr.survival.people import Floats

Method = Literal["analytic", "bootstrap"]


@dataclass(frozen=True)
class Comparison:
    """First marker minus second. nan where nobody is comparable, or where nothing varies and the two yet differ."""

    difference: float
    low: float
    high: float
    p_value: float  # two-sided, of no difference
    standard_error: float
    first: Concordance
    second: Concordance
    method: Method


def compare_concordance(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    other_risk: ArrayLike,
    *,
    method: Method = "bootstrap",
    samples: int = 1000,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
    entry: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    kind: Kind = "harrell",
    tau: float | None = None,
    censoring: Survival | None = None,
) -> Comparison:
    """Two risks of the same rows, both higher = worse; other arguments as `bootstrap_concordance` has them.

    "bootstrap": every resample judges both; percentile interval, and p by the share of resamples on the far side of 0,
    2 (1 + smaller side) / (samples + 1). "analytic": normal theory with the infinitesimal jackknife of the difference,
    summed in clusters, without resamples.
    """
    if method not in get_args(Method):
        raise Refused(
            f"method: {method!r} is not known.{nearest(method, get_args(Method))} Give one of {get_args(Method)}."
        )
    check_resampling(samples, seed, confidence, threads)
    sample = read_sample(time, event, entry, weights, subject, kind, tau, censoring)
    cluster = read_clusters(sample, clusters)
    first, second = judge(sample, risk), judge(sample, other_risk, "other_risk")
    difference = first.value - second.value
    if method == "analytic":
        spread = standard_error(influence(first) - influence(second), cluster)
        low, high, p_value = _normal(difference, spread, confidence)
    else:
        one, other = (
            resample(sample, each._ranks, cluster, samples=samples, seed=seed, threads=threads)
            for each in (first, second)
        )
        low, high, spread = summarise(one - other, confidence)
        p_value = _share(one - other)
    return Comparison(difference, low, high, p_value, spread, first, second, method)


def _normal(difference: float, spread: float, confidence: float) -> tuple[float, float, float]:
    """Low, high, p."""
    if np.isnan(spread):
        return float("nan"), float("nan"), float("nan")
    if spread == 0:  # nothing varies: no theory to lean on, unless there is nothing to explain
        unknown = 0.0 if difference == 0 else float("nan")
        return unknown, unknown, 1.0 if difference == 0 else unknown
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * spread
    return difference - reach, difference + reach, math.erfc(abs(difference) / spread / math.sqrt(2))


def _share(differences: Floats) -> float:
    there = differences[~np.isnan(differences)]
    if not len(there):
        return float("nan")
    smaller = min(int((there <= 0).sum()), int((there >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (len(there) + 1))
