"""The photos of one person on one day are one visit: visits.parquet, a row each, from the scores that are there.

Not a column of the scores: a photo that comes later changes the median of a visit whose other rows are long committed.
"""

import zlib
from typing import Any

import numpy as np
import pyarrow as pa

from fahr import store
from fahr.biomarkers import visit_medians
from fahr.scores.tables import read_scores

NAME = "visits.parquet"
FIELDS = pa.schema(
    [
        ("subject_id", pa.string()),
        ("taken_on", pa.date32()),  # null: unknown, and the photo is a visit of its own
        ("photo_id", pa.string()),  # the first of the visit, in the order of the names
        ("photos", pa.int32()),
        ("visit_face_age", pa.float64()),  # median, years
        ("visit_survival_risk", pa.float64()),  # median
    ]
)
_READ = {"subject_id": pa.string(), "taken_on": pa.date32(), "photo_id": pa.string(),
         "face_age": pa.float64(), "survival_risk": pa.float64()}  # fmt: skip
PART_ROWS = 2_000_000  # photos held at once: about 300 MB


def write_visits(folder: str, rows: int, *, part_rows: int = PART_ROWS) -> int:
    """Of the `rows` scores under `folder`; the number of visits. More than `part_rows` are read in several rounds, each
    with its share of the people, so that memory is bounded by that."""
    parts = max(1, -(-rows // part_rows))
    with store.atomic_writer(store.join(folder, NAME)) as file:
        return store.write_parquet(file, (_visits(_part(folder, n, parts)) for n in range(parts)), FIELDS)


def _part(folder: str, part: int, parts: int) -> pa.Table:
    """The photos of the people whose hash falls to this part, by person, day and name."""
    tables = [pa.schema(list(_READ.items())).empty_table()]
    tables += read_scores(folder, lambda table: _narrow(table, part, parts))
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("subject_id", "taken_on", "photo_id")])


def _narrow(table: pa.Table, part: int, parts: int) -> pa.Table:
    columns: dict[str, Any] = {
        name: table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        for name, kind in _READ.items()
    }
    if "subject_id" not in table.column_names:
        columns["subject_id"] = columns["photo_id"]
    narrow = pa.table(columns)
    if parts == 1:
        return narrow
    mine = [zlib.crc32(each.encode()) % parts == part for each in narrow["subject_id"].to_pylist()]
    return narrow.filter(pa.array(mine, pa.bool_()))


def _visits(photos: pa.Table) -> pa.Table:
    """`photos`: sorted by name within a day, so that the first row of a visit is its first photo."""
    subjects = photos["subject_id"].to_numpy(zero_copy_only=False)
    days = photos["taken_on"].to_numpy(zero_copy_only=False)
    age, risk = (
        visit_medians(photos[name].to_numpy(zero_copy_only=False), subjects, days)
        for name in ("face_age", "survival_risk")
    )
    first = photos.take(pa.array(age.first))
    made = {
        "subject_id": first["subject_id"],
        "taken_on": first["taken_on"],
        "photo_id": first["photo_id"],
        "photos": np.bincount(age.visit, minlength=len(age)).astype(np.int32),
        "visit_face_age": pa.array(np.asarray(age.medians), from_pandas=True),
        "visit_survival_risk": pa.array(np.asarray(risk.medians), from_pandas=True),
    }
    return pa.table(made).cast(FIELDS)
