"""Eyes, brows, nose, mouth, glasses and moles, painted on the canvas in small patches."""

import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.person import Person, Shot
from fahr.cohorts.synthetic.strokes import (
    EYE_LINE_PX,
    MIDLINE_PX,
    Image,
    Patch,
    Points,
    band,
    curve,
    discs,
    filled,
    lined,
    mirrored,
    paint,
    pair,
    patch,
    shade,
)

Floats = npt.NDArray[np.float64]
_DARK = np.array([34.0, 24.0, 22.0])
_STEPS = np.arange(75) / 12  # units from the middle of the pupil
_EYE = np.array([25.0, 0.0])  # the middle of the eye on the viewer's right


def _lids(person: Person, smile: float) -> tuple[Points, Points]:
    """Upper and lower lid of the eye on the viewer's right, around (0, 0), from the inner to the outer corner."""
    high = 4.3 * person.eye_open
    low = 3.1 * person.eye_open - 0.6 * max(smile, 0)
    tilt = person.eye_tilt
    upper = [(-12, 2.2), (-8.5, -1.2), (-4, -high * 0.92), (1.5, -high), (7, -high * 0.72), (12.3, 0.6 - tilt)]
    lower = [(-12, 2.2), (-7, 2.6), (-1, low), (5, low * 0.92), (9.5, low * 0.5 - 0.5 * tilt), (12.3, 0.6 - tilt)]
    return curve(upper), curve(lower)


def draw_eyes(canvas: Image, person: Person, shot: Shot) -> None:
    where = patch(-42, -12, 42, 8)
    upper, lower = _lids(person, shot.smile)
    upper, lower = upper + _EYE, lower + _EYE
    inside = filled(pair(np.vstack([upper, lower[::-1]])), where)
    target = canvas[:, where[0], where[1]]
    target += (_eyeballs(person, shot, where) - target) * inside
    shade(canvas, where, filled(pair(band(upper, 0.2, 2.0)), where, 0.9) * inside, 0.55)  # the lid's shadow
    glint = (shot.gaze[0] + (1.7 if shot.light[0] > 0 else -1.7), shot.gaze[1] - 2.4)
    shining = discs([(glint[0] - 25, glint[1]), (glint[0] + 25, glint[1])], 0.95, where)
    paint(canvas, where, shining * inside, (255, 255, 255), 0.95)
    paint(canvas, where, discs([(14.0, 2.0), (-14.0, 2.0)], 1.1, where, 0.5), (196, 128, 118), 0.55)  # inner corners
    thick = 1.0 if shot.makeup > 0.25 or not person.male else 0.6
    paint(canvas, where, filled(pair(band(upper[2:], 0.3 + thick, thick)), where, 0.46), _DARK, 0.85)
    paint(canvas, where, lined(pair(lower[4:]), where, 1, 0.5), 0.6 * _DARK + 0.3 * person.tone, 0.45)
    fold = (upper - _EYE) * (1.02, 0.86) + (0.3, -3.2 * (1.25 - 0.35 * person.lid_fold)) + _EYE
    shade(canvas, where, lined(pair(fold[1:]), where, 1, 0.7), 1 - 0.42 * person.lid_fold)
    if shot.makeup > 0.3:
        lid = np.vstack([fold, upper[::-1]])
        paint(canvas, where, filled(pair(lid), where, 1.2), (96, 70, 84), 0.38 * min(shot.makeup, 1))
        wing = np.array([(9, -2.6), (12.2, 0.4 - person.eye_tilt), (15.2, -2.2 - person.eye_tilt)]) + _EYE
        paint(canvas, where, filled(pair(wing), where, 0.5), _DARK, 0.6 * min(shot.makeup, 1))


