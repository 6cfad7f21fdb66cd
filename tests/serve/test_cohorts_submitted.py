"""Cohorts as real Ray jobs on a head of their own: they outlive the service, keep to their CPUs, can be cancelled."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest

from fahr.client import Client, CohortFailed, ServiceError
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.synthetic import make_cohort
from serve import _cohort_run
from serve._cohort_folder import Cohort, new_id
from tools.head import ROOT, Head, free_port
from tools.service import until

PROGRAM = ROOT / "tests" / "tools" / "cohorts_app.py"
SCORING = {"detector": "mtcnn", "precision": "fp32", "rows_per_unit": 2}


class Ingress:
    """The service's process."""

    def __init__(self, head: Head, root: Path, models: dict[str, str]) -> None:
        self.results = root / "results"
        settings = {
            "results": str(self.results), "data_roots": [str(root / "data")], "cpus_per_worker": 0.5,
            "memory_per_worker": 0.2,
        }  # fmt: skip
        self._port, self._log = free_port(), root / "ingress.log"
        self._environment = {**head.environment, "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT / "tests")}
        told = (json.dumps(each) for each in (settings, models, SCORING))
        self._command = [sys.executable, str(PROGRAM), str(self._port), *told]
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def client(self) -> Client:
        """It waits until the process listens, and the head takes jobs."""
        return Client(self.url, patience_s=180)


@pytest.fixture
def people(tmp_path: Path) -> pa.Table:
    """Six photos under the root."""
    made, _ = make_cohort(6, 1, seed=0, out=tmp_path / "data" / "people")
    return read_manifest(made).select(["photo_id", "uri", "age"])


@pytest.fixture
def many(people: pa.Table, tmp_path: Path) -> str:
    """Minutes of work: a manifest of the same photos again and again."""
    rows = people.take([n % 6 for n in range(3000)])
    write_manifest(rows.set_column(0, "photo_id", [[f"p{n}" for n in range(3000)]]), tmp_path / "data" / "many.csv")
    return str(tmp_path / "data" / "many.csv")


@pytest.fixture
def ingress(head: Head, models: dict[str, str], tmp_path: Path) -> Iterator[Ingress]:
    made = Ingress(head, tmp_path, {"age": models["age"]})
    yield made
    made.kill()


def _csv(table: pa.Table) -> bytes:
    written = io.BytesIO()
    pyarrow.csv.write_csv(table, written)
    return written.getvalue()


@pytest.mark.faults
def test_an_uploaded_table_is_scored_by_a_ray_job_and_erased_without_a_trace(head, ingress, people, many, tmp_path):
    with ingress.client as client:
        id = client.upload_cohort(_csv(people), ["age"], key="k")
        assert client.upload_cohort(_csv(people), ["age"], key="k") == id
        with pytest.raises(ServiceError, match="another request"):
            client.create_cohort(many, ["age"], key="k")
        with Client(ingress.url, patience_s=0) as hasty, pytest.raises(ServiceError) as full:
            hasty.create_cohort(many, ["age"])
        assert full.value.status == 503 and "the most at once" in full.value.detail
        done = client.wait_for_cohort(id, every_s=0.3, at_most_s=300)
        assert done.ledger is not None and done.rows_done == done.rows_total == 6
        client.save_scores(id, tmp_path / "scores.csv")
        scores = pyarrow.csv.read_csv(tmp_path / "scores.csv")
        assert scores.num_rows == done.ledger["rows_out"] >= 5 and "face_age" in scores.column_names
        assert set(scores["photo_id"].to_pylist()) <= set(people["photo_id"].to_pylist())
        assert _reserved(head) == 1.5  # of CPUs, that replicas cannot have
        assert id in _submitted(head) and "people" not in _submitted(head)  # Ray's table outlives a cohort
        assert client.erase_cohort(id) and not client.erase_cohort(id)
    assert _left(ingress) == [] and id not in _submitted(head)


@pytest.mark.faults
def test_a_cohort_outlives_the_service_and_another_is_cancelled_without_a_trace(head, ingress, people, many, tmp_path):
    with ingress.client as client:
        id = client.upload_cohort(_csv(people), ["age"], key="k")
        ingress.kill()
        ingress.start()
        assert client.upload_cohort(_csv(people), ["age"], key="k") == id
        assert client.wait_for_cohort(id, every_s=0.3, at_most_s=300).rows_done == 6
        running = client.create_cohort(many, ["age"])
        until(lambda: client.cohort(running).rows_done > 0, 300)
        assert client.cohort(running).rows_total == 3000 and client.cohort(running).state == "running"
        assert client.erase_cohort(running) and client.erase_cohort(id)
    assert _left(ingress) == [] and running not in _submitted(head)


def _left(ingress: Ingress) -> list[str]:
    return [str(each) for each in ingress.results.rglob("*") if each.name != "keys"]


def _submitted(head: Head) -> str:
    """What Ray tells of submitted jobs, but for the drivers that each of them, and the service, is."""
    return str([each for each in head.told("/api/jobs/") if each["type"] == "SUBMISSION"])


def _reserved(head: Head) -> float:
    told = head.told("/api/v0/placement_groups?detail=1")["data"]["result"]["result"]
    groups = [each for each in told if each["name"] == "fahr-cohorts" and each["state"] == "CREATED"]
    return float(sum(bundle["unit_resources"].get("CPU", 0) for group in groups for bundle in group["bundles"]))


def test_a_photo_outside_the_roots_ends_the_job_before_anything_is_read(tmp_path):
    """The manifest was put there by somebody who may, and names what nobody may."""
    (tmp_path / "people.csv").write_text(f"photo_id,uri\na,{tmp_path}/data/1.jpg\nb,/etc/hostname\n")
    cohort = Cohort(str(tmp_path / "results"), new_id())
    options = {"manifest": str(tmp_path / "people.csv"), "models": ["/none"]}
    cohort.create({"options": options, "roots": [str(tmp_path / "data")], "key": None})
    status, why = _cohort_run.score(cohort, io.StringIO())
    assert status == 2 and why.startswith("photo 2 of the manifest (/etc/hostname): is not under a root")
    assert not Path(cohort.output).exists()


def test_a_refusal_of_the_job_is_told_in_its_words(tmp_path):
    (tmp_path / "people.csv").write_text(f"photo_id,uri\na,{tmp_path}/1.jpg\n")
    cohort = Cohort(str(tmp_path / "results"), new_id())
    options = {"manifest": str(tmp_path / "people.csv"), "models": [str(tmp_path / "none")]}
    cohort.create({"options": options, "roots": [str(tmp_path)], "key": None})
    line = "import sys; from serve._cohort_run import *; from serve._cohort_folder import Cohort\n"
    line += f"cohort = Cohort({cohort.results!r}, {cohort.id!r}); told = io.StringIO()\n"
    line += "with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told): found = score(cohort, told)\n"
    line += "print(found)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.startswith("(2, ") and "no such checkpoint" in done.stdout, done.stderr[-2000:]


def test_waiting_for_a_cohort_that_failed_says_why():
    from fahr.client import Cohort as Told

    failed = Told(id="x", state="failed", rows_done=0, rows_total=None, ledger=None, detail="It is gone.")
    assert "failed. It is gone." in str(CohortFailed(failed))
