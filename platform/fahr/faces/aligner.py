"""A photo's bytes -> an aligned face, or the reason why not. The same code for a bucket and for one request.

aligner = Aligner(detector="mtcnn")
results = aligner.align([jpeg_bytes, ...])      # AlignedFace or Rejection, one for each photo, in order
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fahr.errors import Refused, nearest
from fahr.faces import alignment
from fahr.faces.detectors import Detector, Face, create_detector, given_face
from fahr.faces.quality import Quality, QualityGate, measure
from fahr.images import DEFAULT_LIMITS, Limits, Photo, Unreadable, decode

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]

# Every reason that a photo can be rejected for; `missing` covers what we may not read.
REASONS = (
    "unreadable",
    "too_large",
    "missing",
    "no_face",
    "many_faces",
    "low_quality",
    "bad_landmarks",
    "not_a_face",
)
# Shorter side of the copy that a photo is held in while its batch waits: large enough to crop a face that fills a
# tenth of the frame, and 16 fit into 100 MB whatever the camera. Smaller faces are cropped from a second decode.
WORKING_PX = 1024


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """Coordinates are pixels of the upright original photo."""

    face: Pixels  # (size, size, 3) RGB
    landmarks: Points  # (5, 2)
    box: Points  # (4,) x1, y1, x2, y2
    score: float  # the detector's, 0 to 1; 1 where landmarks were given
    faces_in_photo: int
    quality: Quality
    convention: str
    detector: str
    width: int
    height: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejection:
    """`reason` is one of REASONS, `detail` one sentence: value, rule, remedy."""

    reason: str
    detail: str
    is_image: bool = True  # False: the bytes are no picture at all (HTTP 415)


@dataclass(eq=False)
class _Held:
    """A photo on its way through a batch: its bytes, and a copy small enough to keep."""

    data: bytes
    copy: Pixels
    width: int  # of the upright original
    height: int
    faces: list[Face] = field(default_factory=list)

    @property
    def scale(self) -> Points:
        """(2,) original pixels for one pixel of the copy, along x and y."""
        return np.array([self.width / self.copy.shape[1], self.height / self.copy.shape[0]])


class Aligner:
    """Decode, detect, check, crop, measure, judge."""

    def __init__(
        self,
        detector: str = "retinaface",
        size: int = 112,
        convention: str = "arcface112",
        *,
        many_faces: Literal["reject", "largest"] = "reject",
        gate: QualityGate | None = None,
        limits: Limits = DEFAULT_LIMITS,
        device: str = "cpu",
    ) -> None:
        """`many_faces`: research rejects a photo with several faces, an app takes the largest and says so."""
        if convention not in alignment.CONVENTIONS:
            raise Refused(
                f"convention {convention!r}: there are {' and '.join(alignment.CONVENTIONS)}."
                f"{nearest(convention, alignment.CONVENTIONS)}"
            )
        if not 16 <= size <= 1024:
            raise Refused(f"size {size}: a crop has 16 to 1024 pixels a side; {convention} is at home at "
                          f"{alignment.CONVENTIONS[convention]}.")  # fmt: skip
        self.size, self.convention, self.many_faces = size, convention, many_faces
        self.gate = gate or QualityGate()
        self.limits = limits
        self.given = detector == "given"
        self.detector: Detector | None = None if self.given else create_detector(detector, device=device)
        self.detector_name = detector

    def align(
        self, photos: Sequence[bytes], landmarks: Sequence[Sequence[float] | None] | None = None
    ) -> list[AlignedFace | Rejection]:
        """One result a photo, in order. `landmarks`: ten numbers a photo, for the detector `given`."""
        results: dict[int, AlignedFace | Rejection] = {}
        held: dict[int, _Held] = {}
        for number, data in enumerate(photos):
            try:
                held[number] = _hold(data, self.limits)
            except Unreadable as error:
                results[number] = Rejection(error.reason, error.detail, error.is_image)
        self._find(held, landmarks, results)
        for number, photo in held.items():
            if number not in results:
                results[number] = self._finish(photo)
        return [results[number] for number in range(len(photos))]

    def _find(
        self,
        held: dict[int, _Held],
        landmarks: Sequence[Sequence[float] | None] | None,
        results: dict[int, AlignedFace | Rejection],
    ) -> None:
        """The faces of every photo, in pixels of its working copy."""
        if self.detector is not None:
            found = self.detector.detect([photo.copy for photo in held.values()])
            for photo, faces in zip(held.values(), found, strict=True):
                photo.faces = faces
            return
        for number, photo in held.items():
            points = landmarks[number] if landmarks is not None else None
            if points is None:
                detail = "The manifest gives no landmarks for this photo: fill the column, or choose a detector."
                results[number] = Rejection("bad_landmarks", detail)
            else:
                photo.faces = [given_face(np.asarray(points, np.float64).reshape(5, 2) / photo.scale)]

    def _finish(self, photo: _Held) -> AlignedFace | Rejection:
        """Which face, whether its landmarks can be true, its crop, whether the crop is good enough."""
        if not photo.faces:
            detail = f"{self.detector_name} found no face in {photo.width} x {photo.height} pixels: "
            return Rejection(
                "no_face", detail + "take the photo from the front, in even light, with the whole face in it."
            )
        if len(photo.faces) > 1 and self.many_faces == "reject":
            detail = f"{self.detector_name} found {len(photo.faces)} faces; a study photo shows one person: "
            return Rejection(
                "many_faces", detail + "crop it to that person, or take the largest with --many-faces largest."
            )
        face = max(photo.faces, key=_area)
        points = face.landmarks.astype(np.float64) * photo.scale
        if fault := alignment.check_landmarks(points, photo.width, photo.height):
            return Rejection("bad_landmarks", fault)
        box = face.box.astype(np.float64) * np.tile(photo.scale, 2)
        pixels, scale = self._pixels_for(photo, points)
        crop = self._crop(pixels, points / scale, box / np.tile(scale, 2))
        if isinstance(crop, Rejection):
            return crop
        at_home = self.convention == "arcface112"  # whatever is stored, quality is judged on the aligned face
        upright = crop if at_home else alignment.align([pixels], (points / scale)[None]).faces[0]
        quality = measure(pixels, points / scale, len(photo.faces), upright, pixel_scale=float(scale.mean()))
        if refusal := self.gate.reject(quality):
            return Rejection("low_quality", refusal)
        warnings = () if len(photo.faces) == 1 else (f"{len(photo.faces)} faces; the largest was taken",)
        return AlignedFace(
            crop, points, box, float(face.score), len(photo.faces), quality,
            self.convention, self.detector_name, photo.width, photo.height, warnings,
        )  # fmt: skip

    def _pixels_for(self, photo: _Held, points: Points) -> tuple[Pixels, Points]:
        """The pixels to crop from: the copy, or the whole photo where the copy would have to be magnified."""
        matrix = alignment.similarity((points / photo.scale)[None], alignment.template(self.size))[0]
        magnified = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if magnified <= 1 or photo.scale.max() <= 1:
            return photo.copy, photo.scale
        needed = int(min(photo.copy.shape[:2]) * magnified) + 1
        again = decode(photo.data, shortest_side=needed, limits=self.limits)
        return again.pixels, _scale(again)

    def _crop(self, pixels: Pixels, points: Points, box: Points) -> Pixels | Rejection:
        if self.convention == "arcface112":
            return np.asarray(alignment.align([pixels], points[None], self.size).faces[0], np.uint8)
        try:
            return alignment.faceage_crop(pixels, alignment.mtcnn_box(box), self.size)[0]
        except ValueError as error:
            return Rejection("bad_landmarks", str(error))


def _area(face: Face) -> float:
    return float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _scale(photo: Photo) -> Points:
    return np.array([photo.width / photo.pixels.shape[1], photo.height / photo.pixels.shape[0]])


def _hold(data: bytes, limits: Limits) -> _Held:
    """Decoded small where the format allows it, and shrunk where it does not."""
    photo = decode(data, shortest_side=WORKING_PX, limits=limits)
    height, width = photo.pixels.shape[:2]
    shrink = WORKING_PX / min(height, width)
    copy = photo.pixels
    if shrink < 0.75:  # formats that cannot be decoded small, and JPEGs just below a halving
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        copy = np.asarray(cv2.resize(copy, size, interpolation=cv2.INTER_AREA), np.uint8)
    return _Held(data, copy, photo.width, photo.height)
