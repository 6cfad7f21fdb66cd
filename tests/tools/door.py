"""A small service behind the real door: gate, readers and problems as they are, no model. In process or on loopback.

ask(service(), "POST", "/v1/face-age", files=[("photo", jpeg)])     # httpx.Response
with running(service()) as port: ...                                # a real server, for who misbehaves on a socket
"""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.responses import StreamingResponse

from fahr.errors import Refused
from fuzz_images import encode, picture
from serve import problems
from serve.limits import Gate, Limits
from serve.problems import Problem
from serve.reading import read_photos
from serve.schemas import DATED_PHOTOS_BODY, PHOTO_STATUSES, PHOTOS_BODY, ProblemDetails, problem_responses
from serve.tokens import Tokens

SECRET = "the-inside-of-the-service"
PROBLEM = "application/problem+json"
HERE = "http://127.0.0.1"


@cache
def photo(number: int = 0, width: int = 24, height: int = 16, kind: str = "PNG") -> bytes:
    return encode(picture(width, height, seed=number), kind)


def service(limits: Limits | None = None, tokens: Tokens | None = None) -> FastAPI:
    """What it answers is what it read. With some paths more, each of which fails in a way of its own."""
    app, limits = FastAPI(title="door"), limits or Limits()
    problems.install(app)
    app.add_middleware(Gate, limits=limits, tokens=tokens)
    documented: dict[str, Any] = {"responses": problem_responses(*PHOTO_STATUSES)}

    @app.post("/v1/face-age", openapi_extra=PHOTOS_BODY, **documented)
    async def face_age(request: Request) -> dict[str, Any]:
        return await _read(request, limits, dated=False)

    @app.post("/v1/face-aging-rate", openapi_extra=DATED_PHOTOS_BODY, **documented)
    async def face_aging_rate(request: Request) -> dict[str, Any]:
        return await _read(request, limits, dated=True)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    app.include_router(_failing())
    return app


async def _read(request: Request, limits: Limits, *, dated: bool) -> dict[str, Any]:
    sent = read_photos(await request.body(), request.headers.get("content-type"), limits, dated=dated)
    digests = [hashlib.sha256(each).hexdigest() for each in sent.photos]
    return {"photos": digests, "age": sent.age, "taken_on": [str(each) for each in sent.taken_on]}


def _failing() -> Any:
    from fastapi import APIRouter

    router = APIRouter(prefix="/failing", include_in_schema=False)

    @router.get("/problem/{status}")
    async def problem(status: int) -> None:
        raise Problem(status, "As it was asked for.", headers={"Retry-After": "7"} if status in (429, 503) else None)

    @router.get("/bug")
    async def bug() -> None:
        raise RuntimeError(SECRET)

    @router.get("/refused")
    async def refused() -> None:
        raise Refused("age 200: must be at most 122. Correct it.")

    @router.get("/parameter")
    async def parameter(number: int = Query(ge=0)) -> int:
        return number

    @router.get("/half")
    async def half() -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError(SECRET)

        return StreamingResponse(rows())

    @router.post("/slow")
    async def slow(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @router.get("/long")
    async def long(seconds: float) -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            yield b"begun, "
            await asyncio.sleep(seconds)
            yield b"done"

        return StreamingResponse(rows())

    return router


def ask(app: Any, method: str, path: str, base: str = HERE, **more: Any) -> httpx.Response:
    """In process. The application's own exceptions are not passed over."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, trust_env=False) as client:
            return await client.request(method, path, **more)

    return asyncio.run(send())


def told(response: httpx.Response) -> ProblemDetails:
    """The problem that a response is, by its own schema."""
    assert response.headers["content-type"] == PROBLEM, response.text
    found = ProblemDetails.model_validate_json(response.content)
    assert found.status == response.status_code and found.type.startswith("/problems/")
    assert found.detail.endswith((".", "?"))
    assert SECRET not in response.text
    return found


@contextmanager
def running(app: Any) -> Iterator[int]:
    """The port of a real server on 127.0.0.1."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def heard(sock: socket.socket, seconds: float = 20.0) -> httpx.Response:
    """The answer on a socket, read to its end by what it says of its own length."""
    sock.settimeout(seconds)
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines[1:]])  # type: ignore[misc]
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(sock)
    return httpx.Response(int(lines[0].split()[1]), headers=headers, content=body)


def _more(sock: socket.socket) -> bytes:
    piece = sock.recv(65536)
    assert piece, "the connection was closed without an answer"
    return piece
