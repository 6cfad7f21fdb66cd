"""What the endpoints take and answer, for OpenAPI and for whoever builds the answers. Ages in years, times in days.

FaceAgeAnswer(face_age=61.2, low=55.0, high=67.4, ...)      # a field that a model cannot fill is null; `notes` say why
@app.post("/v1/face-age", responses=problem_responses(400, 413, ...), openapi_extra=PHOTOS_BODY)

Requests are read by `serve.reading`, not by these models: bytes are counted before anything is decoded.
"""

from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fahr.biomarkers.aging_rate_results import BandName
from fahr.cohorts.cells import Broken, parse_date, parse_number
from fahr.cohorts.rules import OLDEST_YEARS
from fahr.faces.quality import Quality

MOST_PHOTOS = 16
PROBLEM_TYPE = "application/problem+json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


# --- requests ---------------------------------------------------------------------------------------------------------


def read_age(value: Any) -> float:
    """Years, a number of JSON. The rules of a manifest."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_named(value)}, but must be a number of years. Write it like 61.5.")
    years = float(max(min(value, 1e9), -1e9))  # whole numbers can be larger than any float; nan stays
    if not 0 <= years <= OLDEST_YEARS:
        raise ValueError(f"{years:.6g} must be from 0 to {OLDEST_YEARS:.0f} years. Correct it, or leave it out.")
    return years


def read_age_text(text: str) -> float:
    """Years, as a field of a form holds them."""
    try:
        return read_age(parse_number(text, "."))
    except Broken as broken:
        raise ValueError(f"{text[:40]!r} {broken.rule}. Write it like 61.5.") from None


def read_day(value: Any) -> date:
    """A day as text. The rules of a manifest: a photo of today may be taken where it is tomorrow already."""
    if not isinstance(value, str):
        raise ValueError(f"is {_named(value)}, but must be a day as text. Write it like 2024-03-01.")
    try:
        day = parse_date(value, None)
    except Broken as broken:
        raise ValueError(f"{value[:40]!r} {broken.rule}. Write it like 2024-03-01.") from None
    if day > (datetime.now(UTC) + timedelta(hours=14)).date():
        raise ValueError(f"{day} must not lie in the future. Correct the day of the photo.")
    return day


def _named(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")


Age = Annotated[float, BeforeValidator(read_age), Field(ge=0, le=OLDEST_YEARS)]
Day = Annotated[date, BeforeValidator(read_day)]


class PhotoIn(_Part):
    """A photo in JSON."""

    data: str = Field(description="The file in base64: JPEG, PNG, WebP, HEIF, TIFF, GIF (first frame) or BMP.")


class DatedPhotoIn(PhotoIn):
    """A photo in JSON, with its day."""

    taken_on: Day = Field(description="Day the photo was taken, YYYY-MM-DD.", examples=["2024-03-01"])


class PhotosIn(_Part):
    """Photos of one person, taken on one occasion."""

    photos: list[PhotoIn] = Field(min_length=1, max_length=MOST_PHOTOS)
    age: Age | None = Field(None, description="Of the person when the photos were taken, years.", examples=[61.5])


class DatedPhotosIn(_Part):
    """Photos of one person, of two days or more."""

    photos: list[DatedPhotoIn] = Field(min_length=2, max_length=MOST_PHOTOS)
    age: Age | None = Field(None, description="Of the person at the first photo, years.", examples=[61.5])


class CohortIn(_Part):
    """A cohort to be scored."""

    manifest: str = Field(
        min_length=1, description="URI of the manifest, under a root that the server allows.",
        examples=["s3://hospital/people.parquet"],
    )  # fmt: skip
    models: list[str] = Field(
        min_length=1, max_length=2, examples=[["age"]],
        description="An age model, a survival model, or both: names that `/v1/models` lists.",
    )  # fmt: skip


# --- answers of the photo endpoints -----------------------------------------------------------------------------------


class ModelUsed(_Part):
    """The model that answered."""

    name: str = Field(description="As in `/v1/models`.", examples=["age"])
    task: Literal["age", "survival"]
    digest: str = Field(description="Of its weights.", examples=["sha256:9f2c..."])
    convention: str = Field(description="How a face is cut out.", examples=["arcface112"])
    detector: str = Field(description="What finds the face.", examples=["retinaface"])


class PhotoRead(_Part):
    """What was seen in one photo."""

    photo: int = Field(ge=0, description="Its place in the request, from 0.")
    quality: Quality = Field(description="Components after ISO/IEC 29794-5, each 0 to 100, 100 is best.")
    face_score: float = Field(ge=0, le=1, description="The detector's confidence.")
    faces_in_photo: int = Field(ge=1, description="Faces that were found; the largest is read.")
    box: tuple[float, float, float, float] = Field(description="Of the face: x1, y1, x2, y2 in pixels of the photo.")
    warnings: list[str] = Field(default=[], description="What to know before this photo is trusted.")


class PhotoAge(PhotoRead):
    face_age: float = Field(description="As the model says it, years, not clipped.")
    low: float | None = Field(description="Lower end of the 90 % interval of this photo, years.")
    high: float | None = Field(description="Upper end, years.")


class DatedPhotoAge(PhotoAge):
    taken_on: date


class PhotoRisk(PhotoRead):
    risk: float = Field(description="Of this photo, as `risk` of the answer.")


_NOTES: Any = Field(default=[], description="Why a field is null, and what else to know. A sentence each.")


class FaceAgeAnswer(_Part):
    """How old a face looks. Research use only: not a diagnosis, not for decisions about a person."""

    face_age: float = Field(description="Median over the photos, years, not clipped.", examples=[66.4])
    low: float | None = Field(
        description="Lower end of the 90 % interval of a single photo, centred on `face_age`, years.", examples=[59.8]
    )
    high: float | None = Field(description="Upper end, years.", examples=[73.0])
    face_age_deviation: float | None = Field(
        description="`face_age` - `age`, years; above 0: looks older. Null without `age`.", examples=[4.9]
    )
    face_age_corrected: float | None = Field(
        default=None, description="`face_age` less the bias that is usual at that age, years. Null without `age`."
    )
    face_age_deviation_adjusted: float | None = Field(
        default=None, description="`face_age_corrected` - `age`, years. Null without `age`."
    )
    age: float | None = Field(default=None, description="As it was given, years.", examples=[61.5])
    photos: list[PhotoAge]
    model: ModelUsed
    notes: list[str] = _NOTES


class SurvivalRiskAnswer(_Part):
    """A risk score. Research use only: not a prognosis of a person."""

    risk: float = Field(
        description="Median over the photos; higher is worse; in standard deviations of the training people where the "
        "model knows them, else the network's own number.",
        examples=[0.42],
    )
    percentile: float | None = Field(ge=0, le=100, description="Among the training people.", examples=[67.0])
    quartile: Literal[1, 2, 3, 4] | None = Field(description="Among them: 1 lowest risk, 4 highest.", examples=[3])
    photos: list[PhotoRisk]
    model: ModelUsed
    notes: list[str] = _NOTES


class FaceAgingRateAnswer(_Part):
    """How fast a face ages. Research use only. A follow-up starts its clock at `last_taken_on`."""

    face_aging_rate: float = Field(
        description="Years of face age per year of the calendar; 1 keeps step with it.", examples=[1.8]
    )
    standard_error: float | None = Field(description="Of the rate, from the model's repeatability.", examples=[0.9])
    shrunken_rate: float | None = Field(
        description="The rate drawn to what is usual in its band, by its standard error.", examples=[1.3]
    )
    interval_days: int = Field(description="Days from the first photo to the last.", examples=[820])
    band: BandName = Field(description="short: 10 to 365 days, mid: 366 to 730, long: 731 to 1,460.", examples=["long"])
    high: bool = Field(description="Above the cutoff of its band: 20, 10, 1.", examples=[True])
    first_taken_on: date
    last_taken_on: date
    photos: list[DatedPhotoAge]
    model: ModelUsed
    notes: list[str] = _NOTES


# --- cohorts ----------------------------------------------------------------------------------------------------------


class CohortCreated(_Part):
    id: str = Field(description="Unguessable; whoever has it and a token can read and erase the cohort.")


class Ledger(BaseModel):
    """Rows in = rows out + rejects. The job's other notes are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    rows_in: int = Field(ge=0)
    rows_out: int = Field(ge=0)
    rejects: dict[str, int] = Field(description="By reason.", examples=[{"no_face": 21}])


