"""The paths of the service, as an ASGI application around a `Service`. No Ray here: any server can run it.

api = make_api(service, settings, tokens)
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fahr.models.checkpoints.card import render
from serve import answers, calls
from serve.limits import Gate
from serve.metrics import Meter
from serve.problems import Problem, identify, install
from serve.reading import Submission, read_photos
from serve.schemas import (
    DATED_PHOTOS_BODY,
    PHOTO_STATUSES,
    PHOTOS_BODY,
    FaceAgeAnswer,
    FaceAgingRateAnswer,
    Health,
    ModelCard,
    ModelsAnswer,
    SurvivalRiskAnswer,
    problem_responses,
)
from serve.service import Route, Service, Task, Work
from serve.settings import ServeSettings
from serve.tokens import Tokens

_ABOUT = "Face age, survival risk and face aging rate from photographs. Research use only: not a diagnosis."
_READ_AT_ONCE = 64 << 10  # bytes of a body that are read before a thread would have begun
_CALIBRATIONS = (
    "conformal", "bias_correction", "risk_sd", "risk_percentiles", "quartile_cuts", "repeatability_sd_years",
    "aging_rate_prior",
)  # fmt: skip


def make_api(
    service: Service, settings: ServeSettings, tokens: Tokens | None, *routers: APIRouter, echo: bool = True
) -> ASGIApp:
    """`routers`: more paths. `echo`: whether the answer's X-Request-ID is ours to write."""
    app = FastAPI(title="fahr", version=version("fahr"), description=_ABOUT, docs_url=None, redoc_url=None)
    install(app)
    for router in (_photos(service, settings), _about(service), *routers):
        app.include_router(router)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return calls.page(app.openapi())

    return _Watched(Gate(app, settings.limits, tokens, echo=echo), service.meter)


def _photos(service: Service, settings: ServeSettings) -> APIRouter:
    """The three calls that read photos."""
    router = APIRouter(prefix="/v1", tags=["photos"], responses=problem_responses(404, *PHOTO_STATUSES))

    async def answer(
        request: Request, task: Task, make: Callable[[Work, Submission], BaseModel], dated: bool = False
    ) -> Response:
        with service.admitted():
            body, kind = await request.body(), request.headers.get("content-type")
            with service.meter.stage("read"):
                read = partial(read_photos, body, kind, settings.limits, dated=dated)
                sent = read() if len(body) <= _READ_AT_ONCE else await anyio.to_thread.run_sync(read)
            work = await service.read(task, sent.photos, identify(request.scope))
            with service.meter.stage("answer"):
                made = make(work, sent)
        request.scope["state"]["told"] = {"photos": len(sent.photos), "model": work.model.plan.digest[:19]}
        return Response(made.model_dump_json(), media_type="application/json")

    @router.post("/face-age", response_model=FaceAgeAnswer, openapi_extra=PHOTOS_BODY)
    async def face_age(request: Request) -> Response:
        """How old a face looks: the median over the photos, its interval, and its deviation where the age is given."""
        return await answer(
            request, "age", lambda work, sent: answers.face_age(work.model, work.seen, work.values, sent.age)
        )

    @router.post("/survival-risk", response_model=SurvivalRiskAnswer, openapi_extra=PHOTOS_BODY)
    async def survival_risk(request: Request) -> Response:
        """A risk score, and where it stands among the people that the model learned from."""
        return await answer(
            request, "survival", lambda work, _: answers.survival_risk(work.model, work.seen, work.values)
        )

    @router.post("/face-aging-rate", response_model=FaceAgingRateAnswer, openapi_extra=DATED_PHOTOS_BODY)
    async def face_aging_rate(request: Request) -> Response:
        """How fast a face ages, from photos of two days or more, 10 to 1,460 days apart."""
        return await answer(
            request,
            "age",
            lambda work, sent: answers.face_aging_rate(
                work.model, work.seen, work.values, sent.taken_on, sent.photos, sent.age
            ),
            dated=True,
        )

    return router


def _about(service: Service) -> APIRouter:
    """What the service says of itself."""
    router = APIRouter(tags=["service"])
    page = files("serve").joinpath("page.html").read_text("utf-8")

    @router.get("/v1/models", response_model=ModelsAnswer, responses=problem_responses(401, 503))
    async def models() -> ModelsAnswer:
        """The models that are loaded, with their cards."""
        return ModelsAnswer(models=[await _card(service, route) for route in service.routes])

    @router.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """This process answers."""
        return Health(status="alive")

    @router.get("/readyz", response_model=Health, responses=problem_responses(503))
    async def readyz() -> Health:
        """Every part answers: send requests."""
        if not await service.ready():
            raise Problem.busy("Not every model is loaded yet. Try again in a moment.", service.settings.retry_after_s)
        return Health(status="ready")

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def root() -> str:
        return page

    return router


async def _card(service: Service, route: Route) -> ModelCard:
    plan = await service.fresh_plan(route)
    return ModelCard(
        name=route.name,
        version=route.name.rpartition("-")[2] if "-" in route.name else "1",
        task=route.task,
        digest=plan.digest,
        convention=plan.cut.convention,
        detector=plan.cut.detector,
        input_size=plan.cut.size,
        traffic=route.share,
        shadow=route.shadow,
        calibrated={name: getattr(plan.config, name) is not None for name in _CALIBRATIONS},
        metrics=plan.config.metrics,
        card=render(plan.config),
    )


class _Watched:
    """Outermost: every request is measured and logged once, those too that the gate turned away."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499  # 499: gone before there was an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            told: Mapping[str, Any] = scope.get("state", {}).get("told", {})
            path = getattr(scope.get("route"), "path", "other")  # the pattern: an id of a cohort is nobody's business
            self._meter.request(identify(scope), path, status, time.perf_counter() - started, **told)
