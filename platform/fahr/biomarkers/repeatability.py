"""What a second photo of the same face on the same day would have said: how far face ages repeat.

found = fit_repeatability(face_age, subject_id, taken_on)   # of the `calibrate` split only; goes into the checkpoint
found.sd_years, found.low, found.high                       # the SD of one photo
agreement(table)                                            # (n, k): n people, the same k cameras of each

N = photos, n = people, k = photos of each.
"""

from dataclasses import dataclass
from math import fsum, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.bias import read_people, read_raw
from fahr.biomarkers.copies import counted_photos, read_digests
from fahr.biomarkers.deviation import Floats
from fahr.biomarkers.visits import UNKNOWN, read_days
from fahr.errors import Refused
from fahr.survival.people import Ints

FEWEST_PEOPLE = 10  # with repeats: fewer leave the SD open to a factor of two
CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Agreement:
    """Two-way random effects, absolute agreement, one photo: ICC(2,1) of Shrout and Fleiss 1979, with its interval."""

    icc: float  # share of the variance that is between people; 1: photos agree
    icc_low: float
    icc_high: float
    sem_years: float  # standard error of measurement: SD of one photo of a person, shifts between columns included
    people: int
    repeats: int

    @property
    def minimal_detectable_change_years(self) -> float:
        """Two photos of one person that did not age differ by less, 95 times of 100."""
        return detectable_change(self.sem_years)


@dataclass(frozen=True)
class Repeatability:
    """SD of the face age of one photo among photos of one person and day, with its 95 % interval."""

    sd_years: float
    low: float
    high: float
    people: int
    visits: int  # days of a person with two photos or more
    photos: int
    agreement: Agreement | None  # of two photos of each person; None where people differ in nothing

    @property
    def minimal_detectable_change_years(self) -> float:
        return detectable_change(self.sd_years)

    def to_config(self) -> dict[str, float]:
        """`repeatability_sd_years` of a checkpoint."""
        return {"value": self.sd_years, "low": self.low, "high": self.high}


def detectable_change(sd_years: float) -> float:
    """1.96 sqrt(2) SD: beyond it, two single photos differ by more than they would by chance."""
    return NormalDist().inv_cdf(1 - _TAIL) * sqrt(2) * sd_years


def fit_repeatability(
    face_age: ArrayLike, subjects: ArrayLike, dates: ArrayLike, *, source: ArrayLike | None = None
) -> Repeatability:
    """From all photos of people whose outcome is not what is studied, in any order; nan: no face age.

    Days with a single photo say nothing and are left out, and so are photos without a day. `source`: digests of the
    photos' bytes, so that a copy is no repeat. The SD is pooled within days. Its interval is of chi squared, with as
    many degrees of freedom as the scatter between people allows (Satterthwaite): some faces repeat worse than others.
    """
    shown = read_raw("fit_repeatability", face_age)
    person, day = read_people(subjects, len(shown)), read_days(dates, len(shown))
    source_of = read_digests("source", source, len(shown))
    usable = np.flatnonzero(counted_photos(person, day, source_of) & ~np.isnan(shown) & (day != UNKNOWN))
    rows = usable[np.lexsort((usable, day[usable], person[usable]))]
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(person[rows]) != 0) | (np.diff(day[rows]) != 0)
    visit = np.cumsum(new) - 1
    repeated = np.bincount(visit)[visit] >= 2
    rows, visit = rows[repeated], np.unique(visit[repeated], return_inverse=True)[1]
    people, of = np.unique(person[rows], return_inverse=True)
    if len(people) < FEWEST_PEOPLE:
        raise Refused(
            f"{len(people)} people with two photos of one day: at least {FEWEST_PEOPLE} are needed to say how far a "
            "face age repeats. Add repeats: two photos of a visit, with the same subject_id and taken_on."
        )
    values = shown[rows]
    photos = np.bincount(visit)
    from_mean = values - (np.bincount(visit, values) / photos)[visit]
    squares = np.asarray(np.bincount(of, from_mean**2), np.float64)
    free = np.asarray(np.bincount(of, 1 - 1 / photos[visit]), np.float64)  # photos less visits, of each person
    if not squares.any():
        raise Refused("face_age: is the same in all repeats. Copies of one photo are no repeats: leave them out.")
    sd, low, high = _pooled(squares, free)
    table = _two_each(values, visit, of)
    between = agreement(table) if np.ptp(table) > 0 else None
    return Repeatability(sd, low, high, len(people), len(photos), len(rows), between)


