"""Search spaces: what they hold, what they refuse, and which settings the choosers draw from them."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fahr.errors import Refused
from fahr.search.choice import METHODS, Chooser, holds
from fahr.search.spaces import DEFAULTS, FULL, SPACES, Range, Space, read_space

ROOT = Path(__file__).resolve().parents[2]
SURVIVAL = DEFAULTS["survival"]
NOW = {"loss": "logistic", "tau": 1.0, "margin": 1.0, "weight": "none", "events": 0.3, "head_lr": 0.01}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "nothing to search"),
        ({"tua": [1]}, "no such parameter. Did you mean 'tau'?"),
        ({"tau": {"low": 3, "high": 1}}, "low 3 is not below high 1"),
        ({"tau": {"low": 0, "high": 1, "log": True}}, "begins above 0"),
        ({"tau": {"low": 1}}, "space.tau.high: is missing: a range is"),
        ({"tau": {"low": 1, "hihg": 2}}, "space.tau.hihg: no such word of a range. Did you mean 'high'?"),
        ({"tau": 3}, "neither a list of values nor a range"),
        ({"loss": []}, "empty list"),
        ({"loss": ["cox", "cox"]}, "each value once"),
        ({"loss": {"low": 1, "high": 2}}, "one of a few values"),
        ({"head_epochs": {"low": 1.5, "high": 3, "whole": True}}, "whole ends"),
        ({"tau": {"low": 1, "high": float("inf")}}, "give finite numbers"),
        ({"tau": [1.0, float("nan")]}, "give finite numbers"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_with_the_reason(given: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told.replace("?", r"\?").replace("'", "'")):
        read_space("survival", given)


def test_everything_wrong_with_a_space_is_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        read_space("survival", {"tau": {"low": 3, "high": 1}, "loss": [], "events": 3, "tua": [1]})
    assert all(f"space.{name}" in str(refused.value) for name in ("tau", "loss", "events", "tua"))


@pytest.mark.parametrize("task", ["survival", "age"])
def test_the_file_in_configs_is_the_space_of_a_search_that_is_given_none(task: str) -> None:
    found = yaml.safe_load((ROOT / "configs" / f"tune_{task}.yaml").read_text())["space"]
    assert read_space(task, found) == read_space(task, DEFAULTS[task])


def test_a_feature_trial_searches_nothing_that_only_the_whole_job_can_judge() -> None:
    space = read_space("survival", SURVIVAL)
    assert not [name for name in space.parameters("features") if space.about(name) == FULL]
    assert set(space.parameters("full")) == set(SURVIVAL)
    assert space.left_out("features") == ["base_lr", "layer_decay", "drop_path", "blocks", "epochs"]
    only = read_space("survival", {"layer_decay": {"low": 0.5, "high": 1}})
    with pytest.raises(Refused, match="only a full trial can judge"):
        Chooser(only, "features", "tpe", seed=0, default=NOW)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_drawn_lies_in_the_space_and_has_an_effect(method: str) -> None:
    given = {**SURVIVAL, "tau": {"low": 0.1, "high": 10, "log": True, "points": 3}}
    given |= {name: {**SURVIVAL[name], "points": 2} for name in ("margin", "events", "head_lr", "head_epochs")}
    space = read_space("survival", given)
    chooser = Chooser(space, "features", method, seed=3, default=NOW)  # type: ignore[arg-type]
    losses = set()
    for number in range(60):
        settings = chooser.ask(number)
        chooser.tell(number, settings, float(number % 7))
        if number == 0:
            assert settings == {name: value for name, value in NOW.items() if name != "margin"}, "the default"
            continue
        losses.add(settings["loss"])
        for name, parameter in space.parameters("features").items():
            assert (name in settings) == space.applies(name, settings), (name, settings)
            assert name not in settings or holds(parameter, settings[name])
    assert losses == set(SURVIVAL["loss"]) if method == "random" else len(losses) > (method == "tpe")


def test_a_grid_is_every_combination_once_and_needs_its_values() -> None:
    space = read_space("survival", {"loss": ["logistic", "hinge", "cox"], "tau": [1.0, 2.0],
                                    "margin": {"low": 0, "high": 1, "points": 3}})  # fmt: skip
    chooser = Chooser(space, "features", "grid", seed=0, default=NOW)
    found = [chooser.ask(number) for number in range(chooser.most or 0)]
    wanted = [{"loss": "logistic", "tau": tau} for tau in (1.0, 2.0)] + [{"loss": "cox"}]
    wanted += [{"loss": "hinge", "tau": tau, "margin": margin} for tau, margin in product((1.0, 2.0), (0.0, 0.5, 1.0))]
    assert sorted(map(str, found)) == sorted(map(str, wanted)), "the default, which is one of them, is not done twice"
    with pytest.raises(Refused, match=r"space\.tau: a grid needs its values"):
        Chooser(read_space("survival", {"tau": {"low": 1, "high": 2}}), "features", "grid", seed=0, default=NOW)


@pytest.mark.parametrize(
    ("task", "given", "now", "told"),
    [
        ("survival", {"margin": [0.5, 1.0]}, {}, "space.margin: has no effect with loss logistic: it takes loss hinge"),
        ("survival", {"loss": ["logistic", "cox"], "margin": [1, 2]}, {}, "has no effect with loss logistic or cox"),
        ("survival", {"loss": ["cox", "hazard"], "weight": ["gap"]}, {}, "weight: has no effect with loss cox or"),
        ("survival", {"tau": [1, 2]}, {"loss": "hazard"}, "space.tau: has no effect with loss hazard"),
        ("age", {"width": [1, 2]}, {"cap": 1}, "space.width: has no effect with cap 1: it takes cap above 1"),
        ("age", {"loss": ["l1"], "cap": [1], "smooth": [0, 1]}, {}, "space.smooth: has no effect with cap 1"),
    ],
)  # fmt: skip
def test_a_parameter_that_never_has_an_effect_is_refused(
    task: str, given: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused, match=re.escape(told)):
        Chooser(read_space(task, given), "features", "random", seed=0, default={**NOW, "cap": 20, **now})


def test_what_has_an_effect_with_one_of_the_values_searched_is_not_refused() -> None:
    space = read_space("survival", {"loss": ["cox", "hinge"], "margin": [0.5, 1.0], "tau": [1.0, 2.0]})
    chooser = Chooser(space, "features", "grid", seed=0, default=NOW)
    assert {"margin" in chooser.ask(number) for number in range(1, chooser.most or 0)} == {True, False}
    Chooser(read_space("survival", {"margin": [0.5]}), "features", "tpe", seed=0, default={**NOW, "loss": "hinge"})
    balance = {"cap": {"low": 1, "high": 3, "whole": True}, "width": [1, 2]}
    Chooser(read_space("age", balance), "features", "tpe", seed=0, default={})


def test_both_jobs_share_what_is_not_of_one_and_the_loss_is_drawn_before_what_hangs_on_it() -> None:
    for task in ("survival", "age"):
        names = list(read_space(task, DEFAULTS[task]).parameters("full"))
        decided = [name for name in names if read_space(task, DEFAULTS[task]).needs(name)]
        assert decided, "so that the next line says something"
        for name in decided:
            other, _ = read_space(task, DEFAULTS[task]).needs(name) or ("", "")
            assert names.index(other) < names.index(name), (other, name)
    shared = set(Space.model_fields)
    assert len(shared) == 10 and all(shared <= set(kind.model_fields) for kind in SPACES.values())


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_search_that_goes_on_asks_what_the_one_that_was_killed_would_have(method: str) -> None:
    space = read_space("survival", SURVIVAL)

    def told(chooser: Chooser, numbers: range, asked: dict[int, Any]) -> None:
        for number in numbers:
            asked[number] = asked.get(number) or chooser.ask(number)
            chooser.tell(number, asked[number], float(asked[number]["events"]))

    whole: dict[int, Any] = {}
    first = Chooser(space, "features", method, seed=1, default=NOW)  # type: ignore[arg-type]
    told(first, range(16), whole)
    again = Chooser(space, "features", method, seed=1, default=NOW)  # type: ignore[arg-type]
    told(again, range(12), {number: whole[number] for number in range(12)})
    parts = {number: again.ask(number) for number in (12,)}
    assert parts[12] == whole[12]
    assert len({str(each) for each in whole.values()}) == 16, "no settings twice"


def test_tpe_finds_a_planted_valley_better_than_chance() -> None:
    space = read_space("survival", {"tau": {"low": 0.01, "high": 100, "log": True}, "loss": ["logistic", "hinge"]})

    def best(method: str, seed: int) -> float:
        chooser = Chooser(space, "features", method, seed=seed, default=NOW)  # type: ignore[arg-type]
        scores = []
        for number in range(30):
            settings = chooser.ask(number)
            scores.append(abs(np.log(settings["tau"] / 0.03)) + (settings["loss"] != "hinge"))
            chooser.tell(number, settings, scores[-1] if number % 5 else None)  # a fifth fails: nothing is learned
        return float(np.mean(sorted(scores)[:10]))

    assert np.mean([best("tpe", seed) for seed in range(3)]) < np.mean([best("random", seed) for seed in range(3)]) / 2


def test_a_range_is_even_in_its_scale_and_holds_both_ends() -> None:
    log, whole = Range(low=0.1, high=10, log=True), Range(low=1, high=4, whole=True)
    assert log.at(0) == pytest.approx(0.1) and log.at(0.5) == pytest.approx(1) and log.at(1) == pytest.approx(10)
    drawn = [whole.at(share) for share in np.linspace(0, 1, 4001)]
    assert {number: drawn.count(number) for number in (1, 2, 3, 4)} == pytest.approx(
        dict.fromkeys((1, 2, 3, 4), 1000), abs=2
    )
    assert all(holds(log, log.at(share)) for share in (0.0, 0.3, 1.0))
