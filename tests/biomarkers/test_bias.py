"""The line against ordinary least squares and a planted truth; and a correction that cannot be made twice."""

import copy
import pickle

import numpy as np
import pytest
from scipy.stats import linregress

from fahr.biomarkers import (
    Corrected,
    correct,
    face_age_deviation,
    fit_bias,
    fit_conformal,
    intervals,
    outside_fit,
    visit_medians,
)
from fahr.errors import Refused


def sample(seed, people=400, photos=1, slope=-0.3):
    """Ages 20 to 80, errors of 1.5 years plus `slope` a year around 50, noise of 4; photos of a person at near ages."""
    rng = np.random.default_rng(seed)
    number = rng.integers(1, photos + 1, people)
    subject = np.repeat(np.arange(people), number)
    age = rng.uniform(20, 78, people)[subject] + rng.uniform(0, 2, len(subject))
    noise = rng.normal(0, 3, people)[subject] + rng.normal(0, 2.6, len(subject))
    return age + 1.5 + slope * (age - 50) + noise, age, subject


def test_one_photo_a_person_gives_ordinary_least_squares():
    face_age, age, subject = sample(1)
    line = fit_bias(face_age, age, subject)
    found = linregress(age, face_age - age)
    assert line["slope"] == pytest.approx(found.slope, rel=1e-9)
    assert line["intercept"] - line["slope"] * line["centre"] == pytest.approx(found.intercept, rel=1e-9)
    assert line == fit_bias(face_age, age)
    assert line["centre"] == pytest.approx(age.mean())
    assert (line["n"], line["people"], line["low_age"], line["high_age"]) == (400, 400, age.min(), age.max())


