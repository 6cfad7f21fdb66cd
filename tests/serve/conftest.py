"""What tests of the service share: models, photos of rendered people, and one application on the session's cluster."""

import socket
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from tools.head import Head, running_head
from tools.models import checkpoint
from tools.service import photo_of


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


@pytest.fixture(scope="package")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """What the session's cluster has not: a dashboard, and the jobs API."""
    with running_head(tmp_path_factory.mktemp("home")) as made:
        yield made


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
        "models": list(models.values()), "host": "127.0.0.1", "precision": "fp32", "most_in_flight": 40,
        "drain_s": 5,
        "aligner": {
            "batch": 8, "cpus": 0.1, "threads": 1, "most_replicas": 2, "upscale_delay_s": 1,
            "downscale_delay_s": 4,
        },
        "backbone": {"batch": 16, "cpus": 0.1, "threads": 1, "most_replicas": 1},
    }  # fmt: skip
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 65})
    try:
        serve.run(build(ServeSettings.model_validate(settings)), name="fahr", route_prefix="/")
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Served(http, url)
    finally:
        serve.shutdown()
