"""How strong a confounder must be: the printed examples, and the inequality that it solves."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import e_value


@pytest.mark.parametrize(
    ("ratio", "low", "high", "value", "limit"),
    [
        (3.9, 1.8, 8.7, "7.26", "3.00"),  # VanderWeele and Ding 2017: breast feeding and respiratory death
        (0.80, 0.71, 0.91, "1.81", "1.43"),  # and leukaemia
    ],
)
def test_it_prints_the_digits_of_the_paper(ratio, low, high, value, limit):
    found = e_value(ratio, low, high, common=False)
    assert (f"{found.value:.2f}", f"{found.limit:.2f}") == (value, limit)


def test_two_such_confounders_together_just_make_the_risk_ratio():
    for ratio in (1.01, 1.5, 3.22, 20.0):
        found = e_value(ratio, ratio, ratio, common=False)
        assert found.value**2 / (2 * found.value - 1) == pytest.approx(ratio)  # the bounding factor of Ding
        assert found.limit == pytest.approx(found.value)
        other = e_value(1 / ratio, 1 / ratio, 1 / ratio, common=False)
        assert other.value == pytest.approx(found.value)


def test_a_common_event_makes_the_risk_ratio_smaller_than_the_hazard_ratio():
    # exponential times with rates 1 and 4 at the time when the middle rate has left a half, as the approximation has it
    found = e_value(4.0, 2.0, 8.0, common=True)
    rate = np.log(2) / 2
    assert found.risk_ratio == pytest.approx((1 - np.exp(-rate * 4)) / (1 - np.exp(-rate)))
    assert found.risk_ratio < 4 and found.value < e_value(4.0, 2.0, 8.0, common=False).value
    assert e_value(0.25, 0.125, 0.5, common=True).value == pytest.approx(found.value)


def test_an_interval_that_holds_one_needs_no_confounder():
    assert e_value(1.5, 0.9, 2.5, common=False).limit == 1
    assert e_value(1.0, 0.9, 1.1, common=True).value == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((-1.2, 1, 2), "ratio: -1.2"),
        ((1.5, 0, 2), "low: 0"),
        ((1.5, 1, np.inf), "high: inf"),
        ((3, 1, 2), "lie in its"),
    ],
)
def test_what_is_no_ratio_is_refused(given, sentence):
    with pytest.raises(Refused, match=sentence):
        e_value(*given, common=False)