def _eyeballs(person: Person, shot: Shot, where: Patch) -> Image:
    """Pupil, iris, its dark rim and the white, by the distance from the middle of the gaze."""
    rows, columns = where
    y = np.arange(rows.start, rows.stop) - (EYE_LINE_PX + shot.gaze[1] - 0.5)
    across = np.arange(columns.start, columns.stop) - MIDLINE_PX
    x = across - np.where(across < 0, -25, 25) - shot.gaze[0]
    distance = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
    if person.stone:
        return np.ones((3, *distance.shape), np.float32) * np.float32(0.9 * person.tone[0])
    white = (208, 200, 194) if person.melanin < 0.5 else (190, 180, 170)
    stops = (1.9, 2.7, 4.2, 5.3, 6.1)
    rings = [(13.0, 0.9 * iris, 1.1 * iris, 0.42 * iris, edge) for iris, edge in zip(person.iris, white, strict=True)]
    colours = np.array([np.interp(_STEPS, stops, ring) for ring in rings], np.float32)
    return colours[:, np.minimum(distance * 12, len(_STEPS) - 1).astype(np.intp)]


def draw_brows(canvas: Image, person: Person, colour: Floats, hairs: Image) -> None:
    where = patch(-48, -29, 48, -9)
    thick, arch = person.brow_thick, person.brow_arch
    top = [(8, -17.5), (17, -20.5 - 0.8 * arch), (28, -22.6 - 1.5 * arch), (42, -15.8)]
    low = [
        (42, -15.3),
        (28, -22.6 - 1.5 * arch + 4.1 * thick),
        (17, -20.5 - 0.8 * arch + 4.8 * thick),
        (8, -17.5 + 4.2 * thick),
    ]
    mask = filled(pair(np.vstack([curve(top), curve(low)])), where, 1.2)
    rows, columns = mask.shape
    strands = np.float32(0.78) + np.float32(0.13) * hairs[:rows, :columns]
    paint(canvas, where, np.minimum(mask * strands, 1), colour, 0.86)


def draw_nose(canvas: Image, person: Person) -> None:
    where = patch(-17, 24, 17, 42)
    hole = np.array([(3.2, 36.2), (5.5, 34.6), (8.3, 35.2), (8.6, 36.6), (5.8, 37.4)])
    paint(canvas, where, filled(pair(hole), where, 0.8), 0.16 * person.tone, 0.75 * person.nostril)
    wing = curve([(11.5, 26.5), (14.0, 31), (13.2, 35.8), (10.2, 37.3)])
    septum = curve([(-3.4, 37.6), (0, 38.6), (3.4, 37.6)])
    shade(canvas, where, lined([pair(wing), septum], where, 1, 0.9), 0.73)


def mouth_corner(shot: Shot) -> tuple[float, float]:
    """Half the mouth's width, and the height of its corners, in face units."""
    return 20.5 + 2.6 * shot.smile, 57.0 - 2.6 * shot.smile


