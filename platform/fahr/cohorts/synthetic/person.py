"""Who is in the picture (the same in every photo) and how this one was taken (new each time)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.streams import stream

Floats = npt.NDArray[np.float64]

# mean and SD of melanin (0 light, 1 dark) for the races of `covariates`
_MELANIN = {"white": (0.14, 0.08), "black": (0.78, 0.12), "asian": (0.30, 0.10), "other": (0.46, 0.15)}
_TONES = np.array(
    [(243, 208, 188), (230, 188, 160), (208, 160, 128), (170, 122, 90), (124, 84, 62), (84, 57, 45)], float
)
_HAIR = {
    "black": (30, 26, 26),
    "brown": (68, 46, 34),
    "chestnut": (98, 60, 38),
    "blond": (182, 146, 96),
    "red": (140, 68, 36),
}
_EYES = np.array([(72, 46, 30), (96, 66, 40), (110, 100, 62), (92, 122, 140), (112, 130, 132)], float)
WOMEN_STYLES = ("long", "bob", "updo", "fringe", "wavy")
MEN_STYLES = ("short", "parted", "crop")
# half the difference between the sexes, in SD of `warp.SHAPES`: jaw, chin, forehead, eyes, nose, mouth, brows
_MALE_SHAPE = np.array([0.1, 0.2, 0.6, 0.4, 0.1, 0.0, 0.0, -0.5, 0.2, 0.4, 0.0, 0.2, -0.1, -0.5, 0.0, 0.0])
AGE_CUES = ("folds", "forehead", "temples", "texture", "hair", "jaw")
FRAILTY_CUES = ("under_eye", "bridge")


@dataclass(frozen=True)
class Person:
    """Colours are RGB, 0 to 255; shapes are in SD of an ordinary person."""

    male: bool
    tone: Floats
    melanin: float
    hair: Floats
    iris: Floats
    style: str
    shape: Floats  # weights of `warp.SHAPES`
    eye_open: float
    eye_tilt: float
    lid_fold: float  # 0 none to 1 deep
    brow_thick: float
    brow_arch: float
    lip_full: float
    nostril: float
    blush: float
    beard: float  # 0 shaven, below 0.5 stubble, to 1 full
    forehead_kind: int
    bald: float  # how soon hair recedes, 0 never to 1
    glasses: int  # 0 none, else the frame
    makeup: float
    moles: Floats  # (n, 3): x, y, radius
    skin_offset: tuple[int, int]  # where in the noise tiles
    scatter: dict[str, float]  # cue by cue, how much older or frailer it looks than the person, in SD
    stone: bool = False  # a statue: its eyes have no iris


@dataclass(frozen=True)
class Shot:
    """One photo. Degrees: yaw > 0 turns the nose to the viewer's right, pitch > 0 down, roll > 0 is clockwise."""

    yaw: float
    pitch: float
    roll: float
    scale: float  # of a face unit, in 256ths of the photo
    shift: tuple[float, float]  # of the face, in 256ths
    light: Floats  # unit vector towards the light; y down, z to the camera
    ambient: float
    smile: float
    mouth_open: float
    gaze: tuple[float, float]
    glasses: bool
    makeup: float
    clothes: Floats
    collar: int
    wall: int
    wall_colour: Floats
    exposure: float
    warmth: float
    contrast: float
    noise: float
    blur: float
    offset: tuple[int, int]


class _Draws:
    """Normal and uniform numbers of one stream, drawn at once: a call a number would cost more than the drawing."""

    def __init__(self, seed: int, name: str, *keys: int) -> None:
        draw = stream(seed, name, *keys)
        self._normal, self._uniform = iter(draw.standard_normal(48).tolist()), iter(draw.random(48).tolist())

    def normal(self, mean: float, sd: float, low: float = -1e9, high: float = 1e9) -> float:
        return float(min(max(mean + sd * next(self._normal), low), high))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return float(low + (high - low) * next(self._uniform))

    def integer(self, below: int) -> int:
        return int(next(self._uniform) * below)

    def vector(self, size: int) -> Floats:
        return np.array([next(self._normal) for _ in range(size)])


