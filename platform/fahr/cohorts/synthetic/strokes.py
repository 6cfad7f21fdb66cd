"""Soft strokes, each drawn in its own patch: a face has dozens, and blurring the whole frame for each is what costs.

Face units are used throughout: x to the viewer's right of the midline, y down from the eye line; one unit is one canvas
pixel, and the eyes are 50 units apart.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Patch = tuple[slice, slice]
Colour = Sequence[float] | npt.NDArray[np.float64]

CANVAS_PX = 304
MIDLINE_PX = 152  # canvas column of x = 0
EYE_LINE_PX = 128  # canvas row of y = 0
_SIDES = np.array([[[1.0, 1.0]], [[-1.0, 1.0]]])
_SHIFT = 4  # OpenCV draws with 4 fractional bits


def grid() -> tuple[Image, Image]:
    """x and y of every canvas pixel, in face units."""
    row, column = np.mgrid[0:CANVAS_PX, 0:CANVAS_PX].astype(np.float32)
    return column - MIDLINE_PX, row - EYE_LINE_PX


FULL: Patch = (slice(0, CANVAS_PX), slice(0, CANVAS_PX))


def blurred(image: npt.NDArray[Any], blur: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), blur), np.float32)


def patch(left: float, top: float, right: float, bottom: float) -> Patch:
    """The canvas rows and columns of a rectangle in face units."""
    rows = slice(max(0, int(top) + EYE_LINE_PX), min(CANVAS_PX, int(bottom) + EYE_LINE_PX))
    return rows, slice(max(0, int(left) + MIDLINE_PX), min(CANVAS_PX, int(right) + MIDLINE_PX))


def _fixed(shapes: Points | list[Points], where: Patch) -> list[npt.NDArray[np.int32]]:
    """OpenCV's fixed-point numbers: of one shape (n, 2), of m alike (m, n, 2), or of a list of shapes."""
    if isinstance(shapes, list):
        return [fixed for shape in shapes for fixed in _fixed(shape, where)]
    offset = ((MIDLINE_PX - where[1].start) * (1 << _SHIFT), (EYE_LINE_PX - where[0].start) * (1 << _SHIFT))
    fixed = np.rint(shapes * (1 << _SHIFT) + offset).astype(np.int32)
    return [fixed] if fixed.ndim == 2 else list(fixed)


def _blank(where: Patch) -> npt.NDArray[np.uint8]:
    return np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start), np.uint8)


def _soft(mask: npt.NDArray[np.uint8], blur: float) -> Mask:
    if blur > 0.45:  # less than that is in the anti-aliasing already
        reach = 2 * int(2 * blur + 0.99) + 1
        mask = np.asarray(cv2.GaussianBlur(mask, (reach, reach), blur), np.uint8)
    return mask * np.float32(1 / 255)


def filled(shapes: Points | list[Points], where: Patch, blur: float = 0.0) -> Mask:
    """Coverage (0 to 1) of polygons within a patch; `blur` is a standard deviation in units."""
    mask = _blank(where)
    cv2.fillPoly(mask, _fixed(shapes, where), 255, cv2.LINE_AA, _SHIFT)
    return _soft(mask, blur)


def lined(shapes: Points | list[Points], where: Patch, width: int = 1, blur: float = 0.0, closed: bool = False) -> Mask:
    """Coverage of open or closed lines within a patch."""
    mask = _blank(where)
    cv2.polylines(mask, _fixed(shapes, where), closed, 255, width, cv2.LINE_AA, _SHIFT)
    return _soft(mask, blur)


def discs(centres: Sequence[tuple[float, float]], radius: float, where: Patch, blur: float = 0.0) -> Mask:
    mask = _blank(where)
    for x, y in _fixed(np.asarray(centres, float), where)[0].tolist():
        cv2.circle(mask, (x, y), round(radius * (1 << _SHIFT)), 255, -1, cv2.LINE_AA, _SHIFT)
    return _soft(mask, blur)


def paint(canvas: Image, where: Patch, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
    """Lay an RGB colour (0 to 255) over a patch of a planar canvas (3 x rows x columns: NumPy is fast on long rows)."""
    target = canvas[:, where[0], where[1]]
    target += (np.asarray(colour, np.float32).reshape(3, 1, 1) - target) * (mask * np.float32(opacity))


def shade(canvas: Image, where: Patch, mask: Mask, factor: float) -> None:
    """Multiply a patch by `factor` where the mask is 1."""
    canvas[:, where[0], where[1]] *= 1 + mask * np.float32(factor - 1)


def overlay(canvas: Image, coverage: Image, where: Patch, mask: Mask, planes: Iterable[Image]) -> None:
    """Lay three planes over a patch, at full colour where nothing else covers it; changes `coverage` and `planes`."""
    cover = coverage[where]
    np.maximum(cover, mask, out=cover)
    weight = mask / np.maximum(cover, np.float32(1e-3))
    for plane, colour in zip(canvas, planes, strict=True):
        target = plane[where]
        colour -= target
        colour *= weight
        target += colour


@lru_cache(maxsize=64)
def _catmull_rom(points: int, per_segment: int) -> Points:
    """The matrix that takes `points` knots to the curve through them; the end segments are extended straight."""
    extend = np.zeros((points + 2, points))
    extend[1:-1] = np.eye(points)
    extend[0, :2], extend[-1, -2:] = (2, -1), (-1, 2)
    t = np.arange(per_segment) / per_segment
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1
    )
    rows = [weights @ extend[k : k + 4] for k in range(points - 1)]
    return np.vstack([*rows, extend[-2:-1]])


def curve(points: Sequence[tuple[float, float]], per_segment: int = 6) -> Points:
    """A smooth open line through `points` (Catmull-Rom)."""
    line: Points = _catmull_rom(len(points), per_segment) @ np.asarray(points, float)
    return line


def mirrored(points: Points) -> Points:
    return points * (-1, 1)


def pair(points: Points) -> Points:
    """What lies on the viewer's right, and its mirror image (2, n, 2): both sides of a face in one stroke."""
    both: Points = points * _SIDES
    return both


def band(line: Points, above: float, below: float) -> Points:
    """The outline of a line as thick as `above` + `below`: filled ten times faster than OpenCV draws thick lines."""
    return np.vstack([line - (0, above), (line + (0, below))[::-1]])


def closed_curve(half: Sequence[tuple[float, float]], per_segment: int = 8) -> Points:
    """A closed outline from its right half, given from top to bottom."""
    right = curve(half, per_segment)
    return np.vstack([right, mirrored(right[::-1])])
