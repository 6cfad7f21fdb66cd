"""A photo becomes an aligned face or a rejection with its reason; a table of photos loses no row."""

import io

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fahr import images, store
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.synthetic import render_face, render_junk
from fahr.errors import Refused
from fahr.faces import AlignedFace, Aligner, Rejection, alignment
from fahr.faces.rows import align_rows, encode


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **{"quality": 92, **options})
    return out.getvalue()


def eye_distance(points: np.ndarray) -> float:
    return float(np.hypot(*(points[1] - points[0])))


@pytest.fixture(scope="module")
def people() -> list:
    return [
        render_face(seed=1, subject=n, photo=0, apparent_age=40.0 + 5 * n, frailty=0.0, sex="FM"[n % 2])
        for n in range(4)
    ]


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(detector="mtcnn")


def test_a_face_lands_on_the_template(people, aligner):
    for person, result in zip(people, aligner.align([jpeg(each.image) for each in people]), strict=True):
        assert isinstance(result, AlignedFace), result
        assert result.face.shape == (112, 112, 3) and result.faces_in_photo == 1
        eyes = eye_distance(person.landmarks)
        assert np.abs(result.landmarks - person.landmarks).max() < 0.25 * eyes
        matrix = alignment.similarity(result.landmarks[None], alignment.template(112))[0]
        landed = alignment.transform(person.landmarks, matrix)
        assert np.sqrt(((landed - alignment.template(112)) ** 2).sum(1).mean()) < 8


