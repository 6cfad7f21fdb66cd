"""What turns up in a bucket of photos and is no photo of one person's face, for the quality gates to refuse.

cartoon, statue: not a face of flesh; object, blank: no face; half: a face cut by the frame; several: many faces.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.anatomy import noise
from fahr.cohorts.synthetic.covariates import RACES, SEXES
from fahr.cohorts.synthetic.faces import draw, looks
from fahr.cohorts.synthetic.options import CohortOptions
from fahr.cohorts.synthetic.person import Person, Shot, person_of, shot_of
from fahr.cohorts.synthetic.streams import stream
from fahr.cohorts.synthetic.strokes import Image, blurred
from fahr.errors import Refused, nearest

Photo = npt.NDArray[np.uint8]


def render_junk(kind: str, *, seed: int = 0, number: int = 0, size_px: int = 256) -> Photo:
    """RGB. `several` is wider than high; the others are square. The same arguments give the same bytes."""
    if kind not in _MAKERS:
        raise Refused(f"kind={kind!r}: known junk is {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    generator = stream(seed, "junk " + kind, number)
    return _MAKERS[kind](generator, size_px)


def _somebody(draw_: np.random.Generator) -> tuple[Person, Shot, float]:
    seed = int(draw_.integers(1 << 30))
    person = person_of(seed, 0, SEXES[draw_.integers(2)], RACES[draw_.integers(4)])
    return person, shot_of(seed, 0, 0, person), float(draw_.uniform(20, 85))


def _half(draw_: np.random.Generator, size_px: int) -> Photo:
    """The frame's edge runs down the nose, or just above the mouth or below the eyes."""
    person, shot, age = _somebody(draw_)
    shift = ((128.0, 0.0), (-128.0, 0.0), (0.0, 118.0), (0.0, -118.0))[draw_.integers(4)]
    person, shot = replace(person, glasses=0), replace(shot, glasses=False, shift=shift, roll=0.0)
    return draw(person, shot, looks(person, age, 0.0, CohortOptions()), size_px).image


def _several(draw_: np.random.Generator, size_px: int) -> Photo:
    columns = []
    for _ in range(int(draw_.integers(2, 4))):
        person, shot, age = _somebody(draw_)
        shot = replace(shot, wall=0, wall_colour=np.array([170.0, 174.0, 178.0]), exposure=1.0, warmth=0.0)
        shot = replace(shot, shift=(0.0, shot.shift[1]))
        image = draw(person, shot, looks(person, age, 0.0, CohortOptions()), size_px).image
        cut = size_px // 8
        columns.append(image[:, cut : size_px - cut])
    return np.hstack(columns)


def _statue(draw_: np.random.Generator, size_px: int) -> Photo:
    """Grey stone all over, eyes without iris, veins of the stone across face and hair alike."""
    person, shot, age = _somebody(draw_)
    stone = np.full(3, draw_.uniform(150, 205))
    person = replace(
        person,
        tone=stone,
        hair=0.8 * stone,
        melanin=0.2,
        beard=0.0,
        blush=0.0,
        makeup=0.0,
        moles=person.moles[:0],
        stone=True,
    )
    shot = replace(shot, glasses=False, makeup=0.0, clothes=0.9 * stone, ambient=0.3, mouth_open=0.0, warmth=0.0)
    options = CohortOptions()
    look = replace(looks(person, age, 0.0, options), grey=0.0, texture=0.0, thin=0.0, recede_units=0.0)
    image = draw(person, shot, look, size_px).image
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    veins = cv2.resize(noise("blotches"), (size_px, size_px)) + 0.6 * cv2.resize(noise("coarse"), (size_px, size_px))
    grey *= 1 + 0.06 * veins
    tint = np.array([1.02, 1.0, 0.95]) * grey[:, :, None]
    return np.clip(tint, 0, 255).astype(np.uint8)


