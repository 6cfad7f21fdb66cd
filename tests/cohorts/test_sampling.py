"""Weights that balance ages: the table worked by hand (A5), brute force in fractions, and what a run then draws."""

import json
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fahr.cohorts import age_balanced_weights
from fahr.errors import Refused
from fahr.training.sampling import Order, split

# age: (faces, n_b, factor), as in the module's docstring
BY_HAND = {
    0: (3, 1.0, 7),
    20: (10, 6.0, 2),
    21: (10, 8.0, 1),
    22: (10, 10.0, 1),
    23: (10, 8.0, 1),
    24: (10, 7.0, 1),  # T itself
    26: (5, 3.0, 3),  # an empty age between it and its neighbours
    60: (4, 1.6, 5),  # the last that T counts
    61: (4, 1.6, 5),  # would move T to 6.5 if it counted
    72: (2, 0.4, 18),
    90: (1, 0.2, 20),  # 35, capped
}


def ages_of(counts: dict[int, int]) -> np.ndarray:
    """As many faces of each age as it says, shuffled, at whole years and parts of them."""
    rng = np.random.default_rng(0)
    ages = np.repeat(list(counts), list(counts.values())).astype(float)
    return rng.permutation(ages + np.where(rng.random(len(ages)) < 0.5, 0, rng.uniform(0, 0.999, len(ages))))


def skewed(num_rows: int = 3000) -> np.ndarray:
    """Faces as the public sets have them: a hump at 30, labels heaped on round ages, hardly anyone above 85."""
    rng = np.random.default_rng(1)
    ages = np.clip(rng.gamma(5, 7, num_rows), 0, 104)
    heaped = rng.random(num_rows) < 0.2
    return np.floor(np.where(heaped, 5 * np.round(ages / 5), ages))


def brute_force(
    ages: np.ndarray, cap: int = 20, target: float | None = None, smooth: int = 2, first: int = 20, last: int = 60
) -> dict[int, int]:
    """Bins of one year, in plain Python and exact fractions; every age looks at every face."""
    years = [math.floor(age) for age in ages.tolist()]
    usual = {}
    for year in set(years):
        window = [other for other in range(year - smooth, year + smooth + 1) if 0 <= other <= 122]
        usual[year] = Fraction(sum(1 for other in years if other in window), len(window))
    if target is None:
        middle = sorted(n for year, n in usual.items() if first <= year <= last)
        half = len(middle) // 2
        enough = middle[half] if len(middle) % 2 else (middle[half - 1] + middle[half]) / 2
    else:
        enough = Fraction(target)
    factors = {}
    for year, n in usual.items():
        times = 1
        while times < cap and times * n < enough:
            times += 1
        factors[year] = times
    return factors


# The rule


def test_factors_equal_the_table_worked_by_hand() -> None:
    ages = ages_of({age: count for age, (count, _, _) in BY_HAND.items()})
    found = age_balanced_weights(ages)
    assert found.target == 7
    assert {each.age: (each.count, each.smoothed, each.factor) for each in found.factors} == BY_HAND
    assert [each.age for each in found.factors] == sorted(BY_HAND)
    assert found.weights.tolist() == [BY_HAND[math.floor(age)][2] for age in ages]


def test_empty_ages_are_listed_apart_and_have_no_factor() -> None:
    found = age_balanced_weights(ages_of({age: count for age, (count, _, _) in BY_HAND.items()}))
    assert found.empty == tuple(age for age in range(123) if age not in BY_HAND)
    assert not set(found.empty) & {each.age for each in found.factors}


