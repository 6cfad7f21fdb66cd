"""How far any number strays when whole people are drawn again: a statistic of counts, over resamples.

values = resampled(statistic, cluster, samples=1000, seed=0)     # statistic: (n,) counts -> (K,)
estimates(statistic(np.ones(n)), values)                         # K of `Estimate`

n = rows, K = numbers of the statistic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fahr.survival.bootstrap import check_resampling, summarise
from fahr.survival.engine import divided
from fahr.survival.people import Floats, Ints
from fahr.survival.plain import draw

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Estimate:
    """Percentile interval over the resamples in which the number was defined; nan where none was asked for."""

    value: float
    low: float
    high: float
    standard_error: float  # standard deviation over resamples
    undefined: int  # resamples left out


def check_samples(samples: int, seed: int, confidence: float, threads: int | None) -> None:
    """As for a concordance, but that 0 resamples are none at all."""
    check_resampling(1 if samples == 0 else samples, seed, confidence, threads)


def resampled(
    statistic: Statistic, cluster: Ints, *, samples: int, seed: int = 0, threads: int | None = None
) -> Floats:
    """(samples, K). cluster (n,): numbers from 0, each used; whole clusters are drawn, with replacement.

    The same seed draws the same clusters for any statistic and any number of threads, and those of
    `bootstrap_concordance`: differences of two models are differences of their values, row by row.
    """
    number = int(cluster.max()) + 1

    def part(which: range) -> Floats:
        return np.array([statistic(draw(seed, each, number)[cluster]) for each in which])

    return np.concatenate(divided(part, samples, threads)) if samples else np.empty((0, 0))


def estimates(found: Floats, values: Floats, confidence: float = 0.95) -> tuple[Estimate, ...]:
    """found (K,) of the sample itself, values (samples, K)."""
    if not len(values):
        return tuple(Estimate(each, float("nan"), float("nan"), float("nan"), 0) for each in found.tolist())
    return tuple(
        Estimate(each, *summarise(column, confidence), int(np.isnan(column).sum()))
        for each, column in zip(found.tolist(), values.T, strict=True)
    )
