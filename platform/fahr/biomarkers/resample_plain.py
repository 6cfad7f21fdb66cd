"""Draws and sums of eight resamples in NumPy, for machines without numba: the same functions as `resample_compiled`.

m = people, E = entries, C = cells, K = columns, L = resamples at a time.
"""

import numpy as np
from numpy.typing import NDArray

from fahr.survival import plain

BLOCK = 1024  # entries: what is gathered stays in the cache, and no BLAS divides so small a product among threads


def draw(seed: int, first: int, counts: NDArray[np.uint8]) -> None:
    """Fills `counts` (m, L): how often each person is drawn in resamples first, first + 1, ...

    A byte is enough: that one of m people is drawn 256 times in m draws happens less than once in 10^490 resamples.
    """
    for lane in range(counts.shape[1]):
        counts[:, lane] = plain.draw(seed, first + lane, len(counts))


def add_up(
    person: NDArray[np.uint32], start: NDArray[np.int64], values: NDArray[np.float64], counts: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(C, K, L)"""
    found = np.zeros((len(start) - 1, len(values), counts.shape[1]))
    for cell in range(len(found)):
        for begin in range(start[cell], start[cell + 1], BLOCK):
            block = slice(begin, min(begin + BLOCK, start[cell + 1]))
            found[cell] += values[:, block] @ counts[person[block]].astype(np.float64)
    return found
