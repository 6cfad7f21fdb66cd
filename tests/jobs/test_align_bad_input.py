"""Every bad photo that we know, through the whole job at once: one row each, its own reason, and nothing breaks."""

import io
import json
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from fahr import images, store
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.synthetic import Face, render_face, render_junk
from fahr.faces import Aligner, Rejection
from jobs import align

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Name -> reason, and what its sentence says: the value, the rule, the remedy. No reason: a face.
TOO_MANY_PIXELS = r"40,000 x 40,000 pixels; at most 80,000,000 .*: send a smaller copy"
CUT = r"is \d\.\d of 100, at least 5 is needed: take the photo with the whole face in the frame"
NO_FACE = r"mtcnn found no face in 256 x 256 pixels"
EXPECTED: dict[str, tuple[str, str]] = {
    "good": ("", ""),
    "again": ("", ""),  # the bytes of `good` under another id
    "gif": ("", ""),  # the face is its first frame
    "cmyk": ("", ""),
    "quarter": ("", ""),
    "upside-down": ("", ""),
    "three-quarters": ("", ""),
    "corrupt": ("unreadable", r"JPEG is damaged .*its pixels do not decode\): save it again"),
    "truncated": ("unreadable", r"JPEG is truncated, it ends early at byte [\d,]+: send it again, whole"),
    "empty": ("unreadable", r"the file is empty\): send one of JPEG, PNG"),
    "text": ("unreadable", r"begins with the bytes 54 68 69 73 .*: send one of JPEG, PNG"),
    "bomb-png": ("too_large", TOO_MANY_PIXELS),
    "bomb-jpeg": ("too_large", TOO_MANY_PIXELS),
    "missing": ("missing", r"missing\.jpg: no such file or folder\. Check the path"),
    "forbidden": ("missing", r"forbidden\.jpg: no permission\. Check the owner and the mode"),
    "blank": ("no_face", NO_FACE),
    "gif-blank-first": ("no_face", NO_FACE),
    "five": ("many_faces", r"mtcnn found 5 faces; a study photo shows one person"),
    "half-right": ("low_quality", "RightwardCropOfTheFaceImage " + CUT),
    "half-top": ("low_quality", "MarginAboveOfTheFaceImage " + CUT),
    "half-outside": ("bad_landmarks", r"0\.\d eye distances outside the 256 x 256 photo, 0\.5 is allowed: give"),
    "half-unseen": ("no_face", NO_FACE),
}
HALVES = {"half-right": 1, "half-top": 4, "half-outside": 2, "half-unseen": 3}  # the number of that junk
TURNS = {"quarter": 1, "upside-down": 2, "three-quarters": 3}  # quarters against the clock
REMEDY = re.compile(r"\b(send|save|check|take|give|choose|turn)\b", re.IGNORECASE)


def encoded(pixels: Pixels, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **{"quality": 92, **options})
    return out.getvalue()


def bombs(pixels: Pixels) -> dict[str, bytes]:
    """Small files whose headers ask for 1.6 billion pixels."""
    png, jpeg = bytearray(encoded(pixels, "PNG")), bytearray(encoded(pixels))
    struct.pack_into(">II", png, 16, 40_000, 40_000)
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4)
    struct.pack_into(">HH", jpeg, jpeg.find(b"\xff\xc0") + 5, 40_000, 40_000)
    return {"bomb-png": bytes(png), "bomb-jpeg": bytes(jpeg)}


def corrupt(jpeg: bytes) -> bytes:
    """Its Huffman tables are noise. (Noise in the scan is another matter: a JPEG has no checksum.)"""
    data, at = bytearray(jpeg), jpeg.find(b"\xff\xc4")
    assert at > 0
    data[at + 5 : at + 21] = b"\xff" * 16
    return bytes(data)


