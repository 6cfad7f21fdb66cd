"""Who is watched at each event, as sums over them: what Cox models, their residuals and their tests are made of.

sets = RiskSets.of(time, event, entry=entry, strata=strata)
sets.at_risk(values)                                # (n, ...) -> (D, ...) sums over those at risk at each event
sets.over_events(values)                            # (D, ...) -> (n, ...) sums over the events a row is at risk at

The second is the first transposed, so that no sum over people of a K x K matrix is ever made: n x K numbers are enough.
Rows, in and out, are in the caller's order. Events are in order of stratum and time. n = people, D = events.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fahr.survival.people import Flags, Floats, Ints


@dataclass(frozen=True, eq=False)
class RiskSets:
    """At risk at t is who has entry < t <= time in the stratum of the event. Efron: of those who have the event at one
    time, the second counts with a share of them gone, the third with twice that share, and so on."""

    dead: Ints  # (D,) rows
    time: Floats  # (D,)
    stratum: Ints  # (D,) numbers from 0
    share: Floats  # (D,) how much of those with the event at that time counts as gone already
    ends: Floats  # (n,) the time of each row
    starts: Floats | None  # (n,) and its entry
    _tie: Ints  # (D,) number of the time within its stratum, from 0, rising
    _first: Ints  # (T,) the first event of each of those
    _order: Ints  # (n,) rows by stratum and time
    _from: Ints  # (D,) place in that order of the first that is still watched
    _past: Ints  # (D,) and the end of the stratum
    _entered: Ints | None  # (n,) rows by stratum and entry
    _late: Ints | None  # (D,) place in that order of the first that enters too late
    _upto: Ints  # (n,) how many events, of this stratum and those before it, are not after a row's time
    _since: Ints  # (n,) how many are before the row is watched
    exact: bool = False  # sums that subtract nothing: slower, for values that span more than a difference can hold

    @staticmethod
    def of(time: Floats, event: Flags, *, entry: Floats | None = None, strata: Ints | None = None) -> "RiskSets":
        where = np.zeros(len(time), np.int64) if strata is None else strata
        moments, rank = np.unique(time if entry is None else np.concatenate([time, entry]), return_inverse=True)
        size = len(moments) + 1
        ends = where * size + rank[: len(time)] + 1  # one number a row: by stratum, then by time; 0: before all
        order = np.argsort(ends, kind="stable")
        assert event.dtype == bool, "0 and 1 would be read as places"
        dead = order[event[order]]
        at = ends[dead]
        _, first, tie, number = np.unique(at, return_index=True, return_inverse=True, return_counts=True)
        share = (np.arange(len(dead)) - first[tie]) / number[tie]
        sorted_ends = ends[order]
        entered = late = None
        starts = where * size
        if entry is not None:
            starts = where * size + rank[len(time) :] + 1
            entered = np.argsort(starts, kind="stable")
            late = np.searchsorted(starts[entered], at, "left")
        return RiskSets(
            dead=dead,
            time=time[dead],
            stratum=where[dead],
            share=share,
            ends=time,
            starts=entry,
            _tie=tie,
            _first=first,
            _order=order,
            _from=np.searchsorted(sorted_ends, at, "left"),
            _past=np.searchsorted(sorted_ends, (where[dead] + 1) * size, "left"),
            _entered=entered,
            _late=late,
            _upto=np.searchsorted(at, ends, "right"),
            _since=np.searchsorted(at, starts, "right"),
        )

    @property
    def tied(self) -> bool:
        return len(self._first) < len(self.dead)

    def at_risk(self, values: Floats) -> Floats:
        """(n, ...) -> (D, ...), less Efron's share of those who have the event at that time."""
        if self.exact:
            sums = _of_those_over(values, self._since, self._upto, len(self.dead))
        else:
            sums = _span(values[self._order], self._from, self._past)
            if self._entered is not None and self._late is not None:
                sums = sums - _span(values[self._entered], self._late, self._past)
        if self.tied:
            theirs = np.add.reduceat(values[self.dead], self._first)
            sums = sums - _wide(self.share, values) * theirs[self._tie]
        return sums

    def over_events(self, values: Floats) -> Floats:
        """(D, ...) -> (n, ...), less Efron's share of the events at a row's own time, if it has the event itself."""
        if self.exact:
            found = _within(values, self._since, self._upto)
        else:
            sums = _until(values)
            found = sums[self._upto] - sums[self._since]
        if self.tied:
            theirs = np.add.reduceat(_wide(self.share, values) * values, self._first)
            found[self.dead] -= theirs[self._tie]
        return np.asarray(found)

    def tied_mean(self, values: Floats) -> Floats:
        """(D, ...) -> (D, ...): the mean over the events at the same time of the same stratum."""
        if not self.tied:
            return values
        sums = np.add.reduceat(values, self._first)
        number = np.bincount(self._tie).astype(np.float64)
        return np.asarray((sums / _wide(number, values))[self._tie])


def _wide(each: Floats, values: Floats) -> Floats:
    """One number a row, in a shape that multiplies `values`."""
    return each.reshape(-1, *[1] * (values.ndim - 1))


def _until(values: Floats) -> Floats:
    """(n, ...) -> (n + 1, ...): the sum of all rows before."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


def _span(values: Floats, first: Ints, past: Ints) -> Floats:
    """(n, ...) -> (D, ...) sums from `first` to before `past`. Summed from the end, so that the last few, of whom there
    are little, are not what is left of a large difference."""
    sums = np.concatenate([np.cumsum(values[::-1], axis=0)[::-1], np.zeros((1, *values.shape[1:]))])
    return np.asarray(sums[first] - sums[past])


def _within(values: Floats, first: Ints, past: Ints) -> Floats:
    """(D, ...) -> (n, ...) sums from `first` to before `past`, of sums of 1, 2, 4 ... neighbours: as `_span`, and no
    difference is taken."""
    found = np.zeros((len(first), *values.shape[1:]))
    level = values
    for rows, places in _steps(first, past):
        if len(level) % 2:
            level = np.concatenate([level, np.zeros((1, *values.shape[1:]))])
        for own, place in zip(rows, places, strict=True):
            found[own] += level[place]
        level = level[::2] + level[1::2]
    return found


def _of_those_over(values: Floats, first: Ints, past: Ints, size: int) -> Floats:
    """(n, ...) -> (size, ...): at each place the sum of the rows from whose `first` to before whose `past` it lies:
    `_within` transposed."""
    steps = list(_steps(first, past))
    found = np.zeros((0, *values.shape[1:]))
    for number in reversed(range(len(steps))):
        level = np.zeros((-(-size // 2**number), *values.shape[1:]))
        level += np.repeat(found, 2, axis=0)[: len(level)] if len(found) else 0.0
        for own, place in zip(*steps[number], strict=True):
            np.add.at(level, place, values[own])
        found = level
    return found


def _steps(first: Ints, past: Ints) -> Iterator[tuple[tuple[Ints, Ints], tuple[Ints, Ints]]]:
    """How [first, past) is made of 1, 2, 4 ... neighbours, from small to large: which rows take one more at their left
    and at their right end, and where it lies among those of that size."""
    first, past = first.copy(), past.copy()
    while (open_ := first < past).any():
        left = np.flatnonzero(open_ & (first % 2 == 1))
        at_left = first[left]
        first[left] += 1
        right = np.flatnonzero((first < past) & (past % 2 == 1))
        past[right] -= 1
        yield (left, right), (at_left, past[right])
        first, past = first // 2, past // 2
