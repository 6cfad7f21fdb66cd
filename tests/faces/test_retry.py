"""What one look misses: photos on their side, faces that fill the frame, small ones. Points come back in the photo."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fahr.faces.detectors import Detector, Face, InputSize, create_detector, views
from fahr.faces.detectors.retry import Retrying
from fahr.images import decode
from real.portraits import ABSENT, portraits_root

WEIGHTS = Path(os.environ.get("WEIGHTS") or Path(__file__).resolve().parents[2].parent / "shared" / "weights")
NAMES = ("retinaface-mobile", "mtcnn", "yunet")


class Marks:
    """Finds one red and one blue dot: a "face" whose eyes they are. `sees` decides whether it is in the mood."""

    name = "marks"

    def __init__(self, sees: Callable[[np.ndarray], float]) -> None:
        self.sees = sees
        self.seen: list[tuple[int, ...]] = []

    def detect(self, photos: Sequence[np.ndarray]) -> list[list[Face]]:
        return [self._detect(photo) for photo in photos]

    def _detect(self, photo: np.ndarray) -> list[Face]:
        self.seen.append(photo.shape[:2])
        score = self.sees(photo)
        if not score:
            return []
        red, blue = (self._middle(photo, channel) for channel in (0, 2))
        points = np.stack([red, blue, (red + blue) / 2, red, blue]).astype(np.float32)
        return [Face(np.concatenate([points.min(0), points.max(0)]), points, score)]

    @staticmethod
    def _middle(photo: np.ndarray, channel: int) -> np.ndarray:
        weight = photo[..., channel].astype(float) * (photo[..., channel] > photo.max(axis=2) - 1)
        weight[photo[..., channel] < 100] = 0
        ys, xs = np.mgrid[: photo.shape[0], : photo.shape[1]]
        return np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()


def dotted(height: int = 300, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    photo = np.zeros((height, width, 3), np.uint8)
    points = np.array([[60, 100], [140, 130]], np.float64)
    for (x, y), colour in zip(points.astype(int), ((255, 0, 0), (0, 0, 255)), strict=True):
        photo[y - 8 : y + 9, x - 8 : x + 9] = colour
    return photo, points


LOOKS: dict[str, Callable[[np.ndarray], views.View]] = {
    "whole": views.whole,
    "shrunk": lambda photo: views.whole(photo, 0.5),
    "enlarged": lambda photo: views.whole(photo, 2.0),
    "padded": lambda photo: views.padded(photo, 1.0),
    "padded and shrunk": lambda photo: views.padded(photo, 0.5),
    "turned once": lambda photo: views.turned(photo, 1.0, 1),
    "turned twice": lambda photo: views.turned(photo, 1.0, 2),
    "turned thrice": lambda photo: views.turned(photo, 1.0, 3),
    "turned and shrunk": lambda photo: views.turned(photo, 0.5, 1),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_point_found_in_any_view_comes_back_to_its_pixel(name: str) -> None:
    photo, points = dotted()
    view = LOOKS[name](photo)
    (face,) = Marks(lambda _: 1.0).detect([view.pixels])[0]
    back = view.back(face)
    assert abs(back.landmarks[:2] - points).max() < 0.05
    assert np.allclose(back.box, [60, 100, 140, 130], atol=0.05)


def test_a_turned_photo_keeps_the_first_eye_first() -> None:
    """The photo is upside down, so the upright face's first eye lies on the right of the photo."""
    photo, points = dotted()
    upside_down = np.ascontiguousarray(photo[::-1, ::-1])
    upright = lambda seen: 0.9 if Marks._middle(seen, 0)[0] < Marks._middle(seen, 2)[0] else 0.0  # noqa: E731
    (face,) = Retrying(Marks(upright), InputSize(), upright_score=0.5).detect([upside_down])[0]
    expected = np.array(photo.shape[1::-1]) - 1 - points
    assert abs(face.landmarks[:2] - expected).max() < 0.05 and face.landmarks[0, 0] > face.landmarks[1, 0]


def test_boxes_that_come_back_stay_in_the_photo() -> None:
    photo, _ = dotted()
    view = views.padded(photo, 1.0)
    whole = Face(np.array([0, 0, view.pixels.shape[1], view.pixels.shape[0]], np.float32), np.zeros((5, 2)), 1.0)
    assert view.back(whole).box.tolist() == [0, 0, 199, 299]


