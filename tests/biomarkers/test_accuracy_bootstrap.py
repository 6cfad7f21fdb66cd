"""Intervals of an age model's errors, against a loop that resamples rows with the same draws."""

import dataclasses

import numpy as np
import pytest

from biomarkers.accuracy_oracle import counted_bins, measures, sample
from fahr.biomarkers import age_accuracy
from fahr.biomarkers import resample as engine
from fahr.biomarkers.resample import make_layer, resample
from fahr.survival.plain import draw


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    monkeypatch.setenv("FAHR_NO_NUMBA", "1" if request.param == "plain" else "0")
    return request.param


def codes(subject):
    """Numbers from 0 in the order of appearance, as draws count people."""
    seen = {}
    return np.array([seen.setdefault(each, len(seen)) for each in subject])


def drawn_rows(code, seed, number):
    """Everybody's rows as often as he or she was drawn."""
    return np.repeat(np.arange(len(code)), draw(seed, number, int(code.max()) + 1).astype(int)[code])


def percentiles(values):
    there = [each for each in values if np.isfinite(each)]
    return np.quantile(there, [0.025, 0.975]).tolist() if len(there) >= 0.9 * len(values) else [None, None]


def ends(told):
    return [told.low, told.high]


@pytest.mark.parametrize(
    ("n", "people", "whole_years"), [(40, 40, True), (150, 30, False), (150, 30, True), (90, 12, True)]
)
def test_intervals_are_those_of_resampled_rows(way, n, people, whole_years):
    """People with many photos, tied ages, and resamples without anybody of some decade."""
    age, face_age, subject = sample(n, people, 7, whole_years=whole_years)
    counted = counted_bins(age)
    found = age_accuracy(age, face_age, subjects=subject, bootstraps=60, seed=5)
    slow = [
        measures(age[rows], face_age[rows], counted) for rows in (drawn_rows(codes(subject), 5, k) for k in range(60))
    ]
    for each in dataclasses.fields(found.errors):
        expected = percentiles([one[each.name] for one in slow])
        assert ends(getattr(found.errors, each.name)) == pytest.approx(expected, abs=1e-9), each.name


def test_intervals_of_bands_and_groups_are_those_of_resampled_rows(way):
    age, face_age, subject = sample(300, 90, 8)
    rng = np.random.default_rng(8)
    sex = np.array(["f", "m", None], object)[rng.integers(0, 3, 90)][subject]
    found = age_accuracy(age, face_age, subjects=subject, groups={"sex": sex}, bootstraps=20, seed=2**63 - 1)
    draws = [drawn_rows(codes(subject), 2**63 - 1, k) for k in range(20)]
    parts = [(band, (age >= band.first_year) & (age < band.last_year + 1)) for band in found.bands]
    parts += [(cell, np.array([each == cell.labels[0] for each in sex])) for cell in found.groups]
    compared = 0
    for told, inside in parts:
        slow = [measures(age[some], face_age[some]) for some in (rows[inside[rows]] for rows in draws) if len(some)]
        assert len(slow) == 20
        for name in {"mae", "bias", "slope"} & {each.name for each in dataclasses.fields(told)}:
            assert ends(getattr(told, name)) == pytest.approx(percentiles([one[name] for one in slow]), abs=1e-9)
            compared += 1
    assert compared > 15


def test_means_of_coverage_width_and_epsilon_are_resampled_with_their_photos(way):
    age, face_age, subject = sample(200, 60, 9)
    rng = np.random.default_rng(9)
    low, high, sd = face_age - rng.uniform(1, 9, 200), face_age + rng.uniform(1, 9, 200), rng.uniform(2, 8, 200)
    found = age_accuracy(
        age, face_age, subjects=subject, low=low, high=high, apparent=(age - 1, sd), bootstraps=40, seed=3
    )
    rows = [drawn_rows(codes(subject), 3, k) for k in range(40)]
    epsilon = 1 - np.exp(-((face_age - age + 1) ** 2) / (2 * sd**2))
    for told, photo in (
        (found.coverage, (low <= age) & (age <= high)),
        (found.width, high - low),
        (found.epsilon_error, epsilon),
    ):
        assert ends(told) == pytest.approx(percentiles([photo[each].mean() for each in rows]), abs=1e-9)


def test_the_largest_gap_is_told_with_a_simultaneous_interval(way):
    age, face_age, subject = sample(240, 120, 10)
    race = np.array(["a", "b", "c", "d"])[subject % 4]
    face_age = face_age + 2.0 * (race == "c") * np.sign(face_age - age)
    found = age_accuracy(age, face_age, subjects=subject, groups={"race": race}, bootstraps=60, seed=4)

    def errors(rows):
        return np.array([np.abs(face_age - age)[rows][race[rows] == each].mean() for each in "abcd"])

    sample_errors = errors(np.arange(240))
    moved = [errors(drawn_rows(codes(subject), 4, k)) - sample_errors for k in range(60)]
    most = np.quantile([each.max() - each.min() for each in moved], 0.95)
    (gap,) = found.gaps
    assert gap.worst == ("c",) and gap.best == ("abcd"[sample_errors.argmin()],)
    assert gap.gap.value == pytest.approx(np.ptp(sample_errors))
    assert ends(gap.gap) == pytest.approx([gap.gap.value - most, gap.gap.value + most], abs=1e-9)


