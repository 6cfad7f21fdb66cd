"""A face whose age and frailty are known, drawn in milliseconds; the same bytes for the same arguments.

Age shows in the nasolabial folds, forehead, temples, skin, hair and jaw; frailty under the eyes and on the nasal
bridge. No cue of one is touched by the other. Nothing else about the person depends on either.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic import camera, parts
from fahr.cohorts.synthetic.anatomy import SKIN, anatomy, noise
from fahr.cohorts.synthetic.clothes import draw_clothes
from fahr.cohorts.synthetic.hair import hair_mask, hair_planes
from fahr.cohorts.synthetic.options import CohortOptions
from fahr.cohorts.synthetic.person import AGE_CUES, FRAILTY_CUES, Person, Shot, person_of, shot_of
from fahr.cohorts.synthetic.strokes import CANVAS_PX, Image, overlay
from fahr.cohorts.synthetic.warp import Pose, landmarks_on_canvas

_NO_ROWS: Any = None  # columns and rows come in one map; OpenCV takes None, its stub does not know


@dataclass(frozen=True)
class Face:
    image: npt.NDArray[np.uint8]  # RGB, height x width x 3
    landmarks: npt.NDArray[np.float64]  # (5, 2) x, y in pixels, in image order: eyes, nose tip, mouth corners


@dataclass(frozen=True)
class Looks:
    """How far each cue has come: 0 not at all, 1 as in an ordinary person of 90 (age) or at 2 SD (frailty)."""

    folds: float
    forehead: float
    temples: float
    texture: float
    grey: float
    recede_units: float
    thin: float
    jaw: float
    under_eye: float
    bridge: float


def _ramp(years: float, start: float, end: float, power: float = 1.0) -> float:
    """From 0 at `start` to 1 at `end` and on to 1.2; no step, so that every year shows."""
    return float(min(max((years - start) / (end - start), 0.0), 1.2) ** power)


def _frail(frailty: float) -> float:
    """.05 at -2 SD, .45 at 0, 1 at 2: never flat and never negative."""
    return 0.14 * float(np.logaddexp(0, 2 * (frailty + 1.6)))


def looks(person: Person, apparent_age: float, frailty: float, options: CohortOptions) -> Looks:
    cues = options.cues
    age = {cue: apparent_age + options.cue_scatter_years * person.scatter[cue] for cue in AGE_CUES}
    frail = {cue: _frail(frailty + options.cue_scatter_frailty * person.scatter[cue]) for cue in FRAILTY_CUES}
    temples = cues.temples * _ramp(age["temples"], 30, 88)
    return Looks(
        folds=cues.folds * _ramp(age["folds"], 12, 88, 1.2),
        forehead=cues.forehead * _ramp(age["forehead"], 20, 88, 1.1),
        temples=temples,
        texture=cues.texture * _ramp(age["texture"], 15, 90, 1.2),
        grey=min(1.0, cues.hair * float(1 / (1 + np.exp(-(age["hair"] - 55) / 8)))),
        recede_units=temples * (4 + 24 * person.bald),
        thin=min(1.0, cues.hair * _ramp(age["hair"], 30, 85) * (0.15 + person.bald)),
        jaw=cues.jaw * _ramp(age["jaw"], 25, 90, 1.1),
        under_eye=cues.under_eye * frail["under_eye"],
        bridge=cues.bridge * frail["bridge"],
    )


def render_face(
    *,
    seed: int,
    subject: int,
    photo: int,
    apparent_age: float,
    frailty: float,
    sex: str = "female",
    race: str = "white",
    options: CohortOptions | None = None,
) -> Face:
    """Photo number `photo` of a person. (seed, subject) is the person, the photo's number only how it was taken."""
    options = options or CohortOptions()
    person = person_of(seed, subject, sex, race)
    shot = shot_of(seed, subject, photo, person)
    return draw(person, shot, looks(person, apparent_age, frailty, options), options.size_px)


