"""The score job: every face once, the same bytes whoever did the work, and input that cannot be scored refused."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from fahr import store
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.synthetic import make_cohort
from fahr.config import read_options
from fahr.errors import Refused
from fahr.faces import Aligner
from fahr.faces.rows import align_rows
from fahr.models import create, load, save
from fahr.scores import SCORE_FIELDS, Team, plan_models
from jobs import _cluster, score
from tools.faces import commit_faces, jpegs, pictures

COUNT = 30
SCALE: dict[str, Any] = {"risk_mean": 3.0, "risk_sd": 2.0, "risk_percentiles": tuple(np.linspace(-2, -1, 11))}


def checkpoint(folder: Path, task: str = "age", size: int = 32, **config: Any) -> str:
    model = create("vit_tiny", patch=16, size=size, task=task, seed=len(task))
    if task != "mae":
        with torch.no_grad():
            model.head.bias.fill_(50.0 if task == "age" else 0.0)
    save(model, str(folder), config={"detector": "mtcnn", **config})
    return str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Aligned faces of 32 px in three units (two of them bad), an age model and a survival model."""
    root = tmp_path_factory.mktemp("score")
    encoded = jpegs(pictures(COUNT))
    encoded[7], encoded[20] = b"", encoded[20][:200]
    ages = [None if number % 5 == 0 else 20.0 + number for number in range(COUNT)]
    days = pa.array([18_000 + number // 4 for number in range(COUNT)], pa.int32()).cast(pa.date32())
    commit_faces(str(root / "faces"), encoded, age=ages, taken_on=days)
    checkpoint(root / "age")
    checkpoint(root / "survival", "survival", **SCALE)
    return root


def options(root: Path, output: object, **more: Any) -> score.Options:
    settings = {
        "models": [str(root / "age"), str(root / "survival")], "rows_per_unit": 4, "workers": 1,
        "cpus_per_worker": 0.5, "memory_per_worker": 0.1, "precision": "fp32",
    }  # fmt: skip
    if "manifest" not in more:
        settings["faces"] = str(root / "faces")
    return score.Options(output=str(output), **{**settings, **more})


def here(made: score.Options) -> store.Ledger:
    """The same job without Ray: its parts one after the other, its actor called in this process."""
    source, plans = score._prepared(made)
    units = score._units(made, plans)
    blocks = _cluster.todo(source.rows, units, made.rows_per_unit, source.groups)
    actor = score.ScoreUnit(made, plans)
    counts = [actor(block).to_pylist()[0] for block in blocks]
    ledger = score._account(made, plans, units, source)
    if len(blocks) == len(units.done()):
        assert [sum(each[name] for each in counts) for name in ("rows", "out")] == [ledger.rows_in, ledger.rows_out]
    assert not _cluster.todo(source.rows, units, made.rows_per_unit, source.groups)
    return ledger


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """An actor takes its whole process down to one thread; this one is everybody's."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def files(output: Path) -> dict[str, bytes]:
    """Everything that the job leaves, but for what names places and workers."""
    kept = {
        str(file.relative_to(output)): file.read_bytes()
        for file in output.rglob("*")
        if file.is_file() and file.name not in ("options.yaml", "ledger.json")
    }
    assert any(name.startswith("scores/") for name in kept) and {"visits.parquet", "aging_rates.parquet"} < set(kept)
    return kept


@pytest.fixture(scope="module")
def done(root: Path, cluster: None) -> Path:
    """By two workers, without a break."""
    score.main(options(root, root / "done", workers=2))
    return root / "done"


def test_each_face_is_a_row_of_scores_or_a_reject_and_the_ledger_tells_where_they_come_from(root, done, tmp_path):
    written = json.loads((done / "ledger.json").read_text())
    assert written["rows_in"] == COUNT == written["rows_out"] + sum(written["rejects"].values())
    assert written["rejects"] == {"unreadable": 2} and written["models"]["age"]["age_flip"] is True
    assert written["models"]["age"]["age_model"] == load(str(root / "age")).digest
    assert written["data_digest"] and written["config_digest"] == options(root, done).digest()
    made = pa.concat_tables(store.read_units(str(done), "scores"))
    rejects = pa.concat_tables(store.read_units(str(done), "rejects"))
    assert sorted(rejects["photo_id"].to_pylist()) == ["p00007", "p00020"]
    assert sorted(made["photo_id"].to_pylist() + rejects["photo_id"].to_pylist()) == [
        f"p{number:05d}" for number in range(COUNT)
    ]
    assert made.column_names[:5] == ["photo_id", "subject_id", "split", "age", "taken_on"]
    assert set(SCORE_FIELDS.names) < set(made.column_names) and "face" not in made.column_names
    by_id = {row["photo_id"]: row for row in made.to_pylist()}
    shown = pictures(COUNT)
    team = Team(plan_models([str(root / "age"), str(root / "survival")], "mtcnn"), precision="fp32", batch=1)
    unscaled = Team(plan_models([checkpoint(tmp_path / "raw", "survival")], "mtcnn"), precision="fp32", batch=1)
    for number in (0, 13, 29):
        row, age = by_id[f"p{number:05d}"], None if number % 5 == 0 else 20.0 + number
        alone = team.values([dict.fromkeys(team.cuts, shown[number])])
        # the job saw them through JPEG
        assert row["face_age"] == pytest.approx(alone["age"][0], abs=0.2)
        assert row["survival_risk"] == pytest.approx(alone["survival"][0], abs=0.1)
        (raw,) = unscaled.values([dict.fromkeys(unscaled.cuts, shown[number])])["survival"]
        assert alone["survival"][0] == pytest.approx((raw - 3.0) / 2.0, abs=1e-6)  # once
        assert row["survival_percentile"] == pytest.approx(np.clip(100 * (row["survival_risk"] + 2), 0, 100), abs=1e-6)
        assert row["face_age_deviation"] == (None if age is None else row["face_age"] - age)
        assert row["face_age_low"] is row["face_age_corrected"] is None and 0 <= row["survival_percentile"] <= 100
    with (done / "scores.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [float(row["face_age"]) for row in listed] == [by_id[row["photo_id"]]["face_age"] for row in listed]
    assert len(listed) == COUNT - 2


def test_two_workers_leave_the_same_bytes_as_one(root, done, tmp_path):
    here(options(root, tmp_path / "one"))
    assert files(tmp_path / "one") == files(done)


def test_a_run_that_was_stopped_goes_on_and_leaves_the_same_bytes(root, done, tmp_path):
    """As a kill leaves it: some units without their marker, one with a half file that nobody names."""
    output = tmp_path / "stopped"
    shutil.copytree(done, output)
    markers = sorted((output / "units" / "done").iterdir())
    for marker in markers[::2]:
        marker.unlink()
    for file in (*output.glob("scores.csv"), *output.glob("*.parquet")):
        file.unlink()
    before = {file: file.stat().st_mtime_ns for file in output.glob("units/done/*.json")}
    (output / "scores" / f"{markers[0].stem}-00000000.parquet").write_bytes(b"half a file")
    assert here(options(root, output)).rows_in == COUNT
    store.WorkUnits(str(output), json.loads((output / "units" / "purpose.json").read_text()), stage="score").sweep()
    assert files(output) == files(done)
    assert before and all(file.stat().st_mtime_ns == then for file, then in before.items())


def test_a_second_run_scores_nothing(root, done, capsys):
    before = {file: file.stat().st_mtime_ns for file in done.glob("scores/*.parquet")}
    again = score.main(options(root, done))
    told = capsys.readouterr().out
    assert "30 of 30 faces were done before" in told and "ready after" not in told
    assert again.rows_out == COUNT - 2
    assert before == {file: file.stat().st_mtime_ns for file in done.glob("scores/*.parquet")}


def test_other_models_or_options_are_refused_in_the_same_folder_and_other_workers_are_not(root, done, tmp_path):
    with pytest.raises(Refused, match="age_flip: True before, False now"):
        score.main(options(root, done, flip=False))
    other = checkpoint(tmp_path / "other", conformal={"pooled": {"n": 9.0, "half_width": 1.0}})
    with pytest.raises(Refused, match="age_config"):  # the same weights; other intervals
        score.main(options(root, done, models=[other, str(root / "survival")]))
    with pytest.raises(Refused, match="survival_model"):
        score.main(options(root, done, models=[str(root / "age")]))
    score.main(options(root, done, workers=1, rows_per_unit=100))


def test_photos_scored_at_once_and_photos_aligned_before_have_the_same_scores(tmp_path, cluster, capsys):
    """Aligned to PNG, so that nothing is lost between the two; and a photo that is gone is a reject."""
    manifest, _ = make_cohort(10, 1, seed=0, out=tmp_path / "people")
    table = read_manifest(manifest)
    gone = Path(table["uri"][4].as_py())
    gone.unlink()
    models = [checkpoint(tmp_path / "age", size=112, detector="yunet")]
    score.main(options(tmp_path, tmp_path / "a", models=models, manifest=str(manifest), detector="mtcnn"))
    assert "learned from faces found by yunet, these are found by mtcnn" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "ledger.json").read_text())["rejects"]["missing"] == 1
    faces = align_rows(table, Aligner("mtcnn"), face_format="png").faces
    columns = {name: faces[name] for name in faces.column_names if name not in ("photo_id", "face")}
    commit_faces(str(tmp_path / "faces"), faces["face"].to_pylist(), **columns, photo_id=faces["photo_id"])
    here(options(tmp_path, tmp_path / "b", models=models))
    both = []
    for output in ("a", "b"):
        made = pa.concat_tables(store.read_units(str(tmp_path / output), "scores")).sort_by("photo_id")
        both.append(made.drop_columns("landmarks"))  # the manifest's, and the detector's
    assert sorted(both[0].column_names) == sorted(both[1].column_names) and both[0].num_rows >= 8
    for name in both[0].column_names:
        if name.startswith("face_age"):  # other units, so other companions in a batch
            pairs = zip(*(each[name].to_pylist() for each in both), strict=True)
            assert all(x == y if x is None else abs(x - y) < 1e-4 for x, y in pairs), name
        else:
            assert both[0][name].to_pylist() == both[1][name].to_pylist(), name


def test_a_dry_run_prints_models_and_resources_and_writes_nothing(root, tmp_path, cluster, capsys):
    score.main(options(root, tmp_path / "dry", dry_run=True))
    told = capsys.readouterr().out
    assert "faces arcface112 of 32 px found by mtcnn, mirrored too" in told and "1 actors x (0.5 CPU" in told
    assert "the age model holds no conformal" in told
    assert not (tmp_path / "dry").exists()


def test_faces_and_models_and_scores_in_a_bucket(root, quick_bucket):
    """In this process: Ray's workers know nothing of this bucket. (The faults test has one that they know.)"""
    for name in ("faces", "age", "survival"):
        for file in (root / name).rglob("*"):
            if file.is_file():
                store.write_bytes(f"{quick_bucket}/{file.relative_to(root)}", file.read_bytes())
    made = score.Options(
        faces=f"{quick_bucket}/faces", models=[f"{quick_bucket}/age", f"{quick_bucket}/survival"],
        output=f"{quick_bucket}/scores", rows_per_unit=8, precision="fp32",
    )  # fmt: skip
    ledger = here(made)
    assert (ledger.rows_in, ledger.rows_out) == (COUNT, COUNT - 2)
    assert {entry.location.removeprefix(made.output).split("/")[1] for entry in store.list_files(made.output)} == {
        "aging_rates.parquet", "ledger.json", "options.yaml", "rejects", "scores", "scores.csv", "units",
        "visits.parquet",
    }  # fmt: skip


# What cannot be scored


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], r"exactly one of the two .* neither was given"),
        (["--faces", "f", "--manifest", "m.csv"], "both was given"),
        (["--faces", "f", "--detector", "yunet", "--max-pixels", "9"], "--detector, --max-pixels: --faces are aligned"),
        (["--faces", "f", "--batch", "0"], "--batch"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, told):
    with pytest.raises(Refused, match=told):
        read_options(score.Options, ["--models", "a", "--output", "o", *arguments])


