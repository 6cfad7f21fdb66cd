"""Writing a manifest, or any table of that shape: CSV or Parquet by the name's ending, whole or not at all."""

import itertools
import json
import os
from collections.abc import Callable, Iterable
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from fahr import store
from fahr.cohorts.schema import CANONICAL
from fahr.errors import Refused


def write_manifest(
    tables: pa.Table | Iterable[pa.Table], location: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write one table, or tables with the same columns as they come; `read_manifest` gives back equal ones.

    `metadata` goes into the Parquet schema; a CSV has no place for it. A CSV has no types either: there a text column
    that holds numbers only is read back as numbers.
    """
    where = store.absolute(location)
    pieces = iter([tables] if isinstance(tables, pa.Table) else tables)
    first = next(pieces, None)
    if first is None:
        raise Refused(f"{where}: there is no table to write. Give at least one, if only with its columns.")
    pieces = itertools.chain([first], pieces)
    if where.lower().endswith(".parquet"):
        schema = first.schema.with_metadata(metadata)
        with store.atomic_writer(where) as file, pq.ParquetWriter(file, schema, compression="zstd") as parquet:
            for table in pieces:
                parquet.write_table(table.replace_schema_metadata(metadata))
    elif not where.lower().endswith(".csv"):
        raise Refused(f"{where}: a manifest ends in .csv or .parquet. Choose one of these names.")
    elif metadata:
        raise Refused(f"{where}: a CSV has no place for metadata. Write a .parquet file.")
    else:
        with store.atomic_writer(where) as file:
            _write_csv(file, pieces, first.schema)


def _write_csv(file: IO[bytes], tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    texts = pa.schema([(field.name, field.type if _is_plain(field) else pa.string()) for field in schema])
    options = arrow_csv.WriteOptions(quoting_style="needed", quoting_header="needed")
    with arrow_csv.CSVWriter(file, texts, write_options=options) as writer:
        for table in tables:
            if not table.schema.equals(schema, check_metadata=False):
                raise ValueError(f"the tables of a manifest must be alike: {schema.names}, then {table.schema.names}")
            columns = [table.column(field.name) for field in schema]
            columns = [c if _is_plain(f) else _as_text(f.name, c) for f, c in zip(schema, columns, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=texts))


def _is_plain(field: pa.Field) -> bool:
    """Types that Arrow writes as they are read back. It writes 1.0 as 1, which only a column of ours outlives."""
    known = pa.types.is_floating(field.type) and field.name in CANONICAL.names
    return bool(known or pa.types.is_integer(field.type) or pa.types.is_date32(field.type) or field.type == pa.string())


def _as_text(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):  # repr keeps the point of 1.0
        return _texts(repr, column)
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return _texts(json.dumps, column)
    try:
        return pc.cast(column, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(f"column {name!r} of type {column.type} has no text form. Write a .parquet file.") from error


def _texts(write: Callable[[Any], str], column: pa.ChunkedArray) -> pa.ChunkedArray:
    values = column.to_pylist()
    return pa.chunked_array([pa.array([None if value is None else write(value) for value in values], pa.string())])
