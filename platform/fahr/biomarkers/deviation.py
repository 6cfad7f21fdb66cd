"""How much older than the calendar a face looks.

face_age_deviation(face_age, age)       # years; above 0: looks older

N = photos. Unknown is nan (or None), and what follows from it is nan.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

OLDEST_YEARS = 122.0  # as in manifests: the longest human life on record


def face_age_deviation(face_age: ArrayLike, age: ArrayLike) -> Floats:
    """(N,) face age - age at the photo, in years. Of a corrected face age: the adjusted deviation.

    Raw, it falls with age by regression to the mean: the young look older than they are, the old younger. Compare
    people of different ages by the adjusted one, or with age in the model.
    """
    shown = np.asarray(read_years("face_age", face_age))
    return shown - read_ages(age, len(shown))


def read_years(name: str, values: ArrayLike, rows: int | None = None) -> Floats:
    """(N,) float64, nan where unknown; of an array that is float64 already, a view that keeps its type."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    raw = values if isinstance(values, np.ndarray) else np.asarray(values)
    check_shape(name, raw, rows)
    try:
        if raw.dtype.kind == "O":  # None, or the NA of pandas
            raw = pa.array(raw, pa.float64(), from_pandas=True).to_numpy(zero_copy_only=False)
        elif raw.dtype.kind not in "iuf":
            raise TypeError(f"{raw.dtype}")
    except (TypeError, pa.ArrowException) as error:
        raise Refused(f"{name}: not every value is a number of years ({error}). Convert it first.") from error
    years = raw.astype(np.float64, copy=False)
    refuse_rows(name, years, np.isinf(years), "is infinite", "Leave it empty where it is not known.")
    return years


def read_ages(age: ArrayLike, rows: int | None = None) -> Floats:
    """(N,) ages by the calendar, nan where unknown."""
    ages = np.asarray(read_years("age", age, rows))
    wrong = (ages < 0) | (ages > OLDEST_YEARS)
    refuse_rows("age", ages, wrong, f"must be from 0 to {OLDEST_YEARS:.0f} years", "Correct it, or leave it empty.")
    return ages


def check_shape(name: str, values: NDArray[Any], rows: int | None) -> None:
    if values.ndim != 1:
        raise Refused(f"{name}: has shape {values.shape}; must be (n,), one value a photo. Flatten it.")
    if rows is not None and len(values) != rows:
        raise Refused(f"{name}: has {len(values):,} values for {rows:,} photos. Give one value a photo.")


def refuse_rows(name: str, values: NDArray[Any], wrong: Flags, rule: str, remedy: str) -> None:
    """Names the first wrong row, counted from 0, and how many more there are."""
    if not wrong.any():
        return
    first, others = int(np.argmax(wrong)), int(wrong.sum()) - 1
    more = f", and {others:,} more" if others else ""
    raise Refused(f"{name}: row {first} {rule} ({values[first]!s}){more}. {remedy}")
