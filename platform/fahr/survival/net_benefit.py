"""Decision curve: what acting on a predicted chance is worth, in true alarms a person, at each threshold of chance.

found = decision_curve(time, event, predicted, 365)          # predicted (n,): chance of the event by the horizon
found.model[9].value, found.all[9].value                  # at found.thresholds[9] = 0.1; acting on nobody is worth 0
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.engine import either
from fahr.survival.horizon import Watch, read_chances, read_horizon, read_watch, warn_of_few
from fahr.survival.people import Flags, Floats, Ints
from fahr.survival.resampling import Estimate, check_samples, estimates, resampled

THRESHOLDS = tuple((np.arange(1, 100) / 100).tolist())


@dataclass(frozen=True)
class DecisionCurve:
    """At each threshold, in events found a person, less false alarms at their price p / (1 - p). nan: not known."""

    horizon: float
    thresholds: tuple[float, ...]
    model: tuple[Estimate, ...]  # acting on whose predicted chance is at or above the threshold
    all: tuple[Estimate, ...]  # acting on everybody
    flagged: tuple[int, ...]  # people at or above the threshold
    people: int
    events: int  # by the horizon
    warnings: tuple[str, ...]
    values: Floats = field(repr=False, compare=False)  # (samples, 2 K): of the model, of everybody


def decision_curve(
    time: ArrayLike,
    event: ArrayLike,
    predicted: ArrayLike,
    horizon: float,
    thresholds: ArrayLike = THRESHOLDS,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> DecisionCurve:
    """P(flag) (1 - S) - P(flag) S p / (1 - p), with S Kaplan-Meier at the horizon of those who are flagged (Vickers et
    al. 2008, BMC Medical Informatics and Decision Making 8:53). Arrays (n,), a row a person.

    Censoring (and entry) must not depend on the event among those who are flagged. With delayed entry P(flag) is
    weighted, since those who had the event before they could enter are not there to be counted.
    """
    watch = read_watch(time, event, entry=entry, subject=subject)
    wanted = read_horizon(watch, horizon)
    chance = read_chances("predicted", predicted, watch)[:, 0]
    levels = _read_thresholds(thresholds)
    check_samples(samples, seed, confidence, threads)
    price = levels / (1 - levels)
    level = np.asarray(np.searchsorted(levels, chance, "right"), np.int64)  # (n,) thresholds that flag a row
    rows, enters = _steps(watch, wanted)
    ways = either("fahr.survival.flagged_compiled", "fahr.survival.flagged_plain")
    stop = int(np.searchsorted(watch.time, wanted, "right"))
    reached = int(np.searchsorted(watch.time, wanted, "left"))

    def flagged(values: Floats, since: int = 0) -> Floats:
        """(n - since,) -> (K,) sums over those at or above each threshold."""
        return np.bincount(level[since:], values, len(levels) + 1)[::-1].cumsum()[::-1][1:]

    def statistic(counts: Floats) -> Floats:
        start = flagged(counts) if watch.entry is None else np.zeros(len(levels))
        left = ways.survivals(rows, enters, level, watch.event, counts, start)
        # dead to the last one while others were still to enter, or lost before the horizon: not known
        unknown = np.where(left > 0, flagged(counts[reached:], reached) == 0, flagged(counts[stop:], stop) > 0)
        share = flagged(standing_shares(watch, counts, wanted))
        worth = np.where(share > 0, share * (1 - left - left * price), 0.0)
        everybody = watch.survival(counts, wanted)
        return np.concatenate([np.where(unknown & (share > 0), np.nan, worth), 1 - everybody - everybody * price])

    values = resampled(statistic, watch.cluster, samples=samples, seed=seed, threads=threads)
    found = estimates(statistic(np.ones(len(watch))), values, confidence)
    model = found[: len(levels)]
    told = [*warn_of_few(watch, np.array([wanted])), *_told_unknown(levels, model, wanted)]
    above = tuple(flagged(np.ones(len(watch))).astype(int).tolist())
    events = int(watch.event[:stop].sum())
    return DecisionCurve(
        wanted, tuple(levels.tolist()), model, found[len(levels) :], above, len(watch), events, tuple(told), values
    )


def _told_unknown(levels: Floats, model: Sequence[Estimate], horizon: float) -> list[str]:
    unknown = [f"{level:g}" for level, each in zip(levels, model, strict=True) if np.isnan(each.value)]
    if not unknown:
        return []
    return [
        f"thresholds {', '.join(unknown)}: of the few who are flagged nobody is watched up to {horizon:g}, so what "
        "flagging them is worth is not known"
    ]


def _steps(watch: Watch, horizon: float) -> tuple[Ints, Flags]:
    """Rows that leave by the horizon or, with delayed entry, enter before it, in order of time; and which enter.
    At equal times events come first, then who is lost, then who enters."""
    leaves = np.arange(int(np.searchsorted(watch.time, horizon, "right")))
    if watch.entry is None:
        return leaves, np.zeros(len(leaves), bool)
    enters = np.flatnonzero(watch.entry < horizon)
    rows = np.concatenate([leaves, enters])
    late = np.repeat([False, True], [len(leaves), len(enters)])
    order = np.lexsort((rows, late, np.concatenate([watch.time[leaves], watch.entry[enters]])))
    return rows[order], late[order]


def standing_shares(watch: Watch, counts: Floats, horizon: float) -> Floats:
    """(n,) how much of all people a row is, together 1: alike, or, with delayed entry, what it stands for."""
    if watch.entry is None:
        return np.asarray(counts / counts.sum(), np.float64)
    return watch.stand(counts, np.array([horizon])).weights(0)


def _read_thresholds(thresholds: ArrayLike) -> Floats:
    levels = np.atleast_1d(np.asarray(thresholds, np.float64))
    if levels.ndim != 1 or not len(levels) or not ((levels > 0) & (levels < 1)).all() or (np.diff(levels) <= 0).any():
        raise Refused(
            f"thresholds: {levels.tolist()} must lie between 0 and 1, and rise: chances above which one would act."
        )
    return levels
