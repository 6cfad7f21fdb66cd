"""Draws and sums of eight resamples, compiled. Imported only where numba is; machine code is kept on disk.

m = people, E = entries, C = cells, K = columns, L = 8 resamples at a time.
"""

import numpy as np
from numpy.typing import NDArray

from fahr.survival.compiled import GOLDEN, compiled, mixed

BLOCK, LANES = 256, 8  # what is gathered for a block stays in the nearest cache


def draw(seed: int, first: int, counts: NDArray[np.uint8]) -> None:
    """As `resample_plain.draw`."""
    _draw(np.uint64(seed), first, counts)


@compiled
def _draw(seed: np.uint64, first: int, counts: NDArray[np.uint8]) -> None:
    people = counts.shape[0]
    lane_counts = np.empty(people, np.uint8)  # apart: a million bytes stay in the cache while they are drawn at random
    for lane in range(LANES):
        lane_counts[:] = 0
        state = mixed(mixed(seed + GOLDEN) + np.uint64(first + lane) * GOLDEN)
        for _ in range(people):
            state += GOLDEN
            share = np.float64(mixed(state) >> np.uint64(11)) * 2.0**-53
            lane_counts[np.int64(share * people)] += np.uint8(1)
        for person in range(people):
            counts[person, lane] = lane_counts[person]


@compiled
def add_up(
    person: NDArray[np.uint32], start: NDArray[np.int64], values: NDArray[np.float64], counts: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(C, K, L). Eight sums at a time in registers, whose order never changes."""
    columns = values.shape[0]
    found = np.zeros((len(start) - 1, columns, LANES))
    drawn = np.empty((BLOCK, LANES))
    for cell in range(len(start) - 1):
        begin = start[cell]
        while begin < start[cell + 1]:
            size = min(BLOCK, start[cell + 1] - begin)
            for place in range(size):
                own = person[begin + place]
                for lane in range(LANES):
                    drawn[place, lane] = counts[own, lane]
            for column in range(columns):
                sums = found[cell, column]
                s0, s1, s2, s3, s4, s5, s6, s7 = sums
                for place in range(size):
                    value = values[column, begin + place]
                    s0 += value * drawn[place, 0]
                    s1 += value * drawn[place, 1]
                    s2 += value * drawn[place, 2]
                    s3 += value * drawn[place, 3]
                    s4 += value * drawn[place, 4]
                    s5 += value * drawn[place, 5]
                    s6 += value * drawn[place, 6]
                    s7 += value * drawn[place, 7]
                sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7] = s0, s1, s2, s3, s4, s5, s6, s7
            begin += size
    return found
