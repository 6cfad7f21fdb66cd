"""Whether chances come true: against R, refits of repeated rows, planted truth, and hand."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import d_calibration, judge_calibration
from fahr.survival.calibration import splines
from fahr.survival.cox import fit_cox
from fahr.survival.cox_resampling import CoxRefit
from fahr.survival.curves import kaplan_meier
from fahr.survival.horizon import read_watch
from fahr.survival.plain import draw
from survival.predictions import breast, chance, of_r, planted, standing

NAMES = ("slope", "ici", "e50", "e90", "emax", "observed", "expected")


def numbers(found, names=NAMES):
    return [getattr(found, name).value for name in names]


@pytest.mark.parametrize(("name", "knots"), [("three", 3), ("five", 5)])
def test_it_is_what_r_finds(name, knots):
    time, event, _, after, _ = breast()
    asked = of_r()["calibration"][name]
    found = judge_calibration(time, event, after, 730, knots=knots, samples=0)
    np.testing.assert_allclose(numbers(found), [asked[each] for each in NAMES], rtol=0, atol=1e-8)
    assert found.ratio.value == pytest.approx(asked["observed"] / asked["expected"], abs=1e-8)
    shown = np.log(-np.log(1 - after))
    at = np.quantile(shown, [0.1, 0.5, 0.9] if knots == 3 else [0.05, 0.275, 0.5, 0.725, 0.95])
    fit = fit_cox(time, event == 1, splines(shown, at))
    np.testing.assert_allclose(fit.coefficients, asked["coefficients"], rtol=1e-6)


def test_with_delayed_entry_the_models_are_those_of_r_and_means_are_weighted():
    time, event, _, after, entry = breast()
    asked = of_r()["calibration"]["entry"]
    found = judge_calibration(time, event, after, 730, entry=entry, samples=0)
    for name in ("slope", "observed", "emax"):
        assert getattr(found, name).value == pytest.approx(asked[name], abs=1e-8)
    stands = standing(time, event, entry, 730)
    assert found.expected.value == pytest.approx(stands @ after, abs=1e-12)
    shown = np.log(-np.log(1 - after))
    basis = splines(shown, np.quantile(shown, [0.1, 0.5, 0.9]))
    seen = 1 - fit_cox(time, event == 1, basis, entry=entry).survival(basis, [730.0])[:, 0]
    assert found.ici.value == pytest.approx(stands @ np.abs(seen - after), abs=1e-9)


@pytest.mark.parametrize("delayed", [False, True])
def test_a_refit_is_the_cox_model_of_the_rows_drawn(delayed):
    time, event, score, entry = planted(120, 1, ties=True, delayed=delayed)
    watch = read_watch(time, event, entry=entry)
    columns = {"x": score[watch.order], "y": score[watch.order] ** 2 + 3}
    refit = CoxRefit.of(watch, columns, fit_cox(watch.time, watch.event, columns, entry=watch.entry))
    for number in range(10):
        counts = draw(3, number, len(time))
        rows = np.repeat(np.arange(len(time)), counts.astype(int))
        late = watch.entry[rows] if delayed else None
        drawn = {name: each[rows] for name, each in columns.items()}
        wanted = fit_cox(watch.time[rows], watch.event[rows], drawn, entry=late)
        found = refit(counts)
        np.testing.assert_allclose(found.coefficients, wanted.coefficients, atol=1e-7)
        at_zero = -np.log(wanted.survival({"x": np.zeros(1), "y": np.zeros(1)}, [0.5])[0, 0])
        assert found.hazard(0.5) == pytest.approx(at_zero, rel=1e-6)
    assert refit(np.where(watch.event, 0.0, 1.0)) is None


def test_right_chances_have_a_slope_and_a_ratio_of_one_and_wrong_ones_do_not():
    time, event, score, _ = planted(4_000, 3)
    right = judge_calibration(time, event, chance(score, 0.5), 0.5, samples=100)
    assert right.slope.low < 1 < right.slope.high and right.ratio.low < 1 < right.ratio.high
    assert right.ici.value < 0.03
    steep = judge_calibration(time, event, chance(1.3 * score, 0.5), 0.5, samples=100)
    assert steep.slope.high < 0.9 and steep.slope.value == pytest.approx(right.slope.value / 1.3, abs=1e-6)
    assert steep.ici.low > right.ici.value
    high = judge_calibration(time, event, chance(score + 0.5, 0.5), 0.5, samples=100)
    assert high.ratio.high < 0.9 and high.slope.value == pytest.approx(right.slope.value, abs=1e-6)
    assert [point.observed.low for point in right.curve] <= [point.observed.high for point in right.curve]
    inside = [point.observed.low <= point.predicted <= point.observed.high for point in right.curve]
    assert np.mean(inside) > 0.8


def test_groups_are_kaplan_meier_of_people_alike_and_none_is_small():
    time, event, score, _ = planted(95, 2)
    found = judge_calibration(time, event, chance(score, 0.5), 0.5, samples=0)
    assert len(found.groups) == 9 and sum(each.people for each in found.groups) == 95
    assert all(each.people >= 10 for each in found.groups)
    lowest = np.argsort(score)[: found.groups[0].people]
    curve = kaplan_meier(time[lowest], event[lowest] == 1)
    assert found.groups[0].observed == pytest.approx(1 - curve.at(0.5), abs=1e-12)
    assert found.groups[0].low <= found.groups[0].observed <= found.groups[0].high
    assert found.groups[0].predicted == pytest.approx(chance(score[lowest], 0.5).mean())


def test_subjects_are_drawn_whole_and_a_resample_is_the_statistic_of_those_drawn():
    time, event, score, _ = planted(200, 5)
    who = np.arange(len(time)) // 4
    found = judge_calibration(time, event, chance(score, 0.5), 0.5, subject=who, samples=10, seed=2, threads=2)
    rows = np.repeat(np.arange(len(time)), draw(2, 6, who.max() + 1)[who].astype(int))
    again = judge_calibration(time[rows], event[rows], chance(score[rows], 0.5), 0.5, samples=0)
    first = ("observed", "expected", "ratio", "slope")
    np.testing.assert_allclose(found.values[6][:4], numbers(again, first), atol=1e-7)  # the knots stay the sample's


def test_few_different_chances_give_a_straight_line_and_say_so():
    time, event, score, _ = planted(300, 4)
    found = judge_calibration(time, event, np.where(score > 0, 0.5, 0.3), 0.5, samples=20)
    assert found.knots == 0 and any("the curve is a straight line" in each for each in found.warnings)
    assert len(found.groups) == 2 and found.ici.value < 0.2


def test_a_slope_that_rises_for_ever_is_nan_and_told():
    time = np.arange(1.0, 31)
    found = judge_calibration(time, np.ones(30), np.linspace(0.9, 0.1, 30), 20.5, samples=5)
    assert np.isnan(found.slope.value) and any("the likelihood rises for ever" in each for each in found.warnings)
    assert found.observed.value == pytest.approx(20 / 30)


@pytest.mark.parametrize(
    ("predicted", "options", "sentence"),
    [
        (np.full(40, 0.3), {}, "is 0.3 for everybody"),
        (np.arange(40) / 40, {}, "row 0 is 0 or 1, and log"),
        (np.arange(1, 41) / 41, {"knots": 7}, "knots: 7 must be 3, 4 or 5"),
        (np.arange(1, 41) / 41, {"groups": 0}, "groups: 0"),
        (np.arange(1, 41) / 41, {"entry": np.full(40, 99.0)}, "must lie before time"),
    ],
)
def test_what_cannot_be_judged_is_refused(predicted, options, sentence):
    time, event, _, _ = planted(40, 0)
    with pytest.raises(Refused, match=sentence):
        judge_calibration(time, event, predicted, 0.5, **options)


def test_whole_curves_by_hand():
    # an event at .05, .55 and .95; one censored at .25: .05/.25 in [.2, .3), .1/.25 in each of the two below
    found = d_calibration([1, 1, 1, 0], [0.05, 0.55, 0.95, 0.25])
    wanted = np.array([1.4, 0.4, 0.2, 0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_allclose(found.bins, wanted, atol=1e-12)
    assert found.statistic == pytest.approx(((wanted - 0.4) ** 2).sum() / 0.4) and found.freedom == 9
    assert found.warnings and sum(found.bins) == pytest.approx(4)
    late = d_calibration([1, 1, 1, 0], [0.04, 0.55, 0.38, 0.2], survival_at_entry=[0.8, 1, 0.4, 0.8])
    np.testing.assert_allclose(late.bins, wanted, atol=1e-12)


def test_whole_curves_that_are_right_are_rejected_at_the_level_and_wrong_ones_nearly_always():
    rejected = wrong = 0
    for seed in range(200):
        time, event, score, _ = planted(400, seed)
        keep = np.random.default_rng(seed).random(len(time)) < 0.5
        event, hazard = np.where(keep, 1.0, event), np.exp(score)  # few are censored, or it rejects too seldom
        time = np.where(keep, np.random.default_rng(seed + 1000).exponential(1 / hazard), time)
        rejected += d_calibration(event, np.exp(-time * hazard)).p_value < 0.05
        wrong += d_calibration(event, np.exp(-time * hazard * 1.3)).p_value < 0.05
    assert rejected <= 18 and wrong > 150


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([0, 0], [0.5, 0.5]), "none of the 2 rows has it"),
        (([1, 0], [0.5, 1.5]), "row 1 is 1.5; must be a chance of no event"),
        (([1], [0.5]), "survival_at_entry: row 0 has 0.4, below 0.5"),
    ],
)
def test_whole_curves_that_are_none_are_refused(arguments, sentence):
    options = {"survival_at_entry": [0.4]} if len(arguments[0]) == 1 else {}
    with pytest.raises(Refused, match=sentence):
        d_calibration(*arguments, **options)
