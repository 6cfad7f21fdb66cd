"""What a person wears below the neck: a round neck, a V-neck, or a shirt with its collar."""

from functools import lru_cache

import numpy as np

from fahr.cohorts.synthetic.anatomy import noise
from fahr.cohorts.synthetic.person import Shot
from fahr.cohorts.synthetic.strokes import (
    CANVAS_PX,
    FULL,
    MIDLINE_PX,
    Image,
    Patch,
    curve,
    filled,
    grid,
    mirrored,
    overlay,
    pair,
    patch,
)

_SHOULDER = [(34, 99), (44, 106), (62, 115), (96, 125), (128, 140), (150, 165), (165, 205)]
_OPENINGS = (
    [(40, 92), (34, 112), (20, 124), (0, 129)],
    [(40, 90), (33, 108), (16, 126), (0, 139)],
    [(42, 88), (33, 104), (14, 124), (0, 138)],
)
_SHIRT = 2
_FLAP = np.array([(37.0, 96), (44, 112), (24, 138), (2, 134), (16, 122)])


def draw_clothes(canvas: Image, coverage: Image, shot: Shot) -> None:
    where, mask, light = _garment(shot.collar)
    overlay(canvas, coverage, where, mask, (light * np.float32(colour) for colour in shot.clothes))


@lru_cache(maxsize=len(_OPENINGS))
def _garment(collar: int) -> tuple[Patch, Image, Image]:
    """Where it is, its coverage and its light."""
    x, _ = grid()
    edge, neck = curve(_SHOULDER), curve(_OPENINGS[collar])
    body = np.vstack([edge, mirrored(edge[::-1])])
    opening = np.vstack([neck, mirrored(neck[::-1]), (-40, 60), (40, 60)])
    mask = np.clip(filled(body, FULL, 0.7) - filled(opening, FULL, 0.7), 0, 1)
    light = 1.0 - 0.18 * (x / 150) ** 2 + 0.035 * noise("blotches")[:CANVAS_PX, :CANVAS_PX]
    light = light * (1 - 0.35 * filled(opening, FULL, 2.5))
    if collar == _SHIRT:
        flaps, below = filled(pair(_FLAP), FULL, 0.8), filled(pair(_FLAP + (0, 4)), FULL, 1.5)
        light = light * (1 + 0.16 * flaps) * (1 - 0.3 * below * (1 - flaps))
    where = patch(-MIDLINE_PX, 87, CANVAS_PX, CANVAS_PX)
    return where, mask[where].copy(), np.asarray(light, np.float32)[where].copy()
