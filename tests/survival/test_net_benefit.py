"""What acting on a chance is worth: against R, by hand, and by both ways of walking along time."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import decision_curve
from fahr.survival.plain import draw
from survival.predictions import breast, chance, of_r, planted, standing


def worth(found):
    return np.array([each.value for each in found.model])


@pytest.mark.parametrize("without", ["0", "1"])
def test_it_is_the_formula_with_the_survival_that_r_finds(without, monkeypatch):
    monkeypatch.setenv("FAHR_NO_NUMBA", without)
    time, event, _, after, entry = breast()
    asked = of_r()["net_benefit"]
    found = decision_curve(time, event, after, 730, asked["thresholds"], samples=0)
    np.testing.assert_allclose(worth(found), asked["plain"], rtol=0, atol=1e-10)
    price = np.array(asked["thresholds"]) / (1 - np.array(asked["thresholds"]))
    np.testing.assert_allclose([each.value for each in found.all], 1 - asked["left"] * (1 + price), atol=1e-10)
    late = decision_curve(time, event, after, 730, asked["thresholds"], entry=entry, samples=0)
    left = np.array(of_r()["flagged_left"]["entry"])
    stands = standing(time, event, entry, 730)
    share = np.array([stands[after >= each].sum() for each in asked["thresholds"]])
    np.testing.assert_allclose(worth(late), share * (1 - left * (1 + price)), rtol=0, atol=1e-10)


def test_a_censored_case_by_hand():
    # flagged at 0.5: rows 0-3, of whom one died at 1, one was lost at 2, one died at 3, one lives: S(4) = 3/4 * 1/2
    time, event = [1, 2, 3, 9, 2, 9, 9, 9], [1, 0, 1, 0, 1, 0, 0, 0]
    found = decision_curve(time, event, [0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1], 4, [0.25, 0.5, 0.95], samples=0)
    left = 3 / 4 * 1 / 2
    assert worth(found)[1] == pytest.approx(0.5 * (1 - left) - 0.5 * left * 1, abs=1e-15)
    left = (
        5 / 6 * 4 / 5 * 2 / 3
    )  # at 0.25 six are flagged: deaths at 1 and 2 of six and five, one lost, a death of three
    assert worth(found)[0] == pytest.approx(6 / 8 * (1 - left) - 6 / 8 * left / 3, abs=1e-15)
    assert worth(found)[2] == 0 and found.flagged == (6, 4, 0)
    left = 7 / 8 * 6 / 7 * 4 / 5
    assert found.all[1].value == pytest.approx(1 - 2 * left, abs=1e-15)
    assert (found.people, found.events) == (8, 3)


def test_without_censoring_it_counts_true_and_false_alarms():
    rng = np.random.default_rng(0)
    died = rng.random(500) < 0.3
    chances = np.clip(rng.normal(0.3 + 0.2 * died, 0.15), 0, 1)
    found = decision_curve(np.where(died, 1.0, 5.0), died, chances, 2, samples=0)
    for level, each in zip(found.thresholds, found.model, strict=True):
        flag = chances >= level
        wanted = (flag & died).mean() - (flag & ~died).mean() * level / (1 - level)
        assert each.value == pytest.approx(wanted, abs=1e-12)
    assert len(found.thresholds) == 99 and found.thresholds[9] == 0.1


def test_both_ways_find_the_same_in_every_resample_with_delayed_entry_and_ties(monkeypatch):
    time, event, score, entry = planted(150, 4, ties=True, delayed=True)
    found = []
    for without in ("0", "1"):
        monkeypatch.setenv("FAHR_NO_NUMBA", without)
        found.append(decision_curve(time, event, chance(score, 0.5), 0.5, entry=entry, samples=40))
    np.testing.assert_allclose(found[0].values, found[1].values, rtol=0, atol=1e-12)
    # a resample is the curve of the people drawn
    rows = np.repeat(np.arange(len(time)), draw(0, 7, len(time)).astype(int))
    again = decision_curve(time[rows], event[rows], chance(score[rows], 0.5), 0.5, entry=entry[rows], samples=0)
    np.testing.assert_allclose(found[0].values[7], [*worth(again), *(each.value for each in again.all)], atol=1e-12)


def test_a_model_that_knows_beats_acting_on_all_and_on_none():
    time, event, score, _ = planted(3_000, 2)
    found = decision_curve(time, event, chance(score, 0.5), 0.5, [0.2, 0.4], samples=100)
    assert all(each.low > 0 for each in found.model)
    assert (np.quantile(found.values[:, :2] - found.values[:, 2:], 0.025, axis=0) > 0).all()


def test_thresholds_of_which_too_little_is_known_are_nan_and_told():
    found = decision_curve([1, 2, 9, 9], [1, 0, 0, 1], [0.2, 0.9, 0.3, 0.1], 4, [0.25, 0.5], samples=20)
    assert np.isnan(found.model[1].value) and not np.isnan(found.model[0].value)
    assert any("thresholds 0.5: of the few who are flagged nobody is watched" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("thresholds", "predicted", "horizon", "sentence"),
    [
        ([0.0, 0.5], 0.5, 0.5, "must lie between 0 and 1"),
        ([0.5, 0.2], 0.5, 0.5, "and rise"),
        ([], 0.5, 0.5, "thresholds"),
        ([0.5], 1.5, 0.5, "row 0 has 1.5"),
        ([0.5], 0.5, 99, "past the follow-up"),
        ([0.5], 0.5, [0.2, 0.5], "give one, and call again"),
    ],
)
def test_what_is_no_curve_is_refused(thresholds, predicted, horizon, sentence):
    time, event, _, _ = planted(30, 0)
    with pytest.raises(Refused, match=sentence):
        decision_curve(time, event, np.full(30, predicted), horizon, thresholds)
