"""Whatever goes wrong is told as application/problem+json (RFC 9457), with nothing of the inside in it.

install(app)                                            # of a FastAPI: every error from here on
raise Problem(404, "No cohort has this id. It was erased, or never made.")
raise Problem.of_photo(2, rejection)                    # of fahr.faces.Aligner: 413, 415 or 422, and its reason
"""

import json
import logging
import re
import traceback
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fahr.errors import Refused
from fahr.faces.aligner import Rejection
from fahr.images import Unreadable
from serve.schemas import PROBLEM_TYPE

log = logging.getLogger("fahr.serve")

REQUEST_ID = "x-request-id"
SOUND_ID = re.compile(r"[A-Za-z0-9._:=/+-]{1,128}", re.ASCII)

_KINDS = {  # of a status: the end of `type`, and `title`. A reason takes their place.
    400: ("malformed", "Malformed request"),
    401: ("token", "Token needed"),
    403: ("not_allowed", "Not allowed"),
    404: ("not_found", "Nothing is here"),
    405: ("method", "Another method is needed"),
    408: ("too_slow", "Took too long"),
    409: ("conflict", "Not in this state"),
    413: ("too_large", "Too large"),
    415: ("content_type", "Not of a kind that is read"),
    422: ("unusable", "Cannot be used"),
    429: ("too_many", "Too many requests"),
    431: ("headers", "Headers too large"),
    500: ("internal", "Internal error"),
    503: ("busy", "Busy"),
}
_SAID = {  # where Starlette only has the phrase of the status
    404: "Nothing is at {path}. The paths are listed at /docs.",
    405: "{method} is not understood at {path}. The methods are listed at /docs.",
}


class Problem(Exception):
    """`detail`: one sentence, value, rule, remedy. `reason`: of a reject, or why there is no rate; it names the type.

    `photo`: place in the request, from 0, of the one at fault. `headers`: such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        photo: int | None = None,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.photo, self.reason = status, detail, photo, reason
        self.headers = dict(headers or {})

    @staticmethod
    def of_photo(number: int, fault: Rejection | Unreadable) -> "Problem":
        """What aligner and decoder say of photo `number`."""
        if fault.reason == "too_large":
            return Problem(413, fault.detail, photo=number, reason=fault.reason)
        return Problem(422 if fault.is_image else 415, fault.detail, photo=number, reason=fault.reason)

    @staticmethod
    def busy(detail: str, retry_after_s: int = 1) -> "Problem":
        return Problem(503, detail, headers={"Retry-After": str(retry_after_s)})

    @property
    def type(self) -> str:
        return f"/problems/{self.reason or _kind(self.status)[0]}"

    @property
    def title(self) -> str:
        return self.reason.replace("_", " ").capitalize() if self.reason else _kind(self.status)[1]

    def __str__(self) -> str:
        return self.detail

    def __reduce__(self) -> tuple[Any, ...]:  # an exception with keywords does not survive the way between replicas
        return _made, (self.status, self.detail, self.photo, self.reason, self.headers)

    def response(self, request_id: str | None = None) -> Response:
        told = {"type": self.type, "title": self.title, "status": self.status, "detail": self.detail}
        more = {"request_id": request_id, "photo": self.photo, "reason": self.reason}
        told |= {key: value for key, value in more.items() if value is not None}
        return Response(json.dumps(told), self.status, self.headers, PROBLEM_TYPE)


def _made(status: int, detail: str, photo: int | None, reason: str | None, headers: dict[str, str]) -> Problem:
    return Problem(status, detail, photo=photo, reason=reason, headers=headers)


def _kind(status: int) -> tuple[str, str]:
    if status in _KINDS:
        return _KINDS[status]
    known = status in HTTPStatus._value2member_map_
    return f"status_{status}", HTTPStatus(status).phrase if known else f"Status {status}"


Translation = Callable[[Any], Problem]


def install(app: FastAPI, others: Mapping[type[Exception], Translation] | None = None) -> None:
    """`others`: exceptions of other people's making, such as those of a full queue -> the problem that they are."""
    known: dict[type[Exception], Translation] = {
        Problem: lambda problem: problem,
        Refused: lambda refused: Problem(400, str(refused)),
        RequestValidationError: lambda error: Problem(400, sentence(error.errors())),
        HTTPException: lambda error: Problem(error.status_code, str(error.detail), headers=error.headers),
        **(others or {}),
    }

    def handle(request: Request, error: Exception) -> Response:
        problem = _translated(error, known) or _hidden(request.scope, error)
        if isinstance(error, HTTPException) and problem.detail == _phrase(problem.status):
            said = _SAID.get(problem.status, problem.title + ".")
            problem.detail = said.format(path=request.url.path, method=request.method)
        return problem.response(identify(request.scope))

    for kind in known:
        app.add_exception_handler(kind, handle)
    app.add_middleware(_LastResort, handle=handle)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""


def _translated(error: Exception, known: Mapping[type[Exception], Translation]) -> Problem | None:
    cause = getattr(error, "cause", None)  # Ray hands on what a replica raised, wrapped, its stack in the message
    for each in (cause, error):
        for kind in type(each).__mro__:
            if kind in known:
                return known[kind](each)
    return None


def _hidden(scope: Scope, error: Exception) -> Problem:
    """Where it happened goes to the log; never the message, which may quote what was sent."""
    where = "".join(traceback.format_tb(error.__traceback__))
    name, method, path = type(error).__name__, scope.get("method"), scope.get("path")
    log.error("request %s: %s at %s %r\n%s", identify(scope), name, method, path, where)
    return Problem(500, "Something broke on our side. Tell whoever runs this service the request_id.")


def sentence(errors: "list[ErrorDetails] | Any") -> str:
    """pydantic's errors, up to three, without what was sent: it may be a photo."""
    told = [_fault(each) for each in errors[:3]]
    more = len(errors) - len(told)
    return " ".join(told) + (f" And {more} more." if more else "")


def _fault(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "body")
    said = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{place[:80]}: {said}." if place else f"{said}."


def identify(scope: Scope) -> str:
    """The request's id: given in the header X-Request-ID, or a new one."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == REQUEST_ID.encode()), "")
        state["request_id"] = given if SOUND_ID.fullmatch(given) else uuid.uuid4().hex
    return str(state["request_id"])


class _LastResort:
    """Around everything else: what nobody expected ends here, and not in the server's own words."""

    def __init__(self, app: ASGIApp, handle: Callable[[Request, Exception], Response]) -> None:
        self._app, self._handle = app, handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - the last one: there is nobody behind it to tell
            answer = self._handle(Request(scope), error)
            if started:  # half an answer must not look whole: the server cuts the connection
                raise ConnectionError("the answer broke off") from None
            await answer(scope, receive, send)
