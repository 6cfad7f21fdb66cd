"""Work units with commit markers: the one exactly-once mechanism of all jobs.

    DIR/units/purpose.json          what this output is for: made once; another purpose is refused
    DIR/units/plan-000001.parquet   which row belongs to which unit: id, row digest, unit. Growth adds plan-000002, ...
    DIR/faces/UNIT-xxxx.parquet     what the unit made, named by its content, whole or not there
    DIR/units/done/UNIT.json        the marker, written last: names, digests and counts

Killed at any moment, the same line again does the units without a marker and no others. Plans are created only where
the name is free, so two runs can never put one row into two units. Readers trust marked units only.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.store.failures import Corrupt, Exists, Missing
from fahr.store.files import atomic_writer, create_bytes, delete, read_bytes
from fahr.store.ledger import Ledger, LedgerError, added
from fahr.store.listing import list_files
from fahr.store.locations import is_s3, join, name
from fahr.store.shards import read_parquet, write_parquet

_PLAN = pa.schema([("id", pa.string()), ("row", pa.uint64()), ("unit", pa.string())])
_READERS = 16


def row_digests(table: pa.Table) -> NDArray[np.uint64]:
    """A 64-bit digest of each row over all its columns, names included, in whatever order they stand.

    Cells are joined as `length:text`, nulls as `~`, so that no two different rows are joined to the same text.
    """
    names = sorted(table.column_names)
    joined = pc.binary_join_element_wise(*(_prefixed(table[name]) for name in names), "")
    key = hashlib.sha256(json.dumps(names).encode()).digest()
    digests = (hashlib.blake2b(row.encode(), digest_size=8, key=key).digest() for row in joined.to_pylist())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _prefixed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        texts = [
            None if cell is None else json.dumps(cell, sort_keys=True, default=repr) for cell in column.to_pylist()
        ]
        column = pa.chunked_array([pa.array(texts, pa.string())])
    text = column.cast(pa.string())
    length = pc.binary_length(text).cast(pa.string())
    return pc.fill_null(pc.binary_join_element_wise(length, text, ":"), "~")


def _unit_name(purpose: str, ids: pa.ChunkedArray, rows: NDArray[np.uint64]) -> str:
    """A unit's name says what it is made of: its purpose and its rows, ordered by id."""
    running = hashlib.sha256(purpose.encode())
    for each in ids.to_pylist():
        running.update(f"{len(each)}:{each}".encode())
    running.update(rows.astype("<u8").tobytes())
    return running.hexdigest()[:16]


def _cuts(groups: NDArray[Any], size: int) -> Iterator[tuple[int, int]]:
    """First row and the row after the last, of each piece of at most `size` rows of one group. `groups`: sorted."""
    edges = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), len(groups)]
    for first, last in pairwise(edges):
        for start in range(first, last, size):
            yield start, min(start + size, last)


@dataclass(frozen=True)
class Unit:
    """A committed unit, as its marker tells it."""

    name: str
    files: Mapping[str, Mapping[str, Any]]  # kind -> {"name", "rows", "bytes", "sha256"}
    ledger: Ledger


