"""Regression to the mean, taken out of face ages by a line that calibration people drew.

line = fit_bias(face_age, age, subjects)           # of the `calibrate` split only; goes into the checkpoint
corrected = correct(face_age, age, line)           # raw face ages of anybody whose age is known
face_age_deviation(corrected, age)                 # the adjusted deviation

error = face age - age = intercept + slope * (age - centre), fitted by least squares, and taken off: the error regressed
on age, as Smith 2019 (NeuroImage 200:528) does for brain age. N = photos.
"""

from collections.abc import Mapping
from math import fsum, isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.deviation import Flags, Floats, check_shape, read_ages, read_years, refuse_rows
from fahr.errors import Refused
from fahr.survival.people import Ints, read_groups

FEWEST_PEOPLE = 30  # fewer draw no line worth subtracting
LEAST_SPAN_YEARS = 1.0  # between the youngest and the oldest: within one age there is no slope
KEYS = ("intercept", "slope", "centre", "n", "people", "low_age", "high_age")


class Corrected(np.ndarray[Any, np.dtype[np.float64]]):
    """Face ages that were corrected: slices, copies and pickles of them still are, so that `correct` knows them again.

    What is computed of them is plain. A file forgets the type and remembers by its column, `face_age_corrected`.
    """

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain


def fit_bias(face_age: ArrayLike, age: ArrayLike, subjects: ArrayLike | None = None) -> dict[str, float]:
    """The line, from people who taught the model nothing. Each counts once: each of m photos of a person weighs 1 / m.

    intercept (years, at the centre), slope (years a year; below 0: the old are read too young), centre (mean age), n
    (photos), people, low_age and high_age (of the people that drew it). The order of the rows changes no bit of it.
    """
    shown, ages = read_known(face_age, age)
    person = read_people(subjects, len(shown))
    photos = np.bincount(person)
    people, weights = len(photos), 1 / photos[person]
    if people < FEWEST_PEOPLE:
        raise Refused(f"{people} people to fit the bias of face age: at least {FEWEST_PEOPLE} are needed. Add people.")
    low, high = float(ages.min()), float(ages.max())
    if high - low < LEAST_SPAN_YEARS:
        raise Refused(
            f"age: all from {low:g} to {high:g} years, which shows no slope: at least {LEAST_SPAN_YEARS:g} year must "
            "lie between the youngest and the oldest. Add people of other ages."
        )
    # fsum rounds once, at the end: the same sum in every order
    centre = fsum(weights * ages) / people
    from_centre, errors = ages - centre, shown - ages
    intercept = fsum(weights * errors) / people
    square = fsum(weights * from_centre**2)
    slope = fsum(weights * from_centre * (errors - intercept)) / square
    counted = {"n": float(len(ages)), "people": float(people)}
    return {"intercept": intercept, "slope": slope, "centre": centre, **counted, "low_age": low, "high_age": high}


def correct(face_age: ArrayLike, age: ArrayLike, correction: Mapping[str, float]) -> Corrected:
    """(N,) raw face ages, in years, less the error that is usual at each person's age. nan where the age is unknown.

    People younger or older than anybody in the fit get the correction of its nearest age: the line is never prolonged
    (`outside_fit` tells who they are). Already corrected face ages are refused.
    """
    _check(correction)
    shown = read_raw("correct", face_age)
    ages = read_ages(age, len(shown)).clip(correction["low_age"], correction["high_age"])
    usual = correction["intercept"] + correction["slope"] * (ages - correction["centre"])
    return (shown - usual).view(Corrected)


def outside_fit(age: ArrayLike, correction: Mapping[str, float]) -> Flags:
    """(N,) whether the person is younger or older than anybody whom the line was fitted on; False where unknown."""
    _check(correction)
    ages = read_ages(age)
    return np.asarray((ages < correction["low_age"]) | (ages > correction["high_age"]))


def read_raw(asked: str, face_age: ArrayLike) -> Floats:
    """(N,) face ages as the model gave them, nan where unknown."""
    if isinstance(face_age, Corrected):
        raise Refused(f"{asked}: these face ages were corrected already. Give the raw ones, of the column face_age.")
    return np.asarray(read_years("face_age", face_age))


def read_known(face_age: ArrayLike, age: ArrayLike) -> tuple[Floats, Floats]:
    """Two times (N,), for a fit: raw, and every row known."""
    shown = read_raw("a fit", face_age)
    ages = read_ages(age, len(shown))
    for name, values in (("face_age", shown), ("age", ages)):
        refuse_rows(name, values, np.isnan(values), "is unknown", "Leave the row out of the fit.")
    return shown, ages


def read_people(subjects: ArrayLike | None, rows: int) -> Ints:
    """(rows,) numbers from 0 in order of appearance; without subjects every row is a person of its own."""
    if subjects is None:
        return np.arange(rows)
    check_shape("subjects", np.asarray(subjects), rows)
    return read_groups("subjects", subjects, rows)


def _check(correction: Mapping[str, float]) -> None:
    if missing := [key for key in KEYS if not isfinite(correction.get(key, float("nan")))]:
        raise Refused(
            f"correction: has no {', '.join(missing)}; must have {', '.join(KEYS)}, all finite. Take it from fit_bias, "
            "or from bias_correction of the checkpoint."
        )
