"""Whether a second prediction moves people the right way: net reclassification, and the gain in mean difference.

found = net_reclassification(time, event, before, after, 365, cuts=(0.1, 0.3))    # cuts=None: any move counts
found.events, found.nonevents, found.total          # .value .low .high; +: those with the event moved up
discrimination_improvement(time, event, before, after, 365).value

before, after (n,): chances of the event by the horizon, without the marker and with it. Net reclassification can be
above 0 for a marker of noise if `after` is badly calibrated (Hilden and Gerds 2014, Statistics in Medicine 33:3405):
never alone as evidence; show it next to AUC, Brier score and net benefit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.horizon import Watch, read_chances, read_horizon, read_watch, told_undefined, warn_of_few
from fahr.survival.net_benefit import standing_shares
from fahr.survival.people import Flags, Floats, Ints
from fahr.survival.resampling import Estimate, check_samples, estimates, resampled

PARTS = ("event_up", "event_down", "nonevent_up", "nonevent_down", "events", "nonevents", "total")


@dataclass(frozen=True)
class NetReclassification:
    """Shares, by Kaplan-Meier among those who moved up and those who moved down (Pencina et al. 2011, Statistics in
    Medicine 30:11)."""

    horizon: float
    cuts: tuple[float, ...] | None  # None: continuous, any move counts
    event_up: Estimate  # of those with the event by the horizon, how many moved up
    event_down: Estimate
    nonevent_up: Estimate  # of those without
    nonevent_down: Estimate
    events: Estimate  # event_up - event_down
    nonevents: Estimate  # nonevent_down - nonevent_up
    total: Estimate  # events + nonevents, from -2 to 2
    people: int
    people_up: int
    people_down: int
    died: int  # events by the horizon
    table: tuple[tuple[int, ...], ...] | None  # people by category before (rows) and after (columns)
    warnings: tuple[str, ...]
    values: Floats = field(repr=False, compare=False)  # (samples, 7), in the order of PARTS


def net_reclassification(
    time: ArrayLike,
    event: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    horizon: float,
    *,
    cuts: Sequence[float] | None = None,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> NetReclassification:
    """Arrays (n,), a row a person. cuts: chances where categories begin, a chance at a cut in the upper one."""
    watch = read_watch(time, event, entry=entry, subject=subject)
    wanted = read_horizon(watch, horizon)
    old, new = (read_chances(name, each, watch)[:, 0] for name, each in (("before", before), ("after", after)))
    check_samples(samples, seed, confidence, threads)
    _need_events(watch, wanted)
    table = None
    if cuts is not None:
        borders = _read_cuts(cuts)
        was, now = (np.searchsorted(borders, each, "right") for each in (old, new))
        table = _table(was, now, len(borders) + 1)
        old, new = was.astype(np.float64), now.astype(np.float64)
    groups = [np.flatnonzero(new > old), np.flatnonzero(new < old)]
    watches = [watch.only(group) for group in groups]

    def statistic(counts: Floats) -> Floats:
        return _moved(watch, counts, wanted, groups, watches)

    point = statistic(np.ones(len(watch)))
    if np.isnan(point).any():
        raise Refused(
            f"horizon: of the {len(groups[0]):,} who moved up, or the {len(groups[1]):,} who moved down, nobody is "
            f"watched up to {wanted:g}, so how many of them had the event is not known. Give an earlier one."
        )
    values = resampled(statistic, watch.cluster, samples=samples, seed=seed, threads=threads)
    found = estimates(point, values, confidence)
    told = warn_of_few(watch, np.array([wanted]))
    told += told_undefined(["net reclassification"], [found[-1].undefined], samples)
    moved_up, moved_down = (len(group) for group in groups)
    return NetReclassification(
        wanted, None if cuts is None else tuple(float(cut) for cut in cuts),
        found[0], found[1], found[2], found[3], found[4], found[5], found[6],
        len(watch), moved_up, moved_down, int(watch.event[watch.time <= wanted].sum()), table, tuple(told), values,
    )  # fmt: skip


def _moved(watch: Watch, counts: Floats, horizon: float, groups: list[Ints], watches: list[Watch]) -> Floats:
    """The seven PARTS; groups: the rows that moved up, and down. nan where one of them is not watched long enough."""
    stands = standing_shares(watch, counts, horizon)
    left = watch.survival(counts, horizon)
    died, lived = np.zeros(2), np.zeros(2)
    for place, (group, those) in enumerate(zip(groups, watches, strict=True)):
        share = float(stands[group].sum())
        if share > 0:
            still = those.survival(counts[group], horizon)
            died[place], lived[place] = share * (1 - still), share * still
    if not 0 < left < 1:
        return np.full(len(PARTS), np.nan)
    died, lived = died / (1 - left), lived / left
    events, nonevents = died[0] - died[1], lived[1] - lived[0]
    return np.array([*died, *lived, events, nonevents, events + nonevents])


def _need_events(watch: Watch, horizon: float) -> None:
    if not watch.event[watch.time <= horizon].any():
        raise Refused(f"horizon: nobody had the event by {horizon:g}, so nobody could be moved up. Give a later one.")


def _read_cuts(cuts: Sequence[float]) -> Floats:
    borders = np.asarray(cuts, np.float64)
    inside = borders.ndim == 1 and len(borders) > 0 and bool(((borders > 0) & (borders < 1)).all())
    if not inside or (np.diff(borders) <= 0).any():
        raise Refused(f"cuts: {list(cuts)} must lie between 0 and 1, and rise: chances where categories begin.")
    return borders


def _table(was: Ints, now: Ints, size: int) -> tuple[tuple[int, ...], ...]:
    counts = np.bincount(was * size + now, minlength=size * size).reshape(size, size)
    return tuple(tuple(row) for row in counts.tolist())


@dataclass(frozen=True)
class DiscriminationImprovement:
    """Integrated discrimination improvement: what `value` adds to the mean chance of those with the event less that of
    those without."""

    horizon: float
    value: Estimate  # after - before
    before: Estimate  # the difference of the means
    after: Estimate
    people: int
    died: int  # events by the horizon
    warnings: tuple[str, ...]
    values: Floats = field(repr=False, compare=False)  # (samples, 3): value, before, after


def discrimination_improvement(
    time: ArrayLike,
    event: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    horizon: float,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> DiscriminationImprovement:
    """Means (Pencina et al. 2008, Statistics in Medicine 27:157) with inverse probability of censoring weights.
    Arguments as of `net_reclassification`."""
    watch = read_watch(time, event, entry=entry, subject=subject)
    wanted = read_horizon(watch, horizon)
    old, new = (read_chances(name, each, watch)[:, 0] for name, each in (("before", before), ("after", after)))
    check_samples(samples, seed, confidence, threads)
    _need_events(watch, wanted)
    died: Flags = watch.event & (watch.time <= wanted)

    def statistic(counts: Floats) -> Floats:
        weights = watch.stand(counts, np.array([wanted])).weights(0)
        cases, controls = np.where(died, weights, 0.0), np.where(died, 0.0, weights)
        if not (cases.any() and controls.any()):
            return np.full(3, np.nan)
        cases, controls = cases / cases.sum(), controls / controls.sum()
        slopes = [((cases - controls) * each).sum() for each in (old, new)]
        return np.array([slopes[1] - slopes[0], *slopes])

    values = resampled(statistic, watch.cluster, samples=samples, seed=seed, threads=threads)
    found = estimates(statistic(np.ones(len(watch))), values, confidence)
    told = warn_of_few(watch, np.array([wanted]))
    told += told_undefined(["improvement"], [found[0].undefined], samples)
    return DiscriminationImprovement(
        wanted, found[0], found[1], found[2], len(watch), int(died.sum()), tuple(told), values
    )
