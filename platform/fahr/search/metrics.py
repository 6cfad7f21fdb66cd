"""By what trials are judged: Harrell's C of people, or the average bin-wise error of ages; and whether one is better.

    metric = METRICS["survival"]
    found = metric.measured(table, risks, fold=fold)            # .value, .score (lower is better), .standard_error
    both = compared(metric, table, [winner], [default])         # of people nobody chose by: values, difference

A table has a row a photo: subject_id, and follow_up_days, event, entry_days, or age. Values are risks or years, NaN for
none. Cross-validated risks are compared within a fold alone, since each fold's are of another head. N = photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr.biomarkers.accuracy_results import Estimate
from fahr.biomarkers.bands import age_bins
from fahr.biomarkers.bias import read_people
from fahr.biomarkers.estimates import FEWEST
from fahr.biomarkers.measures import mean_of_bins
from fahr.biomarkers.resample import Layer, make_layer, resample
from fahr.errors import Refused
from fahr.survival import bootstrap_concordance, concordance
from fahr.survival.bootstrap import summarise
from fahr.training.outcomes import Floats, Followed

CONFIDENCE = 0.95
Folds = NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    value: float  # in the metric's unit
    score: float  # the same, lower is better
    standard_error: float


class Metric(Protocol):
    name: str
    unit: str
    higher_is_better: bool

    def measured(self, table: pa.Table, values: Floats, fold: Folds | None = None) -> Measured: ...

    def resampled(self, table: pa.Table, values: Floats, samples: int, seed: int) -> Floats: ...


class Ranking:
    """One row a person: the earliest visit with the median of its photos."""

    name, unit, higher_is_better = "C-index", "", True

    def measured(self, table: pa.Table, values: Floats, fold: Folds | None = None) -> Measured:
        some = Followed.of(table, fold).patients()
        found = concordance(some.time, some.event, some.median(values), entry=some.entry)
        if not np.isfinite(found.value):
            raise Refused("C-index: nobody of the people judged can be compared: too few had the event. Add people.")
        return Measured(found.value, 1 - found.value, found.standard_error)

    def resampled(self, table: pa.Table, values: Floats, samples: int, seed: int) -> Floats:
        """(samples,) C of people drawn with replacement, the same for any values."""
        some = Followed.of(table).patients()
        return bootstrap_concordance(
            some.time, some.event, some.median(values), entry=some.entry, samples=samples, seed=seed, threads=1
        ).values


class BinnedError:
    """The mean of the MAEs of ten years each; of all where no ten years have ten photos."""

    name, unit, higher_is_better = "average bin-wise MAE", "years", False

    def measured(self, table: pa.Table, values: Floats, fold: Folds | None = None) -> Measured:
        layer, counted, _ = self._binned(table, values)
        total = layer.totals()
        value = float(mean_of_bins(total[:, 1], total[:, 0], counted))
        return Measured(value, value, _standard_error(layer, counted))

    def resampled(self, table: pa.Table, values: Floats, samples: int, seed: int) -> Floats:
        layer, counted, people = self._binned(table, values)
        drawn = resample([layer], people=people, samples=samples, seed=seed, threads=1)[0]
        return mean_of_bins(drawn[:, :, 1], drawn[:, :, 0], counted)

    def _binned(self, table: pa.Table, values: Floats) -> tuple[Layer, NDArray[np.bool_], int]:
        """Photos and sums of |error| by bin and person; which bins count; people."""
        ages = np.asarray(table["age"].to_numpy(), np.float64)
        person = read_people(np.array(table["subject_id"].to_pylist(), object), len(ages))
        bins = age_bins(ages, 10)
        counted = np.bincount(bins.code) >= FEWEST
        code = bins.code if counted.any() else np.zeros_like(bins.code)
        counted = counted if counted.any() else np.ones(1, bool)
        layer = make_layer(code, person, np.stack([np.ones(len(ages)), np.abs(values - ages)]))
        return layer, counted, int(person.max()) + 1


def _standard_error(layer: Layer, counted: NDArray[np.bool_]) -> float:
    """Linearised, summed within people: a bin's mean moves by (sum of errors - photos x mean) / photos of the bin."""
    total = layer.totals()
    cell = np.repeat(np.arange(len(total)), np.diff(layer.start))
    photos, absolute = layer.values
    influence = (absolute - photos * (total[:, 1] / total[:, 0])[cell]) / total[cell, 0]
    influence = np.where(counted[cell], influence, 0.0) / counted.sum()
    return float(np.sqrt((np.bincount(layer.person, influence) ** 2).sum()))


METRICS: dict[str, Metric] = {"survival": Ranking(), "age": BinnedError()}


@dataclass(frozen=True)
class Compared:
    """Of the same people, on the same resamples; each the mean over its seeds."""

    first: Estimate  # 95 % percentile intervals over people, where resamples were asked for
    second: Estimate
    difference: Estimate  # first less second, in the metric's unit

    def first_is_better(self, metric: Metric) -> bool | None:
        """Beyond noise: its interval does not hold 0. None: no interval."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return None
        return low > 0 if metric.higher_is_better else high < 0


def compared(
    metric: Metric, table: pa.Table, first: Sequence[Floats], second: Sequence[Floats], *, samples: int, seed: int
) -> Compared:
    """`first`, `second`: (N,) values of each seed. The mean over seeds is of the metric, never of the values: an
    ensemble is not what the job will make."""
    known = np.all([np.isfinite(each) for each in (*first, *second)], axis=0)
    table = table.filter(pa.array(known))
    values, drawn = [], []
    for each in (first, second):
        values.append(float(np.mean([metric.measured(table, one[known]).value for one in each])))
        many = [metric.resampled(table, one[known], samples, seed) for one in each] if samples else []
        drawn.append(np.mean(many, axis=0) if many else None)
    return Compared(
        _estimate(values[0], drawn[0]), _estimate(values[1], drawn[1]),
        _estimate(values[0] - values[1], None if drawn[0] is None or drawn[1] is None else drawn[0] - drawn[1]),
    )  # fmt: skip


def _estimate(value: float, drawn: Floats | None) -> Estimate:
    if drawn is None:
        return Estimate(value)
    low, high, _ = summarise(drawn, CONFIDENCE)
    return Estimate(value, low, high) if np.isfinite([low, high]).all() else Estimate(value)