def test_several_photos_a_person_give_least_squares_in_which_everybody_weighs_the_same():
    face_age, age, subject = sample(2, photos=9)
    line = fit_bias(face_age, age, subject)
    root = np.sqrt(1 / np.bincount(subject)[subject])
    columns = np.stack([np.ones_like(age), age - line["centre"]], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(columns * root[:, None], (face_age - age) * root, rcond=None)
    assert [line["intercept"], line["slope"]] == pytest.approx([intercept, slope], rel=1e-9)
    assert (line["n"], line["people"]) == (len(age), 400)


def test_photos_repeated_for_half_of_the_people_move_the_line_only_where_people_are_not_told():
    face_age, age, subject = sample(3)
    rows = np.concatenate([np.arange(400), np.repeat(np.flatnonzero(face_age > age), 30)])
    once, repeated = fit_bias(face_age, age, subject), fit_bias(face_age[rows], age[rows], subject[rows])
    assert repeated["intercept"] == pytest.approx(once["intercept"]) and repeated["slope"] == pytest.approx(
        once["slope"]
    )
    assert fit_bias(face_age[rows], age[rows])["intercept"] > once["intercept"] + 1


def test_the_order_of_the_rows_changes_no_bit_of_the_line():
    face_age, age, subject = sample(4, photos=5)
    line = fit_bias(face_age, age, subject)
    rng = np.random.default_rng(5)
    for _ in range(20):
        rows = rng.permutation(len(age))
        assert fit_bias(face_age[rows], age[rows], subject[rows].astype(str)) == line


def test_a_planted_slope_is_recovered_within_its_error_and_other_people_lose_it():
    slopes = []
    for seed in range(200):
        face_age, age, subject = sample(seed, slope=-0.3)
        line = fit_bias(face_age, age, subject)
        slopes.append(line["slope"])
    spread = np.std(slopes, ddof=1)
    assert abs(np.mean(slopes) + 0.3) < 4 * spread / np.sqrt(200)
    assert spread == pytest.approx(3.97 / (58 / np.sqrt(12) * 20), rel=0.2)  # sd of noise / (sd of age x root n)
    face_age, age, _ = sample(1_000, people=20_000, slope=-0.3)
    left = linregress(age, face_age_deviation(correct(face_age, age, line), age))
    assert abs(left.slope) < 4 * spread and abs(left.slope) < 0.1 * abs(linregress(age, face_age - age).slope)


def test_after_the_correction_the_fitted_people_deviate_by_nothing_on_average_at_any_age():
    face_age, age, subject = sample(6, photos=4)
    line = fit_bias(face_age, age, subject)
    adjusted = face_age_deviation(correct(face_age, age, line), age)
    weights = 1 / np.bincount(subject)[subject]
    assert abs(weights @ adjusted) < 1e-8 and abs(weights @ (adjusted * age)) < 1e-6
    assert fit_bias(adjusted + age, age, subject)["slope"] == pytest.approx(0, abs=1e-12)


def test_a_model_that_sees_nothing_looks_perfect_once_corrected_so_corrected_errors_prove_nothing():
    age = np.random.default_rng(7).uniform(20, 90, 500)
    blind = np.full(500, 55.0)
    corrected = correct(blind, age, fit_bias(blind, age))
    assert np.abs(face_age_deviation(blind, age)).mean() > 15
    assert np.abs(face_age_deviation(corrected, age)).max() < 1e-9


def test_face_ages_are_never_corrected_twice():
    face_age, age, subject = sample(8, photos=3)
    line = fit_bias(face_age, age, subject)
    corrected = correct(face_age, age, line)
    days = np.full(len(age), "2026-01-01", "datetime64[D]")
    kept = [corrected, corrected[:40], corrected[subject < 40], corrected.copy(), copy.deepcopy(corrected)]
    kept += [pickle.loads(pickle.dumps(corrected)), visit_medians(corrected, subject, days).medians]
    for again in kept:
        assert isinstance(again, Corrected)
        ages = age[: len(again)]
        for asked in (correct, fit_bias, fit_conformal, intervals):
            rest = {correct: (ages, line), intervals: ({},)}.get(asked, (ages,))
            with pytest.raises(Refused, match="were corrected already"):
                asked(again, *rest)


def test_what_is_computed_of_corrected_face_ages_is_plain():
    face_age, age, _ = sample(9)
    corrected = correct(face_age, age, fit_bias(face_age, age))
    for plain in (corrected - age, corrected > 60, face_age_deviation(corrected, age)):
        assert type(plain) is np.ndarray
    assert type(corrected.mean()) is np.float64
    assert (corrected - age).tolist() == face_age_deviation(corrected, age).tolist()


def test_the_correction_commutes_with_the_median_of_a_visit():
    face_age, age, subject = sample(10, photos=6)
    age = age[np.searchsorted(subject, subject)]  # one visit, one age
    line = fit_bias(face_age, age, subject)
    days = np.full(len(age), "2026-01-01", "datetime64[D]")
    visits = visit_medians(face_age, subject, days)
    first = correct(visits.medians, age[visits.first], line)
    last = visit_medians(correct(face_age, age, line), subject, days).medians
    assert np.asarray(first) == pytest.approx(np.asarray(last), abs=1e-9)


def test_an_unknown_age_or_face_age_is_not_corrected():
    face_age, age, _ = sample(11)
    line = fit_bias(face_age, age)
    found = correct([60.0, np.nan, 60.0, 60.0], [60.0, 60.0, np.nan, None], line)
    assert np.isnan(found).tolist() == [False, True, True, True]


def test_the_line_is_not_prolonged_beyond_the_ages_that_drew_it():
    face_age, age, _ = sample(12)
    line = fit_bias(face_age, age)
    asked = [1.0, line["low_age"], 50.0, line["high_age"], 104.0, np.nan]
    added = np.asarray(correct([50.0] * 6, asked, line)) - 50.0
    assert added[0] == added[1] and added[3] == added[4] and added[1] < added[2] < added[3]
    assert outside_fit(asked, line).tolist() == [True, False, False, False, True, False]


AGES = np.linspace(20, 80, 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((AGES[:29], AGES[:29]), "29 people to fit the bias of face age: at least 30"),
        (([], []), "0 people to fit"),
        ((AGES, AGES, np.arange(40) // 2), "20 people to fit"),
        ((AGES, np.full(40, 61.0)), "all from 61 to 61 years, which shows no slope"),
        ((AGES, 61 + AGES / 100), "shows no slope"),
        ((AGES, np.where(AGES > 79, np.nan, AGES)), "age: row 39 is unknown .*Leave the row out"),
        ((np.where(AGES > 79, np.nan, AGES), AGES), "face_age: row 39 is unknown"),
        ((AGES, AGES[:-1]), "age: has 39 values for 40 photos"),
        ((AGES, AGES, ["a"] * 39), "subjects: has 39 values for 40 photos"),
        ((AGES, AGES, ["a"] * 39 + [None]), "subjects: row 39 is missing"),
    ],
)
def test_too_few_people_too_few_ages_and_unknown_rows_draw_no_line(arguments, message):
    with pytest.raises(Refused, match=message):
        fit_bias(*arguments)


def test_thirty_people_one_year_apart_do():
    assert fit_bias(AGES[:30], np.linspace(60, 61, 30))["people"] == 30


@pytest.mark.parametrize("correction", [{}, {"slope": 0.1, "intercept": 1.0}, {"slope": float("nan")}])
def test_a_correction_that_is_not_whole_is_refused_before_it_is_used(correction):
    for asked in (lambda: correct([60.0], [60.0], correction), lambda: outside_fit([60.0], correction)):
        with pytest.raises(Refused, match="correction: has no .*bias_correction of the checkpoint"):
            asked()
