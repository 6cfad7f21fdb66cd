"""Fine-tuning to risk as its users run it: stages, early stopping, arms, folds, kills, wrong data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fahr import store
from fahr.biomarkers.risk import standardised
from fahr.errors import Refused
from fahr.models import create, load, save
from fahr.scores import Team, plan_models, score_faces
from fahr.scoring import Scorer
from fahr.survival import concordance
from fahr.survival.cox import fit_cox
from fahr.training.facesets import open_faces
from fahr.training.journal import read_rows
from fahr.training.run import _Window
from jobs import finetune_survival
from tools import outcomes
from tools.faces import commit_faces
from tools.outcomes import AGE, COLUMNS, COUNT, DAYS, EVENT, FACES, FRAILTY, HAZARD, PERSON, SIZE, SPLIT, options
from tools.runs import plug_pulled

PHOTOS = [f"p{number:05d}" for number in range(COUNT)]
TEST = np.array(SPLIT) == "test"
ONE = [{"name": "all", "samples": 64}]  # two steps: for what does not need a model that has learned


@pytest.fixture(scope="module")
def faces(aligned: Callable[[Any], str]) -> str:
    return aligned(outcomes)


@pytest.fixture(scope="module")
def whole(faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    finetune_survival.main(options(faces, output))
    return output


@pytest.fixture(scope="module")
def short(faces: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps from random weights."""
    output = tmp_path_factory.mktemp("short") / "run"
    published = {"c_index": 0.72, "quartile_hazard_ratio": 3.22}
    finetune_survival.main(options(faces, output, stages=ONE, published=published))
    return output


def moved(checkpoint: Path) -> set[str]:
    """Names of the weights that are not those of the start."""
    fresh = create("vit_tiny", patch=16, size=SIZE, task="survival", seed=0).state_dict()
    return {name for name, each in load(str(checkpoint)).state_dict().items() if not torch.equal(each, fresh[name])}


def predictions(output: Path) -> pd.DataFrame:
    return pq.read_table(output / "predictions.parquet").to_pandas()


def c_index(marker: np.ndarray, where: np.ndarray = TEST) -> float:
    """Of rows of the cohort, by people: photos of one person are no pair."""
    return concordance(DAYS[where], EVENT[where], marker[where], subject=PERSON[where]).value


def story(output: Path) -> list[tuple[Any, ...]]:
    """What must be the same however often a run was killed."""
    names = ("step", "loss", "grad_norm", "score", "c_index", "best")
    return [
        tuple(row.get(name) for name in names)
        for stage in ("stage-1-head", "stage-2-all") for row in read_rows(str(output / stage))
    ]  # fmt: skip


def rows(output: Path, stage: str, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(str(output / stage)) if row["kind"] == kind]


# A run


