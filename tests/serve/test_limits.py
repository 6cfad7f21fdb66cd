"""The gate counts bytes and seconds before anything is understood, and gives back all that it held."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.limits import Gate, Limits
from serve.tokens import Tokens
from tools.door import PROBLEM, ask, photo, service, told

TOKEN = "b3BlbiBzZXNhbWUgb3BlbiBzZXNhbWU="
KNOWN_HEADERS = (
    "content-length", "content-type", "content-encoding", "transfer-encoding", "host", "origin", "authorization",
    "x-request-id", "expect",
)  # fmt: skip
Message = dict[str, Any]
GONE: Message = {"type": "http.disconnect"}


class Echo:
    """An application that answers with the body it was given. `entered`: how often it was asked."""

    def __init__(self) -> None:
        self.entered = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.entered += 1
        body = b""
        while (message := await receive()).get("more_body", False):
            body += message["body"]
        body += message["body"]
        if self.hold is not None:
            await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def scope(headers: dict[str, str] | list[tuple[str, str]] = (), method: str = "POST", path: str = "/x") -> Message:  # type: ignore[assignment]
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    names = {name.lower() for name, _ in pairs}
    if method == "POST" and "content-type" not in names:
        pairs.append(("content-type", "application/json"))
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    return {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b"", "root_path": ""}


async def drive(app: Any, scope: Message, messages: list[Message | Awaitable[Message]]) -> httpx.Response | None:
    """Messages one after the other, then silence. None: it was not answered."""
    waiting, sent = list(messages), []

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        message = waiting.pop(0)
        return message if isinstance(message, dict) else await message

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return None
    assert [each["type"] for each in sent][:1] == ["http.response.start"] and not sent[-1].get("more_body")
    body = b"".join(each.get("body", b"") for each in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)


def chunks(*parts: bytes, ended: bool = True) -> list[Message | Awaitable[Message]]:
    last = len(parts) - 1
    return [
        {"type": "http.request", "body": part, "more_body": not (ended and n == last)} for n, part in enumerate(parts)
    ]


def passed(app: Any, scope: Message, messages: list[Any]) -> httpx.Response | None:
    return asyncio.run(drive(app, scope, messages))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_the_application_gets_the_bytes_that_were_sent_however_they_were_cut(parts: list[bytes]) -> None:
    echo = Echo()
    response = passed(Gate(echo, Limits(body_bytes=400)), scope(), chunks(*parts))
    assert response is not None and response.content == b"".join(parts) and echo.entered == 1


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)])
def test_a_body_of_the_limit_passes_and_a_byte_more_does_not(size: int, status: int, declared: bool) -> None:
    echo = Echo()
    headers = {"content-length": str(size)} if declared else {"transfer-encoding": "chunked"}
    response = passed(Gate(echo, Limits(body_bytes=100)), scope(headers), chunks(b"x" * (size - 1), b"x"))
    assert response is not None and response.status_code == status and echo.entered == (status == 200)
    assert status == 200 or "100 is the most" in told(response).detail


def test_a_body_that_says_it_is_too_large_is_answered_before_a_byte_of_it_is_asked_for() -> None:
    order: list[str] = []

    async def receive() -> Message:
        order.append("asked")
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        order.append(message["type"])

    asyncio.run(Gate(Echo(), Limits(body_bytes=10))(scope({"content-length": "11"}), receive, send))
    assert order[:2] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("value", ["-1", "+5", "5.0", "0x10", "five", "", " 5", "5,5", "1" * 19, "\u00b2"])
def test_a_content_length_that_is_no_number_is_400(value: str) -> None:
    response = passed(Gate(Echo()), scope({"content-length": value}), chunks(b"hello"))
    assert response is not None and response.status_code == 400 and "Content-Length" in told(response).detail


def test_two_content_lengths_must_agree() -> None:
    twice = [("content-length", "5"), ("content-length", "6")]
    response = passed(Gate(Echo()), scope(twice), chunks(b"hello"))
    assert response is not None and response.status_code == 400
    same = passed(Gate(Echo()), scope([("content-length", "5")] * 2), chunks(b"hello"))
    assert same is not None and same.status_code == 200


@pytest.mark.parametrize("came", [0, 4, 6])
def test_half_a_body_or_too_much_of_it_is_400(came: int) -> None:
    echo = Echo()
    response = passed(Gate(echo), scope({"content-length": "5"}), chunks(b"x" * came))
    assert response is not None and response.status_code == 400 and echo.entered == 0
    assert f"{came} bytes came" in told(response).detail


def test_a_client_that_leaves_in_the_middle_is_not_answered_and_nothing_is_kept() -> None:
    echo = Echo()
    gate = Gate(echo, Limits(held_bytes=10))
    for _ in range(5):  # 5 x 8 bytes would not fit if they were kept
        assert passed(gate, scope(), [*chunks(b"x" * 8, ended=False), GONE]) is None
    assert echo.entered == 0
    whole = passed(gate, scope(), chunks(b"x" * 10))
    assert whole is not None and whole.status_code == 200


def test_a_body_that_comes_slowly_is_408_and_so_is_one_that_stops() -> None:
    async def late() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    for messages in ([late() for _ in range(50)], chunks(b"x" * 7, ended=False)):
        echo = Echo()
        response = passed(Gate(echo, Limits(body_seconds=0.1, linger_seconds=0.1)), scope(), messages)
        for each in messages:
            if not isinstance(each, dict):
                each.close()  # type: ignore[union-attr]
        assert response is not None and response.status_code == 408 and echo.entered == 0
        assert "After 0.1 s" in told(response).detail and response.headers["connection"] == "close"


def test_an_answer_that_does_not_come_is_408_and_one_that_has_begun_may_take_its_time() -> None:
    app = service(Limits(request_seconds=0.1))
    late = ask(app, "POST", "/failing/slow", params={"seconds": 30})
    assert late.status_code == 408 and "0.1 s" in told(late).detail
    long = ask(app, "GET", "/failing/long", params={"seconds": 0.3})
    assert (long.status_code, long.text) == (200, "begun, done")


def test_a_time_out_of_the_applications_own_is_no_408() -> None:
    async def raises(*_: Any) -> None:
        raise TimeoutError("of a database, say")

    with pytest.raises(TimeoutError):
        passed(Gate(raises), scope(), chunks(b""))


def test_all_requests_together_hold_no_more_than_the_limit() -> None:
    async def crowd() -> tuple[list[int], list[str | None], int]:
        echo = Echo()
        echo.hold = asyncio.Event()
        gate = Gate(echo, Limits(held_bytes=100))
        first = [asyncio.create_task(drive(gate, scope(), chunks(b"x" * 40))) for _ in range(2)]
        while echo.entered < 2:
            await asyncio.sleep(0)
        third = await drive(gate, scope(), chunks(b"x" * 40))
        small = asyncio.create_task(drive(gate, scope(), chunks(b"x" * 20)))
        while echo.entered < 3:
            await asyncio.sleep(0)
        echo.hold.set()
        done = [third, *await asyncio.gather(*first, small)]
        again = await drive(gate, scope(), chunks(b"x" * 100))
        assert again is not None
        return [each.status_code for each in done if each], [done[0].headers.get("retry-after")], again.status_code  # type: ignore[union-attr]

    assert asyncio.run(crowd()) == ([503, 200, 200, 200], ["1"], 200)


def test_headers_have_a_limit_of_their_own() -> None:
    gate = Gate(Echo(), Limits(header_bytes=200))
    fits = passed(gate, scope({"a": "x" * 100}), chunks(b""))
    assert fits is not None and fits.status_code == 200
    for headers in ({"a": "x" * 200}, {f"name-{n}": "" for n in range(40)}):
        response = passed(gate, scope(headers), chunks(b""))
        assert response is not None and response.status_code == 431 and told(response)


@pytest.mark.parametrize("sound", ["ward-7", "Root=1-67891233-abcdef01", "a" * 128, "urn:uuid:1/2+3.4_5"])
def test_a_request_id_is_handed_back(sound: str) -> None:
    assert ask(service(), "GET", "/healthz", headers={"X-Request-ID": sound}).headers["x-request-id"] == sound


@pytest.mark.parametrize("unsound", ["", "a b", "a" * 129, "a\tb", "{jndi}", "\u00e4".encode("latin-1"), "a;b"])
def test_a_request_id_that_could_spoil_a_log_is_refused(unsound: str | bytes) -> None:
    response = ask(service(), "GET", "/healthz", headers={"X-Request-ID": unsound})  # type: ignore[dict-item]
    assert response.status_code == 400 and "X-Request-ID" in told(response).detail
    assert response.headers["x-request-id"] == told(response).request_id != unsound


def test_ids_are_made_where_none_is_given_and_never_twice() -> None:
    ids = {ask(service(), "GET", "/healthz").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20 and all(len(each) == 32 for each in ids)


def test_behind_a_proxy_that_writes_the_id_it_is_not_written_twice() -> None:
    response = passed(Gate(Echo(), echo=False), scope({"x-request-id": "a"}), chunks(b""))
    assert response is not None and "x-request-id" not in response.headers


def test_answers_are_not_to_be_kept_by_anyone_between() -> None:
    for path in ("/healthz", "/nothing"):
        response = ask(service(), "GET", path)
        assert (
            response.headers["cache-control"] == "no-store" and response.headers["x-content-type-options"] == "nosniff"
        )


def test_without_a_token_nothing_is_answered_but_health_and_papers() -> None:
    app = service(tokens=Tokens([TOKEN]))
    files = [("photo", photo())]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for method, path in (
            ("POST", "/v1/face-age"),
            ("GET", "/v1/models"),
            ("GET", "/nothing"),
            ("GET", "/healthz/"),
        ):
            response = ask(app, method, path, headers=headers)
            assert response.status_code == 401 and told(response).type == "/problems/token"
            assert response.headers["www-authenticate"] == "Bearer" and TOKEN not in response.text
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200
    answer = ask(
        app, "POST", "/v1/face-age", files=files, headers={"Authorization": f"Bearer {TOKEN}"}, base="http://h"
    )
    assert answer.status_code == 200


def test_the_body_of_whoever_has_no_token_is_never_kept() -> None:
    gate = Gate(Echo(), Limits(held_bytes=10), Tokens([TOKEN]))
    response = passed(gate, scope(), chunks(b"x" * 1000))
    assert response is not None and response.status_code == 401 and response.headers["connection"] == "close"


@pytest.mark.parametrize("base", ["http://evil.example", "http://10.0.0.7:8000", "http://localhost.evil.example"])
def test_without_tokens_only_a_name_of_this_machine_is_answered(base: str) -> None:
    response = ask(service(), "GET", "/v1/models", base=base)
    assert response.status_code == 403 and "no tokens" in told(response).detail
    assert ask(service(), "GET", "/healthz", base=base).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
    ],
)
def test_without_tokens_no_page_from_elsewhere_can_ask_through_a_browser(origin: str, status: int) -> None:
    response = ask(service(), "POST", "/v1/face-age", files=[("photo", photo())], headers={"Origin": origin})
    assert response.status_code == status


@pytest.mark.parametrize(
    "kind", ["text/plain", "image/jpeg", "application/x-www-form-urlencoded", "multipart/mixed", "", "json", "a" * 300]
)
def test_a_content_type_that_is_not_read_is_415_before_the_body_is_read(kind: str) -> None:
    echo = Echo()
    response = passed(Gate(echo), scope({"content-type": kind, "content-length": "5"}), [GONE])
    assert response is not None and response.status_code == 415 and echo.entered == 0 and told(response)


def test_a_packed_body_is_415() -> None:
    response = passed(Gate(Echo()), scope({"content-encoding": "gzip"}), chunks(b"x"))
    assert response is not None and response.status_code == 415 and "gzip" in told(response).detail
    plain = passed(Gate(Echo()), scope({"content-encoding": "identity"}), chunks(b"x"))
    assert plain is not None and plain.status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
def test_a_request_without_a_body_needs_no_content_type(method: str) -> None:
    asked = {**scope(method=method), "headers": []}
    response = passed(Gate(Echo()), asked, chunks(b""))
    assert response is not None and response.status_code == 200


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KNOWN_HEADERS),
            st.text(st.characters(max_codepoint=255), max_size=20),
        ),
        max_size=5,
    ),
    st.sampled_from(["GET", "POST", "DELETE", "PATCH", "BREW"]),
    st.binary(max_size=20),
)  # fmt: skip
def test_whatever_the_headers_hold_the_gate_passes_or_refuses(
    headers: list[tuple[str, str]], method: str, body: bytes
) -> None:
    response = passed(Gate(Echo(), Limits(body_seconds=0.05)), scope(headers, method), chunks(body))
    assert response is not None and response.status_code in (200, 400, 403, 413, 415)
    assert response.status_code == 200 or response.headers["content-type"] == PROBLEM


def test_limits_that_limit_nothing_are_refused() -> None:
    for wrong in ({"body_bytes": 0}, {"photos": 17}, {"photos": 0}, {"request_seconds": 0}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            Limits.model_validate(wrong)
    limits = Limits(photo_bytes=5, photo_pixels=7)
    assert (limits.of_photo().max_bytes, limits.of_photo().max_pixels) == (5, 7)


def test_each_limit_is_described() -> None:
    assert all(field.description for field in Limits.model_fields.values())
