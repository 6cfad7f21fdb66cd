"""Detectors find what the packages they come from find, whatever else is in the batch, and name the points alike."""

import copy
import csv
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fahr.errors import Refused
from fahr.faces.detectors import DETECTORS, Detector, Face, InputSize, create_detector, given_face
from fahr.faces.detectors.decoding import VALUES, anchor_grid, best_of_overlapping, decode, join_levels, logit
from fahr.faces.detectors.faces import equal_batches
from fahr.faces.detectors.mobile import OnPhotos
from fahr.faces.detectors.mobile_network import ANCHORS as MOBILE
from fahr.faces.detectors.mtcnn import Mtcnn
from fahr.faces.detectors.networks import OnnxNetwork, TorchNetwork
from fahr.faces.detectors.retinaface import ANCHORS as PACKAGE
from fahr.faces.detectors.retinaface import Network, from_network, package_network
from fahr.faces.detectors.retinaface import OnPhotos as InTorch
from fahr.images import decode as decode_photo
from real.portraits import ABSENT, portraits_root

WEIGHTS = Path(os.environ.get("WEIGHTS") or Path(__file__).resolve().parents[2].parent / "shared" / "weights")
HERE = ("retinaface-mobile", "mtcnn", "yunet")  # those whose weights may be on a test machine
_made: dict[tuple[str, Any], Detector] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def detector(name: str, **options: Any) -> Detector:
    if name != "mtcnn" and not (WEIGHTS / "retinaface_mobilenet025.pth").is_file():
        pytest.skip("the detector weights are not here (set WEIGHTS to their folder)")
    key = (name, tuple(sorted(options.items())))
    if key not in _made:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FAHR_WEIGHTS", str(WEIGHTS))
            _made[key] = create_detector(name, **options)
    return _made[key]


def portraits() -> list[np.ndarray]:
    """The 48 of the quick set: 36 grey of 200 x 250 px, 12 larger ones in colour."""
    root = portraits_root()
    if root is None:
        pytest.skip(ABSENT)
    with open(root / "fixture.csv", encoding="utf-8", newline="") as file:
        paths = sorted({root / row["image"] for row in csv.DictReader(file)})
    return [decode_photo(path.read_bytes()).pixels for path in paths]


