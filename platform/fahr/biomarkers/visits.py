"""Several photos of one person on one day are one visit, and its value is their median.

found = visit_medians(face_age, subject_id, taken_on)
found.medians                  # (V,) in the order in which the visits first appear
found.medians[found.visit]     # (N,) beside each photo its visit's

N = photos, V = visits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from fahr.biomarkers.bias import Corrected, read_people
from fahr.biomarkers.deviation import Floats, check_shape, read_years
from fahr.errors import Refused
from fahr.survival.people import Ints

UNKNOWN = int(np.iinfo(np.int64).min)  # no day


@dataclass(frozen=True)
class Visits:
    medians: Floats  # (V,) nan where no photo of the visit has a value
    photos: Ints  # (V,) photos with a value
    first: Ints  # (V,) the first row of the visit, ascending
    visit: Ints  # (N,) 0 to V - 1

    def __len__(self) -> int:
        return len(self.medians)


def visit_medians(values: ArrayLike, subjects: ArrayLike, dates: ArrayLike) -> Visits:
    """Medians over what is known: a photo without a value (nan) belongs to its visit but has no say.

    dates: days, as date, datetime64[D] or ISO text; the time of a moment is dropped. A photo of an unknown date is a
    visit of its own, since nobody knows which others belong to it. Medians of corrected face ages are `Corrected`.
    """
    given = read_years("values", values)
    known = np.asarray(given)
    rows = len(known)
    person, day = read_people(subjects, rows), read_days(dates, rows)
    visit, first = _visits(person, day)
    photos = np.bincount(visit[~np.isnan(known)], minlength=len(first))
    order = np.lexsort((known, visit))  # nan comes last within its visit
    start = np.searchsorted(visit[order], np.arange(len(first)))
    medians = np.full(len(first), np.nan)
    some = photos > 0
    lower, upper = (start + (photos - 1) // 2)[some], (start + photos // 2)[some]
    medians[some] = (known[order[lower]] + known[order[upper]]) / 2
    return Visits(medians.view(Corrected) if isinstance(given, Corrected) else medians, photos, first, visit)


def _visits(person: Ints, day: Ints) -> tuple[Ints, Ints]:
    """The visit of each row, and the first row of each visit."""
    alone = np.where(day == UNKNOWN, np.arange(len(day)), -1)
    order = np.lexsort((np.arange(len(day)), alone, day, person))
    keys = np.stack([person, day, alone])[:, order]
    new = np.ones(len(day), bool)
    new[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    group = np.empty(len(day), np.int64)
    group[order] = np.cumsum(new) - 1
    first = order[new]
    by_appearance = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[by_appearance] = np.arange(len(first))
    return rank[group], first[by_appearance]


def read_days(dates: ArrayLike, rows: int) -> Ints:
    """(rows,) days since 1970, UNKNOWN where there is none."""
    raw: Any = np.asarray(dates)
    check_shape("dates", raw, rows)
    try:
        column = pa.array(raw, from_pandas=True)
        kinds = (pa.types.is_null, pa.types.is_temporal, pa.types.is_string, pa.types.is_large_string)
        if not any(kind(column.type) for kind in kinds):  # a number of days since when?
            raise TypeError(f"{column.type}")
        days = column.cast(pa.date32())
    except (TypeError, pa.ArrowException) as error:
        raise Refused(f"dates: not every one is a day ({error}). Give YYYY-MM-DD, None if unknown.") from error
    return np.asarray(days.cast(pa.int32()).cast(pa.int64()).fill_null(UNKNOWN).to_numpy())
