"""Pretraining killed, cut off and squeezed: it goes on by itself or from the same line, and the curve is the same.

`make faults`. Each disturbed run is compared with one that nothing disturbed.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fahr import store
from fahr.training.journal import read_rows
from jobs import pretrain
from tools.faces import commit_faces, jpegs, pictures
from tools.runs import ended, kill_all, newest, start_run, wait_for, workers_of

ROOT = Path(__file__).resolve().parents[2]
STEPS = 150
SETTINGS = {
    "model": "vit_tiny", "patch": 8, "samples": 16 * STEPS, "global_batch": 16, "micro_batch": 8, "base_lr": 1e-3,
    "decoder": {"width": 32, "depth": 1, "num_heads": 2}, "judgements": 2, "judged_faces": 24, "precision": "fp32",
    "threads": 1, "checkpoint_minutes": 0.01, "cpus_per_worker": 0.5, "memory_per_worker": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("faults") / "aligned")
    commit_faces(folder, jpegs(pictures(96)))
    return folder


@pytest.fixture(scope="module")
def whole(faces: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    output = str(tmp_path_factory.mktemp("whole") / "run")
    pretrain.main(pretrain.Options.model_validate({**SETTINGS, "faces": faces, "output": output, "workers": 0}))
    return curve(output)


def curve(output: str) -> np.ndarray:
    """(steps, 3): step, loss, gradient norm."""
    rows = [row for row in read_rows(output) if row["kind"] == "step"]
    return np.array([(row["step"], row["loss"], row["grad_norm"]) for row in rows])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Each step once, with the loss it should have: workers add in another order, no more."""
    assert found[:, 0].tolist() == expected[:, 0].tolist()
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=2e-4)


def start(faces: str, output: str, **changes: Any) -> subprocess.Popen[str]:
    options = pretrain.Options.model_validate({**SETTINGS, "faces": faces, "output": output, **changes})
    return start_run("pretrain", options, output)


@pytest.mark.faults
def test_a_worker_that_is_killed_comes_back_by_itself_and_soon(faces: str, whole: np.ndarray, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    run = start(faces, output, workers=2)
    wait_for(lambda: newest(output) >= 16 * 10, run)
    victims = workers_of(run)
    os.kill(victims[-1], signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: set(workers_of(run)) - set(victims), run)  # new ones
    told = ended(run)
    print(f"killed to ended: {time.monotonic() - killed:.0f} s")
    assert "goes on from sample" in told, told[-3000:]
    ready = float(re.findall(r"goes on from sample .* ready in (\d+) s", told)[-1])
    assert ready < 60, "the first step after a resume has to come within a minute"
    assert_same(curve(output), whole)


@pytest.mark.faults
def test_killed_with_all_its_processes_and_gone_on_with_by_two_one_and_two_workers(
    faces: str, whole: np.ndarray, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    positions = []
    for workers, until in ((2, 30), (0, 80)):
        run = start(faces, output, workers=workers)
        wait_for(lambda until=until: newest(output) >= 16 * until, run)
        kill_all(run)
        positions.append(newest(output))
    assert positions[1] > positions[0] and not os.path.exists(f"{output}/ledger.json")
    told = ended(start(faces, output, workers=2))
    assert re.search(r"goes on from sample 1,\d{3}, workers 2, ready in", told), told[-3000:]
    assert_same(curve(output), whole)
    counts = [row["workers"] for row in read_rows(output) if row["kind"] == "step"]
    assert counts[0] == 2 and counts[40] in (1, 2) and 1 in counts and counts[-1] == 2


@pytest.mark.faults
def test_a_store_that_is_gone_for_a_minute_stops_nothing(
    faces: str, whole: np.ndarray, bucket: str, real_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outage begins at step 20; steps go on while it lasts, which the times of the rows show."""
    window = pretrain.run.__globals__["_Window"]
    row, times, timers = window.row, {}, []

    def noted(self: Any, metrics: Any, desk: Any) -> dict[str, Any]:
        times[metrics.step] = time.monotonic()
        if metrics.step == 20:
            timers.append(real_store.outage(60))
        return row(self, metrics, desk)

    monkeypatch.setattr(window, "row", noted)
    output = f"{bucket}/run"
    chosen = {**SETTINGS, "faces": faces, "output": output, "workers": 0, "cache": str(tmp_path / "cache")}
    try:
        pretrain.main(pretrain.Options.model_validate(chosen))
    finally:
        for timer in timers:
            timer.join()
    during = [step for step, when in times.items() if times[20] < when < times[20] + 60]
    assert len(during) > 20, "training stood still while the store was gone"
    np.testing.assert_array_equal(curve(output), whole)
    assert store.exists(f"{output}/checkpoint/config.json") and store.exists(f"{output}/reconstructions.png")


@pytest.mark.faults
def test_a_full_disk_ends_the_run_with_its_reason_and_it_goes_on_with_room(
    faces: str, whole: np.ndarray, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: the state is the one file that is larger."""
    output = str(tmp_path / "run")
    line = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    options = pretrain.Options.model_validate({**SETTINGS, "faces": faces, "output": output, "workers": 0})
    options.write(f"{output}.yaml")
    done = subprocess.run(
        [sys.executable, "-c", line, "jobs/pretrain.py", "--config", f"{output}.yaml"], cwd=ROOT, text=True,
        capture_output=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr[-3000:]
    assert newest(output) == 0 and not os.path.exists(f"{output}/checkpoint")
    pretrain.main(options)
    np.testing.assert_array_equal(curve(output), whole)


ELASTIC = """
import json, sys, threading, time
from ray.cluster_utils import Cluster
import ray
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/jobs"]
from jobs import pretrain
from test_pretrain_faults import SETTINGS, newest

def until(what, seconds=240):
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline or failed:
            sys.exit(f"waited in vain: {{failed}}")
        time.sleep(0.05)

def train():
    try:
        pretrain.main(pretrain.Options.model_validate({{
            **SETTINGS, "faces": {faces!r}, "output": {output!r}, "workers": 2, "min_workers": 1, "cpus_per_worker": 1,
            "resize_seconds": 2, "max_failures": 5,
        }}))
    except BaseException as error:
        failed.append(repr(error))

failed = []
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0}})
first, second = (cluster.add_node(num_cpus=1) for _ in range(2))
ray.init(address=cluster.address, log_to_driver=False)
run = threading.Thread(target=train)
run.start()
until(lambda: newest({output!r}) >= 16 * 20)
cluster.remove_node(second, allow_graceful=False)
at = newest({output!r})
until(lambda: newest({output!r}) >= at + 16 * 20)
cluster.add_node(num_cpus=1)
run.join(400)
sys.exit(failed[0] if failed else 0)
"""


@pytest.mark.faults
def test_a_run_shrinks_and_grows_with_its_cluster_and_keeps_its_curve(
    faces: str, whole: np.ndarray, tmp_path: Path
) -> None:
    """Nodes of a real Ray cluster on this machine: one is taken away in mid-run, another comes."""
    output = str(tmp_path / "run")
    script = tmp_path / "elastic.py"
    script.write_text(ELASTIC.format(root=str(ROOT), faces=faces, output=output))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert_same(curve(output), whole)
    counts = [row["workers"] for row in read_rows(output) if row["kind"] == "step"]
    assert counts[0] == 2 and 1 in counts, counts
