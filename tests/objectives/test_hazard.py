"""The likelihood of discrete hazards against hand-worked people, a loop, and the life table it must lead to."""

import itertools
import math

import numpy as np
import pytest
import torch

from fahr.errors import Refused
from fahr.objectives import discrete_time_loss
from fahr.objectives.hazard import (
    INTERVALS,
    discrete_time_losses,
    event_edges,
    first_hazard_biases,
    hazard_risk,
)

EDGES = [0.0, 1.0, 2.0, 4.0]


def lived(time: float, event: int, entry: float = 0.0) -> tuple[list[int], list[int]]:
    """Intervals that one person died in, and survived, as the gradient tells: hazards of 1/2 push by half."""
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    discrete_time_loss(logits, [time], [event], EDGES, entry=[entry]).backward()
    assert logits.grad is not None
    slopes = logits.grad[0].tolist()
    return [k for k in range(3) if slopes[k] == -0.5], [k for k in range(3) if slopes[k] == 0.5]


@pytest.mark.parametrize(
    ("time", "event", "entry", "expected"),
    [
        (0.0, 1, 0.0, ([0], [])),  # dead at once: in the first interval
        (1.0, 1, 0.0, ([0], [])),  # on the edge: in the interval that ends there
        (1.01, 1, 0.0, ([1], [0])),
        (4.0, 1, 0.0, ([2], [0, 1])),
        (4.1, 1, 0.0, ([], [0, 1, 2])),  # outlived the last edge
        (0.49, 0, 0.0, ([], [])),
        (0.5, 0, 0.0, ([], [0])),  # censored half way: survived it
        (2.9, 0, 0.0, ([], [0, 1])),
        (3.0, 0, 0.0, ([], [0, 1, 2])),
        (99.0, 0, 0.0, ([], [0, 1, 2])),
        (3.5, 1, 1.5, ([2], [1])),  # saw half of the second interval
        (3.5, 1, 1.6, ([2], [])),
        (3.5, 1, 3.4, ([2], [])),  # entered just before dying
    ],
)
def test_what_a_person_answers_for(
    time: float, event: int, entry: float, expected: tuple[list[int], list[int]]
) -> None:
    assert lived(time, event, entry) == expected


def test_the_value_is_the_mean_negative_log_likelihood() -> None:
    logits = torch.tensor([[-1.0, 0.5, 2.0], [0.3, -0.7, 1.0]], dtype=torch.float64)
    h = (1 / (1 + np.exp(-logits.numpy()))).tolist()
    first = math.log(1 - h[0][0]) + math.log(h[0][1])  # dies in the second interval
    second = math.log(1 - h[1][0]) + math.log(1 - h[1][1])  # censored at its end
    assert float(discrete_time_loss(logits, [1.5, 2.0], [1, 0], EDGES)) == pytest.approx(-(first + second) / 2)


