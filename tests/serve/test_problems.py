"""Whatever goes wrong is one problem in one form, with nothing of the inside in it."""

import asyncio
import logging
import pickle
from typing import Any

import pytest
from fastapi import FastAPI
from ray.exceptions import RayTaskError

from fahr.errors import Refused
from fahr.faces.aligner import REASONS, Rejection
from fahr.images import Unreadable
from serve import problems
from serve.problems import Problem
from tools.door import SECRET, ask, service, told


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 500, 503, 418, 599])
def test_every_status_is_told_as_a_problem(status: int) -> None:
    response = ask(service(), "GET", f"/failing/problem/{status}")
    found = told(response)
    assert response.status_code == status and found.detail == "As it was asked for."
    assert found.request_id == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_types_are_relative_stable_and_one_a_status() -> None:
    statuses = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 500, 503)
    types = [Problem(status, "x").type for status in statuses]
    assert len(set(types)) == len(types)
    assert types[:4] == ["/problems/malformed", "/problems/token", "/problems/not_allowed", "/problems/not_found"]
    assert Problem(422, "x", reason="no_face").type == "/problems/no_face"
    assert Problem(422, "x", reason="no_face").title == "No face"


def test_a_bug_is_a_500_that_tells_its_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        response = ask(service(), "GET", "/failing/bug", headers={"X-Request-ID": "ward-7"})
    assert response.status_code == 500 and told(response).request_id == "ward-7"
    assert "RuntimeError" not in response.text and "door.py" not in response.text
    assert "ward-7" in caplog.text and "RuntimeError" in caplog.text and "in bug" in caplog.text  # who runs it finds it
    assert SECRET not in caplog.text.replace(f'"{SECRET}"', "")  # messages may quote a photo


def test_half_an_answer_is_never_ended_as_if_it_were_whole() -> None:
    with pytest.raises(ConnectionError, match="broke off") as caught:
        ask(service(), "GET", "/failing/half")
    assert caught.value.__cause__ is None and SECRET not in str(caught.value)


def test_a_refusal_of_the_library_is_the_users_to_mend() -> None:
    response = ask(service(), "GET", "/failing/refused")
    assert (response.status_code, told(response).detail) == (400, "age 200: must be at most 122. Correct it.")


def test_a_bad_parameter_is_400_and_is_not_quoted() -> None:
    response = ask(service(), "GET", "/failing/parameter", params={"number": f"{SECRET}?"})
    assert response.status_code == 400 and told(response).detail.startswith("query.number: ")
    assert ask(service(), "GET", "/failing/parameter", params={"number": -1}).status_code == 400
    assert ask(service(), "GET", "/failing/parameter").status_code == 400


def test_unknown_paths_and_methods_are_problems_too() -> None:
    unknown, method = ask(service(), "GET", "/v2/face-age"), ask(service(), "GET", "/v1/face-age")
    assert (unknown.status_code, method.status_code) == (404, 405)
    assert "/v2/face-age" in told(unknown).detail and "GET" in told(method).detail
    assert method.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/%0d%0aSet-Cookie:%20a=b", "/%ff%fe", "/" + "a" * 5000, "/..%2f..%2fetc%2fpasswd"])
def test_strange_paths_are_404_and_split_no_header(path: str) -> None:
    response = ask(service(), "GET", path)
    assert response.status_code == 404 and told(response) and "set-cookie" not in response.headers


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Rejection("unreadable", "Not an image.", is_image=False), 415),
        (Unreadable("unreadable", "Not an image.", is_image=False), 415),
        (Unreadable("unreadable", "Truncated."), 422),
        (Unreadable("too_large", "Too many pixels."), 413),
        *((Rejection(reason, "Said."), 422) for reason in REASONS if reason != "too_large"),
    ],
)
def test_what_is_wrong_with_a_photo_has_its_status_and_its_reason(fault: Any, status: int) -> None:
    problem = Problem.of_photo(3, fault)
    assert (problem.status, problem.photo, problem.reason) == (status, 3, fault.reason)
    assert problem.detail == fault.detail


def test_a_problem_survives_the_way_between_processes() -> None:
    sent = Problem(503, "Full.", photo=2, reason="no_face", headers={"Retry-After": "3"})
    got = pickle.loads(pickle.dumps(sent))
    assert vars(got) == vars(sent) and type(got) is Problem


def raising(error: Exception, others: Any = None) -> FastAPI:
    app = FastAPI()
    problems.install(app, others)

    @app.get("/")
    async def raise_it() -> None:
        raise error

    return app


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize(
    ("cause", "status"), [(Problem(422, "No face."), 422), (Refused("Not so."), 400), (ValueError(SECRET), 500)]
)
def test_what_a_replica_raised_comes_through_without_its_stack(cause: Exception, status: int, dual: bool) -> None:
    wrapped = RayTaskError("score", f"Traceback: {SECRET}", cause)
    response = ask(raising(wrapped.as_instanceof_cause() if dual else wrapped), "GET", "/")
    assert response.status_code == status and told(response)
    assert status == 500 or told(response).detail == str(cause)


def test_exceptions_of_others_are_told_as_the_problem_they_are_said_to_be() -> None:
    class Full(Exception):
        pass

    app = raising(Full(SECRET), {Full: lambda error: Problem.busy("All are at work.", 4)})
    response = ask(app, "GET", "/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "4") and told(response)


def test_of_many_wrong_fields_three_are_told_and_the_others_counted() -> None:
    errors = [{"loc": ("body", "photos", n), "msg": f"Value error, is wrong {n}", "input": SECRET} for n in range(5)]
    assert problems.sentence(errors) == (
        "photos.0: is wrong 0. photos.1: is wrong 1. photos.2: is wrong 2. And 2 more."
    )


def test_without_a_gate_a_problem_still_has_an_id() -> None:
    response = ask(raising(KeyError(SECRET)), "GET", "/", headers={"X-Request-ID": "a b"})
    assert told(response).request_id not in (None, "a b")


def test_other_scopes_pass_by_untouched() -> None:
    async def start() -> list[str]:
        seen: list[str] = []
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            seen.append(message["type"])

        await service()({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        return seen

    assert asyncio.run(start()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
