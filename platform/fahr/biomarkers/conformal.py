"""Around a face age, an interval that holds the true age of 90 % of people: split conformal, a stratum at a time.

strata = fit_conformal(face_age, age, sex=sex, subjects=subject_id)   # of the `calibrate` split only
low, high = intervals(face_age, strata, sex=sex)                      # one photo each, centred on the raw face age
intervals_source(face_age, strata, sex=sex)                           # whose width each row got: "60-69/female"

The half width is the k-th smallest |age - face age| of n calibration people, k = ceil((n + 1) coverage): the age of
the next person of that stratum lies within it with a chance of at least `coverage`, whatever the errors look like (Vovk
2005; Lei 2018, JASA 113:1094). Strata are decades of the PREDICTED age and sex (Mondrian): both are known of a new
photo without its label, as they must be. N = photos.
"""

from collections.abc import Mapping
from fractions import Fraction
from hashlib import blake2b
from math import ceil, isfinite

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from fahr.biomarkers.bias import read_known, read_people, read_raw
from fahr.biomarkers.deviation import Floats, check_shape
from fahr.errors import Refused

BANDS = (*(f"{low}-{low + 9}" for low in range(0, 90, 10)), "90+")  # a face age below 0 counts as 0-9
POOLED = "pooled"
OWN, OF_BAND, OF_ALL = 0.0, 1.0, 2.0  # whose width a stratum has, as its `fallback` says
FEWEST_LISTED = 10  # strata of fewer people are not written down: a published checkpoint tells nobody apart

Conformal = dict[str, dict[str, float]]
Texts = NDArray[np.str_]


def fit_conformal(
    face_age: ArrayLike,
    age: ArrayLike,
    *,
    sex: ArrayLike | None = None,
    subjects: ArrayLike | None = None,
    coverage: float = 0.9,
    fewest: int = 100,
) -> Conformal:
    """Half widths in years of "pooled", of bands as "60-69", and of cells as "60-69/female", each with its n (people).

    One photo a person, drawn by a hash of the subject. A stratum of fewer than `fewest` people has the width of its
    band, else of everybody, unless its own people ask for a wider one: a borrowed width alone would hold half of the
    old men of a hospital (docs/calibration.md). `fallback` tells whose the width is: 0 its own, 1 its band's, 2
    everybody's. Strata of fewer than 10 people are not listed: they borrow. An unknown sex (None) counts in its band.
    """
    needed = _check_options(coverage, fewest)
    shown, ages = read_known(face_age, age)
    labels = _labels(sex, len(shown))
    rows = one_photo_each(shown, ages, labels, subjects)
    if len(rows) < needed:
        raise Refused(
            f"{len(rows)} people to calibrate intervals of {coverage:.6g}: at least {needed} are needed. Add people, "
            "or lower the coverage."
        )
    errors, bands, labels = np.abs(ages - shown)[rows], _bands(shown[rows]), labels[rows]
    listed = max(needed, FEWEST_LISTED)
    found: Conformal = {POOLED: _stratum(errors, coverage, OWN, 0.0)}
    for number, band in enumerate(BANDS):
        in_band = bands == number
        if in_band.sum() < listed:
            continue
        own = in_band.sum() >= fewest
        found[band] = _stratum(errors[in_band], coverage, OF_ALL, 0 if own else found[POOLED]["half_width"])
        for label in np.unique(labels[in_band & (labels != "")]).tolist():
            in_cell = in_band & (labels == label)
            if in_cell.sum() < listed:
                continue
            own = in_cell.sum() >= fewest
            lender = found[band]["fallback"] or OF_BAND
            width = 0 if own else found[band]["half_width"]
            found[f"{band}/{label}"] = _stratum(errors[in_cell], coverage, lender, width)
    return found


