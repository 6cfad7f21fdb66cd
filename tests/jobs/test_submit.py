"""Jobs really submitted: `ray start --head`, the jobs API with its token, code shipped from the working directory.
`make faults`."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fahr import store
from fahr.cohorts.synthetic import make_cohort
from fahr.models import load
from jobs import pipeline
from tools.chain import SECTIONS
from tools.faces import commit_faces, jpegs, pictures
from tools.head import BIN, ROOT, Head, running_head

pytestmark = pytest.mark.faults  # a Ray of its own, with workers that are processes: minutes


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with running_head(tmp_path_factory.mktemp("home")) as made:
        yield made


def submitted(head: Head, *line: str, **more: str) -> subprocess.Popen[str]:
    """`ray job submit ... -- LINE`, begun. Its output is the job's."""
    command = [
        str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", ".",
        "--runtime-env", "cluster/runtime-env.yaml", "--", *line,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env={**head.environment, **more}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(submission: subprocess.Popen[str], seconds: float = 420) -> tuple[int, str]:
    """Exit status, and all that was told."""
    try:
        told = submission.communicate(timeout=seconds)[0]
    finally:
        submission.kill()
    return submission.returncode, told


# Lines of jobs in one process, each as `python LINE` runs it: what takes long to load is loaded once.
ONE_BY_ONE = """
import runpy, shlex, sys
import ray
for line in sys.argv[1:]:
    sys.argv = shlex.split(line)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a hospital's table and aligned faces for the jobs to read; what they make lies there too."""
    place = tmp_path_factory.mktemp("submitted")
    manifest, _ = make_cohort(150, 1, seed=0, out=place / "people")
    pq.write_table(pq.read_table(manifest).drop_columns(["uri"]), place / "table.parquet")
    workers = {"workers": 2, "cpus_per_worker": 0.5, "memory_per_worker": 0.1}
    sections = SECTIONS | {"pretrain": SECTIONS["pretrain"] | workers}
    store.write_bytes(str(place / "chain.yaml"), json.dumps(sections).encode())  # which is YAML too
    commit_faces(str(place / "faces"), jpegs(pictures(64)))
    head_alone = {"name": "head", "freeze": "encoder", "epochs": 1}
    base = {"encoder": "vit_tiny", "patch": 16, "global_batch": 8, "micro_batch": 8, "stages": [head_alone]}
    store.write_bytes(str(place / "base.yaml"), json.dumps(base).encode())
    store.write_bytes(str(place / "space.yaml"), b"space: {loss: [l1, huber]}")
    return place


@pytest.fixture(scope="module")
def told(head: Head, place: Path) -> str:
    """What a job says that runs one line of a user after the other: a submission costs a minute, jobs are seconds."""
    search = (
        f"jobs/tune.py --task age --config {place}/space.yaml --base {place}/base.yaml --faces {place}/faces "
        f"--init random --output {place}/tune --search grid --samples 2 --tune-folds 2 --finalists 1 --seeds 1 "
        "--bootstraps 0 --concurrent 1 --cpus-per-trial 0.5 --embed-workers 1 --memory-per-worker 0.1"
    )
    lines = [
        f"jobs/index.py --photos {place}/people/photos --labels {place}/table.parquet --match stem "
        f"--output {place}/people.parquet",
        f"jobs/pipeline.py --config {place}/chain.yaml --manifest {place}/people.parquet --output {place}/chain",
        search,
    ]
    status, told = ended(submitted(head, "python", "-c", ONE_BY_ONE, *lines))
    assert status == 0, told[-6000:]
    return told


@pytest.fixture(scope="module")
def refused(head: Head, place: Path) -> subprocess.Popen[str]:
    """Begun before the long one, and ended beside it."""
    return submitted(head, "python", "jobs/index.py", "--photos", f"{place}/none", "--output", f"{place}/n.parquet")


def test_without_the_token_the_door_is_shut(head: Head, refused: subprocess.Popen[str]) -> None:
    status, told = ended(submitted(head, "python", "jobs/index.py", "--help", RAY_AUTH_TOKEN="wrong"))
    assert status != 0 and "succeeded" not in told


def test_index_and_align_run_as_a_submitted_job(told: str, place: Path) -> None:
    assert "succeeded" in told
    assert re.search(r"^index: rows_in 150 = rows_out 150\b", told, re.M), told[-3000:]
    assert re.search(r"^align: rows_in 150 = rows_out 1[0-5]\d\b", told, re.M), told[-3000:]
    aligned = pipeline.places(str(place / "chain"))["align"]
    assert sum(table.num_rows for table in store.read_units(aligned, "faces")) >= 145


def test_a_whole_chain_runs_as_a_submitted_job(told: str, place: Path) -> None:
    assert re.search(r"^pipeline: rows_in 150 = rows_out 1[0-5]\d\b", told, re.M), told[-3000:]
    chain = pipeline.places(str(place / "chain"))
    assert "workers 2" in told
    assert load(f"{chain['pretrain']}/checkpoint", task="mae").config.metrics["samples"] == 64
    for stage in ("age", "survival"):
        assert load(f"{chain[stage]}/checkpoint", task=stage).config.metrics
    assert Path(chain["evaluate"], "report.html").exists()


def test_a_search_runs_as_a_submitted_job(told: str, place: Path) -> None:
    assert re.search(r"^tune: rows_in 2 = rows_out 2", told, re.M), told[-3000:]
    assert (place / "tune" / "best.yaml").exists() and (place / "tune" / "search.html").exists()


def test_every_job_joins_the_cluster_that_it_was_submitted_to(told: str) -> None:
    assert told.count("ray: joined the cluster at") == 2, told[-3000:]  # else a job has started a Ray of its own


def test_a_refusal_fails_the_job_that_was_submitted(refused: subprocess.Popen[str]) -> None:
    status, told = ended(refused)
    assert status != 0 and "no such file or folder" in told
