"""Ages in bins, and bins in bands of enough people that their figures may be shown.

bins = age_bins(age, 10)                                # .code (N,), .first (C,): 0-9 is 0, 10-19 is 10
bands = merge_bins(members, counted, fewest=10)         # lists of neighbouring bins
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fahr.biomarkers.deviation import Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bins:
    """Only those that somebody is in, by age."""

    code: Ints  # (N,) number of the bin, from 0
    first: Ints  # (C,) youngest age of the bin, years
    years: int  # that it spans

    def label(self, begin: int, end: int | None = None) -> str:
        """Of the bins from `begin` to `end`: "80-99"."""
        last = int(self.first[begin if end is None else end]) + self.years - 1
        return f"{self.first[begin]}-{last}" if last > self.first[begin] else f"{last}"


def age_bins(age: Floats, years: int) -> Bins:
    first, code = np.unique((age // years).astype(np.int64) * years, return_inverse=True)
    return Bins(code.astype(np.int64), first, years)


def merge_bins(members: Sequence[NDArray[np.uint32]], counted: Sequence[bool], fewest: int) -> list[list[int]]:
    """Neighbouring bins put together until each band has `fewest` people; members: who is in a bin.

    The band of fewest people joins the neighbour of fewer people. Besides, the bin-wise MAE must not tell the bins of
    a band apart: with all but one of its counted bins shown alone, it would tell that one, and thus the rest of its
    band. So either none or at least two counted bins are in bands of several.
    """
    bands = [[number] for number in range(len(members))]
    people = [len(each) for each in members]

    def join(which: int) -> None:
        beside = [other for other in (which - 1, which + 1) if 0 <= other < len(bands)]
        first = min(which, min(beside, key=lambda other: people[other]))
        bands[first : first + 2] = [bands[first] + bands[first + 1]]
        people[first : first + 2] = [union(members, bands[first])]

    while len(bands) > 1 and min(people) < fewest:
        join(people.index(min(people)))
    while len(bands) > 1:
        several = [number for number, band in enumerate(bands) if len(band) > 1]
        if sum(counted[each] for number in several for each in bands[number]) != 1:
            break
        join(next(number for number in several if any(counted[each] for each in bands[number])))
    return bands


def union(members: Sequence[NDArray[np.uint32]], cells: Sequence[int]) -> int:
    """How many people are in any of the cells."""
    if len(cells) == 1:
        return len(members[cells[0]])
    return len(np.unique(np.concatenate([members[each] for each in cells])))