def test_the_best_constant_hazards_are_the_life_table() -> None:
    """Deaths over people who answered for the interval, as the maximum of the likelihood must be."""
    rng = np.random.default_rng(0)
    time, event = rng.uniform(0, 5, 400), rng.integers(0, 2, 400)
    hazard = []
    for begin, end in itertools.pairwise(EDGES):
        deaths = sum(1 for t, e in zip(time, event, strict=True) if e and begin < t <= end)
        through = sum(1 for t, e in zip(time, event, strict=True) if (t > end if e else t >= (begin + end) / 2))
        hazard.append(deaths / (deaths + through))
    logits = torch.tensor(hazard, dtype=torch.float64).logit().requires_grad_()
    discrete_time_loss(logits.expand(400, 3), time, event, EDGES).backward()
    assert logits.grad is not None and logits.grad.tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def test_nobody_gives_zero_and_extreme_logits_stay_finite_in_fp32() -> None:
    nobody = torch.zeros(0, 3, requires_grad=True)
    loss = discrete_time_loss(nobody, [], [], EDGES)
    loss.backward()
    assert loss.item() == 0 and nobody.grad is not None
    for sign in (-1e4, 1e4):
        logits = torch.full((2, 3), sign, dtype=torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = discrete_time_loss(logits, [1.5, 3.0], [1, 0], EDGES)
        loss.backward()
        assert loss.dtype == torch.float32 and bool(loss.isfinite()) and logits.grad is not None
        assert bool(logits.grad.isfinite().all())


def test_gradients_equal_finite_differences() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    time, event = [0.4, 1.0, 1.7, 2.5, 3.9, 9.0], [1, 0, 1, 0, 1, 1]
    assert torch.autograd.gradcheck(lambda each: discrete_time_loss(each, time, event, EDGES), logits)


# The head `hazard`


def test_losses_of_people_are_those_of_each_alone() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    time, event = [0.4, 1.0, 1.7, 2.5, 3.9, 9.0], [1, 0, 1, 0, 1, 1]
    found = discrete_time_losses(logits, time, event, EDGES)
    for row in range(6):
        alone = discrete_time_loss(logits[row : row + 1], time[row : row + 1], event[row : row + 1], EDGES)
        assert float(found[row]) == pytest.approx(float(alone), rel=1e-12)
    assert float(discrete_time_loss(logits, time, event, EDGES)) == pytest.approx(float(found.mean()), rel=1e-12)


def test_a_risk_is_the_log_of_the_mean_probability_of_death_over_the_edges() -> None:
    logits = torch.tensor([[-1.0, 0.5, 2.0], [-9.0, -9.0, -9.0]], dtype=torch.float64)
    for row, told in zip(logits.tolist(), hazard_risk(logits).tolist(), strict=True):
        alive = np.cumprod([1 - 1 / (1 + math.exp(-each)) for each in row])
        assert told == pytest.approx(math.log(np.mean(1 - alive)), abs=1e-12)
    sooner, later = torch.tensor([[0.0, -2.0, -2.0]]), torch.tensor([[-2.0, -2.0, 0.0]])
    assert hazard_risk(sooner) > hazard_risk(later), "of two who die as surely, who dies first has the higher risk"
    rare = torch.full((1, 3), -12.0, dtype=torch.float64)
    assert float(hazard_risk(rare + math.log(2)) - hazard_risk(rare)) == pytest.approx(math.log(2), abs=1e-4)
    for value in (-1e4, 1e4):
        assert bool(hazard_risk(torch.full((2, 3), value)).isfinite().all())


def test_edges_hold_as_many_deaths_each_whatever_the_censoring_and_ties() -> None:
    rng = np.random.default_rng(1)
    time, event = np.ceil(rng.exponential(400, 500)), rng.random(500) < 0.6
    edges = event_edges(time, event)
    counts = np.histogram(time[event], edges)[0]
    assert len(edges) == INTERVALS + 1 and edges[0] == 0 and edges[-1] == time[event].max()
    assert counts.sum() == event.sum() and np.ptp(counts) <= 3 and set(edges[1:]) <= set(time[event])
    tied = np.where(rng.random(500) < 0.5, 7.0, time)  # half of them at once
    assert (np.diff(event_edges(tied, event)) > 0).all()
    with pytest.raises(Refused, match="10 intervals end on days .* there are 9 such days"):
        event_edges(np.arange(500) % 9 + 1.0, np.ones(500))


def test_fresh_biases_are_the_life_table_of_the_people_learned_from() -> None:
    rng = np.random.default_rng(2)
    time, event = np.ceil(rng.exponential(400, 5000)), rng.random(5000) < 0.6
    edges = event_edges(time, event)
    biases = first_hazard_biases(time, event, edges)
    assert biases.dtype == torch.float32 and biases.shape == (INTERVALS,)
    logits = biases.double().requires_grad_()
    discrete_time_loss(logits.expand(5000, -1), time, event, edges).backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) < 2e-4, "all but the best that a constant can do"
    nobody = first_hazard_biases([50.0], [0], edges)
    assert bool(nobody.isfinite().all())
