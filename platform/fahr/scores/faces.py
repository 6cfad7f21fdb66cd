"""The faces that jobs/align.py made, to be scored: which there are, and one work unit's at a time.

plan = plan_faces("out/align")          # photo ids and files, no picture
read_faces("out/align", plan.rows)      # the rows of those photos, in that order
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr import store
from fahr.errors import Refused
from fahr.faces.rows import FACE_FIELDS, decode
from fahr.scores.models import ModelPlan
from fahr.training.facesets import data_digest

_READERS = 16


@dataclass(frozen=True)
class FacesPlan:
    """What can be known before a picture is read, but for the first."""

    rows: pa.Table  # photo_id; file and sha256 of the unit that holds it
    columns: tuple[str, ...]
    convention: str
    detector: str
    size: int | None  # None: the first unit holds no face that decodes
    digest: str  # of the data

    def check(self, folder: str, plans: tuple[ModelPlan, ...]) -> None:
        """Refused: a model that reads faces of another kind."""
        for plan in plans:
            remedy = (
                f"Align the photos with --convention {plan.cut.convention} --size {plan.cut.size} and score them in a "
                "run of its own, or give --manifest instead of --faces."
            )
            if plan.cut.convention != self.convention:
                raise Refused(
                    f"{plan.place}: reads faces cut as {plan.cut.convention}, those of {folder} are {self.convention}: "
                    f"its numbers would be wrong by years. {remedy}"
                )
            if self.size is not None and plan.cut.size != self.size:
                raise Refused(
                    f"{plan.place}: reads faces of {plan.cut.size} px, those of {folder} have {self.size}. {remedy}"
                )


def plan_faces(folder: str) -> FacesPlan:
    """Refused: a folder without a face."""
    digest = data_digest(folder)
    units = [unit.files["faces"] for unit in store.committed(folder) if "faces" in unit.files]
    files = [(str(file["name"]), str(file["sha256"])) for file in units if file["rows"]]
    with ThreadPoolExecutor(_READERS) as pool:
        ids = list(pool.map(lambda file: _photo_ids(store.join(folder, "faces", file[0])), files))
    tables = [
        pa.table({"photo_id": each, "file": pa.repeat(name, len(each)), "sha256": pa.repeat(sha256, len(each))})
        for each, (name, sha256) in zip(ids, files, strict=True)
    ]
    first = store.read_unit(folder, "faces", *files[0])
    if missing := [name for name in ("photo_id", "face", "convention", "detector") if name not in first.column_names]:
        raise Refused(f"{folder}: its faces have no column {', '.join(missing)}. Make them by jobs/align.py.")
    return FacesPlan(
        pa.concat_tables(tables).combine_chunks(),
        tuple(name for name in first.column_names if name not in FACE_FIELDS.names),
        first["convention"][0].as_py(),
        first["detector"][0].as_py(),
        _size(first),
        digest,
    )


def _photo_ids(location: str) -> pa.ChunkedArray:
    return pa.chunked_array(
        [chunk for table in store.read_parquet(location, ["photo_id"]) for chunk in table["photo_id"].chunks],
        pa.string(),
    )


def _size(faces: pa.Table) -> int | None:
    """Side of the first face that decodes."""
    for data in faces["face"].to_pylist():
        pixels, _ = decode(np.frombuffer(data or b"", np.uint8))
        if pixels is not None:
            return int(pixels.shape[0])
    return None


def read_faces(folder: str, rows: pa.Table) -> pa.Table:
    """`rows`: of a plan. Each file is read once, whole, its digest checked; all columns of the faces."""
    parts = []
    for file, sha256 in sorted(set(zip(rows["file"].to_pylist(), rows["sha256"].to_pylist(), strict=True))):
        found = store.read_unit(folder, "faces", file, sha256)
        wanted = rows.filter(pc.equal(rows["file"], file))["photo_id"].combine_chunks()
        parts.append(found.take(pc.index_in(wanted, found["photo_id"].combine_chunks())))
    return pa.concat_tables(parts, promote_options="permissive")
