"""The files in configs/: each opens by the very line that it names, and tells beforehand what a run of it comes to."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fahr.config import read_options
from jobs import finetune_age, pretrain

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


def comment(name: str) -> str:
    """What stands above the values, without the signs."""
    lines = (ROOT / "configs" / name).read_text().splitlines()
    above = [line for line in lines if line.startswith("#")]
    assert lines[: len(above)] == above, f"{name}: a comment below the first value is not about the whole"
    return "\n".join(line[1:].removeprefix(" ") for line in above)


def command(name: str) -> list[str]:
    """Words of the line under `Command`, which goes on as long as its lines end in a backslash."""
    found = re.search(r"^Command +((?:.*\\\n)*.*)$", comment(name), re.M)
    assert found, f"{name}: no line Command"
    return shlex.split(found[1].replace("\\\n", " "))


def opened(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The options, as that line makes them in a clone's root."""
    words = command(name)
    job = next(n for n, word in enumerate(words) if word.startswith("jobs/"))
    assert words[job - 1] == "python" and (ROOT / words[job]).is_file(), words
    monkeypatch.chdir(ROOT)
    return read_options(importlib.import_module(f"jobs.{Path(words[job]).stem}").Options, words[job + 1 :])


@pytest.mark.parametrize("name", FILES)
def test_each_file_opens_by_the_command_that_it_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = command(name)
    assert words[words.index("--config") + 1] == f"configs/{name}"
    assert opened(name, monkeypatch).config == str(ROOT / "configs" / name)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("paper_")])
def test_a_paper_s_recipe_is_a_line_for_a_cluster(name: str) -> None:
    words = command(name)
    assert words[: words.index("--")] == shlex.split(
        "ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml"
    )
    assert all(word.startswith("s3://") for flag in ("--faces", "--output") for word in [words[words.index(flag) + 1]])


@pytest.mark.parametrize("name", ["laptop_vit_tiny.yaml", "paper_age.yaml", "paper_vit_base.yaml"])
def test_a_recipe_says_command_arithmetic_what_to_expect_time_and_cost_in_that_order(name: str) -> None:
    told = re.findall(r"^(Command|Arithmetic|Expected|Time|Cost) +(\S.*)$", comment(name), re.M)
    assert [head for head, _ in told] == ["Command", "Arithmetic", "Expected", "Time", "Cost"]


@pytest.mark.parametrize("name", ["laptop_vit_tiny.yaml", "paper_vit_base.yaml"])
def test_steps_and_rate_of_the_arithmetic_are_those_of_the_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = opened(name, monkeypatch).recipe(40_600_000)
    said = re.search(r"^Arithmetic (.*?)^Expected", comment(name), re.M | re.S)
    assert said and f"{recipe.num_steps:,} steps" in said[1]
    rate = re.search(r"Rate (\S+) x ([\d,]+) / 256 = (\d[.\d]*e-\d+)", said[1])
    assert rate and float(rate[1]) == recipe.base_lr and int(rate[2].replace(",", "")) == recipe.global_batch
    assert float(rate[3]) == pytest.approx(recipe.peak_rate)


def test_the_paper_s_pretraining_is_fifty_epochs_of_the_faces_in_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/training.md: MAE's 1,600 epochs of 1,281,167 images, a fortieth of them to warm up."""
    chosen = opened("paper_vit_base.yaml", monkeypatch)
    assert isinstance(chosen, pretrain.Options)
    recipe = chosen.recipe(40_600_000)
    assert recipe.num_samples == 1600 * 1_281_167 == 2_049_867_200
    assert recipe.num_samples / 40_600_000 == pytest.approx(50, abs=0.5)
    assert recipe.num_warmup == 40 * 1_281_167
    assert recipe.peak_rate == pytest.approx(2.4e-3) and recipe.num_steps == 500_455
    assert recipe.betas == (0.9, 0.95) and recipe.weight_decay == 0.05 and recipe.clip == 0
    assert [recipe.accumulation(world) for world in (1, 2, 16)] == [16, 8, 1]


def test_the_paper_s_age_model_never_learns_from_appa_real_and_is_told_beside_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docs/age.md: rare ages of UTKFace and AgeDB up to 20 times as often; APPA-REAL held out, 5.1 years."""
    chosen = opened("paper_age.yaml", monkeypatch)
    assert isinstance(chosen, finetune_age.Options)
    assert chosen.held_out == ("appa-real",) and chosen.published == {"appa-real": 5.1} and chosen.folds == 0
    assert chosen.init == "s3://bucket/mae/checkpoint"
    first, second = chosen.stages
    assert (first.datasets, first.balanced, first.epochs) == (None, False, 30)
    assert (second.datasets, second.balanced, chosen.balance.cap) == (("utkface", "agedb"), True, 20)
    faces, few = 520_206, 28_000  # as its comment counts them
    steps = [stage.recipe(chosen, count).num_steps for stage, count in zip(chosen.stages, (faces, few), strict=True)]
    text = comment("paper_age.yaml")
    assert f"{steps[0]:,} steps of 1,024" in text and f"= {steps[1]} steps" in text
    assert "5.1 years" in text
