"""Fine-tuning by two workers, and killed: scores, choices and numbers are those of one that nothing disturbed."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fahr.models import load
from fahr.training.journal import read_rows
from jobs import finetune_age
from tools.ages import COLUMNS, FACES, options
from tools.faces import commit_faces
from tools.runs import ended, kill_all, newest, start_run, wait_for, workers_of

SETTINGS: dict[str, Any] = {
    "stages": [{"name": "all", "samples": 1200}, {"name": "balanced", "samples": 480, "balanced": True}],
    "loss": "gaussian",  # smooth: with L1 a last bit flips a sign now and then, and two runs part
    "base_lr": 6e-3, "judge_epochs": 4, "cpus_per_worker": 0.5, "memory_per_worker": 0.1, "checkpoint_minutes": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("faults") / "aligned")
    commit_faces(folder, FACES, rows_per_unit=80, **COLUMNS)
    return folder


@pytest.fixture(scope="module")
def whole(faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    finetune_age.main(options(faces, output, **SETTINGS))
    return output


def assert_same(output: Path, whole: Path) -> None:
    """Workers add in another order, no more: every step once, the same judgement chosen, the same face ages."""
    for stage in ("stage-1-all", "stage-2-balanced"):
        found, expected = (read_rows(str(each / stage)) for each in (output, whole))
        assert [(row["kind"], row["position"]) for row in found] == [(r["kind"], r["position"]) for r in expected]
        for name, tolerance in (("loss", 1e-3), ("score", 1e-2)):
            values = [[row[name] for row in rows if row.get(name) is not None] for rows in (found, expected)]
            np.testing.assert_allclose(*values, rtol=tolerance)
        assert [row.get("best") for row in found] == [row.get("best") for row in expected]
    tables = [pq.read_table(each / "predictions.parquet") for each in (output, whole)]
    assert tables[0]["photo_id"].equals(tables[1]["photo_id"]) and tables[0]["part"].equals(tables[1]["part"])
    np.testing.assert_allclose(*(table["face_age"].to_numpy() for table in tables), atol=0.1)
    calibrated = [load(str(each / "checkpoint")).config for each in (output, whole)]
    assert calibrated[0].conformal["pooled"]["n"] == calibrated[1].conformal["pooled"]["n"]


@pytest.mark.faults
def test_two_workers_one_of_them_killed_learn_and_judge_what_one_does(faces: str, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = start_run("finetune_age", options(faces, output, workers=2, **SETTINGS), str(output))
    wait_for(lambda: newest(str(output / "stage-1-all")) >= 240, run)
    os.kill(workers_of(run)[-1], signal.SIGKILL)
    told = ended(run)
    assert re.search(r"stage 'all' goes on from sample [1-9]", told), told[-3000:]
    assert_same(output, whole)


@pytest.mark.faults
def test_killed_with_its_driver_in_either_stage_the_same_line_goes_on(faces: str, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    chosen = options(faces, output, workers=0, **SETTINGS)
    for stage, until in (("stage-1-all", 480), ("stage-2-balanced", 240)):
        run = start_run("finetune_age", chosen, str(output))
        wait_for(lambda stage=stage, until=until: newest(str(output / stage)) >= until, run)
        kill_all(run)
    finetune_age.main(chosen)
    assert_same(output, whole)
    rows = [row for row in read_rows(str(output / "stage-2-balanced")) if row["kind"] == "step"]
    expected = [row for row in read_rows(str(whole / "stage-2-balanced")) if row["kind"] == "step"]
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected], "to the bit, with one worker"
