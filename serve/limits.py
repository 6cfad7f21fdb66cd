"""The door: how much, how long, who. Everything here is decided before a byte of a request is understood.

app.add_middleware(Gate, limits=Limits(), tokens=tokens)      # outermost: added last

A body is read once, into memory, counted as it comes; what the application sees is whole. No file is written.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fahr import images
from serve.problems import REQUEST_ID, SOUND_ID, Problem, identify
from serve.schemas import MOST_PHOTOS
from serve.tokens import Tokens, means_this_machine

MIB = 2**20
OPEN_PATHS = ("/healthz", "/readyz", "/", "/docs", "/openapi.json")  # they tell nothing of anybody
READ_TYPES = ("multipart/form-data", "application/json")
_BODILESS = ("GET", "HEAD", "OPTIONS")


class Limits(BaseModel):
    """Whatever is more is refused by name: 413 for size, 408 for time, 431 for headers, 503 where it may pass later."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    body_bytes: int = Field(64 * MIB, ge=1, description="of a request: some ten photos as phones make them")
    photo_bytes: int = Field(16 * MIB, ge=1, description="of one photo, decoded from base64")
    photo_pixels: int = Field(
        images.DEFAULT_LIMITS.max_pixels, ge=1, description="of one photo, as its header says: as jobs/score.py has it"
    )
    pixels: int = Field(200_000_000, ge=1, description="of all photos of a request: 16 of 12 megapixels")
    photos: int = Field(MOST_PHOTOS, ge=1, le=MOST_PHOTOS, description="of a request")
    parts: int = Field(40, ge=1, description="of multipart: 16 photos, 16 days, an age, and some to spare")
    field_bytes: int = Field(
        4096, ge=1, description="of a part of multipart that is no file, and of each part's headers"
    )
    json_depth: int = Field(8, ge=1, description="brackets within brackets")
    json_items: int = Field(1000, ge=1, description="brackets and commas of a JSON body, also in its texts")
    header_bytes: int = Field(32 * 1024, ge=1, description="of all headers of a request, names and values")
    body_seconds: float = Field(30.0, gt=0, description="from the headers to the last byte of the body")
    request_seconds: float = Field(60.0, gt=0, description="from the headers to the first byte of the answer")
    linger_seconds: float = Field(
        2.0, ge=0, description="for which the rest of a refused body is thrown away, so that its client reads why"
    )
    held_bytes: int = Field(512 * MIB, ge=1, description="of all requests that one process reads at the same time")

    def of_photo(self) -> images.Limits:
        """For the decoder and the aligner."""
        return images.Limits(self.photo_bytes, self.photo_pixels)


