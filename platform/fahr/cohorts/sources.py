"""Manifest files as batches of untouched cells, each with the row number that a spreadsheet would show.

A CSV is read as text only; what a cell means is decided later, by the column it is in. A source can be read again.
"""

import csv
import io
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from fahr import store
from fahr.cohorts.mapping import ColumnMapping
from fahr.cohorts.problems import Collector, Rule, refusal
from fahr.cohorts.text import CheckedText

_BLOCK = 1 << 20  # bytes of CSV parsed at a time; no row may be longer. Arrow holds dozens of blocks ahead
_PARQUET_ROWS = 65_536  # rows of Parquet decoded at a time
_HEADER = 1 << 20  # bytes in which the header must end


@dataclass(frozen=True)
class Batch:
    """Some records of one file. `start` counts records over all files from 0, `rows` are spreadsheet rows."""

    file: str
    start: int
    rows: np.ndarray
    cells: pa.RecordBatch


class Source(Protocol):
    """One manifest, readable from its start as often as needed."""

    location: str
    names: list[str]
    num_bytes: int
    done: float  # fraction of the bytes that the current reading has behind it

    def batches(self, problems: Collector) -> Iterator[Batch]: ...


def open_source(path: str | os.PathLike[str], mapping: ColumnMapping) -> Source:
    """The CSV file, Parquet file or folder of Parquet shards at `path`."""
    location = store.absolute(path)
    ending = location.rpartition("/")[2].rpartition(".")[2].lower()
    try:
        if ending == "csv":
            return CsvSource(location, mapping)
        if store.exists(location):
            if ending == "parquet":
                return ParquetSource(location, [location])
            raise refusal(
                location, f"a manifest ends in .csv or .parquet, not .{ending}", "Export or rename the table."
            )
        listed = [entry.location for entry in store.list_files(location)]
        shards = [each for each in listed if each.lower().endswith(".parquet")]
        if store.join(location, store.INDEX) in listed:  # our own shards: the index says which of them belong
            shards = [store.join(location, shard.name) for shard in store.list_shards(location)]
    except store.Missing as error:
        raise refusal(location, "no such file or folder", "Check the path of the manifest.") from error
    if not shards:
        raise refusal(location, "no .parquet file is in the folder", "Name the folder of the shards, or a file.")
    return ParquetSource(location, sorted(shards))


class CsvSource:
    """Cells are text and nothing is trimmed or guessed. A row with too few or too many cells is collected, not read."""

    def __init__(self, location: str, mapping: ColumnMapping) -> None:
        self.location = location
        self.done = 0.0
        self._mapping = mapping
        with store.open_input(location) as file:
            self.num_bytes = _size(file)
            self.names = self._header(CheckedText(file, location, mapping.encoding).read(_HEADER))

    def _header(self, head: bytes) -> list[str]:
        if not head.strip():
            raise refusal(self.location, "the file is empty", "Write a header row and a row a photo.")
        text = head.decode("utf-8", "ignore")
        try:
            names = next(csv.reader(io.StringIO(text, newline=""), delimiter=self._mapping.separator))
        except csv.Error as error:
            raise refusal(
                self.location, f"the header cannot be read ({error})", "Write column names, row 1."
            ) from error
        if not names:
            raise refusal(self.location, "row 1 is blank", "Write the column names in the first row.")
        if len(names) == 1:
            for other, shown in ((",", ","), (";", ";"), ("\t", "\\t"), ("|", "|")):
                if other in names[0]:
                    raise refusal(
                        self.location,
                        f"the header {names[0][:60]!r} holds no {self._mapping.separator!r} to separate columns",
                        f'Save the table with commas, or give `separator: "{shown}"` in the column mapping.',
                    )
        return names

    def batches(self, problems: Collector) -> Iterator[Batch]:
        unread = array("q")  # rows that Arrow left out, ascending
        rule = Rule(
            None,
            f"every row must have the {len(self.names)} cells of the header",
            "Quote cells that hold the separator, a quote or a line break; write missing cells as empty ones.",
        )

        def leave_out(row: arrow_csv.InvalidRow) -> str:
            unread.append(row.number)
            problems.add(rule, self.location, row.number, row.text[:200], f"{row.actual_columns} cells")
            return "skip"

        start = raw = read_bytes = 0
        last: pa.RecordBatch | None = None
        with store.open_input(self.location) as file:
            text = CheckedText(file, self.location, self._mapping.encoding)
            try:
                for cells in self._reader(text, leave_out):
                    # Row i of those read stands as many rows lower as rows were left out before it.
                    index = np.arange(raw, raw + cells.num_rows) + 2
                    gaps = np.frombuffer(unread, np.int64).copy() if unread else np.zeros(0, np.int64)
                    rows = index + np.searchsorted(gaps - np.arange(len(gaps)), index, side="right")
                    raw += cells.num_rows
                    last = cells if cells.num_rows else last
                    # Arrow reads far ahead; what it has parsed is the text and a separator for each cell.
                    read_bytes += cells.nbytes - 3 * cells.num_rows * cells.num_columns
                    rows, cells = _without_blank_lines(rows, cells)
                    self.done = read_bytes / self.num_bytes
                    yield Batch(self.location, start, rows, cells)
                    start += cells.num_rows
            except pa.ArrowInvalid as error:
                raise refusal(
                    self.location,
                    f"not readable as CSV after row {raw + len(unread) + 1:,} ({' '.join(str(error).split())[:120]})",
                    f"Look for a quote that is opened and not closed, or a row longer than {_BLOCK >> 20} MB.",
                ) from error

            # Arrow takes what follows a quote that is never closed for one cell, and says nothing. Where the file ends
            # with a cell with line breaks, only more of these may follow the quote that closes it.
            if last is not None and "\n" in last.columns[-1][-1].as_py() and not text.end.rstrip().endswith(b'"'):
                raise refusal(
                    self.location,
                    f"row {raw + len(unread) + 1:,} opens a quote that is never closed",
                    "Close it, or double the quotes inside cells.",
                )

    def _reader(self, text: CheckedText, leave_out: Any) -> Any:
        names = [str(position) for position in range(len(self.names))]  # by position: the header may repeat a name
        return arrow_csv.open_csv(
            pa.PythonFile(text, mode="r"),
            # One thread: with more, Arrow no longer knows the number of a broken row.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK, column_names=names, skip_rows_after_names=1
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self._mapping.separator,
                newlines_in_values=True,
                ignore_empty_lines=False,  # they would shift the row numbers
                invalid_row_handler=leave_out,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
            ),
        )


