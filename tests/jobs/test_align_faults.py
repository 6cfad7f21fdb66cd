"""align killed at random moments: the same line again ends with every photo once and redoes nothing. `make faults`."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fahr import store
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.synthetic import make_cohort

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    path, _ = make_cohort(40, 1, seed=0, out=tmp_path_factory.mktemp("faults") / "people")
    return path


def start(manifest: str, output: str) -> subprocess.Popen[str]:
    line = [
        "jobs/align.py", "--manifest", manifest, "--output", output, "--detector", "mtcnn", "--rows-per-unit", "2",
        "--batch", "2", "--workers", "1", "--cpus-per-worker", "0.5", "--memory-per-worker", "0.1",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *line], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}, start_new_session=True,
    )  # fmt: skip


def markers(output: str) -> dict[str, bytes]:
    if not store.is_s3(output) and not os.path.isdir(f"{output}/units/done"):
        return {}
    return {entry.location: store.read_bytes(entry.location) for entry in store.list_files(f"{output}/units/done")}


def kill_rounds(manifest: str, output: str, rounds: int, seed: int) -> None:
    """Kill -9 the driver and all it started once so many more units are done, `rounds` times; then let it end."""
    draw = random.Random(seed)
    total = read_manifest(manifest).num_rows
    for _ in range(rounds):
        before = markers(output)
        wanted = min(len(before) + draw.randint(0, 3), total // 2 - 1)
        run = start(manifest, output)
        deadline = time.monotonic() + 300
        while len(markers(output)) < max(wanted, 1) and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert run.poll() is None, run.communicate()[0][-3000:]
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        after = markers(output)
        assert before.items() <= after.items(), "a finished unit was touched"
    last = start(manifest, output)
    told = last.communicate(timeout=400)[0]
    assert last.returncode == 0, told[-3000:]
    assert after.items() <= markers(output).items()
    tables = [table for kind in ("faces", "rejects") for table in store.read_units(output, kind)]
    assert Counter(each for table in tables for each in table["photo_id"].to_pylist()) == Counter(
        read_manifest(manifest)["photo_id"].to_pylist()
    )
    listed = [entry.location for entry in store.list_files(f"{output}/faces")]
    assert len(listed) == len(markers(output)), "stray files beside the faces"
    assert f"align: rows_in {total}" in told


def put_into_bucket(cohort: Path, bucket: str) -> str:
    table = read_manifest(cohort)
    uris = []
    for uri in table["uri"].to_pylist():
        uris.append(f"{bucket}/photos/{Path(uri).name}")
        store.write_bytes(uris[-1], Path(uri).read_bytes())
    moved = table.set_column(table.column_names.index("uri"), "uri", [uris])
    write_manifest(moved, f"{bucket}/people.parquet")
    return f"{bucket}/people.parquet"


@pytest.mark.faults
def test_killed_three_times_on_a_local_disk(cohort, tmp_path):
    kill_rounds(str(cohort), str(tmp_path), rounds=3, seed=0)


@pytest.mark.faults
def test_killed_once_on_a_real_bucket(cohort, bucket):
    kill_rounds(put_into_bucket(cohort, bucket), f"{bucket}/align", rounds=1, seed=1)


@pytest.mark.evidence
@pytest.mark.parametrize("where", ["local", "s3"])
def test_killed_twenty_times(cohort, where, tmp_path, request):
    if where == "local":
        kill_rounds(str(cohort), str(tmp_path), rounds=20, seed=2)
    else:
        place = request.getfixturevalue("bucket")
        kill_rounds(put_into_bucket(cohort, place), f"{place}/align", rounds=20, seed=3)
