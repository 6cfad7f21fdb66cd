"""Intervals against the law that split conformal obeys, a plain loop over sorted lists, and people they could fail."""

import re
from collections import Counter
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import betabinom, binom, kstest

from fahr.biomarkers import correct, fit_bias, fit_conformal, intervals, intervals_source, visit_medians
from fahr.biomarkers.conformal import half_width, one_photo_each
from fahr.cohorts import split_of
from fahr.errors import Refused
from fahr.models.architecture import Architecture
from fahr.models.checkpoints.config import make_config, read_config

SIMULATIONS = 200


def adults(rng, n):
    """Errors that grow with age, are half as large again in men, and regress to the mean."""
    return _faces(rng, rng.uniform(30, 80, n))


def hospital(rng, n):
    """Few are young, few are very old, and these are the hardest to read."""
    return _faces(rng, np.clip(rng.normal(58, 16, n), 1, 100))


def _faces(rng, age):
    sex = np.where(rng.random(len(age)) < 0.45, "male", "female")
    spread = (3 + 0.06 * age) * np.where(sex == "male", 1.3, 0.9) * np.where(age > 85, 1.6, 1)
    return age - 0.15 * (age - 58) + rng.normal(0, spread), age, sex


def simulate(people, seed, n=2_000):
    """Strata of n calibration people; and of n others: the name of their cell, whose width they got, and if it held."""
    rng = np.random.default_rng([seed, n])
    face_age, age, sex = people(rng, n)
    strata = fit_conformal(face_age, age, sex=sex)
    face_age, age, sex = people(rng, n)
    low, high = intervals(face_age, strata, sex=sex)
    decade = np.clip(face_age // 10, 0, 9).astype(int) * 10
    cell = [f"{d}-{d + 9}/{s}" if d < 90 else f"90+/{s}" for d, s in zip(decade.tolist(), sex.tolist(), strict=True)]
    return strata, np.array(cell), intervals_source(face_age, strata, sex=sex), (low <= age) & (age <= high)


@pytest.fixture(scope="module")
def of_adults():
    return [simulate(adults, seed) for seed in range(SIMULATIONS)]


@pytest.fixture(scope="module")
def of_hospitals():
    return [simulate(hospital, seed) for seed in range(SIMULATIONS)]


def test_ninety_percent_of_new_people_are_held(of_adults):
    shares = [held.mean() for *_, held in of_adults]
    print(f"mean coverage {np.mean(shares):.4f} +- {np.std(shares) / np.sqrt(SIMULATIONS):.4f}")
    assert 0.895 <= np.mean(shares) <= 0.906


def test_where_many_strata_are_small_a_little_more_are_held_and_never_less(of_hospitals):
    shares = [held.mean() for *_, held in of_hospitals]
    print(f"mean coverage {np.mean(shares):.4f} +- {np.std(shares) / np.sqrt(SIMULATIONS):.4f}")
    assert 0.9 <= np.mean(shares) <= 0.91


def test_each_full_stratum_holds_as_many_as_the_exact_law_says(of_adults, of_hospitals):
    """Of m new people in a stratum of n, the held ones are beta-binomial (m, k, n + 1 - k), k = ceil(0.9 (n + 1))."""
    outside, places, rng = 0, [], np.random.default_rng(1)
    for strata, cell, source, held in of_adults + of_hospitals:
        for name in np.unique(cell).tolist():
            if name not in strata or strata[name]["n"] < 100:
                continue
            here = cell == name
            assert (source[here] == name).all()
            n, m, count = int(strata[name]["n"]), int(here.sum()), int(held[here].sum())
            k = -(-9 * (n + 1) // 10)
            law = betabinom.pmf(np.arange(m + 1), m, k, n + 1 - k)
            fewer = law[:count].sum()
            outside += fewer + law[count] < 0.005 or fewer > 0.995
            places.append(fewer + rng.random() * law[count])  # uniform if the law is right
    print(f"{outside} of {len(places)} strata outside their 99 % range; {kstest(places, 'uniform')}")
    assert len(places) > 3_000
    assert binom.sf(outside - 1, len(places), 0.01) > 0.001
    assert kstest(places, "uniform").pvalue > 0.001


def test_small_strata_hold_their_ninety_percent_too_where_borrowed_widths_alone_would_not(of_hospitals):
    held_in, people_in, small = Counter(), Counter(), Counter()
    for strata, cell, _, held in of_hospitals:
        for name in np.unique(cell).tolist():
            if name in strata and strata[name]["n"] < 100:
                held_in[name] += held[cell == name].sum()
                people_in[name] += (cell == name).sum()
                small[name] += 1
    often = [name for name in small if small[name] == SIMULATIONS]
    assert {"80-89/male", "90+/male", "20-29/female"} <= set(often)
    for name in often:
        share = held_in[name] / people_in[name]
        print(name, f"{share:.3f} of {people_in[name]:,}")
        assert share > 0.9 - 3 * np.sqrt(0.09 / people_in[name])
    borrowed = [simulate_pooled(seed) for seed in range(50)]
    assert np.mean(borrowed) < 0.6


def simulate_pooled(seed):
    """How many men who look ninety are held by the width of everybody."""
    rng = np.random.default_rng([seed, 7])
    pooled = {"pooled": fit_conformal(*hospital(rng, 2_000)[:2])["pooled"]}
    face_age, age, sex = hospital(rng, 20_000)
    low, high = intervals(face_age, pooled)
    return ((low <= age) & (age <= high))[(face_age >= 90) & (sex == "male")].mean()


def plain_strata(face_age, age, sex, coverage, fewest):
    """The docstring, written as loops over sorted lists."""

    def smallest(rows):
        errors = sorted(abs(age[row] - face_age[row]) for row in rows)
        rank = int((Decimal(len(rows) + 1) * Decimal(coverage)).to_integral_value(ROUND_CEILING))
        return errors[rank - 1] if rank <= len(rows) else None

    everybody = range(len(age))
    found = {"pooled": (len(age), smallest(everybody), 0)}
    for low in range(0, 100, 10):
        top = 10**9 if low == 90 else low + 10
        band = [row for row in everybody if (low <= face_age[row] < top) or (low == 0 and face_age[row] < 0)]
        name = "90+" if low == 90 else f"{low}-{low + 9}"
        groups = {name: band}
        for label in sorted({sex[row] for row in band} - {None}):
            groups[f"{name}/{label}"] = [row for row in band if sex[row] == label]
        for key, rows in groups.items():
            if len(rows) < 10 or smallest(rows) is None:
                continue
            n, width, whose = len(rows), smallest(rows), 0
            lender = found["pooled"] if key == name else found[name]
            if n < fewest and lender[1] > width:
                width, whose = lender[1], 2 if key == name or lender[2] == 2 else 1
            found[key] = (n, width, whose)
    return found


@pytest.mark.parametrize("coverage", ["0.5", "0.8", "0.9", "0.93", "0.95"])
@pytest.mark.parametrize("fewest", [1, 25, 100])
def test_strata_equal_a_plain_loop_over_sorted_errors_full_of_ties(coverage, fewest):
    whose = Counter()
    for seed in range(15):
        rng = np.random.default_rng([seed, fewest])
        n = int(rng.integers(30, 500))
        age = rng.integers(0, 105, n).astype(float)
        face_age = age + rng.integers(-12, 13, n) * rng.choice([0.5, 1, 2], n)
        sex = rng.choice(np.array(["female", "male", None], object), n, p=[0.5, 0.4, 0.1])
        found = fit_conformal(face_age, age, sex=sex, coverage=float(coverage), fewest=fewest)
        expected = plain_strata(face_age.tolist(), age.tolist(), sex.tolist(), coverage, fewest)
        assert {name: (each["n"], each["half_width"], each["fallback"]) for name, each in found.items()} == expected
        assert {each["coverage"] for each in found.values()} == {float(coverage)}
        whose.update(each["fallback"] for each in found.values())
    assert set(whose) == ({0.0} if fewest == 1 else {0.0, 1.0, 2.0})


def test_the_rank_is_that_of_exact_decimals_for_every_size():
    for percent in range(1, 100):
        for n in range(1, 130):
            rank = -(-percent * (n + 1) // 100)
            if rank <= n:
                assert half_width(np.arange(1, n + 1)[::-1], percent / 100) == rank


def test_fewer_people_than_the_coverage_needs_are_refused():
    shown, age = np.full(199, 50.0), np.arange(199) % 90
    for coverage, needed in ((0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.995, 199)):
        with pytest.raises(Refused, match=f"{needed - 1} people .* at least {needed} are needed"):
            fit_conformal(shown[: needed - 1], age[: needed - 1], coverage=coverage)
        width = fit_conformal(shown[:needed], age[:needed], coverage=coverage)["pooled"]["half_width"]
        assert width == np.abs(shown - age)[:needed].max()  # all that can be said: the worst there was


def test_the_order_of_the_rows_changes_nothing():
    rng = np.random.default_rng(2)
    face_age, age, sex = adults(rng, 900)
    subject = rng.integers(0, 500, 900)
    found = fit_conformal(face_age, age, sex=sex, subjects=subject, fewest=20)
    for _ in range(10):
        rows = rng.permutation(900)
        again = fit_conformal(face_age[rows], age[rows], sex=sex[rows], subjects=subject[rows].astype(str), fewest=20)
        assert again == found
    assert found["pooled"]["n"] == len(np.unique(subject))


def test_the_photo_of_a_person_is_drawn_without_a_look_at_its_label():
    rng = np.random.default_rng(3)
    face_age, age, sex = adults(rng, 2_000)
    subject = rng.integers(0, 400, 2_000)
    drawn = one_photo_each(face_age, age, sex, subject)
    assert sorted(subject[drawn]) == np.unique(subject).tolist()
    assert np.array_equal(drawn, one_photo_each(face_age, rng.permutation(age), sex, subject))


def test_each_photo_of_a_person_is_as_likely_also_within_the_split_that_another_hash_made():
    names = [name for name in (f"P{number:05d}" for number in range(60_000)) if split_of(name) == "calibrate"]
    subject = np.repeat(names, 4)
    face_age = np.tile([10.0, 20.0, 30.0, 40.0], len(names))
    drawn = one_photo_each(face_age, face_age, np.full(len(subject), ""), subject)
    counts = np.bincount(drawn % 4, minlength=4)
    assert (np.abs(counts - len(names) / 4) < 4 * np.sqrt(len(names) * 3 / 16)).all()


def people_with_photos(rng, people):
    """One in five has twenty photos and is easy to read; the others have one and are hard."""
    known = rng.random(people) < 0.2
    subject = np.repeat(np.arange(people), np.where(known, 20, 1))
    age = rng.uniform(30, 80, people)[subject]
    error = (rng.normal(0, 1, people) * np.where(known, 1.5, 7))[subject] + rng.normal(0, 1, len(subject))
    return age + error, age, subject


def test_people_with_many_photos_do_not_narrow_the_intervals_of_those_with_one():
    ours, counted_by_photo = [], []
    for seed in range(60):
        rng = np.random.default_rng([seed, 4])
        face_age, age, subject = people_with_photos(rng, 800)
        test_face_age, test_age, test_subject = people_with_photos(rng, 800)
        one = np.unique(test_subject, return_index=True)[1]  # the photos of a person are alike by chance: any will do
        for shares, subjects in ((ours, subject), (counted_by_photo, None)):
            low, high = intervals(test_face_age[one], fit_conformal(face_age, age, subjects=subjects))
            shares.append(((low <= test_age[one]) & (test_age[one] <= high)).mean())
    print(f"one photo a person {np.mean(ours):.4f}, every photo {np.mean(counted_by_photo):.4f}")
    assert 0.895 <= np.mean(ours) <= 0.91
    assert np.mean(counted_by_photo) < 0.7


def visits_held(share_hard, rng, photos, people=4_000):
    """Errors of one photo of all, and of the median of all photos of a visit, held by intervals made of others."""
    age = rng.uniform(30, 80, people)
    steady = rng.normal(0, 4, people) if share_hard is None else np.zeros(people)
    noise = rng.normal(0, 4, (people, photos))
    if share_hard is not None:  # some people look thirty years older in six of ten photos
        hard = rng.random(people) < share_hard
        noise = np.where(hard[:, None] & (rng.random((people, photos)) < 0.6), 30.0, noise / 10)
    shown = (age + steady)[:, None] + noise
    half = {"pooled": fit_conformal(shown[::2, 0], age[::2])["pooled"]}
    subject = np.repeat(np.arange(people), photos)
    days = np.full(len(subject), "2026-01-01", "datetime64[D]")
    medians = visit_medians(shown.ravel(), subject, days).medians
    held = []
    for values in (shown[:, 0], medians):
        low, high = intervals(values[1::2], half)
        held.append(((low <= age[1::2]) & (age[1::2] <= high)).mean())
    return held


def test_the_median_of_a_visit_is_held_more_often_where_photos_scatter_evenly_and_never_below_eighty():
    rng = np.random.default_rng(5)
    even = np.mean([visits_held(None, rng, 5) for _ in range(10)], axis=0)
    twisted = np.mean([visits_held(0.16, rng, 15) for _ in range(10)], axis=0)
    print(f"one photo, median: even {even}, twisted {twisted}")
    assert even[0] == pytest.approx(0.9, abs=0.01) and even[1] > 0.94
    # the worst there is: the photo's promise does not carry over, only the doubled share of misses does
    assert twisted[0] >= 0.89 and 0.8 <= twisted[1] < 0.89


STRATA = {
    "pooled": {"n": 900.0, "coverage": 0.9, "half_width": 9.0, "fallback": 0.0},
    "60-69": {"n": 210.0, "coverage": 0.9, "half_width": 8.0, "fallback": 0.0},
    "60-69/female": {"n": 150.0, "coverage": 0.9, "half_width": 7.0, "fallback": 0.0},
    "60-69/male": {"n": 50.0, "coverage": 0.9, "half_width": 8.0, "fallback": 1.0},
    "90+": {"n": 12.0, "coverage": 0.9, "half_width": 9.0, "fallback": 2.0},
    "90+/male": {"n": 10.0, "coverage": 0.9, "half_width": 9.0, "fallback": 2.0},
    "0-9": {"n": 100.0, "coverage": 0.9, "half_width": 2.0, "fallback": 0.0},
}


@pytest.mark.parametrize(
    ("face_age", "sex", "width", "source"),
    [
        (60.0, "female", 7, "60-69/female"),
        (69.999, " Female ", 7, "60-69/female"),
        (60.0, "male", 8, "60-69"),
        (60.0, "diverse", 8, "60-69"),
        (60.0, None, 8, "60-69"),
        (60.0, "", 8, "60-69"),
        (70.0, "female", 9, "pooled"),
        (59.999, "female", 9, "pooled"),
        (90.0, "male", 9, "pooled"),
        (131.0, "female", 9, "pooled"),
        (-4.0, "female", 2, "0-9"),
        (np.nan, "female", np.nan, None),
    ],
)
def test_each_photo_gets_the_width_of_the_most_particular_stratum_and_its_name(face_age, sex, width, source):
    low, high = intervals([face_age, 60.0], STRATA, sex=[sex, "female"])
    assert np.array_equal([low[0], high[0]], [face_age - width, face_age + width], equal_nan=True)
    assert (low[1], high[1]) == (53, 67)
    assert intervals_source([face_age], STRATA, sex=[sex]).tolist() == [source]


def test_without_sex_the_bands_are_the_strata():
    assert intervals_source([60.0, 75.0], STRATA).tolist() == ["60-69", "pooled"]
    low, high = intervals([], STRATA)
    assert low.shape == high.shape == (0,)


def test_strata_go_through_a_checkpoint_unchanged():
    face_age, age, sex = hospital(np.random.default_rng(8), 2_000)
    strata, line = fit_conformal(face_age, age, sex=sex), fit_bias(face_age, age)
    shape = Architecture("vit_64x2x4", 64, 2, 4, 8, 32, "age")
    known = {"architecture": shape, "task": "age", "input_size": 32, "conformal": strata, "bias_correction": line}
    back = read_config(make_config(known, "here").to_bytes(), "there")
    assert back.conformal == strata and back.bias_correction == line
    assert np.array_equal(correct(face_age, age, back.bias_correction), correct(face_age, age, line))
    assert np.array_equal(intervals(face_age, back.conformal, sex=sex), intervals(face_age, strata, sex=sex))


def test_the_code_in_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    face_age, age, sex = hospital(np.random.default_rng(9), 500)
    subjects, taken_on = np.arange(500) // 2, np.full(500, "2026-01-01", "datetime64[D]")
    known = {"face_age": face_age, "age": age, "sex": sex, "subjects": subjects, "taken_on": taken_on}
    exec(code, known)
    assert len(known["visits"].medians) == 250 and abs(known["adjusted"].mean()) < 1
    assert (known["low"] < face_age).all() and (face_age < known["high"]).all()


def test_strata_of_fewer_than_ten_people_are_not_published():
    rng = np.random.default_rng(6)
    face_age, age, sex = hospital(rng, 3_000)
    rare = np.where(np.arange(3_000) < 9, "diverse", sex)
    found = fit_conformal(np.where(rare == "diverse", 64.0, face_age), age, sex=rare, fewest=1)
    assert min(each["n"] for each in found.values()) >= 10
    assert "60-69/male" in found and not any("diverse" in name for name in found)


FACES = np.linspace(20, 80, 40)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((FACES, FACES), {"coverage": 1.0}, "coverage: 1.0 must lie between 0 and 1"),
        ((FACES, FACES), {"coverage": 0.0}, "coverage: 0.0 must lie"),
        ((FACES, FACES), {"coverage": float("nan")}, "coverage: nan must lie"),
        ((FACES, FACES), {"fewest": 0}, "fewest: 0 must be at least 1"),
        ((FACES, FACES), {"sex": ["male"]}, "sex: has 1 values for 40 photos"),
        ((FACES, FACES), {"sex": np.array(["male", 1] * 20, object)}, "sex: mixes kinds of names"),
        ((FACES, FACES), {"subjects": np.arange(40) // 5}, "8 people to calibrate"),
        ((FACES, FACES), {"subjects": [None] * 40}, "subjects: row 0 is missing"),
        (([], []), {}, "0 people to calibrate"),
        ((FACES, FACES[:-1]), {}, "age: has 39 values for 40 photos"),
        ((FACES, np.where(FACES > 79, np.nan, FACES)), {}, "age: row 39 is unknown"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(arguments, options, message):
    with pytest.raises(Refused, match=message):
        fit_conformal(*arguments, **options)


@pytest.mark.parametrize("strata", [{}, {"60-69": STRATA["60-69"]}])
def test_strata_without_everybody_are_refused(strata):
    with pytest.raises(Refused, match="conformal: has no stratum 'pooled'"):
        intervals([60.0], strata)


@pytest.mark.parametrize("width", [float("nan"), float("inf"), -1.0])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(Refused, match="half_width of '60-69' is"):
        intervals([60.0], {**STRATA, "60-69": {"n": 3, "half_width": width}})
