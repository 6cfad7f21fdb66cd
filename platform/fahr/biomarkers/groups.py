"""Groups of people, the cells that they make, and which cells must not be shown.

factor = read_factor("sex", labels, rows)               # .code (N,), .labels; None = unknown, a cell of its own
both = cross(factor, other)                             # their pairs
hidden, safe = hide(members, lines, fewest=10)          # numbers of the cells to hide; whether that is enough
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from fahr.biomarkers.bands import union
from fahr.biomarkers.deviation import check_shape
from fahr.errors import Refused

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Factor:
    """Something that divides the photos into cells; only cells that somebody is in."""

    names: tuple[str, ...]  # one, or two of a pair
    code: Ints  # (N,) number of the cell, from 0
    labels: tuple[tuple[str | None, ...], ...]  # (C,) one label for each name; None = unknown


def read_factor(name: str, labels: ArrayLike, rows: int) -> Factor:
    """Labels of any one kind, None or NaN where unknown; cells in the order of the labels, unknown last."""
    raw = np.asarray(labels)
    check_shape(f"groups[{name!r}]", raw, rows)
    try:
        values = pa.array(raw, from_pandas=True)
    except pa.ArrowException as error:
        raise Refused(f"groups[{name!r}]: mixes kinds of labels ({error}). Make them all text.") from error
    # Where nothing is known there is no type either, and null would be coded as a label like any other.
    coded = (values.cast(pa.string()) if pa.types.is_null(values.type) else values).dictionary_encode()
    known: list[Any] = coded.dictionary.to_pylist()
    order = sorted(range(len(known)), key=lambda each: known[each])
    place = np.empty(len(known) + 1, np.int64)
    place[order] = np.arange(len(known))
    place[-1] = len(known)
    missing = coded.indices.is_null().to_numpy(zero_copy_only=False)
    code = place[np.where(missing, len(known), coded.indices.fill_null(0).to_numpy(zero_copy_only=False))]
    texts: list[tuple[str | None, ...]] = [(str(known[each]),) for each in order]
    return Factor((name,), code, tuple(texts + ([(None,)] if missing.any() else [])))


def cross(one: Factor, other: Factor) -> Factor:
    width = len(other.labels)
    both, code = np.unique(one.code * width + other.code, return_inverse=True)
    labels = tuple(one.labels[each // width] + other.labels[each % width] for each in both.tolist())
    return Factor(one.names + other.names, code.astype(np.int64), labels)


def hide(
    members: Sequence[NDArray[np.uint32]], lines: Sequence[Sequence[int]], fewest: int, hidden: Sequence[int] = ()
) -> tuple[set[int], bool]:
    """The cells with too few people, those in `hidden`, and those without which the former could be worked out.

    members: who is in each cell. lines: cells of which a total is shown elsewhere (the sample's, or that of one sex).
    What is hidden of a line must together be `fewest` people at least. And no cell with too few may follow from the
    totals, which are a system of equations for the hidden cells. The smallest cell of an offended line goes next. Not
    safe: all are hidden, and the totals tell even so, to someone who knows that there are no other cells.
    """
    people = [len(each) for each in members]
    small = {number for number, size in enumerate(people) if size < fewest}
    gone = small | set(hidden)
    while offended := _offended(members, lines, fewest, gone, small):
        left = [number for line in offended for number in line if number not in gone]
        left = left or [number for number in range(len(people)) if number not in gone]
        if not left:
            return gone, False
        gone.add(min(left, key=lambda number: (people[number], number)))
    return gone, True


def _offended(
    members: Sequence[NDArray[np.uint32]], lines: Sequence[Sequence[int]], fewest: int, gone: set[int], small: set[int]
) -> list[Sequence[int]]:
    """The lines that tell too much."""
    for line in lines:
        within = [number for number in line if number in gone]
        if within and union(members, within) < fewest:
            return [line]
    unknown = sorted(gone)
    if not small:
        return []
    system = np.array([[number in line for number in unknown] for line in lines], float)
    determined = _determined(system)
    for place, number in enumerate(unknown):
        if number in small and determined[place]:
            return [line for line in lines if number in line]
    return []


def _determined(system: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(unknowns,) which of them the equations fix: those whose axis lies in the space of the rows."""
    _, sizes, rows = np.linalg.svd(system, full_matrices=False)
    rows = rows[sizes > 1e-9 * sizes.max()]
    return np.asarray((rows**2).sum(0) > 1 - 1e-9)
