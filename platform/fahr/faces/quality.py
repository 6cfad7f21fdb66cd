"""How good is this photo of a face, and is it good enough? Measures under the component names of ISO/IEC 29794-5.

    quality = measure(photo, landmarks, num_faces=1, face=crop)   # Quality(Sharpness=62.0, ...), 0 to 100, 100 is best
    QualityGate().reject(quality)                                 # None, or a sentence that says what is wrong

The names are those of OFIQ, the reference implementation, and the values its values where five landmarks and a crop
tell as much (InterEyeDistance, HeadSize, HeadPose*, DynamicRange, NaturalColour). The others have the same meaning and
direction by quicker means than OFIQ's networks: compare them among photos, not with OFIQ's output.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, Field

from fahr.faces.alignment import ARCFACE112, EYE_SHARE, Floats, Pixels, similarity, transform

SMALL_FACE_PX = 20  # between the eyes: flagged below (docs/align.md)

_EYES = 112 * EYE_SHARE  # pixels between the eyes in the template
_CHIN = 1.85  # from the eyes to the chin, in eye distances; ISO/IEC 39794-5 calls it T
# How far nose tip and mouth corners stand out before the eyes, in eye distances (our default: about 28 and 5 mm of 63).
_DEPTH = np.array([0, 0, 0.45, 0.08, 0.08])
_CENTRED = ARCFACE112 - ARCFACE112.mean(0)
_HEAD = np.column_stack([_CENTRED / _EYES, _DEPTH - _DEPTH.mean()])  # (5, 3) in eye distances, y down, z to the viewer
_TO_CAMERA = np.linalg.pinv(_HEAD)  # (3, 5): least squares for the two rows of a scaled orthographic camera
_FACE = cv2.ellipse(np.zeros((112, 112), np.uint8), (56, 70), (32, 42), 0, 0, 360, 255, -1)


@dataclass(frozen=True)
class Quality:
    """0 to 100, 100 is best. The order of the fields is the order in the Parquet struct."""

    Sharpness: float  # detail of the aligned face that a blur of 5 pixels takes away
    UnderExposurePrevention: float  # share of the face's pixels brighter than 25 of 255
    OverExposurePrevention: float  # share of the face's pixels darker than 247 of 255
    DynamicRange: float  # 12.5 x entropy of the face's luminance in bits
    IlluminationUniformity: float  # brightness of the darker half of the face in % of the other
    CompressionArtifacts: float  # falls with the steps at the borders of JPEG blocks
    NaturalColour: float  # mean CIELAB colour of the face against that of skin; grey photos have 66
    SingleFacePresent: float  # 100 / number of faces
    InterEyeDistance: float  # 50 at 70 px, as if the head looked into the camera
    HeadSize: float  # 100 where eyes to chin is 0.45 of the photo's height, less for larger and smaller
    LeftwardCropOfTheFaceImage: float  # of the four: 0 with the eye on that border, 50 at OFIQ's half-way point
    RightwardCropOfTheFaceImage: float
    MarginAboveOfTheFaceImage: float
    MarginBelowOfTheFaceImage: float
    HeadPoseYaw: float  # of the three: 100 x squared cosine of the angle
    HeadPosePitch: float
    HeadPoseRoll: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @property
    def is_small(self) -> bool:
        """The eyes are less than 20 px apart: a flag, for such faces are scored, but not to be trusted alone."""
        return self.InterEyeDistance < _eye_score(SMALL_FACE_PX)


QUALITY_FIELDS = tuple(field.name for field in fields(Quality))


def measure(photo: Pixels, landmarks: ArrayLike, num_faces: int, face: Pixels, *, pixel_scale: float = 1.0) -> Quality:
    """(H, W, 3) uint8, (5, 2) pixels of the photo, faces in it, and the `arcface112` crop of this one (any size).

    `pixel_scale`: pixels of the original for one of `photo`, where that is a smaller copy. Only the distance between
    the eyes is counted in the original; blocks of JPEG are no longer seen in a copy.
    """
    points = np.asarray(landmarks, np.float64)
    height, width = photo.shape[:2]
    pose = head_pose(points)
    if face.shape[0] != 112:  # the same face has the same values, whatever size is stored
        by = cv2.INTER_AREA if face.shape[0] > 112 else cv2.INTER_LINEAR
        face = np.asarray(cv2.resize(face, (112, 112), interpolation=by), np.uint8)
    grey = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.uint8)
    mask = _face_mask(points, width, height)
    eyes = pose.eye_distance_px
    y = float(points[:2, 1].mean())
    to_chin = _CHIN * eyes
    return Quality(
        Sharpness=_sharpness(grey),
        **_light(grey, mask),
        CompressionArtifacts=_compression(photo, points, eyes),
        NaturalColour=_natural_colour(face, mask),
        SingleFacePresent=100 / max(num_faces, 1),
        InterEyeDistance=_eye_score(eyes * pixel_scale),
        HeadSize=200 * _sigmoid(-abs(to_chin / height - 0.45) / 0.05),
        LeftwardCropOfTheFaceImage=_ramp(points[:2, 0].min() / eyes, 1.8),
        RightwardCropOfTheFaceImage=_ramp((width - 1 - points[:2, 0].max()) / eyes, 1.8),
        MarginAboveOfTheFaceImage=_ramp(y / to_chin, 2.8),
        MarginBelowOfTheFaceImage=_ramp((height - 1 - y) / to_chin, 3.6),
        HeadPoseYaw=_facing(pose.yaw),
        HeadPosePitch=_facing(pose.pitch),
        HeadPoseRoll=_facing(pose.roll),
    )


@dataclass(frozen=True)
class HeadPose:
    """Degrees. yaw > 0: turned to the viewer's right; pitch > 0: looking down; roll > 0: clockwise to the viewer."""

    yaw: float
    pitch: float
    roll: float
    eye_distance_px: float  # as it would be if the head looked into the camera


