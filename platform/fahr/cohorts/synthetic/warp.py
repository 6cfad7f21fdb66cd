"""From the canonical head to the photo: a person's shape, a turn of the head, and where the face stands.

The photo's pixel p shows the canvas at a + D(a), a = the similarity that undoes roll, scale and shift. D is smooth, so
it is mixed on a coarse grid and enlarged.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.anatomy import LANDMARKS, anatomy, bump
from fahr.cohorts.synthetic.person import Person, Shot
from fahr.cohorts.synthetic.strokes import CANVAS_PX, EYE_LINE_PX, MIDLINE_PX, Image, grid

Floats = npt.NDArray[np.float64]
_STEP = 8  # canvas pixels between the nodes of the shape grid
_CELL_PX = 8  # photo pixels between the nodes that the map is computed at
_CENTRE = np.array([0.0, 12.0])  # of a turning head, in face units


def _shapes() -> list[tuple[Image, Image]]:
    """What one SD of each feature does: by how much the canvas is sampled off its place, in units."""
    x, y = grid()
    none = np.zeros_like(x)
    window = np.exp(-((np.clip(np.abs(y - 5) - 70, 0, None) / 35) ** 2)) * np.exp(
        -((np.clip(np.abs(x) - 60, 0, None) / 50) ** 2)
    )
    low = 1 / (1 + np.exp(-(y - 48) / 9)) * window
    high = 1 / (1 + np.exp((y + 30) / 9)) * window

    def around(
        cx: float, cy: float, wide: float, tall: float, gain: float, across: bool, along: bool
    ) -> tuple[Image, Image]:
        """Enlarge what lies around (cx, cy) and its mirror image."""
        dx, dy = np.zeros_like(x), np.zeros_like(x)
        for centre in {cx, -cx}:
            hill = gain * bump(centre, cy, wide, tall)
            dx, dy = dx - across * hill * (x - centre), dy - along * hill * (y - cy)
        return dx, dy

    return [
        (-0.045 * x * window, none),  # a wide face
        (none, -0.030 * (y + 5) * window),  # a long face
        (-0.075 * x * low, none),  # a wide jaw
        (none, -0.05 * (y - 48) * low),  # a long chin
        (-0.045 * x * high, none),  # a wide forehead
        (none, -0.05 * (y + 30) * high),  # a high forehead
        (-1.3 * np.sign(x) * (bump(25, 0, 17, 14) + bump(-25, 0, 17, 14)) * np.tanh(np.abs(x) / 6), none),  # eyes apart
        around(25, 0, 17, 10, 0.07, True, True),  # large eyes
        (none, -1.4 * bump(0, 28, 16, 12)),  # a long nose
        around(0, 28, 13, 16, 0.10, True, False),  # a broad nose
        (none, -1.3 * bump(0, 57, 24, 10)),  # a low mouth
        around(0, 57, 20, 11, 0.08, True, False),  # a wide mouth
        (-1.8 * np.sign(x) * (bump(46, 22, 14, 15) + bump(-46, 22, 14, 15)), none),  # broad cheeks
        (none, 1.3 * (bump(25, -17, 18, 6) + bump(-25, -17, 18, 6))),  # high brows
        (-0.8 * bump(0, 28, 22, 34), none),  # a nose and mouth off the midline
        (none, -0.7 * np.tanh(x / 20) * bump(0, -2, 40, 20)),  # one eye higher
    ]


@lru_cache(maxsize=1)
def _basis() -> tuple[Floats, npt.NDArray[np.float32]]:
    """Shape fields and depth, on the coarse grid."""
    fields = [np.stack(pair, axis=-1)[::_STEP, ::_STEP] for pair in _shapes()]
    depth = anatomy().depth[::_STEP, ::_STEP]
    return np.asarray(fields, np.float64), depth


def _offsets(person: Person, shot: Shot, jowl: float, jaw_strength_units: float = 2.2) -> npt.NDArray[np.float32]:
    """D on the coarse grid, in units. `jowl` is 0 to 1."""
    fields, depth = _basis()
    field = np.tensordot(person.shape, fields, axes=1)
    nodes = np.arange(0, CANVAS_PX, _STEP, dtype=np.float64)
    x, y = nodes[None, :] - MIDLINE_PX, nodes[:, None] - EYE_LINE_PX
    yaw, pitch = np.radians(shot.yaw), np.radians(shot.pitch)
    on_head = np.clip(depth / 12, 0, 1)
    # a point at depth z stands at x cos(yaw) + z sin(yaw) in the photo
    field[..., 0] += on_head * x * (1 / np.cos(yaw) - 1) - (depth - 20) * on_head * np.sin(yaw)
    field[..., 1] += on_head * (y - 12) * (1 / np.cos(pitch) - 1) - (depth - 20) * on_head * np.sin(pitch)
    # the jaw loses its line: its corners sag outwards
    sag = np.exp(-(((np.abs(x) - 40) / 12) ** 2) - ((y - 74) / 13) ** 2)
    field[..., 0] -= jaw_strength_units * jowl * np.sign(x) * sag
    field[..., 1] -= 0.6 * jaw_strength_units * jowl * sag
    return field.astype(np.float32)


class Pose:
    """The map of one photo, and where the landmarks are in it."""

    def __init__(self, person: Person, shot: Shot, size_px: int, jowl: float) -> None:
        self._offsets = _offsets(person, shot, jowl)
        unit = size_px / 256 * shot.scale  # photo pixels a face unit
        angle = np.radians(shot.roll)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._forward = unit * turn
        self._inverse = turn.T / unit
        centre = np.array([0.5 + shot.shift[0] / 256, 0.475 + shot.shift[1] / 256]) * size_px - 0.5
        self._at = centre - self._forward @ _CENTRE  # where the face's origin lies in the photo
        self._size_px = size_px

    def _offset(self, a: Floats) -> Floats:
        """D at points in face units."""
        nodes = ((a + (MIDLINE_PX, EYE_LINE_PX)) / _STEP).astype(np.float32)
        flags = cv2.INTER_LINEAR
        found = cv2.remap(self._offsets, nodes[..., 0], nodes[..., 1], flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(found, np.float64)

    def map(self) -> Image:
        """For every photo pixel, the canvas column and row it shows."""
        size, cells = self._size_px, -(-self._size_px // _CELL_PX)
        at = (np.arange(-1, cells + 1) + 0.5) * _CELL_PX - 0.5  # resize puts a node in the middle of its cell
        p = np.stack(np.broadcast_arrays(at[None, :], at[:, None]), axis=-1)
        a = (p - self._at) @ self._inverse.T
        source = (a + self._offset(a) + (MIDLINE_PX, EYE_LINE_PX)).astype(np.float32)
        # the outer ring of nodes is enlarged too and cut off, or the border would repeat its last node
        whole = (cells + 2) * _CELL_PX
        wide = cv2.resize(source, (whole, whole), interpolation=cv2.INTER_LINEAR)
        return np.asarray(wide[_CELL_PX : _CELL_PX + size, _CELL_PX : _CELL_PX + size], np.float32)

    def to_photo(self, points: Floats) -> Floats:
        """Photo pixels (x, y) of canvas points (face units): the map, inverted by iteration."""
        a = points.copy()
        for _ in range(5):
            a = points - self._offset(a[None])[0]
        return np.asarray(a @ self._forward.T + self._at)


def landmarks_on_canvas(mouth_half_width: float, mouth_y: float) -> Floats:
    points = LANDMARKS.copy()
    points[3:, 0] = (-mouth_half_width, mouth_half_width)
    points[3:, 1] = mouth_y
    return points
