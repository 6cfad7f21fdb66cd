"""Landmarks -> crops: the same as insightface's where that is right, and no aliasing where it is not."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fahr.cohorts.synthetic import CohortOptions, Face, render_face
from fahr.faces import alignment
from fahr.faces.alignment import ARCFACE112, align, check_landmarks, similarity, template, transform, warp

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
EYES_PX = 112 * alignment.EYE_SHARE

angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.02, 50)
shifts = st.tuples(st.floats(-4000, 4000), st.floats(-4000, 4000))


def planted(angle: float, scale: float, shift: tuple[float, float]) -> Floats:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def inverse(matrix: Floats) -> Floats:
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])


def by_svd(points: Floats, target: Floats) -> Floats:
    """Umeyama 1991, equations 40 to 43, as skimage's SimilarityTransform has them. (2, 3)"""
    p, t = points - points.mean(0), target - target.mean(0)
    covariance = t.T @ p / len(p)
    u, values, vt = np.linalg.svd(covariance)
    signs = np.array([1.0, -1.0 if np.linalg.det(covariance) < 0 else 1.0])
    rotation = u @ np.diag(signs) @ vt
    scale = (values @ signs) / p.var(axis=0).sum()
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ points.mean(0)])


def norm_crop(image: Pixels, landmarks: Floats, size: int = 112) -> Pixels:
    """insightface's: `estimate_norm` for sizes that 112 divides, then `warpAffine`."""
    matrix = by_svd(landmarks, ARCFACE112 * (size / 112))
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), borderValue=0.0), np.uint8)


def levels_apart(one: Pixels, other: Pixels) -> float:
    return float(abs(one.astype(np.int16) - other).mean())


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    options = CohortOptions(size_px=256)
    return [
        render_face(seed=3, subject=number, photo=0, apparent_age=50, frailty=0, options=options)
        for number in range(12)
    ]


def head(yaw: float, pitch: float, rng: np.random.Generator, scatter: float = 0.05) -> Floats:
    """(5, 2) px: a simulated head of an ordinary shape, turned by degrees, eyes 70 px apart, points scattered."""
    depth = np.array([0, 0, 0.45, 0.08, 0.08]) * EYES_PX
    points = np.column_stack([ARCFACE112 - ARCFACE112.mean(0), depth])
    points[:, :2] += rng.normal(0, scatter * EYES_PX, (5, 2))
    y, p = np.radians([yaw, pitch])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    return (points @ (turn @ nod).T)[:, :2] * 2 + 300


# The similarity


