"""Time-dependent AUC: whether those with the event by a horizon had higher risks than those still without it.

found = time_dependent_auc(time, event, risk, [182, 365, 730])      # risk: any scale, higher = worse
found.auc[0].value, found.auc[0].low, found.auc[0].high, found.mean.value
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.horizon import Standing, read_columns, read_horizons, read_watch, told_undefined, warn_of_few
from fahr.survival.pairs import Ranks, rank_risks
from fahr.survival.people import Floats
from fahr.survival.resampling import Estimate, check_samples, estimates, resampled


@dataclass(frozen=True)
class DynamicAuc:
    """A number for each horizon. `mean`: over the horizons, weighted by how much Kaplan-Meier falls up to each."""

    horizons: tuple[float, ...]
    auc: tuple[Estimate, ...]
    mean: Estimate
    people: int
    cases: tuple[int, ...]  # with the event by the horizon
    controls: tuple[int, ...]  # watched beyond it; all others were lost before
    warnings: tuple[str, ...]
    values: Floats = field(repr=False, compare=False)  # (samples, K + 1) of the resamples, the mean last


def time_dependent_auc(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    horizons: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> DynamicAuc:
    """Cumulative/dynamic AUC with inverse probability of censoring weights (Uno et al. 2007, JASA 102:527; Hung and
    Chiang 2010). Arrays (n,), a row a person; risk also (n, K), a column a horizon. Risks within 1e-8 count half.

    Censoring (and entry) must not depend on the event or the risk; its Kaplan-Meier is of these rows, and of each
    resample's. An event counts by G just before it, so that censoring at the same time comes after.
    """
    watch = read_watch(time, event, entry=entry, subject=subject)
    wanted = read_horizons(watch, horizons)
    check_samples(samples, seed, confidence, threads)
    columns = read_columns("risk", risk, watch, len(wanted))
    ranks = [rank_risks(column) for column in (columns.T if np.ndim(risk) == 2 else columns.T[:1])]
    ranks = ranks if len(ranks) == len(wanted) else ranks * len(wanted)
    cases = [int(watch.event[:stop].sum()) for stop in np.searchsorted(watch.time, wanted, "right")]
    for each, number, ranked in zip(wanted.tolist(), cases, ranks, strict=True):
        if number == 0:
            raise Refused(
                f"horizon: nobody had the event by {each:g}, so there is nobody to tell from others. Give a later one."
            )
        if ranked.size == 1:
            raise Refused("risk: is the same for everybody, so it tells nobody from anybody. Give one that varies.")

    def statistic(counts: Floats) -> Floats:
        standing = watch.stand(counts, wanted)
        found = np.array([_auc(standing, place, ranked) for place, ranked in enumerate(ranks)])
        falls = -np.diff(standing.survival, prepend=1.0)
        return np.append(found, (found * falls).sum() / falls.sum() if falls.sum() > 0 else np.nan)

    values = resampled(statistic, watch.cluster, samples=samples, seed=seed, threads=threads)
    *auc, mean = estimates(statistic(np.ones(len(watch))), values, confidence)
    told = warn_of_few(watch, wanted)
    told += told_undefined([f"AUC at {each:g}" for each in wanted], [each.undefined for each in auc], samples)
    controls = tuple(int(watch.still(each).sum()) for each in wanted.tolist())
    return DynamicAuc(tuple(wanted.tolist()), tuple(auc), mean, len(watch), tuple(cases), controls, tuple(told), values)


def _auc(standing: Standing, place: int, ranks: Ranks) -> float:
    """nan without a case or a control."""
    cases, controls = standing.cases(place), standing.controls(place)
    own = np.flatnonzero(cases)
    pairs = float(cases.sum() * controls.sum())
    if not pairs > 0:
        return float("nan")
    stop = len(cases)
    below = np.concatenate(([0.0], np.cumsum(np.bincount(ranks.rank[stop:], controls, ranks.size))))
    low = ranks.rank[own]
    high = low + 1
    if len(ranks.low):
        low, high = ranks.low[low], ranks.high[low]
    return float((cases[own] * (below[low] + below[high])).sum() / 2 / pairs)
