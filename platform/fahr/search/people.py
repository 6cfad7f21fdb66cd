"""Who is searched on, and who is kept aside until the search is over. Nobody of split `test` or `calibrate` is either.

    parts = part(table, "survival", aside=0.25, seed=0)
    parts.pool, parts.aside                 # rows: trials see the first, the winner is measured on the second
    fold = folds(table.take(parts.pool), "survival", 4, seed=0)

N = photos whose label is known.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fahr.cohorts.folds import deal
from fahr.errors import Refused
from fahr.training.outcomes import Floats, strata
from fahr.training.sampling import Ints

SPLITS = ("train", "tune")  # of the manifest: the others belong to what comes after
_PARTS = 20  # people are dealt into so many, alike in events and ages
FEWEST = 8  # people, on either side


@dataclass(frozen=True)
class Parts:
    pool: Ints  # rows of the table
    aside: Ints


def part(table: pa.Table, task: str, *, aside: float, seed: int) -> Parts:
    """`aside`: the share of people kept aside. Stratified by event and age, or by age; all photos of one on a side."""
    many = len(set(table["subject_id"].to_pylist()))
    number = max(1, round(aside * _PARTS))
    if many < _PARTS or min(many * number // _PARTS, many * (_PARTS - number) // _PARTS) < FEWEST:
        raise Refused(
            f"{many} people of the splits train and tune, of whom {aside:.0%} are to be kept aside: at least {FEWEST} "
            f"are needed on either side, and {_PARTS} in all. Add people."
        )
    dealt = deal(table["subject_id"].to_pylist(), grouped(table, task), _PARTS, seed=seed)
    return Parts(np.flatnonzero(dealt >= number), np.flatnonzero(dealt < number))


def folds(table: pa.Table, task: str, number: int, *, seed: int) -> Ints:
    """(N,) 0 to number - 1: each person is judged once, by a head that has not seen any photo of his or hers."""
    return deal(table["subject_id"].to_pylist(), grouped(table, task), number, seed=seed)


def grouped(table: pa.Table, task: str) -> Floats:
    """(N,) what every part should have as much of."""
    return strata(table) if task == "survival" else np.asarray(table["age"].to_numpy(), np.float64) // 10
