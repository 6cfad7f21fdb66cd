"""A Ray head of its own, with its jobs API and a token, for what the session's cluster has not: submitted jobs.

with running_head(home) as head: ...       # head.environment for processes, head.address of the API
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from jobs._local_ray import SLOW, STARTS

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


class Head(NamedTuple):
    environment: dict[str, str]
    address: str  # http://, of the dashboard and the jobs API
    gcs: str  # for RAY_ADDRESS

    def told(self, path: str) -> Any:
        """What the dashboard says there, as JSON."""
        asked = urllib.request.Request(self.address + path)
        asked.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def running_head(home: Path, cpus: int = 4) -> Iterator[Head]:
    """Its token lies in the private `home`."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as session:  # Unix sockets: a short path
        yield from _running(home, Path(session), cpus)


def _running(home: Path, session: Path, cpus: int) -> Iterator[Head]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-for-this-test",
        "RAY_TMPDIR": str(session),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    port, dashboard, agent = free_port(), free_port(), free_port()
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--num-cpus={cpus}",
        "--object-store-memory=200000000", "--disable-usage-stats",
        # The agent that takes submissions has a fixed port, which another Ray on this machine holds.
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={free_port()}",
    ]  # fmt: skip
    for left in reversed(range(STARTS)):
        with (session / "head.log").open("w") as log:
            node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                if _is_up((dashboard, agent), node, session / "head.log", again=left > 0):
                    yield Head(environment, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}")
                    return
            finally:
                _end(node)


def _end(node: subprocess.Popen[bytes]) -> None:
    """The head and what it started, nothing else."""
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGTERM)
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_up(ports: Sequence[int], node: subprocess.Popen[bytes], log: Path, *, again: bool) -> bool:
    """Waits until both answer: the dashboard does before the agent that runs the jobs. No: it was too slow for Ray."""
    deadline = time.monotonic() + 120
    for port in ports:
        while not _answers(port):
            if node.poll() is not None:
                if again and SLOW in log.read_text():
                    return False
                raise RuntimeError(f"the head ended: {log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError("the head did not come up in 120 s")
            time.sleep(0.2)
    return True


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=2)
    except urllib.error.HTTPError:
        return True  # it asks for the token, or has no such page: it is up
    except OSError:
        return False
    return True
