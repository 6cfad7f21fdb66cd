"""Any application against its own OpenAPI document, by schemathesis: what it says of itself must be true of it.

keep_contract(app, headers={"Authorization": f"Bearer {TOKEN}"})       # raises at the first answer that breaks it
"""

from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tools.door import PROBLEM, told

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def keep_contract(
    app: Any, *, headers: dict[str, str] | None = None, examples: int = 15, busy: tuple[int, ...] = ()
) -> dict[str, int]:
    """Each operation with bodies and parameters that fit its document, then with some that do not. Whatever is no
    success must be a problem. How often it was asked, by operation.

    `busy`: statuses of 500 and more that may come, such as 503 of a service that is full.
    """
    asked: dict[str, int] = {}
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        operation = found.ok()
        _try(operation.as_strategy(GenerationMode.POSITIVE), asked, operation.label, headers or {}, examples, busy)
        with suppress(Unsatisfiable):  # where there is neither parameter nor body, nothing can be wrong with them
            _try(operation.as_strategy(GenerationMode.NEGATIVE), asked, operation.label, headers or {}, examples, busy)
    return asked


def _try(
    cases: Any, asked: dict[str, int], label: str, headers: dict[str, str], examples: int, busy: tuple[int, ...]
) -> None:
    @given(cases)
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def attempt(case: Case) -> None:
        asked[label] = asked.get(label, 0) + 1
        response = case.call(headers=headers)
        if response.status_code not in busy:
            case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            kinds = response.headers["content-type"]
            assert kinds == [PROBLEM], f"{label}: {response.status_code} is told as {kinds}"
            told(_plain(response))

    attempt()


def _plain(response: Any) -> Any:
    import httpx

    return httpx.Response(response.status_code, headers={"content-type": PROBLEM}, content=response.content)
