"""Faces as plain pixels on the local disk: no decoding while training, 37.6 KB a face of 112 px instead of about 10.

name.u8    (N, S, S, 3) uint8, one face after the other, read through the page cache
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fahr.training.cache import cached

Pixels = NDArray[np.uint8]
_BLOCK = 1024  # faces decoded and written at once: 39 MB of them at 112 px


class Packed:
    """`faces` (N, S, S, 3), memory-mapped; `bad`: row -> why it did not decode (its pixels are black)."""

    def __init__(self, folder: str, name: str, num_rows: int, size: int, decode: Callable[[int, Pixels], str]) -> None:
        """`decode(row, out)` fills `out` (S, S, 3) and returns "", or why it can't. Called only if the file is new."""
        shape = (num_rows, size, size, 3)

        def make(file: IO[bytes]) -> dict[str, Any]:
            return {"shape": shape, "bad": _write(file, shape, decode)}

        made = cached(folder, f"{name}.u8", int(np.prod(shape)), make)
        self.bad: dict[int, str] = {int(row): why for row, why in made.facts["bad"].items()}
        self.faces: Pixels = np.memmap(made.path, np.uint8, "r", shape=shape)


def _write(file: IO[bytes], shape: tuple[int, ...], decode: Callable[[int, Pixels], str]) -> dict[int, str]:
    """Block by block through `write`: a full disk is an error there, and a killed process in a mapped file."""
    bad: dict[int, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, shape[0], _BLOCK):
            rows = range(start, min(start + _BLOCK, shape[0]))
            block = np.zeros((len(rows), *shape[1:]), np.uint8)
            for row, why in zip(rows, pool.map(decode, rows, block), strict=True):
                if why:
                    bad[row] = why
                    block[row - start] = 0
            file.write(block.data)
    return bad
