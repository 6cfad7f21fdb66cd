"""A request's way: photos -> faces -> networks -> answer. Who answers, who shadows, and what happens when it is full.

service = Service(settings, align=aligner.align.remote, score={"age": backbone.score.remote}, ready=[...])
service.route([{"name": "age", "task": "age", "family": "age", "share": 1.0, "shadow": False}])
work = await service.read("age", photos, request_id)       # faces, years, and the model that said them

It calls what it is given: handles of Ray Serve, or plain coroutines in one process (a rival in benchmarks/serve.py).
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from fahr.faces import AlignedFace, Rejection
from fahr.scores import ModelPlan
from serve.aligning import Found
from serve.answers import Model
from serve.backbone import FacesRead, Pixels
from serve.metrics import Meter
from serve.problems import Problem
from serve.settings import ServeSettings

log = logging.getLogger("ray.serve")
Made = TypeVar("Made")
Good = TypeVar("Good")

Task = Literal["age", "survival"]
Align = Callable[[Sequence[bytes], Any], Awaitable[list[Found]]]
Score = Callable[[Sequence[Pixels], Mapping[str, str]], Awaitable[FacesRead]]
LOST = (RayActorError, DeploymentUnavailableError)  # a replica ended with the request in it, or none is there
READY_S = 5.0  # within which every deployment must say that it is ready
MOST_SHADOWS = 16  # requests that shadows work on; beyond, they miss some


class Route(BaseModel, frozen=True, extra="forbid"):
    """A model that is loaded: who it is, where, and how much of the requests of its task it answers."""

    name: str
    task: Task
    family: str  # the deployment
    share: float
    shadow: bool


@dataclass(frozen=True)
class Work:
    """What is known of the photos of a request."""

    seen: list[AlignedFace]
    values: list[float]
    model: Model


class Service:
    """One ingress. `score`: of each family."""

    def __init__(
        self,
        settings: ServeSettings,
        *,
        align: Align,
        score: Mapping[str, Score],
        ready: Sequence[Callable[[], Awaitable[bool]]] = (),
    ) -> None:
        self.settings, self.meter = settings, Meter()
        self._align, self._score, self._probes = align, dict(score), tuple(ready)
        self._plans: dict[str, dict[str, ModelPlan]] = {family: {} for family in score}
        self.routes: tuple[Route, ...] = ()
        self._flying, self._was_ready = 0, False
        self._shadows: set[asyncio.Task[None]] = set()

    def route(self, versions: Sequence[Mapping[str, Any]]) -> None:
        self.routes = tuple(Route.model_validate(each) for each in versions)

    async def ready(self) -> bool:
        """Whether every deployment has a replica that answers in time. Then the plans are known as well. A probe waits
        behind photos: where it comes too late though requests are at work, they are busy, not gone."""
        try:
            async with asyncio.timeout(READY_S):
                if not all(await asyncio.gather(*(probe() for probe in self._probes))):
                    return False
                await asyncio.gather(*(self.plan(route) for route in self.routes))
        except (TimeoutError, BackPressureError):
            return self._was_ready and self._flying > 0
        except LOST:
            return False
        self._was_ready = True
        return True

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One of those in flight. Who finds it full is told at once: waiting would only make all of them late."""
        most = self.settings.most_in_flight
        if self._flying >= most:
            raise self._busy(f"{most} requests are being answered. Try again in a moment.")
        self._flying += 1
        self.meter.in_flight(self._flying)
        try:
            yield
        finally:
            self._flying -= 1
            self.meter.in_flight(self._flying)

    async def read(self, task: Task, photos: Sequence[bytes], request_id: str) -> Work:
        """Every photo by the version that this request falls to. Refused: the first photo without one good face."""
        route = self.answering(task, request_id)
        seen = await self._faces(route, photos)
        with self.meter.stage("score"):
            values, plan = await self._values(route, seen)
        work = Work(seen, values, Model(route.name, plan))
        for shadow in self.routes:
            if shadow.task == task and shadow.shadow and len(self._shadows) < MOST_SHADOWS:
                running = asyncio.create_task(self._shadowed(shadow, photos, work))
                self._shadows.add(running)
                running.add_done_callback(self._shadows.discard)
        return work

    async def plan(self, route: Route) -> ModelPlan:
        """What the family last said of its model."""
        if route.task not in self._plans[route.family]:
            self._learn(route, await self._ask(self._score[route.family], [], {}))
        return self._plans[route.family][route.task]

    async def fresh_plan(self, route: Route) -> ModelPlan:
        self._learn(route, await self._ask(self._score[route.family], [], self._known(route)))
        return self._plans[route.family][route.task]

    def places(self) -> dict[str, str]:
        """Name of a model that answers or shadows -> its checkpoint."""
        plans = {route.name: self._plans[route.family].get(route.task) for route in self.routes}
        return {name: plan.place for name, plan in plans.items() if plan is not None}

    def answering(self, task: Task, request_id: str) -> Route:
        """By the request's id: the same id falls to the same version."""
        able = [route for route in self.routes if route.task == task and not route.shadow]
        if not able:
            raise Problem(404, f"No {task} model is loaded. GET /v1/models lists those that are.")
        point, end = zlib.crc32(request_id.encode()) / 2**32, 0.0
        for route in able:
            end += route.share
            if point < end:
                return route
        return able[0]

    async def _faces(self, route: Route, photos: Sequence[bytes], *, counted: bool = True) -> list[AlignedFace]:
        plan = await self.plan(route)
        with self.meter.stage("align"):
            found = await self._ask(self._align, photos, plan.cut)
        return [self._good(number, each, counted) for number, each in enumerate(found)]

    def _good(self, number: int, found: Good | Rejection, counted: bool) -> Good:
        """`counted`: as a photo that was rejected; a shadow's are not."""
        if isinstance(found, Rejection):
            if counted:
                self.meter.reject(found.reason)
            raise Problem.of_photo(number, found)
        return found

    async def _values(
        self, route: Route, seen: Sequence[AlignedFace], *, counted: bool = True
    ) -> tuple[list[float], ModelPlan]:
        read = await self._ask(self._score[route.family], [face.face for face in seen], self._known(route))
        self._learn(route, read)
        plan = self._plans[route.family][route.task]
        values = [self._good(number, value, counted)[route.task] for number, value in enumerate(read.values)]
        return values, plan

    def _known(self, route: Route) -> dict[str, str]:
        return {task: plan.digest for task, plan in self._plans[route.family].items()}

    def _learn(self, route: Route, read: FacesRead) -> None:
        if read.plans:
            self._plans[route.family] = {plan.task: plan for plan in read.plans}

    async def _shadowed(self, shadow: Route, photos: Sequence[bytes], work: Work) -> None:
        """Beside the answer, never in its way: a shadow that fails is only counted."""
        try:
            same = (await self.plan(shadow)).cut == work.model.plan.cut
            seen = work.seen if same else await self._faces(shadow, photos, counted=False)
            values, _ = await self._values(shadow, seen, counted=False)
            for value, told in zip(values, work.values, strict=True):
                self.meter.shadow(shadow.name, abs(value - told))
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            self.meter.shadow_failed(shadow.name)
            log.warning("shadow %s: %s", shadow.name, type(error).__name__)

    async def _ask(self, call: Callable[..., Awaitable[Made]], *given: Any) -> Made:
        """A replica that ends with the request in it: once more by another one, since scoring twice does no harm."""
        try:
            return await call(*given)
        except BackPressureError:
            raise self._busy("All replicas are at work. Try again in a moment.") from None
        except LOST:
            pass
        try:
            return await call(*given)
        except (BackPressureError, *LOST):
            raise self._busy("A replica was lost. Try again in a moment.") from None

    def _busy(self, detail: str) -> Problem:
        return Problem.busy(detail, self.settings.retry_after_s)