def textures(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 12, width // 12, 3), np.uint8)
    return [cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in coarse]


def random_package_network(photos: list[np.ndarray]) -> Any:
    """The package's network, seeded, its norms set by the photos, its heads scaled so that it sees many faces."""
    torch.manual_seed(0)
    network = package_network()
    batch = torch.from_numpy(np.stack(photos)).float()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        outputs = network.train()(batch)
        network.eval()
        for number, stride in enumerate((32, 16, 8)):
            head: Any = getattr(network, f"face_rpn_stride{stride}")
            sure = outputs[3 * number][..., 2:].logit()
            head.cls_score.weight *= 1.5 / sure.std()
            head.cls_score.bias *= 1.5 / sure.std()
            head.cls_score.bias[:2] += 3.0  # background
            head.bbox_pred.weight *= 0.2 / outputs[3 * number + 1].std()
            head.landmark_pred.weight *= 0.2 / outputs[3 * number + 2].std()
    return network


def package_faces(network: Any, photo: np.ndarray, threshold: float) -> list[Face]:
    with warnings.catch_warnings():  # its front door mutes every warning of the process
        from retinaface import RetinaFace

        faces = RetinaFace.detect_faces(photo[:, :, ::-1], threshold=threshold, model=network, allow_upscaling=False)
    return [
        Face(np.array(face["facial_area"]), np.array(list(face["landmarks"].values())), float(face["score"]))
        for face in faces.values()
    ]


@pytest.mark.parametrize("size", [(250, 200), (187, 301)])
def test_batched_retinaface_gives_the_faces_of_the_package_s_own_function(size: tuple[int, int]) -> None:
    photos = textures(3, *size)
    network = random_package_network(photos)
    with torch.no_grad():
        outputs = network(torch.from_numpy(np.stack(photos)).float())
    scores = torch.cat([outputs[number][..., 2:].flatten() for number in (0, 3, 6)]).sort(descending=True).values
    threshold = float((scores[99] + scores[100]) / 2)  # a hundred anchors, none so near that rounding decides
    assert 0.5 < threshold < 1
    found = from_network(copy.deepcopy(network), threshold=threshold).detect(photos)
    assert sum(map(len, found)) >= 20
    for photo, faces in zip(photos, found, strict=True):
        reference = package_faces(network, photo, threshold)
        assert len(faces) == len(reference)
        for face, other in zip(faces, reference, strict=True):
            assert abs(face.landmarks - other.landmarks).max() <= 0.05
            assert abs(face.box - other.box).max() <= 1.01  # theirs are cut to whole numbers
            assert face.score == pytest.approx(other.score, abs=1e-4)


def test_importing_the_package_s_network_leaves_warnings_as_they_were() -> None:
    before = list(warnings.filters)
    package_network()
    assert warnings.filters == before


def test_package_and_mobile_anchors_lie_where_their_sources_put_them() -> None:
    height, width = 100, 70
    for anchors, base in ((PACKAGE, None), (MOBILE, 0.5)):
        grid = anchor_grid(anchors, height, width, "cpu").numpy()
        expected = []
        for stride, sizes in zip(anchors.strides_px, anchors.sizes_px, strict=True):
            for y in range(-(-height // stride)):
                for x in range(-(-width // stride)):
                    for size in sizes:
                        shift = 7.5 if base is None else base * stride
                        expected.append((x * stride + shift, y * stride + shift, size))
        assert np.array_equal(grid, np.array(expected, np.float32))


def test_decoding_inverts_what_training_would_have_encoded() -> None:
    rng = np.random.default_rng(0)
    for anchors in (PACKAGE, MOBILE):
        cells = anchor_grid(anchors, 64, 96, "cpu").numpy()
        one = float(anchors.whole_pixels)
        for number in rng.integers(0, len(cells), 20):
            x, y, side = cells[number]
            low = rng.uniform(0, 20, 2)
            high = low + rng.uniform(5, 40, 2)
            points = rng.uniform(0, 60, (5, 2))
            row = np.full((1, len(cells), VALUES), -9, np.float32)
            middle = ((low + high) / 2 - (x, y)) / side / anchors.shift_unit
            growth = np.log((high - low + one) / side) / anchors.growth_unit
            marks = (points - (x, y)) / side / anchors.shift_unit
            row[0, number] = [3.0, *middle, *growth, *marks.ravel()]
            found = decode(torch.from_numpy(row), anchors, 64, 96, 0.0)[0]
            assert np.allclose(found.boxes_F4[0], [*low, *high], atol=1e-3)
            assert np.allclose(found.landmarks_F52[0], points, atol=1e-3)
            assert float(found.scores_F[0]) == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)


def slow_overlap(boxes: np.ndarray, scores: np.ndarray, limit: float, one: int) -> list[int]:
    """Greedy, box by box, in whole numbers: overlap >= limit is 10 * common >= 10 * limit * union."""
    left, kept = sorted(range(len(boxes)), key=lambda n: -scores[n]), []
    while left:
        best = left.pop(0)
        kept.append(best)

        def drops(n: int, best: int = best) -> bool:
            width = min(boxes[best][2], boxes[n][2]) - max(boxes[best][0], boxes[n][0]) + one
            height = min(boxes[best][3], boxes[n][3]) - max(boxes[best][1], boxes[n][1]) + one
            common = max(0, width) * max(0, height)
            areas = sum((b[2] - b[0] + one) * (b[3] - b[1] + one) for b in (boxes[best], boxes[n]))
            return bool(10 * common >= round(10 * limit) * (areas - common))

        left = [n for n in left if not drops(n)]
    return kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([PACKAGE, MOBILE]))
def test_overlap_agrees_with_a_slow_loop_also_where_it_is_exactly_at_the_limit(
    seed: int, count: int, anchors: Any
) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 12, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 10, (count, 2))], 1)  # small whole numbers: 0.4 is often met
    scores = rng.permutation(count).astype(np.float32)
    kept = best_of_overlapping(boxes.astype(np.float32), scores, anchors)
    assert kept.tolist() == slow_overlap(boxes, scores, 0.4, int(anchors.whole_pixels))


def test_boxes_that_overlap_by_exactly_the_limit_lose_to_the_better_one() -> None:
    boxes, scores = np.array([[0, 0, 10, 7], [0, 0, 10, 2.8]], np.float32), np.array([0.9, 0.8], np.float32)
    assert best_of_overlapping(boxes, scores, MOBILE).tolist() == [0]


def test_mobile_in_onnx_runtime_equals_torch() -> None:
    quick, slow = (
        detector("retinaface-mobile", retry=False),
        detector("retinaface-mobile", precision="bf16", retry=False),
    )
    network = slow.detector.exact  # type: ignore[attr-defined]
    assert isinstance(network, OnPhotos)
    for photo in textures(2, 120, 97) + textures(1, 33, 250):
        with torch.inference_mode():
            expected = join_levels(network(torch.from_numpy(photo)[None].float()))
            maps = quick.detector.maps(photo)  # type: ignore[attr-defined]
            found = join_levels([torch.from_numpy(each)[None].permute(0, 3, 1, 2) for each in maps])
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-3)


