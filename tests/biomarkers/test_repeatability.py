"""ICC(2,1) against the worked example that everybody knows and an analysis of variance in plain loops; the SD of
repeats against planted ones; what is no repeat."""

from datetime import date, timedelta

import numpy as np
import pytest
from scipy import stats

from fahr.biomarkers import agreement, correct, fit_repeatability
from fahr.errors import Refused

# Table 2 of Shrout and Fleiss 1979 (Psychol Bull 86:420): 6 targets by 4 judges
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
DAY = date(2021, 3, 4)


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Rows, columns, residual: every cell visited."""
    n, k = table.shape
    grand = sum(table[i, j] for i in range(n) for j in range(k)) / (n * k)
    row = [sum(table[i]) / k for i in range(n)]
    column = [sum(table[:, j]) / n for j in range(k)]
    left = sum((table[i, j] - row[i] - column[j] + grand) ** 2 for i in range(n) for j in range(k))
    return (
        sum(k * (each - grand) ** 2 for each in row) / (n - 1),
        sum(n * (each - grand) ** 2 for each in column) / (k - 1),
        left / ((n - 1) * (k - 1)),
    )


def test_the_worked_example_of_shrout_and_fleiss_to_its_printed_digits():
    found = agreement(SHROUT_FLEISS)
    assert [round(each, 2) for each in mean_squares(np.array(SHROUT_FLEISS, float))] == [11.24, 32.49, 1.02]
    assert round(found.icc, 2) == 0.29  # as printed for ICC(2,1)
    assert (round(found.icc_low, 2), round(found.icc_high, 2)) == (0.02, 0.76)
    assert (found.people, found.repeats) == (6, 4)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (10, 2), (40, 4)])
def test_icc_and_error_of_measurement_equal_an_analysis_of_variance_in_plain_loops(shape):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        table = rng.normal(60, 9, (shape[0], 1)) + rng.normal(0, 2, (1, shape[1])) + rng.normal(0, 3, shape)
        n, k = shape
        rows, columns, left = mean_squares(table)
        found = agreement(table)
        assert found.icc == pytest.approx((rows - left) / (rows + (k - 1) * left + k * (columns - left) / n))
        assert found.sem_years == pytest.approx(np.sqrt(max(0.0, (columns - left) / n) + left))
        assert found.minimal_detectable_change_years == pytest.approx(1.959964 * np.sqrt(2) * found.sem_years)
        assert found.icc_low <= found.icc <= found.icc_high


def test_the_interval_of_the_icc_holds_the_true_one_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    true = 25 / (25 + 1 + 4)
    held = 0
    for _ in range(400):
        table = rng.normal(0, 5, (30, 1)) + rng.normal(0, 1, (1, 4)) + rng.normal(0, 2, (30, 4))
        found = agreement(table)
        held += found.icc_low <= true <= found.icc_high
    assert 0.91 <= held / 400 <= 0.98


def test_a_camera_that_reads_everybody_older_is_disagreement():
    ages = np.random.default_rng(1).normal(60, 8, 50)
    same = agreement(np.stack([ages, ages], axis=1))
    assert (same.icc, same.icc_low, same.icc_high, same.sem_years) == (1, 1, 1, 0)
    shifted = agreement(np.stack([ages, ages + 6], axis=1))
    assert shifted.icc < 0.85 and shifted.sem_years == pytest.approx(np.sqrt(18))  # the variance of 0 and 6


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([[60.0, 61.0]], r"shape \(1, 2\).*at least 2 people with 2 photos"),
        ([[60.0], [61.0]], r"shape \(2, 1\)"),
        ([60.0, 61.0], r"shape \(2,\)"),
        ([[60.0, 61.0], [62.0, np.nan]], "person 1 has no photo 1"),
        ([[60.0, 60.0], [60.0, 60.0]], "60 everywhere: nobody differs"),
    ],
)
def test_a_table_without_people_or_repeats_is_refused(table, told):
    with pytest.raises(Refused, match=told):
        agreement(table)


# Photos of a cohort


def cohort(people: int, seed: int = 0, sd: float = 2.0) -> tuple[np.ndarray, list[str], list[date | None]]:
    """Visits of one, two or three photos, some photos undated; the SD is planted."""
    rng = np.random.default_rng(seed)
    ages, subjects, days = [], list[str](), list[date | None]()
    for person in range(people):
        for visit in range(int(rng.integers(1, 4))):
            today = rng.normal(60, 9)  # another day is another face: what differs between days must not count
            for _ in range(int(rng.integers(1, 4))):
                ages.append(today + sd * rng.normal())
                subjects.append(f"s{person}")
                days.append(None if rng.random() < 0.1 else DAY + timedelta(100 * visit))
    return np.array(ages), subjects, days


def test_the_sd_is_pooled_within_days_as_a_plain_loop_finds_it():
    ages, subjects, days = cohort(40)
    ages[::17] = np.nan
    visits: dict[object, list[float]] = {}
    for age, subject, day in zip(ages, subjects, days, strict=True):
        if day is not None and not np.isnan(age):
            visits.setdefault((subject, day), []).append(age)
    repeats = {key: values for key, values in visits.items() if len(values) > 1}
    squares = sum((len(values) - 1) * np.var(values, ddof=1) for values in repeats.values())
    free = sum(len(values) - 1 for values in repeats.values())
    found = fit_repeatability(ages, subjects, days)
    assert found.sd_years == pytest.approx(np.sqrt(squares / free), rel=1e-12)
    assert found.visits == len(repeats) and found.photos == sum(map(len, repeats.values()))
    assert found.people == len({subject for subject, _ in repeats})
    assert found.minimal_detectable_change_years == pytest.approx(2.7718 * found.sd_years, rel=1e-4)
    order = np.random.default_rng(1).permutation(len(ages))
    moved = fit_repeatability(ages[order], np.array(subjects)[order], np.array(days, object)[order])
    assert moved.to_config() == pytest.approx(found.to_config(), rel=1e-12)


def test_a_planted_sd_is_found_and_its_interval_holds_it():
    found = fit_repeatability(*cohort(3_000, sd=2.0))
    assert found.sd_years == pytest.approx(2.0, abs=0.08)
    for spread, least in ((0.0, 0.92), (0.4, 0.87)):  # all faces repeat alike; some much worse than others
        true = 2.0 * np.exp(spread**2)
        held = 0
        for seed in range(150):
            rng = np.random.default_rng(seed)
            own = 2.0 * np.exp(spread * rng.normal(size=(60, 1)))
            table = rng.normal(60, 9, (60, 1)) + own * rng.normal(size=(60, 2))
            got = fit_repeatability(table.ravel(), np.repeat(np.arange(60), 2), [DAY] * 120)
            assert got.low < got.sd_years < got.high
            held += got.low <= true <= got.high
        assert held / 150 >= least, spread


def test_where_all_faces_repeat_alike_the_interval_is_that_of_chi_squared():
    # squares of each person the same: no scatter beyond what one SD explains
    table = 60 + np.arange(20.0)[:, None] + np.array([[-1.5, 1.5]])
    found = fit_repeatability(table.ravel(), np.repeat(np.arange(20), 2), [DAY] * 40)
    wanted = [found.sd_years * np.sqrt(20 / stats.chi2.ppf(share, 20)) for share in (0.975, 0.025)]
    assert [found.low, found.high] == pytest.approx(wanted)
    assert found.sd_years == pytest.approx(1.5 * np.sqrt(2))


def test_the_agreement_is_of_two_photos_of_each_person():
    rng = np.random.default_rng(3)
    table = rng.normal(60, 9, (25, 1)) + rng.normal(0, 2, (25, 3))
    found = fit_repeatability(table.ravel(), np.repeat(np.arange(25), 3), [DAY] * 75)
    assert found.agreement == agreement(table[:, :2])


def test_copies_of_a_photo_are_no_repeats():
    ages, subjects, days = cohort(60)
    names = np.arange(len(ages)).astype(str)
    doubled = fit_repeatability(np.r_[ages, ages], subjects * 2, days * 2, source=np.r_[names, names])
    assert doubled == fit_repeatability(ages, subjects, days)
    assert fit_repeatability(np.r_[ages, ages], subjects * 2, days * 2).sd_years < 0.8 * doubled.sd_years


@pytest.mark.parametrize(
    ("ages", "people", "told"),
    [
        (np.arange(18.0), 9, "9 people with two photos of one day: at least 10.*same subject_id and taken_on"),
        (np.full(40, 61.0), 20, "the same in all repeats. Copies"),
        (np.full(40, np.nan), 20, "0 people with two photos"),
        ([], 0, "0 people"),
    ],
)
def test_too_few_repeats_are_refused(ages, people, told):
    with pytest.raises(Refused, match=told):
        fit_repeatability(ages, np.repeat(np.arange(people), 2), np.full(2 * people, "2021-03-04"))


def test_corrected_face_ages_are_refused():
    line = {"intercept": 1.0, "slope": -0.2, "centre": 50.0, "n": 40.0, "people": 40.0, "low_age": 20, "high_age": 90}
    with pytest.raises(Refused, match="corrected already"):
        fit_repeatability(correct([60.0] * 20, [50.0] * 20, line), np.repeat(range(10), 2), [DAY] * 20)
