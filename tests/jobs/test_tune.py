"""A search of settings as its users run it: on frozen features and in full, honest, resumable, refused in time."""

import csv
import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from fahr import store
from fahr.errors import Refused
from fahr.models import create, save
from fahr.search.trials import Notes
from fahr.survival import concordance
from jobs import _tune, finetune_survival, tune
from tools.faces import commit_faces
from tools.outcomes import COLUMNS, FACES, SPLIT

pytestmark = pytest.mark.usefixtures("cluster")
BASE = {"encoder": "vit_tiny", "patch": 16, "global_batch": 24, "micro_batch": 24, "precision": "fp32", "flip": False,
        "stages": [{"name": "head", "freeze": "encoder", "epochs": 1, "base_lr": 1e-4}, {"name": "all", "epochs": 1}],
        "threads": 1}  # fmt: skip
SPACE = {
    "loss": ["logistic", "exponential"], "tau": [1e-9, 1.0], "head_epochs": [3],
    "head_lr": {"low": 0.1, "high": 1, "log": True, "points": 2},
}  # fmt: skip
SEARCH: dict[str, Any] = {
    "task": "survival", "init": "random", "space": SPACE, "search": "grid", "samples": 5, "tune_folds": 2,
    "finalists": 1, "seeds": 2, "bootstraps": 40, "concurrent": 1, "cpus_per_trial": 0.5, "grace": 1, "seed": 1,
    "embed_workers": 1, "memory_per_worker": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tune") / "aligned")
    commit_faces(folder, FACES, rows_per_unit=160, **COLUMNS)
    return folder


def options(faces: str, output: Path, base: dict[str, Any] | None = None, **changes: Any) -> tune.Options:
    place = output.parent / f"{output.name}-base.yaml"
    place.write_text(yaml.safe_dump(BASE if base is None else base))
    return tune.Options.model_validate(
        {**SEARCH, "faces": faces, "output": str(output), "base": str(place), **changes}
    )  # fmt: skip


def trials(output: Path) -> list[dict[str, str]]:
    with (output / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def encoder(folder: str, seed: int) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    save(create("vit_tiny", patch=16, size=32, task="age", seed=seed), folder, config={"detector": "mtcnn"})
    return folder


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> str:
    return encoder(str(tmp_path_factory.mktemp("weights") / "checkpoint"), 0)


def written(folder: Path) -> dict[str, int]:
    """When each file was, ns."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def searched(
    faces: str, init: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes], store.Ledger]:
    """Five trials, then three more with --resume; and what the notes of the five were in between."""
    output = tmp_path_factory.mktemp("searched") / "run"
    tune.main(options(faces, output, init=init))
    before = {path.name: path.read_bytes() for path in sorted((output / "trials").iterdir())}
    embedded = written(output / "features")
    with pytest.raises(Refused, match=r"holds a search of which 5 of 8 trials are made\. Give --resume"):
        tune.main(options(faces, output, init=init, samples=8))
    with redirect_stdout(StringIO()) as told:
        ledger = tune.main(options(faces, output, init=init, samples=8, resume=True))
    assert "faces were done before" in told.getvalue() and "embed: ready after" not in told.getvalue()
    assert embedded and written(output / "features") == embedded, "no face is looked at again"
    return output, before, ledger


def test_trial_0_is_the_default_and_every_trial_has_its_row(searched: tuple[Any, ...]) -> None:
    output, _, ledger = searched
    found = trials(output)
    assert [row["trial"] for row in found] == [str(number) for number in range(8)]
    assert (found[0]["p_loss"], float(found[0]["p_tau"]), float(found[0]["p_head_lr"])) == ("logistic", 1.0, 1e-4)
    assert found[0]["state"] == "done", "judged to its end, whatever a scheduler says"
    states = [row["state"] for row in found]
    for row in found:
        assert (row["error"] != "") == (row["state"] == "failed") == (row["metric"] == "")
        assert row["state"] == "failed" or len(json.loads(row["curve"])) >= 1
    assert any("spread" in row["error"] for row in found), "an exponential loss with too small a tau"
    rejects = {name: states.count(name) for name in ("failed", "stopped") if states.count(name)}
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (8, states.count("done"), rejects)


def test_a_search_that_goes_on_redoes_nothing_and_loses_nothing(searched: tuple[Any, ...]) -> None:
    output, before, _ = searched
    after = {path.name: path.read_bytes() for path in (output / "trials").iterdir()}
    assert len([name for name in before if "given" not in name]) == 5
    assert before.items() <= after.items() and len(after) == 16


def test_no_face_of_test_or_calibrate_is_looked_at_and_each_other_one_once(searched: tuple[Any, ...]) -> None:
    output, _, _ = searched
    (folder,) = (output / "features").iterdir()
    seen = [photo for table in store.read_units(str(folder), "features") for photo in table["photo_id"].to_pylist()]
    wanted = [f"p{number:05d}" for number, split in enumerate(SPLIT) if split in ("train", "tune")]
    assert sorted(seen) == wanted


def test_the_winner_was_chosen_by_other_seeds_and_measured_on_people_kept_aside(searched: tuple[Any, ...]) -> None:
    output, _, _ = searched
    told = json.loads((output / "results.json").read_text())
    with (output / "finalists.csv").open() as file:
        finalists = list(csv.DictReader(file))
    assert {row["seed"] for row in finalists} == {"2", "3"} and {row["trial"] for row in finalists} >= {"0"}
    means = {trial: np.mean([float(row["metric"]) for row in finalists if row["trial"] == trial])
             for trial in {row["trial"] for row in finalists}}  # fmt: skip
    assert str(told["winner"]) == max(means, key=lambda trial: means[trial])
    assert told["tune"] == pytest.approx(means[str(told["winner"])])
    assert told["optimism"][0] == pytest.approx(told["tune"] - told["held_out"][0])
    assert told["held_out"][1] < told["held_out"][0] < told["held_out"][2]
    assert told["winner"] and told["held_out"][0] > told["default_held_out"][0] + 0.03, "the default learns too slowly"
    page = (output / "search.html").read_text()
    assert "http://" not in page and f"trial {told['winner']}" in page and "kept aside" in page
    assert list((output / "figures").glob("*.png"))


def test_best_yaml_is_a_configuration_of_the_fine_tune_job(
    searched: tuple[Any, ...], faces: str, tmp_path: Path
) -> None:  # fmt: skip
    from fahr.config import read_options

    output, _, _ = searched
    number = json.loads((output / "results.json").read_text())["winner"]
    winner = trials(output)[number]
    words = ["--config", str(output / "best.yaml"), "--faces", faces, "--init", "random", "--output",
             str(tmp_path / "run"), "--workers", "0", "--bootstraps", "0"]  # fmt: skip
    chosen = read_options(finetune_survival.Options, words)
    assert (chosen.loss, chosen.tau) == (winner["p_loss"], pytest.approx(float(winner["p_tau"])))
    assert (chosen.stages[0].base_lr, chosen.stages[0].epochs) == (
        pytest.approx(float(winner["p_head_lr"])), float(winner["p_head_epochs"]),
    )  # fmt: skip
    assert (chosen.encoder, chosen.global_batch, chosen.stages[1].name) == ("vit_tiny", 24, "all")
    assert finetune_survival.main(chosen).rows_out > 0


def test_a_finished_search_is_told_again_and_another_one_refused(
    searched: tuple[Any, ...], faces: str, init: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output, _, ledger = searched
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and "yaml" not in path.name}
    assert tune.main(options(faces, output, init=init, samples=8)) == ledger
    assert "is finished" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    with pytest.raises(Refused, match="holds a search with another tune_folds"):
        tune.main(options(faces, output, init=init, samples=8, tune_folds=3, resume=True))


# What cannot be


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": {}}, "nothing to search"),
        ({"space": {"tau": {"low": -1, "high": 2}}}, r"space: tau -1"),
        ({"space": {"layer_decay": [0.5, 0.9]}}, "only a full trial can judge"),
        ({"concurrent": 16}, r"--concurrent 16: needs 16 x 0.5 CPU = 8 CPU; the cluster has 4 CPU\. Use at most 8"),
        (
            {"mode": "full", "workers": 2, "gpus_per_worker": 1, "concurrent": 3},
            r"3 x 2 GPU = 6 GPU; the cluster has 0 GPU",
        ),
        ({"gpus_per_worker": 1}, "too little GPU"),
        ({"space": {"tau": {"low": 1, "high": 2}}}, "a grid needs its values"),
        ({"tune_folds": 200}, "some would be empty"),
        ({"scheduler": "pbt"}, "takes a range of it with log: true"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_trial(
    faces: str, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused, match=told):
        tune.main(options(faces, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "trials").exists()


def test_a_base_that_is_no_configuration_of_the_job_is_refused(faces: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"is no configuration of that job\.\nlos: Extra inputs"):
        tune.main(options(faces, tmp_path / "run", base={**BASE, "los": "cox"}))
    with pytest.raises(Refused, match="global_batch 500: more than the"):
        tune.main(options(faces, tmp_path / "run", base={**BASE, "global_batch": 500}))


def test_when_all_trials_fail_the_search_fails_with_the_commonest_error(
    searched: tuple[Any, ...], faces: str, init: str, tmp_path: Path
) -> None:
    features = str(searched[0] / "features")
    hopeless = options(
        faces, tmp_path / "run", base={**BASE, "loss": "exponential", "tau": 1e-9}, samples=2, init=init,
        features=features, space={"tau": [1e-8, 1e-7]},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="none of 2 trials gave a metric, [12] of 2 by: Refused: kind 'exponential'"):
        tune.main(hopeless)
    assert [row["state"] for row in trials(tmp_path / "run")] == ["failed", "failed"], "kept with their error"
    with pytest.raises(RuntimeError, match="none of 2 trials"):
        tune.main(hopeless.model_copy(update={"resume": True}))


def test_a_trial_that_reports_no_metric_or_dies_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    def trainable(config: dict[str, Any], worth: float) -> None:
        import os

        from ray import tune as ray_tune

        if config["number"] == 1:
            os._exit(3)
        ray_tune.report(
            {"step": 1} if config["number"] == 0 else {"step": 1, "metric": worth, "score": 1 - worth, "ended": True}
        )

    ended: list[Any] = []
    desk = _tune.Desk(Notes(str(tmp_path / "trials")), ended.append)
    plan = _tune.SweepPlan(1, {"cpu": 0.5}, "none", 1, 0)
    _tune.sweep(trainable, plan, [_tune.Planned(n, {}, 0) for n in range(3)], lambda n: {}, desk, {"worth": 0.7})
    told = {each.number: (each.state, each.metric) for each in ended}
    assert told == {0: ("failed", None), 1: ("failed", None), 2: ("done", 0.7)}
    assert next(each for each in ended if each.number == 0).error == "it reported no metric"
    assert "died" in next(each for each in ended if each.number == 1).error.lower()
    assert len(Notes(str(tmp_path / "trials")).read()[0]) == 3


def test_asha_stops_what_is_worse_than_most_and_never_the_default(tmp_path: Path) -> None:
    def trainable(config: dict[str, Any], steps: int) -> None:
        from ray import tune as ray_tune

        worth = 0.5 + 0.01 * (10 - config["number"])
        for step in range(1, steps + 1):
            if step < steps:
                ray_tune.report({"step": step, "metric": worth, "score": 1 - worth})
        ray_tune.report({"step": steps, "metric": worth, "score": 1 - worth, "best_step": 2, "ended": True})

    ended: list[Any] = []
    desk = _tune.Desk(Notes(str(tmp_path / "trials")), ended.append)
    plan = _tune.SweepPlan(1, {"cpu": 0.5}, "asha", 1, 0)
    todo = [_tune.Planned(number, {"loss": "cox"}, 0) for number in (9, 0, 1, 2, 8)]
    _tune.sweep(trainable, plan, todo, lambda n: {}, desk, {"steps": 4})
    told = {each.number: each for each in ended}
    assert {number: told[number].state for number in (0, 1, 2, 8)} == {0: "done", 1: "done", 2: "stopped", 8: "stopped"}
    assert len(told[8].curve) < 4 and told[8].metric == pytest.approx(0.52), "what it had reached is kept"
    assert told[1].best_step == 2 and told[1].settings == {"loss": "cox"}


# In full


def test_the_best_head_and_the_default_are_confirmed_by_the_job_itself(
    searched: tuple[Any, ...], faces: str, init: str, tmp_path: Path
) -> None:
    """In the trials' own processes: workers 0."""
    output = tmp_path / "run"
    changes = {"mode": "both", "workers": 0, "samples": 3, "seeds": 1, "cpus_per_worker": 0.5, "cpus_per_trial": 0.5,
               "init": init, "features": str(searched[0] / "features"), "space": {"tau": [0.5, 2.0]}}  # fmt: skip
    tune.main(options(faces, output, base={**BASE, "stages": [{"name": "all", "samples": 48}]}, **changes))
    assert [row["state"] for row in trials(output)] == ["done"] * 3
    assert not (output / "features").exists(), "those of the other search, by their digest"
    folders = sorted((output / "full").iterdir())
    assert [path.name.split("-")[-1] for path in folders] == ["00000", "00001"], "the best head, and the default"
    held = {path.name[-5:]: pq.read_table(path / "predictions.parquet").to_pandas() for path in folders}
    split = {f"p{number:05d}": name for number, name in enumerate(SPLIT)}
    for table in held.values():
        assert {split[photo] for photo in table["photo_id"]} <= {"train", "tune"}
        sides = [set(table[table["part"] == part]["subject_id"]) for part in ("tune", "aside")]
        assert all(sides) and not sides[0] & sides[1]
    told = json.loads((output / "results.json").read_text())
    default = held["00001"]
    aside = default[default["part"] == "aside"]
    alone = concordance(aside["follow_up_days"], aside["event"], aside["risk"], subject=aside["subject_id"])
    assert told["default_held_out"][0] == pytest.approx(alone.value, abs=0.02), "all photos here, one a person there"
    given = yaml.safe_load((folders[1] / "options.yaml").read_text())
    assert [stage["name"] for stage in given["stages"]] == ["all"], "the default in full is the base as it is"
    assert not list((output / "full").glob("*/stage-*/best/*")), "weights are kept once"


def test_a_population_finds_a_schedule_that_the_job_can_follow(
    searched: tuple[Any, ...], faces: str, init: str, tmp_path: Path
) -> None:
    """Another search of other folds, that looks at no face again."""
    output, features = tmp_path / "run", searched[0] / "features"
    embedded = written(features)
    changes = {"scheduler": "pbt", "search": "random", "samples": 4, "parts": 2, "seeds": 1, "concurrent": 2,
               "init": init, "seed": 7, "tune_folds": 3, "features": str(features),
               "space": {"head_lr": {"low": 0.05, "high": 1, "log": True}}}  # fmt: skip
    ledger = tune.main(options(faces, output, **changes))
    assert written(features) == embedded
    found = trials(output)
    assert (ledger.rows_in, ledger.rows_out) == (4, 4), found
    assert found[0]["p_head_lr_1"] == "" and found[0]["p_head_lr"] == "0.0001", "the default is nobody's copy"
    for row in found[1:]:
        assert float(row["p_head_lr_1"]) > 0 and float(row["p_head_lr_2"]) > 0 and len(json.loads(row["curve"])) == 2
    told = json.loads((output / "results.json").read_text())
    stages = yaml.safe_load((output / "best.yaml").read_text())["stages"]
    winner = found[told["winner"]]
    assert told["winner"] and [stage["name"] for stage in stages] == ["head-1", "head-2", "all"]
    assert [stage["base_lr"] for stage in stages[:2]] == [float(winner[f"p_head_lr_{part}"]) for part in (1, 2)]
    assert sum(stage["epochs"] for stage in stages[:2]) == 1, "as long as the head of the base"


def test_a_search_does_not_go_on_with_other_weights_in_the_same_place(
    searched: tuple[Any, ...], faces: str, init: str
) -> None:
    output, _, _ = searched
    embedded = written(output / "features")
    encoder(init, 1)
    with pytest.raises(Refused, match="holds other weights than when the search in .* began"):
        tune.main(options(faces, output, init=init, samples=9, resume=True))
    assert len(list((output / "features").iterdir())) == 2, "those of the other weights lie beside them"
    assert embedded.items() <= written(output / "features").items()