def bad_photos(people: list[Face]) -> dict[str, bytes]:
    """Name -> bytes, of all that can be written into a file."""
    face, blank = people[0].image, render_junk("blank", number=0)
    good = encoded(face)
    photos = {
        "good": good,
        "again": good,
        "gif": encoded(face, "GIF", save_all=True, append_images=[Image.fromarray(blank)]),
        "gif-blank-first": encoded(blank, "GIF", save_all=True, append_images=[Image.fromarray(face)]),
        "cmyk": encoded(face, mode="CMYK"),
        "corrupt": corrupt(good),
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "text": b"This is a letter that somebody has named .jpg.\n" * 9,
        "blank": encoded(blank),
        "five": encoded(np.hstack([person.image for person in people])),
    }
    photos |= bombs(face)
    photos |= {name: encoded(np.ascontiguousarray(np.rot90(face, turns))) for name, turns in TURNS.items()}
    return photos | {name: encoded(render_junk("half", number=number)) for name, number in HALVES.items()}


def forbid(path: Path) -> None:
    """Puts a file there that we may not read. Root may read every mode, but not what the kernel itself holds back."""
    path.write_bytes(b"photo")
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.unlink()
        path.symlink_to("/sys/bus/platform/uevent")  # write-only, for root too
    with pytest.raises(PermissionError):
        path.read_bytes()


@dataclass(frozen=True)
class Run:
    person: Face
    photos: dict[str, bytes]
    manifest: pa.Table  # as the job reads it
    ledger: store.Ledger
    written: dict[str, Any]  # ledger.json
    faces: dict[str, dict[str, Any]]  # rows by photo_id
    rejects: dict[str, dict[str, Any]]
    columns: dict[str, list[str]]  # of faces and of rejects
    ids: Counter[str]  # how often each is in either


