"""The same bytes twice are not two photos. N = photos."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from fahr.biomarkers.deviation import Flags, check_shape
from fahr.errors import Refused
from fahr.survival.people import Ints


def read_digests(name: str, digests: ArrayLike | None, rows: int) -> Ints:
    """(rows,) numbers from 0; -1 where unknown (None), as all are where there are none."""
    if digests is None:
        return np.full(rows, -1)
    column: Any = digests
    try:
        if not isinstance(column, pa.Array | pa.ChunkedArray):
            column = pa.array(np.asarray(digests), from_pandas=True)
        check_shape(name, np.empty(len(column)), rows)
        if pa.types.is_null(column.type):
            return np.full(rows, -1)
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        indices = whole.dictionary_encode().indices
    except pa.ArrowException as error:
        raise Refused(f"{name}: mixes kinds of names ({error}). Make them all text.") from error
    return np.asarray(indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def counted_photos(person: Ints, day: Ints, source: Ints) -> Flags:
    """(N,) whether a photo has a say. `source`: of `read_digests`; where the bytes are unknown, it has.

    Of copies on one day of a person the first counts. Copies on several days have no day that can be believed: none
    of them counts.
    """
    counts = np.ones(len(person), bool)
    known = np.flatnonzero(source >= 0)
    if not len(known):
        return counts
    rows = known[np.lexsort((known, day[known], source[known], person[known]))]
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(source[rows]) != 0) | (np.diff(person[rows]) != 0)
    start = np.flatnonzero(new)
    end = np.r_[start[1:], len(rows)] - 1
    one_day = day[rows[start]] == day[rows[end]]
    counts[rows] = new & one_day[np.cumsum(new) - 1]
    return counts