def draw(person: Person, shot: Shot, look: Looks, size_px: int) -> Face:
    canvas, coverage = _paint_canvas(person, shot, look)
    pose = Pose(person, shot, size_px, min(look.jaw, 1.5))
    # bytes: four of them are warped faster than one float, and the grain to come hides the rounding
    planes = [cv2.multiply(plane, coverage, dtype=cv2.CV_8U) for plane in canvas]
    layers = cv2.merge([*planes, cv2.convertScaleAbs(coverage, alpha=255)])
    photo = cv2.remap(layers, pose.map(), _NO_ROWS, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    points = pose.to_photo(landmarks_on_canvas(*parts.mouth_corner(shot)))
    return Face(camera.develop(np.asarray(photo, np.uint8), shot), points)


def _paint_canvas(person: Person, shot: Shot, look: Looks) -> tuple[Image, Image]:
    """The whole person on the canonical head: RGB planes (0 to 255) and coverage (0 to 1)."""
    canvas = np.zeros((3, CANVAS_PX, CANVAS_PX), np.float32)
    _skin(canvas, person, shot, look)
    coverage = anatomy().skin.copy()
    draw_clothes(canvas, coverage, shot)
    brow = 0.75 * person.hair + 0.45 * look.grey * (150 - 0.75 * person.hair)
    parts.draw_eyes(canvas, person, shot)
    parts.draw_brows(canvas, person, brow, noise("hairs")[person.skin_offset[0] :, person.skin_offset[1] :])
    parts.draw_nose(canvas, person)
    parts.draw_mouth(canvas, person, shot)
    parts.draw_moles(canvas, person)
    if shot.glasses:
        parts.draw_glasses(canvas, person, shot)
    where, mask = hair_mask(person.style, look.recede_units, look.thin)
    overlay(canvas, coverage, where, mask, hair_planes(person.style, person.hair, look.grey, float(shot.light[0])))
    return canvas, coverage


def _skin(canvas: Image, person: Person, shot: Shot, look: Looks) -> None:
    """Light on skin: diffuse, hollows, cast shadows, a little shine, blood and texture."""
    a = anatomy()
    slope_x, slope_y, hollow = _relief(person, shot, look)
    lx, ly, lz = (np.float32(v) for v in shot.light)
    facing = lz - lx * slope_x
    facing -= ly * slope_y
    slope_x *= slope_x
    slope_y *= slope_y
    slope_x += slope_y
    slope_x += 1
    facing /= np.sqrt(slope_x)
    np.maximum(facing, 0, out=facing)
    ambient = np.float32(shot.ambient)
    np.minimum(hollow, np.float32(0.85), out=hollow)
    light = (ambient + (np.float32(1.16) - ambient) * facing) * (1 - hollow)
    tile = tuple(slice(o, o + n) for o, n in zip(person.skin_offset, light.shape, strict=True))
    light *= noise("skin")[tile]
    if look.texture > 0:
        rough = a.coarse * noise("aged skin")[tile]
        rough *= np.float32(look.texture)
        rough += 1
        light *= rough
    if person.beard > 0:
        _beard(light, a.beard, person, look, noise("hairs")[tile])
    facing *= facing
    facing *= facing
    shine = facing * facing
    shine *= facing
    shine *= np.float32(30 - 6 * person.melanin)
    red = a.blush * light
    red *= np.float32((9 * person.blush + 8 * min(shot.makeup, 1)) * (1 - 0.75 * person.melanin))
    target = canvas[:, SKIN[0], SKIN[1]]
    # shadows on skin are warm: red falls off less than blue
    for plane, tone, falloff, blood in zip(target, person.tone, (0.92, 1.03, 1.10), (0.9, -0.8, -0.5), strict=True):
        np.multiply(light, np.float32(falloff * tone), out=plane)
        plane += shine + np.float32((1 - falloff) * tone)
        plane += red * np.float32(blood)


def _relief(person: Person, shot: Shot, look: Looks) -> tuple[Image, Image, Image]:
    """Slopes of the skin and its darkness (0 to 1), over SKIN: the bare head and what life has added."""
    a = anatomy()
    slope_x, slope_y, hollow = a.slope_x.copy(), a.slope_y.copy(), a.hollow * np.float32(0.9)
    strengths = {
        "folds": look.folds + 0.30 * max(shot.smile, 0),  # a smile folds young cheeks too
        f"forehead{person.forehead_kind}": 0.75 * look.forehead,
        "temples": look.temples,
        "jaw": look.jaw,
        "under_eye": look.under_eye * (1 - 0.25 * min(shot.makeup, 1)),
        "bridge": look.bridge,
    }
    for name, strength in strengths.items():
        if strength > 0:
            relief = a.reliefs[name]
            slope_x[relief.where] += np.float32(strength) * relief.slope_x
            slope_y[relief.where] += np.float32(strength) * relief.slope_y
            hollow[relief.where] += np.float32(0.30 * strength) * relief.crease
    for name, strength in _shadow_strengths(shot).items():
        where, mask = a.shadows[name]
        hollow[where] += np.float32(strength) * mask
    return slope_x, slope_y, hollow


def _shadow_strengths(shot: Shot) -> dict[str, float]:
    height = -float(shot.light[1])
    return {
        "under_nose": 0.10 + 0.25 * height,
        "brow": 0.12 + 0.35 * height,
        "under_lip": 0.10 + 0.30 * height,
        "nose_left": 0.07 + 0.6 * max(0.0, float(shot.light[0])),
        "nose_right": 0.07 + 0.6 * max(0.0, -float(shot.light[0])),
    }


def _beard(light: Image, where: Image, person: Person, look: Looks, hairs: Image) -> None:
    """Stubble darkens the skin; a beard darkens it with the colour of the hair, grey or not."""
    dark = 1 - float(person.hair.mean()) / 150 * (1 - look.grey) - 0.75 * look.grey
    amount = np.float32(min(person.beard, 0.85) * max(dark, 0.1))
    light *= 1 - where * amount * np.clip(0.9 + 0.22 * hairs, 0, 1.2)
