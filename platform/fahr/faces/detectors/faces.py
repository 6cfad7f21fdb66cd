"""What a detector finds, and what a detector is."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pixels = NDArray[np.uint8]  # (height, width, 3) RGB
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Face:
    """Coordinates are pixels (x, y) of the array that was given; the centre of its first pixel is (0, 0).

    Landmarks are ordered as in the upright face, never by sorting x: the eye on the viewer's left, the other eye,
    nose, the mouth corner on the viewer's left, the other. In a photo taken upside down the first eye is on the right.
    """

    box: Floats  # (4,) x1, y1, x2, y2
    landmarks: Floats  # (5, 2)
    score: float  # 0 to 1, comparable within one detector only


class Detector(Protocol):
    """Many photos in, the faces of each out: best first, in pixels of that photo, whatever else is in the list."""

    @property
    def name(self) -> str: ...

    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]: ...


def equal_batches(
    photos: Sequence[Pixels], most: int, most_px: int | None = None
) -> Iterator[tuple[list[int], Pixels]]:
    """Which photos, and their (B, height, width, 3): never padded, since padding would move what a network finds.

    `most_px`: pixels of a batch, where its photos are so large that fewer than `most` are quicker.
    """
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, photo in enumerate(photos):
        by_size[photo.shape].append(number)
    for shape, numbers in by_size.items():
        fit = most if most_px is None else max(1, min(most, most_px // (shape[0] * shape[1])))
        for start in range(0, len(numbers), fit):
            some = numbers[start : start + fit]
            yield some, np.stack([photos[number] for number in some])


def given_face(landmarks: ArrayLike) -> Face:
    """Ten numbers x, y, x, y, ... or (5, 2) -> a face with score 1, in a box as detectors draw it around them."""
    points = np.asarray(landmarks, np.float32).reshape(5, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(float((high - low).max()), 1.0)
    middle = (low + high) / 2
    # Landmarks span half of a face; the forehead takes more room above them than the chin below.
    box = np.concatenate([middle - (side, side * 1.1), middle + (side, side * 0.9)])
    return Face(box.astype(np.float32), points, 1.0)


def best_first(faces: Iterable[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -face.score)
