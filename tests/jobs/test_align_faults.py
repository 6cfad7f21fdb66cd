"""align killed at random moments: the same line again ends with every photo once and redoes nothing. `make faults`."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fahr import store
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.synthetic import make_cohort
from jobs import align
from tools.runs import ended, kill_rounds, markers, start_run

pytestmark = pytest.mark.timeout(1500)  # minutes of patience, for a machine that is busy
COUNT = 40
UNITS = COUNT // 2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    path, _ = make_cohort(COUNT, 1, seed=0, out=tmp_path_factory.mktemp("faults") / "people")
    return str(path)


@pytest.fixture(scope="module")
def in_bucket(cohort: str) -> Any:
    """Puts the cohort into a bucket: its manifest there."""

    def put(bucket: str) -> str:
        table = read_manifest(cohort)
        uris = []
        for uri in table["uri"].to_pylist():
            uris.append(f"{bucket}/photos/{Path(uri).name}")
            store.write_bytes(uris[-1], Path(uri).read_bytes())
        moved = table.set_column(table.column_names.index("uri"), "uri", [uris])
        write_manifest(moved, f"{bucket}/people.parquet")
        return f"{bucket}/people.parquet"

    return put


def chosen(manifest: str, output: str) -> align.Options:
    return align.Options(
        manifest=manifest, output=output, detector="mtcnn", rows_per_unit=2, batch=2, workers=1, cpus_per_worker=0.5,
        memory_per_worker=0.1,
    )  # fmt: skip


def killed(options: align.Options, tmp_path: Path, rounds: int, seed: int) -> dict[str, bytes]:
    """The markers that all these kills have left."""
    kill_rounds(
        lambda: start_run("align", options, str(tmp_path / "line")), options.output, UNITS, rounds=rounds, seed=seed,
    )  # fmt: skip
    return markers(options.output)


def assert_whole(options: align.Options, left: dict[str, bytes]) -> None:
    """Every photo once; no unit redone that was done before; nothing beside the faces that no marker vouches for."""
    output = options.output
    assert left and left.items() <= markers(output).items()
    tables = [table for kind in ("faces", "rejects") for table in store.read_units(output, kind)]
    expected = Counter(read_manifest(options.manifest)["photo_id"].to_pylist())
    assert Counter(each for table in tables for each in table["photo_id"].to_pylist()) == expected
    listed = [entry.location for entry in store.list_files(f"{output}/faces")]
    assert len(listed) == len(markers(output)), "stray files beside the faces"
    assert store.Ledger.read(f"{output}/ledger.json").check().rows_in == COUNT


@pytest.mark.faults
def test_killed_three_times_on_a_local_disk(cohort: str, tmp_path: Path, cluster: None) -> None:
    """The last run is in this process: one Ray for the ends of many tests."""
    options = chosen(cohort, str(tmp_path / "align"))
    left = killed(options, tmp_path, rounds=3, seed=0)
    assert len(left) < UNITS
    align.main(options)
    assert_whole(options, left)


@pytest.mark.faults
def test_killed_once_on_a_real_bucket(in_bucket: Any, bucket: str, tmp_path: Path) -> None:
    options = chosen(in_bucket(bucket), f"{bucket}/align")
    left = killed(options, tmp_path, rounds=1, seed=1)
    assert len(left) < UNITS
    told = ended(start_run("align", options, str(tmp_path / "line")))
    assert f"align: rows_in {COUNT}" in told
    assert_whole(options, left)


@pytest.mark.evidence
@pytest.mark.parametrize("where", ["local", "s3"])
def test_killed_twenty_times(
    cohort: str, in_bucket: Any, where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path) if where == "local" else request.getfixturevalue("bucket")
    options = chosen(cohort if where == "local" else in_bucket(place), f"{place}/align")
    left = killed(options, tmp_path, rounds=20, seed=2 if where == "local" else 3)
    ended(start_run("align", options, str(tmp_path / "line")))
    assert_whole(options, left)
