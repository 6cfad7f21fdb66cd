"""Age losses against formulas written anew in NumPy and SciPy, finite differences, and ages that can be learnt."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from fahr.errors import Refused
from fahr.objectives.age import HEADS, LOSSES, SD_RANGE, age_loss, first_biases, gaussian_sd, years

AGES = np.arange(123)
KINDS = list(LOSSES)


def faces(kind: str, count: int = 40, scale: float = 3.0) -> tuple[torch.Tensor, np.ndarray]:
    """(count, K) float64 outputs, (count,) ages: fractions, whole years and both ends."""
    rng = np.random.default_rng(0)
    outputs = scale * rng.normal(size=(count, HEADS[LOSSES[kind]]))
    if LOSSES[kind] in ("value", "gaussian"):
        outputs[:, 0] += 50
    ages = np.concatenate([[0, 122, 1, 121, 0.25, 121.75], rng.uniform(0, 122, 14), rng.integers(0, 123, count)])
    return torch.from_numpy(outputs), ages[:count]


# The same numbers by other ways


def by_hand(kind: str, row: np.ndarray, age: float, delta: float = 1.0, sd: float = 2.0) -> float:
    """One face, in plain Python and SciPy's distributions."""
    if kind == "l1":
        return abs(float(row[0]) - age)
    if kind == "huber":
        return float(special.huber(delta, float(row[0]) - age)) / delta
    if kind == "gaussian":
        least, most = SD_RANGE
        return float(-stats.norm(row[0], least + (most - least) * special.expit(row[1])).logpdf(age))
    if kind == "distribution":
        density = stats.norm(age, sd).pdf(AGES)
        softmax = special.softmax(row)
        return float(stats.entropy(density / density.sum(), softmax)) + abs(float(softmax @ AGES) - age)
    total = 0.0
    for k, output in enumerate(row.tolist()):  # "older than k": yes, no, or through a part of that year
        share = 1.0 if age >= k + 1 else 0.0 if age <= k else age - k
        total -= share * math.log(special.expit(output)) + (1 - share) * math.log(special.expit(-output))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_equals_its_formula(kind: str) -> None:
    outputs, ages = faces(kind)
    wanted = [by_hand(kind, row, age) for row, age in zip(outputs.numpy(), ages, strict=True)]
    assert age_loss(kind, outputs, torch.from_numpy(ages)).tolist() == pytest.approx(wanted, rel=1e-10)
    assert age_loss(kind, outputs.float(), ages).tolist() == pytest.approx(wanted, rel=2e-5, abs=1e-5)


