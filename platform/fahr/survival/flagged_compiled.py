"""Kaplan-Meier of all who are flagged, at every threshold, in one walk along time. Imported only where numba is."""

import numpy as np

from fahr.survival.compiled import compiled
from fahr.survival.people import Flags, Floats, Ints


@compiled
def survivals(rows: Ints, enters: Flags, level: Ints, event: Flags, counts: Floats, start: Floats) -> Floats:
    """As `flagged_plain.survivals`."""
    watched = start.copy()
    found = np.ones(len(start))
    for step in range(len(rows)):
        row = rows[step]
        number = counts[row]
        if number == 0.0:
            continue
        if enters[step]:
            for threshold in range(level[row]):
                watched[threshold] += number
        elif event[row]:
            for threshold in range(level[row]):
                found[threshold] *= 1.0 - number / watched[threshold]
                watched[threshold] -= number
        else:
            for threshold in range(level[row]):
                watched[threshold] -= number
    return found
