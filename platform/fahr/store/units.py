"""Work units with commit markers: the one exactly-once mechanism of all jobs.

    DIR/units/purpose.json          what this output is for: made once; another purpose is refused
    DIR/units/plan-000001.parquet   which row belongs to which unit: id, row digest, unit. Growth adds plan-000002, ...
    DIR/faces/UNIT.parquet ...      what the unit made, each file whole or not there
    DIR/units/done/UNIT.json        the marker, written last: names, digests and counts

Killed at any moment, the same line again does the units without a marker and no others. Plans are created only where
the name is free, so two runs can never put one row into two units. Readers trust marked units only.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.store.failures import Corrupt, Exists, Missing
from fahr.store.files import atomic_writer, create_bytes, read_bytes
from fahr.store.ledger import Ledger, LedgerError, added
from fahr.store.listing import list_files
from fahr.store.locations import is_s3, join, name
from fahr.store.shards import read_parquet, write_parquet

_PLAN = pa.schema([("id", pa.string()), ("row", pa.uint64()), ("unit", pa.string())])
_READERS = 16


def row_digests(table: pa.Table) -> NDArray[np.uint64]:
    """A 64-bit digest of each row over all its columns, names included: a row that changed has another one."""
    columns = [pc.fill_null(_as_text(table[each]), "\0") for each in sorted(table.column_names)]
    salt = "\x1f".join(sorted(table.column_names)).encode()
    joined = pc.binary_join_element_wise(*columns, "\x1f")
    digests = (
        hashlib.blake2b(row.encode(), digest_size=8, key=hashlib.sha256(salt).digest()) for row in joined.to_pylist()
    )
    return np.frombuffer(b"".join(each.digest() for each in digests), dtype="<u8")


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type) or pa.types.is_struct(column.type) or pa.types.is_fixed_size_list(column.type):
        return pa.chunked_array(
            [[None if v is None else json.dumps(v, sort_keys=True) for v in column.to_pylist()]], pa.string()
        )
    return column.cast(pa.string())


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
        self._purpose = json.dumps({"stage": stage, **purpose}, sort_keys=True, default=str)
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

    def assign(self, ids: pa.Array, rows: NDArray[np.uint64], rows_per_unit: int) -> list[str]:
        """The unit of each row, in the order given. Rows not seen before form new units.

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
            if new.any() and not self._add_plan(plans + 1, ids, rows, new, rows_per_unit):
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
        self, number: int, ids: pa.Array, rows: NDArray[np.uint64], new: NDArray[np.bool_], size: int
    ) -> bool:
        table = pa.table({"id": ids, "row": rows}).filter(pa.array(new)).sort_by("id")
        units: list[str] = []
        for start in range(0, table.num_rows, size):
            part = table.slice(start, size)
            running = hashlib.sha256(self._purpose.encode())
            running.update("\0".join(part["id"].to_pylist()).encode())
            running.update(part["row"].to_numpy().tobytes())
            units += [running.hexdigest()[:16]] * part.num_rows
        planned = table.append_column("unit", pa.array(units, pa.string())).cast(_PLAN)
        try:
            with atomic_writer(join(self.folder, "units", f"plan-{number:06d}.parquet"), only_if_absent=True) as file:
                write_parquet(file, [planned], _PLAN)
        except Exists:
            return False
        return True

    # --- doing ---

    def done(self) -> set[str]:
        """The names of the units that have their marker."""
        return {name(entry.location).removesuffix(".json") for entry in _list(join(self.folder, "units", "done"))}

    def commit(self, unit: str, ids: pa.Array, outputs: Mapping[str, pa.Table], ledger: Ledger) -> Unit:
        """Write what was made of a unit whose rows are `ids`, then its marker. Doing it twice changes nothing.

        Every id must come out exactly once, over all outputs, and the ledger must balance: else nothing is written.
        """
        self._check_complete(unit, ids, outputs, ledger.check())
        files = {kind: self._write(kind, unit, table) for kind, table in outputs.items()}
        marker = {
            "unit": unit,
            "files": files,
            "rows_in": ledger.rows_in,
            "rows_out": ledger.rows_out,
            "rejects": dict(ledger.rejects),
        }
        create_bytes(self._marker(unit), json.dumps(marker, indent=1).encode())
        return Unit(unit, files, ledger)

    def _check_complete(self, unit: str, ids: pa.Array, outputs: Mapping[str, pa.Table], ledger: Ledger) -> None:
        came = pa.chunked_array(
            [pa.array([], pa.string()), *(chunk for t in outputs.values() for chunk in t[self.id_column].chunks)]
        )
        counted = {each["values"]: each["counts"] for each in pc.value_counts(came).to_pylist()}
        wanted = set(ids.to_pylist())
        wrong = [each for each in wanted if counted.get(each, 0) != 1] + [
            each for each in counted if each not in wanted
        ]
        if wrong or ledger.rows_in != len(ids):
            raise LedgerError(
                f"{self.stage}: unit {unit} of {len(ids):,} rows came back with {len(came):,}; "
                f"{len(wrong):,} ids are lost, doubled or foreign (such as {sorted(wrong)[:3]}). Please report this."
            )

    def _write(self, kind: str, unit: str, table: pa.Table) -> dict[str, Any]:
        with atomic_writer(join(self.folder, kind, f"{unit}.parquet")) as file:
            write_parquet(file, [table], table.schema)
            size = file.tell()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return {"name": f"{unit}.parquet", "rows": table.num_rows, "bytes": size, "sha256": sha256}

    def _marker(self, unit: str) -> str:
        return join(self.folder, "units", "done", f"{unit}.json")

    # --- reading ---

    def committed(self) -> list[Unit]:
        return committed(self.folder, self.stage)

    def ledger(self) -> Ledger:
        """The sum over the committed units."""
        return added(self.stage, [unit.ledger for unit in self.committed()]).check()


def committed(folder: str, stage: str = "") -> list[Unit]:
    """The marked units of an output folder, by name."""

    def read(location: str) -> Unit:
        found = json.loads(read_bytes(location))
        ledger = Ledger(stage, found["rows_in"], found["rows_out"], found["rejects"])
        return Unit(found["unit"], found["files"], ledger)

    markers = sorted(entry.location for entry in _list(join(folder, "units", "done")))
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, markers))


def read_units(folder: str, kind: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """What the marked units made, one table a unit, each file's digest checked against its marker."""
    for unit in committed(folder):
        if kind in unit.files:
            location = join(folder, kind, unit.files[kind]["name"])
            data = read_bytes(location)
            if hashlib.sha256(data).hexdigest() != unit.files[kind]["sha256"]:
                marker = join(folder, "units", "done", f"{unit.name}.json")
                raise Corrupt(
                    f"{location}: its content is not what its marker recorded. Delete {marker} and run the stage "
                    "again: it makes this unit anew."
                )
            yield pq.read_table(BytesIO(data), columns=columns)


def _list(folder: str) -> list[Any]:
    """The files of a folder that may not be there yet."""
    try:
        return list(list_files(folder))
    except Missing:
        if is_s3(folder):
            raise  # prefixes need no making: a missing bucket is the user's mistake
        return []
