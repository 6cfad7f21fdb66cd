"""The walks along sorted lists, compiled: a Fenwick tree of weights by rank of risk. Imported only where numba is.

Machine code is kept on disk (NUMBA_CACHE_DIR, else beside this file); the first call on a new machine compiles.
n = rows, P = points, Q = queries, U = ranks, m = clusters, L = LANES resamples at a time.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from fahr.survival.people import Flags, Floats, Ints

if TYPE_CHECKING:
    from fahr.survival.pairs import Sweep

Places = NDArray[np.int32]
Keys = NDArray[np.uint64]

LANES = 8  # resamples that share one walk: eight float64 fill a line of the cache
DIGIT_BITS, DIGITS = 11, 6  # of a 64-bit key

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder in which the machine code could be kept: it is compiled once a process then
        return numba.njit(nogil=True)(function)


@compiled
def _sort(keys: Keys) -> tuple[Keys, Places]:
    """The sorted keys and the rows they come from, digit by digit: a third of the time of a general sort."""
    rows = len(keys)
    mask = np.uint64((1 << DIGIT_BITS) - 1)
    starts = np.zeros((DIGITS, 1 << DIGIT_BITS), np.int64)
    for row in range(rows):
        for digit in range(DIGITS):
            starts[digit, (keys[row] >> np.uint64(digit * DIGIT_BITS)) & mask] += 1
    order, other_order = np.empty(rows, np.int32), np.empty(rows, np.int32)
    for row in range(rows):
        order[row] = row
    other = np.empty_like(keys)
    for digit in range(DIGITS):
        start, shift = starts[digit], np.uint64(digit * DIGIT_BITS)
        if start.max() == rows:  # the same digit everywhere
            continue
        place = 0
        for value in range(1 << DIGIT_BITS):
            many = start[value]
            start[value] = place
            place += many
        for row in range(rows):
            value = (keys[row] >> shift) & mask
            place = start[value]
            start[value] = place + 1
            other[place] = keys[row]
            other_order[place] = order[row]
        keys, other = other, keys
        order, other_order = other_order, order
    return keys, order


@compiled
def sort_by_time(time: Floats, event: Flags) -> tuple[Places, Places, Places]:
    """(n,) rows by time, events first; by place, where the rows of the same time and outcome begin and end."""
    n = len(time)
    # The bits of floats that are not negative sort as the floats do, and leave room for the outcome.
    keys = (time + 0.0).view(np.uint64)  # -0.0 is 0
    for row in range(n):
        keys[row] = (keys[row] << np.uint64(1)) | np.uint64(not event[row])
    keys, order = _sort(keys)
    first, past = np.empty(n, np.int32), np.empty(n, np.int32)
    begin = 0
    for place in range(n):
        if keys[place] != keys[begin]:
            past[begin:place] = place
            begin = place
        first[place] = begin
    past[begin:] = n
    return order, first, past


@compiled
def rank_risks(risk: Floats) -> tuple[Places, Floats]:
    """(n,) ranks and (U,) the distinct risks, rising."""
    n = len(risk)
    sign = np.uint64(1) << np.uint64(63)
    keys = (risk + 0.0).view(np.uint64)
    for row in range(n):  # the bits of negative floats sort backwards
        keys[row] = ~keys[row] if keys[row] & sign else keys[row] | sign
    keys, order = _sort(keys)
    rank, distinct = np.empty(n, np.int32), np.empty(n)
    size = 0
    for place in range(n):
        if place == 0 or keys[place] != keys[place - 1]:
            distinct[size] = risk[order[place]]
            size += 1
        rank[order[place]] = size - 1
    return rank, distinct[:size]


@compiled
def walk(
    sign: int, rank: Places, size: int, low: Places, high: Places,
    points: Places, queries: Places, start: Places, upto: Places,
    values: Floats, weights: Floats, credit: Floats, total: Floats, pairs: Ints, sums: Floats,
) -> int:  # fmt: skip
    """Adds to `credit`, `total` (n,), `pairs` (n,) unless empty, and `sums` (3,) what one sweep counts."""
    tree = np.zeros(size + 1)
    running = np.zeros(len(points) + 1 if len(start) else 0)
    met, summed, number = 0, 0.0, 0
    sum_below, sum_tied, sum_all = 0.0, 0.0, 0.0
    for query in range(len(queries)):
        while met < upto[query]:
            point = points[met]
            value = values[point]
            node = np.int64(rank[point]) + 1
            while node <= size:
                tree[node] += value
                node += node & -node
            summed += value
            met += 1
            if len(start):
                running[met] = summed
        row = queries[query]
        lower = np.int64(rank[row])
        upper = lower + 1
        if len(low):
            lower, upper = np.int64(low[rank[row]]), np.int64(high[rank[row]])
        below = 0.0
        node = lower
        while node > 0:
            below += tree[node]
            node &= node - 1
        # From both ends down to where they meet: a narrow span of ties costs a step or two.
        tied = 0.0
        while upper > lower:
            tied += tree[upper]
            upper &= upper - 1
        while lower > upper:
            tied -= tree[lower]
            lower &= lower - 1
        every, many = summed, met
        if len(start):
            below -= running[start[query]]
            every -= running[start[query]]
            many -= start[query]
        credit[row] += sign * (below + 0.5 * tied)
        total[row] += sign * every
        if len(pairs):
            pairs[row] += sign * many
        number += many
        sum_below += weights[row] * below
        sum_tied += weights[row] * tied
        sum_all += weights[row] * every
    sums[0] += sign * sum_below
    sums[1] += sign * sum_tied
    sums[2] += sign * sum_all
    return number


# Resamples


@compiled
def mixed(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


@compiled
def _draw(seed: np.uint64, first: int, counts: Floats) -> None:
    """Fills `counts` (m, L) for resamples first, first + 1, ... by the rule of `plain.draw`."""
    clusters = counts.shape[0]
    counts[:] = 0.0
    for lane in range(LANES):
        state = mixed(mixed(seed + GOLDEN) + np.uint64(first + lane) * GOLDEN)
        for _ in range(clusters):
            state += GOLDEN
            share = np.float64(mixed(state) >> np.uint64(11)) * 2.0**-53
            counts[np.int64(share * clusters), lane] += 1.0


@compiled
def _add(tree: Floats, node: int, drawn: Floats) -> None:
    while node < len(tree):
        for lane in range(LANES):
            tree[node, lane] += drawn[lane]
        node += node & -node


@compiled
def _take(tree: Floats, node: int, stop: int, scale: float, below: Floats) -> int:
    """Adds what lies below `node`, down to the first node at or under `stop`, which it returns."""
    while node > stop:
        for lane in range(LANES):
            below[lane] += scale * tree[node, lane]
        node &= node - 1
    return node


@compiled
def _walk_lanes(
    sign: int, rank: Places, size: int, low: Places, high: Places,
    points: Places, queries: Places, start: Places, upto: Places,
    cluster: Ints, values: Floats, weights: Floats, counts: Floats, found: Floats,
) -> None:  # fmt: skip
    """Adds to `found` (3, L) credit, total, and how many pairs there are: of L resamples at once."""
    tree = np.zeros((size + 1, LANES))
    total, present = np.zeros(LANES), np.zeros(LANES)
    kept = len(points) + 1 if len(start) else 1
    totals, presents = np.zeros((kept, LANES)), np.zeros((kept, LANES))
    drawn, below = np.empty(LANES), np.empty(LANES)
    met = 0
    for query in range(len(queries)):
        while met < upto[query]:
            point = points[met]
            own, value = cluster[point], values[point]
            for lane in range(LANES):
                drawn[lane] = counts[own, lane] * value
                total[lane] += drawn[lane]
                present[lane] += min(counts[own, lane], 1.0)
            _add(tree, np.int64(rank[point]) + 1, drawn)
            met += 1
            if kept > 1:
                totals[met] = total
                presents[met] = present
        row = queries[query]
        lower = np.int64(rank[row])
        upper = lower + 1
        if len(low):
            lower, upper = np.int64(low[rank[row]]), np.int64(high[rank[row]])
        below[:] = 0.0
        upper = _take(tree, upper, lower, 0.5, below)  # the ties: half
        lower = _take(tree, lower, upper, 0.5, below)
        _take(tree, lower, 0, 1.0, below)
        own = cluster[row]
        scale, begin = sign * weights[row], start[query] if kept > 1 else 0
        for lane in range(LANES):
            many = counts[own, lane]
            found[0, lane] += scale * many * (below[lane] - totals[begin, lane])
            found[1, lane] += scale * many * (total[lane] - totals[begin, lane])
            found[2, lane] += sign * min(many, 1.0) * (present[lane] - presents[begin, lane])


def resample(
    sweeps: "Sequence[Sweep]", cluster: Ints, clusters: int, values: Floats, weights: Floats, seed: int, part: range
) -> Floats:
    """(resamples of `part`, 3) credit, total and number of pairs."""
    found = np.zeros((len(part), 3))
    counts = np.empty((clusters, LANES))
    for first in range(part.start, part.stop, LANES):
        _draw(np.uint64(seed), first, counts)
        lanes = np.zeros((3, LANES))
        for each in sweeps:
            ranks = each.ranks
            _walk_lanes(
                each.sign, ranks.rank, ranks.size, ranks.low, ranks.high,
                each.points, each.queries, each.start, each.upto,
                cluster, values, weights, counts, lanes,
            )  # fmt: skip
        done = min(LANES, part.stop - first)
        found[first - part.start :][:done] = lanes.T[:done]
    return found
