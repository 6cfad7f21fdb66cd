"""Whole cohorts over HTTP: a manifest in, a Ray job that scores it, its progress, its scores, and nothing left of it.

settings = CohortSettings(results="out/cohorts", data_roots=["out/demo"])
app.include_router(router(settings, models=lambda: {"age": "out/demo/models/age"}, scoring={"flip": False}))

Nothing is kept in memory: a cohort is its folder (_cohort_folder.py) and its job (_cohort_jobs.py), so a service that
restarts, or another replica of it, answers for all of them.
"""

import contextlib
import hashlib
import itertools
import json
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import ray
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import ValidationError, model_validator
from ray.job_submission import JobStatus

from fahr import store
from fahr.config import Location, Options, option
from fahr.errors import Refused, nearest
from serve._cohort_folder import Claim, Cohort, claim, claimed, new_id
from serve._cohort_jobs import Jobs, Unreachable
from serve._cohort_scores import FORMS
from serve.allowed import Outside, Roots, check_photos
from serve.limits import Limits
from serve.problems import Problem, sentence
from serve.reading import JSON, MULTIPART, Part, read_json, read_parts
from serve.schemas import COHORT_BODY_JSON, CohortAnswer, CohortCreated, CohortIn, problem_responses

Made = TypeVar("Made")

_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_RETRY_FULL_S, _RETRY_S = 30, 5
_LOST = "Its job is gone from the cluster. Send the request again with its Idempotency-Key: finished work is kept."
_STOPPED = "Its job was stopped by an operator. Send the request again with its Idempotency-Key to go on."


class CohortSettings(Options):
    """Cohorts over HTTP: refused until there are `results` and `data_roots`."""

    results: Location | None = option(
        None, help="folder for cohorts, that all nodes see: one folder each, erased with it", off="none: no cohorts"
    )
    data_roots: tuple[Location, ...] = option(
        (), help="folders or prefixes that manifests and their photos may be under", off="empty: none may be named"
    )
    model_roots: tuple[Location, ...] = option(
        (), help="folders or prefixes that checkpoints may be under", off="empty: only those of /v1/models, by name"
    )
    most_running: int = option(1, help="cohorts at once; the next one gets 503 and Retry-After", ge=1)
    workers: int = option(1, help="actors that score a cohort", unit="actors", ge=1)
    cpus_per_worker: float = option(0.9, help="CPU that each reserves", unit="CPU", gt=0)
    gpus_per_worker: float = option(0.0, help="GPU that each reserves", unit="GPU", off="0", ge=0)
    memory_per_worker: float = option(2.0, help="heap that each reserves", unit="GiB", gt=0)
    upload_bytes: int = option(
        32 << 20, help="of an uploaded table: some 300,000 rows; larger ones by URI", unit="bytes", ge=1
    )

    @model_validator(mode="after")
    def _apart(self) -> "CohortSettings":
        """A request that could name a folder of cohorts could read those of others."""
        roots = (*self.data_roots, *self.model_roots)
        if self.results and any(
            Roots([one]).within(other) for root in roots for one, other in ((root, self.results), (self.results, root))
        ):
            raise ValueError(f"results {self.results}: lies within a root, or holds one. Name a folder beside them")
        return self

    def bundles(self) -> list[dict[str, float]]:
        """What is reserved: for each cohort that may run its actors, and a CPU for the process that leads them."""
        amounts = {
            "CPU": self.cpus_per_worker,
            "GPU": self.gpus_per_worker,
            "memory": float(int(self.memory_per_worker * 2**30)),
        }
        worker = {name: amount for name, amount in amounts.items() if amount}
        return [*([dict(worker)] * self.workers), {"CPU": 1.0}] * self.most_running

    def per_job(self) -> dict[str, Any]:
        """The same, as options of jobs/score.py."""
        names = ("workers", "cpus_per_worker", "gpus_per_worker", "memory_per_worker")
        return {name: getattr(self, name) for name in names}


class _Asked(NamedTuple):
    """A request to score a cohort. `table`: as it was uploaded; else `manifest` says where it is."""

    manifest: str | None
    table: bytes | None
    models: tuple[str, ...]

    def digest(self) -> str:
        table = None if self.table is None else hashlib.sha256(self.table).hexdigest()
        return hashlib.sha256(json.dumps([self.manifest, table, self.models]).encode()).hexdigest()


