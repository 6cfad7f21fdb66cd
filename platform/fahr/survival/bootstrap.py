"""The spread of a concordance over resamples of the people: sorted once, then counted with multiplicities.

found = bootstrap_concordance(time, event, risk, samples=1000, seed=0)
found.value, found.low, found.high
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.censoring import Survival
from fahr.survival.cindex import Kind, Sample, judge, read_sample
from fahr.survival.engine import divided, engine
from fahr.survival.pairs import Ranks, as_earlier
from fahr.survival.people import Floats, Ints, read_groups


@dataclass(frozen=True)
class Bootstrap:
    """Percentile interval over the resamples that had a comparable pair."""

    value: float  # of the sample itself
    low: float
    high: float
    standard_error: float  # standard deviation over resamples
    samples: int
    without_pair: int  # resamples left out, since nobody in them was comparable
    confidence: float
    values: Floats = field(repr=False, compare=False)  # (samples,) nan without a pair
    tau: float | None = None  # Uno's: only events before it count


def bootstrap_concordance(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
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
) -> Bootstrap:
    """Arguments of `concordance`, and: clusters (n,) are drawn whole, with replacement; by default subjects, else rows.

    The same seed draws the same clusters for any risk and any number of threads (default: the cores there are).
    Uno's factors and tau stay those of the sample itself.
    """
    sample = read_sample(time, event, entry, weights, subject, kind, tau, censoring)
    cluster = read_clusters(sample, clusters)
    check_resampling(samples, seed, confidence, threads)
    found = judge(sample, risk)
    values = resample(sample, found._ranks, cluster, samples=samples, seed=seed, threads=threads)
    low, high, spread = summarise(values, confidence)
    missing = int(np.isnan(values).sum())
    return Bootstrap(found.value, low, high, spread, samples, missing, confidence, values, found.tau)


def check_resampling(samples: int, seed: int, confidence: float, threads: int | None) -> None:
    if samples < 1:
        raise Refused(f"samples: {samples} must be at least 1; 1,000 is usual.")
    if not 0 < confidence < 1:
        raise Refused(f"confidence: {confidence} must lie between 0 and 1; 0.95 is usual.")
    if not 0 <= seed < 2**63:
        raise Refused(f"seed: {seed} must be a whole number from 0 to 2**63 - 1.")
    if threads is not None and threads < 1:
        raise Refused(f"threads: {threads} must be at least 1, or None for all cores.")


def read_clusters(sample: Sample, clusters: ArrayLike | None) -> Ints:
    """(n,) numbers from 0, each used."""
    if clusters is not None:
        return np.unique(read_groups("clusters", clusters, sample.rows)[sample.kept], return_inverse=True)[1]
    if sample.people.subject is not None:
        return np.unique(sample.people.subject, return_inverse=True)[1]
    return np.arange(len(sample.people))


def resample(
    sample: Sample, ranks: Ranks, cluster: Ints, *, samples: int, seed: int, threads: int | None = None
) -> Floats:
    """(samples,) concordances, nan where nobody was comparable."""
    if not len(cluster):
        return np.full(samples, np.nan)
    sweeps = as_earlier(sample.people, sample.active, ranks, sample.timeline)
    own, number, ways = sample.pair_weights, int(cluster.max()) + 1, engine()

    def part(which: range) -> Floats:
        found: Floats = ways.resample(sweeps, cluster, number, sample.people.weights, own, seed, which)
        return found

    credit, total, pairs = np.concatenate(divided(part, samples, threads)).T
    return np.asarray(np.divide(credit, total, out=np.full(samples, np.nan), where=(pairs > 0) & (total > 0)))


def summarise(values: Floats, confidence: float) -> tuple[float, float, float]:
    """Low, high, and standard deviation of what is not nan."""
    there = values[~np.isnan(values)]
    if not len(there):
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high, float(there.std(ddof=1)) if len(there) > 1 else float("nan")
