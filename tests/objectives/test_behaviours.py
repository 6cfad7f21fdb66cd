"""What the ranking loss promises, one promise a test (the list is that of docs/survival.md)."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fahr.errors import Refused
from fahr.objectives import ranking_loss
from objectives.oracle import KINDS

LN2 = math.log(2)


def graded(risk: Any, *labels: Any, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[float, list[float]]:
    scores = torch.tensor(risk, dtype=dtype, requires_grad=True)
    loss: Tensor = ranking_loss(scores, *labels, **options)
    loss.backward()
    assert scores.grad is not None
    return float(loss.detach()), scores.grad.tolist()


def compares(time: list[float], event: list[int], **options: Any) -> list[tuple[int, int]]:
    """Pairs that are pulled apart in a group of people, one pair at a time."""
    found = []
    for i in range(len(time)):
        for j in range(i):
            cut = {name: [column[i], column[j]] for name, column in options.items()}
            _, gradient = graded([0.0, 0.0], [time[i], time[j]], [event[i], event[j]], **cut)
            if gradient[0] < 0:
                found.append((i, j))
            if gradient[1] < 0:
                found.append((j, i))
    return sorted(found)


# 1. Ties in time


def test_at_equal_times_the_event_ranks_before_the_censored_and_nobody_else_compares() -> None:
    assert compares([2.0, 2.0, 2.0, 2.0], [1, 0, 1, 0]) == [(0, 1), (0, 3), (2, 1), (2, 3)]
    assert graded([1.0, 2.0], [3, 3], [1, 1]) == (0.0, [0.0, 0.0])
    assert graded([1.0, 2.0], [3, 3], [0, 0]) == (0.0, [0.0, 0.0])
    loss, gradient = graded([0.0, 0.0], [3, 3], [0, 1])
    assert loss == pytest.approx(LN2) and gradient == pytest.approx([0.5, -0.5])


def test_who_dies_earlier_is_pushed_up_and_a_censored_person_is_never_pushed_up() -> None:
    assert compares([1.0, 2.0, 3.0], [1, 1, 0]) == [(0, 1), (0, 2), (1, 2)]
    assert compares([1.0, 2.0, 3.0], [0, 0, 1]) == []


# 2. No pair


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("time", "event"),
    [
        ([], []),
        ([4.0], [1]),
        ([4.0], [0]),
        ([1.0, 2.0, 3.0], [0, 0, 0]),
        ([2.0, 2.0, 2.0], [1, 1, 1]),
        ([1, 2], [0, 1]),
    ],
)
def test_without_a_pair_the_loss_is_exactly_zero_with_a_graph_and_no_gradient(
    kind: str, time: list[float], event: list[int]
) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    loss = ranking_loss(weight * torch.arange(len(time)), time, event, kind=kind)
    assert loss.item() == 0 and loss.requires_grad
    loss.backward()
    assert weight.grad is not None and weight.grad.item() == 0


def test_two_people_are_enough() -> None:
    loss, gradient = graded([0.3, -0.2], [1.0, 2.0], [1, 0])
    assert loss == pytest.approx(math.log1p(math.exp(-0.5)))
    assert gradient == pytest.approx([-1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(0.5))])


# 3. Precision and extremes


def test_under_autocast_bf16_scores_are_compared_in_fp32() -> None:
    rng = np.random.default_rng(1)
    time, event, raw = rng.uniform(0, 9, 300), rng.integers(0, 2, 300), torch.tensor(rng.normal(size=300))
    rounded = raw.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ranking_loss(rounded, time, event)
    loss.backward()
    exact, gradient = graded(raw.bfloat16().tolist(), time, event)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=1e-6)
    assert rounded.grad is not None and rounded.grad.dtype == torch.bfloat16
    assert rounded.grad.tolist() == pytest.approx(gradient, rel=2**-8, abs=1e-7)
    single = raw.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        inside = ranking_loss(single, time, event)
    assert inside.dtype == torch.float32 and inside.item() == ranking_loss(single, time, event).item()


def test_float64_stays_float64_and_half_and_whole_numbers_become_fp32() -> None:
    for dtype, expected in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
    ):
        assert ranking_loss(torch.tensor([1, 2]).to(dtype), [1, 2], [1, 1]).dtype == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "expected", "slope"),
    [("logistic", 2e4, 1.0), ("hinge", 20_001.0, 1.0), ("squared_hinge", 20_001.0**2, 40_002.0)],
)
def test_scores_of_ten_thousand_give_finite_losses_on_both_sides(
    kind: str, expected: float, slope: float, dtype: torch.dtype
) -> None:
    loss, gradient = graded([-1e4, 1e4], [1, 2], [1, 0], kind=kind, dtype=dtype)  # wrong by all that is possible
    assert loss == pytest.approx(expected, rel=1e-6) and gradient == pytest.approx([-slope, slope], rel=1e-6)
    assert graded([1e4, -1e4], [1, 2], [1, 0], kind=kind, dtype=dtype) == (0.0, [0.0, 0.0])
    many = torch.linspace(-1e4, 1e4, 400, dtype=dtype).requires_grad_()
    time = np.random.default_rng(0).uniform(0, 9, 400)
    total = ranking_loss(many, time, np.arange(400) % 2, kind=kind)
    total.backward()
    assert bool(total.isfinite()) and many.grad is not None and bool(many.grad.isfinite().all())


@pytest.mark.parametrize("later", [[3.0, 2.0], [3.0, 4.0]])
def test_exponential_takes_a_spread_of_80_and_refuses_more_by_name(later: list[float]) -> None:
    """Also in tiles, which the gap weight asks for."""
    labels, options = ([1.0, later[0], later[1]], [1, 1, 0]), {"kind": "exponential", "tau": 0.5}
    for more in ({}, {"weight": "gap", "gap_unit": 1.0}):
        loss, gradient = graded([-20.0, 20.0, 20.0], *labels, dtype=torch.float32, **options, **more)
        assert math.isfinite(loss) and loss > 1e33 and all(map(math.isfinite, gradient))
        with pytest.raises(Refused, match=r"spread over 80\.2 .*at most 80.*logistic.*larger tau"):
            graded([-20.1, 20.0, 20.0], *labels, **options, **more)


def test_there_is_no_second_derivative_and_asking_for_one_says_so() -> None:
    risk = torch.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(ranking_loss(risk, [1, 2], [1, 0]), risk, create_graph=True)


# 4. Several workers and micro-batches: test_accumulation.py

# 5. Invariance


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_shift_of_all_scores_and_the_order_of_rows_change_nothing(kind: str) -> None:
    rng, size = np.random.default_rng(4), 60
    risk, time = rng.normal(size=size), rng.integers(1, 30, size).astype(float)
    event, person, entry = rng.integers(0, 2, size), rng.integers(0, 40, size), time * rng.uniform(0, 0.9, size)
    for more in ({}, {"weight": "gap", "gap_unit": 3.0}):
        loss, gradient = graded(risk, time, event, person, entry=entry, kind=kind, **more)
        shifted, slopes = graded(risk + 64, time, event, person, entry=entry, kind=kind, **more)
        assert shifted == pytest.approx(loss, rel=1e-12) and slopes == pytest.approx(gradient, rel=1e-9, abs=1e-12)
        mix = rng.permutation(size)
        mixed, slopes = graded(risk[mix], time[mix], event[mix], person[mix], entry=entry[mix], kind=kind, **more)
        assert mixed == pytest.approx(loss, rel=1e-12)
        assert slopes == pytest.approx(np.array(gradient)[mix].tolist(), rel=1e-9, abs=1e-12)
        assert sum(gradient) == pytest.approx(0, abs=1e-12)


def test_tau_divides_every_kind_and_a_margin_is_not_free_of_scale() -> None:
    labels = ([1.0, 2.0, 3.0, 4.0], [1, 0, 1, 0])
    risk = np.array([0.3, -0.4, 0.9, 0.2])
    for kind in KINDS:
        assert graded(4 * risk, *labels, kind=kind, tau=4.0)[0] == pytest.approx(graded(risk, *labels, kind=kind)[0])
    assert graded(4 * risk, *labels, kind="hinge")[0] != pytest.approx(graded(risk, *labels, kind="hinge")[0])
    assert graded(risk, *labels, kind="hinge", margin=3.0)[0] == pytest.approx(
        graded(risk, *labels, kind="hinge")[0] + 2.0  # every pair is inside both margins
    )


# 6. Shapes: the refusals are in test_refusals.py


@pytest.mark.parametrize("kind", KINDS)
def test_columns_and_vectors_give_the_same_value_and_gradient(kind: str) -> None:
    rng = np.random.default_rng(6)
    risk, time, event = torch.tensor(rng.normal(size=20)), rng.integers(1, 9, 20), rng.integers(0, 2, 20)
    flat = risk.clone().requires_grad_()
    expected = ranking_loss(flat, time, event, kind=kind)
    expected.backward()
    for column in (
        ranking_loss(tall := risk[:, None].clone().requires_grad_(), time, event, kind=kind),
        ranking_loss(tall, torch.tensor(time)[:, None], torch.tensor(event)[:, None].bool(), kind=kind),
    ):
        assert column.shape == () and column.item() == expected.item()
    column.backward()
    assert tall.grad is not None and flat.grad is not None and torch.equal(tall.grad[:, 0], flat.grad)


# 7. People


def test_photos_of_one_person_are_no_pair_whatever_names_people_have() -> None:
    time, event = [1.0, 2.0, 3.0], [1, 1, 0]
    for person in (["a", "a", "b"], [7, 7, 8], np.array(["a", "a", "b"], object), torch.tensor([1, 1, 0])):
        assert compares(time, event, subject=person) == [(0, 2), (1, 2)]
    assert graded([0.0, 1.0, 2.0], time, event, ["a"] * 3) == (0.0, [0.0] * 3)
    assert graded([0.0, 1.0, 2.0], time, event, ["a", "b", "c"]) == graded([0.0, 1.0, 2.0], time, event)


# 8. Weights


def test_events_nobody_could_be_censored_before_count_for_nothing() -> None:
    none_left = {"weight": "ipcw", "censoring": lambda times: np.zeros_like(times)}
    assert graded([1.0, 2.0, 3.0], [1, 2, 3], [1, 1, 0], **none_left) == (0.0, [0.0] * 3)
    some_left = {"weight": "ipcw", "censoring": lambda times: np.where(times < 2, 1.0, 0.0)}
    loss, gradient = graded([0.0, 0.0, 0.0], [1, 2, 3], [1, 1, 0], **some_left)
    assert loss == pytest.approx(LN2) and gradient == pytest.approx([-0.5, 0.25, 0.25])  # the pair (1, 2) is gone


def test_ipcw_counts_a_pair_by_one_over_the_squared_share_that_is_uncensored() -> None:
    """Two events, pairs (0, 1), (0, 2), (1, 2): the weights are 1, 1 and 1 / 0.5^2."""
    half = {"weight": "ipcw", "censoring": lambda times: np.where(times < 2, 1.0, 0.5)}
    f = [math.log1p(math.exp(-gap)) for gap in (1.0, 3.0, 2.0)]
    loss, _ = graded([3.0, 2.0, 0.0], [1, 2, 3], [1, 1, 0], **half)
    assert loss == pytest.approx((f[0] + f[1] + 4 * f[2]) / 6)


def test_the_floor_of_the_uncensored_share_is_told_once_with_how_often_it_bites() -> None:
    risk, time, event = torch.zeros(4), [1, 2, 3, 4], [1, 1, 1, 0]

    def few_left(times: Any) -> Any:
        return np.where(times < 2, 1.0, 0.01)

    with pytest.warns(UserWarning, match=r"2 of 3 events .*5%.*least: 0\.01"):
        ranking_loss(risk, time, event, weight="ipcw", censoring=few_left)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranking_loss(risk, time, event, weight="ipcw", censoring=few_left)
        ranking_loss(risk, time, event, weight="ipcw", censoring=lambda times: np.full_like(times, 0.05))
    with pytest.warns(UserWarning, match="3 of 3"):  # another censoring is another story
        ranking_loss(risk, time, event, weight="ipcw", censoring=lambda times: np.full_like(times, 0.02))


def test_the_gap_weight_is_in_years_and_capped_at_five() -> None:
    f = [math.log1p(math.exp(-gap)) for gap in (1.0, 3.0, 2.0)]
    loss, _ = graded([3.0, 2.0, 0.0], [0, 365.25 * 2, 365.25 * 9], [1, 1, 0], weight="gap", gap_unit=365.25)
    assert loss == pytest.approx((2 * f[0] + 5 * f[1] + 5 * f[2]) / 12)
    assert graded([3.0, 2.0], [4, 4], [1, 0], weight="gap", gap_unit=1.0) == (0.0, [0.0, 0.0])  # no gap, no weight


# Delayed entry


def test_only_who_was_under_observation_at_an_event_is_its_partner() -> None:
    time, event = [5.0, 9.0, 9.0, 9.0], [1, 0, 0, 0]
    assert compares(time, event, entry=[0.0, 4.9, 5.0, 5.1]) == [(0, 1)]  # entering on the day itself is too late
    alone, _ = graded([0.3, 0.1, 7.0, 8.0], time, event, entry=[0.0, 4.9, 5.0, 5.1])
    assert alone == pytest.approx(math.log1p(math.exp(-0.2)))


def test_entry_at_the_start_is_no_delay_where_nobody_dies_at_time_zero() -> None:
    risk, time, event = [0.1, 0.5, 0.2], [3.0, 1.0, 2.0], [1, 1, 0]
    assert graded(risk, time, event, entry=[0.0, 0.0, 0.0]) == graded(risk, time, event)