class CohortResults(_Part):
    """Where the scores are, as paths of this service."""

    csv: str = Field(examples=["/v1/cohorts/ID/scores?format=csv"])
    parquet: str = Field(examples=["/v1/cohorts/ID/scores?format=parquet"])


class CohortAnswer(_Part):
    id: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    rows_done: int = Field(ge=0, description="Scored or rejected so far.")
    rows_total: int | None = Field(description="Null until the manifest is read.")
    ledger: Ledger | None = Field(description="Null until `state` is done.")
    results: CohortResults | None = Field(description="Null until `state` is done.")
    detail: str | None = Field(default=None, description="Why it failed: a sentence.")


# --- models and health ------------------------------------------------------------------------------------------------


class ModelCard(_Part):
    """A model that is loaded."""

    name: str = Field(examples=["age"])
    version: str = Field(description="Told apart where several serve one task.", examples=["1"])
    task: Literal["age", "survival"]
    digest: str
    convention: str
    detector: str
    input_size: int = Field(description="Pixels a side of the face it reads.", examples=[112])
    traffic: float = Field(ge=0, le=1, description="Share of requests that it answers; 0: none, see `shadow`.")
    shadow: bool = Field(description="Scores beside the one that answers, and is only counted.")
    calibrated: dict[str, bool] = Field(
        description="What its checkpoint knows; a field that depends on it is null otherwise.",
        examples=[{"conformal": True, "bias_correction": True, "repeatability_sd_years": False}],
    )
    metrics: dict[str, Any] | None = Field(description="As measured when it was trained.")
    card: str | None = Field(description="Its model card, Markdown.")