@given(angle=angles, scale=scales, shift=shifts)
def test_a_planted_similarity_is_recovered_exactly(angle: float, scale: float, shift: tuple[float, float]) -> None:
    matrix = planted(angle, scale, shift)
    points = transform(ARCFACE112, matrix)
    found = similarity(points[None], ARCFACE112)[0]
    assert transform(points, found) == pytest.approx(ARCFACE112, abs=1e-6)
    assert found[:, :2] == pytest.approx(inverse(matrix)[:, :2], abs=1e-7 / min(scale, 1) ** 2)


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0, 60))
def test_noisy_points_give_the_least_squares_fit_of_the_svd(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    points = ARCFACE112 * 2 + 100 + rng.normal(0, noise, (7, 5, 2))
    for found, one in zip(similarity(points, ARCFACE112), points, strict=True):
        assert transform(one, found) == pytest.approx(transform(one, by_svd(one, ARCFACE112)), abs=1e-8)


@given(seed=st.integers(0, 2**32 - 1))
def test_no_other_similarity_is_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = ARCFACE112 + rng.normal(0, 8, (5, 2))
    best = similarity(points[None], ARCFACE112)[0]
    error = ((transform(points, best) - ARCFACE112) ** 2).sum()
    for _ in range(8):
        a, b, x, y = rng.normal(0, 0.02, 4)
        other = best + np.array([[a, -b, x * 20], [b, a, y * 20]])
        assert ((transform(points, other) - ARCFACE112) ** 2).sum() >= error


@given(seed=st.integers(0, 2**32 - 1), angle=angles, scale=st.floats(0.1, 10), shift=shifts)
def test_moving_the_photo_moves_nothing_in_the_crop(
    seed: int, angle: float, scale: float, shift: tuple[float, float]
) -> None:
    points = ARCFACE112 + np.random.default_rng(seed).normal(0, 4, (5, 2))
    moved = transform(points, planted(angle, scale, shift))
    before = transform(points, similarity(points[None], ARCFACE112)[0])
    assert transform(moved, similarity(moved[None], ARCFACE112)[0]) == pytest.approx(before, abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_similarity_never_mirrors_even_mirrored_landmarks(seed: int) -> None:
    points = (ARCFACE112 + np.random.default_rng(seed).normal(0, 5, (5, 2))) * (-1, 1)
    assert np.linalg.det(similarity(points[None], ARCFACE112)[0][:, :2]) > 0


def test_landmarks_in_one_place_are_refused_by_their_row() -> None:
    points = np.stack([ARCFACE112, np.full((5, 2), 7.0)])
    with pytest.raises(ValueError, match="row 1"):
        similarity(points, ARCFACE112)


# The warp


def test_crops_equal_insightface_where_nothing_has_to_be_smoothed(faces: list[Face]) -> None:
    rng = np.random.default_rng(0)
    photos = [face.image for face in faces]
    landmarks = np.stack([face.landmarks for face in faces]) + rng.normal(0, 1.5, (len(faces), 5, 2))
    corners = np.array([[0, 0], [111, 0], [0, 111], [111, 111]])
    made = align(photos, landmarks)
    for photo, points, crop, matrix in zip(photos, landmarks, made.faces, made.matrices, strict=True):
        theirs = by_svd(points, ARCFACE112)
        seen = transform(corners, inverse(matrix))
        assert np.hypot(*(seen - transform(corners, inverse(theirs))).T).max() <= 1e-6  # 1 px is the promise
        assert levels_apart(crop, norm_crop(photo, points)) <= 0.01  # 2 grey levels are


@pytest.mark.parametrize("size", [112, 224, 160])
def test_a_larger_crop_shows_the_same_part_of_the_photo(faces: list[Face], size: int) -> None:
    made = align([faces[0].image], faces[0].landmarks[None], size)
    assert made.faces.shape == (1, size, size, 3)
    assert levels_apart(made.faces[0], norm_crop(faces[0].image, faces[0].landmarks, size)) <= 0.01
    assert made.landmarks[0] == pytest.approx(template(size), abs=0.06 * size)


@settings(deadline=None, max_examples=60)
@given(angle=angles, scale=st.floats(0.51, 6), shift=st.tuples(st.floats(-150, 150), st.floats(-150, 150)))
def test_mild_warps_equal_opencv_with_the_face_anywhere(angle: float, scale: float, shift: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (90, 130, 3)).astype(np.uint8), (0, 0), 1.5)
    matrix = planted(angle, scale, shift)
    theirs = cv2.warpAffine(image, matrix, (64, 64), borderValue=0.0)
    assert levels_apart(warp(image, matrix, 64), theirs) <= 0.02


def test_the_identity_changes_no_byte() -> None:
    image = np.random.default_rng(2).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    assert np.array_equal(warp(image, np.eye(2, 3), 112), image)


def test_a_face_outside_the_photo_is_black() -> None:
    image = np.full((50, 60, 3), 200, np.uint8)
    assert not warp(image, planted(0.3, 1.0, (500, -900)), 112).any()
    assert not warp(image, planted(0.3, 0.1, (500, -900)), 112).any()


def test_a_view_of_a_photo_gives_the_crop_of_its_copy(faces: list[Face]) -> None:
    flipped = faces[0].image[:, ::-1]
    points = faces[0].landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (flipped.shape[1] - 1, 0)
    crops = [align([photo], points[None]).faces for photo in (flipped, flipped.copy())]
    assert np.array_equal(*crops)


@pytest.mark.parametrize("shrinkage", [2.01, 2.6, 4, 7.3, 16])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_stripes_too_fine_for_the_crop_turn_grey(shrinkage: float, angle: float) -> None:
    """Stripes at 1.25 to 2 times the crop's finest would come back as coarse ones that no face has."""
    side = int(150 * shrinkage)
    x = np.arange(side)
    matrix = planted(angle, 1 / shrinkage, (0, 0))
    matrix[:, 2] = 31.5 - matrix[:, :2] @ [side / 2, side / 2]
    for times, left in ((1.25, 0.3), (1.6, 0.15), (2.0, 0.15)):
        frequency = times * 0.5 / shrinkage  # cycles a pixel of the photo
        stripes = np.rint(127.5 + 100 * np.cos(2 * np.pi * frequency * (x + 0.3))).astype(np.uint8)
        image = np.repeat(np.broadcast_to(stripes, (side, side))[..., None], 3, 2).copy()
        crop = warp(image, matrix, 64)
        amplitude = crop[8:-8, 8:-8].std() * np.sqrt(2) / 100
        plain = cv2.warpAffine(image, matrix, (64, 64))[8:-8, 8:-8].std() * np.sqrt(2) / 100
        assert amplitude <= left, f"{times}: {amplitude:.2f} of the stripes are left, {plain:.2f} without smoothing"
        assert amplitude < 0.75 * plain or plain < 0.1


@pytest.mark.parametrize("shrinkage", [2.01, 3, 5.5, 12])
def test_shrinking_keeps_brightness_and_place(shrinkage: float) -> None:
    side = int(80 * shrinkage)
    y, x = np.mgrid[0:side, 0:side] / side
    image = np.stack([40 + 160 * x, 40 + 160 * y, 90 + 100 * x * y], -1)
    matrix = planted(0.2, 1 / shrinkage, (0, 0))
    matrix[:, 2] = 31.5 - matrix[:, :2] @ [side / 2 - 0.5, side / 2 - 0.5]
    dithered = np.floor(image + np.random.default_rng(0).random(image.shape)).astype(np.uint8)
    crop = warp(dithered, matrix, 64)
    grid = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1).reshape(-1, 2)
    at = transform(grid, inverse(matrix))
    inside = (at > 3 * shrinkage).all(1) & (at < side - 1 - 3 * shrinkage).all(1)
    u, v = at[inside].T / side
    expected = np.stack([40 + 160 * u, 40 + 160 * v, 90 + 100 * u * v], -1)
    # On these ramps a crop that is off by a tenth of its pixel differs by 0.2 levels; means of four bytes, which
    # OpenCV rounds up from the half, account for 0.125.
    off = crop.reshape(-1, 3)[inside].astype(float) - expected
    assert abs(off.mean(0)).max() < 0.2 and abs(off).max() < 3
    assert inside.mean() > 0.5


