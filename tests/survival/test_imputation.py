"""What is missing: left out or filled in, said, and pooled: against R, and against planted truth."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import complete_cases, impute, pool, pooled_hazard
from fahr.survival.cox import fit_cox
from fahr.survival.imputation import nelson_aalen
from survival.predictions import lung, of_r


@pytest.mark.parametrize(("name", "people"), [("small", 120), ("large", None)])
def test_pooling_is_what_r_finds(name, people):
    asked = of_r()["pooled"]
    given = asked["given"]
    found = pool(given["q"], np.sqrt(given["u"]), people=people, parameters=given["k"])
    wanted = asked[name]
    assert found.estimate == pytest.approx(wanted["qbar"], abs=1e-10)
    assert (found.within, found.between) == pytest.approx((wanted["ubar"], wanted["b"]), abs=1e-10)
    assert found.standard_error**2 == pytest.approx(wanted["t"], abs=1e-10)
    assert found.freedom == pytest.approx(wanted["df"], rel=1e-8)
    assert found.missing_information == pytest.approx(wanted["fmi"], abs=1e-10)


def test_imputations_that_agree_pool_to_one_fit_and_its_normal_interval():
    found = pool([0.5] * 4, [0.2] * 4)
    assert found.standard_error == pytest.approx(0.2) and found.missing_information == pytest.approx(0, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((0.5 - 1.959964 * 0.2, 0.5 + 1.959964 * 0.2), abs=1e-6)
    assert found.p_value == pytest.approx(0.012419, abs=1e-6)
    scarce = pool([0.5] * 4, [0.2] * 4, people=6, parameters=1)
    assert scarce.freedom == pytest.approx(5 * 6 / 8) and scarce.high > found.high


def test_the_hazard_of_each_person_is_what_mice_finds():
    time, event, _ = lung()
    asked = of_r()["nelson_aalen"]
    np.testing.assert_allclose(nelson_aalen(time, event == 1), asked["hazard"], rtol=0, atol=1e-10)
    late = nelson_aalen(np.array([2.0, 4, 5]), np.array([True, True, False]), entry=np.array([0.0, 1, 3]))
    np.testing.assert_allclose(late, [0.5, 1.0, 0.5])  # two at risk at 2, two at 4; the third was not there at 2


def gappy(seed, n=1_000):
    """Log hazards .5 of x and .7 of z; x is missing more often for those with the event and without z. And words."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    z = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(float)
    died, left = rng.exponential(np.exp(-0.5 * x - 0.7 * z)), rng.exponential(1, n)
    time, event = np.minimum(died, left), died <= left
    gap = rng.random(n) < 1 / (1 + np.exp(1 - 2 * event + z))
    site = rng.choice(["a", "b", "c"], n).astype(object)
    site[rng.random(n) < 0.1] = None
    return time, event, {"x": np.where(gap, np.nan, x), "z": z, "site": site}


def test_imputed_models_recover_the_truth_that_complete_cases_miss():
    found, complete, covered = [], [], 0
    for seed in range(12):
        time, event, table = gappy(seed)
        made = impute(time, event, {"x": table["x"], "z": table["z"]}, imputations=6, iterations=4, seed=seed)
        fits = [fit_cox(time, event, each) for each in made.tables]
        hazard = pooled_hazard(fits, "z")
        found.append([np.log(pooled_hazard(fits, "x").ratio), np.log(hazard.ratio)])
        covered += hazard.low < np.exp(0.7) < hazard.high
        rows = complete_cases({"x": table["x"]}).rows
        one = fit_cox(time[rows], event[rows], {"x": table["x"][rows], "z": table["z"][rows]})
        complete.append(np.log(one.hazard("z").ratio))
    x, z = np.mean(found, axis=0)
    assert abs(x - 0.5) < 0.06 and abs(z - 0.7) < 0.06
    assert np.mean(complete) > 0.95 and covered >= 10


