"""What the models said of each face -> the columns of scores (docs/score.md). N = faces.

Unknown is null: the age of a person, a calibration that the checkpoint does not hold, a model that was not asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr.biomarkers import correct, face_age_deviation, intervals
from fahr.biomarkers.risk import percentile
from fahr.models import CheckpointConfig
from fahr.scores.models import ModelPlan

Floats = NDArray[np.float64]

SCORE_FIELDS = pa.schema(
    [
        ("face_age", pa.float64()),  # years, as the model says it
        ("face_age_low", pa.float64()),  # of one photo, around face_age
        ("face_age_high", pa.float64()),
        ("face_age_deviation", pa.float64()),  # face_age - age
        ("face_age_corrected", pa.float64()),
        ("face_age_deviation_adjusted", pa.float64()),  # face_age_corrected - age
        ("survival_risk", pa.float64()),  # higher = worse; SDs of the training people where the checkpoint knows them
        ("survival_percentile", pa.float64()),  # 0 to 100, among the people of the training
        ("age_model_digest", pa.string()),
        ("survival_model_digest", pa.string()),
    ]
)
ADDED_FIELDS = pa.schema([("source_sha256", pa.string())])  # of the photo's bytes: equal bytes are not two photos


def score_columns(
    values: Mapping[str, Floats], plans: Sequence[ModelPlan], age: Floats, sex: Sequence[str | None]
) -> pa.Table:
    """The ten columns. `values`: (N,) of each task; `age` (N,) in years, nan where unknown."""
    columns: dict[str, Any] = {}
    for plan in plans:
        made = _age_columns if plan.task == "age" else _risk_columns
        columns |= made(values[plan.task], age, sex, plan.config)
        columns[f"{plan.task}_model_digest"] = [plan.digest] * len(age)
    arrays = [
        pa.array(columns[field.name], field.type, from_pandas=True)
        if field.name in columns
        else pa.nulls(len(age), field.type)
        for field in SCORE_FIELDS
    ]
    return pa.table(arrays, SCORE_FIELDS)


def _age_columns(
    face_age: Floats, age: Floats, sex: Sequence[str | None], config: CheckpointConfig
) -> dict[str, Floats]:
    columns = {"face_age": face_age, "face_age_deviation": face_age_deviation(face_age, age)}
    if config.conformal is not None:
        low, high = intervals(face_age, config.conformal, sex=np.array(sex, object))
        columns |= {"face_age_low": low, "face_age_high": high}
    if config.bias_correction is not None:
        corrected = correct(face_age, age, config.bias_correction)
        columns |= {
            "face_age_corrected": np.asarray(corrected),
            "face_age_deviation_adjusted": face_age_deviation(corrected, age),
        }
    return columns


def _risk_columns(risk: Floats, age: Floats, sex: Sequence[str | None], config: CheckpointConfig) -> dict[str, Floats]:
    """`risk`: as the scorer gives it, which is standardised already where the config has risk_mean and risk_sd."""
    columns = {"survival_risk": risk}
    if config.risk_percentiles is not None:
        columns["survival_percentile"] = percentile(risk, config.risk_percentiles)
    return columns
