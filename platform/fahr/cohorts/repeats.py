"""Which rows say the same thing, among ten million, at 8 bytes a row: by 64-bit hashes, which the caller confirms."""

import numpy as np
import pyarrow as pa

CONFIRMED = (
    1_000  # repeated rows that are looked at again; beyond them the hash is believed (10 M rows: one chance in 400,000)
)


class Hashes:
    """A 64-bit hash of each text in a growing column. A null is unlike everything, also unlike another null."""

    def __init__(self) -> None:
        self._pieces: list[np.ndarray] = []
        self._length = 0

    def add(self, texts: pa.Array) -> None:
        # Python's own string hash: keyed anew in every process, so no table can be made to collide on purpose.
        hashes = np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))
        for index in np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False)) if texts.null_count else ():
            hashes[index] = hash((self._length + int(index),))
        self._pieces.append(hashes)
        self._length += len(texts)

    def take(self) -> np.ndarray:
        """All hashes as one array; the object is empty afterwards."""
        hashes = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int64)
        self._pieces.clear()
        return hashes


def repeated(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the later rows of each repeated hash, ascending, and for each the first row with that hash."""
    ascending = np.sort(hashes)
    if not (ascending[1:] == ascending[:-1]).any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    del ascending
    order, first = _groups(hashes)
    return _in_file_order(order[order != first], first[order != first])


def conflicting(hashes: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of rows whose code (0 to 3) differs from that of the first row with their hash, and that first row."""
    both = np.sort((hashes << 2) | codes)  # two bits of the hash given up, so that sorting 8 bytes a row is enough
    differing = both[1:] ^ both[:-1]
    if not ((differing > 0) & (differing < 4)).any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    del both, differing
    order, first = _groups(hashes)
    differs = codes[order] != codes[first]
    return _in_file_order(order[differs], first[differs])


def _groups(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row indices sorted by hash, and beside each the lowest row index of that hash."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[:1]] ^ 1) != 0)
    return order, np.repeat(order[starts], np.diff(starts, append=len(order)))


def _in_file_order(later: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ascending = np.argsort(later)
    return later[ascending], first[ascending]
