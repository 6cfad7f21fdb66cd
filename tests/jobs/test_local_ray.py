"""A Ray whose helper loads too slowly is started once more; another fault is told at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.head import ROOT
from tools.service import until

# Python runs it at every start: the first agent of a node sleeps for longer than Ray waits.
SLOWLY = """
import os, sys, time
if any(each.endswith("dashboard/agent.py") for each in sys.orig_argv):
    try:
        os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        time.sleep(25)
"""
ASK = """
import ray
from jobs._local_ray import start_ray
start_ray(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)
print("asked:", ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.faults
def test_a_helper_that_loads_for_longer_than_ray_waits_costs_a_second_start_and_leaves_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "slept"
    (tmp_path / "sitecustomize.py").write_text(SLOWLY.format(mark=str(mark)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.Popen(
        [sys.executable, "-c", ASK], cwd=ROOT, env={**environment, "PYTHONPATH": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    told = run.communicate(timeout=300)[0]
    assert mark.exists() and run.returncode == 0, told
    assert told.count("it is started again") == 1 and "asked: 42" in told, told
    until(lambda: not _of_session(run.pid))  # the last of them are on their way out


def _of_session(number: int) -> list[str]:
    """Command lines of its processes that are alive."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                stat = (place / "stat").read_text().rpartition(")")[2].split()
                if int(stat[3]) == number and stat[0] != "Z":
                    found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it has ended meanwhile
    return found


def test_a_start_that_fails_for_another_reason_is_not_tried_again() -> None:
    line = "from jobs._local_ray import start_ray; start_ray(num_cpus='many', include_dashboard=False)"
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "AssertionError: CPU (<class 'str'>): many" in done.stderr, done.stderr
    assert "started again" not in done.stdout