def test_two_values_and_words_are_drawn_by_how_likely_they_are():
    rng = np.random.default_rng(0)
    x = rng.normal(size=3_000)
    flag = (rng.random(3_000) < 1 / (1 + np.exp(-2 * x))).astype(float)
    kind = np.where(x < -0.4, "low", np.where(x < 0.4, "middle", "top")).astype(object)
    gap = rng.random(3_000) < 0.3
    table = {"x": x, "flag": np.where(gap, np.nan, flag), "kind": np.where(gap, None, kind)}
    made = impute(rng.exponential(size=3_000), rng.random(3_000) < 0.5, table, imputations=2, iterations=3)
    drawn = made.tables[0]
    assert set(np.unique(drawn["flag"])) == {0.0, 1.0} and set(drawn["kind"]) == {"low", "middle", "top"}
    high = gap & (x > 0.8)
    assert abs(drawn["flag"][high].mean() - flag[high].mean()) < 0.08
    assert (drawn["kind"][high] == "top").mean() > 0.85


def test_what_is_known_stays_and_what_is_filled_in_is_somebodys():
    time, event, table = gappy(3)
    before = {name: each.copy() for name, each in table.items()}
    made = impute(time, event, table, imputations=3, iterations=2, seed=5)
    for name, each in before.items():  # the caller's own are not touched
        np.testing.assert_array_equal(table[name], each)
    gap = np.isnan(table["x"])
    for each in made.tables:
        np.testing.assert_array_equal(each["x"][~gap], table["x"][~gap])
        assert np.isin(each["x"][gap], table["x"][~gap]).all()
        np.testing.assert_array_equal(each["z"], table["z"])
        assert all(was in (None, now) for was, now in zip(table["site"], each["site"], strict=True))
    assert (made.tables[0]["x"] != made.tables[1]["x"]).any()
    again = impute(time, event, table, imputations=3, iterations=2, seed=5)
    np.testing.assert_array_equal(made.tables[2]["x"], again.tables[2]["x"])
    more = impute(time, event, table, imputations=4, iterations=2, seed=5)  # each is what it is, however many
    np.testing.assert_array_equal(made.tables[2]["x"], more.tables[2]["x"])


def test_both_ways_say_how_many_people_lack_what():
    table = {"stage": ["1", "", "2", None], "age": [50, np.nan, 60, 70], "sex": ["m", "f", "f", "m"]}
    some = complete_cases(table)
    np.testing.assert_array_equal(some.rows, [0, 2])
    assert some.line() == "complete cases: 2 of 4 people, 2 left out (stage 2, age 1)"
    assert complete_cases({"age": [1, 2]}).line() == "complete cases: 2 of 2 people, 0 left out"
    made = impute([1, 2, 3, 4], [1, 0, 1, 1], table, imputations=2, iterations=1)
    assert "imputed 2 times" in made.line() and "2 of 4 people had something missing (stage 2, age 1)" in made.line()
    assert made.tables[0]["age"][1] in (50, 60, 70)


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        ({"race": ["a", None, "b"]}, {}, "race: is missing for 1 people, and is never imputed"),
        ({"x": [1, 2, 3]}, {}, "nothing is missing"),
        ({"x": [np.nan, 2, 2]}, {}, "fewer than two different values"),
        ({"x": [np.nan, 1, 2, 3]}, {}, "4 values for 3 rows"),
        ({"x": [np.nan, np.inf, 2]}, {}, "infinite"),
        ({"x": [np.nan, 1, 2], "y": [1, 2]}, {}, r"y: has shape \(2,\)"),
        ({"x": np.array([None, 1, "a"], object)}, {}, "mixes kinds of values"),
        ({}, {}, "there are none"),
        ({"x": [np.nan, 1, 2]}, {"imputations": 1}, "at least 2 imputations"),
    ],
)
def test_what_cannot_be_imputed_is_refused(columns, options, sentence):
    with pytest.raises(Refused, match=sentence):
        impute([1, 2, 3], [1, 0, 1], columns, **options)


@pytest.mark.parametrize(
    ("estimates", "errors", "options", "sentence"),
    [
        ([0.5], [0.1], {}, "two or more"),
        ([0.5, np.nan], [0.1, 0.1], {}, "finite"),
        ([0.5, 0.6], [0.1], {}, "standard error of each"),
        ([0.5, 0.5], [0, 0], {}, "nothing is uncertain"),
        ([0.5, 0.6], [0.1, 0.1], {"people": 3, "parameters": 3}, "no degree of freedom"),
    ],
)
def test_what_cannot_be_pooled_is_refused(estimates, errors, options, sentence):
    with pytest.raises(Refused, match=sentence):
        pool(estimates, errors, **options)
