"""The photos of everybody, a share of the people at a time: what is made of all photos of a person, wherever they lie.

for table in shares([Source(folder, "scores")], fields, rows): ...     # a person's photos are all in the same table

A person's photos may lie in any unit. So all units are read once for each share, and of each only the columns asked for
and the people whose hash falls to the share are kept: memory is bounded by PART_ROWS, not by the cohort.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from fahr import store
from fahr.scores.tables import read_scores

PART_ROWS = 2_000_000  # photos held at once: about 300 MB


class Source(NamedTuple):
    """Tables of photos that the units of a folder hold."""

    folder: str
    kind: str  # "scores", "rejects"

    def rows(self) -> int:
        return sum(
            int(unit.files[self.kind]["rows"]) for unit in store.committed(self.folder) if self.kind in unit.files
        )


def shares(
    sources: Sequence[Source],
    fields: Mapping[str, pa.DataType],
    rows: int,
    *,
    part_rows: int = PART_ROWS,
    lean: Callable[[pa.Table], pa.Table] = lambda photos: photos,
) -> Iterator[pa.Table]:
    """`fields`: name -> type, photo_id and subject_id among them; a column that a source lacks is null, but for
    subject_id, which is then photo_id. `rows`: of all sources. `lean`: done to each unit's photos at once."""
    parts = max(1, -(-rows // part_rows))
    for part in range(parts):
        tables = [lean(pa.schema(list(fields.items())).empty_table())]
        for source in sources:
            narrowed = partial(_narrow, fields=fields, part=part, parts=parts)
            tables += map(lean, read_scores(source.folder, narrowed, kind=source.kind))
        yield pa.concat_tables(tables)


def _narrow(table: pa.Table, fields: Mapping[str, pa.DataType], part: int, parts: int) -> pa.Table:
    columns: dict[str, Any] = {
        name: table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        for name, kind in fields.items()
    }
    if "subject_id" not in table.column_names:
        columns["subject_id"] = columns["photo_id"]
    narrow = pa.table(columns)
    if parts == 1:
        return narrow
    mine = [zlib.crc32(each.encode()) % parts == part for each in narrow["subject_id"].to_pylist()]
    return narrow.filter(pa.array(mine, pa.bool_()))
