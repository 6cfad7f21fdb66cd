"""The canonical head, sculpted once a process: outlines, relief, shadows and noise that every face is mixed from.

Relief is a height in face units; its gradient meets the light in `faces`. A cue or a feature is a small patch of
gradient plus a crease that is dark under any light. Everything is drawn from fixed seeds.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.streams import stream
from fahr.cohorts.synthetic.strokes import (
    CANVAS_PX,
    FULL,
    Image,
    Patch,
    Points,
    blurred,
    closed_curve,
    curve,
    filled,
    grid,
    lined,
    mirrored,
    patch,
)

LANDMARKS = np.array([[-25.0, 0.0], [25.0, 0.0], [0.0, 29.0], [-20.5, 57.0], [20.5, 57.0]])  # eyes, nose tip, mouth
SKIN = patch(-70, -86, 70, 142)  # head, ears, neck and the top of the chest


@dataclass(frozen=True)
class Relief:
    """A patch of the skin region: slopes of a height of 1, and where it is dark (0 to 1)."""

    where: Patch
    slope_x: Image
    slope_y: Image
    crease: Image


@dataclass(frozen=True)
class Anatomy:
    slope_x: Image  # of the bare head, over SKIN
    slope_y: Image
    hollow: Image  # ambient occlusion, 0 to 1, over SKIN
    depth: Image  # over the canvas, smooth, for turning the head; 0 at the ears' plane
    skin: Image  # coverage of head, ears and neck, over the canvas
    blush: Image  # where blood shows, over SKIN
    reliefs: dict[str, Relief]
    shadows: dict[str, tuple[Patch, Image]]
    coarse: Image  # where the skin's texture ages: forehead, cheeks, chin; 0 around the eyes and on the nose
    beard: Image


def outline() -> Points:
    return closed_curve(
        [(0, -83), (20, -80), (39, -69), (52, -50), (59, -28), (60.5, -5), (59, 18), (55, 40), (48, 60), (37, 76),
         (24, 86.5), (11, 91), (0, 91.5)]
    )  # fmt: skip


def bump(x: float, y: float, wide: float, high: float, tilt: float = 0.0) -> Image:
    """A Gaussian hill of height 1; `tilt` in units of x a unit of y."""
    gx, gy = grid()
    dx = gx - x - tilt * (gy - y)
    hill: Image = np.exp(-(dx**2) / (2 * wide**2) - (gy - y) ** 2 / (2 * high**2))
    return hill


def _both(x: float, y: float, wide: float, high: float, tilt: float = 0.0) -> Image:
    return bump(x, y, wide, high, tilt) + bump(-x, y, wide, high, -tilt)


def _head_height() -> Image:
    x, y = grid()
    radius = np.sqrt((x / 65) ** 2 + ((y - 4) / 94) ** 2)
    height: Image = 52 * np.sqrt(np.clip(1 - radius**2.5, 0.04, 1))
    height += 2.5 * _both(17, -16, 12, 5) + 3 * bump(0, -45, 38, 18)  # brow ridge, forehead
    height += -5.0 * _both(24, -3, 13, 8) + 2.2 * _both(25, 1, 8, 5.5)  # sockets, eyeballs
    along = np.clip((y + 10) / 40, 0, 1)  # nose: a ridge that grows to the tip and ends there
    ridge = (2.5 + 7.5 * along) * np.exp(-(x**2) / (2 * (4.4 + 2.8 * along) ** 2))
    ridge *= 1 / (1 + np.exp(np.clip((y - 34.5) / 2.6, -50, 50)))
    height += ridge * (1 / (1 + np.exp(-(y + 12) / 5)))
    height += 3.6 * bump(0, 29.5, 6.5, 5) + 3.6 * _both(10, 32.5, 4.8, 4.4)  # tip, wings
    height += 4.0 * _both(37, 20, 15, 11) - 1.5 * _both(50, -26, 8, 14)  # cheekbones, temples
    height += 4.0 * bump(0, 52, 19, 13) - 0.8 * bump(0, 43, 2.0, 4)  # muzzle, philtrum
    height += 1.8 * bump(0, 53.5, 14, 2.8) + 2.6 * bump(0, 61.5, 12.5, 3.4) - 1.8 * bump(0, 57, 18, 1.6)  # lips
    height += -2.6 * bump(0, 70, 13, 3.6) + 5.0 * bump(0, 80, 13, 7)  # under the lip, chin
    return blurred(height, 0.9)


def _neck_height() -> Image:
    x, y = grid()
    height: Image = 34 * np.sqrt(np.clip(1 - (x / 44) ** 2, 0.05, 1))
    for side in (1, -1):  # the two cords and the pit between the collar bones
        height += 3 * np.exp(-((x - side * (26 - 0.33 * (y - 85))) ** 2) / 30)
    height -= 4 * bump(0, 124, 7, 9)
    return height


def _slopes(height: Image) -> tuple[Image, Image]:
    slope_y, slope_x = np.gradient(height)
    return np.asarray(slope_x, np.float32), np.asarray(slope_y, np.float32)


def _relief(height: Image, crease: Image) -> Relief:
    slope_x, slope_y = _slopes(height)
    rows, columns = np.nonzero((np.abs(slope_x) + np.abs(slope_y) + crease)[SKIN] > 0.004)
    where = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    return Relief(where, *(np.ascontiguousarray(a[SKIN][where]) for a in (slope_x, slope_y, crease)))


def _lines(lines: list[Points], deep: float, blur: float) -> tuple[Image, Image]:
    """Grooves: a height of -deep at the middle, and their dark bottom."""
    mask = np.zeros((CANVAS_PX, CANVAS_PX), np.float32)
    for points in lines:
        mask = np.maximum(mask, lined(points, FULL, 1, blur))
    mask /= max(float(mask.max()), 1e-6)
    return -deep * mask, mask


def _forehead_lines(kind: int) -> list[Points]:
    draw = np.random.default_rng(100 + kind)
    lines = []
    for level in np.linspace(-55, -29, 3 + kind % 3):
        reach = draw.uniform(24, 36)
        xs = np.linspace(-reach, reach, 7) + draw.uniform(-4, 4)
        sag = (2.5 if kind % 2 else -2.0) * np.cos(xs / reach * np.pi / 2)  # over the brows or in an arch
        lines.append(curve([(x, level + s + draw.normal(0, 0.4)) for x, s in zip(xs, sag, strict=True)]))
    return lines


def _age_reliefs() -> dict[str, Relief]:
    fold = curve([(13, 33), (19, 39), (24.5, 48), (28, 58), (29, 66)])
    groove, crease = _lines([fold, mirrored(fold)], 2.6, 1.5)
    cheek = 2.4 * _both(31, 46, 5.5, 11, 0.45)  # the cheek hangs over the fold
    mouth_corner = curve([(24, 61), (26.5, 68), (27.5, 77)])
    jowl_groove, jowl_crease = _lines([mouth_corner, mirrored(mouth_corner)], 2.2, 1.6)
    reliefs = {
        "folds": _relief(groove + cheek, crease),
        "jaw": _relief(jowl_groove + 4.5 * _both(36, 73, 7, 8), jowl_crease + 0.5 * _both(30, 82, 5, 4)),
        "temples": _relief(-7.0 * _both(50, -27, 8, 13), 0.55 * _both(51, -27, 7, 12)),
    }
    for kind in range(4):
        reliefs[f"forehead{kind}"] = _relief(*_lines(_forehead_lines(kind), 1.9, 1.5))
    return reliefs


def _frailty_reliefs() -> dict[str, Relief]:
    trough = curve([(11, 7), (16, 12.5), (24, 15.5), (33, 14), (38, 10)])
    groove, crease = _lines([trough, mirrored(trough)], 2.0, 1.3)
    bag = 1.9 * _both(24, 10, 9, 3.0)
    ridge = np.exp(-((np.abs(grid()[0]) - 5.5) ** 2) / 5) * bump(0, 3, 40, 9) * 1.0
    return {
        "under_eye": _relief(bag + groove, 0.55 * crease + 0.75 * _both(23, 10.5, 10, 4.2)),
        "bridge": _relief((2.6 * bump(0, 3, 2.6, 9)).astype(np.float32), np.asarray(0.75 * ridge, np.float32)),
    }


def _shadows() -> dict[str, tuple[Patch, Image]]:
    x, _y = grid()
    maps = {
        "under_nose": 0.9 * bump(0, 40.5, 10, 3.0),
        "nose_left": 0.8 * bump(-10.5, 18, 4, 13, 0.0) * (x < -3),
        "nose_right": 0.8 * bump(10.5, 18, 4, 13, 0.0) * (x > 3),
        "brow": 0.8 * _both(23, -8, 12, 3.6) + 0.6 * _both(9, -2, 4, 5),
        "under_lip": 0.8 * bump(0, 68, 11, 2.6),
    }
    found = {}
    for name, sharp in maps.items():
        values = _over_skin(blurred(sharp, 1.5))
        rows, columns = np.nonzero(values > 0.01)
        where = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        found[name] = (where, np.ascontiguousarray(values[where]))
    return found


def _coverage() -> tuple[Image, Image, Image]:
    """Head without ears, ears, and all skin down to the chest."""
    ear = closed_curve([(0, -18), (6, -16), (8, -8), (6.5, 4), (4, 14), (0, 18)])
    head = filled(outline(), FULL, 0.5)
    ears = np.maximum(filled(ear + (60, 7), FULL, 0.5), filled(ear + (-60, 7), FULL, 0.5))
    half = [(36, 40), (35.5, 80), (37, 100), (43, 110), (44, 142)]  # the rest is under clothes
    neck = filled(np.vstack([curve(half), mirrored(curve(half)[::-1])]), FULL, 0.6)
    return head, ears, np.maximum(np.maximum(head, ears), neck)


def _over_skin(values: npt.NDArray[Any]) -> Image:
    return np.ascontiguousarray(values[SKIN], np.float32)


@lru_cache(maxsize=1)
def anatomy() -> Anatomy:
    x, y = grid()
    head, ears, skin = _coverage()
    height = _head_height()
    head_x, head_y = _slopes(height)
    neck_x, neck_y = _slopes(_neck_height())
    ear_x, ear_y = _slopes(6 * _both(61, 5, 4.5, 13) - 5 * _both(61.5, 5, 2.4, 8))
    around = blurred(head, 1.0)  # a jaw has no hard edge
    ear_only = np.clip(ears - head, 0, 1)
    slope_x = around * head_x + (1 - around) * ((1 - ear_only) * neck_x + ear_only * (ear_x + 0.5 * np.sign(x)))
    slope_y = around * head_y + (1 - around) * ((1 - ear_only) * neck_y + ear_only * ear_y)
    hollow = np.clip((blurred(height, 9) - height) * 0.11, 0, 0.6) * head
    # the chin's shadow on the neck, and a rim of shade round the face
    jaw = np.clip(1.15 - np.clip(y - 70 - 0.004 * x**2, 0, 60) / 42, 0, 1) ** 1.3
    hollow += (1 - around) * (0.50 * jaw * (1 - ear_only) + 0.25 * ear_only * (1 - _both(63, 5, 3, 12)))
    depth = np.sqrt(np.clip(1 - (x / 72) ** 2 - ((y - 4) / 104) ** 2, 0, 1)) * 46 + 11 * bump(0, 26, 8, 11)
    blush = 0.8 * _both(35, 26, 13, 10) + 0.9 * bump(0, 29, 9, 7) + 0.5 * bump(0, 80, 12, 6) + 0.9 * ear_only
    eyes = np.clip(1.6 * _both(24, 3, 18, 13), 0, 1)
    coarse = (0.9 * bump(0, -44, 40, 14) + _both(40, 32, 12, 20) + 0.8 * bump(0, 80, 16, 8)) * (1 - eyes)
    coarse = coarse * (1 - np.clip(1.4 * bump(0, 12, 13, 22), 0, 1))
    beard = np.clip(1.3 * _both(33, 66, 14, 17) + 1.3 * bump(0, 82, 24, 11) + 1.2 * bump(0, 46.5, 17, 4), 0, 1)
    beard = beard * np.clip((y - 20 - 0.2 * (52 - np.abs(x))) / 14, 0, 1)
    return Anatomy(
        slope_x=_over_skin(slope_x),
        slope_y=_over_skin(slope_y),
        hollow=_over_skin(np.clip(hollow, 0, 0.8)),
        depth=blurred(depth, 5),
        skin=skin,
        blush=_over_skin(blush),
        reliefs={**_age_reliefs(), **_frailty_reliefs()},
        shadows=_shadows(),
        coarse=_over_skin(np.clip(coarse, 0, 1)),
        beard=_over_skin(beard),
    )


# between which blurs the grain of a tile lies, SD in pixels
_BANDS = {"pores": (0.6, 2.0), "hairs": (0.5, 1.5), "coarse": (1.1, 3.0), "blotches": (7.0, 25.0), "spots": (1.6, 5.0)}


@lru_cache(maxsize=8)
def noise(kind: str) -> Image:
    """A 512 x 512 tile, mean 0, SD 1: `pores` (fine), `coarse` (wrinkled), `blotches`, `hairs`; `spots` are 0 to 1.

    `skin` is the factor on light that everybody's skin has, `aged skin` what is added to it by age.
    """
    if kind == "skin":
        return np.asarray(1 + 0.012 * (noise("pores") + noise("blotches")), np.float32)
    if kind == "aged skin":
        return np.asarray(0.06 * noise("coarse") - 0.22 * noise("spots"), np.float32)
    fine, wide = _BANDS[kind]
    white = stream(0, "noise " + kind).standard_normal((512, 512)).astype(np.float32)
    band = blurred(white, fine) - blurred(white, wide)
    values: Image = (band - band.mean()) / band.std()
    return np.clip((values - 2.1) * 1.6, 0, 1) if kind == "spots" else values
