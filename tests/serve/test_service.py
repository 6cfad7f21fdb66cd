"""Who answers, who shadows, a model changed under way, health and readiness: the real parts in one process, no Ray."""

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from fahr.errors import Refused
from fahr.faces import AlignedFace, Aligner
from fahr.models import create, load, save
from fahr.scores import Team, plan_models
from serve import __main__ as command
from serve.aligning import Aligning
from serve.api import make_api
from serve.app import plan_routes
from serve.backbone import Backbone
from serve.cohorts import router as cohort_router
from serve.problems import Problem
from serve.service import Service
from serve.settings import ServeSettings
from serve.tokens import Tokens
from tools.contract import keep_contract
from tools.models import with_the_trunk_of
from tools.service import resident_mib

TOKEN = "a-token-of-at-least-24-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def faces(photos) -> list[Any]:
    found = Aligner("mtcnn").align(photos)
    assert all(isinstance(each, AlignedFace) for each in found)
    return found


@pytest.fixture(scope="module")
def other_age(tmp_path_factory) -> str:
    place = str(tmp_path_factory.mktemp("other") / "age")
    model = create("vit_tiny", patch=16, size=112, task="age", seed=5)
    with torch.no_grad():
        model.head.bias.fill_(70.0)
    save(model, place, config={"detector": "mtcnn"})
    return place


def settings_of(*models: Any, **more: Any) -> ServeSettings:
    given = {"models": list(models), "host": "127.0.0.1", "precision": "fp32", "backbone": {"batch": 4, "threads": 1}}
    return ServeSettings.model_validate({**given, **more})


async def service_of(settings: ServeSettings, faces: list[AlignedFace]) -> tuple[Service, dict[str, Backbone]]:
    """Every part real but the detector: a photo is the number of a face."""
    routes, plans = plan_routes(settings)
    backbones: dict[str, Backbone] = {}
    for route in routes:
        backbones[route.family] = Backbone(**settings.of_backbone())
        places = [plans[each.name].place for each in routes if each.family == route.family]
        await backbones[route.family].reconfigure({"models": places})

    async def align(photos: Any, cut: Any) -> list[Any]:
        return [faces[int(photo)] for photo in photos]

    service = Service(
        settings,
        align=align,
        score={family: each.score for family, each in backbones.items()},
        ready=[each.ready for each in backbones.values()],
    )
    service.route([route.model_dump() for route in routes])
    return service, backbones


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


def test_a_share_answers_its_part_and_the_same_request_always_falls_to_the_same_version(models, other_age, faces):
    async def story() -> None:
        settings = settings_of(models["age"], {"checkpoint": other_age, "name": "next", "share": 0.3})
        service, _ = await service_of(settings, faces)
        said = [service.answering("age", f"request-{number}").name for number in range(1000)]
        assert 250 < said.count("next") < 350 and said.count("age") == 1000 - said.count("next")
        asked = [(await service.read("age", [b"0"], f"request-{number}")).model.name for number in range(8)]
        assert asked == said[:8] and set(asked) == {"age", "next"}

    run(story())


def test_a_shadow_is_counted_and_never_answers(models, other_age, faces, monkeypatch):
    async def story() -> None:
        settings = settings_of(models["age"], {"checkpoint": other_age, "name": "trial", "shadow": True})
        service, _ = await service_of(settings, faces)
        seen: list[tuple[str, float]] = []
        monkeypatch.setattr(service.meter, "shadow", lambda *each: seen.append(each))
        for number in range(5):
            assert (await service.read("age", [b"1"], f"request-{number}")).model.name == "age"
        while len(seen) < 5:
            await asyncio.sleep(0.01)
        plans = [plan_models([place])[0] for place in (models["age"], other_age)]
        one, two = (Team([plan], precision="fp32").values([{plan.cut: faces[1].face}])["age"][0] for plan in plans)
        assert all(name == "trial" and gap == pytest.approx(abs(one - two), abs=0.01) for name, gap in seen)

    run(story())


def test_a_shadow_that_fails_costs_nobody_anything(models, other_age, faces):
    async def story() -> None:
        settings = settings_of(models["age"], {"checkpoint": other_age, "name": "trial", "shadow": True})
        service, backbones = await service_of(settings, faces)
        backbones["trial"]._family = None
        assert (await service.read("age", [b"1"], "r")).model.name == "age"
        while service._shadows:
            await asyncio.sleep(0.01)

    run(story())


