"""Who looks old, who ages fast, who does both: against a plain loop, on the cuts, and where something is unknown."""

import numpy as np
import pyarrow as pa
import pytest

from fahr.biomarkers import aging_rates, face_age_deviation, joint_groups
from fahr.errors import Refused


def test_groups_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    deviation = np.where(rng.random(300) < 0.1, np.nan, rng.integers(-3, 4, 300).astype(float))
    high = rng.choice(np.array([True, False, None], object), 300)
    for cut in (0.0, 1.0, -2.5):
        found = joint_groups(deviation, high, cut=cut)
        for row in range(300):
            if np.isnan(deviation[row]) or high[row] is None:
                wanted = None
            elif deviation[row] > cut:
                wanted = "both" if high[row] else "deviation"
            else:
                wanted = "rate" if high[row] else "neither"
            assert found.group[row] == wanted
            assert found.known[row] == (wanted is not None)
            assert found.high_deviation[row] == (wanted in ("deviation", "both"))
            assert found.high_rate[row] == (wanted in ("rate", "both"))
        assert sum(found.counts.values()) == found.known.sum()
        assert all(found.counts[name] == (found.group == name).sum() for name in found.counts)


def test_a_deviation_of_nothing_is_not_high():
    assert joint_groups([0.0, 1e-9, -1e-9], [False] * 3).group.tolist() == ["neither", "deviation", "neither"]


def test_from_photos_to_groups():
    """Four people, two photos each, 1,000 days apart; the deviation is that of the second."""
    people, ages = ["a", "b", "c", "d"], [[60, 62], [60, 64], [50, 52], [50, 54]]
    calendar = [[60, 62.7]] * 4
    days = ["2020-01-01", "2022-09-27"] * 4
    rates = aging_rates(np.ravel(ages), days, np.repeat(people, 2))
    second = np.arange(1, 8, 2)
    deviation = face_age_deviation(np.ravel(ages)[second], np.ravel(calendar)[second])
    assert joint_groups(deviation, rates.high).group.tolist() == ["neither", "both", "neither", "rate"]


def test_a_column_of_a_file_will_do():
    assert joint_groups(pa.array([1.0, None]), pa.array([True, False])).group.tolist() == ["both", None]
    assert joint_groups([], []).counts == {"neither": 0, "deviation": 0, "rate": 0, "both": 0}


@pytest.mark.parametrize(
    ("deviation", "high", "told"),
    [
        ([1.0, 2.0], [True], "high: has 1 values for 2 photos"),
        ([1.0], [1], "high: row 0 is 1; must be true, false"),
        ([1.0], ["yes"], "high: row 0 is 'yes'"),
        (["x"], [True], "not every value is a number of years"),
    ],
)
def test_what_is_no_flag_and_no_deviation_is_refused(deviation, high, told):
    with pytest.raises(Refused, match=told):
        joint_groups(deviation, high)


def test_a_cut_that_is_no_number_is_refused():
    with pytest.raises(Refused, match="cut: nan"):
        joint_groups([1.0], [True], cut=float("nan"))