def intervals(face_age: ArrayLike, conformal: Conformal, *, sex: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """(N,) low, (N,) high in years, of raw face ages; not clipped; nan where the face age is.

    Of the median of several photos of a visit, the same interval: see docs/calibration.md for what it then covers.
    """
    shown = read_raw("intervals", face_age)
    half = np.full(len(shown), np.nan)
    for rows, name in _strata(shown, conformal, sex):
        half[rows] = conformal[name]["half_width"]
    return shown - half, shown + half


def intervals_source(face_age: ArrayLike, conformal: Conformal, *, sex: ArrayLike | None = None) -> NDArray[np.object_]:
    """(N,) names of the strata whose people the width of each row comes from; None where the face age is unknown."""
    shown = read_raw("intervals", face_age)
    names = np.full(len(shown), None, object)
    for rows, name in _strata(shown, conformal, sex):
        lender = conformal[name].get("fallback", OWN)
        names[rows] = POOLED if lender == OF_ALL else name.partition("/")[0] if lender == OF_BAND else name
    return names


def half_width(errors: ArrayLike, coverage: float) -> float:
    """The k-th smallest of n errors without sign, k = ceil((n + 1) coverage)."""
    sizes = np.asarray(errors)
    rank = ceil((len(sizes) + 1) * Fraction(str(coverage)))  # 0.07 x 100 is 7.000000000000001 in floating point
    assert 1 <= rank <= len(sizes), (rank, len(sizes))
    return float(np.partition(sizes, rank - 1)[rank - 1])


def _stratum(errors: Floats, coverage: float, lender: float, borrowed: float) -> dict[str, float]:
    """`borrowed`: 0 where the stratum stands on its own."""
    own = half_width(errors, coverage)
    widths = {"half_width": max(own, borrowed), "fallback": lender if borrowed > own else OWN}
    return {"n": float(len(errors)), "coverage": float(coverage), **widths}


def _strata(shown: Floats, conformal: Conformal, sex: ArrayLike | None) -> list[tuple[NDArray[np.int64], str]]:
    """Rows, and the most particular stratum that is known for them."""
    _check(conformal)
    labels, numbers = np.unique(_labels(sex, len(shown)), return_inverse=True)
    rows = np.flatnonzero(~np.isnan(shown))
    cells = _bands(shown[rows]) * len(labels) + numbers[rows]
    found = []
    for cell in np.unique(cells).tolist():
        band, label = BANDS[cell // len(labels)], labels[cell % len(labels)]
        name = next((each for each in (f"{band}/{label}", band) if each in conformal), POOLED)
        found.append((rows[cells == cell], name))
    return found


def one_photo_each(shown: Floats, ages: Floats, labels: Texts, subjects: ArrayLike | None) -> NDArray[np.int64]:
    """A row a person: of m photos the one at place hash(subject) x m, in whichever order these stand.

    The hash knows nothing of the photos, so this is a photo at random, as the next person's is. Here they are sorted,
    for that the answer not depend on the order of the rows. Salted: the unsalted hash put the person in this split.
    """
    if subjects is None:
        return np.arange(len(shown))
    person = read_people(subjects, len(shown))
    order = np.lexsort((labels, ages, shown, person))
    photos = np.bincount(person)
    start = np.cumsum(photos) - photos
    names = np.asarray(subjects)[order[start]].tolist()
    return np.asarray(order[start + [_place(str(name), m) for name, m in zip(names, photos.tolist(), strict=True)]])


def _place(subject: str, photos: int) -> int:
    hashed = blake2b(subject.encode(), digest_size=8, person=b"fahr.conformal").digest()
    return int.from_bytes(hashed, "big") * photos >> 64


def _bands(shown: Floats) -> NDArray[np.int64]:
    return np.clip(np.floor(shown / 10), 0, len(BANDS) - 1).astype(np.int64)


def _labels(sex: ArrayLike | None, rows: int) -> Texts:
    """(rows,) lower case without space around, "" where unknown."""
    if sex is None:
        return np.full(rows, "")
    given = np.asarray(sex)
    check_shape("sex", given, rows)
    try:
        texts = pa.array(given, from_pandas=True).cast(pa.string())
    except pa.ArrowException as error:
        raise Refused(f"sex: mixes kinds of names ({error}). Make them all text.") from error
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(texts)).fill_null("")
    return np.asarray(plain.to_pylist(), np.str_)


def _check_options(coverage: float, fewest: int) -> int:
    """How many people that coverage needs at least."""
    if not 0 < coverage < 1:
        raise Refused(f"coverage: {coverage} must lie between 0 and 1; 0.9 is usual.")
    if fewest < 1:
        raise Refused(f"fewest: {fewest} must be at least 1; 100 people a stratum is usual.")
    share = Fraction(str(coverage))
    return ceil(share / (1 - share))


def _check(conformal: Mapping[str, Mapping[str, float]]) -> None:
    if POOLED not in conformal:
        raise Refused(f"conformal: has no stratum {POOLED!r}. Take it from fit_conformal, or from the checkpoint.")
    for name, stratum in conformal.items():
        width = stratum.get("half_width", float("nan"))
        if not (isfinite(width) and width >= 0):
            raise Refused(
                f"conformal: half_width of {name!r} is {width}; must be 0 or more. Take it from fit_conformal."
            )