def draw_mouth(canvas: Image, person: Person, shot: Shot) -> None:
    where = patch(-32, 44, 32, 78)
    wide, corner = mouth_corner(shot)
    full, gape = person.lip_full, 5.0 * min(shot.mouth_open, 1.2) * (1 + 0.3 * shot.smile)
    middle = 57.6 - 0.3 * gape
    upper = [(0, 54.0 - 1.2 * full), (4, 53.0 - 1.9 * full), (11, 54.3 - 1.0 * full), (wide, corner)]
    seam = [(0, middle), (5, middle - 0.5), (12, middle - 0.2 + 0.1 * (corner - 57)), (wide, corner)]
    lower = [
        (0, 61.2 + 2.6 * full + gape),
        (8, 60.6 + 2.2 * full + gape),
        (15, 58.8 + 1.0 * full + 0.5 * gape),
        (wide, corner),
    ]
    bottom_seam = [
        (0, middle + 0.4 + 1.3 * gape),
        (5, middle + 0.3 + 1.25 * gape),
        (12, middle + 0.2 + 0.8 * gape),
        (wide, corner),
    ]
    up, mid, low, mid2 = (_whole(half) for half in (upper, seam, lower, bottom_seam))
    lip = person.tone * (0.86, 0.65, 0.64) + (10, 0, 2)
    if shot.makeup > 0.2:
        rouge = np.array([168.0, 44.0, 62.0]) if person.shape[0] > 0 else np.array([178.0, 84.0, 88.0])
        lip = lip + min(shot.makeup, 1) * 0.75 * (rouge - lip)
    soft = 0.9
    paint(canvas, where, filled(np.vstack([mid2, low[::-1]]), where, soft), lip * 1.05, 0.82)
    if gape > 0.8:
        inside = np.vstack([mid, mid2[::-1]])
        paint(canvas, where, filled(inside, where, 0.5), (52, 20, 22), 0.95)
        teeth = np.vstack([mid, (mid2 * 0.55 + mid * 0.45)[::-1]]) * (0.86, 1)
        paint(canvas, where, filled(teeth, where, 0.6), (226, 220, 208), 0.9)
    paint(canvas, where, filled(np.vstack([up, mid[::-1]]), where, soft), lip * 0.84, 0.86)
    paint(canvas, where, lined(mid, where, 1, 0.55), 0.30 * lip, 0.85)
    shine = filled(np.array([(-7, 61 + gape), (0, 60.4 + gape), (7, 61 + gape), (0, 63.2 + gape)]), where, 1.3)
    paint(canvas, where, shine, (255, 236, 230), 0.20 + 0.15 * min(shot.makeup, 1))
    corners = [(wide + 0.6, corner + 0.3), (-wide - 0.6, corner + 0.3)]
    shade(canvas, where, discs(corners, 1.5, where, 0.9), 0.6)


def _whole(half: list[tuple[float, float]]) -> Points:
    right = curve(half, 4)
    return np.vstack([mirrored(right[::-1]), right[1:]])


def draw_moles(canvas: Image, person: Person) -> None:
    for x, y, radius in person.moles:
        where = patch(x - 4, y - 4, x + 5, y + 5)
        paint(canvas, where, discs([(x, y)], radius, where, 0.5), 0.45 * person.tone, 0.7)


def draw_glasses(canvas: Image, person: Person, shot: Shot) -> None:
    """Frame 1 is round and thin, 2 a dark rectangle, 3 half-rimmed."""
    kind = person.glasses - 1
    half_wide, top, low, roundness = ((17, -11, 17, 2.0), (19, -10, 14, 4.3), (18, -9, 13, 3.8))[kind]
    where = patch(-62, -16, 62, 24)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    unit = np.sign(circle) * np.abs(circle) ** (2 / roundness)  # a superellipse has round corners and no kinks
    lens = unit * (half_wide, (low - top) / 2) + (24.5, (low + top) / 2)
    bridge = curve([(half_wide - 24.5, -3), (0, -5.2), (24.5 - half_wide, -3)])
    arm = np.array([(24.5 + half_wide, -5.5), (59, -4.0)])
    if kind == 1:  # a polygon with a hole, and bands: thick lines are slow
        middle = (24.5, (low + top) / 2)
        inner = (lens - middle) * (0.90, 0.85) + middle
        sides = [filled([side, hole], where, 0.46) for side, hole in zip(pair(lens), pair(inner), strict=True)]
        bars = filled([band(bridge, 1, 1), *pair(band(arm, 1, 1))], where, 0.46)
        frame = np.maximum(np.maximum(*sides), bars)
    else:
        rims = lined(pair(lens if kind == 0 else lens[18:42]), where, 1, closed=kind == 0)
        frame = np.maximum(rims, lined([bridge, pair(arm)], where))
    glass = filled(pair(lens), where)
    shade(canvas, where, glass, 0.95)
    glare = np.array([(14, -7), (20, -7), (14, 6), (9, 6)]) * (1 if shot.light[0] > 0 else -1, 1)
    paint(canvas, where, filled(glare, where, 1.5) * glass, (255, 255, 255), 0.13)
    paint(canvas, where, np.minimum(1.25 * frame, 1), ((120, 104, 84), (28, 26, 30), (70, 66, 70))[kind], 0.92)