@pytest.fixture(scope="module")
def run(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The one run of the job that all tests here look at: six units, two actors, batches of three."""
    root = tmp_path_factory.mktemp("bad")
    people = [
        render_face(seed=1, subject=n, photo=0, apparent_age=40.0 + 5 * n, frailty=0.0, sex=("female", "male")[n % 2])
        for n in range(5)
    ]
    photos = bad_photos(people)
    assert set(EXPECTED) - set(photos) == {"missing", "forbidden"}
    for name, data in photos.items():
        (root / f"{name}.jpg").write_bytes(data)
    forbid(root / "forbidden.jpg")
    names = list(EXPECTED)
    rows = {
        "photo_id": names,
        "uri": [f"{name}.jpg" for name in names],
        "subject_id": [f"person {number // 2}" for number in range(len(names))],
        "age": [40.5 + number for number in range(len(names))],
        "ward": [f"ward {number % 3}" for number in range(len(names))],
        "dose": [None if number == 4 else number * 0.5 for number in range(len(names))],
    }
    write_manifest(pa.table(rows), root / "people.parquet")
    output = root / "out"
    ledger = align.main(
        align.Options(
            manifest=str(root / "people.parquet"), output=str(output), detector="mtcnn", rows_per_unit=4, batch=3,
            workers=1, cpus_per_worker=0.5, memory_per_worker=0.1,
        )
    )  # fmt: skip
    tables = {kind: pa.concat_tables(store.read_units(str(output), kind)) for kind in ("faces", "rejects")}
    by_id = {kind: {row["photo_id"]: row for row in table.to_pylist()} for kind, table in tables.items()}
    yield Run(
        person=people[0],
        photos=photos,
        manifest=read_manifest(root / "people.parquet"),
        ledger=ledger,
        written=json.loads((output / "ledger.json").read_text()),
        faces=by_id["faces"],
        rejects=by_id["rejects"],
        columns={kind: table.column_names for kind, table in tables.items()},
        ids=Counter(each for table in tables.values() for each in table["photo_id"].to_pylist()),
    )
    with suppress(FileNotFoundError):  # pytest cannot clean up what it may not read
        (root / "forbidden.jpg").unlink()


def test_every_photo_is_once_a_face_or_a_reject_and_the_ledger_adds_up(run: Run) -> None:
    assert run.ids == Counter(list(EXPECTED))
    reasons = Counter(reason for reason, _ in EXPECTED.values() if reason)
    for ledger in (run.written, vars(run.ledger)):
        assert ledger["rows_in"] == len(EXPECTED) == ledger["rows_out"] + sum(ledger["rejects"].values())
        assert ledger["rows_out"] == len(run.faces) and ledger["rejects"] == reasons


@pytest.mark.parametrize("name", EXPECTED)
def test_each_photo_has_its_own_reason_and_a_sentence_with_value_and_rule(name: str, run: Run) -> None:
    reason, said = EXPECTED[name]
    if not reason:
        assert name in run.faces, run.rejects[name]
        return
    assert name in run.rejects, "it was taken for a face"
    assert run.rejects[name]["reason"] == reason
    assert re.search(said, run.rejects[name]["detail"]), run.rejects[name]["detail"]
    assert run.rejects[name]["detail"].endswith(".") and "\n" not in run.rejects[name]["detail"]


@pytest.mark.parametrize(
    "reason",
    ["unreadable", "too_large", "missing", "low_quality", "bad_landmarks", "no_face", "many_faces"],
)
def test_every_sentence_says_what_to_do(reason: str, run: Run) -> None:
    details = [row["detail"] for row in run.rejects.values() if row["reason"] == reason]
    assert details and not [detail for detail in details if not REMEDY.search(detail)]


def test_rejects_keep_every_column_of_the_manifest(run: Run) -> None:
    assert run.columns["rejects"] == [*run.manifest.column_names, "reason", "detail"]
    assert {"ward", "dose"} <= set(run.columns["faces"])
    for row in run.manifest.to_pylist():
        kept = run.rejects.get(row["photo_id"]) or run.faces[row["photo_id"]]
        replaced = {"landmarks"} if row["photo_id"] in run.faces else set()  # by the detector's
        assert {name: kept[name] for name in row.keys() - replaced} == {
            name: value for name, value in row.items() if name not in replaced
        }


def landmarks(row: dict[str, Any]) -> Floats:
    return np.array(row["landmarks"], np.float64).reshape(5, 2)


def turned(points: Floats, quarters: int, side: int) -> Floats:
    """Where the points of a square photo are after so many quarters of a turn against the clock."""
    for _ in range(quarters):
        points = np.column_stack([points[:, 1], side - 1 - points[:, 0]])
    return points


@pytest.mark.parametrize("name", TURNS)
def test_a_turned_photo_gives_the_landmarks_and_the_crop_of_the_upright_face(name: str, run: Run) -> None:
    upright, found = run.faces["good"], run.faces[name]
    side = len(run.person.image)
    eyes = float(np.hypot(*(run.person.landmarks[1] - run.person.landmarks[0])))
    assert np.abs(landmarks(found) - turned(landmarks(upright), TURNS[name], side)).max() < 0.1 * eyes
    assert np.abs(landmarks(found) - turned(run.person.landmarks, TURNS[name], side)).max() < 0.25 * eyes
    crops = [images.decode(row["face"]).pixels.astype(int) for row in (upright, found)]
    assert np.abs(crops[0] - crops[1]).mean() < 8
    assert np.abs(crops[0] - crops[1][::-1, ::-1]).mean() > 16  # so small a difference means that it is upright


@pytest.mark.parametrize("name", ["again", "gif", "cmyk"])
def test_the_same_face_in_another_file_is_the_same_face(name: str, run: Run) -> None:
    eyes = float(np.hypot(*(run.person.landmarks[1] - run.person.landmarks[0])))
    apart = np.abs(landmarks(run.faces[name]) - landmarks(run.faces["good"])).max()
    assert apart < (0.05 if name == "again" else 0.1 * eyes)
    same_bytes = run.faces[name]["source_sha256"] == run.faces["good"]["source_sha256"]
    assert same_bytes == (name == "again")


def test_the_aligner_alone_gives_the_same_answers(run: Run) -> None:
    results = Aligner(detector="mtcnn").align(list(run.photos.values()))
    for name, result in zip(run.photos, results, strict=True):
        if isinstance(result, Rejection):
            assert (result.reason, result.detail) == (run.rejects[name]["reason"], run.rejects[name]["detail"])
        else:
            assert np.abs(result.landmarks - landmarks(run.faces[name])).max() < 0.05
