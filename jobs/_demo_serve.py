"""The last stage of the demo: the service comes up with the demo's models, each endpoint answers once, it goes down.

    answers = ask_each(models, photos, place)

It is `python -m serve` itself, a process of its own on a port of 127.0.0.1 that was free; whatever happens, it has
ended when this returns.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from fahr import store
from fahr.client import Client

ROOT = Path(__file__).resolve().parents[1]
READY_S = 180  # of patience; a cold start takes a quarter of it
ENDED_S = 60


def ask_each(models: Sequence[str], photos: Sequence[bytes], taken_on: Sequence[date], place: str) -> dict[str, Any]:
    """One call of each endpoint, with photos of one person at ages years apart; answers and seconds."""
    answers: dict[str, Any] = {}
    began = time.monotonic()
    with running(models, place) as client:
        answers["ready_s"] = round(time.monotonic() - began, 1)
        print(f"endpoints: ready after {answers['ready_s']:.0f} s")
        for name, call in (
            ("face-age", lambda: client.face_age(photos[:1])),
            ("survival-risk", lambda: client.survival_risk(photos[:1])),
            ("face-aging-rate", lambda: client.face_aging_rate(photos, taken_on)),
        ):
            asked = time.monotonic()
            answer = call()
            answers[name] = {"seconds": round(time.monotonic() - asked, 3), "answer": answer.model_dump(mode="json")}
        age, risk, rate = (answers[name]["answer"] for name in ("face-age", "survival-risk", "face-aging-rate"))
        print(
            f"endpoints: POST /v1/face-age: {age['face_age']:.1f} years; /v1/survival-risk: {risk['risk']:+.2f} SD; "
            f"/v1/face-aging-rate: {rate['face_aging_rate']:.2f} years a year over {rate['interval_days']} days"
        )
    store.write_bytes(store.join(place, "answers.json"), (json.dumps(answers, indent=1) + "\n").encode())
    return answers


@contextmanager
def running(models: Sequence[str], place: str) -> Iterator[Client]:
    """A client of a service that is ready. Its words go to PLACE/serve.log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, "serve.log"), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", "--port", str(port), "--models", *models],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for the demo, which ends the service itself
        )  # fmt: skip
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                _wait(client, process, log.name)
                yield client
        finally:
            _end(process)


def _wait(client: Client, process: "subprocess.Popen[bytes]", log: str) -> None:
    """Until it would answer."""
    patience = time.monotonic() + READY_S
    while not client.ready():
        if process.poll() is not None or time.monotonic() > patience:
            words = "\n".join(Path(log).read_text(errors="replace").splitlines()[-20:])
            how = f"ended with {process.returncode}" if process.poll() is not None else f"not ready in {READY_S} s"
            raise RuntimeError(f"the service {how}; its last words:\n{words}")
        time.sleep(0.5)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C would; by force, with all that it started, where that is not enough."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(ENDED_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
