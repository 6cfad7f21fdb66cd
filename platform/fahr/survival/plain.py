"""The walks along sorted lists in NumPy, for machines without numba: the same functions as `compiled`.

n = rows, P = points, Q = queries, U = ranks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fahr.survival.people import Flags, Floats, Ints

if TYPE_CHECKING:
    from fahr.survival.pairs import Sweep

Places = NDArray[np.int32]


def sort_by_time(time: Floats, event: Flags) -> tuple[Places, Places, Places]:
    """(n,) rows by time, events first; by place, where the rows of the same time and outcome begin and end."""
    # The bits of floats that are not negative sort as the floats do, and leave room for the outcome.
    keys = ((time + 0.0).view(np.uint64) << np.uint64(1)) | ~event  # -0.0 is 0
    order = np.argsort(keys)
    starts = np.flatnonzero(_new(keys[order]))
    ends = np.append(starts[1:], len(keys))
    first, past = (np.repeat(each.astype(np.int32), ends - starts) for each in (starts, ends[: len(starts)]))
    return order.astype(np.int32), first, past


def rank_risks(risk: Floats) -> tuple[Places, Floats]:
    """(n,) ranks and (U,) the distinct risks, rising."""
    order = np.argsort(risk)
    ordered = risk[order]
    new = _new(ordered)
    rank = np.empty(len(risk), np.int32)
    rank[order] = np.cumsum(new, dtype=np.int32) - 1
    return rank, ordered[new]


def _new(ordered: NDArray[np.generic]) -> Flags:
    return np.concatenate((np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]))


def walk(
    sign: int, rank: Places, size: int, low: Places, high: Places,
    points: Places, queries: Places, start: Places, upto: Places,
    values: Floats, weights: Floats, credit: Floats, total: Floats, pairs: Ints, sums: Floats,
) -> int:  # fmt: skip
    """Adds to `credit`, `total` (n,), `pairs` (n,) unless empty, and `sums` (3,) what one sweep counts."""
    here, own = values[points], rank[queries]
    lower, upper = (low[own], high[own]) if len(low) else (own, own + 1)
    below, tied = np.zeros(len(queries)), np.zeros(len(queries))
    alike = bool((here == 1).all())  # then sums are lengths, and nobody needs to know which points they are
    for each in _stretches(rank[points], size, upto, lower, named=not alike):
        (tied if each.last else below)[each.asking] += each.end - each.begin if alike else _sums(each, here)
    wide = np.flatnonzero(upper > lower + 1)  # ties with several ranks
    if len(wide):
        tied[wide] = -below[wide]
        for each in _stretches(rank[points], size, upto[wide], upper[wide]):
            if not each.last:
                tied[wide[each.asking]] += _sums(each, here)
    running = np.concatenate(([0.0], np.cumsum(here)))
    every, many = running[upto], upto.astype(np.int64)
    if len(start):
        below -= running[start]
        every -= running[start]
        many -= start
    credit[queries] += sign * (below + 0.5 * tied)
    total[queries] += sign * every
    if len(pairs):
        pairs[queries] += sign * many
    asked = weights[queries]
    sums += sign * np.array([(asked * each).sum() for each in (below, tied, every)])
    return int(many.sum())


@dataclass(frozen=True)
class Stretch:
    """What queries take from one bit of the ranks: the points of a stretch [begin, end) of a list."""

    points: Places  # places in the sweep's list of points: whose bit is 0, or on the `last` list all, by rank
    asking: Ints  # queries whose bit is 1; on the last list all of them
    begin: Places
    end: Places
    last: bool  # what is left has the very rank that was asked for


def _stretches(rank: Places, size: int, upto: Places, bound: Places, named: bool = True) -> Iterator[Stretch]:
    """The points before `upto` whose rank is below `bound`, split by the highest bit in which rank and bound differ.

    Bit by bit the points are parted, zeros before ones, each part in its old order; those that still agree with a
    query stay one stretch, which is followed from bit to bit. `named` False leaves out which points they are.
    """
    points = np.arange(len(rank) if named else 0, dtype=np.int32)
    begin, end = np.zeros(len(upto), np.int32), upto
    before = np.zeros(len(rank) + 1, np.int32)
    for bit in range(int(size).bit_length() - 1, -1, -1):  # a bound may be `size` itself
        zero = rank & (1 << bit) == 0
        np.cumsum(zero, out=before[1:])
        zeros, many = points[zero] if named else points, int(before[-1])
        left, right = before[begin], before[end]
        one = bound & (1 << bit) != 0
        asking = np.flatnonzero(one)
        yield Stretch(zeros, asking, left[asking], right[asking], False)
        begin = np.where(one, begin + many - left, left)
        end = np.where(one, end + many - right, right)
        points = np.concatenate((zeros, points[~zero])) if named else points
        rank = np.concatenate((rank[zero], rank[~zero]))
    yield Stretch(points, np.arange(len(upto)), begin, end, True)


def _sums(stretch: Stretch, values: Floats) -> Floats:
    running = np.concatenate(([0.0], np.cumsum(values[stretch.points])))
    return np.asarray(running[stretch.end] - running[stretch.begin], np.float64)


# Resamples


def draw(seed: int, resample: int, clusters: int) -> Floats:
    """(clusters,) how often each is drawn, in `clusters` draws with replacement.

    Draw k is the k-th number of SplitMix64 started at a hash of (seed, resample): each resample is what it is, whoever
    computes it and in whatever company.
    """
    golden, word = 0x9E3779B97F4A7C15, 2**64 - 1
    start = int(_mixed(np.array([seed + golden & word], np.uint64))[0])
    state = int(_mixed(np.array([start + resample * golden & word], np.uint64))[0])
    steps = np.uint64(state) + np.arange(1, clusters + 1, dtype=np.uint64) * np.uint64(golden)
    share = (_mixed(steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.bincount((share * clusters).astype(np.int64), minlength=clusters).astype(np.float64)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def resample(
    sweeps: "Sequence[Sweep]", cluster: Ints, clusters: int, values: Floats, weights: Floats, seed: int, part: range
) -> Floats:
    """(resamples of `part`, 3) credit, total and number of pairs."""
    found = np.zeros((len(part), 3))
    taken = [(each.sign, _Taken(each)) for each in sweeps]
    for place, number in enumerate(part):
        drawn = draw(seed, number, clusters)[cluster]
        for sign, each in taken:
            found[place] += sign * each.sums(drawn * values, drawn * weights, drawn > 0)
    return found


class _Taken:
    """All stretches of a sweep, one after another: only the values on them change from resample to resample."""

    def __init__(self, sweep: "Sweep") -> None:
        ranks, self.sweep = sweep.ranks, sweep
        own, rank = ranks.rank[sweep.queries], ranks.rank[sweep.points]
        lower, upper = (ranks.low[own], ranks.high[own]) if len(ranks.low) else (own, own + 1)
        wide = upper > lower + 1
        points: list[Places] = []
        takes: list[tuple[Places, Places, Places, Floats]] = []  # query, begin, end, share
        offset = 0
        # half of what lies below `lower` and half of what lies below `upper`; the last list has what lies between
        for bound, chosen in ((lower, np.arange(len(lower))), (upper, np.flatnonzero(wide))):
            for each in _stretches(rank, ranks.size, sweep.upto[chosen], bound[chosen]):
                asking = chosen[each.asking]
                share = np.where(wide[asking], 0.0 if each.last else 0.5, 0.5 if each.last else 1.0)
                points.append(sweep.points[each.points])
                takes.append((sweep.queries[asking], each.begin + offset, each.end + offset, share))
                offset += len(each.points)
        query, begin, end, self.share = (np.concatenate(part) for part in zip(*takes, strict=True))
        # NumPy gathers twice as fast by its own kind of index
        self.points, self.query = np.concatenate(points).astype(np.intp), query.astype(np.intp)
        self.begin, self.end = begin.astype(np.intp), end.astype(np.intp)
        self.start = sweep.start if len(sweep.start) else np.zeros(len(sweep.queries), np.int32)

    def sums(self, values: Floats, weights: Floats, present: Flags) -> Floats:
        """(3,) of one resample; (n,) values of points, weights of queries, and who is there."""
        sweep = self.sweep
        running = np.zeros(len(self.points) + 1)
        np.cumsum(values[self.points], out=running[1:])
        credit = ((running[self.end] - running[self.begin]) * self.share * weights[self.query]).sum()
        asked = weights[sweep.queries]
        running = np.concatenate(([0.0], np.cumsum(values[sweep.points])))
        begin, end = running[self.start], running[sweep.upto]
        there = np.concatenate(([0], np.cumsum(present[sweep.points])))
        pairs = (present[sweep.queries] * (there[sweep.upto] - there[self.start])).sum()
        return np.array([credit - (asked * begin).sum(), (asked * (end - begin)).sum(), pairs])
