"""What tests of the service share: models, photos of rendered people, and one application on the session's cluster."""

import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from fahr.cohorts.synthetic import CohortOptions, jpeg, render_face
from tools.models import checkpoint


def photo_of(number: int, *, size_px: int = 320) -> bytes:
    """A JPEG of a rendered person."""
    options = CohortOptions(size_px=size_px)
    drawn = render_face(seed=0, subject=number, photo=0, apparent_age=40.0 + number, frailty=0.0, options=options)
    return jpeg(drawn.image, 92)


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    return [photo_of(number) for number in range(6)]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {task: checkpoint(root / task, task, seed=seed) for seed, task in enumerate(("age", "survival"))}


class Served(NamedTuple):
    """The application over HTTP."""

    http: httpx.Client
    url: str
    settings: Any  # ServeSettings
    deploy: Callable[..., None]  # again, with other settings; returns when it runs


@pytest.fixture(scope="package")
def served(cluster: None, models: dict[str, str]) -> Iterator[Served]:
    """One instance of Serve for all tests, with replicas that reserve little of the session's four CPUs."""
    from ray import serve

    from serve.app import build
    from serve.settings import ServeSettings

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {
        "models": list(models.values()), "host": "127.0.0.1", "precision": "fp32", "most_in_flight": 64,
        "drain_s": 5, "aligner": {"batch": 8, "cpus": 0.1, "threads": 1, "most_replicas": 1},
        "backbone": {
            "batch": 16, "cpus": 0.1, "threads": 1, "most_replicas": 2, "upscale_delay_s": 2, "downscale_delay_s": 4,
        },
    }  # fmt: skip

    def deploy(**more: Any) -> None:
        serve.run(build(ServeSettings.model_validate({**settings, **more})), name="fahr", route_prefix="/")

    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 65})
    try:
        deploy()
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Served(http, url, ServeSettings.model_validate(settings), deploy)
    finally:
        serve.shutdown()
