"""The align job: every photo once, whatever happens, and a ledger that balances."""

import json
from collections import Counter
from pathlib import Path

import pytest

from fahr import store
from fahr.cohorts.synthetic import make_cohort
from fahr.errors import Refused
from jobs import align

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    path, _ = make_cohort(24, 1, seed=0, out=tmp_path_factory.mktemp("align") / "people")
    return path


def options(cohort: Path, output: object, **more: object) -> align.Options:
    settings = {"detector": "mtcnn", "rows_per_unit": 7, "batch": 4, "workers": 2, "cpus_per_worker": 0.5}
    return align.Options(manifest=str(cohort), output=str(output), memory_per_worker=0.1, **{**settings, **more})


@pytest.fixture(scope="module")
def done(cohort, tmp_path_factory) -> Path:
    """The cohort, aligned by two workers in units of seven."""
    output = tmp_path_factory.mktemp("done")
    ledger = align.main(options(cohort, output))
    assert ledger.rows_in == 24 and ledger.rows_out >= 22
    return output


def ids(output: object) -> Counter[str]:
    kinds = ("faces", "rejects")
    tables = [table for kind in kinds for table in store.read_units(str(output), kind)]
    return Counter(each for table in tables for each in table["photo_id"].to_pylist())


def test_a_cohort_is_aligned_once_and_a_second_run_does_nothing(cohort, done, capsys):
    ledger = store.Ledger.read(str(done / "ledger.json"))
    assert set(ids(done).values()) == {1} and len(ids(done)) == 24
    before = {file: file.stat().st_mtime_ns for file in done.glob("faces/*.parquet")}
    assert len(before) > 1
    capsys.readouterr()
    again = align.main(options(cohort, done))
    assert "24 of 24 photos were done before" in capsys.readouterr().out
    assert again.rows_out == ledger.rows_out
    assert before == {file: file.stat().st_mtime_ns for file in done.glob("faces/*.parquet")}
    written = json.loads((done / "ledger.json").read_text())
    assert written["rows_in"] == written["rows_out"] + sum(written["rejects"].values())
    assert (done / "figures" / "faces.png").stat().st_size > 10_000
    assert (done / "figures" / "rejects.png").exists()


def test_another_detector_or_gate_is_refused_and_other_workers_are_not(cohort, done):
    align.main(options(cohort, done, workers=1, batch=2))
    with pytest.raises(Refused, match="size: None before, 96 now"):
        align.main(options(cohort, done, size=96))


def test_a_plan_that_cannot_run_is_refused_with_the_sum(cohort, tmp_path):
    with pytest.raises(Refused, match=r"(?s)too little CPU.*9 CPU.*the cluster has 4 CPU"):
        align.main(options(cohort, tmp_path, workers=4, cpus_per_worker=2.0))
    with pytest.raises(Refused, match="too little GPU"):
        align.main(options(cohort, tmp_path, gpus_per_worker=1.0))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_the_sum_and_writes_nothing(cohort, tmp_path, capsys):
    align.main(options(cohort, tmp_path, dry_run=True))
    assert "2 actors x (0.5 CPU" in capsys.readouterr().out and not list(tmp_path.iterdir())
