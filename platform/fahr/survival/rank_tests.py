"""Do groups have the event at the same pace? The log-rank test: of k groups, of a trend, within strata.

found = log_rank(time, event, group, entry=entry, strata=site)
found.test.p_value, found.observed, found.expected
log_rank_trend(time, event, stage)                  # group: a number each, such as 1 to 4 for quartiles

Of people with delayed entry as well: at risk at t is who has entry < t <= time. n = people, G = groups.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused
from fahr.survival.chi_squared import ChiSquared, quadratic_form
from fahr.survival.people import Floats, People, read_groups, read_people, read_risk


@dataclass(frozen=True, eq=False)
class LogRank:
    """`observed` and `expected` events of each group, summed over strata, in the order of `groups`."""

    groups: tuple[str, ...]
    people: tuple[int, ...]
    observed: Floats  # (G,)
    expected: Floats  # (G,) had all of a stratum the same hazard
    variance: Floats  # (G, G) of their difference: hypergeometric, so that ties are counted as they are
    test: ChiSquared  # of trend: one degree of freedom


def log_rank(
    time: ArrayLike,
    event: ArrayLike,
    group: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> LogRank:
    """Arrays (n,); `group` and `strata` are any names."""
    people, _ = read_people(time, event, entry=entry)
    names, whose = np.unique(_sortable(group, len(people)), return_inverse=True)
    return _tested(people, [str(name) for name in names], whose, strata, None)


def log_rank_trend(
    time: ArrayLike,
    event: ArrayLike,
    score: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> LogRank:
    """Whether the hazard goes up or down with `score`: numbers (n,), each of them a group (Tarone 1975)."""
    people, _ = read_people(time, event, entry=entry)
    scores, whose = np.unique(read_risk("score", score, len(people)), return_inverse=True)
    return _tested(people, [f"{each:g}" for each in scores.tolist()], whose, strata, scores)


def _sortable(group: ArrayLike, rows: int) -> NDArray[np.generic]:
    """Names as they sort; refused where one is missing."""
    read_groups("group", group, rows)
    names = np.asarray(group)
    return names.astype(str) if names.dtype.kind == "O" else names


def _tested(
    people: People, names: list[str], whose: NDArray[np.intp], strata: ArrayLike | None, scores: Floats | None
) -> LogRank:
    if len(names) < 2:
        raise Refused(f"group: all {len(people):,} rows are of one ({', '.join(names)}). A test compares two or more.")
    if not people.event.any():
        raise Refused(f"event: nobody of {len(people):,} had it, so there is nothing to compare. Follow up for longer.")
    where = np.zeros(len(people), np.int64) if strata is None else read_groups("strata", strata, len(people))
    size = len(names)
    observed, expected, variance = np.zeros(size), np.zeros(size), np.zeros((size, size))
    for number in range(int(where.max()) + 1):
        mine = where == number
        died, at_risk = _counts(people, mine, whose, size)
        all_died, everyone = died.sum(1), at_risk.sum(1)
        share = at_risk / everyone[:, None]
        observed += died.sum(0)
        expected += (all_died[:, None] * share).sum(0)
        spread = all_died * np.divide(everyone - all_died, everyone - 1, out=np.zeros(len(died)), where=everyone > 1)
        variance += np.diag((spread[:, None] * share).sum(0)) - share.T @ (spread[:, None] * share)
    gap = observed - expected
    if scores is None:
        test = quadratic_form(gap, variance)
    else:
        shown = (scores - scores.mean()) / scores.std()
        test = quadratic_form(np.array([shown @ gap]), np.array([[shown @ variance @ shown]]))
    counts = tuple(np.bincount(whose, minlength=size).tolist())
    return LogRank(tuple(names), counts, observed, expected, variance, test)


def _counts(people: People, mine: NDArray[np.bool_], whose: NDArray[np.intp], size: int) -> tuple[Floats, Floats]:
    """(M, G) events, and people at risk, at each of the M times of an event."""
    time, event = people.time[mine], people.event[mine]
    group = whose[mine]
    moments = np.unique(time[event])
    died, at_risk = np.zeros((len(moments), size)), np.zeros((len(moments), size))
    for number in range(size):
        those = group == number
        ends = np.sort(time[those])
        died[:, number] = np.bincount(np.searchsorted(moments, time[those & event]), minlength=len(moments))
        at_risk[:, number] = len(ends) - np.searchsorted(ends, moments, "left")
        if people.entry is not None:
            at_risk[:, number] -= len(ends) - np.searchsorted(np.sort(people.entry[mine][those]), moments, "left")
    return died, at_risk
