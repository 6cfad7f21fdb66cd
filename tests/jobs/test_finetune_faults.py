"""Fine-tuning by two workers, and killed: scores, choices and numbers are those of one that nothing disturbed."""

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fahr.models import load
from fahr.training.journal import read_rows
from jobs import finetune_age, finetune_survival
from tools import ages, outcomes
from tools.runs import ended, kill_all, newest, start_run, wait_for, workers_of

COMMON: dict[str, Any] = {"cpus_per_worker": 0.5, "memory_per_worker": 0.1, "checkpoint_minutes": 0.01}


@dataclass(frozen=True)
class Job:
    name: str
    main: Callable[[Any], Any]
    cohort: Any  # of tests/tools
    settings: dict[str, Any]
    stages: tuple[str, str]  # their folders
    kills: tuple[int, int]  # sample of each stage after which it is killed
    shown: str  # column of the predictions
    tolerance: float  # of that, in its unit
    measured: Callable[[Any], Any]  # of the checkpoint's config: what does not hang on a last bit

    def options(self, faces: str, output: Path, **more: Any) -> Any:
        return self.cohort.options(faces, output, **COMMON, **self.settings, **more)


JOBS = [
    Job(
        name="finetune_age", main=finetune_age.main, cohort=ages, shown="face_age", tolerance=0.05,
        settings={
            # Two runs must not part over a last bit: a smooth loss (L1 flips a sign now and then), and for the second
            # stage, whose optimizer is new, a rate at which the loss does not jump in its first steps.
            "stages": [
                {"name": "all", "samples": 1200},
                {"name": "balanced", "samples": 480, "balanced": True, "base_lr": 1e-3},
            ],
            "loss": "gaussian",
            "base_lr": 6e-3, "judge_epochs": 4,
        },
        stages=("stage-1-all", "stage-2-balanced"), kills=(480, 240),
        measured=lambda config: config.conformal["pooled"]["n"],
    ),
    Job(
        name="finetune_survival", main=finetune_survival.main, cohort=outcomes, shown="risk", tolerance=0.001,
        settings={
            "stages": [{"name": "all", "samples": 960}, {"name": "more", "samples": 640, "base_lr": 1e-3}],
            "judge_epochs": 2,
        },
        stages=("stage-1-all", "stage-2-more"), kills=(320, 160),
        measured=lambda config: config.metrics["people"],
    ),
]  # fmt: skip


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: job.name)
def job(request: pytest.FixtureRequest) -> Job:
    found: Job = request.param
    return found


@pytest.fixture(scope="module")
def faces(job: Job, aligned: Callable[[Any], str]) -> str:
    return aligned(job.cohort)


@pytest.fixture(scope="module")
def whole(job: Job, faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    job.main(job.options(faces, output))
    return output


def assert_same(job: Job, output: Path, whole: Path) -> None:
    """Workers add in another order, no more: every step once, the same judgement chosen, the same scores."""
    for stage in job.stages:
        found, expected = (read_rows(str(each / stage)) for each in (output, whole))
        assert [(row["kind"], row["position"]) for row in found] == [(r["kind"], r["position"]) for r in expected]
        for name, tolerance in (("loss", 1e-3), ("score", 1e-2)):
            values = [[row[name] for row in rows if row.get(name) is not None] for rows in (found, expected)]
            np.testing.assert_allclose(*values, rtol=tolerance)
        assert [row.get("best") for row in found] == [row.get("best") for row in expected]
    tables = [pq.read_table(each / "predictions.parquet") for each in (output, whole)]
    assert tables[0]["photo_id"].equals(tables[1]["photo_id"]) and tables[0]["part"].equals(tables[1]["part"])
    np.testing.assert_allclose(*(table[job.shown].to_numpy() for table in tables), atol=job.tolerance)
    found, expected = (job.measured(load(str(each / "checkpoint")).config) for each in (output, whole))
    assert found == expected


@pytest.mark.faults
def test_two_workers_one_of_them_killed_learn_and_judge_what_one_does(
    job: Job, faces: str, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run = start_run(job.name, job.options(faces, output, workers=2), str(output))
    wait_for(lambda: newest(str(output / job.stages[0])) >= job.kills[0] // 2, run)
    os.kill(workers_of(run)[-1], signal.SIGKILL)
    told = ended(run)
    assert re.search(r"stage 'all' goes on from sample [1-9]", told), told[-3000:]
    assert_same(job, output, whole)


@pytest.mark.faults
def test_killed_with_its_driver_in_either_stage_the_same_line_goes_on(
    job: Job, faces: str, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    chosen = job.options(faces, output, workers=0)
    for stage, until in zip(job.stages, job.kills, strict=True):
        run = start_run(job.name, chosen, str(output))
        wait_for(lambda stage=stage, until=until: newest(str(output / stage)) >= until, run)
        kill_all(run)
    job.main(chosen)
    assert_same(job, output, whole)
    found, expected = (
        [row["loss"] for row in read_rows(str(each / job.stages[1])) if row["kind"] == "step"]
        for each in (output, whole)
    )
    assert found == expected, "to the bit, with one worker"
