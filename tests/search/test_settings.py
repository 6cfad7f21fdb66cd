"""Settings become options of the fine-tune job and come back; best.yaml holds what differs."""

from typing import Any

import pytest
import yaml

from fahr.errors import Refused
from fahr.search.settings import changes, configured, current, head_stages, without_stage
from fahr.search.spaces import DEFAULTS, read_space
from jobs import finetune_age, finetune_survival
from jobs._tune_people import check_space, check_stages

JOBS: dict[str, Any] = {"survival": finetune_survival, "age": finetune_age}
OWN = {"faces": "/f", "init": "random", "output": "/o"}
LAPTOP = ["head", "last", "all"]


def options(task: str, **more: Any) -> dict[str, Any]:
    return JOBS[task].Options.model_validate({**OWN, **more}).resolved()  # type: ignore[no-any-return]


def laptop(task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with open(f"configs/laptop_{task}.yaml") as file:
        given = yaml.safe_load(file)
    return given, options(task, **given)


@pytest.mark.parametrize("task", ["survival", "age"])
def test_the_default_is_what_the_configuration_says(task: str) -> None:
    plain = options(task)
    now = current(plain, task, speed="full")
    assert not any(name.startswith("head") for name in now) and current(plain, task)["head_epochs"] == 10
    assert now["base_lr"] == plain["base_lr"] and now["blocks"] == "all" and now["loss"] == plain["loss"]
    if task == "survival":
        assert (now["events"], now["tau"], now["epochs"]) == (0.3, 1.0, 20)
    else:
        assert (now["cap"], now["width"], now["smooth"], now["stage_b_epochs"]) == (20, 1, 2, 10)
        assert now["stage_b_rate"] == pytest.approx(0.1)
    made = configured(plain, task, now)
    assert current(made, task, speed="full") == now, "put in and read out again"
    assert [stage["name"] for stage in made["stages"]] == [stage["name"] for stage in plain["stages"]]


@pytest.mark.parametrize("task", ["survival", "age"])
def test_the_file_s_other_values_and_stages_stay_as_they_are(task: str) -> None:
    given, plain = laptop(task)
    made = configured(plain, task, {"head_lr": 0.07})
    assert [stage["name"] for stage in made["stages"]][-2:] == [stage["name"] for stage in plain["stages"]][-2:]
    assert made["stages"][0]["base_lr"] == 0.07 and made["stages"][0]["freeze"] == "encoder"
    assert made["stages"][-1] == plain["stages"][-1]
    told = changes(given, plain, made)
    assert {name: each for name, each in told.items() if name != "stages"} == {
        name: each for name, each in given.items() if name != "stages"
    }
    again = JOBS[task].Options.model_validate({**told, **OWN}).resolved()
    assert again == JOBS[task].Options.model_validate(made).resolved(), "best.yaml is that trial"


def test_rates_keep_their_ratio_and_the_balanced_stage_follows_the_one_before_it() -> None:
    _, plain = laptop("survival")
    made = configured(plain, "survival", {"base_lr": 1e-3, "blocks": 2, "epochs": 7})
    head, last, whole = made["stages"]
    assert head["base_lr"] == 1e-2, "the head's own rate is no part of it"
    assert (last["base_lr"], whole["base_lr"]) == pytest.approx((2e-3, 1e-3)), "1e-3 and 5e-4 before"
    assert (whole["freeze"], whole["blocks"], whole["epochs"], whole["samples"]) == ("encoder", 2, 7.0, None)
    _, plain = laptop("age")
    made = configured(plain, "age", {"stage_b_rate": 0.1, "base_lr": 1e-2, "width": 5, "smooth": 3})
    assert made["stages"][1]["base_lr"] == pytest.approx(1e-3)
    assert (made["balance"]["width"], made["balance"]["smooth"]) == (5, 15), "years: a multiple of the width"


def test_a_head_is_taught_by_the_head_stage_and_the_balanced_ones_at_their_share_of_its_rate() -> None:
    _, plain = laptop("age")
    first, second = head_stages(configured(plain, "age", {"head_lr": 0.5, "stage_b_rate": 0.2}), "age")
    assert (first["base_lr"], first["balanced"]) == (0.5, False)
    assert second["balanced"] and second["base_lr"] == pytest.approx(0.1) and second["samples"] == 4000
    _, plain = laptop("survival")
    (only,) = head_stages(plain, "survival")
    assert (only["name"], only["samples"]) == ("head", 4000)


def test_what_has_no_effect_is_put_back_so_that_the_job_takes_it() -> None:
    plain = options("survival", loss="hinge", margin=0.5, tau=2.0, weight="ipcw")
    for loss in ("cox", "logistic", "exponential", "squared_hinge"):
        made = configured(plain, "survival", {"loss": loss})
        finetune_survival.Options.model_validate(made)
        assert (made["margin"] == 0.5) == (loss == "squared_hinge") and (made["tau"] == 2.0) == (loss != "cox")


@pytest.mark.parametrize("task", ["survival", "age"])
def test_every_corner_of_the_usual_space_is_taken_by_the_job(task: str) -> None:
    check_space(read_space(task, DEFAULTS[task]), options(task), task, JOBS[task])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tau": {"low": -1, "high": 1}}, "tau -1"),
        ({"loss": ["logistic", "ranking"]}, "loss ranking"),
        ({"events": {"low": 0.1, "high": 0.9}}, "events 0.9"),
        ({"blocks": [0, "some"]}, "some"),
    ],
)
def test_values_that_the_job_refuses_are_refused_before_anything_runs(given: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        check_space(read_space("survival", given), options("survival"), "survival", finetune_survival)


def test_a_loss_that_the_job_does_not_know_is_told_once_and_the_rest_is_told_too() -> None:
    given = {"loss": ["coxx", "logistic", "cox"], "events": {"low": 0.1, "high": 0.9}, "layer_decay": [0.5, 2]}
    with pytest.raises(Refused) as told:
        check_space(read_space("survival", given), options("survival"), "survival", finetune_survival)
    lines = str(told.value).splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == [" loss coxx", " layer_decay 2", " events 0.9"]
    assert lines[-1] == "Give values that jobs/finetune_survival.py takes."


def test_a_parameter_of_a_stage_that_there_is_not_is_refused() -> None:
    head = {"name": "head", "freeze": "encoder", "epochs": 2}
    alone = options("age", stages=[head])
    with pytest.raises(Refused, match="space.cap: has no effect, since no stage of .* is balanced") as told:
        check_stages(["loss", "cap", "base_lr", "head_lr"], alone, "age")
    assert "space.base_lr: has no effect, since no stage of the configuration moves the encoder" in str(told.value)
    assert "loss" not in without_stage(alone, "age") and "layer_decay" in without_stage(alone, "age")
    for task in ("survival", "age"):
        assert not without_stage(options(task), task) and not without_stage(laptop(task)[1], task)
    for name in without_stage(alone, "age"):  # true: the job's stages stay as they are, whatever the value
        value = {"blocks": 2, "smooth": 3, "width": 5}.get(name, 0.4)
        made = configured(alone, "age", {name: value})
        assert made["stages"] == alone["stages"], name


def test_a_schedule_is_the_head_stage_in_parts_with_rates_of_their_own() -> None:
    _, plain = laptop("survival")
    schedule = {"head_parts": 2, "head_lr_1": 0.2, "head_lr_2": 0.05, "tau": 3.0}
    made = configured(plain, "survival", schedule)
    assert [stage["name"] for stage in made["stages"]] == ["head-1", "head-2", "last", "all"]
    assert [(stage["base_lr"], stage["samples"]) for stage in made["stages"][:2]] == [(0.2, 2000), (0.05, 2000)]
    assert [stage["name"] for stage in head_stages(made, "survival")] == ["head-1", "head-2"]
    begun = configured(plain, "survival", {"head_parts": 2, "head_lr_1": 0.2})
    assert [stage["name"] for stage in begun["stages"]] == ["head-1", "last", "all"], "the first part alone"
    finetune_survival.Options.model_validate(made)