class Cohorts:
    """What the endpoints do, without HTTP."""

    def __init__(
        self, settings: CohortSettings, models: Callable[[], Mapping[str, str]], scoring: Mapping[str, Any]
    ) -> None:
        self.settings, self._models, self._scoring = settings, models, dict(scoring)
        self.jobs = Jobs(settings.bundles())
        self._one_at_a_time = threading.Lock()
        self._data = Roots(settings.data_roots)

    @property
    def enabled(self) -> bool:
        return self.settings.results is not None and bool(self.settings.data_roots)

    # --- to begin ---

    def create(self, asked: _Asked, key: str | None) -> str:
        """The id. `key`: a digest of who asks and what they call it; the same key is the same cohort."""
        if not self.enabled:
            raise Problem(403, "This service scores no cohorts: its operator has allowed no root for manifests.")
        results, digest = str(self.settings.results), asked.digest()
        held = claimed(results, key) if key else None
        if held is not None and held.digest != digest:
            raise Problem(409, "This Idempotency-Key stands for another request. Take a new key for a new request.")
        if held is not None and self._goes_on(Cohort(results, held.id)):
            return held.id
        options = self._options(asked)
        with self._one_at_a_time:  # else two that come at once both find room
            return self._begin(asked, key, held, digest, options)

    def _begin(self, asked: _Asked, key: str | None, held: Claim | None, digest: str, options: dict[str, Any]) -> str:
        results = str(self.settings.results)
        self._admit()
        if held is None and key is not None:
            held = claim(results, key, digest)
            if held.digest != digest:  # somebody came in between
                raise Problem(409, "This Idempotency-Key stands for another request. Take a new key for this one.")
        cohort = Cohort(results, held.id if held else new_id())
        new = not cohort.exists()
        if new:
            if asked.table is not None:
                store.write_bytes(cohort.manifest, asked.table)
                options["manifest"] = cohort.manifest
            cohort.create({"options": options, "roots": self._data.places, "key": key})
        cohort.begin_again()
        try:
            self.jobs.submit(results, cohort.id)
        except Unreachable:
            if new:  # nobody has its id, so nobody could erase it
                cohort.begin_erasing()
                cohort.erase()
            raise
        return cohort.id

    def _goes_on(self, cohort: Cohort) -> bool:
        """Whether there is nothing to begin, nor to begin again after a failure."""
        if cohort.erasing():
            raise Problem(
                409, "The cohort of this Idempotency-Key is being erased. Wait until it is, or take a new one."
            )
        return cohort.exists() and self.answer(cohort.id).state in ("waiting", "running", "done")

    def _options(self, asked: _Asked) -> dict[str, Any]:
        """Of jobs/score.py, its places checked. Nothing is written anywhere until all is found to be in order."""
        places = [self._model(name) for name in asked.models]
        manifest = None if asked.manifest is None else self._manifest(asked.manifest)
        if asked.table is not None:
            _check_table(asked.table, self._data)
        return {**self._scoring, **self.settings.per_job(), "models": places, "manifest": manifest}

    def _manifest(self, given: str) -> str:
        place = self._data.within_whole(given)
        if place is None:
            raise Problem(403, "manifest: is not under a root that this service may read. Ask its operator for one.")
        return place

    def _model(self, given: str) -> str:
        known = self._models()
        if given in known:
            return known[given]
        place = Roots(self.settings.model_roots).within_whole(given)
        if place is None:
            raise Problem(403, "models: names neither a model of /v1/models nor a checkpoint under a root for models.")
        return place

    def _admit(self) -> None:
        if not self.jobs.reserve(wait_s=1.0):
            raise Problem.busy(
                "The CPUs that are reserved for cohorts are not there yet: the cluster is too small, or still growing.",
                _RETRY_S,
            )
        if self.jobs.active() >= self.settings.most_running:
            most = self.settings.most_running
            raise Problem.busy(f"{most} cohorts are being scored, which is the most at once. Try again.", _RETRY_FULL_S)

    # --- to go on ---

    def find(self, id: str) -> Cohort:
        with contextlib.suppress(store.Missing):
            cohort = Cohort(str(self.settings.results), id)
            if self.settings.results is not None and cohort.exists():
                return cohort
        raise _gone()

    def answer(self, id: str) -> CohortAnswer:
        cohort = self.find(id)
        ledger = cohort.ledger()
        if ledger is not None:
            return CohortAnswer.model_validate(
                {
                    "id": id, "state": "done", "rows_done": ledger["rows_in"], "rows_total": ledger["rows_in"],
                    "ledger": ledger, "results": {form: f"/v1/cohorts/{id}/scores?format={form}" for form in FORMS},
                }
            )  # fmt: skip
        progress = cohort.progress()
        state, detail = self._state(cohort, progress.rows_total is not None)
        return CohortAnswer.model_validate(
            {
                "id": id, "state": state, "rows_done": progress.rows_done, "rows_total": progress.rows_total,
                "ledger": None, "results": None, "detail": detail,
            }
        )  # fmt: skip

    def _state(self, cohort: Cohort, planned: bool) -> tuple[str, str | None]:
        """Of a job without a ledger: by its folder where that tells, else by the cluster."""
        if (why := cohort.failure()) is not None:
            return "failed", why
        begun = "running" if planned else "waiting"
        try:
            status = self.jobs.status(cohort.id)
        except Unreachable:
            return begun, None  # nobody says that it is not
        if status in (JobStatus.PENDING, JobStatus.RUNNING):
            return begun, None
        if cohort.ledger() is not None or cohort.failure() is not None:  # it ended while we asked
            answer = self.answer(cohort.id)
            return answer.state, answer.detail
        return ("cancelled", _STOPPED) if status == JobStatus.STOPPED else ("failed", _LOST)

    def scores(self, id: str, form: str) -> Iterator[bytes]:
        cohort = self.find(id)
        if cohort.ledger() is None:
            state = self.answer(id).state
            raise Problem(409, f"The cohort is {state}: its scores can be had when it is done.")
        found = cohort.scores()
        first = next(found)  # what is wrong with it is told before the answer begins
        return FORMS[form][1](itertools.chain([first], found))

    # --- to end ---

    def erase(self, id: str) -> None:
        cohort = self._found_or_erasing(id)
        ended = cohort.ledger() is not None or cohort.failure() is not None
        try:
            cohort.begin_erasing()
        except store.Missing:  # by somebody else, since we looked
            raise _gone() from None
        try:
            self.jobs.stop(id)
            self.jobs.forget(id)
        except Unreachable:
            if not ended:
                raise
        cohort.erase()

    def _found_or_erasing(self, id: str) -> Cohort:
        with contextlib.suppress(store.Missing):
            cohort = Cohort(str(self.settings.results), id)
            if self.settings.results is not None and cohort.erasing():
                return cohort
        return self.find(id)


