"""The share of people without the event after a time: Kaplan-Meier, with log-log intervals and delayed entry.

curve = kaplan_meier(time, event, entry=entry)
curve.at([365, 730]), curve.interval([365]), curve.median(), curve.at_risk([0, 365, 730])
at_risk_table({"low": curve, "high": other}, [0, 365, 730]).lines()

n = people, M = distinct times of events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.survival.people import Flags, Floats, Ints

Z = 1.959963984540054  # of the 97.5 % point
FEWEST = 10  # people in a cell of a table that anyone may see


@dataclass(frozen=True, eq=False)
class Curve:
    """Steps down at each time of an event, and has stepped down at that time already."""

    time: Floats  # (M,) rising
    survival: Floats  # (M,)
    low: Floats  # (M,) 95 % intervals, log(-log) scale; nan where the curve is 0, and so has none
    high: Floats  # (M,)
    people: int
    events: int
    last: float  # end of the longest follow-up
    died: Ints  # (M,) events at each time
    watched: Ints  # (M,) at risk just before
    greenwood: Floats  # (M,) what each time adds to Greenwood's variance of the log; inf where nobody is left
    _ends: Floats = field(repr=False)  # (n,) sorted
    _entries: Floats | None = field(repr=False)  # (n,) sorted

    def at(self, time: ArrayLike) -> Floats:
        return np.concatenate(([1.0], self.survival))[np.searchsorted(self.time, time, "right")]

    def interval(self, time: ArrayLike) -> tuple[Floats, Floats]:
        """Both ends of the 95 % interval after a time; nan where the curve is 0, and 1 before the first event."""
        place = np.searchsorted(self.time, time, "right")
        return np.concatenate(([1.0], self.low))[place], np.concatenate(([1.0], self.high))[place]

    def standard_error(self, time: ArrayLike) -> Floats:
        """Greenwood's, of the share itself; 0 where the curve has come to 0."""
        root = np.sqrt(np.cumsum(np.where(self.survival > 0, self.greenwood, 0.0)))
        return np.concatenate(([0.0], self.survival * root))[np.searchsorted(self.time, time, "right")]

    def median(self) -> tuple[float | None, float | None, float | None]:
        """The first time at which half or fewer are left, and the same of both ends of the interval (Brookmeyer and
        Crowley 1982, Biometrics 38:29). None: not reached in the follow-up."""
        low = np.where(self.survival <= 0, 0.0, self.low)
        return _first(self.time, self.survival), _first(self.time, low), _first(self.time, self.high)

    def at_risk(self, time: ArrayLike) -> Ints:
        """How many are watched at a time: entered before it, or at 0, and not yet gone."""
        moments = np.asarray(time, np.float64)
        entered = np.full(moments.shape, len(self._ends))
        if self._entries is not None:
            before = np.searchsorted(self._entries, moments, "left")
            entered = np.where(moments <= 0, np.searchsorted(self._entries, 0, "right"), before)
        return np.asarray(entered - np.searchsorted(self._ends, moments, "left"), np.int64)


def _first(time: Floats, survival: Floats) -> float | None:
    reached = np.flatnonzero(survival <= 0.5 + 1e-12)  # 0.8 * 0.625 is a half, though not in binary
    return float(time[reached[0]]) if len(reached) else None


def kaplan_meier(time: Floats, event: Flags, *, entry: Floats | None = None) -> Curve:
    """Arrays (n,), checked by `read_people`. At risk at t is who has entry < t <= time: at equal times, events come
    before censorings and before entries."""
    dead, left = np.sort(time[event]), np.sort(time[~event])
    ends = np.sort(np.concatenate((dead, left)), kind="stable")  # two rising runs: merged, not sorted again
    entries = None if entry is None else np.sort(entry)
    first = np.flatnonzero(np.diff(dead, prepend=np.nan))  # of each distinct time; nan differs from all
    times, died = dead[first], np.diff(first, append=len(dead))
    at_risk = len(time) - np.searchsorted(ends, times, "left")
    if entries is not None:
        at_risk = at_risk - (len(time) - np.searchsorted(entries, times, "left"))
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.asarray(np.cumprod(1 - died / at_risk), np.float64)
        greenwood = died / (at_risk * (at_risk - died.astype(np.float64)))
        reach = Z * np.sqrt(np.cumsum(greenwood)) / np.abs(np.log(survival))
        low, high = survival ** np.exp(reach), survival ** np.exp(-reach)
    gone = survival <= 0
    low, high = np.where(gone, np.nan, low), np.where(gone, np.nan, high)
    last = float(ends[-1]) if len(ends) else 0.0
    events = int(event.sum())
    counts = np.asarray(died, np.int64), np.asarray(at_risk, np.int64)
    return Curve(times, survival, low, high, len(time), events, last, *counts, greenwood, ends, entries)


@dataclass(frozen=True, eq=False)
class AtRiskTable:
    """How many are watched at each moment, group by group; counts of 1 to 9 are not shown."""

    times: tuple[float, ...]
    groups: tuple[str, ...]
    counts: Ints  # (G, T) as they are

    def cells(self) -> list[list[str]]:
        return [[few(number) for number in row] for row in self.counts.tolist()]

    def lines(self) -> list[str]:
        """For a terminal."""
        wide = max(len(name) for name in ("at risk at", *self.groups)) + 2
        head = f"{'at risk at':{wide}s}" + "".join(f"{time:>10g}" for time in self.times)
        rows = zip(self.groups, self.cells(), strict=True)
        return [head, *(f"{name:{wide}s}" + "".join(f"{cell:>10s}" for cell in row) for name, row in rows)]


def few(number: int) -> str:
    """A count of people as it may be shown."""
    return f"{number:,}" if number == 0 or number >= FEWEST else f"<{FEWEST}"


def counted(number: int) -> int | None:
    """The same, for a file: None where it is not shown."""
    return number if number == 0 or number >= FEWEST else None


def at_risk_table(curves: Mapping[str, Curve], times: Sequence[float]) -> AtRiskTable:
    counts = [curve.at_risk(times) for curve in curves.values()]
    return AtRiskTable(tuple(float(time) for time in times), tuple(curves), np.array(counts, np.int64))