def test_the_risk_ranks_people_it_has_not_seen_nearly_as_the_truth_does(whole: Path) -> None:
    found = predictions(whole)
    test = found[found["part"] == "test"].set_index("photo_id").loc[[p for p, t in zip(PHOTOS, TEST, strict=True) if t]]
    risk = np.zeros(COUNT)
    risk[TEST] = test["risk"]
    assert c_index(risk) > c_index(HAZARD[PERSON]) - 0.05
    assert c_index(risk) > c_index(AGE[PERSON]) + 0.05
    told = json.loads((whole / "evaluation" / "test.json").read_text())
    assert told["ranked"]["people"] == TEST.sum() // 2 and told["ranked"]["events"] == EVENT[TEST].sum() // 2
    assert told["ranked"]["low"] < told["ranked"]["c_index"] < told["ranked"]["high"]
    assert told["beside_age"]["gain"]["difference"] > 0
    first, *_, last = told["quartiles"]["groups"]  # of fewer than ten events nobody is to see a ratio
    assert bool(first["events"] and last["events"]) == (last["unadjusted"] is not None)
    text = (whole / "evaluation" / "evaluation.txt").read_text()
    assert "C-index of the risk" in text and "age + risk" in text and "quartile" in text
    assert (whole / "evaluation" / "test-quartiles.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_leaves_a_checkpoint_whose_scale_is_that_of_its_training_people(whole: Path, faces: str) -> None:
    ledger = store.Ledger.read(str(whole / "ledger.json")).check()
    calibrate = SPLIT.count("calibrate")
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (COUNT, COUNT - calibrate, {"not_asked_for": calibrate})
    model = load(str(whole / "checkpoint"), task="survival", expect_convention="arcface112")
    config = model.config
    people = {person for person, split in zip(PERSON, SPLIT, strict=True) if split == "train"}
    assert config.metrics["people"] == len(people)
    assert config.metrics["events"] == len({person for person in people if EVENT[2 * person]})
    assert len(config.risk_percentiles) == 101 and config.quartile_cuts == config.risk_percentiles[25:76:25]
    assert not list(whole.glob("stage-*/states/*")) and not list(whole.glob("stage-*/best/*"))
    # the scale, worked out again from one photo of each of them; any photo of a person does about as well
    at = [number for number in range(0, COUNT, 2) if SPLIT[number] == "train"]
    some = open_faces(faces, cache=str(whole / "cache"))
    found = some.table["photo_id"].to_pylist()
    pixels = some.pixels([found.index(PHOTOS[number]) for number in at])
    scorer = Scorer(model, precision="fp32")
    shown = (scorer.predict(pixels) + scorer.predict(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2
    assert abs(shown.mean()) < 0.1 and abs(shown.std(ddof=1) - 1) < 0.1
    assert np.abs(np.quantile(shown, [0.25, 0.5, 0.75]) - config.quartile_cuts).max() < 0.25


def test_every_held_out_face_is_told_once_as_the_checkpoint_scores_it(whole: Path, faces: str) -> None:
    found = predictions(whole)
    assert found.groupby("part").size().to_dict() == {name: SPLIT.count(name) for name in ("tune", "test")}
    assert found["photo_id"].is_unique and found["percentile"].between(0, 100).all()
    scorer = Scorer(load(str(whole / "checkpoint")), precision="fp32")
    some = open_faces(faces, cache=str(whole / "cache"))
    known = some.table["photo_id"].to_pylist()
    pixels = some.pixels([known.index(photo) for photo in found["photo_id"]])
    plain = (scorer.predict(pixels) + scorer.predict(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2
    assert np.allclose(found["risk"], plain, atol=1e-3)


def test_a_stage_tells_what_was_drawn_from_and_how_often(whole: Path) -> None:
    for stage in ("stage-1-head", "stage-2-all"):
        told = json.loads((whole / stage / "stage.json").read_text())["balance"]
        died = {person for person in PERSON if EVENT[2 * person] and SPLIT[2 * person] == "train"}
        assert (told["people"], told["people_with_event"], told["photos"]) == (120, len(died), 240)
        assert told["events_in_batch"] == np.ceil(32 * len(died) / 120) and told["short"] == ""
        assert 0 < told["effective_people"] <= 120


def test_the_kept_weights_are_those_of_the_best_judgement(whole: Path) -> None:
    for stage in ("stage-1-head", "stage-2-all"):
        judged = rows(whole, stage, "judged")
        best = min(judged, key=lambda row: (row["score"], row["position"]))
        done = json.loads((whole / stage / "stage.json").read_text())
        assert done["best_position"] == best["position"]
        assert done["judged"]["c_index"] == pytest.approx(1 - best["score"])
    told = json.loads((whole / "evaluation" / "tune.json").read_text())
    assert told["ranked"]["c_index"] == pytest.approx(done["judged"]["c_index"], abs=1e-9)


def test_stopped_dead_in_both_stages_it_ends_with_the_same_numbers(whole: Path, faces: str, tmp_path: Path) -> None:
    """In the fifth of the first stage's 7 steps, which are then made anew; and in the tenth of the second's 30."""
    chosen = options(faces, tmp_path / "run")
    for stage, after in (("stage-1-head", 4), ("stage-2-all", 7 + 9)):
        with plug_pulled(_Window, "row", after=after):
            finetune_survival.main(chosen)
        assert not (tmp_path / "run" / stage / "stage.json").exists()
    finetune_survival.main(chosen)
    assert story(tmp_path / "run") == story(whole)
    found, expected = (load(str(each / "checkpoint")).state_dict() for each in (tmp_path / "run", whole))
    assert all(torch.equal(found[name], each) for name, each in expected.items())
    assert (tmp_path / "run" / "evaluation" / "evaluation.txt").read_bytes() == (
        whole / "evaluation" / "evaluation.txt"
    ).read_bytes()


def test_a_stage_ends_early_when_the_c_index_no_longer_improves(faces: str, tmp_path: Path) -> None:
    """A rate at which nothing moves: no later judgement is better than the first."""
    stage = {"name": "all", "epochs": 9, "patience": 2, "base_lr": 1e-12, "freeze": "encoder"}
    finetune_survival.main(options(faces, tmp_path / "run", stages=[stage], warmup_samples=0))
    judged = rows(tmp_path / "run", "stage-1-all", "judged")
    assert 3 <= len(judged) < 9 and sum(row["best"] for row in judged[-2:]) == 0


def test_held_out_people_that_cannot_be_compared_choose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody of `tune` died: C is undefined, told, never chosen; the last weights are kept. Only the head has moved."""
    event = np.where(np.array(SPLIT) == "tune", 0, EVENT).tolist()
    commit_faces(str(tmp_path / "aligned"), FACES, rows_per_unit=80, **COLUMNS | {"event": event})
    changes = {"stages": [ONE[0] | {"freeze": "encoder"}], "loss": "hinge", "margin": 0.5}
    finetune_survival.main(options(str(tmp_path / "aligned"), tmp_path / "run", **changes))
    assert moved(tmp_path / "run" / "checkpoint") == {"head.weight", "head.bias"}
    done = json.loads((tmp_path / "run" / "stage-1-all" / "stage.json").read_text())
    assert done["best_position"] == done["samples"] == 64 and done["judgements"] == 0
    assert "the held-out people give no score" in capsys.readouterr().err
    assert "undefined" in (tmp_path / "run" / "evaluation" / "evaluation.txt").read_text()


def test_beside_an_age_offset_the_face_learns_frailty_and_less_of_age(whole: Path, faces: str, tmp_path: Path) -> None:
    stages = [{"name": "all", "epochs": 4}]
    finetune_survival.main(options(faces, tmp_path / "run", age_offset=True, loss="cox", stages=stages))
    corr = {}
    for name, output in (("plain", whole), ("offset", tmp_path / "run")):
        found = predictions(output)
        person = PERSON[[PHOTOS.index(photo) for photo in found["photo_id"]]]
        corr[name] = [np.corrcoef(found["risk"], each[person])[0, 1] for each in (AGE, FRAILTY)]
    assert corr["offset"][1] > 0.3 and corr["offset"][0] < corr["plain"][0] - 0.1
    judged = rows(tmp_path / "run", "stage-1-all", "judged")[-1]
    assert judged["score"] == pytest.approx(1 - judged["c_index_with_age"])
    train = np.array([number for number in range(0, COUNT, 2) if SPLIT[number] == "train"])
    fit = fit_cox(DAYS[train], EVENT[train] == 1, {"age": AGE[PERSON[train]].round(1)})
    told = load(str(tmp_path / "run" / "checkpoint")).config.metrics["age_offset"]
    assert told["beta_per_year"] == pytest.approx(fit.coefficients[0], rel=1e-6)


def test_discrete_hazards_rank_people_too_and_score_as_they_were_judged(faces: str, tmp_path: Path) -> None:
    """Its ten intervals are of the people learned from; a job that scores opens it and says the same risks."""
    stages = [{"name": "all", "epochs": 4}]
    finetune_survival.main(options(faces, tmp_path / "run", loss="hazard", stages=stages))
    found, where = predictions(tmp_path / "run").set_index("photo_id"), np.array(SPLIT)
    risk = np.array([found["risk"].get(photo, np.nan) for photo in PHOTOS])
    for part in ("tune", "test"):
        assert c_index(risk, where == part) > c_index(HAZARD[PERSON], where == part) - 0.1
    first = rows(tmp_path / "run", "stage-1-all", "step")[0]["loss"]
    assert first < 2.5, "fresh hazards of one half would begin at 10 log 2"
    config = load(str(tmp_path / "run" / "checkpoint")).config
    train = np.array([number for number in range(0, COUNT, 2) if SPLIT[number] == "train"])
    died = DAYS[train][EVENT[train] == 1]
    assert config.hazard_edges[0] == 0 and config.hazard_edges[-1] == died.max()
    assert np.ptp(np.histogram(died, config.hazard_edges)[0]) <= 3
    team = Team(plan_models([str(tmp_path / "run" / "checkpoint")], None, None), precision="fp32", batch=16)
    test = [number for number in range(COUNT) if TEST[number]]
    table = pa.table({
        "photo_id": [PHOTOS[number] for number in test], "face": [FACES[number] for number in test],
        "convention": ["arcface112"] * len(test),
    })  # fmt: skip
    scored = score_faces(table, team).scores
    np.testing.assert_allclose(scored["survival_risk"].to_numpy(), risk[test], atol=1e-3)
    np.testing.assert_allclose(
        scored["survival_percentile"].to_numpy(), found["percentile"][table["photo_id"].to_pylist()], atol=1
    )


# Folds and arms


def test_folds_test_everybody_once_on_people_they_have_not_seen(faces: str, tmp_path: Path) -> None:
    """And of a frozen encoder the last blocks learn, when they are told to."""
    stages = [ONE[0] | {"freeze": "encoder", "blocks": 2}]
    chosen = options(faces, tmp_path / "run", stages=stages, folds=2)
    finetune_survival.main(chosen)
    tested = predictions(tmp_path / "run")
    assert sorted(tested["photo_id"]) == PHOTOS and tested.groupby("subject_id")["fold"].nunique().max() == 1
    everyone, plan = finetune_survival._planned(
        chosen, json.loads((tmp_path / "run" / "run.json").read_text())["digest"]
    )
    for fold, cohort in enumerate(plan.values(), 1):
        learned, tuned = (set(everyone.table.filter(w)["subject_id"].to_pylist()) for w in (cohort.train, cohort.tune))
        known = set(tested[tested["fold"] == fold]["subject_id"])
        assert not known & learned and not known & tuned and not learned & tuned
        assert known | learned | tuned == set(COLUMNS["subject_id"]) and len(tuned) < 0.2 * COUNT // 2
        config = load(str(tmp_path / "run" / f"fold-{fold}" / "checkpoint")).config
        assert config.metrics["people"] == len(learned)
        parts = {
            name.rsplit(".", 1)[0].split(".mlp")[0] for name in moved(tmp_path / "run" / f"fold-{fold}" / "checkpoint")
        }
        assert {part.split(".attn")[0].split(".norm")[0] for part in parts} == {
            "head", "encoder", "encoder.blocks.10", "encoder.blocks.11"
        }  # fmt: skip
    told = json.loads((tmp_path / "run" / "evaluation" / "folds.json").read_text())["ranked"]
    # pairs of one fold only, by brute force over people: the earliest visit of each has both photos, their median risk
    means = tested.groupby("subject_id").agg({"risk": "median", "fold": "first"})
    risk, fold = means["risk"].to_numpy(), means["fold"].to_numpy()
    time, event = DAYS[::2], EVENT[::2] == 1
    pairs = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event)) & (fold[:, None] == fold)
    np.fill_diagonal(pairs, False)
    right = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    assert told["comparable"] == pairs.sum()
    assert told["c_index"] == pytest.approx((right * pairs).sum() / pairs.sum())


def test_arms_run_the_same_people_from_each_start_and_are_compared(faces: str, short: Path, tmp_path: Path) -> None:
    save(create("vit_tiny", patch=16, size=SIZE, task="mae", seed=5), str(tmp_path / "mae"))
    changes = {"init": str(tmp_path / "mae"), "arms": ["random", "mae"], "stages": ONE}
    changes |= {"encoder": "vit_small", "patch": 8}  # of no meaning here: what is compared are equal networks
    ledger = finetune_survival.main(options(faces, tmp_path / "run", **changes))
    assert ledger.rejects == {"not_asked_for": SPLIT.count("calibrate")}
    text = (tmp_path / "run" / "evaluation" / "evaluation.txt").read_text()
    told = json.loads((tmp_path / "run" / "evaluation" / "arms.json").read_text())
    assert text.startswith("start") and set(told) == {f"{a}/{p}" for a in ("mae", "random") for p in ("tune", "test")}
    values = [told[f"{arm}/test"]["ranked"]["c_index"] for arm in ("mae", "random")]
    assert told["mae/test"]["less_random"]["difference"] == pytest.approx(values[0] - values[1])
    assert told["random/test"]["less_random"] is None and f"{values[0]:.3f}" in text
    found, expected = (load(str(each / "checkpoint")) for each in (tmp_path / "run" / "arm-random", short))
    assert all(torch.equal(found.state_dict()[name], each) for name, each in expected.state_dict().items())
    assert load(str(tmp_path / "run" / "arm-mae" / "checkpoint")).config.parent_checkpoint is not None


def test_a_survival_checkpoint_goes_on_with_its_head_and_its_old_scale_is_forgotten(faces: str, tmp_path: Path) -> None:
    model = create("vit_tiny", patch=16, size=SIZE, task="survival", seed=5)
    save(model, str(tmp_path / "old"), config={"risk_mean": 7.0, "risk_sd": 0.001})
    still = {"base_lr": 1e-12, "warmup_samples": 0, "flip": False, "loss": "squared_hinge", "weight": "gap"}
    finetune_survival.main(options(faces, tmp_path / "run", init=str(tmp_path / "old"), stages=ONE, **still))
    made = load(str(tmp_path / "run" / "checkpoint"))
    assert made.config.parent_checkpoint is not None and abs(made.config.risk_mean) < 3
    assert torch.allclose(made.head.weight, model.head.weight, atol=1e-6)
    found = predictions(tmp_path / "run")
    some = open_faces(faces, cache=str(tmp_path / "run" / "cache"))
    pixels = some.pixels([some.table["photo_id"].to_pylist().index(photo) for photo in found["photo_id"]])
    raw = Scorer(model, precision="fp32").predict(pixels)
    assert np.allclose(found["risk"], standardised(raw, made.config.risk_mean, made.config.risk_sd), atol=1e-3)


def test_numbers_that_others_published_stand_beside_ours(short: Path) -> None:
    text = (short / "evaluation" / "evaluation.txt").read_text()
    assert "C-index that was published          0.720" in text and "3.22" in text


# What is wrong from the start


def refused(tmp_path: Path, told: str, changes: dict[str, Any] | None = None, **columns: Any) -> None:
    folder = str(tmp_path / "aligned")
    commit_faces(folder, FACES, rows_per_unit=COUNT, **COLUMNS | columns)
    with pytest.raises((Refused, ValueError), match=told):
        finetune_survival.main(options(folder, tmp_path / "run", **changes or {}))
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"event": pa.nulls(COUNT, pa.int8())}, "no face has follow_up_days and event to learn from"),
        ({"event": [0] * COUNT}, "none of the 120 people to learn from had the event"),
        ({"event": [2, *COLUMNS["event"][1:]]}, "event of photo 'p00000' is 2: must be 0 or 1"),
        ({"follow_up_days": [-1.0, *DAYS[1:]]}, "follow_up_days of photo 'p00000' is -1: must be days, 0 or more"),
        ({"entry_days": [*[0.0] * (COUNT - 1), 9e9]}, "entry_days of photo 'p00479' is 9e.09: must lie before"),
        ({"entry_days": [-3.0, *[0.0] * (COUNT - 1)]}, "entry_days of photo 'p00000' is -3: must be 0 or more"),
        ({"follow_up_days": [50.0] * COUNT, "event": [1] * COUNT}, "all 120 people .* after 50 days: nobody outlived"),
        ({"event": [1 - EVENT[0], *EVENT[1:].tolist()]}, "person of photo .* the same for all photos"),
        ({"split": ["test"] * COUNT}, "has split `train`"),
        ({"split": [*SPLIT[:-1], "test"]}, "held-out photos show somebody .*: the person of photo"),
    ],
)  # fmt: skip
def test_outcomes_that_cannot_be_learned_from_are_refused(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    refused(tmp_path, told, None, **columns)


def test_faces_without_outcomes_or_ages_are_refused_with_the_columns_that_are_missing(tmp_path: Path) -> None:
    folder = str(tmp_path / "aligned")
    commit_faces(folder, FACES[:40], rows_per_unit=40)
    with pytest.raises(Refused, match="no column follow_up_days and event. Put them into the manifest"):
        finetune_survival.main(options(folder, tmp_path / "run"))
    unknown = [None if dataset == "two" else event for dataset, event in zip(COLUMNS["dataset"], EVENT, strict=True)]
    refused(
        tmp_path / "a",
        "--held-out two: none of its faces has",
        {"held_out": ["two"]},
        event=pa.array(unknown, pa.int8()),
    )
    died = np.where(np.isin(DAYS, np.unique(DAYS[EVENT == 1])[:9]), EVENT, 0).tolist()
    refused(
        tmp_path / "c",
        "loss hazard: its 10 intervals end on days .* there are [1-9] such",
        {"loss": "hazard"},
        event=died,
    )
    refused(tmp_path / "b", "no Cox model of age .* same for everybody", {"age_offset": True}, age=[50.0] * COUNT)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss": "cox", "tau": 2.0}, "loss cox: has neither weight nor tau"),
        ({"loss": "cox", "weight": "gap"}, "loss cox: has neither weight nor tau"),
        ({"loss": "hazard", "weight": "ipcw"}, "loss hazard: has neither weight nor tau"),
        ({"loss": "hazard", "age_offset": True}, "age_offset: is a log hazard, and loss hazard has another scale"),
        ({"margin": 2.0}, "margin 2: has no effect with loss logistic"),
        ({"loss": "hinge", "age_offset": True}, "age_offset: is a log hazard, and loss hinge has another scale"),
        ({"stages": [{"name": "a", "balanced": True}]}, "balanced is for ages"),
        ({"stages": [{"name": "a", "blocks": 2}]}, "blocks 2 has no effect without freeze"),
        ({"stages": [{"name": "a", "freeze": "encoder", "blocks": 13}]}, "blocks 13: vit_tiny has 12"),
        ({"arms": ["mae", "random"]}, "arms mae: begins with --init, which is random"),
        ({"arms": ["random", "random"]}, "arms random, random: each once"),
        ({"folds": 1}, "folds 1"),
        ({"global_batch": 200, "micro_batch": 200}, "a global batch of 200 from 120 people, one photo of each"),
        ({"init": "nowhere.pth"}, "no such checkpoint"),
        ({"arms": ["random", "imagenet"], "patch": 8}, "no weights are known for vit_tiny with patch 8"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(faces: str, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises((Refused, ValueError), match=told):
        finetune_survival.main(options(faces, tmp_path / "run", **changes))
    assert not list(tmp_path.rglob("checkpoint"))


def test_few_events_are_a_warning_and_faces_without_an_outcome_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One person died: it runs, and says what that is worth. Unknown, not watched, not readable: each is counted."""
    died = next(person for person in range(PERSON[-1]) if EVENT[2 * person] and SPLIT[2 * person] == "train")
    event: list[Any] = [int(person == died) for person in PERSON]
    days: list[Any] = list(DAYS)
    train = [number for number in range(COUNT) if SPLIT[number] == "train" and PERSON[number] != died]
    event[train[0]], days[train[2]] = None, 0.0
    made = list(FACES)
    made[SPLIT.index("test")] = made[SPLIT.index("test")][:200]
    commit_faces(
        str(tmp_path / "aligned"), made, rows_per_unit=80, **COLUMNS | {"event": event, "follow_up_days": days}
    )  # fmt: skip
    changes = {"loss": "exponential", "weight": "ipcw", "tau": 2.0, "stages": ONE}
    ledger = finetune_survival.main(options(str(tmp_path / "aligned"), tmp_path / "run", **changes))
    calibrate = SPLIT.count("calibrate")
    expected = {"no_outcome": 1, "no_follow_up": 1, "not_asked_for": calibrate, "unreadable": 1}
    assert ledger.rejects == expected and ledger.rows_in == COUNT
    told = capsys.readouterr().err
    assert "only 1 of 120 people to learn from had the event" in told and "are in every batch" in told
