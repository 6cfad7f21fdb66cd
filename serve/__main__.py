"""The service on this machine: a Ray of its own, the application, until Ctrl-C or SIGTERM. What `make serve` runs.

python -m serve --models out/demo/models/age out/demo/models/survival
python -m serve --models runs/age/checkpoint --detector mtcnn --port 8080 --data-roots /data --results out/cohorts
"""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from math import ceil
from typing import Any, Literal

import ray
from pydantic import Field, ValidationError
from ray import serve

from fahr.config import JobOptions, Location, option, run_job
from fahr.errors import Refused
from jobs._local_ray import start_ray
from serve import door, tokens
from serve.aligning import Aligning
from serve.app import INGRESS_CPUS, bind
from serve.problems import sentence
from serve.settings import ServeSettings

OBJECT_STORE_BYTES = 512 << 20
CORES = os.cpu_count() or 1
AGENT_PORT = 52365  # of what takes Ray's jobs, which are cohorts; `ray.init` has no word for another one
LATER_S = 5  # than our own time-out, which is told as a problem: Serve's words are a backstop
# Read by each of Ray's processes when it starts. docs/serve.md has what each brings.
ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # Ray gives way to everybody by default (15); this machine is for this
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


class Options(JobOptions):
    """The service on this machine. Research use only.

    python -m serve --models out/demo/models/age out/demo/models/survival
    """

    models: list[str] = Field(min_length=1, description="checkpoints: an age model, a survival model, or both")
    host: str = option("127.0.0.1", help="where to listen; others than this machine need a token", result=False)
    port: int = option(8000, help="where to listen", ge=1, le=65535, result=False)
    tokens: Location | None = option(
        None, help="file of bearer tokens, one a line", off="none: the variable FAHR_TOKENS", result=False
    )
    detector: str | None = option(None, help="what finds a face", off="none: the one that the checkpoint names")
    precision: Literal["bf16", "fp32"] = option("bf16", help="of the network; heads are fp32 always")
    results: Location | None = option(None, help="folder for cohorts", off="none: no cohorts", result=False)
    data_roots: list[Location] = option(
        [], help="folders or prefixes that manifests of cohorts may be under", off="empty: none", result=False
    )

    most_replicas: int = option(
        max(1, min(4, CORES // 2)),
        help="processes that read photos and score them, under load",
        unit="processes",
        ge=1,
        result=False,
    )

    def settings(self) -> ServeSettings:
        given: dict[str, Any] = {
            name: getattr(self, name) for name in ("models", "host", "tokens", "detector", "precision")
        }
        given["together"] = True
        given["cohorts"] = {"results": self.results, "data_roots": self.data_roots}
        given["backbone"] = {"batch": 16, "most_replicas": self.most_replicas}
        try:
            return ServeSettings.model_validate(given)
        except ValidationError as error:
            raise Refused(sentence(error.errors())) from error


def main(options: Options) -> None:
    """Start, tell when it is ready, and stay."""
    settings = options.settings()
    tokens.for_host(settings.host, file=settings.tokens)  # refused before Ray starts
    cpus = logical_cpus(settings)
    print(f"serve: {len(settings.models)} models, {cpus} logical CPUs for all replicas that there may be")
    if options.dry_run:
        return
    began = time.monotonic()
    if why := taken(options.host, options.port):
        raise Refused(f"port {options.port} of {options.host}: {why}. Give another --port.")
    with tempfile.TemporaryDirectory() as folder:
        connect(settings, folder)
        stay(settings, options, began)


def stay(settings: ServeSettings, options: Options, began: float) -> None:
    """Until somebody ends it."""
    try:
        start(settings, options.port)
        ended = threading.Event()
        for each in (signal.SIGINT, signal.SIGTERM):  # from here on the end is not an accident
            signal.signal(each, lambda *_: ended.set())
        print(f"serve: ready after {time.monotonic() - began:.0f} s at {address(options)} (Ctrl-C ends it)", flush=True)
        ended.wait()
        print("serve: ending; what is being answered is finished", flush=True)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def taken(host: str, port: int) -> str:
    """Why nobody can listen there; empty: one can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def connect(settings: ServeSettings, folder: str) -> None:
    """A Ray of this process's own, with HAProxy at its door; `folder` is kept as long as it runs."""
    if settings.cohorts.results is not None and taken("127.0.0.1", AGENT_PORT):
        print(
            f"serve: port {AGENT_PORT} is held, by another Ray on this machine: POST /v1/cohorts will answer 503. For "
            "cohorts end that one and start this again.",
            flush=True,
        )
    wanted = ENVIRONMENT | door.prepare(folder)
    os.environ.update({name: os.environ.get(name, value) for name, value in wanted.items()})
    start_ray(
        num_cpus=logical_cpus(settings),
        include_dashboard=settings.cohorts.results is not None,  # it has the jobs API, on 127.0.0.1 with Ray's token
        object_store_memory=OBJECT_STORE_BYTES,
    )


def start(settings: ServeSettings, port: int, aligning: type = Aligning) -> None:
    """The application on the Ray that this process is connected to; returns when it answers."""
    serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": settings.host,
            "port": port,
            "request_timeout_s": settings.limits.request_seconds + LATER_S,
        },
    )
    serve.run(bind(settings, aligning), name="fahr", route_prefix="/")


def logical_cpus(settings: ServeSettings) -> int:
    """What all replicas there may ever be reserve, one more of each that starts before an old one ends, and cohorts."""
    cohorts = sum(each["CPU"] for each in settings.cohorts.bundles()) if settings.cohorts.results else 0
    backbones = settings.backbone.cpus * (settings.backbone.most_replicas + 1)
    if settings.together:
        return ceil(backbones + cohorts)
    aligners = settings.aligner.cpus * (settings.aligner.most_replicas + 1)
    return ceil(len(settings.models) * backbones + aligners + INGRESS_CPUS * (settings.ingress_replicas + 1) + cohorts)


def address(options: Options) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{options.port}"


if __name__ == "__main__":
    from serve.__main__ import Options, main

    sys.argv[0] = "serve"
    run_job(Options, main)
