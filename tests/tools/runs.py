"""A training run to be killed: one in a session of its own, started, watched, ended; or one in this process."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fahr import store
from fahr.config import Options
from fahr.training.journal import read_rows

ROOT = Path(__file__).resolve().parents[2]
STEPS = 150
PRETRAINING: dict[str, Any] = {
    "model": "vit_tiny", "patch": 8, "samples": 16 * STEPS, "global_batch": 16, "micro_batch": 8, "base_lr": 1e-3,
    "decoder": {"width": 32, "depth": 1, "num_heads": 2}, "judgements": 2, "judged_faces": 24, "precision": "fp32",
    "threads": 1, "checkpoint_minutes": 0.01, "cpus_per_worker": 0.5, "memory_per_worker": 0.1,
}  # fmt: skip
# Ray's own helpers that these tests have no use for: each is a process, which takes seconds to load. A node that is
# announced to go (tests/jobs/test_drain_faults.py) is the business of the watcher; a submitted job has them all.
FEWER_PROCESSES = {
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# So that a pretraining run lasts while machines come and go: one face at a time, the same sums in another order.
SLOWLY: dict[str, Any] = {"micro_batch": 1, "cpus_per_worker": 1}


def start_run(job: str, options: Options, output: str) -> subprocess.Popen[str]:
    """`python jobs/JOB.py` with these options, a file beside the output."""
    place = f"{output}.yaml"
    options.write(place)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | FEWER_PROCESSES
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


def kill_all(run: subprocess.Popen[str]) -> str:
    os.killpg(run.pid, signal.SIGKILL)
    return run.communicate()[0]


def ended(run: subprocess.Popen[str]) -> str:
    told = run.communicate(timeout=300)[0]
    assert run.returncode == 0, told[-4000:]
    return told


def curve(output: str) -> np.ndarray:
    """(steps, 3): step, loss, gradient norm."""
    rows = [row for row in read_rows(output) if row["kind"] == "step"]
    return np.array([(row["step"], row["loss"], row["grad_norm"]) for row in rows])


def assert_same_curve(found: np.ndarray, expected: np.ndarray) -> None:
    """Each step once, with the loss it should have: workers add in another order, no more."""
    assert found[:, 0].tolist() == expected[:, 0].tolist()
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=2e-4)


# A job of work units


def markers(output: str) -> dict[str, bytes]:
    """Of the units that are done."""
    if not store.is_s3(output) and not os.path.isdir(f"{output}/units/done"):
        return {}
    return {entry.location: store.read_bytes(entry.location) for entry in store.list_files(f"{output}/units/done")}


def kill_rounds(start: Callable[[], subprocess.Popen[str]], output: str, units: int, *, rounds: int, seed: int) -> None:
    """Kill -9 the driver and all it started once so many more of the `units` are done, `rounds` times."""
    draw = random.Random(seed)
    for _ in range(rounds):
        before = markers(output)
        wanted = max(1, min(len(before) + draw.randint(0, 3), units - 1))
        run = start()
        wait_for(lambda wanted=wanted: len(markers(output)) >= wanted, run, seconds=500)
        kill_all(run)
        assert before.items() <= markers(output).items(), "a finished unit was touched"


# On a cluster of several nodes


# Ray's own end looks for what lay on a node that is gone, and fails; `apart` ends its processes.
ALONE = """
import os, runpy, sys
runpy.run_path(sys.argv[1])[sys.argv[2]](*sys.argv[3:])
sys.stdout.flush()
os._exit(0)
"""


def apart(place: str, name: str, *given: str, seconds: float = 1200) -> str:
    """What function `name` of the file `place` prints, called in a Python of its own that has seen no Ray yet."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    with tempfile.TemporaryFile("w+") as told:  # no pipe: Ray's processes, which outlive it, would hold its end
        run = subprocess.Popen(
            [sys.executable, "-c", ALONE, place, name, *given], cwd=ROOT, env=environment, stdout=told,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = run.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        told.seek(0)
        said = told.read()
    assert status == 0, f"{'not in time' if status is None else status}: {said[-4000:]}"
    return said


class Beside:
    """A job in a thread, while this one, which has to be the main one, starts and stops Ray's nodes."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self._failed = ""
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], Any]) -> None:
        try:
            job()
        except BaseException:  # noqa: BLE001 - kept for the thread that waits for it
            self._failed = traceback.format_exc()

    def until(self, what: Callable[[], Any], seconds: float = 400) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert self._thread.is_alive(), f"the job has ended before: {self._failed}"
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.05)
        return found

    def end(self, seconds: float = 900) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"not ended within {seconds} s"
        assert not self._failed, self._failed


# In this process


class Pulled(BaseException):
    """The plug: nothing that a run does about errors may help it."""


@contextmanager
def plug_pulled(owner: Any, name: str, after: int = 0) -> Iterator[None]:
    """What runs within stops dead when it calls `owner.name` after so many calls that went well."""
    real, seen = getattr(owner, name), 0

    def pull(*given: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > after:
            raise Pulled
        return real(*given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Pulled):
        patch.setattr(owner, name, pull)
        yield
