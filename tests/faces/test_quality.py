"""Every measure falls with its defect, the gate names it, and real portraits pass."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.faces.alignment import ARCFACE112, EYE_SHARE, align, similarity, template, warp
from fahr.faces.conventions import crop_convention
from fahr.faces.quality import QUALITY_FIELDS, REMEDIES, Quality, QualityGate, head_pose, measure
from fahr.images import decode
from real.portraits import ABSENT, portraits_manifest, portraits_root

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
WEIGHTS = Path(os.environ.get("WEIGHTS") or Path(__file__).resolve().parents[3] / "shared" / "weights")
EYES_PX = 112 * EYE_SHARE


@dataclass(frozen=True)
class Sample:
    image: Pixels
    landmarks: Floats

    def quality(self, num_faces: int = 1) -> Quality:
        crop = align([self.image], self.landmarks[None]).faces[0]
        return measure(self.image, self.landmarks, num_faces, crop)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    options = CohortOptions(size_px=256)
    races = ("white", "black", "asian", "indian")
    drawn = [
        render_face(
            seed=5,
            subject=number,
            photo=0,
            apparent_age=25 + 5 * number,
            frailty=0,
            race=races[number % 4],
            options=options,
        )
        for number in range(12)
    ]
    return [Sample(face.image, face.landmarks) for face in drawn]


def tone(image: Pixels, change: Callable[[Floats], Floats]) -> Pixels:
    return np.rint(np.clip(change(image.astype(np.float64)), 0, 255)).astype(np.uint8)


def blur(sample: Sample, sigma: float) -> Sample:
    return Sample(cv2.GaussianBlur(sample.image, (0, 0), sigma) if sigma else sample.image, sample.landmarks)


def motion(sample: Sample, length: float) -> Sample:
    """Blurred along x only."""
    return Sample(cv2.blur(sample.image, (int(length), 1)), sample.landmarks)


def shrunk(sample: Sample, by: float) -> Sample:
    small = cv2.resize(sample.image, None, fx=1 / by, fy=1 / by, interpolation=cv2.INTER_AREA)
    return Sample(np.asarray(small, np.uint8), (sample.landmarks + 0.5) / by - 0.5)


def darker(sample: Sample, gain: float) -> Sample:
    return Sample(tone(sample.image, lambda x: x * gain), sample.landmarks)


def flatter(sample: Sample, contrast: float) -> Sample:
    return Sample(tone(sample.image, lambda x: 128 + (x - 128) * contrast), sample.landmarks)


def gamma(sample: Sample, power: float) -> Sample:
    return Sample(tone(sample.image, lambda x: 255 * (x / 255) ** power), sample.landmarks)


def one_side(sample: Sample, shade: float) -> Sample:
    """The half that is darker already gets darker."""
    x, y = np.rint(sample.landmarks[2]).astype(int)
    left, right = sample.image[y - 30 : y + 30, x - 40 : x], sample.image[y - 30 : y + 30, x : x + 40]
    row = (np.arange(sample.image.shape[1]) - x) / 60 * (1 if left.mean() > right.mean() else -1)
    return Sample(tone(sample.image, lambda p: p * (1 - shade * np.clip(row, 0, 1))[None, :, None]), sample.landmarks)


def jpeg(sample: Sample, quality: float) -> Sample:
    _, data = cv2.imencode(".jpg", sample.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return Sample(decode(data.tobytes()).pixels, sample.landmarks)


def tinted(*gains: float) -> Callable[[Sample, float], Sample]:
    def tint(sample: Sample, amount: float) -> Sample:
        return Sample(tone(sample.image, lambda x: x * (1 + amount * (np.array(gains) - 1))), sample.landmarks)

    return tint


def shifted(x: int, y: int) -> Callable[[Sample, float], Sample]:
    """The face moves towards a border of the frame, of which nothing but that place changes."""

    def shift(sample: Sample, pixels: float) -> Sample:
        by = np.array([x, y]) * pixels
        move = np.column_stack([np.eye(2), by])
        image = cv2.warpAffine(sample.image, move, (256, 256), borderMode=cv2.BORDER_REPLICATE)
        return Sample(np.asarray(image, np.uint8), sample.landmarks + by)

    return shift


def turned(yaw: float, pitch: float, roll: float) -> Callable[[Sample, float], Sample]:
    def turn(sample: Sample, degrees: float) -> Sample:
        return Sample(sample.image, head(yaw * degrees, pitch * degrees, roll * degrees) * 1.2 + 128)

    return turn


def head(yaw: float, pitch: float, roll: float) -> Floats:
    """(5, 2) px around (0, 0): a head of the average shape turned by degrees; its eyes 35.2 px apart."""
    depth = np.array([0, 0, 0.45, 0.08, 0.08]) * EYES_PX
    points = np.column_stack([ARCFACE112 - ARCFACE112.mean(0), depth])
    y, p, r = np.radians([yaw, pitch, roll])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (points @ (tilt @ turn @ nod).T)[:, :2]


# (component, degradation, its levels from none to worst, the least that the median falls)
DEFECTS = [
    ("Sharpness", blur, (0, 0.7, 1.2, 2, 3, 4.5), 50),
    ("Sharpness", motion, (1, 3, 5, 9, 13), 40),
    ("Sharpness", shrunk, (1, 1.5, 2, 3, 4), 25),
    ("UnderExposurePrevention", darker, (1, 0.5, 0.3, 0.2, 0.1), 90),
    ("UnderExposurePrevention", gamma, (1, 2, 3, 5, 9), 80),
    ("OverExposurePrevention", darker, (1, 1.5, 2, 3, 5, 9), 80),
    ("OverExposurePrevention", gamma, (1, 0.3, 0.1, 0.03, 0.01), 80),
    ("DynamicRange", flatter, (1, 0.7, 0.4, 0.2, 0.1, 0.03, 0), 80),
    ("IlluminationUniformity", one_side, (0, 0.2, 0.4, 0.6, 0.8, 1), 25),
    ("CompressionArtifacts", jpeg, (90, 60, 35, 20, 12, 6), 35),
    ("NaturalColour", tinted(0.6, 0.9, 1.3), (0, 0.5, 1, 1.5, 2), 60),
    ("NaturalColour", tinted(0.7, 1.2, 0.7), (0, 0.5, 1, 1.5, 2), 60),
    ("InterEyeDistance", shrunk, (1, 1.3, 1.7, 2.5, 4), 10),
    ("LeftwardCropOfTheFaceImage", shifted(-1, 0), (0, 25, 50, 75, 90), 40),
    ("RightwardCropOfTheFaceImage", shifted(1, 0), (0, 25, 50, 75, 90), 40),
    ("MarginAboveOfTheFaceImage", shifted(0, -1), (0, 25, 50, 75, 90), 30),
    ("MarginBelowOfTheFaceImage", shifted(0, 1), (0, 25, 50, 75, 90), 25),
    ("HeadPoseYaw", turned(1, 0, 0), (0, 10, 25, 40, 60), 70),
    ("HeadPoseYaw", turned(-1, 0, 0), (0, 10, 25, 40, 60), 70),
    ("HeadPosePitch", turned(0, 1, 0), (0, 10, 25, 40), 35),
    ("HeadPosePitch", turned(0, -1, 0), (0, 10, 25, 40), 35),
    ("HeadPoseRoll", turned(0, 0, 1), (0, 10, 30, 60, 90), 95),
    ("HeadPoseRoll", turned(0, 0, -1), (0, 10, 30, 60, 90), 95),
]


@pytest.mark.parametrize(("component", "degrade", "levels", "fall"), DEFECTS)
def test_a_component_falls_with_its_defect(
    samples: list[Sample],
    component: str,
    degrade: Callable[[Sample, float], Sample],
    levels: Sequence[float],
    fall: float,
) -> None:
    table = np.array(
        [[degrade(sample, level).quality().as_dict()[component] for level in levels] for sample in samples]
    )
    middle = np.median(table, axis=0)
    assert (np.diff(middle) < 0).all() or ((np.diff(middle) <= 0).all() and middle[-1] == 0), middle.round(1)
    # Each photo by itself: rounding and the phase of a grid may hide a small step, never a rise.
    assert np.diff(table, axis=1).max() < 4, table.round(1)
    assert middle[0] - middle[-1] >= fall, middle.round(1)


def test_a_second_face_is_seen_and_a_third_is_worse(samples: list[Sample]) -> None:
    values = [samples[0].quality(number).SingleFacePresent for number in (1, 2, 3)]
    assert values == pytest.approx([100, 50, 100 / 3])


def test_head_size_is_best_at_45_percent_of_the_height_and_falls_on_both_sides(samples: list[Sample]) -> None:
    sample = samples[0]
    to_chin = 1.85 * head_pose(sample.landmarks).eye_distance_px
    values = []
    for share in (0.15, 0.3, 0.45, 0.6, 0.9):
        height = round(to_chin / share)
        photo = np.zeros((height, 256, 3), np.uint8)
        values.append(measure(photo, sample.landmarks, 1, np.zeros((112, 112, 3), np.uint8)).HeadSize)
    assert values[0] < values[1] < values[2] > values[3] > values[4]
    assert values[2] > 97


def test_a_defect_of_one_kind_leaves_the_others_alone(samples: list[Sample]) -> None:
    """Light is not geometry, and geometry is not light."""
    for sample in samples[:4]:
        before, after = sample.quality().as_dict(), darker(sample, 0.5).quality().as_dict()
        geometry = [name for name in QUALITY_FIELDS if name.startswith(("Inter", "Head", "Left", "Right", "Margin"))]
        assert len(geometry) == 9 and all(before[name] == after[name] for name in geometry)
        moved = shifted(-1, 0)(sample, 20).quality().as_dict()
        for name in ("Sharpness", "DynamicRange", "NaturalColour", "IlluminationUniformity"):
            assert moved[name] == pytest.approx(before[name], abs=1.5)


def test_the_black_border_of_a_crop_is_not_a_dark_photo() -> None:
    """Half of a bright face lies outside the frame: what is seen of it is bright."""
    photo = np.full((120, 120, 3), 180, np.uint8)
    points = ARCFACE112 - (45, 0)
    quality = Sample(photo, points).quality()
    assert quality.UnderExposurePrevention == 100 and quality.DynamicRange == 0


def test_the_stored_size_of_the_face_changes_no_value_much(samples: list[Sample]) -> None:
    for sample in samples[:4]:
        small, large = (
            measure(sample.image, sample.landmarks, 1, align([sample.image], sample.landmarks[None], size).faces[0])
            for size in (112, 224)
        )
        for name in QUALITY_FIELDS:
            within = 15 if name == "Sharpness" else 2
            assert getattr(small, name) == pytest.approx(getattr(large, name), abs=within), name


def test_a_smaller_copy_still_counts_the_pixels_of_the_original(samples: list[Sample]) -> None:
    small = shrunk(samples[0], 2)
    crop = align([small.image], small.landmarks[None]).faces[0]
    told = measure(small.image, small.landmarks, 1, crop, pixel_scale=2.0)
    assert told.InterEyeDistance == pytest.approx(samples[0].quality().InterEyeDistance, abs=1e-6)


def test_eyes_under_20_pixels_apart_are_flagged_and_pass_the_gate() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for pixels, small in ((15, True), (19, True), (21, False), (60, False)):
        points = (ARCFACE112 - ARCFACE112.mean(0)) * (pixels / EYES_PX) + 150
        quality = Sample(photo, points).quality()
        assert quality.is_small is small
        assert QualityGate().reject(quality) is None


@pytest.mark.parametrize("yaw", [-45, -20, 0, 30])
@pytest.mark.parametrize("pitch", [-25, 0, 20])
@pytest.mark.parametrize("roll", [-90, -15, 0, 40, 170])
def test_the_pose_of_an_average_head_is_read_exactly(yaw: float, pitch: float, roll: float) -> None:
    pose = head_pose(head(yaw, pitch, roll) * 2 + 400)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((yaw, pitch, roll), abs=1e-3)
    assert pose.eye_distance_px == pytest.approx(2 * EYES_PX, rel=1e-4)


# The struct


def test_quality_is_a_parquet_struct_of_a_fixed_order(samples: list[Sample]) -> None:
    values = samples[0].quality().as_dict()
    assert tuple(values) == QUALITY_FIELDS == tuple(field.name for field in fields(Quality))
    assert all(type(value) is float and 0 <= value <= 100 for value in values.values())
    kind = pa.struct([(name, pa.float32()) for name in QUALITY_FIELDS])
    assert pa.array([values], kind).type == kind


def test_values_stay_in_range_for_hostile_pixels() -> None:
    rng = np.random.default_rng(0)
    photos = [np.zeros((9, 9, 3)), np.full((400, 400, 3), 255), rng.integers(0, 256, (200, 200, 3)), np.ones((1, 1, 3))]
    for photo in photos:
        for scale in (0.01, 1, 30):
            sample = Sample(photo.astype(np.uint8), ARCFACE112 * scale)
            values = list(sample.quality(0).as_dict().values())
            assert np.isfinite(values).all() and min(values) >= 0 and max(values) <= 100


# The gate


def test_the_gate_lets_rendered_faces_of_every_tone_pass(samples: list[Sample]) -> None:
    assert [QualityGate().reject(sample.quality()) for sample in samples] == [None] * len(samples)


@pytest.mark.parametrize(
    ("degrade", "level", "component"),
    [
        (blur, 9, "Sharpness"),
        (flatter, 0.01, "DynamicRange"),
        (darker, 0.05, "UnderExposurePrevention"),
        (darker, 60, "OverExposurePrevention"),
        (jpeg, 1, "CompressionArtifacts"),
        (shifted(-1, 0), 112, "LeftwardCropOfTheFaceImage"),
        (shifted(1, 0), 112, "RightwardCropOfTheFaceImage"),
        (shifted(0, -1), 118, "MarginAboveOfTheFaceImage"),
        (shifted(0, 1), 108, "MarginBelowOfTheFaceImage"),
        (turned(1, 0, 0), 68, "HeadPoseYaw"),
    ],
)
def test_junk_is_rejected_with_what_to_do(
    samples: list[Sample], degrade: Callable[[Sample, float], Sample], level: float, component: str
) -> None:
    caught = 0
    for sample in samples:
        said = QualityGate().reject(degrade(sample, level).quality())
        caught += said is not None
        if said is not None and said.startswith(component):
            assert "of 100, at least" in said and said.endswith(REMEDIES[component] + ".") and said.isascii()
    assert caught >= 0.8 * len(samples)


def test_a_blank_photo_is_rejected() -> None:
    blank = Sample(np.full((200, 200, 3), 128, np.uint8), ARCFACE112 + 40)
    said = QualityGate().reject(blank.quality())
    assert said in (
        "Sharpness is 0.0 of 100, at least 12 is needed: hold the camera still and focus on the face, or send a larger "
        "copy.",
        "DynamicRange is 0.0 of 100, at least 45 is needed: send the photo as the camera made it, with full contrast.",
    )


def test_the_gate_has_a_threshold_for_every_component_and_0_turns_it_off(samples: list[Sample]) -> None:
    assert tuple(QualityGate.model_fields) == QUALITY_FIELDS == tuple(REMEDIES)
    off = QualityGate(**dict.fromkeys(QUALITY_FIELDS, 0.0))
    worst = Quality(**dict.fromkeys(QUALITY_FIELDS, 0.0))
    assert off.reject(worst) is None
    for name in QUALITY_FIELDS:
        only = off.model_copy(update={name: 50.0})
        assert (only.reject(worst) or "").startswith(f"{name} is 0.0 of 100, at least 50 is needed: ")


def test_a_value_that_is_no_number_is_rejected() -> None:
    values = dict.fromkeys(QUALITY_FIELDS, 100.0) | {"Sharpness": float("nan")}
    assert (QualityGate().reject(Quality(**values)) or "").startswith("Sharpness is nan")


@pytest.mark.parametrize("options", [{"Sharpness": 101}, {"Sharpness": -1}, {"sharpness": 10}, {"Beauty": 3}])
def test_an_impossible_gate_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        QualityGate(**options)


# Faces that were cut before


def found_in_crops(samples: list[Sample], scale: float, shift: float = 0.0, roll: float = 0.0) -> Floats:
    """(N, 5, 2): landmarks in crops of 112 px that are not cut to the template, as a detector would scatter them."""
    rng = np.random.default_rng(0)
    crops = align([sample.image for sample in samples], np.stack([sample.landmarks for sample in samples]))
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    points = (crops.landmarks - 55.5) @ np.array([[cos, sin], [-sin, cos]]) * scale + 55.5 + (0, shift)
    return np.asarray(points + rng.normal(0, 0.8, points.shape))


@pytest.mark.parametrize(
    ("scale", "shift", "roll", "verdict"),
    [
        (1.0, 0, 0, "arcface112"),
        (1.3, 0, 0, "tight"),
        (0.7, 0, 0, "margin"),
        (0.45, 0, 0, "margin"),
        (1.0, -10, 0, "shifted"),
        (1.0, 0, 20, "turned"),
    ],
)
def test_crops_of_another_cut_are_told_apart(
    samples: list[Sample], scale: float, shift: float, roll: float, verdict: str
) -> None:
    told = crop_convention(found_in_crops(samples, scale, shift, roll), 112, 112)
    assert told.verdict == verdict
    assert told.scale == pytest.approx(scale, rel=0.06)
    assert told.roll == pytest.approx(roll, abs=3)
    if verdict == "arcface112":
        assert told.message is None
    else:
        assert f"{told.scale:.2f} times as large" in (told.message or "")
        assert "Align the original photos instead." in (told.message or "")


def test_the_size_of_the_crops_does_not_matter_but_their_shape_does(samples: list[Sample]) -> None:
    points = found_in_crops(samples, 1.0)
    assert crop_convention(points * 2, 224, 224).verdict == "arcface112"
    told = crop_convention(points + (0, 14), 112, 140)
    assert told.verdict == "not_square" and told.offset_y == pytest.approx(0, abs=0.03)
    with pytest.raises(ValueError, match="No landmarks"):
        crop_convention(np.empty((0, 5, 2)), 112, 112)


# Real portraits


@pytest.fixture(scope="module")
def portraits() -> list[tuple[Sample, Floats]]:
    """Every portrait with the landmarks and box that YuNet finds."""
    root = portraits_root()
    if root is None:
        pytest.skip(ABSENT)
    weights = WEIGHTS / "yunet_n_dynamic.onnx"
    if not weights.is_file():
        pytest.skip("the detector weights are not here (set WEIGHTS to their folder)")
    detector = cv2.FaceDetectorYN.create(str(weights), "", (200, 250), 0.6)
    found = []
    for uri in portraits_manifest(root)["uri"].to_pylist():
        image = decode(Path(uri).read_bytes()).pixels
        detector.setInputSize(image.shape[1::-1])
        faces = detector.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        best = max(faces, key=lambda face: face[-1]).astype(np.float64)
        found.append((Sample(image, best[4:14].reshape(5, 2)), best[:4]))
    return found


def test_all_real_portraits_pass_the_gate_with_room_to_spare(portraits: list[tuple[Sample, Floats]]) -> None:
    assert len(portraits) == 824
    values = np.array([list(sample.quality().as_dict().values()) for sample, _ in portraits])
    rejects = [said for row in values if (said := QualityGate().reject(Quality(*row)))]
    assert rejects == []
    least = np.array(list(QualityGate().model_dump().values()))
    nearest = {
        name: (low, need)
        for name, low, need in zip(QUALITY_FIELDS, values.min(0).round(1), least, strict=True)
        if need and low < 1.4 * need
    }
    assert nearest == {}


def test_real_portraits_blurred_beyond_recognition_are_rejected(portraits: list[tuple[Sample, Floats]]) -> None:
    said = [QualityGate().reject(blur(sample, 6).quality()) for sample, _ in portraits[::20]]
    assert np.mean([(each or "").startswith("Sharpness") for each in said]) > 0.9


def test_real_crops_are_told_apart_by_landmarks_found_in_the_crop(portraits: list[tuple[Sample, Floats]]) -> None:
    """Cut to the template, to the detector's box, and to the box with the 40 % margin of APPA-REAL; found again."""
    detector = cv2.FaceDetectorYN.create(str(WEIGHTS / "yunet_n_dynamic.onnx"), "", (224, 224), 0.5)

    def verdict(cut: Callable[[Sample, Floats], Pixels]) -> str:
        found = []
        for sample, box in portraits[::12]:
            faces = detector.detect(np.ascontiguousarray(cut(sample, box)[..., ::-1]))[1]
            if faces is not None:
                found.append(faces[0][4:14].reshape(5, 2))
        assert len(found) > 60
        return crop_convention(np.stack(found), 224, 224).verdict

    def square(margin: float) -> Callable[[Sample, Floats], Pixels]:
        def cut(sample: Sample, box: Floats) -> Pixels:
            scale = 224 / (max(box[2:]) * (1 + 2 * margin))
            x, y = box[:2] + box[2:] / 2
            return warp(sample.image, [[scale, 0, 112 - scale * x], [0, scale, 112 - scale * y]], 224)

        return cut

    def aligned(sample: Sample, _: Floats) -> Pixels:
        return warp(sample.image, similarity(sample.landmarks[None], template(224))[0], 224)

    assert verdict(aligned) == "arcface112"
    assert verdict(square(0.0)) == "shifted"
    assert verdict(square(0.4)) == "margin"