def head_pose(landmarks: ArrayLike) -> HeadPose:
    """(5, 2) -> pose of an average head seen by a scaled orthographic camera, by least squares.

    One photo cannot tell a long nose from a lowered head: pitch is good to about 15 degrees, yaw to 5.
    """
    points = np.asarray(landmarks, np.float64)
    across, down = (_TO_CAMERA @ (points - points.mean(0))).T  # rows of the camera: pixels an eye distance
    roll = math.atan2(down[0], across[0])
    cos, sin = math.cos(roll), math.sin(roll)
    across, down = cos * across + sin * down, cos * down - sin * across  # the head upright: down[0] is 0
    pitch = math.atan2(down[2], down[1])
    # With the yaw outermost: across = (cos yaw, ..., sin yaw cos pitch) and down = (0, cos pitch, sin pitch).
    yaw = math.atan2(across[2], across[0] * math.cos(pitch))
    size = float(np.hypot(np.linalg.norm(across), np.linalg.norm(down)) / math.sqrt(2))
    return HeadPose(math.degrees(yaw), math.degrees(pitch), math.degrees(roll), size)


def _facing(degrees: float) -> float:
    return 100 * max(0.0, math.cos(math.radians(degrees))) ** 2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


def _eye_score(pixels: float) -> float:
    return 100 * _sigmoid((pixels - 70) / 20)


def _ramp(value: float, full: float) -> float:
    return 100 * float(min(max(value / full, 0.0), 1.0))


def _face_mask(points: Floats, width: int, height: int) -> NDArray[np.uint8]:
    """(112, 112) 255 on the face and inside the photo: the black border of a crop is not a dark photo."""
    frame = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    seen = transform(frame, similarity(points[None], ARCFACE112)[0])
    inside = np.zeros((112, 112), np.uint8)
    cv2.fillConvexPoly(inside, np.rint(np.clip(seen, -30_000, 30_000)).astype(np.int32), 255)
    return np.asarray(cv2.bitwise_and(inside, _FACE), np.uint8)


def _sharpness(grey: NDArray[np.uint8]) -> float:
    """After Crete et al. 2007: of the steps between neighbours, how much does a blur take away? Blurred: nothing.

    The lesser of both directions counts, for motion blurs one of them. Brightness and contrast cancel, but for steps of
    one grey level: those are rounding, and all that a face without any detail has. Noise and JPEG blocks look sharp.
    """
    inner = grey[30:106, 24:88].astype(np.float32)  # brows to mouth: hair and background are no part of it
    kept = []
    for axis, kernel in ((0, (1, 5)), (1, (5, 1))):
        steps = np.abs(np.diff(inner, axis=axis))
        blurred = np.abs(np.diff(cv2.blur(inner, kernel), axis=axis))
        kept.append(float(np.maximum(steps - blurred - 0.8, 0).sum() / max(float(steps.sum()), 1.0)))
    return _ramp(min(kept), 0.6)  # 0.6 is as sharp as 824 studio portraits get