def test_retinaface_in_onnx_runtime_equals_torch() -> None:
    photos = textures(2, 120, 97)
    package = random_package_network(photos)
    quick, slow = from_network(copy.deepcopy(package)), InTorch(Network(package))
    assert isinstance(quick, OnnxNetwork)
    for photo in photos + textures(1, 33, 250):
        with torch.inference_mode():
            expected = join_levels(slow(torch.from_numpy(photo)[None].float()))
        found = join_levels([torch.from_numpy(each)[None].permute(0, 3, 1, 2) for each in quick.maps(photo)])
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-3)


def test_mtcnn_gives_the_faces_of_facenet_pytorch() -> None:
    from facenet_pytorch import MTCNN

    package = MTCNN()
    photos = [*portraits()[::6], np.hstack([portraits()[0], portraits()[1]])]  # the last shows two faces
    photos = [cv2.copyMakeBorder(photo, *[60] * 4, cv2.BORDER_REPLICATE) for photo in photos]  # at the frame we differ
    found = Mtcnn(threshold=0.7).detect(photos)
    assert len(found[-1]) >= 2
    for photo, faces in zip(photos, found, strict=True):
        boxes, scores, points = package.detect(photo, landmarks=True)
        order = np.argsort(-scores.astype(float), kind="stable")
        assert len(faces) == len(order)
        for face, other in zip(faces, order, strict=True):
            assert abs(face.box - boxes[other]).max() < 0.01 and abs(face.landmarks - points[other]).max() < 0.01


@pytest.mark.parametrize("name", HERE)
def test_every_portrait_has_exactly_one_face_with_its_eyes_above_its_mouth(name: str) -> None:
    photos = portraits()
    for photo, faces in zip(photos, detector(name).detect(photos), strict=True):
        assert len(faces) == 1
        height, width = photo.shape[:2]
        left_eye, right_eye, nose, left_mouth, right_mouth = faces[0].landmarks
        assert 0 <= left_eye[0] < nose[0] < right_eye[0] < width and left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1]) < height
        assert 0.5 < faces[0].score <= 1 and faces[0].box.dtype == faces[0].landmarks.dtype == np.float32


@pytest.mark.parametrize("name", HERE)
def test_the_viewer_s_left_stays_left_in_a_mirrored_photo(name: str) -> None:
    for photo in portraits()[::12]:
        straight, mirrored = detector(name).detect([photo, np.ascontiguousarray(photo[:, ::-1])])
        back = mirrored[0].landmarks[[1, 0, 2, 4, 3]]
        back[:, 0] = photo.shape[1] - 1 - back[:, 0]
        eyes = float(np.hypot(*(straight[0].landmarks[1] - straight[0].landmarks[0])))
        assert np.hypot(*(back - straight[0].landmarks).T).mean() < 0.15 * eyes


@pytest.mark.parametrize("name", HERE)
def test_a_photo_s_faces_do_not_depend_on_its_neighbours(name: str) -> None:
    photos = [*portraits()[::12], *textures(1, 90, 130), np.zeros((250, 200, 3), np.uint8)]
    together = detector(name).detect(photos)
    for photo, faces in zip(photos, together, strict=True):
        (alone,) = detector(name).detect([photo])
        assert len(alone) == len(faces)
        for one, other in zip(alone, faces, strict=True):
            assert abs(one.box - other.box).max() < 1e-3 and abs(one.landmarks - other.landmarks).max() < 1e-3


def test_batched_retinaface_does_not_depend_on_the_batch_either() -> None:
    photos = textures(3, 96, 120) + textures(2, 64, 64)
    layers = InTorch(Network(random_package_network(photos[:3])))  # as on CUDA; on a CPU photos go one by one
    network = TorchNetwork("retinaface", layers, PACKAGE, threshold=0.5, batch=2)
    together = network.detect(photos)
    assert sum(map(len, together)) > 5
    for photo, faces in zip(photos, together, strict=True):
        (alone,) = network.detect([photo])
        assert np.allclose([face.box for face in alone], [face.box for face in faces], atol=1e-2)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_and_tiny_photos_have_no_face(name: str, value: int) -> None:
    sizes = [(1, 1), (2, 9), (11, 40), (200, 160), (3, 700)]
    found = detector(name).detect([np.full((*size, 3), value, np.uint8) for size in sizes])
    assert found == [[] for _ in sizes]


