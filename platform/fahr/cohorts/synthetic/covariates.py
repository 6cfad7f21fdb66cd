"""What a clinic writes down beside a photo: it goes with age, frailty and itself, and causes nothing.

The hazard knows age, deviation, frailty and aging rate only; see `truth`.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fahr.cohorts.synthetic.streams import stream

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

SEXES = ("female", "male")
RACES = ("white", "black", "asian", "other")
SITES = ("breast", "prostate", "lung", "gastrointestinal", "gynaecological", "head_neck", "other")
SMOKING = ("never", "former", "current")
ALCOHOL = ("none", "moderate", "heavy")
STAGES = ("I", "II", "III", "IV")
INTENTS = ("curative", "palliative")
_RACE_SHARES = (0.55, 0.17, 0.18, 0.10)
# rows: SEXES, columns: SITES
_SITE_SHARES = ((0.38, 0.0, 0.17, 0.13, 0.12, 0.05, 0.15), (0.01, 0.32, 0.22, 0.17, 0.0, 0.10, 0.18))
_TOBACCO_SITES = (2, 5)  # lung, head and neck


def clinic(age: Floats, frailty: Floats, seed: int) -> dict[str, pa.Array]:
    """Covariates of people with these ages (years) and frailties (SD). ECOG is 0 to 4, larger is worse."""
    n = len(age)

    def noise(name: str) -> Floats:
        return stream(seed, "covariate " + name).standard_normal(n)

    uniform = stream(seed, "covariate site").random(n)
    sex = (stream(seed, "covariate sex").random(n) < 0.5).astype(np.int64)
    race = _pick(stream(seed, "covariate race").random(n), np.array(_RACE_SHARES))
    site = np.where(sex == 0, _pick(uniform, np.array(_SITE_SHARES[0])), _pick(uniform, np.array(_SITE_SHARES[1])))
    habit = noise("habit")  # people who smoke drink more
    tobacco = 0.7 * habit + 0.7 * noise("smoking") + 0.9 * np.isin(site, _TOBACCO_SITES) + 0.2 * sex
    drink = 0.5 * habit + 0.85 * noise("alcohol") + 0.4 * sex
    spread = 0.4 * frailty + 0.9 * noise("stage") + 0.5 * (site == 2) - 0.4 * (site <= 1)
    decline = 0.7 * frailty + 0.2 * (age - 60) / 10 + 0.3 * spread + 0.8 * noise("ecog")
    stage = np.searchsorted((-0.5, 0.3, 1.0), spread)
    ecog = np.searchsorted((0.0, 1.1, 2.0, 3.0), decline)
    palliative = 1.6 * (stage == 3) + 0.5 * ecog + 0.8 * noise("intent") > 1.9
    return {
        "sex": _names(sex, SEXES),
        "race": _names(race, RACES),
        "site": _names(site, SITES),
        "ecog": pa.array(ecog.astype(np.int64)),
        "smoking": _names(np.searchsorted((0.3, 1.1), tobacco), SMOKING),
        "alcohol": _names(np.searchsorted((-0.2, 1.3), drink), ALCOHOL),
        "stage": _names(stage, STAGES),
        "intent": _names(palliative.astype(np.int64), INTENTS),
    }


def _pick(uniform: Floats, shares: Floats) -> Codes:
    # the last border is open: shares need not add up to exactly 1
    return np.searchsorted(np.cumsum(shares)[:-1], uniform, side="right")


def _names(codes: Codes, levels: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), list(levels)).cast(pa.string())