def test_a_model_changed_under_way_never_mixes_with_the_one_before(models, other_age, faces):
    async def story() -> None:
        settings = settings_of(models["age"])
        backbone = Backbone(**settings.of_backbone())
        await backbone.reconfigure({"models": [models["age"]]})
        pixels = [faces[number % len(faces)].face for number in range(9)]
        expected, digests = {}, {}
        for place in (models["age"], other_age):
            plan = plan_models([place])[0]
            made = Team([plan], precision="fp32", batch=4).values([{plan.cut: each} for each in pixels])["age"]
            expected[plan.digest], digests[place] = made, plan.digest
        told: set[str] = set()
        ended = False

        async def client() -> None:
            while not ended:
                read = await backbone.score(pixels, {})
                digest = read.plans[0].digest
                told.add(digest)
                np.testing.assert_allclose([each["age"] for each in read.values], expected[digest], atol=0.01)

        clients = [asyncio.create_task(client()) for _ in range(2)]
        for place in (models["age"], other_age, models["age"]):
            await backbone.reconfigure({"models": [place]})
            told.clear()
            while digests[place] not in told:
                await asyncio.sleep(0.005)
        ended = True
        await asyncio.gather(*clients)

    run(story())


def test_a_changed_model_that_reads_other_faces_is_refused_and_the_old_one_goes_on(models, faces, tmp_path):
    async def story() -> None:
        save(
            create("vit_tiny", patch=16, size=32, task="age", seed=1),
            str(tmp_path / "small"),
            config={"detector": "mtcnn"},
        )
        backbone = Backbone(**settings_of(models["age"]).of_backbone())
        await backbone.reconfigure({"models": [models["age"]]})
        with pytest.raises(Refused, match="reads other faces"):
            await backbone.reconfigure({"models": [str(tmp_path / "small")]})
        read = await backbone.score([faces[0].face], {})
        assert read.plans[0].digest == load(models["age"]).digest

    run(story())


def test_health_is_that_of_the_answer_not_of_the_process(models):
    async def story() -> None:
        backbone = Backbone(**settings_of(models["age"]).of_backbone())
        await backbone.check_health()  # nothing is loaded yet, and nothing can be wrong
        await backbone.reconfigure({"models": [models["age"]]})
        await backbone.check_health()
        assert backbone._family is not None
        with torch.no_grad():
            backbone._family._scorers["age"].model.head.bias.fill_(float("nan"))
        with pytest.raises(RuntimeError, match="the built-in face is"):
            await backbone.check_health()

    run(story())


def test_the_aligner_is_healthy_when_the_built_in_photo_gives_the_same_face(models):
    async def story() -> None:
        plans = plan_models([models["age"]])
        aligning = Aligning([plans[0].cut], batch=2, threads=1)
        await aligning.check_health()
        assert isinstance(aligning._expected[0], AlignedFace)
        aligning._aligners[plans[0].cut].convention = "faceage160"
        with pytest.raises(RuntimeError, match="the built-in photo gives"):
            await aligning.check_health()

    run(story())


def test_photos_in_the_same_batch_do_not_make_the_aligner_ill(models, photos):
    """They turn single pixels of the built-in face by a level; three such checks in a row once ended the replica."""

    async def story() -> None:
        plans = plan_models([models["age"]])
        aligning = Aligning([plans[0].cut], batch=8, threads=1)
        for number in range(1, 4):
            asked = aligning.align(photos[:number], plans[0].cut)
            found, _ = await asyncio.gather(asked, aligning.check_health())
            assert all(isinstance(each, AlignedFace) for each in found)
        face = aligning._expected[0].face
        face += np.uint8(3)  # a device whose sums are wrong
        with pytest.raises(RuntimeError, match="grey levels apart"):
            await aligning.check_health()

    run(story())


def test_a_service_that_was_ready_and_is_busy_stays_ready(models, faces, monkeypatch):
    """A probe waits behind photos: whoever asks /readyz must not take away what works."""

    async def story() -> None:
        service, _ = await service_of(settings_of(models["age"]), faces)
        assert await service.ready()

        async def late() -> bool:
            await asyncio.sleep(60)
            return True

        monkeypatch.setattr("serve.service.READY_S", 0.05)
        monkeypatch.setattr(service, "_probes", (late,))
        assert not await service.ready(), "nothing is at work, so nothing keeps the probe waiting"
        with service.admitted():
            assert await service.ready()
        fresh, _ = await service_of(settings_of(models["age"]), faces)
        monkeypatch.setattr(fresh, "_probes", (late,))
        with fresh.admitted():
            assert not await fresh.ready(), "it was never ready"

    run(story())


