"""Medians of visits against pandas and a plain loop; days that are unknown; photos that have no value."""

import datetime as dt
from statistics import median

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fahr.biomarkers import visit_medians
from fahr.errors import Refused


def photos(seed, rows):
    """Few values, so that they tie; some are unknown, and so are some days."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(rows) < 0.1, np.nan, rng.integers(40, 60, rows) / 3)
    days = rng.integers(18_000, 18_004, rows).astype("datetime64[D]")
    days[rng.random(rows) < 0.2] = np.datetime64("NaT")
    return values, rng.choice(["ann", "bo", "cy", "di"], rows), days


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 10, 60, 500])
def test_each_visit_has_the_median_of_its_known_photos_as_a_plain_loop_finds_it(rows):
    for seed in range(20):
        values, subjects, days = photos(seed, rows)
        visits: dict[object, list[int]] = {}
        for row in range(rows):
            alone = row if np.isnat(days[row]) else None
            visits.setdefault((subjects[row], str(days[row]), alone), []).append(row)
        found = visit_medians(values, subjects, days)
        assert len(found) == len(visits)
        assert found.first.tolist() == [members[0] for members in visits.values()]
        for number, members in enumerate(visits.values()):
            known = [value for value in values[members].tolist() if value == value]
            assert found.photos[number] == len(known)
            assert np.array_equal(found.medians[number], median(known) if known else np.nan, equal_nan=True)
            assert (found.visit[members] == number).all()


def test_dated_photos_agree_with_pandas():
    values, subjects, days = photos(3, 2_000)
    dated = ~np.isnat(days)
    table = pd.DataFrame({"value": values[dated], "subject": subjects[dated], "day": days[dated]})
    expected = table.groupby(["subject", "day"])["value"].transform("median")
    found = visit_medians(values[dated], subjects[dated], days[dated])
    assert np.array_equal(found.medians[found.visit], expected, equal_nan=True)


def test_photos_of_unknown_days_are_visits_of_their_own():
    found = visit_medians([60.0, 70.0, 80.0], ["ann"] * 3, [None, None, None])
    assert found.medians.tolist() == [60, 70, 80] and found.photos.tolist() == [1, 1, 1]


def test_two_people_who_share_a_day_do_not_share_a_visit():
    found = visit_medians([60.0, 70.0, 62.0], ["ann", "bo", "ann"], ["2026-01-01"] * 3)
    assert found.medians.tolist() == [61, 70] and found.visit.tolist() == [0, 1, 0]


def test_one_wild_photo_of_three_does_not_move_the_visit():
    assert visit_medians([61.0, 27.0, 62.0], [1, 1, 1], ["2026-01-01"] * 3).medians.tolist() == [61]


def test_all_ways_to_write_a_day_mean_the_same():
    days = [dt.date(2026, 1, 1), dt.date(2026, 1, 2), None, dt.date(2026, 1, 1)]
    moments = [None if day is None else dt.datetime.combine(day, dt.time(9 + n)) for n, day in enumerate(days)]
    texts = [None if day is None else day.isoformat() for day in days]
    ways = [days, moments, texts, pa.array(days), pa.array(texts), np.array(days, "datetime64[D]")]
    ways += [np.array(moments, "datetime64[s]"), pd.Series(pd.to_datetime(pd.Series(moments)))]
    for way in ways:
        assert visit_medians([1.0, 2.0, 3.0, 4.0], [7, 7, 7, 7], way).visit.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], ["a"], ["2026-01"]), "dates: not every one is a day"),
        (([1.0], ["a"], ["2026-02-30"]), "dates: not every one is a day"),
        (([1.0], ["a"], np.array(["2026"], "datetime64[Y]")), "dates: not every one is a day"),
        (([1.0], ["a"], [20260101]), "dates: not every one is a day"),
        (([1.0], ["a"], []), "dates: has 0 values for 1 photos"),
        (([1.0], ["a", "b"], ["2026-01-01"]), "subjects: has 2 values for 1 photos"),
        (([1.0], [None], ["2026-01-01"]), "subjects: row 0 is missing"),
        (([[1.0]], ["a"], ["2026-01-01"]), r"values: has shape \(1, 1\)"),
    ],
)
def test_what_is_no_day_and_no_person_is_refused(arguments, message):
    with pytest.raises(Refused, match=message):
        visit_medians(*arguments)