class Gate:
    """Pure ASGI, around an application. Its own refusals are problems like all others."""

    def __init__(
        self, app: ASGIApp, limits: Limits | None = None, tokens: Tokens | None = None, *, echo: bool = True
    ) -> None:
        """`tokens` None: only this machine may ask, by its own name, so that no web page can ask through a browser.

        `echo`: write X-Request-ID into answers. False behind Ray Serve's proxy, which does that itself.
        """
        self._app, self._limits, self._tokens, self._echo = app, limits or Limits(), tokens, echo
        self._held = 0  # bytes of bodies, of all requests at this moment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self._echo)
        try:
            async with asyncio.timeout(self._limits.request_seconds) as deadline:
                self._admit(scope)
                await self._read(visit)
                visit.deadline = deadline
                await self._app(scope, visit.replay, visit.send)
        except Problem as refused:
            await visit.refuse(refused, self._limits.linger_seconds)
        except _Gone:
            return  # nobody is left to be told
        except TimeoutError:
            if not deadline.expired():
                raise
            seconds = self._limits.request_seconds
            problem = Problem(408, f"No answer within {seconds:g} s. Send fewer or smaller photos, or later.")
            await visit.refuse(problem, self._limits.linger_seconds)
        finally:
            self._held -= visit.held

    def _admit(self, scope: Scope) -> None:
        """By the headers alone."""
        headers = Headers(scope=scope)
        size, most = sum(len(name) + len(value) for name, value in scope["headers"]), self._limits.header_bytes
        if size > most:
            raise Problem(431, f"The headers have {size:,} bytes; {most:,} is the most. Send fewer.")
        given = headers.get(REQUEST_ID)
        if given is not None and not SOUND_ID.fullmatch(given):
            raise Problem(
                400, "X-Request-ID: has 1 to 128 letters, digits and ._:=/+- of ASCII. Correct it, or leave it out."
            )
        if scope["path"].removeprefix(scope.get("root_path", "")) not in OPEN_PATHS:
            self._know(headers)
        if scope["method"] not in _BODILESS:
            _check_type(headers)
        declared = _declared(scope)
        if declared is not None and declared > self._limits.body_bytes:
            raise self._too_large(declared)

    def _know(self, headers: Headers) -> None:
        if self._tokens is not None:
            if not self._tokens.accept(headers.get("authorization")):
                said = "does not hold" if "authorization" in headers else "is missing, which holds"
                raise Problem(
                    401, f"The header Authorization {said} a token of this service. Send: Bearer TOKEN.",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            return
        for name in ("Host", "Origin"):
            value = headers.get(name)
            if value is not None and not means_this_machine(value.rpartition("://")[2]):
                raise Problem(
                    403, f"{name} {value[:80]!r}: this service has no tokens, so only this machine may ask it, as "
                    "127.0.0.1 or localhost. To serve others, start it with tokens.",
                )  # fmt: skip

    async def _read(self, visit: "_Visit") -> None:
        """The whole body, within its size and its time."""
        declared = _declared(visit.scope)
        if declared is None and visit.scope["method"] in _BODILESS and "transfer-encoding" not in visit.headers:
            return
        body = bytearray()
        seconds = self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                more = True
                while more:
                    message = await visit.receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    more = message.get("more_body", False)
                    visit.whole = not more
                    self._take(visit, body, message.get("body", b""))
        except TimeoutError:
            raise Problem(
                408, f"After {seconds:g} s only {len(body):,} bytes of the body were here. Send it faster, or less."
            ) from None
        if declared is not None and len(body) != declared:
            raise Problem(400, f"Content-Length is {declared:,}, but {len(body):,} bytes came. Send the body whole.")
        visit.body = bytes(body)

    def _take(self, visit: "_Visit", body: bytearray, chunk: bytes) -> None:
        if len(body) + len(chunk) > self._limits.body_bytes:
            raise self._too_large(None)
        if self._held + len(chunk) > self._limits.held_bytes:
            raise Problem.busy("Too many bytes are being read for others. Try again in a second.")
        self._held += len(chunk)
        visit.held += len(chunk)
        body += chunk

    def _too_large(self, declared: int | None) -> Problem:
        size = "more bytes" if declared is None else f"{declared:,} bytes"
        most = self._limits.body_bytes
        return Problem(413, f"The body has {size}; {most:,} is the most. Send fewer or smaller photos.")


class _Gone(Exception):
    """The client closed the connection in the middle of its request."""


class _Visit:
    """One request on its way through the gate."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, echo: bool) -> None:
        self.scope, self.receive, self._send, self._echo = scope, receive, send, echo
        self.headers = Headers(scope=scope)
        self.request_id = identify(scope)
        self.deadline: asyncio.Timeout | None = None  # until the answer begins: a long one may take its time
        self.body: bytes | None = None  # until the application takes it
        self.held = 0  # bytes that the gate counts for it
        self.whole = False  # nothing more of the body will come

    async def replay(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.deadline is not None and not self.deadline.expired():
                self.deadline.reschedule(None)
            headers = MutableHeaders(scope=message)
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("X-Content-Type-Options", "nosniff")
            if self._echo:
                headers[REQUEST_ID] = self.request_id
        await self._send(message)

    async def refuse(self, problem: Problem, linger_seconds: float) -> None:
        """The connection ends with it where the body was not read. Closed at once, it would be reset, and the answer
        lost with it: so all of the answer goes out first, and what still comes is thrown away for a while."""
        self.deadline = None
        unread = not self.whole and self.scope["method"] not in _BODILESS
        answer = problem.response(self.request_id)
        if unread:
            answer.headers["Connection"] = "close"
        await self.send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": unread})
        if unread:
            with suppress(TimeoutError):
                async with asyncio.timeout(linger_seconds):
                    await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        more = True
        while more:
            message = await self.receive()
            more = message["type"] == "http.request" and message.get("more_body", False)


def _check_type(headers: Headers) -> None:
    """415 for what nobody here reads, before it is read."""
    if (coding := headers.get("content-encoding", "identity").lower()) != "identity":
        raise Problem(415, f"Content-Encoding {coding[:40]!r} is not read. Send the body as it is; photos are packed.")
    given = headers.get("content-type")
    kind = (given or "").partition(";")[0].strip().lower()
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if kind not in READ_TYPES and (given is not None or has_body):
        shown = f"Content-Type {kind[:40]!r}" if kind else "No Content-Type"
        raise Problem(415, f"{shown}: a body is read as {' or '.join(READ_TYPES)}. Send one of them.")


def _declared(scope: Scope) -> int | None:
    """Content-Length."""
    found: Sequence[bytes] = [value for name, value in scope["headers"] if name == b"content-length"]
    if not found:
        return None
    if len(set(found)) > 1 or not found[0].isdigit() or len(found[0]) > 18:
        raise Problem(400, "Content-Length: must be one whole number. Correct it, or let the client library set it.")
    return int(found[0])