def _light(grey: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[str, float]:
    halves = [np.bincount(grey[:, side][mask[:, side] > 0], minlength=256) for side in _SIDES]
    counts = halves[0] + halves[1]
    share = counts / max(counts.sum(), 1)
    means = [float(half @ _LEVELS / max(half.sum(), 1)) for half in halves]
    present = share[share > 0]
    return {
        "UnderExposurePrevention": 100 * float(share[26:].sum()),
        "OverExposurePrevention": 100 * float(share[:247].sum()),
        "DynamicRange": 12.5 * abs(float((present * np.log2(present)).sum())),
        "IlluminationUniformity": 100 * min(means) / max(*means, 1e-6),
    }


_SIDES = (slice(0, 56), slice(56, 112))
_LEVELS = np.arange(256)


def _natural_colour(face: Pixels, mask: NDArray[np.uint8]) -> float:
    """OFIQ: how far is the mean colour from a* 5 to 25 and b* 5 to 35, where skin of every tone lies?"""
    _, a, b, _ = cv2.mean(cv2.cvtColor(face, cv2.COLOR_RGB2LAB), mask)
    a, b = a - 128, b - 128
    off = math.hypot(max(0.0, 5 - a, a - 25), max(0.0, 5 - b, b - 35))
    return 200 * _sigmoid(-off / 10)


def _compression(photo: Pixels, points: Floats, eyes: float) -> float:
    """Steps at every eighth column and row against those between, at the photo's own pixels: 100 x (1 - contrast).

    The grid is looked for at all eight offsets, for a photo may have been turned or cut after its compression.
    """
    centre = points.mean(0)
    reach = min(max(eyes * 1.2, 12.0), 96.0)  # enough of the face to tell, and little enough to be quick
    (left, top), (right, bottom) = (
        np.clip(centre + side * reach, 0, photo.shape[1::-1]).astype(int).tolist() for side in (-1, 1)
    )
    if right - left < 24 or bottom - top < 24:  # fewer than three blocks: nothing to see, nothing to blame
        return 100.0
    grey = np.asarray(cv2.cvtColor(photo[top:bottom, left:right].copy(), cv2.COLOR_RGB2GRAY), np.uint8)
    worst = 0.0
    for shift in ((1, 0), (0, 1)):
        lag = grey[: grey.shape[0] - shift[0], : grey.shape[1] - shift[1]]
        steps = cv2.absdiff(grey[shift[0] :, shift[1] :], lag)
        line = cv2.reduce(steps, 1 if shift[0] else 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        phases = line[: len(line) // 8 * 8].reshape(-1, 8).mean(0)
        peak = float(phases.max())
        rest = (float(phases.sum()) - peak) / 7
        worst = max(worst, (peak - rest) / (peak + rest + 0.5))
    return 100 * (1 - worst)


# The gate

_CROPPED = "take the photo with the whole face in the frame"
REMEDIES = {
    "Sharpness": "hold the camera still and focus on the face, or send a larger copy",
    "UnderExposurePrevention": "take the photo with more light on the face",
    "OverExposurePrevention": "take the photo with less light on the face",
    "DynamicRange": "send the photo as the camera made it, with full contrast",
    "IlluminationUniformity": "light both sides of the face alike",
    "CompressionArtifacts": "send a copy with a higher JPEG quality",
    "NaturalColour": "take the photo in white light and without a filter",
    "SingleFacePresent": "take the photo with one person in it",
    "InterEyeDistance": "come closer, or send a larger copy",
    "HeadSize": "let the head, from eyes to chin, take 45 % of the height",
    "LeftwardCropOfTheFaceImage": _CROPPED,
    "RightwardCropOfTheFaceImage": _CROPPED,
    "MarginAboveOfTheFaceImage": _CROPPED,
    "MarginBelowOfTheFaceImage": _CROPPED,
    "HeadPoseYaw": "turn the face to the camera",
    "HeadPosePitch": "look straight into the camera, held at the height of the eyes",
    "HeadPoseRoll": "hold the head upright",
}


def _least(default: float) -> Any:
    notes: dict[str, Any] = {"unit": "of 100", "off": "0"}
    return Field(default, ge=0, le=100, description="least value that is let through", json_schema_extra=notes)


class QualityGate(BaseModel, frozen=True, extra="forbid"):
    """The least of each component that is let through; 0 lets everything through. Named as in `Quality`.

    The defaults stop only what nobody could read: all 824 real portraits pass, none within 1.4 times a threshold.
    """

    Sharpness: float = _least(12)
    UnderExposurePrevention: float = _least(10)
    OverExposurePrevention: float = _least(10)
    DynamicRange: float = _least(45)
    IlluminationUniformity: float = _least(0)
    CompressionArtifacts: float = _least(25)
    NaturalColour: float = _least(0)
    SingleFacePresent: float = _least(0)
    InterEyeDistance: float = _least(5)
    HeadSize: float = _least(0)
    LeftwardCropOfTheFaceImage: float = _least(5)
    RightwardCropOfTheFaceImage: float = _least(5)
    MarginAboveOfTheFaceImage: float = _least(5)
    MarginBelowOfTheFaceImage: float = _least(18)
    HeadPoseYaw: float = _least(25)
    HeadPosePitch: float = _least(0)
    HeadPoseRoll: float = _least(0)

    def reject(self, quality: Quality) -> str | None:
        """The component that falls shortest, value, threshold and remedy in a sentence; None: let through."""
        values, least = quality.as_dict(), self.model_dump()
        short = [name for name in QUALITY_FIELDS if not values[name] >= least[name]]
        if not short:
            return None
        name = min(short, key=lambda each: values[each] / least[each])
        return f"{name} is {values[name]:.1f} of 100, at least {least[name]:g} is needed: {REMEDIES[name]}."
