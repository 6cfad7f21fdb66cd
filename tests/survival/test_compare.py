"""Two markers on the same people: known differences, known lack of one, and the two methods against each other."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import bootstrap_concordance, compare_concordance, concordance
from survival.pair_oracle import cohort


def noisy(n, seed, noise):
    """A cohort and two markers: its risk with noise, and with another noise."""
    time, event, risk = cohort(n, seed)
    rng = np.random.default_rng(seed + 10_000)
    return time, event, risk + rng.normal(0, noise[0], n), risk + rng.normal(0, noise[1], n)


@pytest.mark.parametrize("method", ["analytic", "bootstrap"])
def test_a_better_marker_is_found_better_and_swapping_turns_the_sign(method):
    time, event, good, poor = noisy(500, 1, (0.1, 2.0))
    found = compare_concordance(time, event, good, poor, method=method)
    assert found.difference == concordance(time, event, good).value - concordance(time, event, poor).value
    assert 0 < found.low < found.difference < found.high and found.p_value < 0.01
    swapped = compare_concordance(time, event, poor, good, method=method)
    assert (swapped.low, swapped.high, swapped.p_value) == pytest.approx((-found.high, -found.low, found.p_value))


@pytest.mark.parametrize("method", ["analytic", "bootstrap"])
def test_equally_good_markers_are_called_different_no_more_often_than_promised(method):
    called = []
    for seed in range(300):
        found = compare_concordance(*noisy(120, seed, (1.0, 1.0)), method=method, samples=199, threads=1)
        called.append(found.p_value < 0.1)
        if method == "analytic":
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
    assert 0.055 < np.mean(called) < 0.155  # 10 % +- 2.6 standard errors of 300 draws, and a little for n = 120


def test_analytic_and_bootstrap_agree_also_on_photos_of_the_same_people():
    time, event, one, other = (np.repeat(each, 3) for each in noisy(300, 2, (0.5, 1.5)))
    rng = np.random.default_rng(2)
    one, other, subject = one + rng.normal(0, 0.1, 900), other + rng.normal(0, 0.1, 900), np.repeat(np.arange(300), 3)
    both = [compare_concordance(time, event, one, other, subject=subject, method=m) for m in ("analytic", "bootstrap")]
    assert both[0].standard_error == pytest.approx(both[1].standard_error, rel=0.1)
    assert [both[0].low, both[0].high] == pytest.approx(
        [both[1].low, both[1].high], abs=0.15 * (both[0].high - both[0].low)
    )
    forgotten = compare_concordance(time, event, one, other, clusters=np.arange(900), method="analytic")
    assert forgotten.standard_error < 0.7 * both[0].standard_error


def test_resamples_are_paired():
    time, event, one, other = noisy(200, 3, (0.5, 0.6))
    draws = [bootstrap_concordance(time, event, each, samples=300, seed=4).values for each in (one, other)]
    found = compare_concordance(time, event, one, other, samples=300, seed=4)
    expected = np.quantile(draws[0] - draws[1], [0.025, 0.975]).tolist()
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-14)
    assert found.standard_error < np.hypot(draws[0].std(), draws[1].std())


@pytest.mark.parametrize("method", ["analytic", "bootstrap"])
def test_a_marker_does_not_differ_from_itself_on_another_scale(method):
    time, event, risk = cohort(100, 4)
    found = compare_concordance(time, event, risk, np.exp(risk) * 7, method=method)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("method", ["analytic", "bootstrap"])
def test_without_a_pair_nothing_is_claimed(method):
    found = compare_concordance([1, 2], [0, 0], [1, 2], [2, 1], method=method)
    assert np.isnan([found.difference, found.low, found.high, found.p_value, found.standard_error]).all()


def test_a_difference_without_variation_has_no_p_value_by_theory():
    found = compare_concordance([1, 2, 3], [1, 1, 1], [3, 2, 1], [1, 2, 3], method="analytic")
    assert (found.difference, found.standard_error) == (1, 0) and np.isnan([found.low, found.high, found.p_value]).all()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"method": "bootstrp"}, "Did you mean 'bootstrap'"),
        ({"other_risk": [1.0, np.nan, 2.0]}, "other_risk: row 1"),
        ({"other_risk": [1.0]}, "other_risk: has 1 values"),
        ({"samples": 0}, "samples: 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(option, sentence):
    base = {"time": [1, 2, 3], "event": [1, 0, 1], "risk": [3, 2, 1], "other_risk": [1, 2, 3]}
    with pytest.raises(Refused, match=sentence):
        compare_concordance(**{**base, **option})
