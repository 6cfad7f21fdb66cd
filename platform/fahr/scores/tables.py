"""All scores of a folder: read side by side, and as scores.csv for people with a spreadsheet."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.csv

from fahr import store

NAME = "scores.csv"
MOST_ROWS = 1_000_000  # about what a spreadsheet opens; below it the table is sorted in memory


_READERS = 16
_AHEAD = 64  # units read before the first of them is used up


def read_scores(
    folder: str, narrowed: Callable[[pa.Table], pa.Table] = lambda table: table, *, kind: str = "scores"
) -> Iterator[pa.Table]:
    """The scores (or the rejects) under `folder`, a table a unit in the order of the units, after `narrowed`."""
    files = [unit.files[kind] for unit in store.committed(folder) if kind in unit.files]
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _AHEAD):
            yield from pool.map(
                lambda file: narrowed(store.read_unit(folder, kind, str(file["name"]), str(file["sha256"]))),
                files[start : start + _AHEAD],
            )


def write_csv(folder: str, rows: int, *, most_rows: int = MOST_ROWS) -> bool:
    """All scores under `folder`, by photo_id, null as an empty cell, lists as JSON. False: `rows` are too many, and
    there is none, not even one of before."""
    location = store.join(folder, NAME)
    if rows >= most_rows:
        store.delete(location)
        return False
    table = pa.concat_tables(read_scores(folder, flat), promote_options="permissive").sort_by("photo_id")
    with store.atomic_writer(location) as file:
        pa.csv.write_csv(table, file)
    return True


def flat(table: pa.Table) -> pa.Table:
    """Cells that hold several values as JSON, which a CSV can hold."""
    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            cells = [None if cell is None else json.dumps(cell, default=repr) for cell in table[number].to_pylist()]
            table = table.set_column(number, field.name, pa.array(cells, pa.string()))
    return table