def test_a_family_keeps_its_tasks(models, tmp_path):
    async def story() -> None:
        both = [models["age"], with_the_trunk_of(models["age"], tmp_path / "twin")]
        backbone = Backbone(**settings_of(*both).of_backbone())
        await backbone.reconfigure({"models": both})
        with pytest.raises(Refused, match=r"models: tell age; this family tells age and survival. Name a checkpoint"):
            await backbone.reconfigure({"models": [models["age"]]})

    run(story())


def test_the_application_keeps_its_own_contract(models, faces):
    """schemathesis, over every call: whatever is sent, an answer of the documented kind or a problem, never a 500."""
    settings = settings_of(models["age"], models["survival"])
    service, _ = asyncio.run(service_of(settings, faces))
    service._align = Aligning([plan_models([models["age"]])[0].cut]).align
    cohorts = cohort_router(settings.cohorts, service.places, settings.scoring(), settings.limits)
    counted = keep_contract(make_api(service, settings, Tokens([TOKEN]), cohorts), headers=BEARER, examples=4)
    assert {"POST /v1/face-age", "POST /v1/face-aging-rate", "GET /v1/models", "POST /v1/cohorts"} <= set(counted)


@asynccontextmanager
async def asked(
    service: Service, settings: ServeSettings, tokens: Tokens | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_api(service, settings, tokens))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        yield http


def test_readyz_is_503_until_every_model_is_loaded_and_healthz_is_not(models, faces):
    async def story() -> None:
        settings = settings_of(models["age"])
        backbone = Backbone(**settings.of_backbone())
        service = Service(settings, align=_nobody, score={"age": backbone.score}, ready=[backbone.ready])
        service.route([route.model_dump() for route in plan_routes(settings)[0]])
        async with asked(service, settings) as http:
            waiting = await http.get("/readyz")
            assert waiting.status_code == 503 and waiting.headers["retry-after"] == "1"
            assert waiting.headers["content-type"] == "application/problem+json"
            assert (await http.get("/healthz")).status_code == 200
            await backbone.reconfigure({"models": [models["age"]]})
            assert (await http.get("/readyz")).status_code == 200

    run(story())


async def _nobody(photos: Any, cut: Any) -> list[Any]:
    raise AssertionError("no photo was sent")


def test_a_task_without_a_model_is_404_and_says_where_to_look(models, faces, photos):
    async def story() -> None:
        settings = settings_of(models["age"])
        service, _ = await service_of(settings, faces)
        async with asked(service, settings) as http:
            reply = await http.post("/v1/survival-risk", files={"photo": photos[0]})
            assert reply.status_code == 404 and "No survival model is loaded" in reply.json()["detail"]

    run(story())


def test_without_its_token_nobody_learns_which_models_there_are(models, faces):
    async def story() -> None:
        settings = settings_of(models["age"])
        service, _ = await service_of(settings, faces)
        async with asked(service, settings, Tokens([TOKEN])) as http:
            assert (await http.get("/v1/models")).status_code == 401
            told = await http.get("/v1/models", headers=BEARER)
            assert told.status_code == 200 and told.json()["models"][0]["name"] == "age"
            assert (await http.get("/readyz")).status_code == 200

    run(story())


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (lambda: ActorDiedError(), [200, 503]),  # once: another replica answers; always: 503
        (lambda: BackPressureError(num_queued_requests=1, max_queued_requests=1), [503, 503]),
    ],
    ids=["died", "full"],
)
def test_a_lost_replica_is_asked_again_once_and_then_it_is_503(
    models, faces, photos, fault: Callable[[], Exception], statuses
):
    async def story() -> None:
        settings = settings_of(models["age"])
        for always, expected in zip((False, True), statuses, strict=True):
            service, backbones = await service_of(settings, faces)
            left = [fault() for _ in range(9 if always else 1)]

            async def score(pixels: Any, known: Any, left: Any = left, backbones: Any = backbones) -> Any:
                if pixels and left:
                    raise left.pop()
                return await backbones["age"].score(pixels, known)

            service._score["age"] = score
            service._align = _first(faces)
            async with asked(service, settings) as http:
                reply = await http.post("/v1/face-age", files={"photo": photos[0]})
            assert reply.status_code == expected, reply.text
            if expected == 503:
                assert int(reply.headers["retry-after"]) >= 1 and reply.json()["type"] == "/problems/busy"

    run(story())