class WorkUnits:
    """The units of one output folder."""

    def __init__(self, folder: str, purpose: Mapping[str, Any], *, stage: str, id_column: str = "photo_id") -> None:
        """`purpose`: everything that decides the result (options, detector, ...), JSON-able. Refused if it changed."""
        self.folder, self.stage, self.id_column = folder, stage, id_column
        self._purpose = json.dumps({"stage": stage, **purpose}, sort_keys=True)
        self._claim()

    def _claim(self) -> None:
        location = join(self.folder, "units", "purpose.json")
        if create_bytes(location, self._purpose.encode()):
            return
        before, now = json.loads(read_bytes(location)), json.loads(self._purpose)
        changed = [
            f"{key}: {before.get(key)!r} before, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise Refused(
                f"{self.folder}: was made with other settings ({'; '.join(changed)}). "
                "Give another --output, or the settings of before."
            )

    # --- planning ---

    def assign(
        self, ids: pa.Array, rows: NDArray[np.uint64], rows_per_unit: int, groups: pa.Array | None = None
    ) -> list[str]:
        """The unit of each row, in the order given. Rows not seen before form new units.

        `groups`: a text a row; a unit holds rows of one group only, so that who reads a group's file reads it once.

        Refused: rows that changed, and rows of earlier runs that are gone, since what was made of them is here.
        """
        if rows_per_unit < 1:
            raise Refused(f"rows per unit {rows_per_unit}: at least 1.")
        ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        if pc.count_distinct(ids, mode="all").as_py() != len(ids):
            raise Refused(f"{self.stage}: an id stands in more than one row. Each {self.id_column} must be unique.")
        while True:
            plan, plans = self._read_plans()
            known = pc.index_in(plan["id"], value_set=ids)
            self._refuse_changes(plan, known, rows)
            new = np.ones(len(ids), dtype=bool)
            new[known.to_numpy()] = False
            if new.any() and not self._add_plan(plans + 1, ids, rows, new, (rows_per_unit, groups)):
                continue  # another run planned meanwhile: see what it left for us
            plan, _ = self._read_plans() if new.any() else (plan, plans)
            at = pc.index_in(ids, value_set=plan["id"])
            units: list[str] = plan["unit"].take(at).to_pylist()
            return units

    def _read_plans(self) -> tuple[pa.Table, int]:
        found = sorted(
            entry.location for entry in _list(join(self.folder, "units")) if name(entry.location).startswith("plan-")
        )
        tables = [table for location in found for table in read_parquet(location)]
        return pa.concat_tables([_PLAN.empty_table(), *tables]).combine_chunks(), len(found)

    def _refuse_changes(self, plan: pa.Table, known: pa.Array, rows: NDArray[np.uint64]) -> None:
        gone = plan["id"].filter(pc.is_null(known))
        if len(gone):
            raise Refused(
                f"{self.folder}: holds {len(gone):,} rows that the input no longer has (such as {gone[0].as_py()!r}). "
                "Give another --output for the smaller input."
            )
        if plan.num_rows:
            changed = plan["id"].filter(pa.array(plan["row"].to_numpy() != rows[known.to_numpy()]))
            if len(changed):
                raise Refused(
                    f"{self.folder}: {len(changed):,} rows of the input changed since they were done "
                    f"(such as {changed[0].as_py()!r}). Give another --output for the changed input."
                )

    def _add_plan(
        self,
        number: int,
        ids: pa.Array,
        rows: NDArray[np.uint64],
        new: NDArray[np.bool_],
        cutting: tuple[int, pa.Array | None],
    ) -> bool:
        """`cutting`: rows of a unit at most, and the groups."""
        size, groups = cutting
        group = pa.repeat(pa.scalar("", pa.string()), len(ids)) if groups is None else groups
        table = pa.table({"id": ids, "row": rows, "group": group}).filter(pa.array(new))
        table = table.sort_by([("group", "ascending"), ("id", "ascending")])
        units: list[str] = []
        for start, stop in _cuts(table["group"].to_numpy(), size):
            part = table.slice(start, stop - start)
            units += [_unit_name(self._purpose, part["id"], part["row"].to_numpy())] * part.num_rows
        planned = table.drop_columns("group").append_column("unit", pa.array(units, pa.string())).cast(_PLAN)
        try:
            with atomic_writer(join(self.folder, "units", f"plan-{number:06d}.parquet"), only_if_absent=True) as file:
                write_parquet(file, [planned], _PLAN)
        except Exists:
            return False
        return True

    # --- doing ---

    def done(self) -> set[str]:
        """The names of the units that have their marker."""
        return {name(location).removesuffix(".json") for location in _markers(self.folder)}

    def commit(self, unit: str, rows: pa.Table, outputs: Mapping[str, pa.Table], ledger: Ledger) -> Unit:
        """Write what was made of a unit whose input is `rows`, then its marker. Doing it twice changes nothing.

        `rows` must be the unit's, all of them; every id must come out exactly once, over all outputs; the ledger must
        balance: else nothing is written. Files are named by their content, so one that lost a race to the marker
        cannot overwrite the winner's.
        """
        self._check_complete(unit, rows, outputs, ledger.check())
        files = {kind: self._write(kind, unit, table) for kind, table in outputs.items()}
        marker = {
            "unit": unit,
            "files": files,
            "rows_in": ledger.rows_in,
            "rows_out": ledger.rows_out,
            "rejects": dict(ledger.rejects),
        }
        if create_bytes(self._marker(unit), json.dumps(marker, indent=1).encode()):
            return Unit(unit, files, ledger)
        winner = _read_marker(self._marker(unit), self.stage)
        for kind, file in files.items():
            if file["name"] != winner.files.get(kind, {}).get("name"):
                delete(join(self.folder, kind, str(file["name"])))
        return winner

    def _check_complete(self, unit: str, rows: pa.Table, outputs: Mapping[str, pa.Table], ledger: Ledger) -> None:
        ordered = rows.take(pc.sort_indices(rows[self.id_column]))
        if _unit_name(self._purpose, ordered[self.id_column], row_digests(ordered)) != unit:
            raise LedgerError(
                f"{self.stage}: these {rows.num_rows:,} rows are not those of unit {unit}. Please report this."
            )
        came = [each for table in outputs.values() for each in table[self.id_column].to_pylist()]
        went = rows[self.id_column].to_pylist()
        if sorted(came) != sorted(went) or ledger.rows_in != len(went):
            wrong = sorted((Counter(came) - Counter(went)) + (Counter(went) - Counter(came)))[:3]
            raise LedgerError(
                f"{self.stage}: unit {unit}: {len(went):,} rows in, {len(came):,} out, ledger {ledger.rows_in:,}; "
                f"lost, doubled or foreign ids such as {wrong}. Please report this."
            )

    def _write(self, kind: str, unit: str, table: pa.Table) -> dict[str, Any]:
        with tempfile.TemporaryFile() as made:
            write_parquet(made, [table], table.schema)
            size = made.tell()
            made.seek(0)
            sha256 = hashlib.file_digest(made, "sha256").hexdigest()
            made.seek(0)
            file_name = f"{unit}-{sha256[:8]}.parquet"
            with atomic_writer(join(self.folder, kind, file_name)) as file:
                shutil.copyfileobj(made, file, 1 << 20)
        return {"name": file_name, "rows": table.num_rows, "bytes": size, "sha256": sha256}

    def sweep(self) -> int:
        """Delete files of finished units that their markers do not name: left by runs that were killed or lost a race.

        After it, a plain listing of faces/*.parquet shows each row once. Returns how many were deleted.
        """
        named: dict[str, set[str]] = {}
        done: set[str] = set()
        for unit in self.committed():
            done.add(unit.name)
            for kind, file in unit.files.items():
                named.setdefault(kind, set()).add(str(file["name"]))
        stale = [
            entry.location
            for kind, names in named.items()
            for entry in _list(join(self.folder, kind))
            if name(entry.location) not in names and name(entry.location).partition("-")[0] in done
        ]
        for location in stale:
            delete(location)
        return len(stale)

    def _marker(self, unit: str) -> str:
        return join(self.folder, "units", "done", f"{unit}.json")

    # --- reading ---

    def committed(self) -> list[Unit]:
        return committed(self.folder, self.stage)

    def ledger(self) -> Ledger:
        """The sum over the committed units, each of which must hold the rows that its plan gave it."""
        planned = Counter(self._read_plans()[0]["unit"].to_pylist())
        units = self.committed()
        for unit in units:
            if unit.ledger.rows_in != planned[unit.name]:
                raise LedgerError(
                    f"{self.stage}: unit {unit.name} counts {unit.ledger.rows_in:,} rows, "
                    f"its plan {planned[unit.name]:,}. Please report this."
                )
        return added(self.stage, [unit.ledger for unit in units]).check()


