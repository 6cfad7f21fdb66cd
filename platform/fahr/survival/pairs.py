"""Comparable pairs as sweeps: what one walk along a sorted list has to count. n = rows, P = points, Q = queries.

i and j are comparable when i had the event while j was still watched without it:
    event_i, T_i < T_j (or T_i = T_j and j censored), entry_j < T_i, and not the same subject.
The risks of a pair are tied when |r_i - r_j| <= 1e-8. That is no equivalence: a may tie with b and b with c while a and
c differ. So nobody is sorted into groups of ties; each risk knows which span of the sorted risks it ties with.

Sums over the rows comparable to a row are sums over everybody watched longer, less those who entered too late, less the
row's own subject: signed sweeps over lists that are each sorted once. Every sweep takes O(n log n) and O(n) memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.survival.engine import engine
from fahr.survival.people import Flags, Floats, Ints, People

Places = NDArray[np.int32]  # half the memory of int64, and memory is what large inputs wait for

TIED = 1e-8  # risks no further apart than this count half
NONE: Places = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Ranks:
    """Where the risk of each row stands among the U distinct risks."""

    rank: Places  # (n,)
    size: int  # U
    low: Places  # (U,) the first rank that ties with this one; empty where ranks tie only with themselves
    high: Places  # (U,) the first rank above all that tie, or empty


@dataclass(frozen=True)
class Sweep:
    """For each query: the first `upto` points but for the first `start`, by whether their rank lies below its ties."""

    sign: int  # what it counts is added (1) or taken away (-1)
    ranks: Ranks
    points: Places  # (P,) rows, in the order in which they are met
    queries: Places  # (Q,) rows, each at most once
    start: Places  # (Q,) or empty for zeros; all points before it rank below the query's ties
    upto: Places  # (Q,) never falls


@dataclass(frozen=True)
class Timeline:
    """Rows by time; at equal times events come before censored rows."""

    order: Places  # (n,) rows
    first: Places  # (n,) by place in `order`: where the rows with the same time and outcome begin
    past: Places  # (n,) and where they end


def sort_by_time(people: People) -> Timeline:
    assert len(people) < 2**31
    return Timeline(*engine().sort_by_time(people.time, people.event))


def rank_risks(risk: Floats) -> Ranks:
    """Ties follow the difference of the two numbers as floating point gives it."""
    rank, distinct = engine().rank_risks(risk)
    with np.errstate(over="ignore"):  # the gap from -1e308 to 1e308 is infinite, which is right
        close = np.flatnonzero(distinct[1:] - distinct[:-1] <= TIED)  # few, unless scores are tiny
    if not len(close):
        return Ranks(rank, len(distinct), NONE, NONE)
    high = np.arange(1, len(distinct) + 1)
    high[close] = _first_above(distinct, close)
    low = np.arange(len(distinct))
    low[close + 1] = np.searchsorted(high, close + 1, "right")  # the relation is symmetric
    return Ranks(rank, len(distinct), _places(low), _places(high))


def _first_above(distinct: Floats, places: Ints) -> Ints:
    """The first of the sorted numbers that exceeds the one at each place by more than TIED: by bisection, so that no
    sum rounds."""
    here = distinct[places]
    inside, outside = places, np.full(len(places), len(distinct))
    while (outside - inside > 1).any():
        middle = (inside + outside) // 2
        with np.errstate(over="ignore"):
            tied = distinct[middle] - here <= TIED
        inside, outside = np.where(tied, middle, inside), np.where(tied, outside, middle)
    return outside


def as_earlier(people: People, active: Flags, ranks: Ranks, timeline: Timeline) -> list[Sweep]:
    """For every row of `active` (all of them events), the rows comparable to it."""
    n = len(people)
    points = np.ascontiguousarray(timeline.order[::-1])  # longest watched first; of equals the censored before events
    places = np.flatnonzero(active[points])
    queries = points[places]
    sweeps = [Sweep(1, ranks, points, queries, NONE, n - timeline.past[n - 1 - places])]
    if people.entry is not None and len(queries):
        late = np.flatnonzero(people.entry >= people.time[queries[-1]])
        late = late[np.argsort(-people.entry[late])]
        upto = np.searchsorted(-people.entry[late], -people.time[queries], "right")
        sweeps.append(Sweep(-1, ranks, _places(late), queries, NONE, _places(upto)))
    return sweeps + _same_subject(sweeps, people)


def as_later(people: People, active: Flags, ranks: Ranks, timeline: Timeline) -> list[Sweep]:
    """For every row, the rows of `active` (all of them events) to which it is comparable."""
    flags = active[timeline.order]
    points = timeline.order[flags]
    before = np.zeros(len(people) + 1, np.int32)
    np.cumsum(flags, out=before[1:])
    sweeps = [Sweep(1, ranks, points, timeline.order, NONE, before[timeline.first])]
    if people.entry is not None and len(points):
        late = np.flatnonzero(people.entry >= people.time[points[0]])
        late = late[np.argsort(people.entry[late])]
        upto = np.searchsorted(people.time[points], people.entry[late], "right")
        sweeps.append(Sweep(-1, ranks, points, _places(late), NONE, _places(upto)))
    return sweeps + _same_subject(sweeps, people)


def _same_subject(sweeps: list[Sweep], people: People) -> list[Sweep]:
    """What the sweeps count within a subject, taken away again."""
    if people.subject is None:
        return []
    repeated = np.bincount(people.subject)[people.subject] > 1
    if not repeated.any():
        return []
    ranks = _ranks_within(sweeps[0].ranks, people.subject, np.flatnonzero(repeated))
    return [_within(sweep, ranks, people.subject, repeated) for sweep in sweeps]


def _ranks_within(ranks: Ranks, subject: Ints, rows: Ints) -> Ranks:
    """Ranks of `rows` on one list, subject after subject; ties stay within a subject."""
    old, tall = ranks.rank[rows], ranks.size + 1
    low, high = (ranks.low[old], ranks.high[old]) if len(ranks.low) else (old, old + 1)
    height = subject[rows] * tall + old
    order = np.argsort(height, kind="stable")
    height, rows = height[order], rows[order]
    rank = np.zeros(len(subject), np.int32)
    rank[rows] = np.arange(len(rows))
    bounds = (np.searchsorted(height, subject[rows] * tall + bound[order]) for bound in (low, high))
    return Ranks(rank, len(rows), *(_places(bound) for bound in bounds))


def _within(sweep: Sweep, ranks: Ranks, subject: Ints, repeated: Flags) -> Sweep:
    """The same sweep, each query over its own subject: subject after subject on one list of points."""
    chosen = np.flatnonzero(repeated[sweep.points])
    asking = np.flatnonzero(repeated[sweep.queries])
    wide = len(sweep.points) + 1
    place = subject[sweep.points[chosen]] * wide + chosen  # sorts by subject, then as before
    order = np.argsort(place)
    place, own = place[order], subject[sweep.queries[asking]] * wide
    upto = np.searchsorted(place, own + sweep.upto[asking])
    by_upto = np.argsort(upto)
    return Sweep(
        -sweep.sign,
        ranks,
        sweep.points[chosen[order]],
        sweep.queries[asking[by_upto]],
        _places(np.searchsorted(place, own[by_upto])),
        _places(upto[by_upto]),
    )


def _places(numbers: ArrayLike) -> Places:
    return np.asarray(numbers, np.int32)


@dataclass(frozen=True)
class Counts:
    """What is comparable to each row, and over all rows. Where nothing is, the sums are 0 to the bit."""

    credit: Floats  # (n,) sum of the values of the comparable with a lower risk, of the tied half
    total: Floats  # (n,) of all comparable
    below: float  # credit of lower risks over all queries, times the weight of the query
    tied: float
    all: float
    pairs: int


def count(sweeps: list[Sweep], values: Floats, weights: Floats) -> Counts:
    """`values` (n,) of the points, `weights` (n,) of the queries."""
    n = len(values)
    credit, total, sums = np.zeros(n), np.zeros(n), np.zeros(3)
    single = len(sweeps) == 1
    pairs = np.zeros(0 if single else n, np.int64)
    number = 0
    for each in sweeps:
        ranks = each.ranks
        number += each.sign * engine().walk(
            each.sign, ranks.rank, ranks.size, ranks.low, ranks.high, each.points, each.queries, each.start, each.upto,
            values, weights, credit, total, pairs, sums,
        )  # fmt: skip
    if not single:  # differences leave rounding where nothing is left
        credit[pairs == 0] = 0.0
        total[pairs == 0] = 0.0
    below, tied, everything = sums.tolist() if number else (0.0, 0.0, 0.0)
    return Counts(credit, total, below, tied, everything, number)
