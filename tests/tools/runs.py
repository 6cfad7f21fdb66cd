"""A training run in a session of its own, to be killed: started, watched, ended."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fahr.config import Options

ROOT = Path(__file__).resolve().parents[2]


def start_run(job: str, options: Options, output: str) -> subprocess.Popen[str]:
    """`python jobs/JOB.py` with these options, a file beside the output."""
    place = f"{output}.yaml"
    options.write(place)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, f"jobs/{job}.py", "--config", place], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(what: Callable[[], Any], run: subprocess.Popen[str], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        assert run.poll() is None, (run.communicate()[0] or "")[-4000:]
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    raise AssertionError(f"not within {seconds} s: {run.communicate()[0][-4000:]}")


def newest(output: str) -> int:
    """Of the states under `output`/states, in samples."""
    if not os.path.isdir(f"{output}/states"):
        return 0
    found = (re.fullmatch(r"state-(\d+)\.safetensors", name) for name in os.listdir(f"{output}/states"))
    return max((int(each[1]) for each in found if each), default=0)


def workers_of(run: subprocess.Popen[str]) -> list[int]:
    """Ids of the training processes that this run started: its own session's, by the name that Ray gives them."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                name = (place / "cmdline").read_bytes().split(b"\0")[0]
                session = int((place / "stat").read_text().rpartition(")")[2].split()[3])
            except (OSError, IndexError):
                continue  # it has just ended
            if session == run.pid and b"RayTrainWorker" in name:
                found.append(int(place.name))
    return found


def kill_all(run: subprocess.Popen[str]) -> None:
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def ended(run: subprocess.Popen[str]) -> str:
    told = run.communicate(timeout=300)[0]
    assert run.returncode == 0, told[-4000:]
    return told
