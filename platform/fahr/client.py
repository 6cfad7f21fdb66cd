"""The service from Python: faces and cohorts in, typed answers out. It needs neither Ray nor a model.

with Client("http://127.0.0.1:8000") as client:
    client.face_age(["a.jpg", "b.jpg"], age=61.5).face_age
    cohort = client.wait_for_cohort(client.create_cohort("/data/people.csv", ["age"]))
    client.save_scores(cohort.id, "scores.parquet")

`AsyncClient` is the same with `await`. A service that is full (503, 429) or away (a proxy says so in its own words) is
asked again, after what it says in Retry-After and a random while, so that a crowd does not come back as one.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from os import PathLike
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict

from fahr import store
from fahr.errors import Refused

T = TypeVar("T")
Photo = bytes | str | PathLike[str]  # the file's content, or where it lies

TIMEOUT_S = 120.0  # of one answer: longer than the service takes before it gives up itself
PATIENCE_S = 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 8.0
_RETRIED, _AWAY = (429, 503), (404, 500, 502, 504)  # the latter in a proxy's words: nobody is behind it now


class _Answer(BaseModel):
    """Fields that the service adds later are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class ModelUsed(_Answer):
    name: str
    task: str
    digest: str


class PhotoAge(_Answer):
    photo: int  # its place among those sent, from 0
    face_age: float
    low: float | None
    high: float | None
    quality: dict[str, Any]
    warnings: list[str]


class FaceAge(_Answer):
    """Years. Null is what the model cannot say: `notes` tell why."""

    face_age: float
    low: float | None
    high: float | None
    face_age_deviation: float | None
    photos: list[PhotoAge]
    model: ModelUsed
    notes: list[str]


class PhotoRisk(_Answer):
    photo: int
    risk: float
    quality: dict[str, Any]
    warnings: list[str]


class SurvivalRisk(_Answer):
    """Higher is worse."""

    risk: float
    percentile: float | None
    quartile: int | None
    photos: list[PhotoRisk]
    model: ModelUsed
    notes: list[str]


class FaceAgingRate(_Answer):
    """Years of face age per year of the calendar."""

    face_aging_rate: float
    standard_error: float | None
    shrunken_rate: float | None
    interval_days: int
    band: str
    high: bool
    photos: list[PhotoAge]
    model: ModelUsed
    notes: list[str]


class Cohort(_Answer):
    id: str
    state: str  # waiting, running, done, failed, cancelled
    rows_done: int
    rows_total: int | None
    ledger: dict[str, Any] | None
    detail: str | None = None

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")


class Model(_Answer):
    name: str
    version: str
    task: str
    digest: str
    calibrated: dict[str, bool]
    card: str | None


class ServiceError(Exception):
    """The service said no, or nothing. `reason`: of a photo, as in the rejects of a cohort; `photo`: which, from 0."""

    def __init__(
        self,
        status: int | None,  # None: no answer at all
        detail: str,
        *,
        title: str = "",
        reason: str | None = None,
        photo: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.title = status, detail, title
        self.reason, self.photo, self.request_id = reason, photo, request_id

    def __str__(self) -> str:
        known = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status or 'no answer'}: {self.detail}{known}"


class CohortFailed(Exception):
    """A cohort that was waited for will never be done."""

    @property
    def cohort(self) -> Cohort:
        return cast("Cohort", self.args[0])

    def __str__(self) -> str:
        return f"cohort {self.cohort.id}: {self.cohort.state}. {self.cohort.detail or ''}".strip()


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and how its answer is read. Made again and again until it is answered."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    sent: Mapping[str, Any] = field(default_factory=dict)
    into: str = ""  # a location that gets the body of the answer


def _face_age(photos: Sequence[Photo], age: float | None) -> _Call[FaceAge]:
    return _Call("POST", "/v1/face-age", _as(FaceAge), _photos(photos, age))