def committed(folder: str, stage: str = "") -> list[Unit]:
    """The marked units of an output folder, by name."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda location: _read_marker(location, stage), _markers(folder)))


def _read_marker(location: str, stage: str) -> Unit:
    found = json.loads(read_bytes(location))
    return Unit(found["unit"], found["files"], Ledger(stage, found["rows_in"], found["rows_out"], found["rejects"]))


def _markers(folder: str) -> list[str]:
    found = (entry.location for entry in _list(join(folder, "units", "done")))
    return sorted(location for location in found if location.endswith(".json"))


def read_units(folder: str, kind: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """What the marked units made, one table a unit, each file's digest checked against its marker."""
    for unit in committed(folder):
        if kind in unit.files:
            yield read_unit(folder, kind, unit.files[kind]["name"], unit.files[kind]["sha256"], columns)


def read_unit(folder: str, kind: str, file: str, sha256: str, columns: list[str] | None = None) -> pa.Table:
    """One file that a unit made, by the name and the digest that its marker tells."""
    location = join(folder, kind, file)
    data = read_bytes(location)
    if hashlib.sha256(data).hexdigest() != sha256:
        marker = join(folder, "units", "done", f"{file.partition('-')[0]}.json")
        raise Corrupt(
            f"{location}: its content is not what its marker recorded. Delete {marker} and run the stage "
            "again: it makes this unit anew."
        )
    return pq.read_table(BytesIO(data), columns=columns)


def _list(folder: str) -> list[Any]:
    """The files of a folder that may not be there yet."""
    try:
        return list(list_files(folder))
    except Missing:
        if is_s3(folder):
            raise  # prefixes need no making: a missing bucket is the user's mistake
        return []
