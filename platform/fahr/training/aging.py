"""What aging rates need of an age model: how far a face age repeats, and which rates are usual.

found = calibrate_aging(people.table, scored.values)     # of the `calibrate` split, once the weights are final
config |= found.to_config()                              # of the checkpoint
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr.biomarkers import aging_rates, fit_aging_rate_prior, fit_repeatability
from fahr.errors import Refused

COLUMNS = ("taken_on", "source_sha256")  # asked of the faces, where they are there


@dataclass(frozen=True)
class AgingCalibration:
    """None where the people were too few, with the reason."""

    repeatability_sd_years: dict[str, float] | None = None
    aging_rate_prior: dict[str, dict[str, float]] | None = None
    why: tuple[str, ...] = ()

    def to_config(self) -> dict[str, Any]:
        return {
            "repeatability_sd_years": self.repeatability_sd_years,
            "aging_rate_prior": self.aging_rate_prior,
        }


def calibrate_aging(table: pa.Table, values: NDArray[np.float64]) -> AgingCalibration:
    """`table`: subject_id, age and, where they are known, taken_on and source_sha256 of each row; `values`: (N,) raw
    face ages, NaN = none. People of `calibrate` have taught the model nothing, and nobody studies their outcome."""
    if "taken_on" not in table.column_names:
        return AgingCalibration(why=("no face has a day (taken_on), so nobody knows which are repeats",))
    subjects, days, source = (
        np.array(table[name].to_pylist(), object) if name in table.column_names else None
        for name in ("subject_id", *COLUMNS)
    )
    assert subjects is not None and days is not None
    values = np.where(values < 0, np.nan, values)  # no grown-up face is read so
    try:
        repeats = fit_repeatability(values, subjects, days, source=source)
    except Refused as error:
        return AgingCalibration(why=(str(error),))
    rates = aging_rates(
        values, days, subjects, age=table["age"].to_numpy(), source=source, repeatability_sd=repeats.sd_years
    )
    try:
        return AgingCalibration(repeats.to_config(), fit_aging_rate_prior(rates))
    except Refused as error:
        return AgingCalibration(repeats.to_config(), why=(str(error),))
