"""Learning age from faces: what is minimised, what is watched, and what is fitted once the weights are final.

    task = Prediction(model, recipe, age_losses("l1"), augmentation)
    row = judged(tune.table, scored.values)                  # "score": average bin-wise error, lower is better
    calibration = calibrate(people.table, scored.values, coverage=0.9, fewest=100)

N = faces, K = outputs of the head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from fahr.biomarkers import age_accuracy, correct, fit_bias, fit_conformal, intervals
from fahr.biomarkers.accuracy import AgeAccuracy
from fahr.cohorts import age_balanced_weights
from fahr.cohorts.sampling import AgeBalance
from fahr.config import Options, option
from fahr.errors import Refused
from fahr.objectives.age import age_loss
from fahr.training.tasks import Labels

Floats = NDArray[np.float64]
APPARENT = ("apparent_age", "apparent_age_sd")  # what raters said of a photo, years; for the epsilon-error
CROSSED = (("sex", "race"), ("sex", "skin_tone"))  # intersections that are told, where both are known
GROUPS = ("sex", "race", "site", "dataset", "skin_tone")  # columns by which errors are told apart, where they are there


class Balance(Options):
    """How much more often rare ages are drawn (fahr.cohorts.sampling)."""

    cap: int = option(20, ge=1, help="no face is drawn more often than this, as a multiple", unit="times")
    target: float | None = option(
        None, gt=0, help="faces a year of age that count as enough", unit="faces",
        off="none: the median of the years in `reference`",
    )  # fmt: skip
    smooth: int = option(2, ge=0, help="years to either side over which counts are averaged", unit="years", off="0")
    width: int = option(1, ge=1, help="whole years that are counted together; smooth is a multiple", unit="years")
    reference: tuple[int, int] = option((20, 60), help="the ages, first and last, that are not rare, in years")

    def of(self, ages: Floats) -> AgeBalance:
        """(N,) years"""
        return age_balanced_weights(
            ages, cap=self.cap, target=self.target, smooth=self.smooth, width=self.width, reference=self.reference
        )


def age_losses(kind: str) -> Callable[[Tensor, Labels], Tensor]:
    """Outputs (N, K) and labels -> (N,) fp32."""

    def losses(outputs: Tensor, labels: Labels) -> Tensor:
        return age_loss(kind, outputs, labels["age"])

    return losses


def judged(table: pa.Table, values: Floats) -> dict[str, Any]:
    """What is watched while training: one line of errors of faces that decode, no intervals."""
    errors = accuracy(table, values, bootstraps=0).errors
    told = {name: getattr(errors, name).value for name in ("mae", "bias", "rmse", "pearson", "binwise_mae")}
    # A handful of people fills no bin of age: their plain error is all there is to choose by.
    return {"score": told["mae"] if told["binwise_mae"] is None else told["binwise_mae"], **told}


# Calibration


@dataclass(frozen=True)
class Calibration:
    """Fitted on people who are used for nothing else; None where they were too few, with the reason."""

    bias: dict[str, float] | None
    conformal: dict[str, dict[str, float]] | None
    why: tuple[str, ...] = ()

    def applied(self, table: pa.Table, values: Floats) -> dict[str, Floats]:
        """(N,) each: `corrected`, `low` and `high`, as far as they are known."""
        found: dict[str, Floats] = {}
        if self.bias is not None:
            found["corrected"] = correct(values, _ages(table), self.bias)
        if self.conformal is not None:
            found["low"], found["high"] = intervals(values, self.conformal, sex=_sex(table))
        return found


def calibrate(table: pa.Table, values: Floats, *, coverage: float, fewest: int) -> Calibration:
    """`table`: age, subject_id and, where it is known, sex of each row; `values`: (N,) raw face ages, NaN = none."""
    known = np.isfinite(values)
    table, values = table.filter(pa.array(known)), values[known]
    subjects = _column(table, "subject_id")
    bias, conformal, why = None, None, []
    try:
        bias = fit_bias(values, _ages(table), subjects)
    except Refused as error:
        why.append(str(error))
    try:
        conformal = fit_conformal(
            values, _ages(table), sex=_sex(table), subjects=subjects, coverage=coverage, fewest=fewest
        )
    except Refused as error:
        why.append(str(error))
    return Calibration(bias, conformal, tuple(why))


# Accuracy


def accuracy(
    table: pa.Table, values: Floats, *, bootstraps: int, seed: int = 0, applied: Mapping[str, Floats] | None = None
) -> AgeAccuracy:
    """Of the faces that decode. `applied`: what `Calibration.applied` gave; it is told beside the raw errors."""
    known = np.isfinite(values)
    table = table.filter(pa.array(known))
    more = {name: each[known] for name, each in (applied or {}).items()}
    told = [name for name in GROUPS if name in table.column_names and table[name].null_count < len(table)]
    groups = {name: _column(table, name) for name in told} if bootstraps else None
    pairs = [pair for pair in CROSSED if set(pair) <= set(groups or ())]
    rated = all(name in table.column_names and not table[name].null_count for name in APPARENT) and len(table)
    apparent = tuple(table[name].to_numpy() for name in APPARENT) if rated else None
    return age_accuracy(
        _ages(table), values[known], subjects=_column(table, "subject_id"), groups=groups, bootstraps=bootstraps,
        apparent=apparent, pairs=pairs,
        seed=seed, corrected=more.get("corrected"), low=more.get("low"), high=more.get("high"),
    )  # fmt: skip


def _ages(table: pa.Table) -> Floats:
    return np.asarray(table["age"].to_numpy(), np.float64)


def _sex(table: pa.Table) -> NDArray[np.object_] | None:
    return _column(table, "sex") if "sex" in table.column_names else None


def _column(table: pa.Table, name: str) -> NDArray[np.object_]:
    return np.array(table[name].to_pylist(), object)
