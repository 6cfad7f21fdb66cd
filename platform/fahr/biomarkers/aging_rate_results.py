"""What is said of how fast a face ages, of one person or of many, and the bands of time in which it is said at all.

P = people.
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fahr.biomarkers.deviation import Floats
from fahr.survival.people import Ints

Mode = Literal["slope", "replicate"]
BandName = Literal["short", "mid", "long"]
Reason = Literal[
    "same_day", "rejected_photo", "other_model", "age_20_or_less", "interval_too_short", "interval_too_long"
]


@dataclass(frozen=True)
class RateBand:
    """Days between the first and the last photo, both borders included, and the rate above which it is high."""

    name: BandName
    first_day: int
    last_day: int
    cutoff: float  # years a year; a rate of just that is not high


BANDS = (RateBand("short", 10, 365, 20.0), RateBand("mid", 366, 730, 10.0), RateBand("long", 731, 1460, 1.0))


@dataclass(frozen=True)
class FaceAgingRate:
    """Of one person. With a `reason` there is no rate and no band; without a repeatability SD no standard error."""

    face_aging_rate: float | None  # years of face age per year of the calendar
    band: BandName | None
    interval_days: int
    standard_error: float | None
    shrunken_rate: float | None
    high: bool | None  # above the cutoff of its band
    reason: Reason | None
    first_taken_on: date
    last_taken_on: date  # time zero of any follow-up: before this day nobody could know the rate


@dataclass(frozen=True, eq=False)
class AgingRates:
    """Of everybody with two or more dated photos, in order of appearance; numbers are nan where they are unknown."""

    first: Ints  # (P,) the row of the person's first dated photo
    first_taken_on: NDArray[np.datetime64]  # (P,) days
    last_taken_on: NDArray[np.datetime64]
    interval_days: Ints
    band: NDArray[np.object_]  # None where there is no rate
    face_aging_rate: Floats
    standard_error: Floats
    shrunken_rate: Floats
    high: NDArray[np.object_]  # True, False, or None where there is no rate
    reason: NDArray[np.object_]  # None where there is one

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, number: int) -> FaceAgingRate:
        return FaceAgingRate(
            _known(self.face_aging_rate[number]),
            self.band[number],
            int(self.interval_days[number]),
            _known(self.standard_error[number]),
            _known(self.shrunken_rate[number]),
            self.high[number],
            self.reason[number],
            self.first_taken_on[number].item(),
            self.last_taken_on[number].item(),
        )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
