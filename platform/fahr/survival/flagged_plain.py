"""Kaplan-Meier of all who are flagged, at every threshold, by NumPy; as `flagged_compiled` has it."""

import numpy as np

from fahr.survival.people import Flags, Floats, Ints


def survivals(rows: Ints, enters: Flags, level: Ints, event: Flags, counts: Floats, start: Floats) -> Floats:
    """(K,) of each threshold k, just after the last step.

    A step is a row (by number) that enters or leaves, in order of time; a row is flagged at the thresholds below its
    `level` (n,). start (K,): people flagged and watched from the beginning.
    """
    found = np.ones(len(start))
    moved = np.where(enters, counts[rows], -counts[rows])
    died = event[rows] & ~enters & (counts[rows] > 0)
    for threshold in range(len(start)):
        flagged = level[rows] > threshold
        change = moved[flagged]
        before = start[threshold] + np.cumsum(change) - change
        dead = died[flagged]
        found[threshold] = np.prod(1.0 + change[dead] / before[dead])
    return found