def test_a_sure_face_is_looked_at_once_and_no_look_is_wasted() -> None:
    sure = Marks(lambda _: 0.9)
    Retrying(sure, InputSize(), upright_score=0.5).detect([dotted()[0]])
    assert sure.seen == [(300, 200)]
    padded = Marks(lambda photo: 0.9 if len(photo) == 300 and photo[0, 0, 0] != 0 else 0.0)
    Retrying(padded, InputSize(), upright_score=0.5).detect([dotted()[0]])
    assert len(padded.seen) == 2
    never = Marks(lambda _: 0.0)
    assert Retrying(never, InputSize(), upright_score=0.5).detect([dotted()[0]]) == [[]]
    assert never.seen == [(300, 200), (300, 200), (600, 400), (200, 300), (200, 300), (300, 200)]
    assert Retrying(never, InputSize(), upright_score=0.5, retry=False).detect([dotted()[0]]) == [[]]
    assert len(never.seen) == 7


def test_an_unsure_face_stays_unless_a_turned_one_is_surer() -> None:
    def sideways(photo: np.ndarray) -> float:
        return 0.8 if photo.shape[1] > photo.shape[0] else 0.6

    for sees, expected in ((sideways, 0.8), (lambda _: 0.6, 0.6)):
        (face,) = Retrying(Marks(sees), InputSize(), upright_score=0.9).detect([dotted()[0]])[0]
        assert face.score == expected and abs(face.landmarks[:2] - dotted()[1]).max() < 0.05


def test_only_the_photos_without_a_face_are_looked_at_again_and_each_keeps_its_place() -> None:
    bright = np.maximum(dotted()[0], 40)
    marks = Marks(lambda photo: 0.9 if photo.min() >= 40 or photo.shape[0] == 600 else 0.0)
    found = Retrying(marks, InputSize(), upright_score=0.5).detect([dotted()[0], bright, dotted()[0]])
    assert [len(faces) for faces in found] == [1, 1, 1]
    assert marks.seen == [(300, 200)] * 3 + [(300, 200)] * 2 + [(600, 400)] * 2  # whole, padded, larger


@pytest.fixture
def few() -> list[np.ndarray]:
    root = portraits_root()
    if root is None:
        pytest.skip(ABSENT)
    return [decode(path.read_bytes()).pixels for path in sorted(root.glob("images/gpo2014/*.jpg"))[::220]]


def detector(name: str, monkeypatch: pytest.MonkeyPatch) -> Detector:
    if name != "mtcnn" and not (WEIGHTS / "retinaface_mobilenet025.pth").is_file():
        pytest.skip("the detector weights are not here (set WEIGHTS to their folder)")
    torch.set_num_threads(1)
    monkeypatch.setenv("FAHR_WEIGHTS", str(WEIGHTS))
    return create_detector(name)


def eye_distance(face: Face) -> float:
    return float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_photos_on_their_side_or_upside_down_give_the_landmarks_of_the_upright_face(
    name: str, quarters: int, few: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = detector(name, monkeypatch)
    for photo, upright in zip(few, found.detect(few), strict=True):
        turned = views.turned(photo, 1.0, quarters)
        (faces,) = found.detect([turned.pixels])
        assert len(faces) == 1
        back = turned.back(faces[0])
        assert abs(back.landmarks - upright[0].landmarks).max() < 0.1 * eye_distance(upright[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_face_that_fills_the_frame_is_found(
    name: str, few: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = detector(name, monkeypatch)
    for photo, (face,) in zip(few, found.detect(few), strict=True):
        x1, y1, x2, y2 = face.box.clip(0).round().astype(int)
        close = cv2.resize(photo[y1:y2, x1:x2], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        (faces,) = found.detect([close])
        assert len(faces) == 1
        expected = (face.landmarks - (x1, y1)) * 4
        assert np.hypot(*(faces[0].landmarks - expected).T).mean() < 0.2 * 4 * eye_distance(face)


@pytest.mark.parametrize("name", NAMES)
def test_a_face_of_a_twentieth_of_the_photo_is_found(
    name: str, few: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = detector(name, monkeypatch)
    for photo in few:
        scene = np.full((480, 640, 3), 100, np.uint8)
        scene[200:262, 300:350] = cv2.resize(photo, (50, 62), interpolation=cv2.INTER_AREA)  # the face: about 32 px
        (faces,) = found.detect([scene])
        assert len(faces) == 1
        assert (abs(faces[0].landmarks - (325, 231)) < 31).all()
