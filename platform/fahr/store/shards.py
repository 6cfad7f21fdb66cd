"""Parquet that a bucket likes: shards of a few hundred megabytes, bounded row groups, a checksum on every page.

A set of shards is complete when its index file is there; readers trust that file, not the listing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fahr.errors import Refused
from fahr.store.failures import Corrupt, Missing
from fahr.store.files import atomic_writer, delete, open_input, read_bytes, write_bytes
from fahr.store.ledger import LedgerError
from fahr.store.locations import join

SHARD_BYTES = 256 << 20  # between 128 and 512 MiB: few objects to list, small enough to read again after a failure
ROW_GROUP_BYTES = 32 << 20  # what a reader holds at once, before compression
INDEX = "shards.json"


def write_parquet(
    file: IO[bytes],
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    metadata: Mapping[str, str] | None = None,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> int:
    """One Parquet file from a stream of tables; returns its rows. `metadata` joins the schema's own."""
    return _write_groups(file, _row_groups(tables, row_group_bytes), _with(schema, metadata))


def _with(schema: pa.Schema, metadata: Mapping[str, str] | None) -> pa.Schema:
    merged = {**(schema.metadata or {}), **{key.encode(): value.encode() for key, value in (metadata or {}).items()}}
    return schema.with_metadata(merged or None)


def _write_groups(file: IO[bytes], groups: Iterable[pa.Table], schema: pa.Schema, stop_bytes: int | None = None) -> int:
    """Each table as one row group. Once the file has `stop_bytes`, the rest of `groups` is left unread."""
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        for group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(1, group.num_rows))
            rows += group.num_rows
            if stop_bytes is not None and file.tell() >= stop_bytes:
                break
    return rows


def _row_groups(tables: Iterable[pa.Table], limit: int) -> Iterator[pa.Table]:
    """Tables joined and cut so that each holds at most about `limit` bytes, and at least one row."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        start = 0
        rows_at_once = max(1, int(limit * table.num_rows / max(1, table.nbytes)))
        while start < table.num_rows:
            piece = table.slice(start, rows_at_once)
            if held and size + piece.nbytes > limit:
                yield pa.concat_tables(held)
                held, size = [], 0
            held.append(piece)
            size += piece.nbytes
            start += piece.num_rows
    if held:
        yield pa.concat_tables(held)


def read_parquet(location: str, columns: list[str] | None = None, rows: int = 65_536) -> Iterator[pa.Table]:
    """The rows of one Parquet file, streaming, every page's checksum verified."""
    with open_input(location) as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            for batch in parquet.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            raise Refused(f"{location}: not a Parquet file ({_first_line(error)}). Name a .parquet file.") from error
        except OSError as error:
            if "CRC" in str(error) or "checksum" in str(error).lower() or "Corrupt" in str(error):
                raise Corrupt(f"{location}: damaged ({_first_line(error)}). Restore it or make it anew.") from error
            raise


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


@dataclass(frozen=True)
class Shard:
    """One file of a set."""

    name: str
    rows: int
    size: int  # bytes
    sha256: str


def write_shards(
    folder: str,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> list[Shard]:
    """A stream of tables as shards of about `shard_bytes`, then their index: without it there is no set."""
    schema = _with(schema, metadata)
    delete(join(folder, INDEX))  # a rewrite that is killed must not look like the set of before
    read = _Counted(tables)
    stream = _Stream(_row_groups(read, row_group_bytes))
    shards: list[Shard] = []
    while not stream.ended or not shards:
        name = f"part-{len(shards):05d}.parquet"
        with atomic_writer(join(folder, name)) as file:
            rows = _write_groups(file, stream, schema, shard_bytes)
            size = file.tell()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        shards.append(Shard(name, rows, size, sha256))
    written = sum(shard.rows for shard in shards)
    if written != read.rows:
        raise LedgerError(f"{folder}: {read.rows:,} rows came, {written:,} were written. Please report this.")
    write_bytes(join(folder, INDEX), json.dumps({"shards": [asdict(shard) for shard in shards]}, indent=1).encode())
    return shards


class _Counted:
    """A stream of tables that knows how many rows passed."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables, self.rows = tables, 0

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self._tables:
            self.rows += table.num_rows
            yield table


class _Stream:
    """An iterator that several writers take from in turn, and that knows whether anything is left."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._next: Any = next(tables, None)

    @property
    def ended(self) -> bool:
        return self._next is None

    def __iter__(self) -> Iterator[pa.Table]:
        while self._next is not None:
            now, self._next = self._next, next(self._tables, None)
            yield now


def list_shards(folder: str) -> list[Shard]:
    """The shards that the set's index names."""
    try:
        return [Shard(**each) for each in json.loads(read_bytes(join(folder, INDEX)))["shards"]]
    except Missing as error:
        raise Missing(f"{folder}: holds no {INDEX}: no shards, or their writing never ended. Run it again.") from error


def read_shards(folder: str, columns: list[str] | None = None, rows: int = 65_536) -> Iterator[pa.Table]:
    """All rows of a complete set, in order; a shard that does not hold the rows its index counts is refused."""
    for shard in list_shards(folder):
        seen = 0
        for table in read_parquet(join(folder, shard.name), columns, rows):
            seen += table.num_rows
            yield table
        if seen != shard.rows:
            raise Corrupt(
                f"{join(folder, shard.name)}: holds {seen:,} rows, its index counts {shard.rows:,}. Make it anew."
            )
