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
from tools.runs import (
    FEWER_PROCESSES,
    PRETRAINING,
    ROOT,
    SLOWLY,
    Beside,
    apart,
    assert_same_curve,
    curve,
    kill_all,
    newest,
    start_run,
    wait_for,
    workers_of,
)

pytestmark = pytest.mark.timeout(1500)  # minutes of patience, for a machine that is busy
OUTAGE_S = 30.0  # longer than all other steps take


def chosen(faces: str, output: str, **changes: Any) -> pretrain.Options:
    return pretrain.Options.model_validate({**PRETRAINING, "faces": faces, "output": output, **changes})


def workers_by_step(output: str) -> list[int]:
    return [row["workers"] for row in read_rows(output) if row["kind"] == "step"]


@pytest.mark.faults
def test_killed_with_all_its_processes_or_one_worker_the_run_goes_on_and_keeps_its_curve(
    noise: str, calm_curve: np.ndarray, tmp_path: Path
) -> None:
    """One process, killed; two workers, one killed, and they come back by themselves; they and the driver, killed; one.

    The same line each time but for the number of workers.
    """
    output = str(tmp_path / "run")
    run = start_run("pretrain", chosen(noise, output, workers=0), output)
    wait_for(lambda: newest(output) >= 16 * 20, run)
    kill_all(run)
    alone = newest(output)
    run = start_run("pretrain", chosen(noise, output, workers=2, **SLOWLY), output)
    wait_for(lambda: newest(output) > alone, run)
    victims = workers_of(run)
    assert len(victims) == 2
    os.kill(victims[-1], signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: set(workers_of(run)) - set(victims), run)  # new ones
    lost = newest(output)
    wait_for(lambda: newest(output) > lost, run)
    print(f"from the kill to the next state: {time.monotonic() - killed:.0f} s")
    told = kill_all(run)
    assert newest(output) < PRETRAINING["samples"] and not os.path.exists(f"{output}/ledger.json")
    went_on = re.findall(r"goes on from sample ([\d,]+), workers 2, ready in (\d+) s", told)
    starts = [int(position.replace(",", "")) for position, _ in went_on]
    assert len(starts) == 2 and alone <= starts[0] < starts[1], told[-3000:]  # by the same line, then by itself
    assert all(float(ready) < 60 for _, ready in went_on), "the first step after a resume has to come within a minute"
    pretrain.main(chosen(noise, output, workers=0))
    assert_same_curve(curve(output), calm_curve)
    counts = workers_by_step(output)
    assert counts[0] == counts[-1] == 1 and 2 in counts


@pytest.mark.faults
def test_a_store_that_is_gone_for_a_while_stops_nothing(
    noise: str,
    calm_curve: np.ndarray,
    bucket: str,
    real_store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The outage begins at step 20; steps go on while it lasts, which the times of the rows show."""
    window = pretrain.run.__globals__["_Window"]
    row, times, timers = window.row, {}, []

    def noted(self: Any, metrics: Any, desk: Any) -> dict[str, Any]:
        times[metrics.step] = time.monotonic()
        if metrics.step == 20:
            timers.append(real_store.outage(OUTAGE_S))
        return row(self, metrics, desk)

    monkeypatch.setattr(window, "row", noted)
    output = f"{bucket}/run"
    try:
        pretrain.main(chosen(noise, output, workers=0, cache=str(tmp_path / "cache")))
    finally:
        for timer in timers:
            timer.join()
    during = [step for step, when in times.items() if times[20] < when < times[20] + OUTAGE_S]
    assert len(during) > 20, "training stood still while the store was gone"
    np.testing.assert_array_equal(curve(output), calm_curve)
    assert store.exists(f"{output}/checkpoint/config.json") and store.exists(f"{output}/reconstructions.png")


@pytest.mark.faults
def test_a_full_disk_ends_the_run_with_its_reason_and_it_goes_on_with_room(
    noise: str, calm_curve: np.ndarray, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: the state is the one file that is larger."""
    output = str(tmp_path / "run")
    line = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    options = chosen(noise, output, workers=0)
    options.write(f"{output}.yaml")
    done = subprocess.run(
        [sys.executable, "-c", line, "jobs/pretrain.py", "--config", f"{output}.yaml"], cwd=ROOT, text=True,
        capture_output=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr[-3000:]
    assert newest(output) == 0 and not os.path.exists(f"{output}/checkpoint")
    pretrain.main(options)
    np.testing.assert_array_equal(curve(output), calm_curve)


def drive(faces: str, output: str) -> None:
    """Head and a node of one CPU, a worker on each: the node is taken away without a word, later another comes."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= FEWER_PROCESSES
    # How long a group of as many workers as before waits for room, before it is content with fewer.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    elastic = {"workers": 2, "min_workers": 1, "resize_seconds": 2, "max_failures": 5}
    run = Beside(lambda: pretrain.main(chosen(faces, output, **SLOWLY, **elastic)))
    run.until(lambda: newest(output) >= 16 * 10)
    cluster.remove_node(second, allow_graceful=False)
    at = newest(output)
    run.until(lambda: newest(output) >= at + 16 * 10)
    cluster.add_node(num_cpus=1)
    run.end()


@pytest.mark.faults
def test_a_run_shrinks_and_grows_with_its_cluster_and_keeps_its_curve(
    noise: str, calm_curve: np.ndarray, tmp_path: Path
) -> None:
    """Nodes of a real Ray cluster on this machine."""
    output = str(tmp_path / "run")
    apart(__file__, "drive", noise, output)
    assert_same_curve(curve(output), calm_curve)
    counts = workers_by_step(output)
    print(f"grown again for {counts[counts.index(1) :].count(2)} steps" if 1 in counts else "not shrunk")
    assert counts[0] == 2 and 1 in counts, counts  # how soon it grows is Ray's: it looks for room every 20 s
