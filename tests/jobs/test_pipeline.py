"""The chain from one file: stopped and gone on with, what a changed setting costs, what is told before it starts."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fahr import store
from fahr.cohorts.synthetic import make_cohort
from fahr.config import read_options
from fahr.errors import Refused
from fahr.models import load
from jobs import finetune_survival, pipeline, pretrain
from jobs._pipeline import Clock, spell
from tools import outcomes
from tools.chain import SECTIONS
from tools.runs import plug_pulled


def options(output: Path, **changes: Any) -> pipeline.Options:
    """SECTIONS; of a changed one, only what is changed is given."""
    merged = {name: {**section, **changes.pop(name, {})} for name, section in SECTIONS.items()}
    return pipeline.Options.model_validate({"output": str(output), **merged, **changes})


def plan(told: str) -> dict[str, tuple[str, str]]:
    """Stage -> state and the rest of its line."""
    names = "|".join(step.name for step in pipeline.STEPS)
    states = "done|goes on|begins|waits"
    found = re.findall(rf"^  ({names}) +({states})(.*)$", told, re.M)
    return {name: (state, rest.strip()) for name, state, rest in found}


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, tuple[str, str]]]:
    """The plan of these options, without running it."""

    def ask(chosen: pipeline.Options) -> dict[str, tuple[str, str]]:
        capsys.readouterr()
        pipeline.main(chosen.model_copy(update={"dry_run": True}))
        return plan(capsys.readouterr().out)

    return ask


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages whose jobs are called, from now on."""
    called: list[str] = []

    def noting(name: str, real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def main(chosen: Any) -> Any:
            called.append(name)
            return real(chosen)

        return main

    for step in pipeline.STEPS:
        monkeypatch.setattr(step.job, "main", noting(step.name, step.job.main))
    return called


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 people, one photo each."""
    place = tmp_path_factory.mktemp("people")
    make_cohort(150, 1, seed=0, out=place)
    return place / "manifest.parquet"


@pytest.fixture(scope="module")
def whole(cluster: None, people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A chain that was stopped dead before survival, then run to its end. Its folder, and what the second call said."""
    output = tmp_path_factory.mktemp("chain") / "run"
    with plug_pulled(finetune_survival, "main"):
        pipeline.main(options(output, manifest=str(people)))
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        pipeline.main(options(output, manifest=str(people)))
    return output, "\n".join(said)


def test_stopped_between_stages_it_goes_on_and_accounts_for_every_photo(whole: tuple[Path, str]) -> None:
    output, said = whole
    states = {name: state for name, (state, _) in plan(said).items()}
    done, waits = dict.fromkeys(["align", "pretrain", "age"], "done"), dict.fromkeys(["score", "evaluate"], "waits")
    assert states == {**done, "survival": "begins", **waits}
    ledger = store.Ledger.read(str(output / "ledger.json")).check()
    scores = [
        row for part in store.read_units(pipeline.places(str(output))["score"], "scores") for row in part.to_pylist()
    ]
    assert ledger.rows_in == 150 and ledger.rows_out == len(scores) == len({row["photo_id"] for row in scores})
    assert all(row["face_age"] is not None and row["survival_risk"] is not None for row in scores)


def test_each_stage_stands_on_the_one_before(whole: tuple[Path, str]) -> None:
    places = pipeline.places(str(whole[0]))
    age, survival = (load(f"{places[name]}/checkpoint") for name in ("age", "survival"))
    parent = load(f"{places['pretrain']}/checkpoint", task="mae").digest
    assert age.config.parent_checkpoint == survival.config.parent_checkpoint == parent
    some = pq.read_table(next(Path(places["score"], "scores").glob("*.parquet"))).to_pylist()[0]
    assert (some["age_model_digest"], some["survival_model_digest"]) == (age.digest, survival.digest)
    assert not Path(places["age"], "cache").exists(), "one copy of the faces serves all stages"


def test_a_second_run_calls_no_job_and_says_so(
    whole: tuple[Path, str], people: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in whole[0].rglob("*") if path.name != "options.yaml")
    pipeline.main(options(whole[0], manifest=str(people)))
    said = capsys.readouterr().out
    assert not ran and "6 of 6 stages are done" in said
    assert "rows_in 150 = rows_out" in plan(said)["align"][1]
    assert sorted(path for path in whole[0].rglob("*") if path.name != "options.yaml") == before


def test_a_changed_setting_is_told_and_costs_that_stage_and_what_stands_on_it(
    whole: tuple[Path, str], people: Path, told: Any, ran: list[str]
) -> None:
    output, _ = whole
    same = {"manifest": str(people)}
    asked = told(options(output, **same, survival={"seed": 1}))
    assert [asked[name][0] for name in ("align", "pretrain", "age")] == ["done"] * 3
    assert asked["survival"][0] == "begins" and "another seed than in survival-" in asked["survival"][1]
    assert asked["score"][0] == "waits" and asked["score"][1].endswith("again, after survival")
    asked = told(options(output, **same, pretrain={"base_lr": 2e-3}))
    assert [state for state, _ in asked.values()] == ["done", "begins", *["waits"] * 4]
    assert not ran
    before = pipeline.places(str(output))
    pipeline.main(options(output, **same, survival={"seed": 1}, stages=["align", "pretrain", "age", "survival"]))
    assert ran == ["survival"]
    after = pipeline.places(str(output))
    assert after["survival"] != before["survival"] and after["age"] == before["age"] and "score" not in after
    pipeline.main(options(output, **same))
    assert ran == ["survival"] and pipeline.places(str(output)) == before, "who goes back finds the old one finished"


def test_where_it_runs_and_how_fast_changes_nothing(whole: tuple[Path, str], people: Path, told: Any) -> None:
    asked = told(options(whole[0], manifest=str(people), age={"threads": 2, "log_rows": 5}, score={"workers": 2}))
    assert {state for state, _ in asked.values()} == {"done"}


def test_a_manifest_that_has_grown_goes_on_in_the_same_folder(whole: tuple[Path, str], people: Path, told: Any) -> None:
    table = pq.read_table(people)
    row = {**table.slice(0, 1).to_pylist()[0], "photo_id": "one-more", "subject_id": "somebody-else"}
    grown = people.parent / "grown.parquet"  # locations in it are relative
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], table.schema)]), grown)
    asked = told(options(whole[0], manifest=str(grown)))
    assert asked["align"][0] == "goes on" and asked["align"][1].endswith("the manifest changed")
    assert Path(pipeline.places(str(whole[0]))["align"]).name in asked["align"][1]
    assert asked["pretrain"][0] == "waits" and asked["pretrain"][1].endswith("again, after align")