def test_shrinking_past_the_border_fades_to_black() -> None:
    image = np.full((400, 400, 3), 200, np.uint8)
    matrix = planted(0, 0.2, (24, 24))
    crop = warp(image, matrix, 128).astype(int)
    assert (crop[30:98, 30:98] == 200).all() and not crop[:18].any() and not crop[:, -18:].any()


def test_a_face_in_a_huge_photo_costs_only_its_region() -> None:
    """16 megapixels held as one repeated row: copying them all would need 64 MB and be seen."""
    image = np.broadcast_to(np.arange(4096, dtype=np.uint8)[None, :, None], (4096, 4096, 3))
    crop = warp(image, planted(0, 1, (-2000, -2000)), 112)
    assert np.array_equal(crop[0, :, 0], np.arange(2000, 2112).astype(np.uint8))


def test_landmarks_land_where_their_pixels_do(faces: list[Face]) -> None:
    for face in faces[:4]:
        made = align([face.image], face.landmarks[None])
        back = transform(made.landmarks[0], inverse(made.matrices[0]))
        assert back == pytest.approx(face.landmarks, abs=1e-9)
    dot = np.zeros((300, 300, 3), np.uint8)
    points = transform(ARCFACE112, planted(0.4, 1.3, (80, 40)))
    marked = np.rint(points).astype(int)
    dot[marked[:, 1], marked[:, 0]] = 255
    crop = align([dot], points[None])
    for x, y in crop.landmarks[0]:
        around = crop.faces[0, round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3, 0]
        assert around.max() > 30


def test_photos_and_landmarks_must_match_in_number(faces: list[Face]) -> None:
    with pytest.raises(ValueError, match="1 photos and 2 rows"):
        align([faces[0].image], np.stack([ARCFACE112, ARCFACE112]))
    assert align([], np.empty((0, 5, 2))).faces.shape == (0, 112, 112, 3)


# FaceAge's crop


