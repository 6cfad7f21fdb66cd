"""Four groups of people: by whether a face looks older than the calendar, and whether it ages fast.

groups = joint_groups(deviation_at_the_last_photo, rates.high)   # years; whether the rate is high
groups.group         # "neither" (the reference), "deviation", "rate", "both"; None where one of the two is unknown
groups.counts        # {"neither": 812, ...}

P = people. The deviation is that at the last photo, the day on which both are known and the clock starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.biomarkers.deviation import Flags, check_shape, read_years
from fahr.errors import Refused

GROUPS = ("neither", "deviation", "rate", "both")
CUT_YEARS = 0.0


@dataclass(frozen=True, eq=False)
class JointGroups:
    """Columns for a model: `high_deviation`, `high_rate` and their product; False where the group is unknown."""

    group: NDArray[np.object_]  # (P,) what is high, of GROUPS; None: unknown
    high_deviation: Flags
    high_rate: Flags
    known: Flags
    counts: Mapping[str, int]


def joint_groups(face_age_deviation: ArrayLike, high: ArrayLike, *, cut: float = CUT_YEARS) -> JointGroups:
    """(P,) deviations in years, nan where unknown; (P,) whether the rate is high, None where there is none.

    A deviation of just `cut` is not high, as a rate of just the cutoff is not.
    """
    if not np.isfinite(cut):
        raise Refused(f"cut: {cut} must be a number of years; 0 is usual.")
    deviation = np.asarray(read_years("face_age_deviation", face_age_deviation))
    fast = _flags(high, len(deviation))
    rated = np.array([each is not None for each in fast], bool)
    known = rated & ~np.isnan(deviation)
    high_deviation = known & (deviation > cut)
    high_rate = known & np.array([each is True for each in fast], bool)
    group = np.array(GROUPS, object)[high_deviation + 2 * high_rate]
    group[~known] = None
    counts = {name: int((group == name).sum()) for name in GROUPS}
    return JointGroups(group, high_deviation, high_rate, known, counts)


def _flags(high: ArrayLike, rows: int) -> list[bool | None]:
    given: NDArray[Any] = np.asarray(high)
    check_shape("high", given, rows)
    found: list[bool | None] = []
    for row, each in enumerate(given.tolist()):
        if each is None or each != each:
            found.append(None)
        elif isinstance(each, bool):
            found.append(each)
        else:
            raise Refused(f"high: row {row} is {each!r}; must be true, false, or None where there is no rate.")
    return found
