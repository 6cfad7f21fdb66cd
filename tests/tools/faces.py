"""Finished units of faces as jobs/align.py leaves them: rendered people, or noise where any picture will do."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr import store
from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.faces.rows import FACE_FIELDS, encode

Pixels = NDArray[np.uint8]


def pictures(count: int, size: int = 32) -> list[Pixels]:
    """(size, size, 3) each: smooth coloured noise, every one different, no corner flat."""
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return [np.asarray(cv2.resize(each, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8) for each in small]


def people(count: int, size: int = 112) -> list[Pixels]:
    """(size, size, 3) each: rendered faces of 20 to 89 years."""
    options = CohortOptions(size_px=256)
    faces = [
        render_face(seed=0, subject=number, photo=0, apparent_age=20 + number % 70, frailty=0.0, options=options)
        for number in range(count)
    ]
    return [np.asarray(cv2.resize(each.image, (size, size), interpolation=cv2.INTER_AREA), np.uint8) for each in faces]


def commit_faces(folder: str, encoded: Sequence[bytes], *, rows_per_unit: int = 10, **columns: Any) -> None:
    """One row for each of `encoded`: photo_id p00000, p00001, ... `columns` replace or add columns."""
    count = len(encoded)
    made: dict[str, Any] = {
        "photo_id": [f"p{number:05d}" for number in range(count)],
        "subject_id": [f"s{number // 2:05d}" for number in range(count)],
        "split": [("train", "train", "tune", "test")[number % 4] for number in range(count)],
        "age": [20.0 + number % 70 for number in range(count)],
    } | {name: values for name, values in columns.items() if name not in FACE_FIELDS.names}
    faces: dict[str, Any] = {
        "face": list(encoded),
        "face_format": ["jpeg"] * count,
        "convention": ["arcface112"] * count,
        "detector": ["mtcnn"] * count,
    } | {name: values for name, values in columns.items() if name in FACE_FIELDS.names}
    rows, table = pa.table(made), pa.table(made | faces)
    units = store.WorkUnits(folder, {"made": "by a test"}, stage="align")
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), rows_per_unit))
    for unit in sorted(set(assigned) - units.done()):
        mine = pa.array(assigned == unit)
        part = rows.filter(mine)
        units.commit(unit, part, {"faces": table.filter(mine)}, store.Ledger("align", part.num_rows, part.num_rows))


def jpegs(images: Sequence[Pixels]) -> list[bytes]:
    return [encode(each, "jpeg") for each in images]
