"""A search whose driver is killed, and one whose trials are the job on Ray Train's own workers."""

import csv
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from jobs import tune
from tools.faces import commit_faces
from tools.outcomes import COLUMNS, FACES
from tools.runs import ended, kill_all, start_run, wait_for

BASE = {"encoder": "vit_tiny", "patch": 16, "global_batch": 24, "micro_batch": 24, "precision": "fp32", "flip": False,
        "threads": 1, "stages": [{"name": "all", "samples": 48}]}  # fmt: skip
SAMPLES = 7
SEARCH: dict[str, Any] = {
    "task": "survival", "init": "random", "samples": SAMPLES, "tune_folds": 2, "finalists": 1, "seeds": 1,
    "bootstraps": 20, "cpus_per_trial": 0.5, "concurrent": 2, "embed_workers": 1, "memory_per_worker": 0.1,
    "resume": True,
    "space": {"tau": {"low": 0.1, "high": 10, "log": True}, "head_lr": {"low": 0.01, "high": 1, "log": True},
              "head_epochs": [12]},
}  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tune") / "aligned")
    commit_faces(folder, FACES, rows_per_unit=160, **COLUMNS)
    return folder


def options(faces: str, output: Path, stages: list[dict[str, Any]] | None = None, **changes: Any) -> tune.Options:
    place = output.parent / f"{output.name}-base.yaml"
    place.write_text(yaml.safe_dump({**BASE, **({"stages": stages} if stages else {})}))
    return tune.Options.model_validate({**SEARCH, "faces": faces, "output": str(output), "base": str(place), **changes})


def made(output: Path, folder: str = "trials") -> dict[str, bytes]:
    """Trials that have ended."""
    return {path.name: path.read_bytes() for path in output.glob(f"{folder}/[0-9]*.json") if "given" not in path.name}


@pytest.mark.faults
def test_killed_midway_the_same_line_makes_the_rest_and_redoes_nothing(faces: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    chosen = options(faces, output)
    run = start_run("tune", chosen, str(output))
    wanted = random.Random(1).randint(2, 4)
    wait_for(lambda: len(made(output)) >= wanted, run, seconds=500)
    kill_all(run)
    before = made(output)
    given = {path.name: path.read_text() for path in output.glob("trials/*.given.json")}
    assert wanted <= len(before) < SAMPLES
    told = ended(start_run("tune", chosen, str(output)))
    assert f"{len(before)} of {SAMPLES} trials were made before" in told, told[-3000:]
    after = made(output)
    assert sorted(after) == [f"{number:05d}.json" for number in range(SAMPLES)] and before.items() <= after.items()
    for name, text in given.items():
        assert (output / "trials" / name).read_text() == text, "what was running begins again with its settings"
        assert json.loads(after[name.replace(".given", "")])["settings"] == json.loads(text)
    with (output / "trials.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [str(number) for number in range(SAMPLES)]
    assert len(list((output / "features").iterdir())) == 1 and (output / "best.yaml").exists()
    assert not _left(run), "Ray's processes of the killed search end with it"


def _left(run: subprocess.Popen[str]) -> list[str]:
    """Processes of its session."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if int((place / "stat").read_text().rpartition(")")[2].split()[3]) == run.pid:
                    found.append((place / "cmdline").read_bytes().decode())
            except (OSError, IndexError):
                continue
    return [each for each in found if each]


@pytest.mark.faults
@pytest.mark.usefixtures("cluster")
def test_full_trials_on_ray_train_s_workers_are_heard_by_tune_and_starve_nobody(
    faces: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each asks for a worker beside its driver. That asha stops one shows that its judgements reached Tune."""
    output = tmp_path / "run"
    stages = [{"name": "all", "epochs": 4}]
    changes = {"mode": "full", "workers": 1, "cpus_per_worker": 0.9, "samples": 3, "concurrent": None, "resume": False,
               "search": "grid", "scheduler": "asha", "grace": 1, "space": {"base_lr": [4e-3, 1e-9]}}  # fmt: skip
    tune.main(options(faces, output, stages=stages, **changes))
    assert f"tune: {min(4, os.cpu_count() or 1)} full trials at a time" in capsys.readouterr().out
    trials = [json.loads(text) for _, text in sorted(made(output).items())]
    assert trials[0]["state"] == "done" and "stopped" in [each["state"] for each in trials], trials
    assert all(each["metric"] is not None and each["curve"] for each in trials)
    for number in range(3):
        table = pq.read_table(output / "full" / f"trial-{number:05d}" / "predictions.parquet") if (
            trials[number]["state"] == "done") else None  # fmt: skip
        assert table is None or set(table["part"].to_pylist()) == {"tune"}, "a sweep never looks aside"
    assert json.loads((output / "results.json").read_text())["held_out"][0] is not None