def _without_blank_lines(rows: np.ndarray, cells: pa.RecordBatch) -> tuple[np.ndarray, pa.RecordBatch]:
    """A row without a single filled cell is no record: spreadsheets leave such lines at the end of a table."""
    blank = np.ones(cells.num_rows, bool)
    for column in cells.columns:
        blank &= pc.equal(column, "").to_numpy(zero_copy_only=False)
        if not blank.any():
            return rows, cells
    return rows[~blank], cells.filter(pa.array(~blank))


class ParquetSource:
    """One Parquet file, or shards in the order of their names; all have the same columns."""

    def __init__(self, location: str, shards: list[str]) -> None:
        self.location = location
        self.done = 0.0
        self._shards = shards
        with store.open_input(shards[0]) as file:
            self.num_bytes = _size(file) * len(shards)  # an estimate, for the progress bar
            self._schema = _parquet(shards[0], file).schema_arrow
        self.names = list(self._schema.names)

    def batches(self, problems: Collector) -> Iterator[Batch]:
        start = 0
        for number, shard in enumerate(self._shards):
            with store.open_input(shard) as file:
                parquet = _parquet(shard, file)
                self._check_schema(shard, parquet.schema_arrow)
                first = start
                try:
                    for cells in parquet.iter_batches(_PARQUET_ROWS, use_threads=False):
                        cells.validate(full=True)  # text that is not UTF-8 would fail later, and less clearly
                        rows = np.arange(start - first, start - first + cells.num_rows) + 2
                        yield Batch(shard, start, rows, cells)
                        start += cells.num_rows
                        inside = (start - first) / parquet.metadata.num_rows
                        self.done = (number + inside) / len(self._shards)
                except (pa.ArrowInvalid, OSError) as error:
                    raise _damaged(shard, error) from error

    def _check_schema(self, shard: str, schema: pa.Schema) -> None:
        if schema.equals(self._schema, check_metadata=False):
            return
        ours, theirs = set(self._schema), set(schema)
        fields = sorted({field.name for field in ours ^ theirs}) or ["their order"]
        raise refusal(
            shard,
            f"its columns differ from those of {self._shards[0].rpartition('/')[2]} ({', '.join(fields)[:200]})",
            "Write all shards of a manifest with the same columns and types.",
        )


def _size(file: Any) -> int:
    file.seek(0, io.SEEK_END)
    size = int(file.tell())
    file.seek(0)
    return size


def _parquet(location: str, file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(location, error) from error


def _damaged(location: str, error: Exception) -> Exception:
    reason = " ".join(str(error).split())[:120]
    return refusal(location, f"not a readable Parquet file ({reason})", "Write it again, or name a .csv file .csv.")
