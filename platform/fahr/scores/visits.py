"""The photos of one person on one day are one visit: visits.parquet, a row each, from the scores that are there.

Not a column of the scores: a photo that comes later changes the median of a visit whose other rows are long committed.
"""

import numpy as np
import pyarrow as pa

from fahr import store
from fahr.biomarkers import visit_medians
from fahr.scores.people import PART_ROWS, Source, shares

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


def write_visits(folder: str, rows: int, *, part_rows: int = PART_ROWS) -> int:
    """Of the `rows` scores under `folder`; the number of visits."""
    parts = shares([Source(folder, "scores")], _READ, rows, part_rows=part_rows)
    with store.atomic_writer(store.join(folder, NAME)) as file:
        return store.write_parquet(file, (_visits(photos) for photos in parts), FIELDS)


def _visits(photos: pa.Table) -> pa.Table:
    """By person and day. A visit is named by the first of its photos in the order of their names."""
    photos = photos.sort_by([(name, "ascending") for name in ("subject_id", "taken_on", "photo_id")])
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