def _survival_risk(photos: Sequence[Photo], age: float | None) -> _Call[SurvivalRisk]:
    return _Call("POST", "/v1/survival-risk", _as(SurvivalRisk), _photos(photos, age))


def _aging_rate(photos: Sequence[Photo], taken_on: Sequence[date], age: float | None) -> _Call[FaceAgingRate]:
    if len(photos) != len(taken_on):
        raise Refused(f"taken_on: {len(taken_on)} days for {len(photos)} photos. Give one for each, in their order.")
    return _Call("POST", "/v1/face-aging-rate", _as(FaceAgingRate), _photos(photos, age, taken_on))


def _create(manifest: str, models: Sequence[str], key: str | None) -> _Call[str]:
    sent = {"json": {"manifest": manifest, "models": list(models)}, "headers": _idempotent(key)}
    return _Call("POST", "/v1/cohorts", _id, sent)


def _upload(table: Photo, models: Sequence[str], key: str | None) -> _Call[str]:
    files = [("manifest", ("manifest.csv", _bytes(table), "text/csv"))]
    return _Call(
        "POST", "/v1/cohorts", _id, {"files": files, "data": {"models": list(models)}, "headers": _idempotent(key)}
    )


def _cohort(id: str) -> _Call[Cohort]:
    return _Call("GET", f"/v1/cohorts/{quote(id, safe='')}", _as(Cohort))


def _scores(id: str, place: str | PathLike[str]) -> _Call[None]:
    where = store.absolute(place)
    form = where.rpartition(".")[2].lower()
    if form not in ("csv", "parquet"):
        raise Refused(f"{place}: scores are saved as .csv or .parquet. Choose one of these endings.")
    path = f"/v1/cohorts/{quote(id, safe='')}/scores"
    return _Call("GET", path, lambda answer: None, {"params": {"format": form}}, where)


def _erase(id: str) -> _Call[bool]:
    return _Call("DELETE", f"/v1/cohorts/{quote(id, safe='')}", lambda answer: answer.status_code != 404)


def _models() -> _Call[list[Model]]:
    return _Call("GET", "/v1/models", lambda answer: [Model.model_validate(each) for each in answer.json()["models"]])


def _as(kind: type[T]) -> Callable[[httpx.Response], T]:
    assert issubclass(kind, BaseModel)
    return lambda answer: kind.model_validate_json(answer.content)


def _id(answer: httpx.Response) -> str:
    return str(answer.json()["id"])


def _idempotent(key: str | None) -> dict[str, str]:
    """A request that is sent twice must not begin two cohorts."""
    return {"Idempotency-Key": key or str(uuid.uuid4())}


def _photos(photos: Sequence[Photo], age: float | None, taken_on: Sequence[date] = ()) -> dict[str, Any]:
    """As multipart. Files have no names there: those of photos are often those of people."""
    if isinstance(photos, bytes | str | PathLike):
        raise Refused("photos: is one photo. Give a list, of one.")
    files = [("photo", ("photo", _bytes(photo), "application/octet-stream")) for photo in photos]
    fields: dict[str, Any] = {} if age is None else {"age": repr(float(age))}
    if taken_on:
        fields["taken_on"] = [day.isoformat() for day in taken_on]
    return {"files": files, "data": fields}


def _bytes(file: Photo) -> bytes:
    return file if isinstance(file, bytes) else store.read_bytes(store.absolute(file))


