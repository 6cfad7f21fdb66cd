"""Face aging rates against quotients by hand, NumPy's least squares and a plain loop; borders, cutoffs and refusals."""

from collections import defaultdict
from datetime import date, timedelta
from statistics import median

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fahr.biomarkers import BANDS, aging_rates, correct, face_aging_rate
from fahr.biomarkers.aging_rate import photos_of_median
from fahr.errors import Refused
from real.portraits import ABSENT, portraits_manifest, portraits_root

FIRST = date(2019, 5, 17)
CORRECTION = {
    "intercept": 1.0, "slope": -0.2, "centre": 50.0, "n": 40.0, "people": 40.0, "low_age": 20.0, "high_age": 90.0,
}  # fmt: skip


def after(*days: int) -> list[date]:
    return [FIRST + timedelta(each) for each in days]


def spread(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Face ages, days and people: several photos of a day, days in any order, some unknown."""
    people = rng.integers(0, max(1, rows // 4), rows)
    days = np.datetime64("2018-01-01") + rng.choice([0, 3, 12, 12, 200, 365, 500, 731, 1461], rows)
    days[rng.random(rows) < 0.1] = np.datetime64("NaT")
    ages = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(60, 8, rows))
    return ages, days, people


# The number


@pytest.mark.parametrize("days", [10, 36, 365, 366, 730, 731, 1460])
def test_of_two_days_it_is_the_difference_over_the_years_between_to_the_last_bit(days):
    rng = np.random.default_rng(days)
    for early, late in rng.normal(60, 20, (50, 2)).clip(0):
        found = face_aging_rate([early, late], after(0, days))
        assert found.face_aging_rate == (late - early) / (days / 365.25)


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [("2020-02-29", "2024-02-28", 1460), ("2020-02-28", "2020-03-09", 10), ("2019-02-28", "2020-02-28", 365),
     ("2020-02-28", "2021-02-28", 366)],
)  # fmt: skip
def test_a_leap_day_counts_as_a_day(first, last, days):
    assert face_aging_rate([60.0, 61.0], [first, last]).interval_days == days


def test_of_one_photo_a_day_the_slope_and_its_error_are_those_of_ordinary_least_squares():
    rng = np.random.default_rng(0)
    for visits in (3, 4, 9):
        for _ in range(20):
            days = np.sort(rng.choice(np.arange(1, 1461), visits, replace=False))
            days = days - days[0]
            if days[-1] < 10:
                continue
            ages = rng.normal(60, 6, visits)
            years = days / 365.25
            wanted = np.polyfit(years, ages, 1)[0]
            error = np.sqrt(np.linalg.inv(np.vander(years, 2).T @ np.vander(years, 2))[0, 0]) * 1.7
            found = face_aging_rate(ages, after(*days.tolist()), repeatability_sd=1.7)
            assert found.face_aging_rate == pytest.approx(wanted, rel=1e-9)
            assert found.standard_error == pytest.approx(error, rel=1e-9)


def by_hand(ages: list[float], days: list[int]) -> tuple[float, float]:
    """Slope and its error for an SD of 1: the median of each day, weighted least squares by the normal equations."""
    visits = defaultdict(list)
    for age, day in zip(ages, days, strict=True):
        visits[day].append(age)
    worth = {1: 1.0, 2: 2.0, 3: 2.2288, 4: 3.35346, 5: 3.48634}  # one over the variance of a median of so many
    design = np.array([[1.0, day / 365.25] for day in visits])
    weights = np.diag([worth[len(each)] for each in visits.values()])
    inverse = np.linalg.inv(design.T @ weights @ design)
    slope = (inverse @ design.T @ weights @ np.array([median(each) for each in visits.values()]))[1]
    return float(slope), float(np.sqrt(inverse[1, 1]))


def test_several_photos_a_day_count_by_their_median_and_weigh_as_its_variance_asks():
    rng = np.random.default_rng(1)
    for _ in range(60):
        days = np.sort(rng.choice([0, 40, 200, 600], rng.integers(5, 12)))
        days = np.r_[0, days, 600][: 1 + len(days) + 1]
        if np.unique(days, return_counts=True)[1].max() > 5:
            continue
        ages = rng.normal(60, 6, len(days))
        found = face_aging_rate(ages, after(*days.tolist()), repeatability_sd=3.0)
        slope, error = by_hand(ages.tolist(), days.tolist())
        assert found.face_aging_rate == pytest.approx(slope, rel=1e-5, abs=1e-5)
        assert found.standard_error == pytest.approx(3.0 * error, rel=1e-4)


def test_a_median_is_worth_as_many_photos_as_its_scatter_in_a_simulation_says():
    rng = np.random.default_rng(2)
    for photos in (1, 2, 3, 4, 7, 16, 17, 18, 40, 101):
        medians = np.median(rng.normal(size=(20_000, photos)), axis=1)
        assert photos_of_median(np.array([photos]))[0] == pytest.approx(1 / medians.var(), rel=0.05)


def test_the_error_is_twice_the_variance_of_a_photo_over_the_square_of_the_time():
    # at an SD of 2 years: 29 a year after 36 days, 2.8 after a year, 0.7 after four
    for days, wanted in ((36, 28.7), (365, 2.83), (1460, 0.708)):
        error = face_aging_rate([60.0, 61.0], after(0, days), repeatability_sd=2.0).standard_error
        assert error == pytest.approx(np.sqrt(2) * 2.0 / (days / 365.25), rel=1e-12)
        assert error == pytest.approx(wanted, rel=2e-3)


def test_rates_scatter_around_the_planted_one_as_their_standard_errors_say():
    rng = np.random.default_rng(3)
    people, photos = 4_000, 6
    days = np.sort(rng.choice([0, 100, 380, 900, 1200], (people, photos)), axis=1)
    days[:, 0], days[:, -1] = 0, 1300
    true = rng.normal(1, 0.5, people)
    ages = 60 + true[:, None] * days / 365.25 + rng.normal(0, 2.0, days.shape)
    found = aging_rates(
        ages.ravel(), (np.datetime64("2018-01-01") + days).ravel(), np.repeat(np.arange(people), photos),
        repeatability_sd=2.0,
    )  # fmt: skip
    scores = (found.face_aging_rate - true) / found.standard_error
    assert abs(scores.mean()) < 4 / np.sqrt(people)
    assert scores.std() == pytest.approx(1, abs=4 / np.sqrt(2 * people))


def test_replicate_looks_at_the_first_and_the_last_day_only():
    ages, days = [50.0, 52.0, 90.0, 40.0, 61.0, 63.0], [0, 0, 100, 500, 800, 800]
    found = face_aging_rate(ages, after(*days), mode="replicate", repeatability_sd=2.0)
    assert found.face_aging_rate == (62.0 - 51.0) / (800 / 365.25)
    assert found.standard_error == pytest.approx(2.0 * np.sqrt(1 / 2 + 1 / 2) / (800 / 365.25))
    assert found.face_aging_rate != face_aging_rate(ages, after(*days)).face_aging_rate


# Bands and cutoffs


@pytest.mark.parametrize(
    ("days", "band", "reason"),
    [
        (0, None, "same_day"), (1, None, "interval_too_short"), (9, None, "interval_too_short"),
        (10, "short", None), (365, "short", None), (366, "mid", None), (730, "mid", None), (731, "long", None),
        (1460, "long", None), (1461, None, "interval_too_long"), (9_999, None, "interval_too_long"),
    ],
)  # fmt: skip
def test_bands_include_both_borders_and_beyond_them_there_is_a_reason_and_no_rate(days, band, reason):
    prior = {each.name: {"mean": 1.0, "variance": 0.2} for each in BANDS}
    found = face_aging_rate([60.0, 62.0], after(0, days), repeatability_sd=2.0, prior=prior)
    assert (found.band, found.reason, found.interval_days) == (band, reason, days)
    numbers = (found.face_aging_rate, found.standard_error, found.shrunken_rate, found.high)
    assert all((number is None) == (reason is not None) for number in numbers)
    assert (found.first_taken_on, found.last_taken_on) == tuple(after(0, days))


@pytest.mark.parametrize(("days", "cutoff"), [(36, 20), (365, 20), (366, 10), (730, 10), (731, 1), (1460, 1)])
def test_a_rate_on_the_cutoff_of_its_band_is_not_high(days, cutoff):
    years = days / 365.25
    just = next(
        gain for gain in (cutoff * years, *(np.nextafter(cutoff * years, to) for to in (-np.inf, np.inf)))
        if gain / years == cutoff
    )  # fmt: skip
    assert face_aging_rate([0.0, just], after(0, days)).high is False
    assert face_aging_rate([0.0, just], after(0, days)).face_aging_rate == cutoff
    assert face_aging_rate([0.0, just * (1 + 1e-12)], after(0, days)).high is True
    assert face_aging_rate([0.0, just * (1 - 1e-12)], after(0, days)).high is False


def test_a_photo_between_does_not_save_an_interval_that_is_too_long():
    assert face_aging_rate([60.0, 61.0, 65.0], after(0, 700, 1461)).reason == "interval_too_long"


@pytest.mark.skipif(portraits_root() is None, reason=ABSENT)
def test_the_twelve_real_pairs_have_no_rate_since_years_too_many_lie_between():
    manifest = portraits_manifest(portraits_root())
    found = aging_rates(manifest["age"], manifest["taken_on"], manifest["subject_id"], age=manifest["age"])
    assert len(found) == 12 and found.interval_days.min() > 1460
    assert set(found.reason) == {"interval_too_long"} and np.isnan(found.face_aging_rate).all()


# Many people at once


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 40, 200])
@pytest.mark.parametrize("mode", ["slope", "replicate"])
def test_many_people_at_once_have_the_rates_that_each_has_alone(rows, mode):
    prior = {"mid": {"mean": 1.0, "variance": 0.3}, "long": {"mean": 0.9, "variance": 0.1}}
    for seed in range(3):
        ages, days, people = spread(np.random.default_rng(seed), rows)
        found = aging_rates(ages, days, people, repeatability_sd=2.0, prior=prior, mode=mode)
        dated = ~np.isnat(days)
        several = [each for each in dict.fromkeys(people.tolist()) if (dated & (people == each)).sum() >= 2]
        assert people[found.first].tolist() == several
        for number, each in enumerate(several):
            mine = np.flatnonzero(dated & (people == each))
            assert found.first[number] == mine[0]
            known = mine[~np.isnan(ages[mine])]
            if len(np.unique(days[known])) < 2:
                assert found[number].reason == ("same_day" if len(np.unique(days[mine])) == 1 else "rejected_photo")
                continue
            rows_in_time = known[np.argsort(days[known], kind="stable")]
            alone = face_aging_rate(
                ages[rows_in_time], days[rows_in_time], repeatability_sd=2.0, prior=prior, mode=mode
            )
            assert found[number] == alone


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.permutations(range(60)))
def test_the_order_of_the_rows_changes_no_bit(order):
    def told(rows: list[int]) -> dict[int, object]:
        found = aging_rates(ages[rows], days[rows], people[rows])
        return {int(people[rows][first]): found[number] for number, first in enumerate(found.first)}

    ages, days, people = spread(np.random.default_rng(7), 60)
    assert told(order) == told(list(range(60)))


def test_who_was_20_or_younger_at_the_first_photo_has_no_rate():
    days = after(0, 730)
    for ages, young in (
        ([20.0, 21.99], True), ([20.01, 22.0], False), ([None, 22.0], False), ([None, 21.9], True),
        ([None, None], False), ([20.5, 19.0], False),  # the age at the first photo, where it is known
    ):  # fmt: skip
        found = aging_rates([30.0, 32.0], days, ["a", "a"], age=ages)
        assert (found[0].reason == "age_20_or_less") == young, ages


def test_two_models_give_no_rate_but_a_model_of_a_rejected_photo_does_not_count():
    days = after(0, 400, 800)
    for models, values, reason in (
        (["x", "x", "y"], [60.0, 61.0, 62.0], "other_model"),
        (["x", "x", None], [60.0, 61.0, 62.0], None),
        (["x", "x", "y"], [60.0, 61.0, np.nan], None),
        (["x", "x", "x"], [60.0, 61.0, 62.0], None),
    ):
        assert aging_rates(values, days, ["a"] * 3, model=models)[0].reason == reason


def test_the_gravest_reason_is_told():
    def told(days: list[int], values: list[float], **more: object) -> object:
        return aging_rates(values, after(*days), ["a"] * len(days), **more)[0].reason

    young = {"age": [18.0, 18.0], "model": ["x", "y"]}
    assert told([0, 0], [50.0, np.nan], **young) == "same_day"
    assert told([0, 5], [50.0, np.nan], **young) == "rejected_photo"
    assert told([0, 5], [50.0, 50.0], **young) == "other_model"
    assert told([0, 5], [50.0, 50.0], age=[18.0, 18.0]) == "age_20_or_less"
    assert told([0, 5], [50.0, 50.0]) == "interval_too_short"


def test_the_same_bytes_twice_are_one_photo_and_under_two_days_none():
    values, days = [60.0, 60.0, 70.0, 66.0], after(0, 0, 0, 500)
    once = aging_rates(values, days, ["a"] * 4, source=["x", "x", "y", "z"])[0]
    assert once.face_aging_rate == (66.0 - 65.0) / (500 / 365.25)
    assert aging_rates(values, days, ["a"] * 4, source=[None] * 4)[0].face_aging_rate == 6.0 / (500 / 365.25)
    assert aging_rates([60.0, 60.0], after(0, 500), ["a"] * 2, source=["x", "x"])[0].reason == "rejected_photo"
    third = aging_rates([60.0, 60.0, 64.0, 65.0], after(0, 500, 100, 600), ["a"] * 4, source=["x", "x", "y", None])[0]
    assert third.face_aging_rate == 1.0 / (500 / 365.25) and third.first_taken_on == after(100)[0]
    assert (
        aging_rates([60.0, 61.0] * 2, after(0, 500) * 2, ["a", "a", "b", "b"], source=["x", "y"] * 2)[1].reason is None
    )


def test_tables_of_all_kinds_say_the_same():
    ages, days, people = [60.0, None, 62.0, 63.0], [*after(0, 400), None, after(800)[0]], ["a", "a", "a", "a"]
    wanted = aging_rates(ages, days, people)[0]
    assert wanted.face_aging_rate == 3.0 / (800 / 365.25)
    for kind in (pa.array, pd.Series, lambda given: pa.chunked_array([pa.array(given)])):
        assert aging_rates(kind(ages), kind(days), kind(people))[0] == wanted


# What cannot be


@pytest.mark.parametrize(
    ("ages", "dates", "told"),
    [
        ([60.0], ["2020-01-01"], "1 photos: a rate needs at least 2, of different days"),
        ([], [], "0 photos"),
        ([60.0, 61.0], ["2020-01-01", None], r"dates: row 1 is unknown \(NaT\). Give the day"),
        ([60.0, 61.0], ["2021-01-01", "2020-01-01"], r"row 1 lies before .* \(2020-01-01\).*oldest to the newest"),
        ([60.0, np.nan], ["2020-01-01", "2021-01-01"], "face_ages: row 1 is unknown"),
        ([60.0, np.inf], ["2020-01-01", "2021-01-01"], "row 1 is infinite"),
        ([60.0, 61.0], ["2020-01", "2021-01"], "not every one is a day"),
        ([60.0, 61.0], ["2020-01-01"], "dates: has 1 values for 2 photos"),
        (["old", "older"], ["2020-01-01", "2021-01-01"], "not every value is a number"),
    ],
)
def test_photos_that_give_no_rate_are_refused_with_the_remedy(ages, dates, told):
    with pytest.raises(Refused, match=told):
        face_aging_rate(ages, dates)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"repeatability_sd": 0.0}, "repeatability_sd: 0.0 must be finite and above 0"),
        ({"repeatability_sd": np.nan}, "repeatability_sd: nan"),
        ({"prior": {"mid": {"mean": 1.0, "variance": 0.2}}}, "prior: shrinks by the standard error.*Give both"),
        ({"repeatability_sd": 2.0, "prior": {"middle": {"mean": 1.0, "variance": 0.2}}}, "band 'middle'; there are"),
        ({"repeatability_sd": 2.0, "prior": {"mid": {"mean": 1.0}}}, "variance nan"),
        ({"repeatability_sd": 2.0, "prior": {"mid": {"mean": 1.0, "variance": -0.1}}}, "variance -0.1"),
        ({"repeatability_sd": 2.0, "prior": 0.2}, "prior: is 0.2"),
        ({"mode": "widest"}, "mode: 'widest' must be one of slope, replicate"),
    ],
)
def test_options_that_mean_nothing_are_refused(more, told):
    with pytest.raises(Refused, match=told):
        face_aging_rate([60.0, 61.0], after(0, 400), **more)


def test_corrected_face_ages_have_been_told_the_calendar_and_are_refused():
    corrected = correct([60.0, 61.0], [55.0, 57.0], CORRECTION)
    with pytest.raises(Refused, match="corrected already"):
        face_aging_rate(corrected, after(0, 730))
