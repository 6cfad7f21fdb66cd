"""Hair: a style is a signed distance to its edge; recession and thinning eat into it, grey runs along the strands."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.anatomy import bump, noise, outline
from fahr.cohorts.synthetic.strokes import (
    FULL,
    MIDLINE_PX,
    Image,
    Patch,
    Points,
    blurred,
    closed_curve,
    curve,
    filled,
    grid,
    mirrored,
)

_GREY = (190.0, 188.0, 186.0)
# right halves of the outer edge from the top down: (x, y) in face units
_OUTER: dict[str, list[tuple[float, float]]] = {
    "crop": [(0, -87), (24, -84), (45, -70), (58, -48), (62, -28), (62, -6), (60, 2), (40, 4), (0, 4)],
    "short": [(0, -93), (24, -91), (47, -77), (62, -52), (66, -28), (65, -8), (62, 6), (40, 8), (0, 8)],
    "parted": [(0, -94), (26, -92), (49, -77), (62, -52), (65, -26), (64, -6), (61, 8), (40, 8), (0, 8)],
    "long": [
        (0, -92),
        (28, -88),
        (52, -70),
        (67, -42),
        (73, -10),
        (76, 30),
        (80, 75),
        (82, 120),
        (74, 150),
        (48, 158),
        (0, 158),
    ],
    "bob": [(0, -92), (28, -89), (53, -72), (69, -44), (76, -10), (78, 25), (76, 55), (64, 74), (46, 78), (0, 78)],
    "updo": [
        (0, -111),
        (15, -108),
        (22, -100),
        (23, -91),
        (38, -82),
        (53, -63),
        (61, -38),
        (63, -14),
        (60, 4),
        (40, 6),
        (0, 6),
    ],
    "fringe": [
        (0, -92),
        (28, -89),
        (53, -72),
        (69, -44),
        (75, -10),
        (77, 30),
        (78, 70),
        (72, 100),
        (50, 108),
        (0, 108),
    ],
    "wavy": [(0, -97), (30, -94), (58, -76), (76, -46), (86, -8), (84, 25), (92, 60), (86, 98), (66, 112), (0, 112)],
    "afro": [(0, -112), (36, -106), (66, -84), (82, -50), (84, -14), (76, 18), (66, 30), (40, 30), (0, 30)],
}
# height of the hairline at the midline, and how it falls to the sides: (x, y), right half
_HAIRLINE: dict[str, list[tuple[float, float]]] = {
    "crop": [(0, -57), (20, -57), (36, -51), (47, -38), (51, -20), (55, -8), (58, 6)],
    "short": [(0, -59), (20, -58), (36, -51), (46, -38), (51, -20), (55, -6), (58, 8)],
    "parted": [(0, -57), (20, -55), (37, -46), (46, -34), (51, -18), (55, -4), (58, 10)],
    "long": [(0, -66), (14, -61), (30, -46), (43, -24), (50, 0), (53, 30), (50, 60), (42, 86), (40, 120), (43, 160)],
    "bob": [(0, -64), (14, -58), (30, -44), (44, -22), (51, 2), (53, 32), (48, 60), (44, 80)],
    "updo": [(0, -60), (18, -58), (34, -50), (46, -34), (52, -16), (56, -4), (58, 6)],
    "fringe": [(0, -28), (20, -27), (36, -25), (46, -18), (51, 2), (53, 32), (50, 60), (43, 84), (42, 110)],
    "wavy": [(0, -62), (16, -58), (32, -45), (45, -22), (51, 2), (54, 32), (51, 60), (46, 84), (48, 114)],
    "afro": [(0, -58), (20, -57), (38, -50), (49, -34), (54, -14), (57, 4), (58, 30)],
}


@dataclass(frozen=True)
class Style:
    where: Patch
    inside: Image  # signed distance to the edge, units, positive within
    recession: Image  # how far a receding hairline reaches, 0 to 1
    crown: Image  # where hair thins, 0 to 1
    strands: Image  # relief of the strands, mean 0, SD 1
    grey: Image  # which strands turn first, mean 0, SD 1
    sheen: Image  # light on the hair, about 1


@lru_cache(maxsize=16)
def style(name: str) -> Style:
    x, y = grid()
    outer = closed_curve(_OUTER[name])
    line = curve(_HAIRLINE[name], 8)
    # the open face below the hairline; its lower end follows the neck so that long hair falls beside it
    end = line[-1]
    face: Points = np.vstack([line, (end[0], 210.0), (-end[0], 210.0), mirrored(line[::-1])])
    if name == "parted":
        face = face + np.clip((-15 - face[:, 1:]) / 30, 0, 1) * (-6.0, 0.0)
    hair = np.clip(filled(outer, FULL) - filled(face, FULL), 0, 1)
    inside = blurred(_distance(hair), 1.6)
    rows, columns = np.nonzero(inside > -4)
    where = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    recession = np.clip(bump(36, -54, 15, 15) + bump(-36, -54, 15, 15) + 0.55 * bump(0, -64, 24, 12), 0, 1.2)
    # a balding head loses the volume above it too, or a rim would float over the scalp
    recession += 1.1 * (1 - filled(outline(), FULL, 1.0)) * np.clip((-38 - y) / 14, 0, 1)
    crown = np.clip(1.3 * bump(0, -74, 44, 24), 0, 1) * (y < -25)
    strands, grey = _strands(name)
    ring = np.exp(-((y + 70 - 0.010 * x**2) ** 2) / 180)
    sheen = 0.80 + 0.34 * ring - 0.30 * np.clip((y - 40) / 120, 0, 1) - 0.25 * np.clip(1 - inside / 6, 0, 1)
    # what lies behind the neck is in the dark
    sheen -= 0.30 * filled(outline(), FULL, 3.0) * np.clip((y - 10) / 60, 0, 1)
    if name in ("long", "bob", "wavy"):
        sheen -= 0.35 * np.exp(-((x / 1.3) ** 2)) * (y < -20)  # the parting
    maps = (inside, recession, crown, strands, grey, sheen)
    return Style(where, *(np.ascontiguousarray(np.asarray(m, np.float32)[where]) for m in maps))


def _distance(mask: Image) -> Image:
    within = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    beyond = cv2.distanceTransform((mask <= 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.clip(within - beyond, -8, 40), np.float32)


def _strands(name: str) -> tuple[Image, Image]:
    """Combed hair runs round the head and down; cropped hair runs forward; curls run nowhere."""
    x, y = grid()
    if name == "afro":
        curls = noise("coarse")[: x.shape[0], : x.shape[1]]
        return 0.7 * curls, 0.7 * noise("pores")[: x.shape[0], : x.shape[1]]
    wave = 4 * np.sin(y / 9) if name == "wavy" else 0 * y
    # distance from the parting: constant along a strand
    across = np.where(y < -5, np.hypot(x, y + 5), np.abs(x)) + wave
    along = np.where(y < -5, 60 * np.arctan2(np.abs(x), -(y + 5)), y + 100)
    if name in ("crop", "short", "parted", "fringe"):
        slant = 0.5 if name == "parted" else 0.0
        top = np.clip(((-12 if name == "fringe" else -30) - y) / 15, 0, 1)
        across, along = top * (x + slant * y) + (1 - top) * across, top * y + (1 - top) * along
    side = np.where(x < 0, 256, 0)
    column = (np.mod(along * (0.10 if name != "crop" else 0.35), 250) + side).astype(np.float32)
    # fine strands over broad locks
    fine, broad = (
        cv2.remap(noise(kind), column, np.mod(across * pace + 255, 500).astype(np.float32), cv2.INTER_LINEAR)
        for kind, pace in (("pores", 1.3), ("coarse", 0.7))
    )
    return np.asarray(0.6 * fine + 0.8 * broad, np.float32), blurred(fine, 0.5)


def hair_mask(name: str, recede_units: float, thin: float) -> tuple[Patch, Image]:
    """Coverage of hair over its patch. `recede_units` moves the hairline, `thin` (0 to 1) lets the scalp through."""
    s = style(name)
    edge = s.inside + 0.5 * s.strands
    if recede_units > 0:
        edge -= recede_units * s.recession
    cover = np.clip(edge * np.float32(0.38) + np.float32(0.5), 0, 1)
    if thin > 0:
        cover *= 1 - np.clip(s.crown * thin * (1.15 - 0.35 * s.strands), 0, 1)
    return s.where, cover


def hair_planes(name: str, colour: npt.NDArray[np.float64], grey: float, light_x: float) -> Iterator[Image]:
    """RGB planes of the hair over its patch; `grey` 0 to 1 is the share of grey strands."""
    s = style(name)
    light = s.sheen + np.float32(0.10) * s.strands
    if abs(light_x) > 0.05:
        columns = np.arange(s.where[1].start, s.where[1].stop, dtype=np.float32) - MIDLINE_PX
        light *= 1 + np.float32(0.35 * light_x / 60) * columns
    turned = np.clip(np.float32(grey * 1.6 - 0.3) + np.float32(0.14) * s.grey, 0, 1)
    turned *= light
    for shade, silver in zip(colour, _GREY, strict=True):
        yield np.asarray(cv2.addWeighted(light, float(shade), turned, float(silver - shade), 0), np.float32)
