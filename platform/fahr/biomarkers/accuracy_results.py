"""What is told of an age model: estimates with their 95 % intervals, of everybody, of bands of age, and of groups.

All in years unless said otherwise; error = face age - age: above 0 the face is read too old.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fahr.biomarkers.accuracy_tables import as_json, as_lines, as_table


@dataclass(frozen=True)
class Estimate:
    """None where it is not defined, or its interval cannot be told."""

    value: float | None
    low: float | None = None  # 95 % percentile interval
    high: float | None = None


@dataclass(frozen=True)
class Errors:
    """Of one prediction; years unless said otherwise."""

    mae: Estimate
    bias: Estimate  # mean of face age - age
    rmse: Estimate
    pearson: Estimate
    r2: Estimate  # 1 - SSE / SST, below 0 when worse than the mean age
    within_3: Estimate  # share of photos with |error| <= 3 years: CS@3
    within_5: Estimate
    within_10: Estimate
    slope: Estimate  # of face age on age, years a year: below 1 = regression to the mean
    error_slope: Estimate  # of the error on age: slope - 1
    difference_sd: Estimate  # Bland-Altman: SD of the differences (the errors), of which `bias` is the mean
    limit_low: Estimate  # limits of agreement, bias -+ 1.96 SD
    limit_high: Estimate
    difference_slope: Estimate  # of face age - age on the mean of the two
    binwise_mae: Estimate  # unweighted mean of the MAEs of the bins with 10 images or more


@dataclass(frozen=True)
class Band:
    """Ages first_year to last_year, both included: one bin, or neighbours put together for want of people."""

    label: str
    first_year: int
    last_year: int
    n: int
    people: int
    mae: Estimate
    bias: Estimate
    corrected_mae: Estimate | None = None
    corrected_bias: Estimate | None = None


@dataclass(frozen=True)
class Cell:
    """People of one label, or of two. Hidden: no number at all."""

    names: tuple[str, ...]
    labels: tuple[str | None, ...]  # None = unknown
    hidden: str | None  # "<10": too few people; "withheld": it would tell of those; None: shown
    n: int | None = None
    people: int | None = None
    mae: Estimate | None = None
    bias: Estimate | None = None
    slope: Estimate | None = None  # of face age on age


@dataclass(frozen=True)
class Gap:
    """Largest MAE less smallest MAE among the shown cells with known labels.

    The interval is simultaneous: gap -+ the 95 % point, over resamples, of the largest deviation of any difference
    between two cells from what it is in the sample. That this pair was picked for being furthest apart is allowed for.
    """

    names: tuple[str, ...]
    worst: tuple[str | None, ...]
    best: tuple[str | None, ...]
    gap: Estimate


@dataclass(frozen=True)
class AgeAccuracy:
    n: int  # photos
    people: int
    bootstraps: int
    seed: int
    bin_years: int
    fewest: int  # people of whom something is shown
    errors: Errors
    corrected: Errors | None  # of the bias-corrected face age
    epsilon_error: Estimate | None  # mean of 1 - exp(-(face age - mean)^2 / (2 SD^2)) of apparent ages: 0 best, 1 worst
    coverage: Estimate | None  # share of ages from low to high, both included
    width: Estimate | None  # mean of high - low, years
    bands: tuple[Band, ...]
    counted_bins: tuple[str, ...]  # in the bin-wise MAE
    small_bins: tuple[str, ...]  # somebody is there, but fewer than 10 images: not in it
    groups: tuple[Cell, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def binwise_mae(self) -> float | None:
        """Years; None when no bin has 10 images."""
        return self.errors.binwise_mae.value

    def to_json(self) -> dict[str, Any]:
        """Without NaN: null is what is not defined or not shown."""
        return as_json(self)

    def table(self) -> pa.Table:
        """measure, group, value, n, people, estimate, low, high: long; of everybody, group and value are null."""
        return as_table(self)

    def lines(self) -> list[str]:
        """For a terminal."""
        return as_lines(self)
