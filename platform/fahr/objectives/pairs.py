"""Which pairs of people tell something about the order of deaths. n = people, D = events with a later partner.

The event row i and its partner j make a pair when i had the event and j was seen without it after that: T_i < T_j, or
T_i = T_j with j censored (then i ranks first, as in scikit-survival, so that training and C-index agree). Two events at
one time do not compare. With delayed entry j must have been under observation at T_i: entry_j < T_i. Two photos of one
person are no pair.

Sorted by time, at equal times events first, the partners of an event are everybody from a place on. All else that
shortens the list (entry, subject) is kept beside it, and only when there is at least one pair that it takes away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fahr.objectives.outcomes import Floats, Outcomes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Places count in the sorted order; `order` says which row of the caller stands at a place."""

    order: Ints  # (n,)
    time: Floats  # (n,) ascending
    rows: Ints  # (D,) places of the events, ascending
    first: Ints  # (D,) the partners of rows[d] are at first[d] ... n - 1; ascending, never n
    entry: Floats | None  # (n,)
    subject: Ints | None  # (n,)
    row_weight: Floats | None = None  # (D,) above 0: what all pairs of an event count for; None: 1
    gap: Floats | None = None  # (n,) time / gap_unit where pairs are weighed by their gap

    @property
    def is_suffix(self) -> bool:
        """Nothing but time and the event's own weight decides what a pair counts for."""
        return self.entry is None and self.subject is None and self.gap is None

    def suffix_weight(self) -> float:
        """Of all pairs together, when `is_suffix`."""
        counts = (len(self.order) - self.first).astype(np.float64)
        return float(counts.sum() if self.row_weight is None else counts @ self.row_weight)


def pairs_of(outcomes: Outcomes, subject: Ints | None) -> Pairs:
    """`subject`: (n,) codes, equal where rows are of one person."""
    time, event, entry = outcomes.time, outcomes.event, outcomes.entry
    order = np.concatenate([np.flatnonzero(event), np.flatnonzero(~event)])
    order = order[np.argsort(time[order], kind="stable")]
    time, event = time[order], event[order]
    changes = np.flatnonzero((time[1:] != time[:-1]) | (event[1:] != event[:-1])) + 1
    ends = np.append(changes, len(time))
    rows = np.flatnonzero(event)
    first = ends[np.searchsorted(ends, rows, side="right")] if len(rows) else rows
    rows, first = rows[first < len(time)], first[first < len(time)]
    if entry is not None and (not len(rows) or entry.max() < time[rows[0]]):
        entry = None  # all had entered before the first event
    if subject is not None and len(np.unique(subject)) == len(subject):
        subject = None  # one photo of each
    return Pairs(
        order, time, rows, first, None if entry is None else entry[order], None if subject is None else subject[order]
    )
