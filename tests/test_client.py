"""The client: what it sends is what the service reads, and it waits as it is told, not longer than it may."""

import asyncio
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fahr import client as module
from fahr.client import AsyncClient, Client, CohortFailed, ServiceError
from fahr.errors import Refused
from serve import schemas
from serve.limits import Limits
from serve.problems import Problem
from serve.reading import read_json, read_parts, read_photos
from tools.door import photo, running
from tools.head import free_port

PHOTOS = [photo(0), photo(1)]
MODEL = {"name": "age", "task": "age", "digest": "sha256:0", "convention": "arcface112", "detector": "mtcnn"}
Answers = Callable[[Request, bytes], Response]


class Script:
    """A service that answers the n-th request as the n-th function says, the last one again and again."""

    def __init__(self, *answers: Answers) -> None:
        self._answers, self.requests = answers, list[tuple[Request, bytes]]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        request = Request(scope, receive)
        body = await request.body()
        self.requests.append((request, body))
        answer = self._answers[min(len(self.requests), len(self._answers)) - 1](request, body)
        await answer(scope, receive, send)


class Asker:
    """Either client behind one face: `call("face_age", ...)`."""

    def __init__(self, kind: type[Any], url: str, **more: Any) -> None:
        self.kind, self.url, self.more = kind, url, more

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.kind is Client:
                with Client(self.url, **self.more) as client:
                    return getattr(client, name)(*arguments, **more)

            async def asked() -> Any:
                async with AsyncClient(self.url, **self.more) as client:
                    return await getattr(client, name)(*arguments, **more)

            return asyncio.run(asked())

        return call