def _blank(draw_: np.random.Generator, size_px: int) -> Photo:
    """One colour, a gradient, or nothing but grain."""
    colour = draw_.uniform(0, 255, 3)
    image = np.broadcast_to(colour, (size_px, size_px, 3)).copy()
    kind = draw_.integers(3)
    if kind == 1:
        image *= np.linspace(0.4, 1.0, size_px)[:, None, None]
    if kind == 2:
        image += draw_.normal(0, 25, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _solid(image: Image, points: Sequence[tuple[float, float]], colour: npt.NDArray[np.float64]) -> None:
    """A polygon in 256ths of the photo."""
    outline = np.rint(np.array(points) * (image.shape[0] / 256 * 16)).astype(np.int32)
    cv2.fillPoly(image, [outline], colour.tolist(), cv2.LINE_AA, 4)


def _mug(image: Image, draw_: np.random.Generator, x: float) -> None:
    colour, unit = draw_.uniform(40, 220, 3), image.shape[0] / 256
    handle, rim = (round((x + 52) * unit), round(160 * unit)), (round(x * unit), round(110 * unit))
    cv2.ellipse(
        image, handle, (round(24 * unit),) * 2, 0, 0, 360, (0.8 * colour).tolist(), round(9 * unit), cv2.LINE_AA
    )
    _solid(image, [(x - 45, 110), (x + 45, 110), (x + 40, 214), (x - 40, 214)], colour)
    axes = (round(45 * unit), round(11 * unit))
    cv2.ellipse(image, rim, axes, 0, 0, 360, (0.5 * colour).tolist(), -1, cv2.LINE_AA)


def _box(image: Image, draw_: np.random.Generator, x: float) -> None:
    colour = draw_.uniform(40, 200, 3)
    _solid(image, [(x - 60, 120), (x + 20, 130), (x + 20, 225), (x - 60, 205)], colour)
    _solid(image, [(x + 20, 130), (x + 70, 112), (x + 70, 196), (x + 20, 225)], 0.7 * colour)
    _solid(image, [(x - 60, 120), (x - 5, 104), (x + 70, 112), (x + 20, 130)], 1.2 * colour)


def _lamp(image: Image, draw_: np.random.Generator, x: float) -> None:
    dark = np.array([55.0, 55, 55])
    _solid(image, [(x - 4, 120), (x + 4, 120), (x + 4, 205), (x - 4, 205)], dark)
    _solid(image, [(x - 30, 60), (x + 30, 60), (x + 55, 122), (x - 55, 122)], draw_.uniform(40, 220, 3))
    _solid(image, [(x - 34, 205), (x + 34, 205), (x + 30, 214), (x - 30, 214)], dark)


def _plant(image: Image, draw_: np.random.Generator, x: float) -> None:
    root = np.array([x, 165.0])
    for angle in draw_.uniform(-1.2, 1.2, 9):
        along, across = np.array([np.sin(angle), -np.cos(angle)]), np.array([np.cos(angle), np.sin(angle)])
        leaf = [root, root + 47 * along + 10 * across, root + 95 * along, root + 47 * along - 10 * across]
        _solid(image, [(p[0], p[1]) for p in leaf], np.array([50.0, 110, 45]) * draw_.uniform(0.7, 1.3))
    _solid(image, [(x - 32, 160), (x + 32, 160), (x + 24, 218), (x - 24, 218)], np.array([170.0, 90, 60]))


def _object(draw_: np.random.Generator, size_px: int) -> Photo:
    """A mug, a box, a lamp or a plant on a table."""
    image = np.empty((size_px, size_px, 3), np.float32)
    image[:] = draw_.uniform(150, 230, 3)
    image[round(190 * size_px / 256) :] = draw_.uniform(60, 130, 3)
    (_mug, _box, _lamp, _plant)[draw_.integers(4)](image, draw_, float(draw_.integers(100, 156)))
    light = np.linspace(1.1, 0.8, size_px, dtype=np.float32)[None, :, None]
    photo = blurred(image * light, 0.7 * size_px / 256) + draw_.normal(0, 3, image.shape)
    return np.clip(photo, 0, 255).astype(np.uint8)


def _cartoon(draw_: np.random.Generator, size_px: int) -> Photo:
    """Flat colours inside black lines: a round head, large eyes, a dot for a nose."""
    scale = size_px / 256
    ink = (15.0, 15.0, 20.0)
    image = np.empty((size_px, size_px, 3), np.float32)
    image[:] = draw_.uniform(120, 255, 3)
    skin = np.array([[255.0, 219, 172], [255, 204, 64], [141, 85, 36], [150, 200, 120]])[draw_.integers(4)]
    hair = draw_.uniform(20, 230, 3)

    def oval(
        x: float, y: float, wide: float, high: float, colour: tuple[float, ...] | npt.NDArray[np.float64], line: int = 4
    ) -> None:
        centre, axes = (
            (round(x * scale * 16), round(y * scale * 16)),
            (round(wide * scale * 16), round(high * scale * 16)),
        )
        cv2.ellipse(image, centre, axes, 0, 0, 360, [float(c) for c in colour], -1, cv2.LINE_AA, 4)
        if line:
            cv2.ellipse(image, centre, axes, 0, 0, 360, ink, max(1, round(line * scale)), cv2.LINE_AA, 4)

    wide, high = draw_.uniform(62, 84), draw_.uniform(66, 84)
    oval(128, 262, 80, 60, draw_.uniform(40, 230, 3))
    oval(128, 100, wide + 10, high + 6, hair)
    oval(128, 124, wide, high, skin)
    eye, gap = draw_.uniform(15, 24), draw_.uniform(26, 34)
    for side in (-1, 1):
        oval(128 + side * gap, 108, eye, eye * 1.25, (255, 255, 255))
        oval(128 + side * gap + draw_.uniform(-3, 3), 112, eye * 0.4, eye * 0.5, ink, 0)
        brow = [(128 + side * (gap - 14), 76), (128 + side * (gap + 14), 76 + draw_.uniform(-7, 7))]
        cv2.polylines(
            image, [np.rint(np.array(brow) * scale).astype(np.int32)], False, ink, round(5 * scale), cv2.LINE_AA
        )
    oval(128, 140, 6, 5, 0.8 * skin, 3)
    centre = (round(128 * scale), round(158 * scale))
    cv2.ellipse(
        image, centre, (round(26 * scale), round(16 * scale)), 0, 10, 170, ink, max(1, round(4 * scale)), cv2.LINE_AA
    )
    return np.clip(image, 0, 255).astype(np.uint8)


_MAKERS: dict[str, Callable[[np.random.Generator, int], Photo]] = {
    "cartoon": _cartoon,
    "object": _object,
    "statue": _statue,
    "blank": _blank,
    "half": _half,
    "several": _several,
}
KINDS = tuple(_MAKERS)
