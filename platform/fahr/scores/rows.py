"""A work unit: rows of faces or of photos -> a table of scores and a table of rejects. Every row is in one of them.

Faces are decoded, or aligned, and scored HELD at a time, so that memory is bounded by that and by the unit's bytes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr import store
from fahr.errors import Refused
from fahr.faces.aligner import AlignedFace, Aligner, Rejection
from fahr.faces.rows import DOWNLOADS, FACE_FIELDS, REJECT_FIELDS, beside, decode, fetch_ahead
from fahr.scores.columns import ADDED_FIELDS, score_columns
from fahr.scores.models import Cut, Pixels, Team

HELD = 256  # faces: 10 MB at 112 px, and a multiple of any sensible batch
_KEPT = ("landmarks",)  # of what alignment adds: a column of every manifest
_Face = Mapping[Cut, Pixels] | Rejection


@dataclass(frozen=True)
class Scored:
    scores: pa.Table
    rejects: pa.Table

    def ledger(self) -> store.Ledger:
        reasons = Counter(self.rejects["reason"].to_pylist())
        return store.Ledger("score", self.scores.num_rows + self.rejects.num_rows, self.scores.num_rows, dict(reasons))


def score_faces(faces: pa.Table, team: Team) -> Scored:
    """`faces`: rows of jobs/align.py, all cut as the models want it. One that does not decode is a reject."""
    (cut,) = team.cuts
    if other := set(faces["convention"].unique().to_pylist()) - {cut.convention}:
        raise Refused(f"faces cut as {other} beside {cut.convention}. Align all photos with the same settings.")
    held = _Held(team)
    for data in faces["face"]:
        pixels, why = decode(np.frombuffer(data.as_buffer() or b"", np.uint8))
        held.add({cut: pixels} if pixels is not None else Rejection("unreadable", why))
    digests = faces["source_sha256"].to_pylist() if "source_sha256" in faces.column_names else [None] * faces.num_rows
    return held.scored(faces, digests)


def score_photos(rows: pa.Table, aligners: Mapping[Cut, Aligner], team: Team, *, batch: int = 16) -> Scored:
    """`rows`: of a manifest. Each photo is fetched once and aligned for each cut that the models need.

    While one batch is detected, the next is downloaded. A photo that one of the cuts rejects is a reject.
    """
    held = _Held(team)
    digests: list[str | None] = []
    landmarks = rows["landmarks"].to_pylist()
    limits = next(iter(aligners.values())).limits
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for start, fetched in fetch_ahead(pool, rows["uri"].to_pylist(), batch, limits.max_bytes):
            photos = [data for data, _, _ in fetched if data is not None]
            given = [landmarks[start + n] for n, (data, _, _) in enumerate(fetched) if data is not None]
            made = iter(_aligned(photos, given, aligners))
            for data, rejection, digest in fetched:
                held.add(next(made) if data is not None else rejection)
                digests.append(digest)
    return held.scored(rows, digests)


def _aligned(
    photos: Sequence[bytes], landmarks: Sequence[Sequence[float] | None], aligners: Mapping[Cut, Aligner]
) -> list[_Face]:
    """Each photo by every aligner; the first rejection counts, and says which cut it is of where there are several."""
    by_cut = [(cut, aligner.align(photos, landmarks)) for cut, aligner in aligners.items()]
    faces: list[_Face] = []
    for number in range(len(photos)):
        cuts: dict[Cut, Pixels] = {}
        rejection: Rejection | None = None
        for cut, results in by_cut:
            result = results[number]
            if isinstance(result, AlignedFace):
                cuts[cut] = result.face
            elif rejection is None:
                which = f"{cut.convention} by {cut.detector}: " if len(by_cut) > 1 else ""
                rejection = Rejection(result.reason, which + result.detail, result.is_image)
        faces.append(rejection or cuts)
    return faces


class _Held:
    """Faces on their way to the models, and what was said of those that have been there."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._waiting: list[Mapping[Cut, Pixels]] = []
        self._values: list[Mapping[str, NDArray[np.float64]]] = []
        self._rejections: list[Rejection | None] = []  # a row each

    def add(self, face: _Face) -> None:
        rejection = face if isinstance(face, Rejection) else self._team.fault(face)
        self._rejections.append(rejection)
        if isinstance(face, Rejection) or rejection is not None:
            return
        self._waiting.append(face)
        if len(self._waiting) == HELD:
            self._score()

    def _score(self) -> None:
        self._values.append(self._team.values(self._waiting))
        self._waiting = []

    def scored(self, rows: pa.Table, digests: Sequence[str | None]) -> Scored:
        """`rows`: those that were added, in order; `digests`: of their photos."""
        self._score()
        good = np.array([each is None for each in self._rejections], bool)
        rejections = [{"reason": each.reason, "detail": each.detail} for each in self._rejections if each is not None]
        table = rows.select([n for n in rows.column_names if n not in FACE_FIELDS.names or n in _KEPT])
        kept = table.filter(pa.array(good))
        values = {task: np.concatenate([each[task] for each in self._values]) for task in self._values[0]}
        age = _column(kept, "age", pa.float64()).to_numpy(zero_copy_only=False)
        scores = score_columns(values, self._team.plans, age, _column(kept, "sex", pa.string()).to_pylist())
        sources = [each for each, is_good in zip(digests, good.tolist(), strict=True) if is_good]
        return Scored(
            beside(beside(kept, scores), pa.table([pa.array(sources, pa.string())], ADDED_FIELDS)),
            beside(table.filter(pa.array(~good)), pa.Table.from_pylist(rejections, REJECT_FIELDS)),
        )


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    """A column, all null if there is none; null where unknown becomes nan in numbers."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    return table[name].cast(kind).combine_chunks()
