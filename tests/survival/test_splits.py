"""People from elsewhere and from later: nobody on both sides, and nothing of the future in training."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import leave_one_site_out, temporal_split


def test_each_site_is_left_out_once_and_its_people_with_it():
    site = np.array(["b", "a", "b", "c", "a", "c"] * 20)
    subject = np.arange(120).astype(str)
    subject[1] = subject[0]  # seen at b and at a
    splits = leave_one_site_out(site, np.ones(120), subject=subject)
    assert [each.name for each in splits] == ["a", "b", "c"]
    for each in splits:
        assert set(site[each.test]) == {each.name} and each.name not in site[each.train]
        assert not set(subject[each.train]) & set(subject[each.test])
        lost = 120 - len(each.train) - len(each.test)
        assert lost == (0 if each.name == "c" else 1)
        assert any("1 rows elsewhere are of its people" in told for told in each.warnings) == (lost == 1)
    np.testing.assert_array_equal(np.sort(np.concatenate([each.test for each in splits])), np.arange(120))


def test_a_site_with_few_events_is_told_and_one_with_all_of_them_refused():
    site = np.repeat(["a", "b"], 30)
    few = leave_one_site_out(site, np.arange(60) >= 27)
    assert few[0].events == 3 and "3 events, fewer than 10" in few[0].warnings[0] and not few[1].warnings
    with pytest.raises(Refused, match="without b nobody had the event"):
        leave_one_site_out(site, np.arange(60) >= 30)
    with pytest.raises(Refused, match="there is only a"):
        leave_one_site_out(["a", "a"], [1, 1])


def test_training_knows_only_what_was_known_at_the_cutoff():
    date = [0.0, 10, 90, 100, 150, 20, 60]
    time = [50.0, 95, 30, 10, 10, 80, 200]
    event = [1, 1, 1, 1, 0, 1, 0]
    subject = ["a", "b", "c", "d", "a", "e", "f"]
    found = temporal_split(date, time, event, 100, subject=subject)
    np.testing.assert_array_equal(found.train, [0, 1, 2, 5, 6])
    np.testing.assert_array_equal(found.train_time, [50, 90, 10, 80, 40])
    np.testing.assert_array_equal(found.train_event, [1, 0, 0, 0, 0])  # the last: on the very day, so not known yet
    np.testing.assert_array_equal(found.test, [3])  # the photo at 150 is of a training person
    assert (found.left_out, found.ended) == (1, 4)
    assert found.warnings == ("from 100 on: 1 events, fewer than 10",)
    late = temporal_split(date, time, event, 100, entry=[0, 0, 15, 0, 0, 0, 0], subject=subject)
    assert 2 not in late.train and late.left_out == 2  # was to be watched from 105 on


def test_calendar_dates_count_in_days():
    rng = np.random.default_rng(0)
    date = np.datetime64("2020-01-01") + rng.integers(0, 1_000, 300)
    time, event = rng.exponential(300, 300), rng.random(300) < 0.7
    found = temporal_split(date, time, event, np.datetime64("2021-07-01"))
    number = (date - np.datetime64("2020-01-01")).astype(float)
    same = temporal_split(
        number, time, event, float((np.datetime64("2021-07-01") - np.datetime64("2020-01-01")).astype(int))
    )
    np.testing.assert_array_equal(found.train, same.train)
    np.testing.assert_allclose(found.train_time, same.train_time)
    np.testing.assert_array_equal(np.sort([*found.train, *found.test]), np.arange(300))
    ends = date[found.train] + np.ceil(found.train_time).astype("timedelta64[D]")
    assert ends.max() <= np.datetime64("2021-07-01") and found.train_event.sum() < event[found.train].sum()


@pytest.mark.parametrize(
    ("date", "cutoff", "sentence"),
    [
        ([0, 1, 2], 9, "0 of others"),
        ([0, 1, 2], -5, "leaves 0 rows before it"),
        ([0, 1, 2], 0.5, "nobody had the event before 0.5"),
        ([0, 1], 1, "2 values for 3 rows"),
        (
            np.array(["2020-01-01", "NaT", "2020-01-03"], "datetime64[D]"),
            np.datetime64("2020-01-02"),
            "row 1 is missing",
        ),
    ],
)
def test_a_cutoff_that_splits_nothing_is_refused(date, cutoff, sentence):
    with pytest.raises(Refused, match=sentence):
        temporal_split(date, [5, 5, 5], [1, 1, 1], cutoff)
