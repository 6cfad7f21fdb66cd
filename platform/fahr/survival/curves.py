"""The share of people without the event after a time: Kaplan-Meier, with log-log intervals and delayed entry.

curve = kaplan_meier(time, event, entry=entry)
curve.at([365, 730]), curve.median(), curve.at_risk([0, 365, 730])

n = people, M = distinct times of events.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.survival.people import Flags, Floats, Ints

Z = 1.959963984540054  # of the 97.5 % point


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
    _ends: Floats = field(repr=False)  # (n,) sorted
    _entries: Floats | None = field(repr=False)  # (n,) sorted

    def at(self, time: ArrayLike) -> Floats:
        return np.concatenate(([1.0], self.survival))[np.searchsorted(self.time, time, "right")]

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
    ends = np.sort(time)
    entries = None if entry is None else np.sort(entry)
    times, died = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(ends, times, "left")
    if entries is not None:
        at_risk = at_risk - (len(time) - np.searchsorted(entries, times, "left"))
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.asarray(np.cumprod(1 - died / at_risk), np.float64)
        greenwood = np.cumsum(died / (at_risk * (at_risk - died.astype(np.float64))))
        reach = Z * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(reach), survival ** np.exp(-reach)
    gone = survival <= 0
    low, high = np.where(gone, np.nan, low), np.where(gone, np.nan, high)
    last = float(ends[-1]) if len(ends) else 0.0
    return Curve(times, survival, low, high, len(time), int(event.sum()), last, ends, entries)
