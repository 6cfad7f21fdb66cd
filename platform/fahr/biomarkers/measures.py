"""What is summed over photos, and the measures of error that follow from the sums alone.

columns = summands(age, face_age, corrected)            # name -> (N,)
error_measures(sums)                                    # name -> (...,) of sums of any shape: one sample, or resamples

error = face age - age, years. N = photos. Where a measure is not defined (one age only, nobody there) it is nan.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fahr.biomarkers.deviation import Floats

NEAR_YEARS = (3, 5, 10)
SLACK_YEARS = 1e-9  # 60.1 - 55.1 is 5 years, though not in binary
Z = 1.959963984540054  # of the 97.5 % point: limits of agreement
BASE = ("n", "age", "age_age")
OF_A_PREDICTION = ("absolute", "error", "error_age", "error_error", *(f"within_{years}" for years in NEAR_YEARS))
OF_A_GROUP = ("n", "age", "age_age", "absolute", "error", "error_age")  # what mae, bias and slope take
CORRECTED = "corrected_"


def summands(
    age: Floats,
    face_age: Floats,
    corrected: Floats | None = None,
    interval: tuple[Floats, Floats] | None = None,
    apparent: tuple[Floats, Floats] | None = None,
) -> dict[str, Floats]:
    """Those of a group first. Ages count from their mean in whole years, so that squares lose no digits."""
    from_centre = age - np.round(age.mean())
    made = {"n": np.ones(len(age)), "age": from_centre, "age_age": from_centre**2}
    made |= _of_a_prediction(face_age - age, from_centre)
    if corrected is not None:
        made |= {CORRECTED + name: values for name, values in _of_a_prediction(corrected - age, from_centre).items()}
    if interval is not None:
        low, high = interval
        made |= {"covered": ((low <= age) & (age <= high)).astype(np.float64), "width": high - low}
    if apparent is not None:
        mean, sd = apparent
        made["epsilon"] = -np.expm1(-(((face_age - mean) / sd) ** 2) / 2)
    first = {name: made[name] for name in OF_A_GROUP}
    return first | made


def _of_a_prediction(error: Floats, from_centre: Floats) -> dict[str, Floats]:
    size = np.abs(error)
    near = {f"within_{years}": (size <= years + SLACK_YEARS).astype(np.float64) for years in NEAR_YEARS}
    return {"absolute": size, "error": error, "error_age": error * from_centre, "error_error": error**2} | near


def error_measures(sums: Mapping[str, Floats], of: str = "") -> dict[str, Floats]:
    """All measures of one prediction: `of` is "" for the raw face age, "corrected_" for the corrected one.

    Limits of agreement are bias -+ 1.96 SD of the differences between photos (Bland and Altman 1986, Lancet 327:307).
    """
    n, square = sums["n"], sums[of + "error_error"]
    with np.errstate(divide="ignore", invalid="ignore"):
        made = group_measures(sums, of)
        age_spread, joint = _spreads(sums, of)
        error_spread = np.maximum(square - sums[of + "error"] ** 2 / n, 0.0)
        scale = sums["age_age"] + square
        face_spread = _zero_is_nan(age_spread + 2 * joint + error_spread, scale)
        mean_spread = _zero_is_nan(age_spread + joint + error_spread / 4, scale)
        sd = np.sqrt(error_spread / np.where(n > 1, n - 1, np.nan))
        known = _zero_is_nan(age_spread, sums["age_age"])
        made |= {
            "rmse": np.sqrt(square / n),
            "pearson": np.clip((known + joint) / np.sqrt(known * face_spread), -1, 1),
            "r2": 1 - square / known,
            "error_slope": joint / known,
            "difference_sd": sd,
            "limit_low": made["bias"] - Z * sd,
            "limit_high": made["bias"] + Z * sd,
            "difference_slope": (joint + error_spread / 2) / mean_spread,
        }
        made |= {f"within_{years}": sums[f"{of}within_{years}"] / n for years in NEAR_YEARS}
    return made


def group_measures(sums: Mapping[str, Floats], of: str = "") -> dict[str, Floats]:
    """mae, bias, and slope of face age on age: 1 = no regression to the mean."""
    n = sums["n"]
    with np.errstate(divide="ignore", invalid="ignore"):
        age_spread, joint = _spreads(sums, of)
        slope = 1 + joint / _zero_is_nan(age_spread, sums["age_age"])
        return {"mae": sums[of + "absolute"] / n, "bias": sums[of + "error"] / n, "slope": slope}


def mean_of_bins(absolute: Floats, n: Floats, counted: NDArray[np.bool_]) -> Floats:
    """(..., C) sums of |error| and photos -> (...,): the unweighted mean of the MAEs of the counted bins.

    A bin that a resample has nobody of is not in its mean.
    """
    there = counted & (n > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(there, absolute / n, 0.0)
        return np.asarray(errors.sum(-1) / np.where(there.any(-1), there.sum(-1), np.nan))


def _spreads(sums: Mapping[str, Floats], of: str) -> tuple[Floats, Floats]:
    """Sums of squares of age, and of products of age and error, about the means."""
    n, age = sums["n"], sums["age"]
    return sums["age_age"] - age**2 / n, sums[of + "error_age"] - age * sums[of + "error"] / n


def _zero_is_nan(spread: Floats, scale: Floats) -> Floats:
    """What is left of squares after their mean is taken off: beneath the last digits it is nothing."""
    return np.where(spread > 1e-12 * scale, spread, np.nan)
