"""score killed at random moments, actors too: the same line again ends with the same bytes. `make faults`."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fahr import store
from fahr.models import create, save
from tools.faces import commit_faces, jpegs, pictures

ROOT = Path(__file__).resolve().parents[2]
COUNT = 64
PATIENCE_S = 500  # ten times and more what a run takes on a quiet machine
pytestmark = pytest.mark.timeout(1800)
ACTOR = b"ScoreUnit"  # in the name that Ray gives the process


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces large enough, and an age model slow enough, that a unit takes a moment."""
    root = tmp_path_factory.mktemp("faults")
    commit_faces(str(root / "faces"), jpegs(pictures(COUNT, 112)), rows_per_unit=16)
    model = create("vit_tiny", patch=16, size=112, task="age", seed=0)
    with torch.no_grad():
        model.head.bias.fill_(50.0)
    save(model, str(root / "age"), config={"detector": "mtcnn"})
    return root


_started: list["subprocess.Popen[str]"] = []


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_running() -> Iterator[None]:
    yield
    for run in _started:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()


def start(root: str, output: str) -> "subprocess.Popen[str]":
    line = [
        "jobs/score.py", "--faces", f"{root}/faces", "--models", f"{root}/age", "--output", output, "--rows-per-unit",
        "2", "--workers", "1", "--cpus-per-worker", "0.5", "--memory-per-worker", "0.1",
    ]  # fmt: skip
    run = subprocess.Popen(
        [sys.executable, *line], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}, start_new_session=True,
    )  # fmt: skip
    _started.append(run)
    return run


def markers(output: str) -> dict[str, bytes]:
    if not store.is_s3(output) and not os.path.isdir(f"{output}/units/done"):
        return {}
    return {entry.location: store.read_bytes(entry.location) for entry in store.list_files(f"{output}/units/done")}


def wait_for_units(run: "subprocess.Popen[str]", output: str, wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(markers(output)) < wanted and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.poll() is None, run.communicate()[0][-3000:]


def finish(run: "subprocess.Popen[str]", output: str) -> dict[str, bytes]:
    """Lets it end. What it made: every face once, no stray file beside them."""
    told = run.communicate(timeout=PATIENCE_S)[0]
    assert run.returncode == 0, told[-3000:]
    assert f"score: rows_in {COUNT} = rows_out {COUNT}" in told
    ids = Counter(each for table in store.read_units(output, "scores") for each in table["photo_id"].to_pylist())
    assert ids == Counter(f"p{number:05d}" for number in range(COUNT))
    listed = [entry.location for entry in store.list_files(f"{output}/scores")]
    assert len(listed) == len(markers(output)) == COUNT // 2, "stray files beside the scores"
    kept = [*listed, *(store.join(output, name) for name in ("scores.csv", "visits.parquet"))]
    return {location.removeprefix(output): store.read_bytes(location) for location in kept}


def kill_rounds(root: str, output: str, rounds: int, seed: int) -> dict[str, bytes]:
    """Kill -9 the driver and all it started once so many more units are done, `rounds` times; then let it end."""
    draw = random.Random(seed)
    after: dict[str, bytes] = {}
    for _ in range(rounds):
        before = markers(output)
        run = start(root, output)
        wait_for_units(run, output, max(1, min(len(before) + draw.randint(0, 3), COUNT // 2 - 1)))
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        after = markers(output)
        assert before.items() <= after.items(), "a finished unit was touched"
    made = finish(start(root, output), output)
    assert after.items() <= markers(output).items()
    return made


@pytest.fixture(scope="module")
def calm(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nobody disturbs."""
    output = str(tmp_path_factory.mktemp("calm"))
    return finish(start(str(root), output), output)


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    found, waiting = set(), [pid]
    while waiting:
        above = waiting.pop()
        below = [child for child, parent in parents.items() if parent == above]
        found.update(below)
        waiting += below
    return found


def actors(pid: int) -> list[int]:
    """The score actors below a driver."""
    found = []
    for each in descendants(pid):
        try:
            if ACTOR in Path(f"/proc/{each}/cmdline").read_bytes():
                found.append(each)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.faults
def test_a_killed_actor_is_replaced_and_the_run_ends_as_if_nothing_had_been(root, calm, tmp_path):
    output = str(tmp_path / "out")
    run = start(str(root), output)
    wait_for_units(run, output, 2)
    (actor,) = actors(run.pid)
    os.kill(actor, signal.SIGKILL)
    assert finish(run, output) == calm


@pytest.mark.faults
def test_killed_twice_on_a_local_disk(root, calm, tmp_path):
    assert kill_rounds(str(root), str(tmp_path / "out"), rounds=2, seed=0) == calm


@pytest.mark.faults
def test_killed_once_on_a_real_bucket(root, calm, bucket):
    for name in ("faces", "age"):
        for file in (root / name).rglob("*"):
            if file.is_file():
                store.write_bytes(f"{bucket}/{file.relative_to(root)}", file.read_bytes())
    assert kill_rounds(bucket, f"{bucket}/out", rounds=1, seed=1) == calm


@pytest.mark.evidence
def test_killed_twenty_times(root, calm, tmp_path):
    assert kill_rounds(str(root), str(tmp_path / "out"), rounds=20, seed=2) == calm
