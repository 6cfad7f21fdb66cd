"""Rendered people: detectors find them, age and frailty are where they should be and nowhere else, bytes repeat."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from fahr.cohorts import read_manifest
from fahr.cohorts.synthetic import (
    KINDS,
    CohortOptions,
    CueStrengths,
    contact_sheet,
    face_of,
    jpeg,
    make_cohort,
    make_truth,
    render_face,
    render_junk,
    write_sheets,
)
from fahr.cohorts.synthetic.anatomy import LANDMARKS
from fahr.cohorts.synthetic.person import person_of, shot_of
from fahr.cohorts.synthetic.strokes import EYE_LINE_PX, MIDLINE_PX
from fahr.cohorts.synthetic.warp import Pose
from fahr.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = Path(os.environ.get("WEIGHTS") or ROOT.parent / "shared" / "weights")
PORTRAITS = ROOT.parent / "shared" / "data" / "portraits" / "images" / "gpo2014"
FACES, DETECTED = 600, 500
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# rows and columns of the 112 px template
REGIONS = {
    "forehead": (slice(10, 34), slice(26, 86)),
    "folds": (slice(72, 102), slice(26, 86)),
    "temple": (slice(18, 46), slice(8, 24)),
    "mouth": (slice(84, 100), slice(38, 74)),
    "under_eye": (slice(56, 68), slice(24, 88)),
    "bridge": (slice(46, 58), slice(49, 63)),
}
AGE_OFF = {"folds": 0, "forehead": 0, "temples": 0, "texture": 0, "hair": 0, "jaw": 0}


def similarity(points: np.ndarray) -> np.ndarray:
    """The least-squares similarity without reflection that takes five points to the template."""
    n = len(points)
    rows = np.zeros((2 * n, 4))
    rows[:n] = np.column_stack([points[:, 0], -points[:, 1], np.ones(n), np.zeros(n)])
    rows[n:] = np.column_stack([points[:, 1], points[:, 0], np.zeros(n), np.ones(n)])
    a, b, x, y = np.linalg.lstsq(rows, np.concatenate([TEMPLATE[:, 0], TEMPLATE[:, 1]]), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y]])


def aligned(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, similarity(landmarks), (112, 112))


@dataclass(frozen=True)
class Crowd:
    photos: list[np.ndarray]
    landmarks: np.ndarray
    grey: np.ndarray  # n x 112 x 112, at the template
    age: np.ndarray
    frailty: np.ndarray


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    """600 people of a cohort, a photo each, none of them chosen."""
    truth = make_truth(FACES, seed=0)
    faces = [face_of(truth, row, seed=0, options=CohortOptions()) for row in range(FACES)]
    grey = [cv2.cvtColor(aligned(face.image, face.landmarks), cv2.COLOR_RGB2GRAY) for face in faces]
    return Crowd(
        photos=[face.image for face in faces],
        landmarks=np.array([face.landmarks for face in faces]),
        grey=np.array(grey, np.float32),
        age=truth.truth.column("age").to_numpy(),
        frailty=truth.truth.column("frailty").to_numpy(),
    )


def weights(name: str) -> Path:
    if not (WEIGHTS / name).is_file():
        pytest.skip("the detector weights are not here (set WEIGHTS to their folder)")
    return WEIGHTS / name


def test_mtcnn_finds_exactly_one_face_in_97_of_100_photos_and_its_landmarks(crowd: Crowd) -> None:
    torch = pytest.importorskip("torch")
    from facenet_pytorch import MTCNN

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    counts, errors = [], []
    detector = MTCNN(keep_all=True, device="cpu")
    for start in range(0, DETECTED, 50):
        boxes, _, points = detector.detect(crowd.photos[start : start + 50], landmarks=True)
        for offset, (box, point) in enumerate(zip(boxes, points, strict=True)):
            counts.append(0 if box is None else len(box))
            if counts[-1] == 1:
                difference = np.asarray(point[0], float) - crowd.landmarks[start + offset]
                errors.append(np.hypot(*difference.T).mean())
    torch.set_num_threads(threads)
    print("mtcnn: faces found", np.bincount(counts) / DETECTED, "median landmark error px", np.median(errors))
    assert np.mean(np.array(counts) == 1) >= 0.97
    assert np.median(errors) < 3.0  # of about 50 px between the eyes


def test_yunet_finds_exactly_one_face_in_99_of_100_photos(crowd: Crowd) -> None:
    detector = cv2.FaceDetectorYN.create(str(weights("yunet_n_dynamic.onnx")), "", (256, 256), 0.6)
    found = [detector.detect(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))[1] for photo in crowd.photos[:DETECTED]]
    counts = np.array([0 if faces is None else len(faces) for faces in found])
    print("yunet: faces found", np.bincount(counts) / DETECTED)
    assert np.mean(counts == 1) >= 0.99


def test_retinaface_mobile_finds_exactly_one_face_in_99_of_100_photos(crowd: Crowd) -> None:
    pytest.importorskip("torch")
    from tools.retinaface_mobile import detect, load

    model = load(weights("retinaface_mobilenet025.pth"))
    counts = []
    for start in range(0, DETECTED, 20):
        counts += [len(faces) for faces in detect(model, crowd.photos[start : start + 20])]
    print("retinaface-mobile: faces found", np.bincount(counts) / DETECTED)
    assert np.mean(np.array(counts) == 1) >= 0.99


def test_the_tests_own_retinaface_finds_one_face_in_real_portraits() -> None:
    pytest.importorskip("torch")
    from tools.retinaface_mobile import detect, load

    model = load(weights("retinaface_mobilenet025.pth"))
    portraits = sorted(PORTRAITS.glob("*.jpg"))[:25]
    if not portraits:
        pytest.skip("the real portraits are not here (set PORTRAITS to their folder)")
    photos = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in portraits]
    assert [len(detect(model, [photo])[0]) for photo in photos] == [1] * len(photos)


def ridge_correlation(crops: np.ndarray, target: np.ndarray, folds: int = 4) -> float:
    """Correlation of a ridge regression's held-out predictions with the target."""
    pixels = crops.reshape(len(crops), -1)
    pixels = (pixels - pixels.mean(1, keepdims=True)) / (pixels.std(1, keepdims=True) + 1)
    fold = np.arange(len(crops)) % folds
    predicted = np.zeros(len(crops))
    for held_out in range(folds):
        train, test = fold != held_out, fold == held_out
        mean, sd = pixels[train].mean(0), pixels[train].std(0) + 1e-3
        a, b = (pixels[train] - mean) / sd, (pixels[test] - mean) / sd
        kernel = a @ a.T + 0.5 * a.shape[1] * np.eye(len(a))
        dual = np.linalg.solve(kernel, target[train] - target[train].mean())
        predicted[test] = b @ (a.T @ dual) + target[train].mean()
    return float(np.corrcoef(predicted, target)[0, 1])


