"""One row a person, as every test that counts people wants it: the earliest visit, with the median of its photos.

some = read_patients(time, event, entry=entry, subject=subject)
some.time, some.event, some.entry                   # (P,) of the earliest visit: the longest follow-up
some.median(read_risk("risk", risk, some.photos))   # (P,)

N = photos, P = people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused
from fahr.survival.people import Flags, Floats, Ints, read_people


@dataclass(frozen=True, eq=False)
class Patients:
    """In the order in which they appear."""

    time: Floats  # (P,) from the earliest photo, in any one unit
    event: Flags  # (P,)
    entry: Floats | None  # (P,)
    photos: int  # N
    row: Ints  # (V,) rows of the earliest visits
    person: Ints  # (V,) whose they are, ascending
    first: Ints  # (P,) one of those rows for each person

    def __len__(self) -> int:
        return len(self.time)

    def median(self, values: Floats) -> Floats:
        """(N,) -> (P,) of the photos of the earliest visit; nan where one of them is."""
        if len(self.row) == len(self):
            return values[self.row]
        order = np.lexsort((values[self.row], self.person))  # nan comes last
        sorted_values = values[self.row][order]
        start = np.searchsorted(self.person, np.arange(len(self)))
        number = np.bincount(self.person, minlength=len(self))
        middle = (sorted_values[start + (number - 1) // 2] + sorted_values[start + number // 2]) / 2
        return np.where(np.isnan(sorted_values[start + number - 1]), np.nan, middle)

    def words(self, name: str, values: ArrayLike) -> list[str | None]:
        """(N,) of text, None or nan where unknown -> one a person, of the earliest visit."""
        raw = as_column(name, values, self.photos)
        told: list[str | None] = pa.array(raw[self.first], from_pandas=True).cast(pa.string()).to_pylist()
        return told

    def only(self, kept: Flags) -> "Patients":
        """Of the people who are `kept` (P,)."""
        number = np.cumsum(kept) - 1
        rows = kept[self.person]
        return Patients(
            self.time[kept],
            self.event[kept],
            None if self.entry is None else self.entry[kept],
            self.photos,
            self.row[rows],
            number[self.person[rows]],
            self.first[kept],
        )


def as_column(name: str, values: ArrayLike, rows: int) -> NDArray[Any]:
    """Refused: another shape than (rows,)."""
    raw = np.asarray(values)
    if raw.shape != (rows,):
        raise Refused(f"{name}: has shape {raw.shape}, must be ({rows},): one value a photo.")
    return raw


def indicators(name: str, words: Sequence[str | None]) -> dict[str, Floats]:
    """(P,) 0 or 1 for each different word but the first in the alphabet, nan where unknown. With one word: none."""
    unknown = np.array([word is None for word in words], bool)
    others = sorted({word for word in words if word is not None})[1:]
    return {f"{name} {each}": np.where(unknown, np.nan, [word == each for word in words]) for each in others}


def read_patients(
    time: ArrayLike, event: ArrayLike, *, entry: ArrayLike | None = None, subject: ArrayLike | None = None
) -> Patients:
    """Of (N,) rows, one a photo. A person's earliest visit is the rows with the longest time. Refused: a person who has
    the event in some rows and not in others, since the end of follow-up is the same for all of them."""
    people, _ = read_people(time, event, entry=entry, subject=subject)
    rows = len(people)
    if people.subject is None:
        every = np.arange(rows)
        return Patients(people.time, people.event, people.entry, rows, every, every, every)
    order = np.lexsort((np.arange(rows), -people.time, people.subject))
    whose = people.subject[order]
    new = np.ones(rows, bool)
    new[1:] = whose[1:] != whose[:-1]
    first = order[new]
    both = people.event != people.event[first][people.subject]
    if both.any():
        row = int(np.argmax(both))
        raise Refused(
            f"event: rows {min(row, int(first[people.subject[row]]))} and {max(row, int(first[people.subject[row]]))} "
            "are of one person, one with the event and one without. Whether a person has it is the same for all photos."
        )
    earliest = people.time[order] == people.time[first][whose]
    entered = people.entry
    if entered is not None:  # the latest of the visit: watched for certain
        latest = np.full(len(first), -np.inf)
        np.maximum.at(latest, whose[earliest], entered[order][earliest])
        entered = latest
    return Patients(people.time[first], people.event[first], entered, rows, order[earliest], whose[earliest], first)
