"""A running service under load: clients in threads, its replicas, and waiting for a condition."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from fahr.cohorts.synthetic import CohortOptions, jpeg, render_face

# No bar of anything: how long to wait for what must come, on a machine that does several other things. A process that
# loads torch took a minute there, where it takes eight seconds alone.
PATIENCE_S = 240.0


def photo_of(number: int, *, size_px: int = 320) -> bytes:
    """A JPEG of a rendered person."""
    options = CohortOptions(size_px=size_px)
    drawn = render_face(seed=0, subject=number, photo=0, apparent_age=40.0 + number, frailty=0.0, options=options)
    return jpeg(drawn.image, 92)


class Load:
    """Clients in threads, each asking again when it has its answer, until the block ends."""

    def __init__(self, url: str, photo: bytes, clients: int, path: str = "/v1/face-age") -> None:
        self.answers: list[tuple[int, float, str]] = []  # status, seconds, body
        self._url, self._photo, self._over = url + path, photo, threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(90)
            assert not each.is_alive(), "a client never had its answer"

    def _ask(self) -> None:
        with httpx.Client(timeout=80, trust_env=False) as http:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    reply = http.post(self._url, files={"photo": self._photo})
                    told = (reply.status_code, time.monotonic() - began, reply.text)
                except httpx.HTTPError as error:
                    told = (0, time.monotonic() - began, repr(error))
                self.answers.append(told)
                if told[0] == 503:
                    time.sleep(0.05)

    def told(self) -> list[dict[str, Any]]:
        """The answers, without the refusals."""
        return [json.loads(body) for status, _, body in self.answers if status == 200]

    def spread(self) -> float:
        """Years between the answers to one photo; of each model by itself."""
        ages: dict[str, list[float]] = {}
        for each in self.told():
            ages.setdefault(each["model"]["digest"], []).append(each["face_age"])
        return max(max(some) - min(some) for some in ages.values())

    def statuses(self) -> set[int]:
        return {status for status, _, _ in self.answers}


def replicas(name: str) -> list[str]:
    """Names of the running replicas of a deployment, which are Ray actors."""
    import ray
    from ray import serve

    running = serve.status().applications["fahr"].deployments[name].replica_states.get("RUNNING", 0)
    named = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    found = sorted(each for each in named if each and each.startswith(f"SERVE_REPLICA::fahr#{name}#"))
    return found[: int(running)] if len(found) > running else found


def until(what: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:g} s")


def resident_mib(process: int | str = "self") -> float:
    """Memory of a process that is its own or shared, now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