def test_ridge_regression_finds_age_and_frailty_in_the_right_regions_and_not_in_the_wrong_ones(crowd: Crowd) -> None:
    found = {
        name: tuple(ridge_correlation(crowd.grey[:, rows, columns], target) for target in (crowd.age, crowd.frailty))
        for name, (rows, columns) in REGIONS.items()
    }
    small = np.array([cv2.resize(face, (56, 56), interpolation=cv2.INTER_AREA) for face in crowd.grey])
    found["whole face"] = (ridge_correlation(small, crowd.age), ridge_correlation(small, crowd.frailty))
    print("ridge r of (age, frailty):", {name: tuple(round(r, 2) for r in pair) for name, pair in found.items()})
    assert 0.6 < found["whole face"][0] < 0.97 and 0.3 < found["whole face"][1] < 0.95  # there, and not trivial
    age, frailty = ({name: pair[k] for name, pair in found.items()} for k in (0, 1))
    assert min(age[name] for name in ("forehead", "folds", "temple")) > 0.6
    assert min(frailty[name] for name in ("under_eye", "bridge")) > 0.3
    assert max(age[name] for name in ("under_eye", "bridge")) < 0.4
    assert max(abs(frailty[name]) for name in ("forehead", "folds", "temple", "mouth")) < 0.2


def difference_between(low: dict[str, float], high: dict[str, float]) -> np.ndarray:
    """Mean absolute difference in grey levels, at the template, of photos that differ in nothing else; 4 people."""
    settings = {"apparent_age": 50.0, "frailty": 0.0}
    found = []
    for subject in range(4):
        who = {"seed": 1, "subject": subject, "photo": 0, "sex": "female"}
        first, second = (render_face(**who, **(settings | values)) for values in (low, high))
        assert np.abs(first.landmarks - second.landmarks).max() < 0.5
        a, b = (aligned(face.image, first.landmarks).astype(float) for face in (first, second))
        found.append(np.abs(a - b).mean(2))
    return np.mean(found, 0)


def test_frailty_changes_the_skin_under_the_eyes_and_the_bridge_and_nothing_else() -> None:
    difference = difference_between({"frailty": -1.5}, {"frailty": 1.5})
    inside = np.zeros((112, 112), bool)
    inside[38:72, 18:94] = True
    assert difference[REGIONS["under_eye"]].mean() > 3 and difference[REGIONS["bridge"]].mean() > 3
    assert difference[~inside].max() < 2.5 and difference[~inside].mean() < 0.02