def test_threads_change_nothing_to_the_bit_and_neither_does_the_number_of_resamples(way):
    rng = np.random.default_rng(0)
    cell, person, columns = rng.integers(0, 5, 5000), rng.integers(0, 900, 5000), rng.normal(size=(7, 5000))
    layers = [make_layer(cell, person, columns), make_layer(np.zeros(5000, int), person, columns[:3])]
    one = resample(layers, people=900, samples=83, seed=1, threads=1)
    for threads in (2, 3, 50):
        other = resample(layers, people=900, samples=83, seed=1, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    fewer = resample(layers, people=900, samples=21, seed=1, threads=2)
    assert all(np.array_equal(a[:21], b) for a, b in zip(one, fewer, strict=True))
    assert one[0].shape == (83, 5, 7) and one[1].shape == (83, 1, 3)


def test_sums_of_a_resample_are_counts_times_rows(way):
    """More entries than a block holds, cells of one row, and people who are in several cells."""
    rng = np.random.default_rng(1)
    cell = np.concatenate([rng.integers(0, 3, 4000), [3]])
    person, columns = np.concatenate([rng.integers(0, 2500, 4000), [2500]]), rng.normal(size=(4, 4001))
    (found,) = resample([make_layer(cell, person, columns)], people=2501, samples=11, seed=9)
    for number in range(11):
        counts = draw(9, number, 2501)[person]
        expected = [[(counts * column)[cell == each].sum() for column in columns] for each in range(4)]
        np.testing.assert_allclose(found[number], expected, rtol=0, atol=1e-10)


def test_compiled_and_plain_find_the_same(monkeypatch):
    age, face_age, subject = sample(3000, 1100, 11)
    found = []
    for switch in ("0", "1"):
        monkeypatch.setenv("FAHR_NO_NUMBA", switch)
        told = age_accuracy(age, face_age, subjects=subject, bootstraps=30, seed=6).to_json()["errors"]
        found.append([number for each in told.values() for number in each.values()])
    assert engine._way().__name__ == "fahr.biomarkers.resample_plain"
    assert found[0] == pytest.approx(found[1], abs=1e-11)


def test_the_order_of_a_persons_rows_does_not_matter():
    age, face_age, subject = sample(500, 80, 12)
    subject = np.sort(subject)
    other = np.concatenate([np.flatnonzero(subject == each)[::-1] for each in np.unique(subject)])
    one = age_accuracy(age, face_age, subjects=subject, bootstraps=24).to_json()["errors"]
    two = age_accuracy(age[other], face_age[other], subjects=subject[other], bootstraps=24).to_json()["errors"]
    for name in one:
        assert list(one[name].values()) == pytest.approx(list(two[name].values()), abs=1e-10)


def test_fewer_than_ten_people_have_no_interval_however_many_photos_they_have():
    age, face_age, _ = sample(400, 400, 13)
    nine = age_accuracy(age, face_age, subjects=np.arange(400) % 9, bootstraps=20)
    assert nine.errors.mae.value and nine.errors.mae.low is None
    ten = age_accuracy(age, face_age, subjects=np.arange(400) % 10, bootstraps=20)
    assert ten.errors.mae.low is not None
    assert age_accuracy(age, face_age, bootstraps=0).errors.mae.low is None


def test_what_many_resamples_leave_undefined_has_no_interval():
    """One of 40 people is of another age: a third of the resamples have one age only, and no slope."""
    age = np.array([60.0] * 39 + [30.0])
    found = age_accuracy(age, age + np.linspace(-3, 3, 40), bootstraps=300)
    assert found.errors.slope.value is not None and ends(found.errors.slope) == [None, None]
    assert found.errors.mae.low is not None


def test_intervals_hold_the_truth_as_often_as_they_promise_when_people_have_many_photos():
    """Errors that a person keeps: drawing people holds 95 %, drawing photos pretends to know more than there is."""
    truth = np.sqrt(2 / np.pi) * np.sqrt(4.0**2 + 2.0**2)
    rng = np.random.default_rng(14)
    held = {"people": 0, "photos": 0, "bias": 0}
    for number in range(250):
        subject = np.repeat(np.arange(60), rng.integers(1, 10, 60))
        age = rng.uniform(20, 90, 60)[subject]
        face_age = age + rng.normal(0, 4, 60)[subject] + rng.normal(0, 2, len(subject))
        whole = age_accuracy(age, face_age, subjects=subject, bootstraps=100, seed=number, threads=1).errors
        apart = age_accuracy(age, face_age, bootstraps=100, seed=number, threads=1).errors
        held["people"] += whole.mae.low <= truth <= whole.mae.high
        held["bias"] += whole.bias.low <= 0 <= whole.bias.high
        held["photos"] += apart.mae.low <= truth <= apart.mae.high
    # binomial error 1.4 points; a percentile interval of 60 people is a little short
    assert 0.89 <= held["people"] / 250 <= 0.975 and 0.89 <= held["bias"] / 250 <= 0.975
    assert held["photos"] / 250 < 0.75


def test_the_gap_of_groups_that_do_not_differ_includes_zero():
    rng = np.random.default_rng(15)
    held = 0
    for number in range(150):
        age = rng.uniform(20, 90, 240)
        face_age, site = age + rng.normal(0, 5, 240), rng.integers(0, 6, 240)
        (gap,) = age_accuracy(age, face_age, groups={"site": site}, bootstraps=100, seed=number, threads=1).gaps
        held += gap.gap.low <= 0
    assert 0.90 <= held / 150 <= 1
