"""Requests a second over HTTP: the Ray Serve application against plain servers of the same model, and a bare loop.

python benchmarks/serve.py [SECONDS] [ROUNDS] [--model vit_base] [--photos]

One JPEG a request, bf16, closed loop at 1, 8 and 32 clients, then a fixed offered load and an overload. All servers
are up at once and take turns, a window of SECONDS each, ROUNDS times; what Ray takes while idle is told. By default a
request is an aligned face, so that the network is what is measured; `--photos` sends whole photos: detect, align,
score, against the same code under uvicorn alone. The client is this process, on the same cores. Beside each rate is
the CPU time of an answer, of all processes of a server: on a machine that others use it is what can be compared.

  ray serve        as `python -m serve`: all in one process behind HAProxy (the aligner only decodes, without --photos)
  ray serve, apart (--only) as on a cluster behind Ray's own proxy: ingress, aligner and backbone a deployment each
  fastapi, batched what a good engineer writes: one process, a queue, a batch of whatever waits
  fastapi, 1 by 1  what one writes first: one process, a face at a time
  same code, plain (--photos) our own ingress, aligner and backbone in one process, without Ray
  litserve         where it is installed (.venv-bench), batches of 16 within 5 ms
  bare loop        no HTTP: decode and score in batches of 16
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _http import Window, ask, closed_loop, offered, posted
from _rounds import median_range

from fahr.cohorts.synthetic import CohortOptions, jpeg, render_face
from fahr.faces import AlignedFace, Rejection
from fahr.faces.quality import QUALITY_FIELDS, Quality
from fahr.faces.rows import decode, encode
from fahr.models import create, load, save
from fahr.scoring import Scorer

# This file is called as the package that it measures: its folder must be the last where anybody looks for `serve`.
sys.path.append(sys.path.pop(sys.path.index(str(Path(__file__).resolve().parent))))

BATCH, DISTINCT = 16, 64
RETRY_AFTER_S = 1
CLIENTS = (1, 8, 32)
ROOT = Path(__file__).resolve().parents[1]
LITSERVE = ROOT / ".venv-bench" / "bin" / "python"
PATH = "/v1/face-age"


# What is sent


def make_model(folder: str, name: str) -> str:
    """Random weights, with a head whose answers spread over years."""
    model = create(name, patch=16, size=112, task="age", seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(0)))
        model.head.bias.fill_(50.0)
    save(model, f"{folder}/age", config={"detector": "mtcnn", "metrics": {"flip": False}})
    return f"{folder}/age"


def make_files(whole: bool) -> list[bytes]:
    """Rendered people: photos of 480 px, or faces of 112 px as jobs/align.py keeps them."""
    options = CohortOptions(size_px=480 if whole else 256)
    made = []
    for number in range(DISTINCT):
        face = render_face(seed=0, subject=number, photo=0, apparent_age=20.0 + number, frailty=0.0, options=options)
        small = np.asarray(cv2.resize(face.image, (112, 112), interpolation=cv2.INTER_AREA), np.uint8)
        made.append(jpeg(face.image, 90) if whole else encode(small, "jpeg"))
    return made


# The servers, each a process of its own: python benchmarks/serve.py --server NAME ...


def age_of(data: bytes) -> np.ndarray:
    pixels, why = decode(np.frombuffer(data, np.uint8))
    assert pixels is not None, why
    return pixels


def one_by_one(place: str, port: int, whole: bool) -> None:
    """FastAPI as its pages show it: a plain function, which runs in a pool of threads; the model is one at a time."""
    import threading

    import uvicorn
    from fastapi import FastAPI, UploadFile

    torch.set_num_threads(os.cpu_count() or 1)
    scorer, lock, app = Scorer(load(place), batch=1), threading.Lock(), FastAPI()

    @app.post(PATH)
    def face_age(photo: UploadFile) -> dict[str, float]:
        pixels = age_of(photo.file.read())
        with lock:
            return {"face_age": float(scorer.predict([pixels])[0])}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def micro_batched(place: str, port: int, whole: bool) -> None:
    """FastAPI with a queue: whatever waits when the model is free goes together, in one thread."""
    from concurrent.futures import ThreadPoolExecutor

    import uvicorn
    from fastapi import FastAPI, UploadFile

    @contextlib.asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    torch.set_num_threads(os.cpu_count() or 1)
    scorer, app, thread = Scorer(load(place), batch=BATCH), FastAPI(lifespan=working), ThreadPoolExecutor(1)
    queue: asyncio.Queue[tuple[bytes, asyncio.Future[float]]] = asyncio.Queue()

    def score(files: list[bytes]) -> list[float]:
        scorer.batch = len(files)
        return [float(each) for each in scorer.predict([age_of(file) for file in files])]

    async def work() -> None:
        while True:
            batch = [await queue.get()]
            while not queue.empty() and len(batch) < BATCH:
                batch.append(queue.get_nowait())
            said = await asyncio.get_running_loop().run_in_executor(thread, score, [file for file, _ in batch])
            for (_, future), each in zip(batch, said, strict=True):
                future.set_result(each)

    @app.post(PATH)
    async def face_age(photo: UploadFile) -> dict[str, float]:
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        await queue.put((await photo.read(), future))
        return {"face_age": await future}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


class Cropped:
    """Stands for the aligner where a request is a face already: it decodes."""

    def __init__(self, cuts: Any, **given: Any) -> None:
        self.quality = Quality(**dict.fromkeys(QUALITY_FIELDS, 50.0))

    async def align(self, photos: Sequence[bytes], cut: Any) -> list[AlignedFace | Rejection]:
        nowhere = np.zeros((5, 2))
        return [
            AlignedFace(
                age_of(each), nowhere, np.zeros(4), 1.0, 1, self.quality, cut.convention, cut.detector, 112, 112
            )
            for each in photos
        ]

    async def ready(self) -> bool:
        return True

    async def check_health(self) -> None:
        pass


def _settings(place: str, together: bool = True) -> Any:
    from serve.settings import ServeSettings

    return ServeSettings.model_validate(
        {"models": place, "host": "127.0.0.1", "aligner": {"batch": 8, "most_replicas": 1},
         "backbone": {"batch": BATCH, "most_replicas": 1},
         "together": together}
    )  # fmt: skip


def same_code(place: str, port: int, whole: bool) -> None:
    """Our ingress, aligner and backbone in one process. Its log is written, and thrown away."""
    import logging

    import uvicorn

    from serve.aligning import Aligning
    from serve.api import make_api
    from serve.app import plan_routes
    from serve.backbone import Backbone
    from serve.service import Service

    for handler in (log := logging.getLogger("ray.serve")).handlers[:]:
        log.removeHandler(handler)
    log.addHandler(logging.FileHandler(os.devnull))
    log.propagate = False
    settings = _settings(place)
    routes, plans = plan_routes(settings)
    aligner = (Aligning if whole else Cropped)([plan.cut for plan in plans.values()], **settings.of_aligner())
    backbone = Backbone(**settings.of_backbone())
    asyncio.run(backbone.reconfigure({"models": [place]}))
    service = Service(settings, align=aligner.align, score={"age": backbone.score})
    service.route([route.model_dump() for route in routes])
    uvicorn.run(make_api(service, settings, None), host="127.0.0.1", port=port, log_level="warning")


def ray_serve(place: str, port: int, whole: bool) -> None:
    """As `python -m serve` has it."""
    _on_ray(_settings(place), port, whole)


def ray_apart(place: str, port: int, whole: bool) -> None:
    """As on a cluster: a deployment each."""
    _on_ray(_settings(place, together=False), port, whole)


def _on_ray(settings: Any, port: int, whole: bool) -> None:
    import ray
    from ray import serve

    from serve.__main__ import connect, start
    from serve.aligning import Aligning

    with tempfile.TemporaryDirectory() as folder:
        connect(settings, folder)
        start(settings, port, Aligning if whole else Cropped)
        signal.sigwait([signal.SIGTERM, signal.SIGINT])
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def litserve(place: str, port: int, whole: bool) -> None:
    """As its pages show it."""
    from _litserve import serve_with

    serve_with(place, port, PATH, BATCH)


SERVERS: dict[str, Callable[[str, int, bool], None]] = {
    "ray serve": ray_serve,
    "ray serve, apart": ray_apart,
    "fastapi, batched": micro_batched,
    "fastapi, 1 by 1": one_by_one,
    "same code, plain": same_code,
    "litserve": litserve,
}


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    ready_s: float = 0.0

    def cpu_seconds(self) -> float:
        """Of all processes of its session."""
        return sum(int(stat[11]) + int(stat[12]) for stat, _ in self._processes()) / os.sysconf("SC_CLK_TCK")

    def own_mib(self) -> float:
        """Memory that its processes share with nobody."""
        pages = sum(int(statm[1]) - int(statm[2]) for _, statm in self._processes())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _processes(self) -> Iterator[tuple[list[str], list[str]]]:
        """What /proc says of each in its session: stat from the state on, and statm."""
        for place in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if place.name.isdigit():
                    stat = (place / "stat").read_text().rpartition(")")[2].split()
                    if int(stat[3]) == self.process.pid:
                        yield stat, (place / "statm").read_text().split()


@contextlib.contextmanager
def running(names: Sequence[str], place: str, whole: bool) -> Iterator[list[Server]]:
    """One after the other, so that each starts on an idle machine."""
    servers: list[Server] = []
    try:
        for name in names:
            port = free_port()
            python = str(LITSERVE) if name == "litserve" else sys.executable
            command = [python, __file__, "--server", name, "--place", place, "--port", str(port)]
            began = time.perf_counter()
            process = subprocess.Popen([*command, *(["--photos"] if whole else [])], start_new_session=True)
            servers.append(Server(name, port, process))
            wait_for(servers[-1], posted(make_files(whole)[0], port, PATH))
            servers[-1].ready_s = time.perf_counter() - began
            print(f"  {name:18s} first answer after {servers[-1].ready_s:.0f} s")
        yield servers
    finally:
        for server in servers:
            server.process.terminate()  # it ends what it started
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)


def wait_for(server: Server, request: bytes) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.process.poll() is None, f"{server.name} ended"
        try:
            if asyncio.run(ask(server.port, request, [])) == 200:
                return
        except OSError:
            pass
        except asyncio.IncompleteReadError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{server.name} did not answer in 180 s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The measurement


def bare_loop(place: str, files: Sequence[bytes], seconds: float) -> Window:
    """Batches of 16 in this process."""
    scorer, window, end = Scorer(load(place), batch=BATCH), Window(seconds), time.perf_counter() + seconds
    scorer.predict([age_of(file) for file in files[:BATCH]])
    while (began := time.perf_counter()) < end:
        scorer.predict([age_of(file) for file in files[:BATCH]])
        window.latencies += [time.perf_counter() - began] * BATCH
    return window


def overload(title: str, window: Window) -> None:
    p50, p99 = np.percentile(window.refused or [np.nan], [50, 99]) * 1000
    print(
        f"overload, {title}: {len(window.latencies)} answers, {len(window.refused)} x 503, p50 {p50:.0f} ms, "
        f"p99 {p99:.0f} ms, others {sorted(set(window.statuses) - {200, 503})}"
    )


def measure(servers: Sequence[Server], place: str, whole: bool, seconds: float, rounds: int) -> None:
    files = make_files(whole)
    requests = {server.name: [posted(file, server.port, PATH) for file in files] for server in servers}
    ours = servers[0]
    answered, memory = 0, []  # of ours: how many, and what it held then

    def turn(title: str, load: Callable[[Server], Awaitable[Window]]) -> dict[str, list[Window]]:
        made: dict[str, list[Window]] = {server.name: [] for server in servers}
        nonlocal answered
        for number in range(rounds + 1):
            for server in servers:
                before = server.cpu_seconds()
                window = asyncio.run(load(server))  # type: ignore[arg-type]
                window.cpu_s = server.cpu_seconds() - before
                if number:  # the first round warms up
                    made[server.name].append(window)
                if server is ours:
                    answered += len(window.latencies)
        memory.append(f"{ours.own_mib():,.0f} MiB after {answered:,}")
        print(f"{title}: {rounds} interleaved windows of {seconds:g} s, median [range]")
        for name, windows in made.items():
            rates = [each.rate for each in windows]
            middle = sorted(windows, key=lambda each: each.rate)[len(windows) // 2]
            pairs = [mine.rate / each.rate for mine, each in zip(made[ours.name], windows, strict=True) if each.rate]
            versus = "" if name == ours.name else f"   ours is {median_range(pairs)}x"
            print(f"  {name:18s} {median_range(rates, 1):>22s}/s   {middle.told()}{versus}")
        return made

    fastest = 0.0
    for clients in CLIENTS:
        made = turn(
            f"closed loop, {clients} clients",
            lambda server, clients=clients: closed_loop(server.port, requests[server.name], clients, seconds),
        )
        fastest = statistics.median(each.rate for each in made[ours.name])
    if not whole:
        loops = [bare_loop(place, files, seconds).rate for _ in range(rounds)]
        print(
            f"  {'bare loop':18s} {median_range(loops, 1):>22s}/s   ours is {fastest / statistics.median(loops):.2f}x"
        )
    half = fastest / 2
    turn(f"offered {half:.0f} requests/s", lambda server: offered(server.port, requests[server.name], half, seconds))
    crowd = closed_loop(ours.port, requests[ours.name], 200, 2 * seconds, rest=RETRY_AFTER_S)
    overload("200 clients at once, who come again as Retry-After says", asyncio.run(crowd))
    twice = offered(ours.port, requests[ours.name], 2 * fastest, 2 * seconds)
    overload(f"{2 * fastest:.0f} requests/s, twice what it answers", asyncio.run(twice))
    print(f"memory of ours, all of Ray's processes: {', '.join(memory)} answers")
    before, began = ours.cpu_seconds(), time.perf_counter()
    time.sleep(5)
    print(f"idle: Ray takes {(ours.cpu_seconds() - before) / (time.perf_counter() - began):.0%} of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=8.0)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--model", default="vit_base", help="size of the network")
    parser.add_argument("--photos", action="store_true", help="whole photos: detect, align, score")
    parser.add_argument("--only", nargs="*", choices=SERVERS, help="these servers, ours first")
    parser.add_argument("--server", choices=SERVERS, help="be this server (for the benchmark itself)")
    parser.add_argument("--place", help="with --server: the checkpoint")
    parser.add_argument("--port", type=int, help="with --server: where to listen")
    options = parser.parse_args()
    if options.server:
        SERVERS[options.server](options.place, options.port, options.photos)
        return
    names = options.only or (
        ["ray serve", "same code, plain"] if options.photos else ["ray serve", "fastapi, batched", "fastapi, 1 by 1"]
    )
    if not options.only and not options.photos:
        if LITSERVE.exists():
            names.append("litserve")
        else:
            print("litserve: not installed in .venv-bench, so not measured")
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        place = make_model(folder, options.model)
        with running(names, place, options.photos) as servers:
            measure(servers, place, options.photos, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
