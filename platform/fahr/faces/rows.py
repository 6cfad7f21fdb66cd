"""Manifest rows -> a table of faces and a table of rejects. What an actor of jobs/align.py does, without Ray."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr import images, store
from fahr.faces.aligner import AlignedFace, Aligner, Pixels, Rejection
from fahr.faces.quality import QUALITY_FIELDS

FaceFormat = Literal["jpeg", "png"]
JPEG_QUALITY = 95  # about 7 KB a face at 112 px; full colour resolution, since skin tone is signal here

FACE_FIELDS = pa.schema(
    [
        ("face", pa.binary()),
        ("face_format", pa.string()),
        ("convention", pa.string()),
        ("detector", pa.string()),
        ("face_score", pa.float32()),
        ("box", pa.list_(pa.float32())),
        ("landmarks", pa.list_(pa.float64())),
        ("faces_in_photo", pa.int32()),
        ("quality", pa.struct([(name, pa.float32()) for name in QUALITY_FIELDS])),
        ("source_sha256", pa.string()),
    ]
)
REJECT_FIELDS = pa.schema([("reason", pa.string()), ("detail", pa.string())])
DOWNLOADS = 8  # in flight for one actor: they wait for the network, and a batch of them is read ahead


@dataclass(frozen=True)
class Aligned:
    """Every row of the input is in one of the two."""

    faces: pa.Table
    rejects: pa.Table

    def ledger(self) -> store.Ledger:
        reasons = Counter(self.rejects["reason"].to_pylist())
        return store.Ledger("align", self.faces.num_rows + self.rejects.num_rows, self.faces.num_rows, dict(reasons))


def align_rows(rows: pa.Table, aligner: Aligner, *, batch: int = 16, face_format: FaceFormat = "jpeg") -> Aligned:
    """`rows`: manifest rows. While one batch is detected, the next is downloaded."""
    results: list[AlignedFace | Rejection] = []
    digests: list[str | None] = []
    landmarks = rows["landmarks"].to_pylist()
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for start, fetched in fetch_ahead(pool, rows["uri"].to_pylist(), batch, aligner.limits.max_bytes):
            photos = [data for data, _, _ in fetched if data is not None]
            given = [landmarks[start + n] for n, (data, _, _) in enumerate(fetched) if data is not None]
            made = iter(aligner.align(photos, given))
            results += [next(made) if data is not None else rejection for data, rejection, _ in fetched]
            digests += [digest for _, _, digest in fetched]
    return _tables(rows, results, digests, face_format)


Fetched = tuple[bytes | None, Rejection, str | None]


def fetch_ahead(
    pool: ThreadPoolExecutor, uris: Sequence[str], batch: int, at_most: int
) -> Iterator[tuple[int, list[Fetched]]]:
    """Batches of fetched photos with their first row; the next batch is on its way while one is used."""
    starts = list(range(0, len(uris), batch))
    waiting: list[list[Future[Fetched]]] = []
    for number, start in enumerate(starts):
        for ahead in starts[number + len(waiting) : number + 2]:
            waiting.append([pool.submit(fetch, uri, at_most) for uri in uris[ahead : ahead + batch]])
        yield start, [future.result() for future in waiting.pop(0)]


NOT_FETCHED = Rejection("missing", "")


def fetch(uri: str, at_most: int) -> Fetched:
    """The bytes, or why they are not to be had; and their digest. An outage is no fault of the photo: raised."""
    try:
        data = store.read_bytes(uri, at_most)
    except store.TooLarge as error:
        return None, Rejection("too_large", str(error)), None
    except (store.Missing, store.Denied) as error:
        return None, Rejection("missing", str(error)), None
    except store.Corrupt as error:
        return None, Rejection("unreadable", str(error)), None
    return data, NOT_FETCHED, hashlib.sha256(data).hexdigest()


def encode(face: Pixels, face_format: FaceFormat) -> bytes:
    """RGB pixels as JPEG (95, 4:4:4) or PNG."""
    if face_format == "png":
        done, data = cv2.imencode(".png", face[:, :, ::-1])
    else:
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, data = cv2.imencode(".jpg", face[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling])
    assert done
    return bytes(data.tobytes())


def decode(data: NDArray[np.uint8]) -> tuple[Pixels | None, str]:
    """The pixels of an encoded face as `fahr.images.decode` makes them, or why it can't; two thirds of its time for a
    sound JPEG.

    Its walk through the file is for what strangers send. These bytes are what jobs/align.py wrote, by their digest. Of
    what can be wrong all the same, OpenCV refuses most, and a scan that ended early leaves a flat last corner.
    """
    if data[:3].tobytes() == b"\xff\xd8\xff":
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        if pixels is not None and not (pixels[-4:, -4:] == pixels[-1, -1]).all():
            return np.asarray(pixels, np.uint8), ""
    try:
        return images.decode(data.tobytes()).pixels, ""
    except images.Unreadable as error:
        return None, str(error)


def _tables(
    rows: pa.Table, results: Sequence[AlignedFace | Rejection], digests: Sequence[str | None], face_format: FaceFormat
) -> Aligned:
    good = np.array([isinstance(result, AlignedFace) for result in results], dtype=bool)
    faces: list[dict[str, Any]] = [
        {
            "face": encode(result.face, face_format),
            "face_format": face_format,
            "convention": result.convention,
            "detector": result.detector,
            "face_score": result.score,
            "box": result.box.tolist(),
            "landmarks": result.landmarks.ravel().tolist(),
            "faces_in_photo": result.faces_in_photo,
            "quality": result.quality.as_dict(),
            "source_sha256": digest,
        }
        for result, digest in zip(results, digests, strict=True)
        if isinstance(result, AlignedFace)
    ]
    rejects = [{"reason": each.reason, "detail": each.detail} for each in results if isinstance(each, Rejection)]
    kept = [name for name in rows.column_names if name not in FACE_FIELDS.names]
    return Aligned(
        beside(rows.filter(pa.array(good)).select(kept), pa.Table.from_pylist(faces, FACE_FIELDS)),
        beside(rows.filter(pa.array(~good)), pa.Table.from_pylist(rejects, REJECT_FIELDS)),
    )


def beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """The columns of both, row by row."""
    for name in right.column_names:
        left = left.append_column(right.schema.field(name), right[name])
    return left
