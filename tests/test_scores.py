"""Rows of scores: each number against a plain loop or a formula written out again, each row in or out with a reason."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from scipy.stats import percentileofscore

from fahr import images, store
from fahr.biomarkers.risk import fit_risk_scale, percentile
from fahr.cohorts.synthetic import render_face
from fahr.errors import Refused
from fahr.faces import AlignedFace, Aligner
from fahr.faces.rows import encode
from fahr.models import create, load, save
from fahr.models.normalization import Normalization
from fahr.scores import (
    SCORE_FIELDS,
    Cut,
    Team,
    plan_faces,
    plan_models,
    read_faces,
    score_faces,
    score_photos,
)
from fahr.scores import rows as rows_module
from tools.faces import commit_faces, jpegs, pictures

PIXELS = 32
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
BIAS = {
    "intercept": 1.5, "slope": -0.2, "centre": 50.0, "n": 400.0, "people": 300.0, "low_age": 30.0, "high_age": 80.0,
}  # fmt: skip
WIDTHS = {"pooled": 9.0, "40-49": 7.0, "40-49/female": 5.0}
CONFORMAL = {
    name: {"n": 100.0, "coverage": 0.9, "half_width": width, "fallback": 0.0} for name, width in WIDTHS.items()
}


def checkpoint(
    folder: Path, task: str = "age", *, seed: int = 0, size: int = PIXELS, contrast: str = "fixed", **config: Any
) -> str:
    """A tiny model whose answers spread over years (or a few SDs) from face to face."""
    model = create("vit_tiny", patch=16, size=size, task=task, seed=seed)
    if task != "mae":
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=generator) * (task == "age" or 0.1))
            model.head.bias.fill_(45.0 if task == "age" else 0.0)
        model.normalization = Normalization(kind=contrast)
    save(model, str(folder), config={"detector": "mtcnn", **config})
    return str(folder)


def by_hand(place: str, faces: list[np.ndarray], flip: bool = True) -> list[float]:
    """The model called in fp32, a face at a time, on pixels normalised here."""
    model = load(place)
    return [_said(model, (face, face[:, ::-1].copy()) if flip else (face,)) for face in faces]


def _said(model: torch.nn.Module, turns: tuple[np.ndarray, ...]) -> float:
    with torch.inference_mode():
        said = [
            model(((torch.from_numpy(each).float() / 255 - MEAN) / STD).permute(2, 0, 1)[None]).item() for each in turns
        ]
    return sum(said) / len(said)


def table_of(faces: list[bytes], **columns: Any) -> pa.Table:
    made = {
        "photo_id": [f"p{number}" for number in range(len(faces))],
        "face": pa.array(faces, pa.binary()),
        "convention": ["arcface112"] * len(faces),
        **columns,
    }
    return pa.table(made)


def exact(*places: str, flip: bool | None = None) -> Team:
    return Team(plan_models(places, "mtcnn", flip), precision="fp32", batch=4)


@pytest.mark.parametrize("flip", [True, False])
def test_scores_are_those_of_a_plain_loop_over_the_faces(tmp_path, flip, monkeypatch):
    monkeypatch.setattr(rows_module, "HELD", 5)  # of 13 faces: two full hands and a rest
    places = [checkpoint(tmp_path / "age"), checkpoint(tmp_path / "risk", "survival", seed=1)]
    faces = jpegs(pictures(13))
    made = score_faces(table_of(faces), exact(*places, flip=flip)).scores
    shown = [images.decode(data).pixels for data in faces]
    for place, column in zip(places, ("face_age", "survival_risk"), strict=True):
        wanted = by_hand(place, shown, flip)
        assert np.std(wanted) > 0.05
        np.testing.assert_allclose(made[column].to_numpy(), wanted, atol=2e-4)
    assert set(made["age_model_digest"].to_pylist()) == {load(places[0]).digest}
    assert set(made["survival_model_digest"].to_pylist()) == {load(places[1]).digest}


def test_a_mirrored_face_has_the_same_score_when_both_sides_count(tmp_path):
    team = exact(checkpoint(tmp_path / "age"))
    shown = pictures(6)
    mirrored = [np.ascontiguousarray(face[:, ::-1]) for face in shown]
    made = [
        score_faces(table_of([encode(face, "png") for face in faces]), team).scores["face_age"].to_numpy()
        for faces in (shown, mirrored)
    ]
    np.testing.assert_allclose(*made, atol=1e-4)


def test_every_column_follows_from_the_raw_number_by_its_formula(tmp_path):
    place = checkpoint(tmp_path / "age", bias_correction=BIAS, conformal=CONFORMAL)
    ages = [20.0, 41.5, None, 77.0, 95.0, 55.0] * 4
    sexes = ["female", "male", None, " Female", "male", "female"] * 4
    made = score_faces(table_of(jpegs(pictures(24)), age=ages, sex=sexes), exact(place)).scores.to_pylist()
    strata = set()
    for row, age, sex in zip(made, ages, sexes, strict=True):
        raw = row["face_age"]
        stratum = "pooled"
        if 40 <= raw < 50:
            stratum = "40-49/female" if (sex or "").strip().lower() == "female" else "40-49"
        strata.add(stratum)
        assert row["face_age_low"] == pytest.approx(raw - WIDTHS[stratum])
        assert row["face_age_high"] == pytest.approx(raw + WIDTHS[stratum])
        if age is None:
            assert [row[name] for name in SCORE_FIELDS.names[3:6]] == [None] * 3
            continue
        corrected = raw - (1.5 - 0.2 * (min(max(age, 30.0), 80.0) - 50.0))
        assert row["face_age_deviation"] == pytest.approx(raw - age)
        assert row["face_age_corrected"] == pytest.approx(corrected)
        assert row["face_age_deviation_adjusted"] == pytest.approx(corrected - age)
        assert row["survival_risk"] is row["survival_percentile"] is row["survival_model_digest"] is None
    assert strata == {"pooled", "40-49", "40-49/female"}


def test_a_model_without_calibration_leaves_its_columns_null_and_says_so_in_a_line_each(tmp_path):
    plans = plan_models([checkpoint(tmp_path / "a"), checkpoint(tmp_path / "r", "survival")])
    made = score_faces(table_of(jpegs(pictures(3)), age=[50.0] * 3), exact(*(plan.place for plan in plans))).scores
    filled = [name for name in SCORE_FIELDS.names if made[name].null_count == 0]
    assert filled == [
        "face_age", "face_age_deviation", "survival_risk", "age_model_digest", "survival_model_digest",
    ]  # fmt: skip
    assert all(made[name].null_count == 3 for name in SCORE_FIELDS.names if name not in filled)
    assert [plan.notes() for plan in plans] == [
        [
            "the age model holds no conformal, so face_age_low and face_age_high are null",
            "the age model holds no bias_correction, so face_age_corrected and face_age_deviation_adjusted are null",
        ],
        [
            "the survival model holds no risk_sd, so survival_risk is not standardised but the network's own number, "
            "of no known scale",
            "the survival model holds no risk_percentiles, so survival_percentile is null",
        ],
    ]


@pytest.mark.parametrize("flip", [True, False])
def test_the_risk_is_in_standard_deviations_once_and_its_percentile_is_of_what_is_shown(tmp_path, flip):
    faces = jpegs(pictures(11))
    shown = [images.decode(data).pixels for data in faces]
    raw = np.array(by_hand(checkpoint(tmp_path / "raw", "survival", seed=1), shown, flip))
    training = np.random.default_rng(0).normal(raw.mean() + 2, 3 * raw.std(), 500)  # so that twice would show
    scale = dataclasses.asdict(fit_risk_scale(training))
    place = checkpoint(tmp_path / "scaled", "survival", seed=1, **scale)
    made = score_faces(table_of(faces), exact(place, flip=flip)).scores
    wanted = (raw - training.mean()) / training.std(ddof=1)
    np.testing.assert_allclose(made["survival_risk"].to_numpy(), wanted, atol=2e-3)
    shares = [percentileofscore(training, each, kind="mean") for each in raw]
    assert np.ptp(shares) > 5
    np.testing.assert_allclose(made["survival_percentile"].to_numpy(), shares, atol=1.5)
    (plan,) = plan_models([place])
    assert plan.notes() == []
    assert plan.purpose() != plan_models([str(tmp_path / "raw")])[0].purpose()  # the same weights, another number


def test_half_a_scale_or_cuts_of_another_scale_are_refused(tmp_path):
    for config, told in (
        ({"risk_sd": 2.0}, "risk_mean None, risk_sd 2.0: a scale has both or neither"),
        ({"risk_mean": 2.0}, "a scale has both or neither"),
        ({"risk_percentiles": (1.0,)}, "risk_percentiles: .*at least 2"),
        ({"risk_percentiles": (-2.0, 0.0, 2.0), "quartile_cuts": (-1.0, 0.0, 17.0)}, "quartile_cuts .* lie outside"),
    ):
        with pytest.raises(Refused, match=told):
            checkpoint(tmp_path / "c", "survival", **config)


def test_the_percentile_is_the_share_of_the_training_people_below():
    rng = np.random.default_rng(0)
    people = rng.normal(size=5001)
    quantiles = tuple(np.quantile(people, np.linspace(0, 1, 101)))
    risks = np.array([-9.0, *rng.normal(size=50), 9.0])
    wanted = [percentileofscore(people, risk, kind="mean") for risk in risks]
    np.testing.assert_allclose(percentile(risks, quantiles), wanted, atol=0.6)
    coarse = (0.0, 1.0, 1.0, 1.0, 3.0)  # three quantiles of one value: from 25 to 75 % of the people have it
    np.testing.assert_allclose(percentile(np.array([0.0, 0.5, 1.0, 2.0, 3.0]), coarse), [0, 25, 50, 75, 100])


def damaged() -> dict[str, tuple[bytes, str, str]]:
    good = jpegs(pictures(1))[0]
    return {
        "cut short": (good[: len(good) // 2], "unreadable", "truncated"),
        "empty": (b"", "unreadable", "empty"),
        "text": (b"not a picture", "unreadable", "send one of JPEG"),
        "another size": (jpegs(pictures(1, 48))[0], "unreadable", "48 x 48 pixels, the age model reads 32 x 32"),
        "none": (None, "unreadable", "empty"),  # type: ignore[dict-item]
    }


def test_a_face_that_cannot_be_read_is_a_reject_and_its_neighbours_keep_their_scores(tmp_path):
    team = exact(checkpoint(tmp_path / "age"))
    good = jpegs(pictures(6))
    alone = score_faces(table_of(good), team).scores["face_age"].to_pylist()
    bad = damaged()
    mixed, at = list(good), [0, 2, 3, 6, 9]
    for place, (data, _, _) in zip(at, bad.values(), strict=True):
        mixed.insert(place, data)
    made = score_faces(table_of(mixed, ward=list(range(11))), team)
    assert made.rejects["ward"].to_pylist() == at
    assert made.rejects.column_names == ["photo_id", "ward", "reason", "detail"]
    for row, (_, reason, said) in zip(made.rejects.to_pylist(), bad.values(), strict=True):
        assert row["reason"] == reason and said in row["detail"], row
    assert made.scores["ward"].to_pylist() == sorted(set(range(11)) - set(at))
    np.testing.assert_allclose(made.scores["face_age"].to_numpy(), alone, atol=1e-4)
    ledger = made.ledger().check()
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (11, 6, {"unreadable": 5})


def test_a_unit_of_nothing_but_rejects_still_has_every_column(tmp_path):
    place = checkpoint(tmp_path / "age", bias_correction=BIAS, conformal=CONFORMAL)
    made = score_faces(table_of([b"", b"x"], age=[50.0, None], sex=["male", None]), exact(place))
    assert made.scores.num_rows == 0 and made.rejects.num_rows == 2
    assert made.scores.schema.names[-11:] == [*SCORE_FIELDS.names, "source_sha256"]


def test_a_flat_crop_is_a_reject_where_the_model_takes_its_contrast_from_the_crop(tmp_path):
    place = checkpoint(tmp_path / "age", contrast="per_image")
    flat = encode(np.full((PIXELS, PIXELS, 3), 90, np.uint8), "png")
    made = score_faces(table_of([flat, *jpegs(pictures(1))]), exact(place))
    assert made.rejects["reason"].to_pylist() == ["low_quality"] and "one value" in made.rejects["detail"][0].as_py()
    assert made.scores.num_rows == 1


def test_columns_pass_through_but_for_the_picture_and_what_is_about_it(tmp_path):
    extra = {
        "ward": ["w", None, "x"], "landmarks": [[1.0] * 10, None, [2.0] * 10], "detector": ["mtcnn"] * 3,
        "box": [[0.0] * 4] * 3, "source_sha256": ["a", "b", None],
    }  # fmt: skip
    faces = table_of(jpegs(pictures(3)), **extra)
    made = score_faces(faces, exact(checkpoint(tmp_path / "age"))).scores
    assert made.column_names == ["photo_id", "ward", "landmarks", *SCORE_FIELDS.names, "source_sha256"]
    for name in ("photo_id", "ward", "landmarks", "source_sha256"):
        assert made[name].to_pylist() == faces[name].to_pylist()


# Models that may not score


def test_models_come_age_first_and_with_the_detector_that_they_learned_from(tmp_path):
    places = [checkpoint(tmp_path / "r", "survival", detector="yunet"), checkpoint(tmp_path / "a", detector=None)]
    age, risk = plan_models(places)
    assert (age.task, risk.task) == ("age", "survival")
    assert (age.cut, risk.cut) == (Cut("arcface112", PIXELS, "retinaface"), Cut("arcface112", PIXELS, "yunet"))
    age, risk = plan_models(places, "mtcnn")
    assert age.cut == risk.cut == Cut("arcface112", PIXELS, "mtcnn")
    assert "learned from faces found by yunet, these are found by mtcnn" in risk.notes()[-1]
    assert not [note for note in age.notes() if "learned" in note]  # nobody knows


def test_mirror_images_count_as_they_did_when_the_model_was_measured(tmp_path):
    places = {
        known: checkpoint(tmp_path / str(known), metrics=None if known is None else {"flip": known, "mae": 5.0})
        for known in (None, True, False)
    }
    for known, wanted in ((None, True), (True, True), (False, False)):
        (plan,) = plan_models([places[known]])
        assert plan.flip is wanted and not [note for note in plan.notes() if "mirror" in note]
        (other,) = plan_models([places[known]], flip=not wanted)
        assert other.flip is not wanted and other.purpose() != plan.purpose()
        notes = [note for note in other.notes() if "mirror" in note]
        assert len(notes) == (known is not None)
        if known is False:
            assert "calibrated without mirror images, this run is with them" in notes[0]


def test_a_model_of_several_detectors_asks_for_one_of_them(tmp_path):
    place = checkpoint(tmp_path / "a", detector="mtcnn+yunet")
    with pytest.raises(Refused, match="found by mtcnn and yunet.*one of them as --detector"):
        plan_models([place])
    (plan,) = plan_models([place], "yunet")
    assert not [note for note in plan.notes() if "learned" in note]
    (plan,) = plan_models([place], "given")
    assert "learned from faces found by mtcnn and yunet, these are found by given" in plan.notes()[-1]


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (["mae"], "is a model of task mae.*Fine-tune it"),
        (["age", "survival", "age"], "2: is a second age model beside .*0; .*its own DIR"),
        (["survival", "survival"], "second survival model"),
        ([], "names no checkpoint"),
    ],
)
def test_models_that_cannot_score_together_are_refused(tmp_path, tasks, told):
    places = [checkpoint(tmp_path / str(number), task) for number, task in enumerate(tasks)]
    with pytest.raises(Refused, match=told):
        plan_models(places)


def test_no_such_checkpoint_is_refused(tmp_path):
    with pytest.raises(store.Missing, match="no such checkpoint"):
        plan_models([str(tmp_path / "nothing")])


def test_a_checkpoint_that_changes_after_the_plan_is_refused(tmp_path):
    plans = plan_models([checkpoint(tmp_path / "a")])
    save(load(plans[0].place), plans[0].place, config={"detector": "mtcnn", "conformal": CONFORMAL}, overwrite=True)
    with pytest.raises(Refused, match="changed since the run began"):
        Team(plans)
    assert plan_models([plans[0].place])[0].purpose() != plans[0].purpose()  # the same weights, other intervals


@pytest.mark.parametrize(
    ("config", "size", "told"),
    [
        ({"convention": "faceage160"}, PIXELS, "faceage160, those of .* are arcface112.*--convention faceage160"),
        ({}, 48, "faces of 48 px, those of .* have 32.*--size 48.*--manifest"),
    ],
)
def test_faces_of_another_kind_are_refused_with_both_ways_out(tmp_path, config, size, told):
    folder = str(tmp_path / "faces")
    commit_faces(folder, jpegs(pictures(3)))
    found = plan_faces(folder)
    plans = plan_models([checkpoint(tmp_path / "a", size=size, **config)], found.detector)
    with pytest.raises(Refused, match=told):
        found.check(folder, plans)


# Where rows come from and go to


def test_faces_of_several_files_come_in_the_order_asked_for_and_damage_is_told(folder):
    faces = jpegs(pictures(25))
    commit_faces(folder, faces)
    plan = plan_faces(folder)
    assert (plan.size, plan.convention, plan.detector) == (PIXELS, "arcface112", "mtcnn")
    assert len(set(plan.rows["file"].to_pylist())) == 3
    some = plan.rows.filter(pc.is_in(plan.rows["photo_id"], pa.array(["p00003", "p00024", "p00011", "p00010"])))
    read = read_faces(folder, some)
    assert sorted(read["photo_id"].to_pylist()) == sorted(some["photo_id"].to_pylist())
    for photo, face in zip(read["photo_id"].to_pylist(), read["face"].to_pylist(), strict=True):
        assert face == faces[int(photo[1:])]
    place = store.join(folder, "faces", some["file"][0].as_py())
    store.write_bytes(place, store.read_bytes(place)[:-7] + b"changed")
    with pytest.raises(store.Corrupt, match=r"Delete .*done.*and run the stage again"):
        read_faces(folder, some)


def test_a_folder_without_a_face_is_refused(tmp_path):
    with pytest.raises(Refused, match="holds no face"):
        plan_faces(str(tmp_path))


def test_units_hold_rows_of_one_group_and_growth_makes_new_ones(tmp_path):
    def assigned(ids: list[str]) -> dict[str, list[str]]:
        table = pa.table({"photo_id": ids})
        groups = pa.array([each[0] for each in ids], pa.string())
        names = units.assign(table["photo_id"], store.row_digests(table), 3, groups)
        found = defaultdict(list)
        for name, each in zip(names, ids, strict=True):
            found[name].append(each)
        return found

    units = store.WorkUnits(str(tmp_path), {}, stage="toy")
    first = assigned(["b2", "a1", "a2", "b1", "a4", "a3"])
    assert sorted(map(sorted, first.values())) == [["a1", "a2", "a3"], ["a4"], ["b1", "b2"]]
    second = assigned(["b2", "a1", "a2", "b1", "a4", "a3", "a5", "c1"])
    assert {name: set(ids) for name, ids in first.items()}.items() <= {k: set(v) for k, v in second.items()}.items()
    assert sorted(sorted(ids) for name, ids in second.items() if name not in first) == [["a5"], ["c1"]]


def photo(number: int) -> tuple[bytes, np.ndarray]:
    face = render_face(seed=3, subject=number, photo=0, apparent_age=30.0 + 9 * number, frailty=0.0)
    done, data = cv2.imencode(".jpg", face.image[:, :, ::-1])
    assert done
    return data.tobytes(), face.landmarks


def test_photos_are_read_once_and_cut_as_each_model_wants_them(tmp_path, monkeypatch):
    """Two conventions of two sizes at once, against the aligners and the models called one by one."""
    places = [
        checkpoint(tmp_path / "a", size=48, convention="faceage160"),
        checkpoint(tmp_path / "r", "survival", size=64),
    ]
    photos = [photo(number) for number in range(4)]
    for number, (data, _) in enumerate(photos):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    (tmp_path / "4.jpg").write_bytes(b"letter")
    rows = pa.table(
        {
            "photo_id": [f"p{number}" for number in range(6)],
            "uri": [str(tmp_path / f"{number}.jpg") for number in range(6)],  # the last is not there
            "age": [30.0, None, 50.0, 60.0, 70.0, 80.0],
            "landmarks": [points.ravel().tolist() for _, points in photos] + [None, None],
        }
    )
    team = Team(plan_models(places, "given"), precision="fp32")
    aligners = {cut: Aligner("given", cut.size, cut.convention) for cut in team.cuts}
    assert len(aligners) == 2
    fetched, read = [], store.read_bytes
    monkeypatch.setattr(store, "read_bytes", lambda uri, *rest: fetched.append(uri) or read(uri, *rest))
    made = score_photos(rows, aligners, team, batch=3)
    assert sorted(fetched) == sorted(rows["uri"].to_pylist())
    assert made.scores["photo_id"].to_pylist() == ["p0", "p1", "p2", "p3"]
    assert dict(zip(*(made.rejects[name].to_pylist() for name in ("photo_id", "reason")), strict=True)) == {
        "p4": "unreadable",
        "p5": "missing",
    }
    for place, column, cut in zip(places, ("face_age", "survival_risk"), team.cuts, strict=True):
        alone = Aligner("given", cut.size, cut.convention)
        crops = alone.align([data for data, _ in photos], [points.ravel().tolist() for _, points in photos])
        assert all(isinstance(crop, AlignedFace) for crop in crops)
        wanted = by_hand(place, [crop.face for crop in crops])
        np.testing.assert_allclose(made.scores[column].to_numpy(), wanted, atol=2e-4)
    assert made.scores["landmarks"].to_pylist() == rows["landmarks"].to_pylist()[:4]
    assert len(set(made.scores["source_sha256"].to_pylist())) == 4
