"""Who had the event by a horizon, who was still without it, and how many people each of them stands for.

watch = read_watch(time, event, entry=entry, subject=subject)   # rows sorted by time
horizons = read_horizons(watch, [365, 730])                     # rising, and within the follow-up
standing = watch.stand(counts, horizons)                        # standing.weights(k), (n,): sums to 1
watch.survival(counts, 365.0)                                   # Kaplan-Meier

Without delayed entry the weights are those of inverse probability of censoring: 1 / (n G(T-)) of an event at T, and
1 / (n G(t)) of those watched beyond t, G by Kaplan-Meier of the same people. Both are the mass that Kaplan-Meier gives
them (Satten and Datta 2001, American Statistician 55:207): S(T-) / R(T), and S(t) / R(t+), with R people at risk. This
second form holds with delayed entry too, as long as who enters or leaves when has nothing to do with event or risk.

n = rows by time, events first among equal times; K = horizons. Counts (n,) say how often a row was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.censoring import LEAST
from fahr.survival.curves import FEWEST, few
from fahr.survival.people import Flags, Floats, Ints, read_people, read_risk


@dataclass(frozen=True, eq=False)
class Watch:
    order: Ints  # (n,) the caller's rows
    time: Floats  # (n,) rising
    event: Flags  # (n,)
    entry: Floats | None  # (n,)
    cluster: Ints  # (n,) numbers from 0: who is drawn together

    def __len__(self) -> int:
        return len(self.time)

    @cached_property
    def first(self) -> Ints:
        """(n,) where the rows of the same time begin."""
        return np.asarray(np.searchsorted(self.time, self.time, "left"), np.int64)

    @cached_property
    def _by_entry(self) -> tuple[Ints, Floats, Ints]:
        """Rows by entry, (n,) those entries, and (n,) how many of them lie before the time of each row."""
        assert self.entry is not None
        order = np.argsort(self.entry, kind="stable")
        entries = self.entry[order]
        return order, entries, np.searchsorted(entries, self.time, "left")

    def only(self, kept: Ints) -> "Watch":
        """Those rows, rising; clusters keep their numbers."""
        entry = None if self.entry is None else self.entry[kept]
        return Watch(self.order[kept], self.time[kept], self.event[kept], entry, self.cluster[kept])

    def at_risk(self, counts: Floats, stop: int) -> Floats:
        """(stop,) who is watched when a row leaves, less those before it in line: of events at one time, each finds the
        others gone, so that the product over them is that of Kaplan-Meier."""
        left = counts.sum() - np.concatenate(([0.0], np.cumsum(counts[: max(stop - 1, 0)])))[:stop]
        if self.entry is not None:
            order, _, before = self._by_entry
            entered = np.concatenate(([0.0], np.cumsum(counts[order])))
            left = left - (entered[-1] - entered[before[:stop]])
        return np.asarray(left, np.float64)

    def _walk(self, counts: Floats, stop: int) -> tuple[Floats, Floats]:
        """(stop,) at risk, and the survival just after each row."""
        at_risk = self.at_risk(counts, stop)
        died = np.where(self.event[:stop], counts[:stop], 0.0)
        stays = 1.0 - np.divide(died, at_risk, out=np.zeros(stop), where=died > 0)
        return at_risk, np.asarray(np.cumprod(stays), np.float64)

    def survival(self, counts: Floats, horizon: float) -> float:
        """Kaplan-Meier at the horizon; nan if the follow-up ends before, or died out before others entered."""
        stop = int(np.searchsorted(self.time, horizon, "right"))
        left = float(self._walk(counts, stop)[1][-1]) if stop else 1.0
        beyond = counts[int(np.searchsorted(self.time, horizon, "left")) :].any()
        if left == 0:
            return 0.0 if self.entry is None or not counts[stop:].any() else float("nan")
        return left if beyond else float("nan")

    def stand(self, counts: Floats, horizons: Floats) -> "Standing":
        stops = np.searchsorted(self.time, horizons, "right")
        last = int(stops.max())
        at_risk, after = self._walk(counts, last)
        before = np.concatenate(([1.0], after))
        first = self.first[:last]
        share = np.divide(before[first], at_risk[first], out=np.zeros(last), where=at_risk[first] > 0)
        mass = np.where(self.event[:last], counts[:last] * share, 0.0)
        return Standing(self, counts, horizons, stops, mass, before[stops])

    def still(self, horizon: float) -> Flags:
        """(n,) who was watched just after the horizon."""
        beyond = self.time > horizon
        return beyond if self.entry is None else beyond & (self.entry <= horizon)


@dataclass(frozen=True, eq=False)
class Standing:
    watch: Watch
    counts: Floats  # (n,)
    horizons: Floats  # (K,)
    stops: Ints  # (K,) the first row after each
    mass: Floats  # (up to the last horizon,) of the events; 0 of the censored
    survival: Floats  # (K,)

    def cases(self, place: int) -> Floats:
        """(up to the horizon,) weights of those with the event by then: together 1 - S."""
        return self.mass[: self.stops[place]]

    def controls(self, place: int) -> Floats:
        """(n - up to the horizon,) weights of those still without it: together S, or all 0 if nobody is."""
        stop = self.stops[place]
        those = self.counts[stop:]
        if self.watch.entry is not None:
            those = np.where(self.watch.entry[stop:] <= self.horizons[place], those, 0.0)
        total = float(those.sum())
        return np.asarray(those * (self.survival[place] / total if total > 0 else 0.0), np.float64)

    def weights(self, place: int) -> Floats:
        """(n,) together 1, if anybody is still without it; 0 of who was lost before."""
        return np.concatenate([self.cases(place), self.controls(place)])


def read_watch(
    time: ArrayLike, event: ArrayLike, *, entry: ArrayLike | None = None, subject: ArrayLike | None = None
) -> Watch:
    """Arrays (n,), one row a person; rows of one subject are drawn together. Refused: nobody with the event."""
    people, _ = read_people(time, event, entry=entry, subject=subject)
    if not people.event.any():
        raise Refused(
            f"event: none of the {len(people):,} rows has it, so there is nothing to judge a prediction by. "
            "Check that 1 means that the event was seen."
        )
    order = np.lexsort((~people.event, people.time))
    whose = np.arange(len(people)) if people.subject is None else people.subject
    entries = None if people.entry is None else people.entry[order]
    return Watch(order, people.time[order], people.event[order], entries, whose[order])


def read_horizons(watch: Watch, horizons: ArrayLike) -> Floats:
    """(K,) above 0, rising; after each somebody must still be watched, and Kaplan-Meier be above 0."""
    wanted = np.atleast_1d(np.asarray(horizons, np.float64))
    if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all() or not (wanted > 0).all():
        raise Refused(
            f"horizon: {horizons!r} must be above 0, in the unit of `time`: one number, or several that rise."
        )
    if not (np.diff(wanted) > 0).all():
        raise Refused(f"horizon: {wanted.tolist()} must rise, each once. Sort them.")
    ones = np.ones(len(watch))
    last = float(watch.time[-1])
    for each in wanted.tolist():
        if each >= last:
            raise Refused(
                f"horizon: {each:g} is past the follow-up: nobody is watched beyond {last:g}. Give less than that."
            )
        if not watch.still(each).any():
            raise Refused(f"horizon: nobody is watched just after {each:g}: others enter later. Give another horizon.")
        if not watch.survival(ones, each) > 0:
            raise Refused(
                f"horizon: all who were watched at some time before {each:g} had the event, though others enter later, "
                "so the share without it is 0 from then on. Begin the follow-up where more people are watched."
            )
    return wanted


def read_horizon(watch: Watch, horizon: float) -> float:
    found = read_horizons(watch, horizon)
    if len(found) != 1:
        raise Refused(f"horizon: {found.tolist()} are {len(found)}; give one, and call again for the next.")
    return float(found[0])


def read_columns(name: str, values: ArrayLike, watch: Watch, horizons: int) -> Floats:
    """(n, K) by time: a column a horizon, or one for all of them."""
    raw = np.asarray(values)
    if raw.ndim == 2:
        if raw.shape != (len(watch), horizons):
            raise Refused(
                f"{name}: has shape {raw.shape}; must be {(len(watch), horizons)}, a row each and a column for every "
                f"horizon, or ({len(watch)},) for all of them."
            )
        columns = [read_risk(name, column, len(watch)) for column in raw.T]
    else:
        columns = [read_risk(name, raw, len(watch))] * horizons
    return np.stack(columns, axis=1)[watch.order]


def read_chances(name: str, values: ArrayLike, watch: Watch, horizons: int = 1) -> Floats:
    """(n, K) by time, chances of the event by each horizon."""
    if horizons > 1 and np.ndim(values) == 1:
        raise Refused(
            f"{name}: is one chance a row for {horizons} horizons. Give ({len(watch)}, {horizons}), one for each."
        )
    columns = read_columns(name, values, watch, horizons)
    wrong = ~((columns >= 0) & (columns <= 1)).all(axis=1)
    if wrong.any():
        row = int(watch.order[wrong].min())
        raise Refused(
            f"{name}: row {row} has {np.asarray(values, np.float64)[row]}; must be the chance of the event by the "
            "horizon, from 0 to 1. A score is none: carry a baseline hazard over from the development data."
        )
    return columns


def warn_of_few(watch: Watch, horizons: Floats) -> list[str]:
    """What makes the numbers at a horizon shaky."""
    told, ones = [], np.ones(len(watch))
    for each in horizons.tolist():
        died = int(watch.event[: int(np.searchsorted(watch.time, each, "right"))].sum())
        still = watch.still(each)
        if died < FEWEST or still.sum() < FEWEST:
            told.append(
                f"at {each:g}: {few(died)} events, {few(int(still.sum()))} watched beyond; fewer than {FEWEST} of one"
            )
        watched = float(still.sum()) / (len(watch) * watch.survival(ones, each))
        if watch.entry is None and watched < LEAST:
            told.append(f"at {each:g}: {watched:.1%} would be watched had nobody the event, so few stand for many")
    if watch.entry is not None:
        told.append("delayed entry: taken to have nothing to do with the event or with what predicts it")
    return told


def told_undefined(names: Sequence[str], undefined: Sequence[int], samples: int) -> list[str]:
    return [
        f"{name}: not defined in {number:,} of {samples:,} resamples, which the interval leaves out"
        for name, number in zip(names, undefined, strict=True)
        if number
    ]
