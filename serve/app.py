"""The Ray Serve application: FastAPI ingress -> aligner -> a backbone a family of models.

Each is a deployment of its own, for clusters and GPUs, or all are one (`together`), for one machine.

make serve                                   # on this machine, with the demo's models
serve run serve.app:build models=out/demo/models/age,out/demo/models/survival
serve deploy serve/fahr.yaml                 # on a cluster; every number with its reason
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from fahr.errors import Refused
from fahr.faces import Aligner
from fahr.models import load
from fahr.scores import ModelPlan, plan_models
from fahr.scores.models import Cut
from serve import tokens
from serve.aligning import Aligning
from serve.api import make_api
from serve.backbone import Backbone, trunk_digest
from serve.cohorts import router as cohort_router
from serve.service import Route, Service
from serve.settings import ServeSettings, Stage, Version

INGRESS_CPUS = 0.1  # it waits for others
MOST_AT_THE_DOOR = 4096  # requests that Serve hands to an ingress, which is who says 503
LOGGING = {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False}  # ours tells a request in one line


def build(args: ServeSettings) -> Application:
    """What can be refused is refused here, before a running application is touched."""
    return bind(args)


def bind(args: ServeSettings, aligning: type = Aligning) -> Application:
    """`aligning`: what stands for the aligner, such as one for faces that are cut already (benchmarks/serve.py)."""
    routes, plans = plan_routes(args)
    tokens.for_host(args.host, file=args.tokens)
    cuts = list(dict.fromkeys(plan.cut for plan in plans.values()))
    if aligning is Aligning:
        for cut in cuts:
            Aligner(cut.detector, cut.size, cut.convention)  # weights of a detector that are missing are told here
    places = {route.family: [plans[each.name].place for each in routes if each.family == route.family]
              for route in routes}  # fmt: skip
    if args.together:
        return _together(args, aligning, cuts, routes, places)
    return _apart(args, aligning, cuts, routes, places)


def _together(
    args: ServeSettings, aligning: type, cuts: Sequence[Cut], routes: Sequence[Route], places: Mapping[str, list[str]]
) -> Application:
    """One deployment, which grows as a whole."""
    made = _deployment(serve.ingress()(Whole), "ingress", args, args.backbone).options(
        max_ongoing_requests=MOST_AT_THE_DOOR,
        max_queued_requests=-1,
        user_config={"models": places},
    )
    return made.bind(args, aligning, cuts, routes)


def _apart(
    args: ServeSettings, aligning: type, cuts: Sequence[Cut], routes: Sequence[Route], places: Mapping[str, list[str]]
) -> Application:
    """A deployment each, and each grows with its own work."""
    aligner = _deployment(aligning, "aligner", args, args.aligner).bind(cuts, **args.of_aligner())
    backbones = {}
    for family, models in places.items():
        made = _deployment(Backbone, family, args, args.backbone)
        # As user_config: by `serve deploy`, a changed checkpoint restarts nothing.
        backbones[family] = made.options(user_config={"models": models}).bind(**args.of_backbone())
    ingress = serve.deployment()(serve.ingress()(Ingress)).options(
        name="ingress",
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=MOST_AT_THE_DOOR,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        user_config={"routes": [route.model_dump() for route in routes]},
        graceful_shutdown_timeout_s=args.drain_s,
        health_check_period_s=args.health_period_s,
        max_surge_percent=100,
        logging_config=LOGGING,
    )
    return ingress.bind(args.of_ingress(), aligner, backbones)


def _deployment(made: type, name: str, settings: ServeSettings, stage: Stage) -> Deployment:
    """Replicas of `stage`: more where full batches wait, at the pace that the settings say."""
    return serve.deployment()(made).options(
        name=name,
        ray_actor_options={"num_cpus": stage.cpus, "num_gpus": stage.gpus},
        max_ongoing_requests=stage.ongoing,
        max_queued_requests=-1,  # an ingress bounds what it lets in; its probes and shadows come beside that
        autoscaling_config={
            "min_replicas": stage.least_replicas,
            "max_replicas": stage.most_replicas,
            "target_ongoing_requests": stage.batch,  # a replica with less than a full batch at work needs no help
            "upscale_delay_s": stage.upscale_delay_s,
            "downscale_delay_s": stage.downscale_delay_s,
            "look_back_period_s": max(15.0, stage.upscale_delay_s),  # replicas tell every 10 s how many they have
        },
        graceful_shutdown_timeout_s=settings.drain_s,
        health_check_period_s=settings.health_period_s,
        health_check_timeout_s=3 * settings.health_period_s,
        max_surge_percent=100,  # the new replica is ready before the old one goes
        logging_config=LOGGING,
    )


def plan_routes(args: ServeSettings) -> tuple[list[Route], dict[str, ModelPlan]]:
    """Who answers which share of which task, in which family; and the plan of each by its name."""
    plans: dict[str, ModelPlan] = {}
    versions: dict[str, Version] = {}
    for version in args.models:
        (plan,) = plan_models([version.checkpoint], args.detector, args.flip)
        before = sum(each.task == plan.task for each in plans.values())
        name = version.name or (f"{plan.task}-{before + 1}" if before else plan.task)
        if name in plans or name in ("aligner", "ingress"):
            raise Refused(f"models: the name {name!r} is taken. Give {version.checkpoint} another one.")
        plans[name], versions[name] = plan, version
    routes = []
    for name, family in _families(plans).items():
        task = plans[name].task
        peers = {each: versions[each] for each in plans if plans[each].task == task}
        routes.append(
            Route.model_validate(
                {"name": name, "task": task, "family": family, "share": _shares(task, peers)[name],
                 "shadow": versions[name].shadow}
            )
        )  # fmt: skip
    return routes, plans


def _shares(task: str, versions: Mapping[str, Version]) -> dict[str, float]:
    """Of the requests of a task. The first that says none has what the others leave; they must come to 1."""
    told = {name: version.share for name, version in versions.items()}
    given = sum(share or 0.0 for share in told.values())
    rest = next((name for name, version in versions.items() if version.share is None and not version.shadow), None)
    made = {name: share or 0.0 for name, share in told.items()}
    if rest is not None:
        made[rest] = 1.0 - given
    if given > 1 + 1e-9 or abs(sum(made.values()) - 1) > 1e-9:
        raise Refused(
            f"models: the shares of the {task} models come to {given:g}. Let them come to 1, or leave one out: it "
            "gets the rest."
        )
    return made


def _families(plans: Mapping[str, ModelPlan]) -> dict[str, str]:
    """Name of a model -> name of its family, that of the first model in it. One of each task has a trunk in common."""
    heads: dict[str, tuple[Any, set[str]]] = {}
    found: dict[str, str] = {}
    for name, plan in plans.items():
        key = (_trunk(plan), plan.cut, plan.flip)
        family = next((each for each, (other, tasks) in heads.items() if other == key and plan.task not in tasks), name)
        heads.setdefault(family, (key, set()))[1].add(plan.task)
        found[name] = family
    return found


def _trunk(plan: ModelPlan) -> str:
    model: Any = load(plan.place)
    return trunk_digest(model)


class _Door:
    """HTTP. Who does the work is the business of `service`."""

    settings: ServeSettings
    service: Service

    def __serve_build_asgi_app__(self) -> ASGIApp:
        settings = self.settings
        held = tokens.for_host(settings.host, file=settings.tokens)
        cohorts = cohort_router(settings.cohorts, self.service.places, settings.scoring(), settings.limits)
        return make_api(self.service, settings, held, cohorts, echo=False)


class Ingress(_Door):
    """It holds no model, only who to ask."""

    def __init__(
        self, settings: ServeSettings, aligner: DeploymentHandle[Any], backbones: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        self.settings = settings
        parts = [aligner, *backbones.values()]
        self.service = Service(
            settings,
            align=aligner.align.remote,
            score={family: backbone.score.remote for family, backbone in backbones.items()},
            ready=[part.ready.remote for part in parts],
        )

    async def reconfigure(self, user_config: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.service.route(user_config["routes"])


class Whole(_Door):
    """Aligner and networks too: a request stays in one process, and is never packed for another."""

    def __init__(
        self, settings: ServeSettings, aligning: type[Aligning], cuts: Sequence[Cut], routes: Sequence[Route]
    ) -> None:
        self.settings = settings
        self._aligner = aligning(cuts, **settings.of_aligner())
        self._backbones = {route.family: Backbone(**settings.of_backbone()) for route in routes}
        self._parts: list[Aligning | Backbone] = [self._aligner, *self._backbones.values()]
        self.service = Service(
            settings,
            align=self._aligner.align,
            score={family: backbone.score for family, backbone in self._backbones.items()},
            ready=[part.ready for part in self._parts],
        )
        self.service.route([route.model_dump() for route in routes])

    async def reconfigure(self, user_config: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        for family, places in user_config["models"].items():
            await self._backbones[family].reconfigure({"models": places})

    async def check_health(self) -> None:
        for part in self._parts:
            await part.check_health()