def person_of(seed: int, subject: int, sex: str, race: str) -> Person:
    d = _Draws(seed, "person", subject)
    male = sex == "male"
    mean, sd = _MELANIN.get(race, _MELANIN["other"])
    melanin = d.normal(mean, sd, 0.0, 1.0)
    place = melanin * (len(_TONES) - 1.001)
    low = int(place)
    tone = _TONES[low] + (place - low) * (_TONES[low + 1] - _TONES[low]) + d.normal(0, 4) * np.array([0.3, 0.1, -1.0])
    light_hair = d.uniform() < 0.75 and race == "white"
    shades = ("brown", "chestnut", "blond", "red") if light_hair else ("black", "brown", "black", "black")
    rank = d.uniform()
    hair = np.array(_HAIR[shades[(rank > 0.4) + (rank > 0.65) + (rank > 0.92)]], float) * d.uniform(0.85, 1.15)
    iris = _EYES[d.integer(5 if light_hair else 2)] * d.uniform(0.85, 1.15)
    curly = d.uniform() < 0.6 and race == "black"
    styles = MEN_STYLES if male else WOMEN_STYLES
    style = styles[d.integer(len(styles))]
    moles = np.array([(d.uniform(-42, 42), d.uniform(22, 80), d.uniform(0.5, 1.2)) for _ in range(3)])
    shape = np.array([d.normal(0, 1, -2.2, 2.2) for _ in range(16)]) + (1 if male else -1) * _MALE_SHAPE
    return Person(
        male=male,
        tone=np.maximum(tone, 30),
        melanin=melanin,
        hair=hair,
        iris=iris,
        style=("crop" if male else "afro") if curly else style,
        shape=shape,
        eye_open=d.normal(0.88 if race == "asian" else 1.0, 0.13, 0.7, 1.3),
        eye_tilt=d.normal(1.0 if race == "asian" else 0.3, 0.7),
        lid_fold=d.normal(0.35 if race == "asian" else 0.75, 0.2, 0.1, 1.0),
        brow_thick=d.normal(1.2 if male else 0.8, 0.18, 0.5, 1.7),
        brow_arch=d.normal(0.0 if male else 0.7, 0.6),
        lip_full=d.normal(0.9 if male else 1.1, 0.16, 0.55, 1.6) + 0.25 * (race == "black"),
        nostril=d.uniform(0.6, 1.2),
        blush=d.uniform(0.3, 1.2),
        beard=_beard(d.uniform()) if male else 0.0,
        forehead_kind=d.integer(4),
        bald=float(d.uniform() ** 0.9 if male else 0.12 * d.uniform()),
        glasses=1 + d.integer(3) if d.uniform() < 0.22 else 0,
        makeup=0.0 if male else d.normal(0.45, 0.35, 0.0, 1.2),
        moles=moles[: d.integer(4)],
        skin_offset=(d.integer(512 - 250), d.integer(512 - 160)),
        scatter={cue: d.normal(0, 1) for cue in (*AGE_CUES, *FRAILTY_CUES)},
    )


def _beard(rank: float) -> float:
    """Over half of men are shaven, a quarter have stubble, the rest a beard."""
    if rank < 0.55:
        return 0.0
    return 0.15 + 0.5 * (rank - 0.55) if rank < 0.82 else 0.6 + 2 * (rank - 0.82)


def shot_of(seed: int, subject: int, photo: int, person: Person) -> Shot:
    d = _Draws(seed, "shot", subject, photo)
    light = np.array([d.normal(0, 0.38, -0.85, 0.85), d.uniform(-0.8, -0.2), 0.72])
    clothes = d.uniform(25, 200) + d.uniform(0, 34) * np.array([d.normal(0, 1), d.normal(0, 0.7), d.normal(0, 1)])
    return Shot(
        yaw=d.normal(0, 5.5, -14, 14),
        pitch=d.normal(0, 3.5, -8, 8),
        roll=d.normal(0, 3.5, -10, 10),
        scale=d.uniform(0.86, 1.10),
        shift=(d.normal(0, 5), d.normal(0, 4)),
        light=light / np.linalg.norm(light),
        ambient=d.uniform(0.34, 0.54),
        smile=d.normal(0.25, 0.35, -0.25, 1.0),
        mouth_open=d.normal(-0.35, 0.5, 0.0),
        gaze=(d.normal(0, 0.7), d.normal(0, 0.35)),
        glasses=d.uniform() < 0.85 and person.glasses > 0,
        makeup=person.makeup * d.uniform(0.3, 1.2),
        clothes=np.maximum(clothes, 12),
        collar=d.integer(3),
        wall=d.integer(4),
        wall_colour=np.maximum(d.normal(165, 38, 50, 235) + d.uniform(0, 16) * d.vector(3), 30),
        exposure=d.normal(1.0, 0.06),
        warmth=d.normal(0, 0.03),
        contrast=d.normal(1.0, 0.06),
        noise=0.8 + 4.0 * d.uniform() ** 2,
        blur=d.normal(0.25, 0.35, 0.0),
        offset=(d.integer(256), d.integer(256)),
    )