@pytest.mark.parametrize(("kind", "options"), [("huber", {"delta": 4.0}), ("distribution", {"sd": 3.5})])
def test_options_change_what_they_say(kind: str, options: dict[str, float]) -> None:
    outputs, ages = faces(kind)
    found = age_loss(kind, outputs, ages, **options).tolist()
    wanted = [by_hand(kind, row, age, **options) for row, age in zip(outputs.numpy(), ages, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-10)
    assert found != pytest.approx(age_loss(kind, outputs, ages).tolist(), rel=1e-3)


def test_whole_years_make_the_ordinal_loss_that_of_binary_labels() -> None:
    outputs, _ = faces("ordinal")
    ages = np.arange(40) * 3
    older = ages[:, None] > np.arange(122)
    wanted = -(special.log_expit(outputs.numpy()) * older + special.log_expit(-outputs.numpy()) * ~older).sum(1)
    assert age_loss("ordinal", outputs, ages).tolist() == pytest.approx(wanted.tolist(), rel=1e-10)


def test_years_equal_the_expectation_of_each_head() -> None:
    expected = {
        "value": lambda row: row[0],
        "gaussian": lambda row: row[0],
        "distribution": lambda row: special.softmax(row) @ AGES,
        "ordinal": lambda row: special.expit(row).sum(),
    }
    for head, num_outputs in HEADS.items():
        outputs = np.random.default_rng(1).normal(2, 3, size=(9, num_outputs))
        found = years(torch.from_numpy(outputs), head)
        assert found.shape == (9,) and found.dtype == torch.float64
        assert found.tolist() == pytest.approx([expected[head](row) for row in outputs], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind: str) -> None:
    outputs, ages = faces(kind, 12)
    ages = ages + 0.013 * (ages < 60)  # off the kinks of l1 and huber
    ages[1] = 122
    outputs.requires_grad_()
    assert torch.autograd.gradcheck(lambda each: age_loss(kind, each, ages), outputs)
    assert torch.autograd.gradcheck(lambda each: years(each, LOSSES[kind]), outputs)


# What training relies on


@pytest.mark.parametrize("kind", KINDS)
def test_a_face_has_the_same_loss_alone_in_any_order_and_of_ages_in_any_form(kind: str) -> None:
    outputs, ages = faces(kind)
    whole = age_loss(kind, outputs, ages)
    assert whole.shape == (40,)
    alone = torch.cat([age_loss(kind, outputs[n : n + 1], ages[n : n + 1]) for n in range(40)])
    assert torch.allclose(whole, alone, rtol=1e-13, atol=0)
    assert torch.allclose(whole.flip(0), age_loss(kind, outputs.flip(0), ages[::-1].copy()), rtol=1e-13, atol=0)
    for same in (ages.tolist(), torch.from_numpy(ages), ages[:, None], torch.from_numpy(ages)[:, None]):
        assert torch.equal(whole, age_loss(kind, outputs, same))
    assert age_loss(kind, outputs[:0], ages[:0]).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_bf16_outputs_cost_no_digits(kind: str) -> None:
    """61.3 years stay 61.3: the whole loss runs in fp32, and a float64 head stays in float64."""
    outputs, ages = faces(kind)
    head = LOSSES[kind]
    plain, read = age_loss(kind, outputs.float(), ages), years(outputs.float(), head)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(age_loss(kind, outputs.float(), ages), plain)
        assert torch.equal(years(outputs.float(), head), read)
        halved = age_loss(kind, outputs.bfloat16(), ages)
    assert halved.dtype == read.dtype == torch.float32
    assert torch.equal(halved, age_loss(kind, outputs.bfloat16().float(), ages))
    assert age_loss(kind, outputs, ages).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_outputs_give_finite_losses_and_gradients(kind: str) -> None:
    num_outputs, ages = HEADS[LOSSES[kind]], [0.0, 61.3, 122.0]
    rng = np.random.default_rng(2)
    for signs in (np.ones((3, num_outputs)), -np.ones((3, num_outputs)), rng.choice([-1, 1], (3, num_outputs))):
        outputs = torch.from_numpy(1e4 * signs).float().requires_grad_()
        losses = age_loss(kind, outputs, ages)
        losses.sum().backward()
        assert outputs.grad is not None
        assert bool(losses.isfinite().all()) and bool(outputs.grad.isfinite().all()) and bool((losses >= 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_diverged_face_is_the_only_one_whose_loss_is_not_finite(kind: str) -> None:
    """The step names faces by their losses: none may be refused, hidden, or passed on to others."""
    outputs, ages = faces(kind)
    outputs[7] = math.nan
    assert (~age_loss(kind, outputs, ages).isfinite()).nonzero().tolist() == [[7]]


def test_both_ends_can_be_said_and_cost_nothing_when_they_are() -> None:
    for age in (0, 122):
        assert age_loss("l1", torch.tensor([[float(age)]]), [age]).item() == 0
        older = torch.where(torch.arange(122) < age, 50.0, -50.0)[None]
        assert years(older, "ordinal").item() == pytest.approx(age, abs=1e-12)
        assert age_loss("ordinal", older, [age]).item() == pytest.approx(0, abs=1e-6)
        certain = torch.where(torch.arange(123) == age, 50.0, -50.0)[None]
        assert years(certain, "distribution").item() == pytest.approx(age, abs=1e-12)
        # The Gaussian around an end is cut in half: the target's own mean lies 1.30 years inside.
        best = torch.from_numpy(-((AGES - age) ** 2) / 8.0)[None]
        assert age_loss("distribution", best, [age]).item() == pytest.approx(1.3023, abs=1e-3)


def test_a_distribution_that_equals_its_target_costs_nothing() -> None:
    for age in (20.0, 61.3, 99.5):
        best = torch.from_numpy(-((AGES - age) ** 2) / 8.0)[None]
        assert age_loss("distribution", best, [age]).item() == pytest.approx(0, abs=1e-9)


def test_the_gaussian_sd_stays_in_its_range_and_its_best_value_is_the_error() -> None:
    raw = torch.tensor([[50.0, each] for each in (-1e4, -5.0, 0.0, 5.0, 1e4)])
    spread = gaussian_sd(raw)
    assert spread.tolist() == sorted(spread.tolist())
    assert spread[0].item() == SD_RANGE[0] and spread[-1].item() == SD_RANGE[1]
    grid = torch.tensor([[50.0, each] for each in np.linspace(-8, 8, 4001)], dtype=torch.float64)
    best = age_loss("gaussian", grid, np.full(4001, 57.0)).argmin()
    assert gaussian_sd(grid)[best].item() == pytest.approx(7, abs=0.1)


def test_huber_has_the_slope_of_l1_beyond_delta_and_none_at_the_label() -> None:
    outputs = torch.tensor([[30.0], [33.0], [30.5], [20.0]]).requires_grad_()
    age_loss("huber", outputs, [30.0] * 4).sum().backward()
    assert outputs.grad is not None and outputs.grad[:, 0].tolist() == [0, 1, 0.5, -1]


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("sd", [0.0, 3.0, 18.0, 60.0])
def test_first_biases_say_the_mean_age(head: str, sd: float) -> None:
    for mean_age in (0.0, 0.1, 4.0, 33.3, 61.0, 119.0, 122.0):
        bias = first_biases(head, mean_age, sd)
        assert bias.shape == (HEADS[head],) and bias.dtype == torch.float32 and bool(bias.isfinite().all())
        said = years(bias[None], head).item()
        exactly = head in ("value", "gaussian") or 0.25 <= mean_age <= 121.75
        assert abs(said - mean_age) <= (1e-3 if exactly else 0.2501)
    if head == "gaussian" and 2 <= sd <= 39:
        assert gaussian_sd(bias[None]).item() == pytest.approx(sd, rel=1e-5)


def test_first_biases_of_ordinal_and_distribution_are_one_gaussian() -> None:
    """In the middle, where nothing is cut off: the normal density and its upper tail."""
    chances = torch.softmax(first_biases("distribution", 61.0, 12.0).double(), 0).numpy()
    assert chances == pytest.approx(stats.norm(61, 12).pdf(AGES), abs=1e-6)
    assert chances @ (AGES - 61) ** 2 == pytest.approx(144, rel=1e-3)
    older = first_biases("ordinal", 61.0, 12.0).double().sigmoid().numpy()
    assert older == pytest.approx(1 - np.cumsum(chances)[:-1], abs=1e-6)


# Truth that was planted


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_model_learns_ages_from_features_without_noise(kind: str) -> None:
    """Ages are a linear function of one of six features: every loss must find it, from its own first biases."""
    generator = torch.Generator().manual_seed(0)
    features, fresh = 2 * torch.rand(2, 400, 6, generator=generator) - 1
    ages, wanted = 50 + 35 * features[:, 0], 50 + 35 * fresh[:, 0]
    head = LOSSES[kind]
    layer = torch.nn.Linear(6, HEADS[head])
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(first_biases(head, ages.mean().item(), ages.std().item()))
    before = (years(layer(features), head) - ages).abs().mean().item()
    assert before == pytest.approx((ages - ages.mean()).abs().mean().item(), rel=1e-3)  # it starts at the mean
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        age_loss(kind, layer(features), ages).mean().backward()
        optimizer.step()
        schedule.step()
    assert (years(layer(fresh), head) - wanted).abs().mean().item() < 0.5  # of 17 years that the mean leaves


# Refusals


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        ([30.0, math.nan, 40.0], r"age of row 1: nan must be in 0\.\.122"),
        ([30.0, 40.0, -0.001], "age of row 2: -0.001"),
        ([122.001, 40.0, math.inf], r"age of row 0: 122.001 \(and 1 more rows\)"),
        ([30.0, 40.0], r"age of shape \(2,\)"),
        (np.zeros((3, 3)), r"age of shape \(3, 3\)"),
        (["old", "young", "old"], "not a number"),
    ],
)
def test_labels_that_are_no_ages_are_refused_with_their_row(ages: object, message: str) -> None:
    for kind in KINDS:
        with pytest.raises(Refused, match=message):
            age_loss(kind, torch.zeros(3, HEADS[LOSSES[kind]]), ages)  # type: ignore[arg-type]


def test_outputs_of_another_head_are_refused() -> None:
    for kind, head in LOSSES.items():
        for shape in ((3,), (3, HEADS[head] + 1), (3, HEADS[head], 1)):
            with pytest.raises(Refused, match=rf"head '{head}' gives \(B, {HEADS[head]}\)"):
                age_loss(kind, torch.zeros(shape), [1.0, 2.0, 3.0])
            with pytest.raises(Refused, match="gives"):
                years(torch.zeros(shape), head)


def test_names_and_options_that_mean_nothing_are_refused() -> None:
    value, ages = torch.zeros(1, 1), [40.0]
    with pytest.raises(Refused, match="Did you mean 'huber'"):
        age_loss("hubert", value, ages)
    with pytest.raises(Refused, match="Did you mean 'ordinal'"):
        years(value, "ordinals")
    with pytest.raises(Refused, match="not one of value"):
        first_biases("mean", 40, 10)
    with pytest.raises(Refused, match="'l1' has no delta"):
        age_loss("l1", value, ages, delta=2.0)
    with pytest.raises(Refused, match="'huber' has no sd"):
        age_loss("huber", value, ages, sd=2.0)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(Refused, match="above 0"):
            age_loss("huber", value, ages, delta=wrong)
    for wrong in (-1.0, 123.0, math.nan):
        with pytest.raises(Refused, match="mean age"):
            first_biases("value", wrong, 10)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(Refused, match="sd"):
            first_biases("gaussian", 40, wrong)
