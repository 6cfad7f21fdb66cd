"""What is behind the person, and what the camera makes of it all."""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.person import Shot
from fahr.cohorts.synthetic.strokes import Image

Photo = npt.NDArray[np.uint8]


@lru_cache(maxsize=4)
def _clouds(size_px: int) -> Image:
    """Smooth light and dark, mean 0, SD 1, twice the photo's size."""
    draw = np.random.default_rng(7).standard_normal((24, 24)).astype(np.float32)
    wide = cv2.GaussianBlur(cv2.resize(draw, (2 * size_px, 2 * size_px), interpolation=cv2.INTER_CUBIC), (0, 0), 12)
    return np.asarray((wide - wide.mean()) / wide.std(), np.float32)


@lru_cache(maxsize=1)
def _grain() -> npt.NDArray[np.float32]:
    """Sensor noise as three planes, mean 0, SD 1, partly shared by neighbours and colours as after demosaicing."""
    draw = np.random.default_rng(11)
    shared = draw.standard_normal((1280, 1280))
    planes = [cv2.GaussianBlur(0.6 * draw.standard_normal((1280, 1280)) + 0.8 * shared, (0, 0), 0.55) for _ in range(3)]
    return np.stack([plane / plane.std() for plane in planes]).astype(np.float32)


def _wall(shot: Shot, size_px: int) -> Image:
    """Light on a plain wall, a graded backdrop, a room out of focus or panels; about 1."""
    row = np.linspace(-1, 1, size_px, dtype=np.float32)
    if shot.wall == 0:
        return np.outer(1 - np.float32(0.10) * row, np.ones_like(row))
    if shot.wall == 1:
        squares = np.float32(0.22) * row**2
        return np.asarray(np.float32(1.12) - squares[:, None] - squares[None, :])
    y, x = (round(o / 256 * size_px) for o in shot.offset)
    clouds = _clouds(size_px)[y : y + size_px, x : x + size_px]
    if shot.wall == 2:
        return np.asarray(1 + np.float32(0.05) * clouds)
    edge = np.tanh(8 * np.sin(row * 3.2 + shot.offset[0]))
    return np.asarray((1 + np.float32(0.03) * clouds) * (1 + np.float32(0.06) * edge))


def develop(layers: npt.NDArray[np.uint8], shot: Shot) -> Photo:
    """RGB bytes from premultiplied RGB and coverage: the wall behind, exposure, warmth, contrast, blur and grain."""
    size = layers.shape[0]
    if shot.blur > 0.25:
        layers = np.asarray(cv2.GaussianBlur(layers, (0, 0), shot.blur * size / 256), np.uint8)
    *planes, coverage = cv2.split(layers)
    behind = _wall(shot, size) * (1 - coverage * np.float32(1 / 255))
    y, x = shot.offset
    lift = 128 * (1 - shot.contrast)
    exposed = []
    for channel, plane in enumerate(planes):
        gain = shot.exposure * shot.contrast * (1 + shot.warmth * (1 - channel))
        grain = _grain()[channel, y : y + size, x : x + size]
        rest = cv2.addWeighted(behind, gain * float(shot.wall_colour[channel]), grain, shot.noise, lift)
        exposed.append(cv2.addWeighted(plane, gain, rest, 1.0, 0, dtype=cv2.CV_8U))
    return np.asarray(cv2.merge(exposed), np.uint8)