def agreement(face_ages: ArrayLike) -> Agreement:
    """(n, k) years: k photos of each of n people, each column taken in the same way. Nothing may be missing."""
    table = np.asarray(face_ages, np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise Refused(f"face_ages: has shape {table.shape}; must be (n, k), at least 2 people with 2 photos. Add some.")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0].tolist()
        raise Refused(f"face_ages: person {row} has no photo {column} ({table[row, column]}). Leave the person out.")
    if np.ptp(table) == 0:
        raise Refused(f"face_ages: is {table[0, 0]:g} everywhere: nobody differs, so nothing can agree. Add people.")
    n, k = table.shape
    between, columns, error = _mean_squares(table)
    icc = (between - error) / (between + (k - 1) * error + k * (columns - error) / n)
    shift = max(0.0, (columns - error) / n)
    low, high = _interval(icc, between, columns, error, n, k)
    return Agreement(icc, low, high, sqrt(shift + error), n, k)


def _mean_squares(table: Floats) -> tuple[float, float, float]:
    """Between people, between columns, and what is left, of a two-way analysis of variance."""
    n, k = table.shape
    grand = table.mean()
    people, columns = table.mean(axis=1) - grand, table.mean(axis=0) - grand
    left = table - grand - people[:, None] - columns
    squares = k * (people**2).sum(), n * (columns**2).sum(), (left**2).sum()
    return (float(squares[0] / (n - 1)), float(squares[1] / (k - 1)), float(squares[2] / ((n - 1) * (k - 1))))


def _interval(icc: float, between: float, columns: float, error: float, n: int, k: int) -> tuple[float, float]:
    """Of McGraw and Wong 1996 (Psychol Methods 1:30), ICC(A,1)."""
    from scipy.special import fdtri  # type: ignore[import-untyped] # takes a while to load

    if icc >= 1:  # all photos of everybody agree: there is no error to be unsure of
        return 1.0, 1.0
    a = k * icc / (n * (1 - icc))
    b = 1 + k * icc * (n - 1) / (n * (1 - icc))
    spread = (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    free = (a * columns + b * error) ** 2 / spread
    both = k * columns + (k * n - k - n) * error
    f_low, f_high = fdtri(n - 1, free, 1 - _TAIL), fdtri(free, n - 1, 1 - _TAIL)
    low = n * (between - f_low * error) / (f_low * both + n * between)
    high = n * (f_high * between - error) / (both + n * f_high * between)
    return float(low), float(high)


def _pooled(squares: Floats, free: Floats) -> tuple[float, float, float]:
    """(n,) of each person: squared deviations within days, and their degrees of freedom."""
    from scipy.special import chdtri  # takes a while to load

    total, degrees = fsum(squares), fsum(free)
    variance = total / degrees
    people = len(squares)
    pull = fsum(((squares - variance * free) / degrees) ** 2) * people / (people - 1)  # variance of the variance
    known = min(degrees, 2 * variance**2 / pull) if pull > 0 else degrees
    low, high = (sqrt(variance * known / chdtri(known, tail)) for tail in (_TAIL, 1 - _TAIL))
    return sqrt(variance), low, high


def _two_each(values: Floats, visit: Ints, of: Ints) -> Floats:
    """(n, 2) the first two photos of the first day with repeats, of each person. Rows: by person, day and place."""
    start = np.searchsorted(of, np.arange(int(of[-1]) + 1))
    assert (visit[start] == visit[start + 1]).all()
    return np.stack([values[start], values[start + 1]], axis=1)