@pytest.fixture(params=[Client, AsyncClient])
def serving(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`with serving(script) as client`, for both clients."""

    @contextmanager
    def serve(script: Any, **more: Any) -> Iterator[Asker]:
        with running(script) as port:
            yield Asker(request.param, f"http://127.0.0.1:{port}", **more)

    return serve


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have waited; time does not pass."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    class Asyncio:
        pass

    Asyncio.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "asyncio", Asyncio)

    class Time:
        sleep = staticmethod(found.append)

        @staticmethod
        def monotonic() -> float:
            return sum(found)

    monkeypatch.setattr(module, "time", Time)
    return found


def busy(retry_after: str) -> Answers:
    return lambda request, body: Problem(503, "Full.", headers={"Retry-After": retry_after}).response("r-1")


def answer(made: Any, status: int = 200) -> Answers:
    return lambda request, body: Response(made.model_dump_json(), status, media_type="application/json")


def seen(request: Request, body: bytes) -> Response:
    """What the real reader finds in the request."""
    sent = read_photos(body, request.headers["content-type"], Limits(), dated="rate" in request.url.path)
    assert list(sent.photos) == PHOTOS
    read = {"quality": quality(), "face_score": 0.9, "faces_in_photo": 1, "box": [0, 0, 1, 1], "warnings": []}
    used = schemas.ModelUsed.model_validate(MODEL)
    if "risk" in request.url.path:
        risks = [schemas.PhotoRisk.model_validate({**read, "photo": n, "risk": 0.5}) for n in range(2)]
        made: Any = schemas.SurvivalRiskAnswer(risk=0.5, percentile=70.0, quartile=3, photos=risks, model=used)
    elif "rate" in request.url.path:
        given = {**read, "face_age": 60.0, "low": None, "high": None}
        ages = [
            schemas.DatedPhotoAge.model_validate({**given, "photo": n, "taken_on": day})
            for n, day in enumerate(sent.taken_on)
        ]
        first, last = min(sent.taken_on), max(sent.taken_on)
        made = schemas.FaceAgingRateAnswer(
            face_aging_rate=1.5, standard_error=None, shrunken_rate=None, interval_days=(last - first).days,
            band="long", high=True, first_taken_on=first, last_taken_on=last, photos=ages, model=used,
        )  # fmt: skip
    else:
        given = {**read, "face_age": 60.0, "low": 55.0, "high": None}
        ages = [schemas.PhotoAge.model_validate({**given, "photo": n}) for n in range(2)]
        made = schemas.FaceAgeAnswer(
            face_age=60.0, low=55.0, high=None, face_age_deviation=None if sent.age is None else 60.0 - sent.age,
            age=sent.age, photos=ages, model=used, notes=["A note."],
        )  # fmt: skip
    return Response(made.model_dump_json(), media_type="application/json")


def quality() -> dict[str, float]:
    from fahr.faces.quality import Quality

    return dict.fromkeys(Quality.__dataclass_fields__, 80.0)


def test_photos_age_and_days_arrive_as_they_were_given_and_no_file_name_does(serving, tmp_path):
    script = Script(seen)
    (tmp_path / "jane doe.png").write_bytes(PHOTOS[1])
    photos = [PHOTOS[0], tmp_path / "jane doe.png"]
    days = [date(2020, 1, 2), date(2023, 4, 5)]
    with serving(script) as client:
        age = client.face_age(photos, age=61.5)
        assert (age.face_age, age.low, age.high, age.face_age_deviation) == (60.0, 55.0, None, -1.5)
        assert [each.photo for each in age.photos] == [0, 1] and age.photos[0].quality and age.notes == ["A note."]
        assert age.model.digest == "sha256:0"
        assert client.face_age(photos).face_age_deviation is None
        risk = client.survival_risk([PHOTOS[0], str(tmp_path / "jane doe.png")])
        assert (risk.risk, risk.percentile, risk.quartile, risk.photos[1].risk) == (0.5, 70.0, 3, 0.5)
        rate = client.face_aging_rate(photos, days, age=50)
        assert (rate.face_aging_rate, rate.interval_days, rate.band, rate.high) == (1.5, 1189, "long", True)
        assert rate.model_extra and rate.model_extra["first_taken_on"] == "2020-01-02"  # what we do not name is kept
    assert all(b"jane" not in body for _, body in script.requests)


def test_a_token_goes_with_every_request_and_cohorts_are_asked_for_as_they_are_read(serving, tmp_path):
    script = Script(answer(schemas.CohortCreated(id="c-1"), 202))
    with serving(script, token="t0k") as client:
        assert client.create_cohort("s3://b/people.csv", ["age", "survival"], key="k") == "c-1"
        assert client.upload_cohort(b"photo_id,uri\n", ["age"]) == "c-1"
    (first, json_body), (second, form) = script.requests
    assert {each.headers["authorization"] for each, _ in script.requests} == {"Bearer t0k"}
    sent = schemas.CohortIn.model_validate(read_json(json_body, Limits()))
    assert (sent.manifest, sent.models, first.headers["idempotency-key"]) == (
        "s3://b/people.csv",
        ["age", "survival"],
        "k",
    )
    parts = {part.name: part.data for part in read_parts(form, second.headers["content-type"], Limits())}
    assert parts == {"manifest": b"photo_id,uri\n", "models": b"age"}


def test_a_full_service_is_asked_again_after_what_it_says_and_a_random_while(serving, waits):
    script = Script(busy("7"), busy("3"), answer(schemas.CohortCreated(id="c-1"), 202))
    with serving(script) as client:
        assert client.create_cohort("/d/x.csv", ["age"]) == "c-1"
    assert 7 < waits[0] < 7.2 and 3 < waits[1] < 3.4
    keys = {request.headers["idempotency-key"] for request, _ in script.requests}
    assert len(keys) == 1 and len(script.requests) == 3  # twice sent is once begun


def test_those_who_were_turned_away_together_come_back_apart(serving, waits):
    with serving(Script(*[busy("1")] * 5, seen)) as client:
        client.face_age(PHOTOS)
    parts = [each - 1 for each in waits]
    assert all(0 <= part <= 0.2 * 2**n for n, part in enumerate(parts)) and len(set(parts)) == 5


def test_retry_after_may_be_a_date_or_nonsense(serving, waits):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    earlier = format_datetime(datetime.now(UTC) - timedelta(seconds=20), usegmt=True)
    with serving(Script(busy(later), busy(earlier), busy("soon"), busy("-3"), seen)) as client:
        client.face_age(PHOTOS)
    assert 15 < waits[0] < 20.5 and all(each < 2 for each in waits[1:])


def test_patience_ends_with_what_the_service_said_last(serving, waits):
    with serving(Script(busy("4")), patience_s=10) as client, pytest.raises(ServiceError) as caught:
        client.face_age(PHOTOS)
    assert (caught.value.status, caught.value.detail, caught.value.request_id) == (503, "Full.", "r-1")
    assert len(waits) == 2 and sum(waits) <= 10
    with serving(Script(busy("0")), patience_s=0) as client, pytest.raises(ServiceError):
        client.face_age(PHOTOS)
    assert len(waits) == 2


def test_no_service_at_all_is_told_when_patience_ends(waits):
    for kind in (Client, AsyncClient):
        with pytest.raises(ServiceError, match="Is the service up"):
            Asker(kind, f"http://127.0.0.1:{free_port()}", patience_s=3).face_age(PHOTOS)
        assert waits and not Asker(kind, f"http://127.0.0.1:{free_port()}").ready()
        waits.clear()


def test_a_service_that_comes_up_meanwhile_is_reached():
    port = free_port()
    started = threading.Event()

    def late() -> None:
        import uvicorn

        config = uvicorn.Config(Script(seen), host="127.0.0.1", port=port, log_level="critical")
        server = uvicorn.Server(config)
        started.server = server  # type: ignore[attr-defined]
        started.wait()
        server.run()

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    with Client(f"http://127.0.0.1:{port}") as client:
        assert not client.ready()
        started.set()
        assert client.face_age(PHOTOS).face_age == 60.0
    started.server.should_exit = True  # type: ignore[attr-defined]
    thread.join(10)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 500])
def test_every_other_problem_is_raised_at_once(serving, waits, status):
    problem = Problem(status, "No.", photo=1, reason="no_face")
    with (
        serving(Script(lambda request, body: problem.response("r-2"))) as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.face_age(PHOTOS)
    told = caught.value
    assert (told.status, told.detail, told.photo, told.reason, told.request_id) == (status, "No.", 1, "no_face", "r-2")
    assert "No. (request r-2)" in str(told) and not waits


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[]", b"{}", b"\xff", b"null"])
def test_a_proxy_that_speaks_otherwise_is_told_of_too(serving, body):
    script = Script(lambda request, _: Response(body, 502))
    with serving(script, patience_s=0) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert caught.value.status == 502


@pytest.mark.parametrize("status", [404, 500, 502, 504])
def test_a_process_that_ended_with_the_request_is_asked_again_and_a_fault_of_the_service_is_not(serving, waits, status):
    """Ray's proxy answers 500 in its own words where the ingress was killed, and 404 before there is one."""
    lost: Answers = lambda request, body: Response(b"Internal Server Error", status, media_type="text/plain")  # noqa: E731
    fault: Answers = lambda request, body: Problem(status, "Something broke.").response("r-3")  # noqa: E731
    script = Script(lost, lost, seen)
    with serving(script) as client:
        assert client.face_age(PHOTOS).face_age == 60.0
    assert len(script.requests) == 3 and len(waits) == 2
    script = Script(lost, answer(schemas.CohortCreated(id="c-1"), 202))
    with serving(script) as client:
        assert client.create_cohort("/d/x.csv", ["age"]) == "c-1"
    assert len({request.headers["idempotency-key"] for request, _ in script.requests}) == 1
    with serving(Script(lost, lambda request, body: Response(status_code=204))) as client:
        assert client.erase_cohort("c-1")  # and not: there was none
    with serving(Script(fault, seen)) as client, pytest.raises(ServiceError, match="Something broke"):
        client.face_age(PHOTOS)
    assert len(waits) == 4


def test_scores_are_saved_whole_or_not_at_all(serving, tmp_path, waits):
    """The connection breaks in the middle, then the service is full, then it works."""

    def half(request: Request, body: bytes) -> Response:
        return Response(b"photo_id", headers={"content-length": "100"})

    def whole(request: Request, body: bytes) -> Response:
        assert request.query_params["format"] == "csv"
        return StreamingResponse(iter([b"photo_id", b",face_age\n"]))

    with serving(Script(half, busy("1"), whole)) as client:
        client.save_scores("c-1", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == b"photo_id,face_age\n" and len(waits) == 2
    with serving(Script(half), patience_s=0) as client, pytest.raises(ServiceError):
        client.save_scores("c-1", tmp_path / "other.csv")
    assert [each.name for each in tmp_path.iterdir()] == ["scores.csv"]
    with pytest.raises(Refused, match="csv or .parquet"):
        Client("http://127.0.0.1:1").save_scores("c-1", tmp_path / "scores.xlsx")


def told(state: str, rows: int = 0, **more: Any) -> Answers:
    ended = {"ledger": {"rows_in": 9, "rows_out": 9, "rejects": {}}} if state == "done" else {"ledger": None}
    given = {"id": "c-1", "state": state, "rows_done": rows, "rows_total": None, "results": None, **ended, **more}
    return answer(schemas.CohortAnswer.model_validate(given))


def test_waiting_for_a_cohort_ends_when_it_does(serving, waits):
    with serving(Script(told("waiting"), told("running", 3), told("done", 9))) as client:
        cohort = client.wait_for_cohort("c-1", every_s=2)
    assert waits == [2, 2] and cohort.ledger == {"rows_in": 9, "rows_out": 9, "rejects": {}} and cohort.ended
    failed = pytest.raises(CohortFailed, match="c-1: failed. It is gone.")
    with serving(Script(told("failed", detail="It is gone."))) as client, failed as caught:
        client.wait_for_cohort("c-1")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "it comes home from other processes"
    with serving(Script(told("running", 3))) as client, pytest.raises(TimeoutError, match="running after 5 s, 3 rows"):
        client.wait_for_cohort("c-1", every_s=2, at_most_s=5)


def test_erasing_says_whether_there_was_anything(serving):
    gone = Problem(404, "No cohort has this id.")
    with serving(Script(lambda request, body: Response(status_code=204), lambda *_: gone.response())) as client:
        assert [client.erase_cohort("c-1"), client.erase_cohort("../models")] == [True, False]


def test_an_id_cannot_lead_to_another_path(serving):
    script = Script(told("done"))
    with serving(script) as client:
        client.cohort("../models?x#y")
    assert script.requests[0][0].scope["raw_path"].startswith(b"/v1/cohorts/..%2Fmodels%3Fx%23y")


def test_models_come_with_their_cards(serving):
    card = schemas.ModelCard.model_validate(
        {
            **MODEL, "version": "1", "input_size": 112, "traffic": 1.0, "shadow": False,
            "calibrated": {"conformal": True}, "metrics": None, "card": "# A model",
        }
    )  # fmt: skip
    with serving(Script(answer(schemas.ModelsAnswer(models=[card])))) as client:
        (found,) = client.models()
    assert (found.name, found.calibrated, found.card) == ("age", {"conformal": True}, "# A model")


def test_mistakes_of_the_caller_are_refused_before_anything_is_sent(tmp_path):
    client = Client(f"http://127.0.0.1:{free_port()}", patience_s=0)
    with pytest.raises(Refused, match="2 photos"):
        client.face_aging_rate(PHOTOS, [date(2020, 1, 1)])
    with pytest.raises(Refused, match="Give a list"):
        client.face_age(PHOTOS[0])  # type: ignore[arg-type]
    with pytest.raises(Refused, match="no such file"):
        client.face_age([tmp_path / "none.jpg"])
    with pytest.raises(Refused, match="no address"):
        Client("127.0.0.1:8000")


def test_what_is_on_this_machine_is_not_asked_through_a_proxy(serving, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(Script(seen), patience_s=0) as client:
        assert client.face_age(PHOTOS).face_age == 60.0


def test_the_client_loads_neither_ray_nor_a_model():
    code = "import sys, json, fahr.client; print(json.dumps([n for n in ('ray', 'torch', 'cv2') if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_two_clients_offer_the_same(serving):
    public = [
        {name: value.__annotations__ for name, value in vars(kind).items() if callable(value) and name[0] != "_"}
        for kind in (Client, AsyncClient)
    ]
    public[1]["close"] = public[1].pop("aclose")
    assert public[0] == public[1] and len(public[0]) >= 10


def test_the_page_about_the_client_shows_what_there_is():
    text = (Path(__file__).parents[1] / "docs" / "client.md").read_text()
    names = [name for name, value in vars(Client).items() if callable(value) and name[0] != "_" and name != "close"]
    assert [name for name in names if f"`{name}(" not in text] == []
