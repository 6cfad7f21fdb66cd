"""The recipe's arithmetic and the learning rate at named points, worked out by hand."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from fahr.errors import Refused
from fahr.training.recipe import Recipe
from fahr.training.sampling import split
from fahr.training.schedule import rate

# Peak: 1e-3 x 512 / 256 = 2e-3. Rise over 1,000 samples, then half a cosine over 8,000 down to 2e-4.
KNOWN = Recipe(base_lr=1e-3, global_batch=512, warmup_samples=1000, samples=9000, min_lr=2e-4)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (0, 0.0),
        (250, 0.5e-3),
        (999, 2e-3 * 0.999),
        (1000, 2e-3),
        (3000, 2e-4 + 1.8e-3 * (2 + math.sqrt(2)) / 4),  # a quarter: (1 + cos 45) / 2
        (5000, 1.1e-3),  # half way: the mean of both ends
        (8999, 2e-4 + 1.8e-3 * (math.pi / 8000 / 2) ** 2),  # cos x = 1 - x^2 / 2
        (9000, 2e-4),
        (20000, 2e-4),
    ],
)
def test_the_rate_at_named_points(seen: int, expected: float) -> None:
    assert rate(seen, KNOWN) == pytest.approx(expected, rel=1e-6, abs=1e-15)


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert rate(0, Recipe(warmup_samples=0, base_lr=1e-3, global_batch=256, samples=1000)) == 1e-3


def test_the_rate_rises_then_falls_and_never_leaves_its_range() -> None:
    rates = [rate(seen, KNOWN) for seen in range(9001)]
    top = rates.index(max(rates))
    assert top == 1000
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates[top:]) >= 2e-4


def test_a_fortieth_of_the_run_warms_up_unless_told_otherwise() -> None:
    assert Recipe(samples=9000, global_batch=16).num_warmup == 225
    assert Recipe(samples=9000, global_batch=16, warmup_samples=0).num_warmup == 0
    assert rate(0, Recipe(samples=9000, global_batch=16, warmup_samples=0)) == pytest.approx(1.5e-4 / 16)


def test_epochs_become_samples_once_the_rows_are_counted() -> None:
    recipe = Recipe(epochs=2.5, global_batch=100)
    with pytest.raises(TypeError, match="counted"):
        _ = recipe.num_samples
    counted = recipe.counted(num_rows=1010)
    assert (counted.samples, counted.epochs, counted.num_steps) == (2525, None, 25)
    assert counted.counted(num_rows=7) == counted


def test_faces_fewer_than_a_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(Refused, match=r"epochs 1 of 99 faces.*99: fewer than one global batch of 100.*smaller global"):
        Recipe(epochs=1, global_batch=100).counted(num_rows=99)
    with pytest.raises(Refused, match="0 faces: nothing to train on"):
        Recipe(epochs=1).counted(num_rows=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": "fp16"}, "not one of fp32, bf16"),
        ({"epochs": 1.0}, "exactly one"),
        ({"samples": None}, "exactly one"),
        ({"betas": (0.9, 1.0)}, "below 1"),
        ({"min_lr": 1.0}, "above the highest rate"),
        ({"samples": 100}, "fewer than one global batch"),
        ({"warmup_samples": 10**6}, "more than the 9,000"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"layerdecay": 0.5}, "layerdecay"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate({"samples": 9000, "global_batch": 512} | changes)


def test_micro_batches_fit_and_are_as_many_on_each_worker() -> None:
    for batch in range(8, 70):
        for micro_batch in (2, 7, 16, 64):
            recipe = Recipe(samples=9000, global_batch=batch, micro_batch=micro_batch)
            for world in range(1, 8):
                shares = [len(split(np.arange(batch), rank, world)) for rank in range(world)]
                parts = recipe.accumulation(world)
                assert max(shares) <= parts * micro_batch and max(shares) > (parts - 1) * micro_batch
                assert min(shares) >= parts, "a micro-batch without a sample"


def test_a_micro_batch_of_one_is_refused_where_shares_are_uneven() -> None:
    recipe = Recipe(samples=9000, global_batch=7, micro_batch=1)
    assert recipe.accumulation(1) == 7 and recipe.accumulation(7) == 1
    with pytest.raises(Refused, match=r"micro_batch 1: one worker of 2.*Give 2\."):
        recipe.accumulation(2)
