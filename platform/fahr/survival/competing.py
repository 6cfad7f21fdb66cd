"""What comes first, when several things can: the share of people with each cause after a time (Aalen-Johansen).

found = cumulative_incidence(time, cause, entry=entry)  # cause: 0 or None = none yet (censored); else any name
found.at("cancer", [365, 730]), found.interval("cancer", [365, 730])
of_cause(cause, "cancer")                               # (n,) event of a cause-specific Cox model: others are censored

One minus Kaplan-Meier of one cause is not this: it counts people as if they could still have it after another cause.
Hazards of a cause are of those still alive; for effects on them fit `fahr.survival.models` with `event=` and `cause=`.
n = people, M = distinct times of any cause, K = causes, T = times asked for.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused, nearest
from fahr.survival.curves import Z
from fahr.survival.people import Flags, Floats, Ints, read_groups, read_people


@dataclass(frozen=True, eq=False)
class Incidence:
    """Steps up at each time of a cause, and has stepped up at that time already."""

    causes: tuple[str, ...]
    people: int
    events: tuple[int, ...]  # of each cause
    last: float  # end of the longest follow-up
    time: Floats  # (M,) rising
    without: Floats  # (M,) the share without any of them
    share: Floats  # (K, M)
    _hazard: Floats = field(repr=False)  # (K, M)
    _watched: Floats = field(repr=False)  # (M,) at risk
    _cause: Ints = field(repr=False)  # (n,) number of a person's cause; -1: none
    _place: Ints = field(repr=False)  # (n,) how many of the times are not after a person's end
    _since: Ints = field(repr=False)  # (n,) how many are before the person is watched
    _cluster: Ints | None = field(repr=False)  # (n,)

    def at(self, cause: str, time: ArrayLike) -> Floats:
        """(T,)"""
        return np.concatenate(([0.0], self.share[self._number(cause)]))[self._until(time)]

    def at_risk(self, time: ArrayLike) -> Ints:
        """(T,) how many are watched at the next time of a cause; 0 past the last."""
        place = np.searchsorted(self.time, np.asarray(time, np.float64), "left")
        return np.concatenate((self._watched, [0.0]))[place].astype(np.int64)

    def standard_error(self, cause: str, time: ArrayLike) -> Floats:
        """(T,) by the infinitesimal jackknife, as R's: what a little more weight on each person would change, squared
        and summed; over the people of a cluster before it is squared."""
        number = self._number(cause)
        errors: list[float] = []
        for place in self._until(time).tolist():
            moves: Floats = self._influence(number, place)
            if self._cluster is not None:
                moves = np.asarray(np.bincount(self._cluster, moves), np.float64)
            errors.append(float(np.sqrt((moves**2).sum())))
        return np.array(errors)

    def interval(self, cause: str, time: ArrayLike) -> tuple[Floats, Floats]:
        """(T,), (T,) both ends of 95 %, on the scale of log(-log); nan where the share is 0 or 1."""
        share, error = self.at(cause, time), self.standard_error(cause, time)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = Z * error / np.abs(share * np.log(share))
            low, high = share ** np.exp(reach), share ** np.exp(-reach)
        told = (share > 0) & (share < 1)
        return np.where(told, low, np.nan), np.where(told, high, np.nan)

    def _number(self, cause: str) -> int:
        if cause not in self.causes:
            raise Refused(f"cause: {cause!r} is none of {', '.join(self.causes)}.{nearest(cause, self.causes)}")
        return self.causes.index(cause)

    def _until(self, time: ArrayLike) -> Ints:
        moments = np.atleast_1d(np.asarray(time, np.float64))
        late = moments > self.last
        if late.any():
            raise Refused(
                f"time: {moments[late][0]:g} lies past the longest follow-up, {self.last:g}. Ask for {self.last:g} or "
                "less."
            )
        return np.searchsorted(self.time, moments, "right")

    def _influence(self, number: int, place: int) -> Floats:
        """(n,) the derivative of the share after the first `place` times by each person's weight."""
        if place == 0:
            return np.zeros(self.people)
        before = np.concatenate(([1.0], self.without[: place - 1]))  # (place,) left of each time
        left = self.share[number, place - 1] - self.share[number, :place]  # still to come
        total = self._hazard[:, :place].sum(0)
        stays = 1 - total
        lost = np.divide(left, stays, out=np.zeros(place), where=stays > 1e-12)
        watched = self._watched[:place]
        passing = np.concatenate(([0.0], np.cumsum((before * self._hazard[number, :place] - total * lost) / watched)))
        moves = passing[np.minimum(self._since, place)] - passing[np.minimum(self._place, place)]
        happened = np.flatnonzero((self._cause >= 0) & (self._place <= place))
        own = self._place[happened] - 1
        moves[happened] += (before[own] * (self._cause[happened] == number) - lost[own]) / watched[own]
        return np.asarray(moves)


