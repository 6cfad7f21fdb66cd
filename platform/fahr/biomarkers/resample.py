"""Sums over rows, and the same sums over resamples of the people. Exact: a person drawn twice counts twice.

layer = make_layer(cell, person, columns)               # cell (N,), person (N,): numbers from 0; columns (K, N)
layer.totals()                                          # (C, K)
resample([layer], people=m, samples=1000, seed=0)       # for each layer (samples, C, K)

How it is fast: what a person adds to a cell is summed once (an entry); a resample then is counts x entries. The counts
of eight resamples are drawn at a time, one byte each, so that those of a million people stay in the cache, and every
layer is added up from them. Compiled by numba where it is there, else NumPy (FAHR_NO_NUMBA=1 asks for that).
The same seed draws the same people whatever is summed, by the rule of `fahr.survival.plain.draw`; eight resamples are
never divided among threads, and each is summed in one order: the result does not depend on the number of threads.
N = rows, m = people, C = cells, K = columns, E = entries (person and cell).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from fahr.survival.engine import LANES, divided, either

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """The rows divided into cells; each cell has at least one."""

    person: NDArray[np.uint32]  # (E,) by cell, then by person
    start: Ints  # (C + 1,) where the entries of a cell begin
    values: Floats  # (K, E) what this person adds to this cell

    def totals(self) -> Floats:
        """(C, K)"""
        return np.asarray(np.add.reduceat(self.values, self.start[:-1], axis=1).T)

    def members(self) -> list[NDArray[np.uint32]]:
        """Who is in each cell."""
        return np.split(self.person, self.start[1:-1])


def make_layer(cell: Ints, person: Ints, columns: Floats) -> Layer:
    order = _by_cell_and_person(cell, person)
    cells, persons = cell[order], person[order]
    values = np.stack([column[order] for column in columns])
    new = np.ones(len(order), bool)
    new[1:] = (cells[1:] != cells[:-1]) | (persons[1:] != persons[:-1])
    first = np.flatnonzero(new)
    if len(first) < len(order):
        cells, persons, values = cells[first], persons[first], np.add.reduceat(values, first, axis=1)
    start = np.searchsorted(cells, np.arange(int(cells[-1]) + 2))
    return Layer(persons.astype(np.uint32), start.astype(np.int64), values)


def _by_cell_and_person(cell: Ints, person: Ints) -> Ints:
    """(N,) rows by cell, then by person. NumPy sorts numbers of 16 bits digit by digit, and others by comparison."""
    small = cell.astype(np.uint16) if int(cell.max()) < 2**16 else cell
    if bool((person[1:] >= person[:-1]).all()):
        return np.argsort(small, kind="stable")
    order = np.argsort(person, kind="stable")
    return order[np.argsort(small[order], kind="stable")]


def resample(
    layers: Sequence[Layer], *, people: int, samples: int, seed: int, threads: int | None = None
) -> list[Floats]:
    """For each layer (samples, C, K): `people` draws with replacement, each person with all of his or her rows."""
    sums = [np.empty((samples, len(each.start) - 1, len(each.values))) for each in layers]
    way = _way()

    def part(which: range) -> None:
        counts = np.empty((people, LANES), np.uint8)
        for first in range(which.start, which.stop, LANES):
            way.draw(seed, first, counts)
            done = min(LANES, which.stop - first)
            for layer, found in zip(layers, sums, strict=True):
                lanes = way.add_up(layer.person, layer.start, layer.values, counts)
                found[first : first + done] = lanes.transpose(2, 0, 1)[:done]

    divided(part, samples, threads)
    return sums


def _way() -> ModuleType:
    return either("fahr.biomarkers.resample_compiled", "fahr.biomarkers.resample_plain")
