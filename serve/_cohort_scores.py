"""The scores of a cohort as the bytes of one file, while it is made: any number of rows in little memory.

media_type, encode = FORMS["csv"]
for piece in encode(cohort.scores()): ...       # the bytes of scores.csv, as jobs/score.py would write it
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fahr.scores import tables

_ROWS = 65_536  # of a row group, and of a piece of CSV


def _joined(scores: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of some size."""
    held: list[pa.Table] = []
    rows = 0
    for table in scores:
        held.append(table)
        rows += table.num_rows
        if rows >= _ROWS:
            yield pa.concat_tables(held, promote_options="permissive")
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held, promote_options="permissive")


def _csv(scores: Iterator[pa.Table]) -> Iterator[bytes]:
    """The bytes of scores.csv."""
    for number, table in enumerate(_joined(scores)):
        piece = io.BytesIO()
        pa.csv.write_csv(tables.flat(table), piece, pa.csv.WriteOptions(include_header=not number))
        yield piece.getvalue()


def _parquet(scores: Iterator[pa.Table]) -> Iterator[bytes]:
    """One file, a row group a table, as it is written."""
    parts = _joined(scores)
    first = next(parts)
    sink = _Sink()
    with pq.ParquetWriter(sink, first.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(first)
        yield sink.take()
        for table in parts:
            writer.write_table(table.cast(first.schema))
            yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """What was written since it was last taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._written += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


FORMS: dict[str, tuple[str, Callable[[Iterator[pa.Table]], Iterator[bytes]]]] = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "parquet": ("application/vnd.apache.parquet", _parquet),
}