def cumulative_incidence(
    time: ArrayLike, cause: ArrayLike, *, entry: ArrayLike | None = None, cluster: ArrayLike | None = None
) -> Incidence:
    """Arrays (n,). Refused: nobody with any cause."""
    raw = np.asarray(cause)
    happened = np.zeros(len(raw), bool) if raw.ndim != 1 else _happened(raw)
    people, _ = read_people(time, happened, entry=entry)
    if not happened.any():
        raise Refused(f"cause: nobody of {len(people):,} had any, so no share ever rises. 0 or None is censored.")
    names, numbers = np.unique(raw[happened].astype(str), return_inverse=True)
    causes = np.full(len(people), -1)
    causes[happened] = numbers
    moments = np.unique(people.time[happened])
    died = np.zeros((len(names), len(moments)))
    np.add.at(died, (numbers, np.searchsorted(moments, people.time[happened])), 1.0)
    watched = len(people) - np.searchsorted(np.sort(people.time), moments, "left").astype(np.float64)
    since = np.zeros(len(people), np.int64)
    if people.entry is not None:
        watched -= len(people) - np.searchsorted(np.sort(people.entry), moments, "left")
        since = np.searchsorted(moments, people.entry, "right")
    hazard = died / watched
    without = np.cumprod(np.maximum(1 - hazard.sum(0), 0.0))
    share = np.cumsum(np.concatenate(([1.0], without[:-1])) * hazard, axis=1)
    return Incidence(
        causes=tuple(str(name) for name in names),
        people=len(people),
        events=tuple(np.bincount(numbers, minlength=len(names)).tolist()),
        last=float(people.time.max()),
        time=moments,
        without=without,
        share=share,
        _hazard=hazard,
        _watched=watched,
        _cause=causes,
        _place=np.searchsorted(moments, people.time, "right"),
        _since=since,
        _cluster=None if cluster is None else read_groups("cluster", cluster, len(people)),
    )


def of_cause(cause: ArrayLike, name: Any) -> Flags:
    """(n,) whether each had this one; refused where nobody had."""
    raw = np.asarray(cause)
    happened = _happened(raw)
    mine = happened & (raw.astype(str) == str(name))
    if not mine.any():
        known = sorted(set(raw[happened].astype(str).tolist()))
        there = ", ".join(known) if known else "none"
        raise Refused(f"cause: nobody had {name!r}; causes there are: {there}.{nearest(str(name), known)}")
    return np.asarray(mine)


def _happened(cause: NDArray[Any]) -> Flags:
    """(n,) False where the cause is 0, None, nan or empty."""
    if cause.dtype.kind in "biuf":
        return np.asarray((cause != 0) & ~np.isnan(cause.astype(np.float64)))
    told = cause.astype(str)
    return ~np.isin(told, ["0", "0.0", "", "None", "nan", "NaN", "<NA>", "False"])