def test_age_changes_folds_forehead_and_temples_and_spares_the_skin_under_the_eyes() -> None:
    difference = difference_between({"apparent_age": 35.0}, {"apparent_age": 80.0})
    assert min(difference[REGIONS[name]].mean() for name in ("forehead", "folds", "temple")) > 3
    assert difference[58:65, 32:48].mean() < 0.6 and difference[REGIONS["bridge"]].mean() < 0.6


@pytest.mark.parametrize(
    ("off", "changed"), [(AGE_OFF, {"apparent_age": 85.0}), ({"under_eye": 0, "bridge": 0}, {"frailty": 2.0})]
)
def test_strength_0_removes_every_cue(off: dict[str, float], changed: dict[str, float]) -> None:
    options = CohortOptions(cues=CueStrengths(**off))
    for subject in range(3):
        who = {"seed": 2, "subject": subject, "photo": 0, "sex": "male", "options": options}
        plain = render_face(**who, **{"apparent_age": 25.0, "frailty": -2.0})
        marked = render_face(**who, **({"apparent_age": 25.0, "frailty": -2.0} | changed))
        assert np.array_equal(plain.image, marked.image)


@pytest.mark.parametrize("cue", sorted(CueStrengths.model_fields))
def test_each_cue_has_its_own_strength(cue: str) -> None:
    who = {"seed": 3, "subject": 1, "photo": 0, "sex": "male", "apparent_age": 75.0, "frailty": 1.5}
    usual = render_face(**who)
    without = render_face(**who, options=CohortOptions(cues=CueStrengths(**{cue: 0})))
    assert not np.array_equal(usual.image, without.image)


