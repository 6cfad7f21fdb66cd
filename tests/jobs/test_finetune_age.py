"""Fine-tuning to age as its users run it: stages, early stopping, folds, stopped and gone on with, wrong data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fahr import store
from fahr.errors import Refused
from fahr.models import create, load, save
from fahr.scoring import Scorer
from fahr.training.facesets import open_faces
from fahr.training.journal import read_rows
from fahr.training.run import _Window
from jobs import finetune_age
from tools import ages
from tools.ages import AGES, COLUMNS, COUNT, FACES, SIZE, SPLIT, options, picture
from tools.faces import commit_faces, jpegs
from tools.runs import plug_pulled


@pytest.fixture(scope="module")
def faces(aligned: Callable[[Any], str]) -> str:
    return aligned(ages)


def rows(output: Path, stage: str, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(str(output / stage)) if row["kind"] == kind]


def story(output: Path) -> list[tuple[Any, ...]]:
    """What must be the same however often a run was killed: losses and judgements of both stages."""
    names = ("step", "loss", "grad_norm", "score", "mae", "best")
    return [
        tuple(row.get(name) for name in names)
        for stage in ("stage-1-all", "stage-2-balanced") for row in read_rows(str(output / stage))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    finetune_age.main(options(faces, output))
    return output


def test_a_run_leaves_a_calibrated_checkpoint_an_evaluation_and_a_ledger(whole: Path, faces: str) -> None:
    ledger = store.Ledger.read(str(whole / "ledger.json")).check()
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (COUNT, COUNT, {})
    config = load(str(whole / "checkpoint"), task="age", expect_convention="arcface112").config
    train = AGES[[split == "train" for split in SPLIT]]
    assert config.label_stats["n"] == len(train) and config.label_stats["mean"] == pytest.approx(train.mean())
    assert config.bias_correction["people"] == 40 and config.conformal["pooled"]["n"] == 40
    told = json.loads((whole / "evaluation" / "test.json").read_text())
    assert told["errors"]["mae"]["value"] < 12 < np.abs(AGES - AGES.mean()).mean() and told["people"] == 40
    assert told["errors"]["mae"]["low"] < told["errors"]["mae"]["value"] < told["errors"]["mae"]["high"]
    assert told["coverage"]["value"] > 0.7 and told["corrected"]["mae"]["value"] > 0
    assert {"sex", "dataset"} <= {cell["names"][0] for cell in told["groups"]}, "told apart by what is known"
    assert "site" not in {cell["names"][0] for cell in told["groups"]}, "of a site nothing is known"
    for name in ("evaluation/test.csv", "evaluation/tune.json", "options.yaml", "checkpoint/MODEL_CARD.md"):
        assert (whole / name).stat().st_size > 100, name
    assert len(list((whole / "evaluation").glob("test-*.png"))) >= 3
    assert not list(whole.glob("stage-*/states/*")) and not list(whole.glob("stage-*/best/*"))


def test_every_held_out_face_is_scored_once_as_the_checkpoint_scores_it(whole: Path, faces: str) -> None:
    found = pq.read_table(whole / "predictions.parquet").to_pandas()
    expected = {name: SPLIT.count(name) for name in ("tune", "calibrate", "test")}
    assert found.groupby("part").size().to_dict() == expected and found["photo_id"].is_unique
    scorer = Scorer(load(str(whole / "checkpoint")), precision="fp32")
    some = open_faces(faces, cache=str(whole / "cache"))
    at = [some.table["photo_id"].to_pylist().index(photo) for photo in found["photo_id"]]
    pixels = some.pixels(at)
    plain = (scorer.predict(pixels) + scorer.predict(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2
    assert np.allclose(found["face_age"], plain, atol=1e-3)


def test_the_kept_weights_are_those_of_the_best_judgement(whole: Path) -> None:
    for stage in ("stage-1-all", "stage-2-balanced"):
        judged = rows(whole, stage, "judged")
        best = min(judged, key=lambda row: (row["score"], row["position"]))
        done = json.loads((whole / stage / "stage.json").read_text())
        assert done["best_position"] == best["position"] and done["judged"]["mae"] == best["mae"]
        running = [row["score"] < min([each["score"] for each in judged[:n]], default=np.inf)
                   for n, row in enumerate(judged)]  # fmt: skip
        assert [row["best"] for row in judged] == running
    told = json.loads((whole / "evaluation" / "tune.json").read_text())
    assert told["errors"]["mae"]["value"] == pytest.approx(done["judged"]["mae"], abs=1e-3)


@pytest.mark.faults
def test_stopped_dead_in_either_stage_it_ends_with_the_same_numbers(whole: Path, faces: str, tmp_path: Path) -> None:
    """In the tenth of the first stage's 40 steps, before a state, and in the second of the other stage's ten."""
    chosen = options(faces, tmp_path / "run")  # a state is written after every judgement, each ten steps
    for after in (9, 40 + 1):
        with plug_pulled(_Window, "row", after=after):
            finetune_age.main(chosen)
    finetune_age.main(chosen)
    assert story(tmp_path / "run") == story(whole)
    found, expected = (load(str(each / "checkpoint")).state_dict() for each in (tmp_path / "run", whole))
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_killed_after_training_it_only_saves(faces: str, tmp_path: Path) -> None:
    chosen = options(faces, tmp_path / "run", stages=[{"name": "all", "epochs": 1}])
    with plug_pulled(finetune_age, "_save"):
        finetune_age.main(chosen)
    told = (tmp_path / "run" / "stage-1-all" / "metrics.jsonl").stat().st_mtime_ns
    finetune_age.main(chosen)
    assert (tmp_path / "run" / "stage-1-all" / "metrics.jsonl").stat().st_mtime_ns == told
    assert (tmp_path / "run" / "checkpoint" / "config.json").exists()


def test_a_stage_ends_early_when_judgements_no_longer_improve(faces: str, tmp_path: Path) -> None:
    """A rate at which nothing moves: no later judgement is better than the first."""
    stage = {"name": "all", "epochs": 9, "patience": 2, "base_lr": 1e-12}
    finetune_age.main(options(faces, tmp_path / "run", stages=[stage], min_lr=0.0, warmup_samples=0, judge_epochs=1))
    judged = rows(tmp_path / "run", "stage-1-all", "judged")
    assert 3 <= len(judged) < 9 and sum(row["best"] for row in judged[-2:]) == 0


def test_folds_test_everybody_once_on_people_they_have_not_seen(faces: str, tmp_path: Path) -> None:
    stage = {"name": "all", "epochs": 1}
    finetune_age.main(options(faces, tmp_path / "run", stages=[stage], folds=2))
    found = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pandas()
    tested = found[found["part"] == "test"]
    assert sorted(tested["photo_id"]) == [f"p{number:05d}" for number in range(COUNT)]
    assert tested.groupby("subject_id")["fold"].nunique().max() == 1
    for fold, part in found.groupby("fold"):
        known = set(part[part["part"] == "test"]["subject_id"])
        assert not known & set(part[part["part"] == "calibrate"]["subject_id"])
        assert (tmp_path / "run" / f"fold-{fold}" / "checkpoint" / "config.json").exists()
    told = json.loads((tmp_path / "run" / "evaluation" / "folds.json").read_text())
    assert told["n"] == COUNT and told["errors"]["mae"]["value"] > 0


def test_a_dataset_held_out_is_tested_on_and_not_learned_from(faces: str, tmp_path: Path) -> None:
    stage = {"name": "all", "epochs": 1}
    ledger = finetune_age.main(options(faces, tmp_path / "run", stages=[stage], held_out=["two"]))
    found = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pandas()
    assert (found["part"] == "two").sum() == COUNT // 2 and ledger.rows_out == COUNT
    config = load(str(tmp_path / "run" / "checkpoint")).config
    assert config.label_stats["n"] == sum(
        s == "train" and d == "one" for s, d in zip(SPLIT, COLUMNS["dataset"], strict=True)
    )


def test_an_age_checkpoint_goes_on_with_its_own_head_and_any_other_gets_a_fresh_one(faces: str, tmp_path: Path) -> None:
    """At a rate at which nothing moves, the scores are those of what the run began with."""
    still = {"stages": [{"name": "all", "epochs": 1}], "base_lr": 1e-12, "min_lr": 0.0, "warmup_samples": 0}
    model = create("vit_tiny", patch=16, size=SIZE, task="age", seed=5)
    model.start_at(33.0)
    parent = save(model, str(tmp_path / "age"))
    finetune_age.main(options(faces, tmp_path / "run", init=str(tmp_path / "age"), **still))
    made = load(str(tmp_path / "run" / "checkpoint"))
    assert made.config.parent_checkpoint == parent.digest
    assert torch.allclose(made.head.bias, torch.tensor([33.0]), atol=1e-4)
    save(create("vit_tiny", patch=16, size=SIZE, task="mae", seed=5), str(tmp_path / "mae"))
    finetune_age.main(options(faces, tmp_path / "run-2", init=str(tmp_path / "mae"), **still))
    made = load(str(tmp_path / "run-2" / "checkpoint"))
    assert made.head.bias.item() == pytest.approx(made.config.label_stats["mean"], abs=1e-3)


@pytest.mark.parametrize("loss", ["huber", "distribution", "ordinal", "gaussian"])
def test_every_loss_trains_and_its_checkpoint_scores_years(faces: str, tmp_path: Path, loss: str) -> None:
    finetune_age.main(options(faces, tmp_path / "run", loss=loss, stages=[{"name": "all", "samples": 72}]))
    made = load(str(tmp_path / "run" / "checkpoint"))
    values = Scorer(made, precision="fp32").predict(np.stack([picture(age) for age in (25, 55, 85)]))
    assert ((values > 5) & (values < 110)).all()


@pytest.mark.parametrize("model", ["timm:resnet18"])
def test_any_network_of_timm_is_trained_the_same_way(faces: str, tmp_path: Path, model: str) -> None:
    finetune_age.main(options(faces, tmp_path / "run", model=model, stages=[{"name": "all", "samples": 48}]))
    assert load(str(tmp_path / "run" / "checkpoint"), task="age").architecture.name == model


def test_faceage_is_trained_by_the_same_job_and_holds_what_its_authors_held(tmp_path: Path) -> None:
    """The stem learns nothing, its statistics included; the blocks after it and the head do."""
    made = [np.asarray(cv2.resize(picture(age), (160, 160)), np.uint8) for age in AGES[:32]]
    columns = {"age": list(AGES[:32]), "split": ["train"] * 24 + ["test"] * 8, "convention": ["faceage160"] * 32}
    commit_faces(str(tmp_path / "aligned"), jpegs(made), **columns)
    chosen = options(
        str(tmp_path / "aligned"), tmp_path / "run", model="faceage", freeze=True, global_batch=8, micro_batch=8,
        stages=[{"name": "all", "samples": 16}], flip=False, warmup_samples=0,
    )  # fmt: skip
    finetune_age.main(chosen)
    found = load(str(tmp_path / "run" / "checkpoint"), expect_convention="faceage160")
    fresh = create("faceage", task="age", seed=0)
    for name, parts in (("stem", True), ("block35", True), ("block17", False), ("hidden", False)):
        before, after = (dict(getattr(each.encoder, name).state_dict()) for each in (fresh, found))
        same = [torch.equal(each, after[key]) for key, each in before.items() if "num_batches" not in key]
        assert all(same) if parts else not all(same), name


# What is wrong from the start


def refused(tmp_path: Path, told: str, changes: dict[str, Any] | None = None, **columns: Any) -> None:
    folder = str(tmp_path / "aligned")
    commit_faces(folder, FACES, rows_per_unit=COUNT, **COLUMNS | columns)
    with pytest.raises((Refused, ValueError), match=told):
        finetune_age.main(options(folder, tmp_path / "run", **changes or {}))
    assert not (tmp_path / "run" / "checkpoint").exists()


NOBODY = pa.nulls(COUNT, pa.float64())


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"age": NOBODY}, "no face has age to learn from"),
        ({"age": list(AGES * 365.25)}, "look like days: .* years.* Correct them"),
        ({"age": [*AGES[:-1], 130.0]}, "not within 0 and 122 years, such as 130"),
        ({"age": [40.0] * COUNT}, "all .* faces are 40 years old"),
        ({"split": ["test"] * COUNT}, "no face with age has split `train`"),
    ],
)
def test_ages_that_cannot_be_learned_from_are_refused(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    refused(tmp_path, told, None, **columns)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": [{"name": "all", "datasets": ["tow"]}]}, "dataset 'tow': no face is of it.*Did you mean 'two'"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "a, a: each needs a name of its own"),
        ({"folds": 1}, "folds 1"),
        (
            {"global_batch": 4096, "stages": [{"name": "all", "samples": 8192}]},
            "--global-batch 4,096: more than the 120 faces",
        ),
        ({"held_out": ["three"]}, "dataset 'three': no face is of it"),
        ({"init": "nowhere.pth"}, "no such checkpoint"),
        ({"model": "faceage"}, "faceage160"),
    ],
)
def test_options_that_cannot_work_are_refused(faces: str, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises((Refused, ValueError), match=told):
        finetune_age.main(options(faces, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_person_or_a_file_on_both_sides_is_refused(tmp_path: Path) -> None:
    subjects = [f"s{number // 2:05d}" for number in range(COUNT)]
    subjects[SPLIT.index("test")] = subjects[0]
    refused(tmp_path / "a", "held-out photos show somebody .*: the person of photo", None, subject_id=subjects)
    unknown = [None if dataset == "two" else age for dataset, age in zip(COLUMNS["dataset"], AGES, strict=True)]
    refused(tmp_path / "c", "--held-out two: none of its faces has age", {"held_out": ["two"]}, age=unknown)
    assert not list((tmp_path / "c").rglob("metrics.jsonl")), "at the start, not after hours"
    files = [f"{number:064x}" for number in range(COUNT)]
    files[SPLIT.index("test")] = files[0]
    refused(tmp_path / "b", "held-out photos show somebody .*: the file of photo", None, source_sha256=files)


def test_a_face_without_an_age_or_that_does_not_decode_is_counted(tmp_path: Path) -> None:
    made = list(FACES)
    broken = [SPLIT.index(name) for name in ("test", "calibrate", "tune")]
    for number in broken:
        made[number] = made[number][:200]
    ages = [None if number in (20, 21) else age for number, age in enumerate(AGES)]
    commit_faces(str(tmp_path / "aligned"), made, rows_per_unit=80, **COLUMNS | {"age": ages})
    chosen = options(str(tmp_path / "aligned"), tmp_path / "run", stages=[{"name": "all", "epochs": 1}])
    ledger = finetune_age.main(chosen)
    assert ledger.rejects == {"no_age": 2, "unreadable": 3} and ledger.rows_in == COUNT