def test_names_of_known_weights_are_not_taken_for_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = read_options(score.Options, ["--faces", "f", "--output", "o", "--models", "fahr-faceage", "runs/age"])
    assert made.models == ["fahr-faceage", str(tmp_path / "runs" / "age")]


def test_what_a_run_wrote_down_starts_the_same_run_again(root, done):
    given = yaml.safe_load((done / "options.yaml").read_text())
    assert score.Options(**given).digest() == options(root, done).digest()


def bad(root: Path, tmp_path: Path, case: str) -> score.Options:
    output = tmp_path / "out"
    if case == "no faces":
        return options(root, output, faces=str(root / "age"))
    if case == "folder of the files":
        return options(root, output, faces=str(root / "faces" / "faces"))
    if case == "another convention":
        return options(root, output, models=[checkpoint(tmp_path / "m", convention="faceage160")])
    if case == "another size":
        return options(root, output, models=[str(root / "age"), checkpoint(tmp_path / "m", "survival", size=64)])
    if case == "no checkpoint":
        return options(root, output, models=[str(tmp_path / "none")])
    if case == "mae":
        return options(root, output, models=[checkpoint(tmp_path / "m", "mae")])
    if case == "two age models":
        return options(root, output, models=[str(root / "age"), checkpoint(tmp_path / "m")])
    if case == "no manifest":
        return options(root, output, manifest=str(tmp_path / "none.csv"))
    if case == "no weights":
        return options(root, output, models=["fahr-facesurvival"])
    rows = {"photo_id": ["a"], "uri": ["a.jpg"], "survival_risk": [1.0]}
    write_manifest(pa.table(rows), tmp_path / "people.csv")
    return options(root, output, manifest=str(tmp_path / "people.csv"))


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("no faces", "holds no face"),
        ("folder of the files", "holds no face .*or name"),
        ("another convention", "reads faces cut as faceage160.*--convention faceage160"),
        ("another size", "reads faces of 64 px, those of .* have 32.*--size 64"),
        ("no checkpoint", "no such checkpoint"),
        ("mae", "model of task mae"),
        ("two age models", "second age model.*its own DIR"),
        ("no manifest", "none.csv"),
        ("no weights", "authors have not released it"),
        ("a manifest with scores", "has columns survival_risk, which scores have of their own"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_before_anything_is_written(root, tmp_path, case, told):
    with pytest.raises(Refused, match=told):
        score.main(bad(root, tmp_path, case))
    assert not (tmp_path / "out").exists()