def test_a_later_photo_is_the_same_person_in_another_shot() -> None:
    people = 100
    descriptors = []
    for photo in (0, 1):
        rows = []
        for subject in range(people):
            face = render_face(
                seed=4,
                subject=subject,
                photo=photo,
                apparent_age=45.0 + 2 * photo,
                frailty=0.0,
                sex=("female", "male")[subject % 2],
                race=("white", "black", "asian", "other")[subject // 2 % 4],
            )
            small = cv2.resize(aligned(face.image, face.landmarks), (28, 28), interpolation=cv2.INTER_AREA)
            rows.append((small - small.mean((0, 1))).ravel() / small.std())
        descriptors.append(np.array(rows))
    distance = ((descriptors[0][:, None] - descriptors[1][None]) ** 2).sum(-1)
    own = np.diag(distance)
    nearer = (own[:, None] < distance)[~np.eye(people, dtype=bool)].mean()
    assert own.min() > 0  # new light, pose and camera
    assert nearer > 0.8, nearer  # 0.5 if photos of a person had nothing in common


@pytest.mark.parametrize("size", [100, 256, 512])
def test_landmarks_are_exactly_where_the_warp_puts_the_canonical_ones(size: int) -> None:
    canonical = LANDMARKS + (MIDLINE_PX, EYE_LINE_PX)
    for subject in range(20):
        person = person_of(9, subject, "male", "white")
        pose = Pose(person, shot_of(9, subject, 0, person), size, jowl=0.5)
        points = pose.to_photo(LANDMARKS).astype(np.float32)
        shown = cv2.remap(pose.map(), points[None, :, 0], points[None, :, 1], cv2.INTER_LINEAR)[0]
        photo_px = np.abs(shown - canonical).max() * size / 256
        assert photo_px < 0.4  # the map is linear between nodes 8 px apart, the inverse is not


def test_landmarks_are_in_image_order_inside_the_photo_and_follow_its_size() -> None:
    for subject in range(20):
        small, large = (
            render_face(
                seed=6,
                subject=subject,
                photo=0,
                apparent_age=50,
                frailty=0,
                options=CohortOptions(size_px=size),
            )
            for size in (256, 512)
        )
        left_eye, right_eye, nose, left_mouth, right_mouth = small.landmarks
        assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert small.landmarks.min() > 0 and small.landmarks.max() < 255
        assert large.image.shape == (512, 512, 3)
        assert np.abs((large.landmarks + 0.5) / 2 - 0.5 - small.landmarks).max() < 0.1


def test_the_same_seed_draws_the_same_bytes_in_another_process_and_another_seed_does_not() -> None:
    def digest(seed: int) -> str:
        truth = make_truth(6, photos_per_subject=2, seed=seed)
        options = CohortOptions()
        photos = [
            jpeg(face_of(truth, row, seed=seed, options=options).image, 92) for row in range(truth.truth.num_rows)
        ]
        return hashlib.sha256(b"".join(photos)).hexdigest()

    code = (
        "import hashlib; from fahr.cohorts.synthetic import CohortOptions, face_of, jpeg, make_truth;"
        "t = make_truth(6, photos_per_subject=2, seed=7); rows = reversed(range(t.truth.num_rows));"
        "p = [jpeg(face_of(t, r, seed=7, options=CohortOptions()).image, 92) for r in rows];"
        "print(hashlib.sha256(b''.join(reversed(p))).hexdigest())"  # drawn last to first: no state between photos
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert digest(7) == digest(7) == told != digest(8)


def test_a_known_face_still_looks_as_it_did_when_these_numbers_were_written() -> None:
    face = render_face(seed=1, subject=2, photo=0, apparent_age=55, frailty=0.5, sex="male", race="asian")
    grey = cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).astype(int)
    golden = np.array(GOLDEN)
    assert np.abs(thumbnail - golden).max() <= 3, thumbnail.tolist()
    assert np.abs(face.landmarks - np.array(GOLDEN_LANDMARKS)).max() < 0.3, face.landmarks.round(1).tolist()


def test_a_cohort_on_disk_is_a_manifest_its_photos_and_the_truth(tmp_path: Path) -> None:
    options = CohortOptions(size_px=128)
    manifest_path, truth_path = make_cohort(8, 2, seed=5, out=tmp_path / "people", options=options)
    manifest, truth = read_manifest(manifest_path), pq.read_table(truth_path)
    assert manifest.column("photo_id").to_pylist() == truth.column("photo_id").to_pylist()
    assert manifest.num_rows > 8
    expected = make_truth(8, photos_per_subject=2, seed=5, options=options)
    assert truth.equals(expected.truth)
    for row, uri in enumerate(manifest.column("uri").to_pylist()):
        face = face_of(expected, row, seed=5, options=options)
        assert Path(uri).read_bytes() == jpeg(face.image, options.jpeg_quality)
        assert manifest.column("landmarks")[row].as_py() == pytest.approx(face.landmarks.ravel(), abs=0.006)
    assert manifest.column("age").to_numpy() == pytest.approx(truth.column("age").to_numpy(), abs=1e-9)
    assert set(manifest.column_names) >= {"sex", "race", "site", "ecog", "smoking", "alcohol", "stage", "intent"}
    assert sorted(p.name for p in (tmp_path / "people").iterdir()) == ["manifest.parquet", "photos", "truth.parquet"]


def test_junk_holds_no_face_many_faces_or_no_flesh() -> None:
    pytest.importorskip("torch")
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, device="cpu")
    counts = {}
    for kind in KINDS:
        photos = [render_junk(kind, seed=1, number=number) for number in range(6)]
        assert len({photo.tobytes() for photo in photos}) == 6
        assert np.array_equal(photos[0], render_junk(kind, seed=1, number=0))
        boxes = [detector.detect(photo)[0] for photo in photos]
        counts[kind] = [0 if box is None else len(box) for box in boxes]
    assert max(counts["blank"]) == 0 and np.mean(np.array(counts["object"]) == 0) > 0.6, counts
    assert np.mean(np.array(counts["several"]) >= 2) > 0.8, counts
    statue = np.asarray(render_junk("statue"), float)
    assert (statue.max(2) - statue.min(2)).mean() < 20  # stone, not skin


def test_unknown_junk_and_unknown_sheets_are_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match="Did you mean 'cartoon'"):
        render_junk("cartoons")
    with pytest.raises(Refused, match="by 'age' or by 'frailty'"):
        contact_sheet("beauty")


def test_a_contact_sheet_has_a_row_a_person_and_a_column_a_value(tmp_path: Path) -> None:
    options = CohortOptions(size_px=96)
    assert contact_sheet("age", people=2, values=(20, 50, 80), options=options).shape == (192, 288, 3)
    assert contact_sheet("frailty", people=1, options=options).shape == (96, 480, 3)
    assert all(cv2.imread(path) is not None for path in write_sheets(tmp_path))


# an 8 x 8 thumbnail in grey levels, and landmarks in pixels
GOLDEN = [
    [119, 109, 108, 104, 105, 120, 121, 121],
    [120, 105, 107, 154, 176, 124, 116, 120],
    [119, 107, 107, 150, 191, 176, 110, 120],
    [115, 108, 106, 115, 143, 172, 121, 123],
    [118, 110, 98, 111, 158, 145, 124, 122],
    [127, 112, 98, 81, 110, 119, 119, 119],
    [124, 111, 111, 105, 139, 118, 120, 119],
    [113, 115, 120, 127, 129, 122, 119, 113],
]
GOLDEN_LANDMARKS = [[100.1, 116.5], [143.5, 113.5], [122.3, 142.1], [108.5, 166.3], [141.7, 164.5]]