def test_killed_before_its_note_a_finished_stage_is_asked_again_and_not_done_again(
    whole: tuple[Path, str], people: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = whole
    place = output / "pipeline.json"
    notes = json.loads(place.read_text())
    folder = Path(pipeline.places(str(output))["age"]).name
    del notes["runs"][folder]
    place.write_text(json.dumps(notes))
    weights = (output / folder / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    pipeline.main(options(output, manifest=str(people)))
    said = capsys.readouterr().out
    assert ran == ["age"] and plan(said)["age"][0] == "goes on"
    assert (output / folder / "checkpoint" / "model.safetensors").stat().st_mtime_ns == weights
    assert "survival: what it stands on" not in said and "score: what it stands on came out as before" in said
    assert json.loads(place.read_text())["runs"][folder]["seconds"] is None, "nobody saw how long it took"


def test_asked_to_stop_while_a_stage_ends_the_next_one_does_not_begin(
    noise: str, quick_bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that has no step left notes the wish and ends well. Faces from elsewhere, the rest in a bucket."""
    chosen = options(Path("x"), stages=["pretrain", "age"], pretrain={"faces": noise}, age={"faces": noise})
    chosen = chosen.model_copy(update={"output": f"{quick_bucket}/chain"})
    real, before = pretrain.main, signal.getsignal(signal.SIGINT)

    def asked_late(given: Any) -> Any:
        ledger = real(given)
        signal.signal(signal.SIGINT, lambda *_: None)  # as a training's own
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
        return ledger

    monkeypatch.setattr(pretrain, "main", asked_late)
    with pytest.raises(KeyboardInterrupt):
        pipeline.main(chosen)
    pipeline.main(chosen.model_copy(update={"stages": ("pretrain",)}))
    said = capsys.readouterr().out
    assert "pipeline: age: begins" not in said and plan(said)["pretrain"][0] == "done"
    assert load(f"{pipeline.places(f'{quick_bucket}/chain')['pretrain']}/checkpoint", task="mae").digest


def test_what_a_stage_reads_decides_not_where_it_lies(aligned: Callable[[Any], str], told: Any, tmp_path: Path) -> None:
    """Another folder with the same faces is the same; other faces in the same place are others."""
    (tmp_path / "here").symlink_to(aligned(outcomes))
    asked = [
        told(options(tmp_path / "run", stages=["pretrain"], pretrain={"faces": place}))
        for place in (aligned(outcomes), str(tmp_path / "here"))
    ]
    assert asked[0] == asked[1] and asked[0]["pretrain"][0] == "begins"


def refusal(**given: Any) -> str:
    with pytest.raises((Refused, ValueError)) as caught:
        pipeline.main(options(Path("never"), **given))
    return str(caught.value)


def test_everything_wrong_in_any_section_is_told_at_once(ran: list[str]) -> None:
    said = refusal(manifest="m.csv", align={"detektor": "mtcnn"}, age={"loss": "l3"}, score={"output": "x"})
    assert "align.detektor: no such option of that job. Did you mean 'detector'?" in said
    assert "age.loss = 'l3'" in said and "'l1'" in said
    assert "score: output: is a folder under the pipeline's own --output. Leave it out." in said
    assert not ran


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "--manifest: required"),
        ({"manifest": "m.csv", "stages": ["align", "age"]}, "age: --init would come from pretrain, which is left out"),
        ({"stages": ["score"], "score": {"faces": "f"}}, "score: --models would come from age or survival"),
        ({"manifest": "m.csv", "minutes": {"alin": 3}}, "minutes.alin"),
        ({"manifest": "m.csv", "stages": ["align", "judge"]}, "stages.1"),
        ({"manifest": "m.csv", "survival": {"stages": []}}, "survival.stages"),
        ({"manifest": "m.csv", "survival": {"folds": 3}}, "survival: folds 3: leave a model a fold"),
        ({"stages": ["pretrain"], "pretrain": {"faces": "nowhere"}}, "pretrain: faces: "),
        ({"manifest": "nowhere.csv"}, "align: manifest: "),
        ({"stages": []}, "stages"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(
    given: dict[str, Any], says: str, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if given.get("manifest") == "m.csv":
        Path("m.csv").write_text("photo_id,uri\n")
    assert says in refusal(**given)
    assert not ran and [path.name for path in tmp_path.iterdir()] in ([], ["m.csv"])


def test_with_arms_people_are_scored_by_the_first(tmp_path: Path) -> None:
    chosen = options(tmp_path, manifest="m.csv", survival={"arms": ["mae", "random"]})
    chain = pipeline.Chain(pipeline.STEPS, chosen.sections(), chosen.output)
    survival = chain.asked()["survival"]
    step = next(step for step in pipeline.STEPS if step.name == "survival")
    assert step.gives(survival) == store.join(survival.starts()["mae"][0], "checkpoint")


def test_a_section_begins_with_its_recipe_and_a_flag_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("model: vit_tiny\npatch: 16\ndecoder: {width: 32, depth: 2}\nepochs: 3\n")
    Path("chain.yaml").write_text("pretrain: {config: recipe.yaml, decoder: {depth: 1}, workers: 0}\nage: {loss: l1}\n")
    line = ["--config", "chain.yaml", "--output", "o", "--manifest", "m.csv", "--stages", "pretrain", "align"]
    chosen = read_options(pipeline.Options, [*line, "--pretrain", '{"epochs": 5}'])
    assert list(chosen.sections()) == ["align", "pretrain"]
    found = pipeline.Chain(pipeline.STEPS, chosen.sections(), chosen.output).asked()["pretrain"]
    assert (found.model, found.decoder.width, found.decoder.depth) == ("vit_tiny", 32, 1)
    assert (found.epochs, found.workers) == (5, 0)


def test_time_left_is_at_the_pace_of_the_stages_that_have_ended() -> None:
    clock = Clock({"align": 60.0, "pretrain": 600.0, "age": 120.0})
    assert clock.left(["align", "pretrain", "age"]) == 780
    clock.ended("align", 90.0)  # half as long again as expected
    assert clock.left(["pretrain", "age"]) == pytest.approx(1080)
    assert clock.left(["pretrain", "survival"]) is None, "of survival nothing is known"
    assert clock.left([]) == 0
    assert [spell(each) for each in (4.4, 89, 90, 3600, 6000)] == ["4 s", "89 s", "2 min", "60 min", "1.7 h"]
