"""score killed at random moments, actors too: the same line again ends with the same bytes. `make faults`."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

from fahr import store
from fahr.models import create, save
from jobs import score
from tools.faces import commit_faces, jpegs, pictures
from tools.runs import Beside, ended, kill_rounds, markers, start_run

pytestmark = pytest.mark.timeout(1500)  # minutes of patience, for a machine that is busy
COUNT = 64
UNITS = COUNT // 2
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


def chosen(root: str, output: str) -> score.Options:
    return score.Options(
        faces=f"{root}/faces", models=[f"{root}/age"], output=output, rows_per_unit=2, workers=1, cpus_per_worker=0.5,
        memory_per_worker=0.1,
    )  # fmt: skip


def made(options: score.Options) -> dict[str, bytes]:
    """All that a run has made that ended: every face once, no stray file beside them."""
    output = options.output
    assert store.Ledger.read(f"{output}/ledger.json").check().rows_out == COUNT
    ids = Counter(each for table in store.read_units(output, "scores") for each in table["photo_id"].to_pylist())
    assert ids == Counter(f"p{number:05d}" for number in range(COUNT))
    listed = [entry.location for entry in store.list_files(f"{output}/scores")]
    assert len(listed) == len(markers(output)) == UNITS, "stray files beside the scores"
    kept = [*listed, *(store.join(output, name) for name in ("scores.csv", "visits.parquet", "aging_rates.parquet"))]
    return {location.removeprefix(output): store.read_bytes(location) for location in kept}


def killed(options: score.Options, tmp_path: Path, rounds: int, seed: int) -> dict[str, bytes]:
    """The markers that all these kills have left."""
    kill_rounds(
        lambda: start_run("score", options, str(tmp_path / "line")), options.output, UNITS, rounds=rounds, seed=seed,
    )  # fmt: skip
    return markers(options.output)


@pytest.fixture(scope="module")
def calm(root: Path, tmp_path_factory: pytest.TempPathFactory, cluster: None) -> dict[str, bytes]:
    """What a run leaves that nobody disturbs."""
    options = chosen(str(root), str(tmp_path_factory.mktemp("calm") / "out"))
    score.main(options)
    return made(options)


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


def actors() -> set[int]:
    """The score actors of the Ray that this process has started."""
    found = set()
    for each in descendants(os.getpid()):
        try:
            if ACTOR in Path(f"/proc/{each}/cmdline").read_bytes():
                found.add(each)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.faults
def test_killed_and_then_its_actor_it_ends_as_if_nothing_had_been(
    root: Path, calm: dict[str, bytes], tmp_path: Path
) -> None:
    """Driver and all, on a local disk. The last run, in this process, loses its actor and ends by itself."""
    options = chosen(str(root), str(tmp_path / "out"))
    left = killed(options, tmp_path, rounds=1, seed=0)
    gone = actors()  # of the calm run, should Ray not have ended them yet
    run = Beside(lambda: score.main(options))
    run.until(lambda: len(markers(options.output)) >= len(left) + 2)
    (actor,) = actors() - gone
    os.kill(actor, signal.SIGKILL)
    assert len(markers(options.output)) < UNITS, "nothing was left to do for another actor"
    run.end()
    assert left.items() < markers(options.output).items()
    assert made(options) == calm


@pytest.mark.faults
def test_killed_once_on_a_real_bucket(root: Path, calm: dict[str, bytes], bucket: str, tmp_path: Path) -> None:
    for name in ("faces", "age"):
        for file in (root / name).rglob("*"):
            if file.is_file():
                store.write_bytes(f"{bucket}/{file.relative_to(root)}", file.read_bytes())
    options = chosen(bucket, f"{bucket}/out")
    left = killed(options, tmp_path, rounds=1, seed=1)
    told = ended(start_run("score", options, str(tmp_path / "line")))
    assert f"score: rows_in {COUNT} = rows_out {COUNT}" in told
    assert left and left.items() < markers(options.output).items()
    assert made(options) == calm


@pytest.mark.evidence
def test_killed_twenty_times(root: Path, calm: dict[str, bytes], tmp_path: Path) -> None:
    options = chosen(str(root), str(tmp_path / "out"))
    left = killed(options, tmp_path, rounds=20, seed=2)
    ended(start_run("score", options, str(tmp_path / "line")))
    assert left.items() <= markers(options.output).items()
    assert made(options) == calm
