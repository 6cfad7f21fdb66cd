"""What is older than the calendar, what is unknown, and what is no age at all."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fahr.biomarkers import face_age_deviation
from fahr.errors import Refused


def test_who_looks_older_than_the_calendar_deviates_upwards():
    assert face_age_deviation([70.0, 61.5, 30.0], [60.0, 61.5, 33.25]).tolist() == [10.0, 0.0, -3.25]


def test_nobody_gives_nobody():
    assert face_age_deviation([], []).shape == (0,)


@pytest.mark.parametrize(
    "age",
    [
        [60.0, None, 30.0],
        np.array([60.0, np.nan, 30.0]),
        pd.Series([60.0, None, 30.0]),
        pd.array([60, None, 30], dtype="Int64"),
        pa.array([60.0, None, 30.0]),
        pa.chunked_array([[60.0, None], [30.0]]),
        np.ma.masked_array([60, 61, 30], [False, True, False]),
    ],
    ids=lambda age: type(age).__name__,
)
def test_an_unknown_age_gives_an_unknown_deviation_and_no_other(age):
    assert np.array_equal(face_age_deviation([61.0, 62.0, 28.0], age), [1.0, np.nan, -2.0], equal_nan=True)
    assert np.array_equal(face_age_deviation(age, [61.0, 62.0, 28.0]), [-1.0, np.nan, 2.0], equal_nan=True)


def test_a_face_age_beyond_human_years_is_kept_since_only_a_display_clips():
    assert face_age_deviation([-3.0, 130.0], [0.0, 122.0]).tolist() == [-3.0, 8.0]


@pytest.mark.parametrize(
    ("face_age", "age", "message"),
    [
        ([61.0, 62.0], [60.0], "age: has 1 values for 2 photos"),
        ([61.0], [60.0, 61.0], "age: has 2 values for 1 photos"),
        ([61.0, 62.0], 60.0, r"age: has shape \(\)"),
        ([[61.0], [62.0]], [60.0, 61.0], r"face_age: has shape \(2, 1\)"),
        ([61.0, 62.0], [[60.0, 61.0]], r"age: has shape \(1, 2\)"),
        ([61.0, 62.0], [60.0, -0.1], r"age: row 1 must be from 0 to 122 years \(-0.1\)"),
        ([61.0, 62.0, 3.0], [22000.0, 60.0, 610.0], r"age: row 0 must be from 0 to 122 years \(22000.0\), and 1 more"),
        ([61.0, np.inf], [60.0, 61.0], "face_age: row 1 is infinite"),
        (["61", "62"], [60.0, 61.0], "face_age: not every value is a number of years"),
        ([61.0, None], ["60", None], "age: not every value is a number of years"),
        ([61.0, 62.0], [True, False], "age: not every value is a number of years"),
    ],
)
def test_what_is_no_age_or_has_no_partner_is_refused(face_age, age, message):
    with pytest.raises(Refused, match=message):
        face_age_deviation(face_age, age)
