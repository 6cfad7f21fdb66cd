"""What the models said of the photos of one person -> the answer. Calibration is that of jobs/score.py, call by call.

answer = face_age(used, seen, values, age=61.5)      # median over the photos, its interval, its deviation

N = photos.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fahr.biomarkers import BANDS, FaceAgingRate, aging_rates, visit_medians
from fahr.biomarkers.aging_rate_prior import Prior
from fahr.biomarkers.aging_rate_results import Reason
from fahr.biomarkers.risk import quartile
from fahr.faces import AlignedFace
from fahr.scores import ModelPlan
from fahr.scores.columns import score_columns
from serve.problems import Problem
from serve.schemas import (
    DatedPhotoAge,
    FaceAgeAnswer,
    FaceAgingRateAnswer,
    ModelUsed,
    PhotoAge,
    PhotoRisk,
    SurvivalRiskAnswer,
)

Floats = NDArray[np.float64]

_NO_RATE: dict[Reason, str] = {
    "same_day": "All photos are of one day: send photos of days that lie {first} to {last} days apart.",
    "rejected_photo": "Fewer than two days are left, since a copy of a photo does not count twice: send other photos.",
    "other_model": "The photos were read by two models, whose difference would count as aging: send them again.",
    "age_20_or_less": "The person was 20 or younger at the first photo, and still growing up: send later photos.",
    "interval_too_short": "{days} days lie between the first and the last photo, at least {first} are needed: send an "
    "older or a newer photo.",
    "interval_too_long": "{days} days lie between the first and the last photo, {last} are the most: send photos that "
    "lie closer together.",
}


@dataclass(frozen=True)
class Model:
    """Who answers, and by which name."""

    name: str
    plan: ModelPlan

    @property
    def used(self) -> ModelUsed:
        cut = self.plan.cut
        return ModelUsed(
            name=self.name, task=self.plan.task, digest=self.plan.digest, convention=cut.convention,
            detector=cut.detector,
        )  # fmt: skip


def face_age(
    model: Model, seen: Sequence[AlignedFace], values: Sequence[float], age: float | None = None
) -> FaceAgeAnswer:
    """`values`: (N,) years. The interval is that of one photo, around the median (docs/calibration.md)."""
    one, *each = _rows(model.plan, [_median(values), *values], age)
    return FaceAgeAnswer(
        face_age=one["face_age"],
        low=one["face_age_low"],
        high=one["face_age_high"],
        face_age_deviation=one["face_age_deviation"],
        face_age_corrected=one["face_age_corrected"],
        face_age_deviation_adjusted=one["face_age_deviation_adjusted"],
        age=age,
        photos=[PhotoAge(**photo) for photo in _ages(seen, each)],
        model=model.used,
        notes=model.plan.notes(),
    )


def survival_risk(model: Model, seen: Sequence[AlignedFace], values: Sequence[float]) -> SurvivalRiskAnswer:
    """`values`: (N,) as the scorer gives them, higher = worse."""
    risk = _median(values)
    (one,) = _rows(model.plan, [risk], None)
    cuts = model.plan.config.quartile_cuts
    missing = ["the survival model holds no quartile_cuts, so quartile is null"] if cuts is None else []
    quarter: Any = None if cuts is None else int(quartile([risk], cuts)[0])
    return SurvivalRiskAnswer(
        risk=risk,
        percentile=one["survival_percentile"],
        quartile=quarter,
        photos=[PhotoRisk(**_seen(number, face), risk=values[number]) for number, face in enumerate(seen)],
        model=model.used,
        notes=[*model.plan.notes(), *missing],
    )


def face_aging_rate(
    model: Model, seen: Sequence[AlignedFace], values: Sequence[float], taken_on: Sequence[date],
    photos: Sequence[bytes], age: float | None = None,
) -> FaceAgingRateAnswer:  # fmt: skip
    """`age`: at the first photo. 422 with the reason where there is no rate."""
    rate = _rate(model.plan, values, taken_on, photos, age)
    if rate.reason is not None:
        ends = {"first": BANDS[0].first_day, "last": f"{BANDS[-1].last_day:,}", "days": f"{rate.interval_days:,}"}
        raise Problem(422, _NO_RATE[rate.reason].format(**ends), reason=rate.reason)
    assert rate.face_aging_rate is not None and rate.band is not None and rate.high is not None
    ages = _ages(seen, _rows(model.plan, values, None))
    return FaceAgingRateAnswer(
        face_aging_rate=rate.face_aging_rate,
        standard_error=rate.standard_error,
        shrunken_rate=rate.shrunken_rate,
        interval_days=rate.interval_days,
        band=rate.band,
        high=rate.high,
        first_taken_on=rate.first_taken_on,
        last_taken_on=rate.last_taken_on,
        photos=[DatedPhotoAge(**each, taken_on=day) for each, day in zip(ages, taken_on, strict=True)],
        model=model.used,
        notes=[*model.plan.notes(), *_rate_notes(model.plan, rate)],
    )


def _rate(
    plan: ModelPlan, values: Sequence[float], taken_on: Sequence[date], photos: Sequence[bytes], age: float | None
) -> FaceAgingRate:
    """As `fahr.scores.rates` makes aging_rates.parquet: copies count once, the checkpoint's prior shrinks."""
    ages = np.full(len(values), np.nan)
    if age is not None:
        ages[taken_on.index(min(taken_on))] = age
    sd = plan.config.repeatability_sd_years
    prior: Prior = {str(band): usual for band, usual in (plan.config.aging_rate_prior or {}).items()}
    return aging_rates(
        values,
        [day.isoformat() for day in taken_on],
        [0] * len(values),
        age=ages,
        source=[hashlib.sha256(photo).hexdigest() for photo in photos],
        repeatability_sd=None if sd is None else sd.value,
        prior=None if sd is None else prior,
    )[0]


def _rate_notes(plan: ModelPlan, rate: FaceAgingRate) -> list[str]:
    if rate.standard_error is None:
        return ["the age model holds no repeatability_sd_years, so standard_error and shrunken_rate are null"]
    if rate.shrunken_rate is None:
        return [f"the age model holds no aging_rate_prior of band {rate.band}, so shrunken_rate is null"]
    return []


def _median(values: Sequence[float]) -> float:
    """Of one visit, as visits.parquet has it."""
    return float(visit_medians(values, [0] * len(values), ["2000-01-01"] * len(values)).medians[0])


def _rows(plan: ModelPlan, values: Sequence[float], age: float | None) -> list[dict[str, Any]]:
    """The columns of scores, a row a value, null where unknown. `age`: of the first. A request tells no sex: the
    interval is that of both."""
    ages = np.full(len(values), np.nan)
    if age is not None:
        ages[0] = age
    made: list[dict[str, Any]] = score_columns(
        {plan.task: np.asarray(values, np.float64)}, [plan], ages, [None] * len(values)
    ).to_pylist()
    return made


def _ages(seen: Sequence[AlignedFace], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**_seen(number, face), "face_age": row["face_age"], "low": row["face_age_low"], "high": row["face_age_high"]}
        for number, (face, row) in enumerate(zip(seen, rows, strict=True))
    ]


def _seen(number: int, face: AlignedFace) -> dict[str, Any]:
    warnings = list(face.warnings)
    if face.quality.is_small:
        warnings.append("the eyes are close together for a reliable score: send a larger photo")
    return {
        "photo": number,
        "quality": face.quality,
        "face_score": min(1.0, max(0.0, face.score)),
        "faces_in_photo": face.faces_in_photo,
        "box": tuple(float(value) for value in face.box),
        "warnings": warnings,
    }