def public_faceage(photo: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """Science.md 6, step by step."""
    x1, y1, width, height = box
    x1, y1 = abs(x1), abs(y1)
    x2, y2 = x1 + width, y1 + height
    return np.asarray(Image.fromarray(photo[y1:y2, x1:x2]).convert("RGB").resize((160, 160), Image.BICUBIC))


@pytest.mark.parametrize("box", [(40, 30, 90, 120), (-12, -7, 100, 130), (200, 180, 90, 90), (3, 4, 1, 1)])
def test_faceage_crops_are_the_public_code_s_to_the_byte(faces: list[Face], box: tuple[int, int, int, int]) -> None:
    crop, matrix = alignment.faceage_crop(faces[0].image, box)
    assert np.array_equal(crop, public_faceage(faces[0].image, box))
    assert matrix.shape == (2, 3)


def test_landmarks_follow_a_stretched_faceage_crop() -> None:
    photo = np.zeros((200, 220, 3), np.uint8)
    photo[60:64, 50:54] = 255
    crop, matrix = alignment.faceage_crop(photo, (20, 30, 80, 120))
    y, x = np.argwhere(crop[..., 0] > 128).mean(0)
    assert transform(np.array([[51.5, 61.5]]), matrix)[0] == pytest.approx([x, y], abs=0.3)


def test_boxes_are_rounded_as_mtcnn_does() -> None:
    assert alignment.mtcnn_box([10.9, 20.2, 50.1, 80.9]) == (10, 20, 40, 60)
    assert alignment.mtcnn_box([-3.5, -0.2, 50.1, 80.9]) == (0, 0, 50, 80)


@pytest.mark.parametrize("box", [(300, 10, 20, 20), (10, 10, 0, 20), (10, 10, 20, -5)])
def test_a_box_without_a_pixel_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="holds no pixel of the 256 x 256 photo"):
        alignment.faceage_crop(np.zeros((256, 256, 3), np.uint8), box)


# Landmark checks


@pytest.mark.parametrize("yaw", [-60, -45, -20, 0, 20, 45, 60])
@pytest.mark.parametrize("pitch", [-30, 0, 30])
def test_a_turned_head_passes_and_its_mirror_image_does_not(yaw: float, pitch: float) -> None:
    rng = np.random.default_rng(abs(yaw) * 100 + pitch + 50)
    for _ in range(40):
        points = head(yaw, pitch, rng)
        assert check_landmarks(points, 600, 600) is None
        swapped = points[[1, 0, 2, 4, 3]]
        upside_down = points * (1, -1) + (0, 600)
        for wrong in (swapped, upside_down):
            assert "mirrored" in (check_landmarks(wrong, 600, 600) or "")


@given(angle=angles, scale=st.floats(0.05, 5))
def test_a_face_at_any_angle_in_the_plane_passes(angle: float, scale: float) -> None:
    points = transform(ARCFACE112 - ARCFACE112.mean(0), planted(angle, scale, (400, 400)))
    assert check_landmarks(points, 800, 800) is None


def test_rendered_faces_pass(faces: list[Face]) -> None:
    assert all(check_landmarks(face.landmarks, 256, 256) is None for face in faces)


def changed(where: object, value: object) -> Floats:
    points = ARCFACE112.copy()
    points[where] = value  # type: ignore[index]
    return points


LINE = np.column_stack([np.array([30.0, 45, 60, 75, 90]), np.array([30.0, 46, 59, 75, 91])])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (changed((2, 0), np.nan), r"1 of 10 landmark values are not finite"),
        (changed(1, np.inf), r"2 of 10 landmark values are not finite"),
        (changed((0, 0), 1e9), r"1e\+09 px; no photo is that large"),
        (changed(4, ARCFACE112[3]), r"Landmarks 4 and 5 lie 0 px apart, duplicated"),
        (np.full((5, 2), 50.0), r"duplicated"),
        (LINE, r"collinear: 0\.0\d+ times as wide as long, 0\.08 is the least"),
        (ARCFACE112[[1, 0, 2, 4, 3]], r"mirrored: .* give them as the viewer sees them"),
        (ARCFACE112[[3, 4, 2, 0, 1]], r"mirrored"),
        (ARCFACE112[[2, 0, 4, 1, 3]], r"miss the shape of a face by 0\.\d+ eye distances, 0\.45 is allowed"),
        (ARCFACE112 - (80, 0), r"[1-9]\.\d eye distances outside the 112 x 112 photo, 0\.5 is allowed"),
        (ARCFACE112 + (0, 60), r"eye distances outside"),
        (ARCFACE112[:4], r"shape \(4, 2\)"),
    ],
)
def test_impossible_landmarks_are_named_with_the_remedy(points: Floats, message: str) -> None:
    said = check_landmarks(points, 112, 112)
    assert said is not None
    assert re.search(message, said), said
    assert re.search("detect the face again|give (them|landmarks)", said) and said.isascii()


def test_landmarks_just_outside_the_frame_pass() -> None:
    assert check_landmarks(ARCFACE112 - (50, 0), 112, 112) is None