class ModelsAnswer(_Part):
    models: list[ModelCard]


class Health(_Part):
    """Of `/healthz` and `/readyz`; who is not ready answers 503."""

    status: Literal["alive", "ready"]


# --- problems ---------------------------------------------------------------------------------------------------------


class ProblemDetails(BaseModel):
    """RFC 9457. `photo` and `reason` where a photo is at fault, `reason` also where there is no rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(
        description="Names the kind of problem; relative to this service.", examples=["/problems/no_face"]
    )
    title: str = Field(description="The kind in words.", examples=["No face"])
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What is wrong with this request, and what to do.")
    request_id: str | None = Field(default=None, description="Also in the header X-Request-ID and in the logs.")
    photo: int | None = Field(default=None, ge=0, description="Place of the photo in the request, from 0.")
    reason: str | None = Field(
        default=None, description="As in the rejects of a cohort, or why there is no rate.", examples=["no_face"]
    )


_PROBLEM_SCHEMA = ProblemDetails.model_json_schema()
_MEANINGS = {
    400: "Malformed: JSON, multipart, a field, an age or a date.",
    401: "No token, or a wrong one.",
    403: "Not allowed: a place outside the roots that the server may read.",
    404: "Nothing is here.",
    405: "Another method is needed.",
    408: "The body came too slowly, or the answer took too long.",
    409: "Not in this state, or the same key with another body.",
    413: "Too many bytes, pixels or photos.",
    415: "Not an image, or a content type that is not read.",
    422: "A photo without one good face, or no rate: `reason` says which.",
    429: "Too many requests: wait as `Retry-After` says.",
    431: "Too many bytes of headers.",
    500: "Our fault; the request id finds it in the logs.",
    503: "Full or not ready: wait as `Retry-After` says.",
}
PHOTO_STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 431, 500, 503)  # of the three endpoints that read photos


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For FastAPI's `responses=`."""
    retried = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return {
        status: {
            "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
            "content": {PROBLEM_TYPE: {"schema": _PROBLEM_SCHEMA}},
            **({"headers": retried} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def _body(model: type[BaseModel], fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """For FastAPI's `openapi_extra=`: JSON or multipart, neither of which FastAPI itself may read."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": MOST_PHOTOS}
    multipart = {"type": "object", "properties": {"photo": files, **fields}, "required": required}
    content = {
        "multipart/form-data": {"schema": {**multipart, "additionalProperties": False}},
        "application/json": {"schema": _inlined(model.model_json_schema())},
    }
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Without $defs, which an OpenAPI document looks for elsewhere."""
    parts = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return walk(parts[node["$ref"].rpartition("/")[2]])
        return {key: walk(value) for key, value in node.items()}

    walked: dict[str, Any] = walk(schema)
    return walked


_AGE_FIELD = {"type": "number", "minimum": 0, "maximum": OLDEST_YEARS, "description": "Years."}
_DAYS_FIELD = {"type": "array", "items": {"type": "string", "format": "date"}, "maxItems": MOST_PHOTOS}
PHOTOS_BODY = _body(PhotosIn, {"age": _AGE_FIELD}, ["photo"])
DATED_PHOTOS_BODY = _body(DatedPhotosIn, {"age": _AGE_FIELD, "taken_on": _DAYS_FIELD}, ["photo", "taken_on"])
COHORT_BODY_JSON = _inlined(CohortIn.model_json_schema())
