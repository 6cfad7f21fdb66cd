"""A photo as a detector is to see it: shrunk, padded or turned, and the way back to the photo's own pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fahr.faces.detectors.faces import Face, Pixels

PADDING = 0.5  # of the photo's sides, on every side


@dataclass(frozen=True)
class InputSize:
    """Between which lengths, in pixels, the longer side of a photo is brought before a detector sees it."""

    max_side: int = 640
    min_side: int = 1

    def scale(self, photo: Pixels) -> float:
        longer = max(photo.shape[:2])
        return float(min(max(1.0, self.min_side / longer), self.max_side / longer))


@dataclass(frozen=True, eq=False)
class View:
    pixels: Pixels
    to_photo: NDArray[np.float64]  # (2, 3): (x, y) in `pixels` -> (x, y) in the photo
    photo_size: tuple[int, int]  # width, height

    def back(self, face: Face) -> Face:
        """In the photo's pixels. Turning keeps the order of the landmarks: the first eye is the upright face's."""
        turn, shift = self.to_photo[:, :2], self.to_photo[:, 2]
        landmarks = face.landmarks @ turn.T + shift
        corners = face.box.reshape(2, 2) @ turn.T + shift
        limit = np.array(self.photo_size) - 1.0
        box = np.concatenate([corners.min(axis=0), corners.max(axis=0)]).clip(0, np.tile(limit, 2))
        return Face(box.astype(np.float32), landmarks.astype(np.float32), face.score)


def whole(photo: Pixels, scale: float = 1.0) -> View:
    height, width = photo.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return View(photo, np.eye(2, 3), size)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    pixels = np.asarray(cv2.resize(photo, size, interpolation=how), np.uint8)
    # cv2.resize keeps the photo's corners, not the centres of its corner pixels: half a pixel of each size comes in.
    ratio = np.array([width / size[0], height / size[1]])
    return View(pixels, np.column_stack([np.diag(ratio), (ratio - 1) / 2]), (width, height))


def padded(photo: Pixels, scale: float) -> View:
    """Grey around it: a face that fills the frame becomes one of ordinary size, with a whole outline."""
    inner = whole(photo, scale)
    height, width = inner.pixels.shape[:2]
    x, y = round(width * PADDING), round(height * PADDING)
    grey = inner.pixels.reshape(-1, 3).mean(axis=0)
    pixels = cv2.copyMakeBorder(inner.pixels, y, y, x, x, cv2.BORDER_CONSTANT, value=grey.tolist())
    move = inner.to_photo.copy()
    move[:, 2] -= inner.to_photo[:, :2] @ (x, y)
    return View(np.asarray(pixels, np.uint8), move, inner.photo_size)


def turned(photo: Pixels, scale: float, quarters: int) -> View:
    """By so many quarters of a turn, against the clock."""
    inner = whole(photo, scale)
    height, width = inner.pixels.shape[:2]
    pixels = np.ascontiguousarray(np.rot90(inner.pixels, quarters))
    last_x, last_y = width - 1, height - 1
    unturn = {
        1: [[0, -1, last_x], [1, 0, 0]],
        2: [[-1, 0, last_x], [0, -1, last_y]],
        3: [[0, 1, 0], [-1, 0, last_y]],
    }[quarters]
    turn, shift = inner.to_photo[:, :2], inner.to_photo[:, 2:]
    first = np.array(unturn, np.float64)
    return View(pixels, np.column_stack([turn @ first[:, :2], turn @ first[:, 2:] + shift]), inner.photo_size)