def _first(faces: list[AlignedFace]) -> Any:
    async def align(photos: Any, cut: Any) -> list[Any]:
        return [faces[0] for _ in photos]

    return align


def test_who_finds_it_full_is_told_at_once_and_a_place_comes_free_whatever_happens(models, faces):
    async def story() -> None:
        service, _ = await service_of(settings_of(models["age"], most_in_flight=2), faces)
        with service.admitted(), service.admitted():
            with pytest.raises(Problem) as full, service.admitted():
                raise AssertionError("a third was let in")
            assert (full.value.status, full.value.headers) == (503, {"Retry-After": "1"})
        for _ in range(5):
            with pytest.raises(ValueError, match="broke"), service.admitted():
                raise ValueError("broke")
        with service.admitted(), service.admitted():
            pass

    run(story())


def test_settings_say_what_is_wrong_before_anything_starts(models):
    with pytest.raises(ValueError, match="least_replicas 3: is more than most_replicas 2"):
        settings_of(models["age"], backbone={"batch": 4, "least_replicas": 3, "most_replicas": 2})
    with pytest.raises(ValueError, match="Extra inputs"):
        settings_of(models["age"], bakcbone={})
    with pytest.raises(ValueError, match="at least 1"):
        settings_of()
    given = json.dumps({"models": f"{models['age']}, {models['survival']}"})  # as `serve run` hands it on
    assert [each.checkpoint for each in ServeSettings.model_validate_json(given).models] == list(models.values())


def test_memory_stays_flat_over_eighteen_hundred_requests(faces, photos, tmp_path):
    """Ingress, batches and a network of four tokens in this process; what a photo leaves behind would show."""
    save(create("vit_tiny", patch=16, size=32, task="age", seed=1), str(tmp_path / "age"), config={"detector": "mtcnn"})
    small = [replace(each, face=each.face[::3, ::3][:32, :32].copy()) for each in faces]

    async def story() -> None:
        settings = settings_of(str(tmp_path / "age"), backbone={"batch": 16, "threads": 1}, flip=False)
        service, _ = await service_of(settings, small)
        service._align = _first(small)
        sizes = []
        async with asked(service, settings) as http:

            async def client(requests: int) -> None:
                for _ in range(requests):
                    assert (await http.post("/v1/face-age", files={"photo": photos[0]})).status_code == 200

            for _ in range(6):
                await asyncio.gather(*(client(300 // 20) for _ in range(20)))
                gc.collect()
                sizes.append(resident_mib())
        assert sizes[-1] - sizes[1] < 20, f"MiB after each 300 requests: {[round(each) for each in sizes]}"

    asyncio.run(story())


def test_the_command_line_says_what_it_would_do_and_refuses_what_it_must_not(models, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FAHR_TOKENS", raising=False)
    command.main(command.Options(models=list(models.values()), dry_run=True))
    assert "2 models" in capsys.readouterr().out
    with pytest.raises(Refused, match=r"host 0\.0\.0\.0: others than this machine can ask there"):
        command.main(command.Options(models=[models["age"]], host="0.0.0.0", dry_run=True))
    with pytest.raises(Refused, match="lies within a root"):
        roots = {"results": str(tmp_path / "in"), "data_roots": [str(tmp_path)]}
        command.main(command.Options(models=[models["age"]], dry_run=True, **roots))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port} of 127.0.0.1: .*Give another --port"):
            command.main(command.Options(models=[models["age"]], port=port))


def test_a_change_of_who_may_come_in_restarts_no_network(models):
    """What a replica is made of: Serve restarts those whose arguments changed, and no others."""
    before, after = settings_of(models["age"]), settings_of(models["age"], most_in_flight=5, retry_after_s=9)
    assert before.of_aligner() == after.of_aligner() and before.of_backbone() == after.of_backbone()
    assert before.of_ingress() != after.of_ingress()
    more = settings_of(models["survival"], backbone={"batch": 4, "threads": 1, "most_replicas": 9})
    assert before.of_backbone() == more.of_backbone() and before.of_ingress() == more.of_ingress()