@pytest.mark.parametrize("name", HERE)
def test_nothing_in_nothing_out(name: str) -> None:
    assert detector(name).detect([]) == []
    assert detector(name).name == name


def test_bf16_loses_no_face_and_moves_landmarks_by_half_a_pixel_at_most() -> None:
    photos = [*portraits()]
    exact, quick = (
        detector("retinaface-mobile", retry=False),
        detector("retinaface-mobile", precision="bf16", retry=False),
    )
    shrunk = [cv2.resize(photo, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for photo in photos]
    apart = []
    for several in (photos, shrunk):  # shrunk: many scores are near the threshold
        for faces, others in zip(exact.detect(several), quick.detect(several), strict=True):
            assert len(faces) == len(others)
            apart += [np.hypot(*(a.landmarks - b.landmarks).T).max() for a, b in zip(faces, others, strict=True)]
    assert len(apart) > 60 and np.percentile(apart, 95) <= 0.5
    assert quick.detector.seen_twice > 0  # type: ignore[attr-defined]


def test_photos_of_a_wrong_kind_are_told_apart_from_photos_without_a_face() -> None:
    for wrong in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 is needed"):
            detector("mtcnn").detect([wrong])


def test_given_landmarks_become_a_face_around_them() -> None:
    points = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float64)
    for form in (points, points.ravel().tolist()):
        face = given_face(form)
        assert np.array_equal(face.landmarks, points.astype(np.float32)) and face.score == 1
        assert (face.box[:2] < points.min(0)).all() and (face.box[2:] > points.max(0)).all()


def test_a_detector_that_cannot_be_is_refused_in_one_sentence() -> None:
    with pytest.raises(Refused, match=r"there are retinaface, .* Did you mean 'yunet'\?"):
        create_detector("yunett")
    with pytest.raises(Refused, match="given"):
        create_detector("given")
    with pytest.raises(Refused, match="bf16"):
        create_detector("mtcnn", precision="bf16")
    with pytest.raises(Refused, match="CPU only"):
        create_detector("yunet", device="cuda")
    assert len(DETECTORS) == 5


def test_a_threshold_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        logit(1.0)
    assert logit(0.5) == 0


@pytest.mark.parametrize(("longer", "expected"), [(100, 320), (320, 320), (500, 500), (640, 640), (4000, 640)])
def test_input_size_brings_the_longer_side_between_its_bounds(longer: int, expected: int) -> None:
    size = InputSize(max_side=640, min_side=320)
    assert round(size.scale(np.zeros((longer, 50, 3), np.uint8)) * longer) == expected


@pytest.mark.evidence
def test_three_detectors_agree_on_all_portraits() -> None:
    root = portraits_root()
    if root is None:
        pytest.skip(ABSENT)
    photos = [decode_photo(path.read_bytes()).pixels for path in sorted(root.glob("images/*/*.jpg"))]
    found = {name: detector(name).detect(photos) for name in HERE}
    for name, faces in found.items():
        none, one, *more = np.bincount([len(each) for each in faces], minlength=3)
        print(f"\n{name}: {len(photos)} portraits, {one} with one face, {none} with none, {sum(more)} with more")
    eyes = {name: np.stack([faces[0].landmarks[:2] for faces in each]) for name, each in found.items()}
    distance = np.hypot(*(eyes["mtcnn"][:, 1] - eyes["mtcnn"][:, 0]).T)[:, None]
    for name, other in ((a, b) for a in HERE for b in HERE if a < b):
        apart = np.hypot(*np.moveaxis(eyes[name] - eyes[other], -1, 0)) / distance
        print(f"{name} and {other}: eyes {np.median(apart):.1%} apart, p95 {np.quantile(apart, 0.95):.1%}")
        assert np.median(apart) <= 0.05
    assert all(len(faces) == 1 for each in found.values() for faces in each)


def test_equal_batches_hold_every_photo_once_and_neither_too_many_nor_too_large() -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (side, 40, 3), np.uint8) for side in (10, 20, 10, 30, 20, 10, 10, 500)]
    for most, most_px in ((2, None), (8, 800), (3, 400), (8, 1)):
        seen = []
        for numbers, equal in equal_batches(photos, most, most_px):
            assert len(numbers) <= most
            assert most_px is None or len(numbers) == 1 or equal[..., 0].size <= most_px
            for number, photo in zip(numbers, equal, strict=True):
                assert np.array_equal(photo, photos[number])
            seen += numbers
        assert sorted(seen) == list(range(len(photos)))