class _Patience:
    """How long to wait before the next try, while there is any left."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._bound = _FIRST_WAIT_S

    def after(self, failed: httpx.Response | httpx.TransportError) -> float:
        """Seconds: what the service asks for, and a random part of a bound that doubles. Raised: too long."""
        asked = _retry_after(failed.headers) if isinstance(failed, httpx.Response) else 0.0
        seconds = asked + random.uniform(0, self._bound)
        self._bound = min(2 * self._bound, _LONGEST_WAIT_S)
        if time.monotonic() + seconds > self._until:
            if isinstance(failed, httpx.Response):
                raise _error(failed)
            raise ServiceError(None, f"{type(failed).__name__}: {failed}. Is the service up?") from failed
        return seconds


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds, or a date, or nothing that can be understood."""
    given = headers.get("retry-after", "")
    if given.strip().isdigit():
        return float(given)
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _error(answer: httpx.Response) -> ServiceError:
    """From problem+json; a proxy in between may answer with anything."""
    try:
        told = answer.json()
        detail = str(told["detail"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(answer.status_code, f"{answer.reason_phrase or 'no reason given'}, not in our words")
    return ServiceError(
        answer.status_code,
        detail,
        title=str(told.get("title", "")),
        reason=told.get("reason"),
        photo=told.get("photo"),
        request_id=told.get("request_id"),
    )


def _passes(answer: httpx.Response) -> bool:
    """Whether the next answer may be another one. A 500 of the service itself is a fault, and stays one."""
    own = answer.headers.get("content-type", "").startswith("application/problem+json")
    return answer.status_code in _RETRIED or (answer.status_code in _AWAY and not own)


def _accepted(call: _Call[T], answer: httpx.Response) -> T:
    if answer.is_success or (call.method == "DELETE" and answer.status_code == 404):
        return call.read(answer)
    raise _error(answer)


def _settings(url: str, token: str | None, timeout_s: float) -> dict[str, Any]:
    """Of both clients. What is on this machine is asked directly, whatever proxy the environment names."""
    host = httpx.URL(url).host
    if not host:
        raise Refused(f"{url}: is no address of a service. Write http://host:port.")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    here = host in ("localhost", "::1") or host.startswith("127.")
    return {"base_url": url, "headers": headers, "timeout": timeout_s, "trust_env": not here}


class Client:
    """Blocking. Safe to use from several threads. Close it, or use it in a `with`."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        """`patience_s`: how long a call goes on asking a service that is full or away; 0: not at all."""
        self._http = httpx.Client(**_settings(url, token, timeout_s))
        self._patience_s = patience_s

    def face_age(self, photos: Sequence[Photo], *, age: float | None = None) -> FaceAge:
        """Of 1 to 16 photos of one person, taken at one time. `age`: in years."""
        return self._ask(_face_age(photos, age))

    def survival_risk(self, photos: Sequence[Photo], *, age: float | None = None) -> SurvivalRisk:
        return self._ask(_survival_risk(photos, age))

    def face_aging_rate(
        self, photos: Sequence[Photo], taken_on: Sequence[date], *, age: float | None = None
    ) -> FaceAgingRate:
        """`taken_on`: the day of each photo. `age`: at the first of them."""
        return self._ask(_aging_rate(photos, taken_on, age))

    def models(self) -> list[Model]:
        return self._ask(_models())

    def ready(self) -> bool:
        """Whether it would answer now. Asked once."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def create_cohort(self, manifest: str, models: Sequence[str], *, key: str | None = None) -> str:
        """The id of a cohort whose manifest the service can read. `key`: the same one never begins a second cohort."""
        return self._ask(_create(manifest, models, key))

    def upload_cohort(self, table: Photo, models: Sequence[str], *, key: str | None = None) -> str:
        """The same, with a CSV from here; its photos are where the service can read them."""
        return self._ask(_upload(table, models, key))

    def cohort(self, id: str) -> Cohort:
        return self._ask(_cohort(id))

    def wait_for_cohort(self, id: str, *, every_s: float = 5.0, at_most_s: float | None = None) -> Cohort:
        """Back when it is done. Raised: CohortFailed, and TimeoutError after `at_most_s`."""
        started = time.monotonic()
        while not _finished(cohort := self.cohort(id), started, at_most_s):
            time.sleep(every_s)
        return cohort

    def save_scores(self, id: str, place: str | PathLike[str]) -> None:
        """As .csv or .parquet, by the ending: whole, or not at all."""
        self._ask(_scores(id, place))

    def erase_cohort(self, id: str) -> bool:
        """Cancelled and erased. False: no cohort has this id, maybe not any more."""
        return self._ask(_erase(id))

    def _ask(self, call: _Call[T]) -> T:
        patience = _Patience(self._patience_s)
        while True:
            try:
                with self._http.stream(call.method, call.path, **call.sent) as answer:
                    if call.into and answer.is_success:
                        with store.atomic_writer(call.into) as file:
                            for piece in answer.iter_bytes():
                                file.write(piece)
                    else:
                        answer.read()
            except httpx.ReadTimeout as error:
                raise ServiceError(None, f"{call.path}: no answer in {self._http.timeout.read} s.") from error
            except httpx.TransportError as error:
                time.sleep(patience.after(error))
                continue
            if not _passes(answer):
                return _accepted(call, answer)
            time.sleep(patience.after(answer))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """As `Client`, for asyncio. Close it with `aclose`, or use it in an `async with`."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._http = httpx.AsyncClient(**_settings(url, token, timeout_s))
        self._patience_s = patience_s

    async def face_age(self, photos: Sequence[Photo], *, age: float | None = None) -> FaceAge:
        return await self._ask(_face_age(photos, age))

    async def survival_risk(self, photos: Sequence[Photo], *, age: float | None = None) -> SurvivalRisk:
        return await self._ask(_survival_risk(photos, age))

    async def face_aging_rate(
        self, photos: Sequence[Photo], taken_on: Sequence[date], *, age: float | None = None
    ) -> FaceAgingRate:
        return await self._ask(_aging_rate(photos, taken_on, age))

    async def models(self) -> list[Model]:
        return await self._ask(_models())

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/readyz")).is_success
        except httpx.TransportError:
            return False

    async def create_cohort(self, manifest: str, models: Sequence[str], *, key: str | None = None) -> str:
        return await self._ask(_create(manifest, models, key))

    async def upload_cohort(self, table: Photo, models: Sequence[str], *, key: str | None = None) -> str:
        return await self._ask(_upload(table, models, key))

    async def cohort(self, id: str) -> Cohort:
        return await self._ask(_cohort(id))

    async def wait_for_cohort(self, id: str, *, every_s: float = 5.0, at_most_s: float | None = None) -> Cohort:
        started = time.monotonic()
        while not _finished(cohort := await self.cohort(id), started, at_most_s):
            await asyncio.sleep(every_s)
        return cohort

    async def save_scores(self, id: str, place: str | PathLike[str]) -> None:
        await self._ask(_scores(id, place))

    async def erase_cohort(self, id: str) -> bool:
        return await self._ask(_erase(id))

    async def _ask(self, call: _Call[T]) -> T:
        patience = _Patience(self._patience_s)
        while True:
            try:
                async with self._http.stream(call.method, call.path, **call.sent) as answer:
                    if call.into and answer.is_success:
                        with store.atomic_writer(call.into) as file:
                            async for piece in answer.aiter_bytes():
                                file.write(piece)
                    else:
                        await answer.aread()
            except httpx.ReadTimeout as error:
                raise ServiceError(None, f"{call.path}: no answer in {self._http.timeout.read} s.") from error
            except httpx.TransportError as error:
                await asyncio.sleep(patience.after(error))
                continue
            if not _passes(answer):
                return _accepted(call, answer)
            await asyncio.sleep(patience.after(answer))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _finished(cohort: Cohort, started: float, at_most_s: float | None) -> bool:
    if cohort.state in ("failed", "cancelled"):
        raise CohortFailed(cohort)
    if not cohort.ended and at_most_s is not None and time.monotonic() - started > at_most_s:
        raise TimeoutError(f"cohort {cohort.id}: {cohort.state} after {at_most_s:g} s, {cohort.rows_done:,} rows done.")
    return cohort.ended
