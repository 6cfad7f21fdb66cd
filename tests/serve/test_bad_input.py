"""Whoever misbehaves gets one proper problem, in time, and the next request is answered as if nothing had been."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup, ServerError

from serve.limits import Limits
from serve.schemas import problem_responses
from serve.tokens import Tokens
from tools.contract import keep_contract
from tools.door import PROBLEM, ask, heard, photo, running, service, told

TOKEN = "b3BlbiBzZXNhbWUgb3BlbiBzZXNhbWU="
QUICK = Limits(body_seconds=0.5, request_seconds=5, body_bytes=2**20, held_bytes=2**21)
PATH = "/v1/face-age"

STATUSES: list[tuple[int, dict[str, Any]]] = [  # each by a request that earns it
    (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
    (401, {"files": [("photo", photo())], "tokens": Tokens([TOKEN])}),
    (403, {"files": [("photo", photo())], "base": "http://evil.example"}),
    (404, {"path": "/v1/none", "method": "GET"}),
    (405, {"method": "GET"}),
    (408, {"path": "/failing/slow?seconds=30", "limits": Limits(request_seconds=0.1)}),
    (409, {"path": "/failing/problem/409", "method": "GET"}),
    (413, {"files": [("photo", photo())], "limits": Limits(body_bytes=100)}),
    (415, {"files": [("photo", b"not an image")]}),
    (422, {"files": [("photo", photo()[:-20])]}),
    (429, {"path": "/failing/problem/429", "method": "GET"}),
    (431, {"files": [("photo", photo())], "headers": {"x": "y" * 40_000}}),
    (500, {"path": "/failing/bug", "method": "GET"}),
    (503, {"files": [("photo", photo())], "limits": Limits(held_bytes=10)}),
]


@pytest.mark.parametrize(("status", "asked"), STATUSES, ids=[str(status) for status, _ in STATUSES])
def test_every_status_can_be_reached_and_is_a_documented_problem(status: int, asked: dict[str, Any]) -> None:
    more = dict(asked)
    app = service(more.pop("limits", None), more.pop("tokens", None))
    response = ask(app, more.pop("method", "POST"), more.pop("path", PATH), **more)
    assert response.status_code == status and told(response).status == status
    assert ("retry-after" in response.headers) == (status in (429, 503))
    described = problem_responses(status)[status]
    assert described["description"].endswith(".") and set(described["content"]) == {PROBLEM}


# On a real socket


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(service(QUICK)) as port:
        yield port


def request(port: int, *lines: str, path: str = PATH, method: str = "POST") -> bytes:
    kind = "Content-Type: multipart/form-data; boundary=b"
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", kind, *lines, "", ""]).encode()


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def well(port: int) -> None:
    """The service answers as it should."""
    response = httpx.post(f"http://127.0.0.1:{port}{PATH}", files=[("photo", photo())], trust_env=False)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("sent", [["Content-Length: 100000"], ["Transfer-Encoding: chunked"]])
def test_a_slow_loris_is_408_in_the_time_that_is_stated(port: int, sent: list[str]) -> None:
    with opened(port) as sock:
        sock.sendall(request(port, *sent))
        begun, stop = time.monotonic(), threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    sock.sendall(b"1\r\nx\r\n" if "chunked" in sent[0] else b"x")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            response = heard(sock)
        finally:
            stop.set()
            dripping.join()
        assert response.status_code == 408 and told(response)
        assert 0.4 < time.monotonic() - begun < 5
    well(port)


def test_a_hundred_slow_ones_do_not_keep_others_from_being_served(port: int) -> None:
    slow = [opened(port) for _ in range(100)]
    try:
        for each in slow:
            each.sendall(request(port, "Content-Length: 50") + b"--b\r\n")
        for _ in range(3):
            well(port)
        assert {heard(each).status_code for each in slow} == {408}
    finally:
        for each in slow:
            each.close()


@pytest.mark.parametrize("leave", ["close", "half", "reset"])
def test_half_a_body_and_a_cut_connection_do_no_harm(port: int, leave: str) -> None:
    for _ in range(20):
        with opened(port) as sock:
            sock.sendall(request(port, "Content-Length: 200000") + b"--b\r\n" + b"x" * 100_000)
            if leave == "half":
                sock.shutdown(socket.SHUT_WR)
            elif leave == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    well(port)  # 20 x 100,000 bytes would fill what may be held, were they kept


def test_a_body_that_is_too_large_is_answered_to_a_client_that_is_still_sending(port: int) -> None:
    for headers in (["Content-Length: 8000000"], ["Transfer-Encoding: chunked"]):
        with opened(port) as sock:
            sock.sendall(request(port, *headers))
            piece = b"x" * 100_000
            for _ in range(80):
                sock.sendall(piece if "Length" in headers[0] else b"%x\r\n" % len(piece) + piece + b"\r\n")
            response = heard(sock)
        assert response.status_code == 413 and told(response) and response.headers["connection"] == "close"
    well(port)


def test_a_client_that_waits_to_be_told_to_go_on_is_told_not_to(port: int) -> None:
    with opened(port) as sock:
        sock.sendall(request(port, "Content-Length: 8000000", "Expect: 100-continue"))
        assert heard(sock).status_code == 413
    with opened(port) as sock:
        sock.sendall(request(port, "Content-Length: 7", "Expect: 100-continue"))
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        sock.sendall(b"--b--\r\n")
        assert heard(sock).status_code == 400


def test_huge_headers_are_431(port: int) -> None:
    for headers in (["X: " + "y" * 40_000], [f"X-{n}: y" for n in range(5_000)]):
        with opened(port) as sock:
            sock.sendall(request(port, "Content-Length: 0", *headers))
            response = heard(sock)
        assert response.status_code == 431 and told(response)
    well(port)


def test_ten_thousand_tiny_parts_are_413_at_once(port: int) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\nx\r\n'
    headers = {"content-type": "multipart/form-data; boundary=b"}
    begun = time.monotonic()
    response = httpx.post(
        f"http://127.0.0.1:{port}{PATH}", content=part * 10_000 + b"--b--\r\n", headers=headers, trust_env=False
    )
    assert response.status_code == 413 and told(response) and time.monotonic() - begun < 2


def test_one_connection_may_ask_again_after_a_refusal(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        codes = [
            client.post(PATH, files=[("photo", each)]).status_code
            for each in (b"nothing", photo(), photo()[:-20], photo(), b"", photo())
        ]
    assert codes == [415, 200, 422, 200, 415, 200]


def test_many_at_once_each_get_their_own_answer(port: int) -> None:
    wrong: list[Any] = []

    def visit(number: int) -> None:
        bodies = [(photo(number % 4), 200), (b"no image", 415), (photo(number % 4)[:-20], 422)]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for turn in range(12):
                data, status = bodies[(number + turn) % 3]
                got = client.post(PATH, files=[("photo", data)], headers={"X-Request-ID": f"{number}.{turn}"})
                if got.status_code != status or got.headers["x-request-id"] != f"{number}.{turn}":
                    wrong.append((got.status_code, status, got.headers))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


# Whatever comes

ALLOWED = {200, 400, 413, 415, 422}
APP = service(Limits(body_seconds=2))
KIND = "multipart/form-data; boundary=b"
DATED = "/v1/face-aging-rate"


def form_bytes(number: int) -> bytes:
    fields = [("photo", photo(number)), ("age", b"61.5"), ("photo", photo()), ("taken_on", b"2024-01-01")]
    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    return b"".join(head % name.encode() + data + b"\r\n" for name, data in fields) + b"--b--\r\n"


def json_bytes(number: int) -> bytes:
    sent = [{"data": base64.b64encode(photo(each)).decode()} for each in (number, 0)]
    return json.dumps({"photos": sent, "age": 61.5}).encode()


@st.composite
def damaged(draw: st.DrawFn, make: Any) -> bytes:
    """A sound body with some bytes lost, changed, doubled or put in."""
    body = make(draw(st.integers(0, 3)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        to = min(len(body), at + draw(st.integers(0, 40)))
        put = draw(
            st.sampled_from([b"", b"\0", b"\r\n", b"--b", b"--b--", b'"', b"{", b"]", body[at:to] * 2])
            | st.binary(max_size=9)
        )
        body = body[:at] + put + body[to:]
    return body


KEYS = st.sampled_from(["photos", "data", "age", "taken_on", ""])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES | st.just(base64.b64encode(photo()).decode()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@st.composite
def any_form(draw: st.DrawFn) -> bytes:
    names = st.sampled_from(["photo", "age", "taken_on", "x"])
    fields = draw(st.lists(st.tuples(names, st.binary(max_size=30) | st.just(photo()))))
    head = b"--b\r\nContent-Disposition: form-data; name=\"%s\"; filename*=utf-8''%%ff\r\n\r\n"
    return b"".join(head % name.encode() + data + b"\r\n" for name, data in fields) + b"--b--\r\n"


JSON = st.just("application/json")
FORMS = st.sampled_from(
    [KIND, KIND + "; charset=utf-16", KIND + '; boundary="c"', "multipart/form-data; boundary*=utf-8''b"]
)
KINDS = {
    "damaged form": (damaged(form_bytes), st.just(KIND)),
    "damaged json": (damaged(json_bytes), JSON),
    "any form": (any_form(), FORMS),
    "any json": (VALUES.map(lambda value: json.dumps(value).encode()), JSON),
}


def fuzz(name: str, examples: int) -> None:
    bodies, kinds = KINDS[name]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(bodies, kinds, st.sampled_from([PATH, DATED]))
    def attempt(body: bytes, kind: str, path: str) -> None:
        response = ask(APP, "POST", path, content=body, headers={"content-type": kind})
        assert response.status_code in ALLOWED
        if response.status_code != 200:
            told(response)

    attempt()


@pytest.mark.parametrize("name", KINDS)
def test_no_body_whatever_ends_in_a_500(name: str) -> None:
    fuzz(name, 80)


@pytest.mark.evidence
@pytest.mark.parametrize("name", KINDS)
def test_twenty_thousand_bodies_end_in_no_500(name: str) -> None:
    fuzz(name, 20_000)


def test_the_service_is_what_its_openapi_document_says() -> None:
    app = service(QUICK, Tokens([TOKEN]))
    asked = keep_contract(app, headers={"Authorization": f"Bearer {TOKEN}"}, examples=12)
    assert set(asked) == {"POST /v1/face-age", "POST /v1/face-aging-rate", "GET /healthz"}
    assert asked["POST /v1/face-age"] >= 20


def test_a_service_that_is_not_what_it_says_is_found_out() -> None:
    app = service(QUICK, Tokens([TOKEN]))

    @app.get("/liar")
    async def liar() -> None:
        raise ValueError("undocumented")

    with pytest.raises(FailureGroup) as caught:
        keep_contract(app, headers={"Authorization": f"Bearer {TOKEN}"}, examples=2)
    assert any(isinstance(each, ServerError) for each in caught.value.exceptions)