def test_bad_photos_are_rejections_with_their_reasons_and_keep_their_places(people, aligner):
    two = np.hstack([people[0].image, people[1].image])
    blank = np.full((200, 200, 3), 128, np.uint8)
    good = jpeg(people[2].image)
    bomb = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(bomb, "PNG")
    photos = [good, b"", b"text", good[: len(good) // 2], bomb.getvalue(), jpeg(blank), jpeg(two), good]
    results = aligner.align(photos)
    reasons = [each.reason if isinstance(each, Rejection) else "" for each in results]
    assert reasons == ["", "unreadable", "unreadable", "unreadable", "too_large", "no_face", "many_faces", ""]
    assert [each.is_image for each in results[1:4]] == [False, False, True]
    assert all(each.detail for each in results if isinstance(each, Rejection))
    assert (results[0].face == results[7].face).all()


def test_an_app_takes_the_largest_face_and_says_so(people):
    small = cv2.resize(people[1].image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    canvas = np.full((256, 256 + 160, 3), 120, np.uint8)
    canvas[:, :256] = people[0].image
    canvas[: small.shape[0], 256 : 256 + small.shape[1]] = small
    (result,) = Aligner(detector="mtcnn", many_faces="largest").align([jpeg(canvas)])
    assert isinstance(result, AlignedFace)
    assert result.faces_in_photo == 2 and "largest" in result.warnings[0]
    assert result.landmarks[:, 0].max() < 256


def test_the_result_is_the_same_alone_and_in_any_batch(people, aligner):
    photos = [jpeg(each.image) for each in people]
    together = aligner.align(photos)
    for number in (2, 0):
        (alone,) = aligner.align([photos[number]])
        assert np.abs(alone.landmarks - together[number].landmarks).max() < 0.05
        assert np.abs(alone.face.astype(int) - together[number].face).mean() < 0.5


def test_orientation_and_size_of_the_file_do_not_move_the_face(people, aligner):
    base = aligner.align([jpeg(people[0].image)])[0]
    large = cv2.resize(people[0].image, None, fx=10, fy=10, interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[274] = 6  # the file lies on its side, and says so
    sideways = jpeg(np.ascontiguousarray(np.rot90(people[0].image)), exif=exif)
    of_large, of_sideways = aligner.align([jpeg(large), sideways])
    assert of_large.width == 2560
    eyes = eye_distance(base.landmarks)
    assert np.abs(of_large.landmarks / 10 - base.landmarks).max() < 0.08 * eyes
    assert np.abs(of_sideways.landmarks - base.landmarks).max() < 0.05 * eyes
    assert np.abs(of_large.face.astype(int) - base.face).mean() < 12


def test_a_small_face_in_a_large_photo_is_cropped_from_its_full_pixels():
    """The working copy has a third of the detail: the crop must have been taken from the original."""
    scene = np.full((4096, 3072, 3), 90, np.uint8)
    stripes = (np.indices((300, 300)).sum(0) // 3 % 2 * 255).astype(np.uint8)
    scene[1000:1300, 1000:1300] = stripes[:, :, None]
    points = np.array(alignment.template(112)) * 1.5 + (1060, 1060)
    (result,) = Aligner(detector="given", gate=_open_gate()).align([jpeg(scene, quality=98)], [points.ravel().tolist()])
    assert isinstance(result, AlignedFace), result
    direct = alignment.align([scene], points[None]).faces[0]
    assert np.abs(result.face.astype(int) - direct).mean() < 6
    assert np.allclose(result.landmarks, points, atol=1e-3)


def _open_gate():
    from fahr.faces.quality import QUALITY_FIELDS, QualityGate

    return QualityGate(**dict.fromkeys(QUALITY_FIELDS, 0))


def test_given_landmarks_are_used_as_they_are_and_must_be_there(people):
    given = Aligner(detector="given", gate=_open_gate())
    points = people[0].landmarks.ravel().tolist()
    good, absent, mirrored = given.align(
        [jpeg(people[0].image)] * 3, [points, None, people[0].landmarks[[1, 0, 2, 4, 3]].ravel().tolist()]
    )
    assert np.allclose(good.landmarks.ravel(), points) and good.score == 1
    assert absent.reason == "bad_landmarks" and "manifest" in absent.detail
    assert mirrored.reason == "bad_landmarks"


def test_wrong_options_are_refused():
    for wrong in ({"convention": "arcface"}, {"size": 3}, {"detector": "mtcn"}):
        with pytest.raises(Refused):
            Aligner(**{"detector": "mtcnn", **wrong})


def test_faceage_crops_are_160_px_of_the_detectors_box(people):
    (result,) = Aligner(detector="mtcnn", size=160, convention="faceage160").align([jpeg(people[0].image)])
    assert isinstance(result, AlignedFace) and result.face.shape == (160, 160, 3)
    box = alignment.mtcnn_box(result.box)
    assert (result.face == alignment.faceage_crop(images.decode(jpeg(people[0].image)).pixels, box)[0]).mean() > 0.99


def manifest(folder, people) -> pa.Table:
    photos = {
        "a.jpg": jpeg(people[0].image),
        "b.jpg": b"not a photo",
        "c.png": encode(people[1].image, "png"),
        "d.jpg": jpeg(render_junk("blank", seed=0, number=0)),
    }
    for name, data in photos.items():
        store.write_bytes(store.join(folder, name), data)
    rows = [*photos, "gone.jpg"]
    store.write_bytes(store.join(folder, "people.csv"), ("photo_id,uri,age,ward\n" + "".join(
        f"{n},{n},{40 + i},w{i}\n" for i, n in enumerate(rows))).encode())  # fmt: skip
    return read_manifest(store.join(folder, "people.csv"))


def test_every_row_is_a_face_or_a_reject_with_the_manifests_columns(folder, people, aligner):
    table = manifest(folder, people)
    made = align_rows(table, aligner, batch=2)
    assert made.faces["photo_id"].to_pylist() == ["a.jpg", "c.png"]
    assert dict(zip(made.rejects["photo_id"].to_pylist(), made.rejects["reason"].to_pylist(), strict=True)) == {
        "b.jpg": "unreadable",
        "d.jpg": "no_face",
        "gone.jpg": "missing",
    }
    assert made.faces["ward"].to_pylist() == ["w0", "w2"] and made.rejects["age"].to_pylist() == [41.0, 43.0, 44.0]
    made.ledger().check()
    face = images.decode(made.faces["face"][0].as_py()).pixels
    direct = aligner.align([store.read_bytes(table["uri"][0].as_py())])[0]
    assert np.abs(face.astype(int) - direct.face).mean() < 3
    assert made.faces["landmarks"][0].as_py() == pytest.approx(direct.landmarks.ravel().tolist())
    assert len(made.faces["source_sha256"][0].as_py()) == 64


def test_the_size_of_a_batch_changes_nothing(tmp_path, people, aligner):
    table = manifest(str(tmp_path), people)
    one, many = (align_rows(table, aligner, batch=batch) for batch in (1, 16))
    assert one.faces["photo_id"] == many.faces["photo_id"] and one.rejects == many.rejects


def test_an_empty_table_gives_two_empty_tables(tmp_path, people, aligner):
    made = align_rows(manifest(str(tmp_path), people).slice(0, 0), aligner)
    assert (made.faces.num_rows, made.rejects.num_rows) == (0, 0)
    write_manifest(made.rejects, tmp_path / "rejects.parquet")