def test_the_cap_is_reached_and_never_passed() -> None:
    """One face of 95 among more and more of 40: the factor is n until n is 20, and 20 from there on."""
    for count in (1, 2, 19, 20, 21, 100, 10_000):
        found = age_balanced_weights([40.0] * count + [95.0], smooth=0)
        assert found.weights.tolist() == [1.0] * count + [min(count, 20)]
    assert age_balanced_weights([40.0] * 100 + [95.0], smooth=0, cap=7).weights.max() == 7
    assert age_balanced_weights([40.0] * 100 + [95.0], smooth=0, cap=1).weights.tolist() == [1.0] * 101


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    st.lists(st.one_of(st.integers(15, 70), st.integers(0, 122), st.floats(0, 122)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(1, 25),
    st.one_of(st.none(), st.floats(0.01, 30), st.integers(1, 9)),
)
def test_factors_equal_brute_force(ages: list[float], smooth: int, cap: int, target: float | None) -> None:
    ages = [*ages, 33.0]
    found = age_balanced_weights(ages, smooth=smooth, cap=cap, target=target)
    wanted = brute_force(np.array(ages, float), cap, target, smooth)
    assert {each.age: each.factor for each in found.factors} == wanted
    assert found.weights.tolist() == [wanted[math.floor(age)] for age in ages]
    assert {each.age: each.count for each in found.factors} == {
        year: sum(math.floor(age) == year for age in ages) for year in wanted
    }


def test_real_looking_ages_equal_brute_force_with_another_reference() -> None:
    ages = skewed(400)
    for first, last in ((20, 60), (30, 40), (0, 122)):
        found = age_balanced_weights(ages, reference=(first, last))
        assert {each.age: each.factor for each in found.factors} == brute_force(ages, first=first, last=last)


def test_a_ratio_that_is_a_whole_number_is_not_rounded_up_by_binary_fractions() -> None:
    """T = 4.2 is seven times 0.6, but 4.2 / 0.6 in binary is a little more than 7: its ceiling would be 8."""
    assert math.ceil(4.2 / 0.6) == 8
    ages = [40.0] * 21 + [80.0] * 3  # means over five years: 4.2 and 0.6
    assert age_balanced_weights(ages).weights.tolist() == [1.0] * 21 + [7.0] * 3


def test_the_factor_lifts_each_thin_age_to_the_target_and_no_further_than_it_must() -> None:
    found = age_balanced_weights(skewed())
    lifted = [each for each in found.factors if 1 < each.factor < 20]
    assert len(lifted) > 10 and any(each.factor == 20 for each in found.factors)
    for each in lifted:
        assert each.factor * each.smoothed >= found.target > (each.factor - 1) * each.smoothed
    for each in found.factors:
        assert (each.factor == 1) == (each.smoothed >= found.target)
        assert each.factor < 20 or 19 * each.smoothed < found.target


def test_smoothing_keeps_heaped_labels_from_pulling_neighbouring_ages_apart() -> None:
    """Ages told to the nearest five: against the heaps themselves, a face of 31 would weigh thrice one of 30."""
    ages = ages_of({age: 60 if age % 5 == 0 else 20 for age in range(10, 80)})
    rough = age_balanced_weights(ages, smooth=0, target=60)
    assert {each.factor for each in rough.factors if each.age % 5 == 0} == {1}
    assert {each.factor for each in rough.factors if each.age % 5} == {3}
    smooth = age_balanced_weights(ages)
    assert smooth.target == (60 + 4 * 20) / 5
    assert {each.factor for each in smooth.factors if 12 <= each.age <= 77} == {1}


def test_ages_at_the_very_ends_are_not_rare_for_want_of_neighbours() -> None:
    flat = age_balanced_weights(np.repeat(np.arange(123), 4))
    assert {(each.smoothed, each.factor) for each in flat.factors} == {(4.0, 1)} and flat.empty == ()


def test_wider_bins_begin_at_0_and_the_median_takes_those_that_lie_within_the_reference() -> None:
    counts = {22: 4, 27: 2, 58: 3, 61: 90, 97: 1}  # bins of five: 20-24, 25-29, 55-59, 60-64, 95-99
    found = age_balanced_weights(ages_of(counts), width=5, smooth=0)
    assert found.target == 3  # of 4, 2, 3: the bin of 60 reaches beyond 60
    assert [(each.age, each.count, each.factor) for each in found.factors] == [
        (20, 4, 1),
        (25, 2, 2),
        (55, 3, 1),
        (60, 90, 1),
        (95, 1, 3),
    ]
    assert found.empty == tuple(age for age in range(0, 123, 5) if age not in (20, 25, 55, 60, 95))
    over = age_balanced_weights(ages_of(counts), width=5, smooth=5)  # one bin to either side
    assert [each.smoothed for each in over.factors] == [6 / 3, 6 / 3, 93 / 3, 93 / 3, 1 / 3]


def test_one_age_only_is_left_as_it_is_and_outside_the_reference_needs_a_target() -> None:
    assert age_balanced_weights([40.0] * 7).weights.tolist() == [1.0] * 7
    assert age_balanced_weights([40]).weights.tolist() == [1.0]
    with pytest.raises(Refused, match="no face of 20 to 60 years in a bin of 1: .* Give target"):
        age_balanced_weights([70.0] * 7)
    assert age_balanced_weights([70.0] * 7, target=7, smooth=0).weights.tolist() == [1.0] * 7
    assert age_balanced_weights([70.0] * 7, target=14.5, smooth=0).weights.tolist() == [3.0] * 7
    assert age_balanced_weights([70.0] * 7, reference=(60, 80)).weights.tolist() == [1.0] * 7


def test_the_order_of_rows_and_their_container_change_nothing() -> None:
    ages = skewed(500)
    weights = age_balanced_weights(ages).weights
    turned = np.random.default_rng(3).permutation(500)
    assert (age_balanced_weights(ages[turned]).weights == weights[turned]).all()
    for same in (ages.tolist(), ages.astype(np.float32), ages.astype(int), pa.array(ages), pa.chunked_array([ages])):
        assert (age_balanced_weights(same).weights == weights).all()


# The report


def test_effective_sizes_by_decade_equal_their_definition() -> None:
    ages = skewed()
    found = age_balanced_weights(ages)
    weights = found.weights
    assert [each.age for each in found.effective] == sorted({int(age) // 10 * 10 for age in ages})
    for each in found.effective:
        own = weights[(ages >= each.age) & (ages < each.age + 10)]
        assert each.rows == len(own)
        assert each.share == pytest.approx(sum(own) / sum(weights))
        assert each.effective == pytest.approx(sum(own) ** 2 / sum(w * w for w in own))
        assert each.effective <= each.rows * (1 + 1e-12)
    assert sum(each.share for each in found.effective) == pytest.approx(1)
    assert sum(each.rows for each in found.effective) == 3000
    assert found.effective_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.draws == weights.sum()


def test_the_report_survives_json_and_says_the_whole_table_and_every_option() -> None:
    found = age_balanced_weights(skewed(), cap=9, target=25.5, smooth=4, width=2, reference=(24, 50))
    told = json.loads(json.dumps(found.to_json()))
    assert told["rows"] == 3000 == sum(each["count"] for each in told["factors"])
    assert [told[key] for key in ("cap", "target", "smooth", "width", "reference")] == [9, 25.5, 4, 2, [24, 50]]
    assert sorted([*told["empty"], *(each["age"] for each in told["factors"])]) == list(range(0, 123, 2))
    again = {each["age"]: each["factor"] for each in told["factors"]}
    assert [again[int(age) // 2 * 2] for age in skewed()] == found.weights.tolist()
    assert told["draws"] == sum(each["count"] * each["factor"] for each in told["factors"])
    assert "weights" not in told


# What a run draws


def test_over_an_epoch_each_face_comes_as_often_as_expected_rounded_up_or_down() -> None:
    ages = skewed()
    balance = age_balanced_weights(ages)
    order = Order(len(ages), 7, balance.weights)
    expected = balance.weights * len(ages) / balance.draws
    total = np.zeros(len(ages))
    for epoch in range(20):
        counts = np.bincount(order.rows(epoch * 3000, (epoch + 1) * 3000), minlength=3000)
        assert ((counts >= np.floor(expected)) & (counts <= np.ceil(expected))).all()
        total += counts
    for decade in balance.effective:
        own = (ages >= decade.age) & (ages < decade.age + 10)
        assert total[own].sum() / total.sum() == pytest.approx(decade.share, abs=1e-3)


def test_the_oldest_are_seen_as_often_as_the_rule_lets_them() -> None:
    """Above 80 the hump at 30 no longer rules: their share of draws is many times their share of faces."""
    ages = skewed()
    balance = age_balanced_weights(ages)
    drawn = ages[Order(len(ages), 0, balance.weights).rows(0, 30_000)]
    assert (drawn >= 80).mean() > 5 * (ages >= 80).mean()
    assert set(np.unique(ages)) == set(np.unique(drawn))  # nobody is left out


@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_see_what_one_sees_from_any_position(world: int) -> None:
    weights = age_balanced_weights(skewed()).weights
    whole = Order(3000, 1, weights).rows(0, 9000)
    for start in range(0, 8960, 640):  # each batch by a fresh order, as after a restart
        batch = Order(3000, 1, weights.copy()).rows(start, start + 64)
        assert (batch == whole[start : start + 64]).all()
        parts = [split(batch, rank, world) for rank in range(world)]
        assert (np.concatenate(parts) == batch).all()


# Refusals


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        ([30.0, math.nan, 40.0, math.nan], r"age of row 1 is missing \(2 such rows of 4\).*Leave them out"),
        ([30.0, None], "age of row 1 is missing"),
        (pa.array([None, 30.0]), "age of row 0 is missing"),
        ([30.0, -1.0], "age of row 1 is -1, not in 0..122 years"),
        ([123.0], "age of row 0 is 123"),
        ([30.0, math.inf], "age of row 1 is inf"),
        ([], "ages: none"),
        ([[30.0], [40.0]], r"shape \(2, 1\)"),
        (["thirty"], "not a number"),
    ],
)
def test_ages_that_are_none_are_refused_with_their_row(ages: object, message: str) -> None:
    with pytest.raises(Refused, match=message):
        age_balanced_weights(ages)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cap": 0}, "cap=0"),
        ({"cap": 2.5}, "cap=2.5: must be a whole number"),
        ({"cap": math.inf}, "cap=inf"),
        ({"smooth": -1}, "smooth=-1"),
        ({"width": 0}, "width=0"),
        ({"width": 5}, "smooth=2 years in bins of width=5: give 0"),
        ({"target": 0}, "target=0"),
        ({"target": math.nan}, "target=nan"),
        ({"target": math.inf}, "target=inf"),
        ({"reference": (60, 20)}, "reference=60 to 20"),
        ({"reference": (-5, 20)}, "reference=-5 to 20"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(Refused, match=message):
        age_balanced_weights([30.0, 40.0], **options)  # type: ignore[arg-type]