def _gone() -> Problem:
    return Problem(404, "No cohort has this id. It was erased, or never made.")


def _check_table(table: bytes, roots: Roots) -> None:
    """It is text, a manifest, and its photos are under a root. On disk for as long as that takes."""
    try:
        text = table.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Problem(415, "manifest: is no CSV in UTF-8. Upload the table; photos stay where they are.")
    with tempfile.TemporaryDirectory(prefix="fahr-cohort-") as folder:
        place = f"{folder}/manifest.csv"
        store.write_bytes(place, table)
        try:
            check_photos(place, roots)
        except Refused as error:
            status = 403 if isinstance(error, Outside) else 400
            raise Problem(status, str(error).replace(place, "manifest").rstrip(".") + ".") from None


# --- HTTP ---


def router(  # long: four routes that share their cohorts
    settings: CohortSettings,
    models: Callable[[], Mapping[str, str]] = dict,
    scoring: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> APIRouter:
    """`models`: name -> checkpoint of those that requests may name. `scoring`: options of jobs/score.py, by its names
    in Python, that make its scores those of this service (detector, gate, flip, ...)."""
    cohorts = Cohorts(settings, models, scoring or {})
    door = limits or Limits()

    @contextlib.asynccontextmanager
    async def reserved(app: FastAPI) -> AsyncIterator[None]:
        if cohorts.enabled and ray.is_initialized():
            await run_in_threadpool(cohorts.jobs.reserve)  # asked for before replicas multiply
        yield

    routes = APIRouter(prefix="/v1/cohorts", tags=["cohorts"], lifespan=reserved)

    @routes.post(
        "", status_code=202, responses=problem_responses(400, 401, 403, 408, 409, 413, 415, 500, 503),
        openapi_extra=COHORT_BODY,
    )  # fmt: skip
    async def create_cohort(
        request: Request,
        response: Response,
        idempotency_key: Annotated[
            str | None, Header(max_length=255, description="The same key is the same cohort: send it again at will.")
        ] = None,
    ) -> CohortCreated:
        """Score the photos of a manifest. The answer comes at once, the scores when its job has made them."""
        asked = _read(await request.body(), request.headers.get("content-type", ""), door, settings.upload_bytes)
        key = None if idempotency_key is None else _scoped(idempotency_key, request.headers.get("authorization", ""))
        id = await run_in_threadpool(_told, cohorts.create, asked, key)
        response.headers["Location"] = f"/v1/cohorts/{id}"
        return CohortCreated(id=id)

    @routes.get("/{id}", responses=problem_responses(401, 404, 500, 503))
    def get_cohort(id: str) -> CohortAnswer:
        """How far it is."""
        return _told(cohorts.answer, id)

    @routes.get(
        "/{id}/scores", response_class=Response, responses={
            200: {"description": "A row a photo, by photo_id.", "content": {"text/csv": {}, FORMS["parquet"][0]: {}}},
            **problem_responses(400, 401, 404, 409, 500, 503),
        },
    )  # fmt: skip
    def get_scores(id: str, format: Annotated[Literal["csv", "parquet"], Query()] = "csv") -> Response:
        """The scores of a cohort that is done."""
        pieces = _told(cohorts.scores, id, format)
        headers = {"Content-Disposition": f'attachment; filename="scores.{format}"'}
        return StreamingResponse(pieces, media_type=FORMS[format][0], headers=headers)

    @routes.delete("/{id}", status_code=204, responses=problem_responses(401, 404, 500, 503))
    def erase_cohort(id: str) -> Response:
        """Cancel its job and erase all that it and this service wrote for it."""
        _told(cohorts.erase, id)
        return Response(status_code=204)

    return routes


def _told(ask: Callable[..., Made], *arguments: Any) -> Made:
    """Ray and the store are away: that passes."""
    try:
        return ask(*arguments)
    except Unreachable as error:
        raise Problem.busy(f"Cohorts cannot be changed now: {error}. Try again.", _RETRY_S) from error
    except store.Unavailable as error:
        raise Problem.busy("The store that holds the cohorts does not answer. Try again.", _RETRY_S) from error
    except store.Denied as error:  # our own folder: no fault of who asks
        raise PermissionError(str(error)) from error


def _scoped(key: str, authorization: str) -> str:
    """Keys of two tokens are two keys. Neither of them is written down."""
    if not _KEY.fullmatch(key):
        raise Problem(400, "Idempotency-Key: has 1 to 255 printable characters of ASCII. Take a UUID.")
    return hashlib.sha256(f"{authorization}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()


def _read(body: bytes, content_type: str, limits: Limits, most: int) -> _Asked:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        try:
            sent = CohortIn.model_validate(read_json(body, limits))
        except ValidationError as error:
            told = error.errors(include_url=False, include_input=False, include_context=False)
            raise Problem(400, sentence(told)) from None
        return _Asked(sent.manifest, None, tuple(sent.models))
    if kind == MULTIPART:
        return _uploaded(read_parts(body, content_type, limits), limits, most)
    raise Problem(415, f"Content-Type {kind[:40]!r}: a cohort is asked for as {JSON}, or as {MULTIPART} with a table.")


def _uploaded(parts: Sequence[Part], limits: Limits, most: int) -> _Asked:
    for part in parts:
        if part.name not in ("manifest", "models"):
            near = nearest(part.name, ("manifest", "models"))
            raise Problem(400, f"Field {part.name[:40]!r} is not read here; there are manifest and models.{near}")
    found = [part.data for part in parts if part.name == "manifest"]
    if len(found) != 1:
        raise Problem(400, f"manifest: {len(found)} came. Send one, a CSV.")
    if len(found[0]) > most:
        raise Problem(
            413, f"manifest: has {len(found[0]):,} bytes; {most:,} is the most. Name a larger one by its URI."
        )
    models = tuple(part.text(limits) for part in parts if part.name == "models")
    if not 1 <= len(models) <= 2:
        raise Problem(400, f"models: {len(models)} came. Send one field `models` for each: an age, a survival model.")
    return _Asked(None, found[0], models)


_MULTIPART_BODY = {
    "type": "object",
    "properties": {
        "manifest": {
            "type": "string", "format": "binary",
            "description": "A CSV in UTF-8. Its photos are absolute paths or s3:// URIs, under a root that is allowed.",
        },
        "models": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["manifest", "models"],
    "additionalProperties": False,
}  # fmt: skip
COHORT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": COHORT_BODY_JSON}, MULTIPART: {"schema": _MULTIPART_BODY}},
    }
}
