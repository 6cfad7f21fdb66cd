"""How far predicted chances are from what happened: against R, scikit-survival, and hand."""

import numpy as np
import pytest
from sksurv.metrics import brier_score as theirs
from sksurv.metrics import integrated_brier_score
from sksurv.util import Surv

from fahr.errors import Refused
from fahr.survival import brier_score
from survival.predictions import breast, chance, lung, of_r, planted, standing


def values(found):
    return np.array([each.value for each in found])


@pytest.mark.parametrize(("name", "column"), [("breast", 3), ("breast_before", 2), ("lung", 2)])
def test_it_is_what_r_finds_with_the_score_of_kaplan_meier_and_the_scaled_one(name, column):
    data = lung() if name == "lung" else breast()
    asked = of_r()["scores"][name]
    chances = np.stack([data[column]] * 3, axis=1)
    found = brier_score(data[0], data[1], chances, asked["times"], samples=0)
    np.testing.assert_allclose(values(found.score), asked["brier"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(values(found.scaled), asked["ipa"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.reference, asked["reference"], rtol=0, atol=1e-10)
    alone = brier_score(data[0], data[1], data[column], asked["times"][1], samples=0)
    assert alone.score[0].value == pytest.approx(asked["brier"][1], abs=1e-10)
    assert alone.integrated is None and alone.integrated_scaled is None


def test_it_is_what_scikit_survival_finds_and_so_is_its_integral():
    for seed in range(5):
        time, event, score, _ = planted(300, seed)
        horizons = [0.1, 0.3, 0.5, 1.0]
        chances = chance(score[:, None], np.array(horizons))
        outcome = Surv.from_arrays(event == 1, time)
        found = brier_score(time, event, chances, horizons, samples=0)
        np.testing.assert_allclose(values(found.score), theirs(outcome, outcome, 1 - chances, horizons)[1], atol=1e-10)
        wanted = integrated_brier_score(outcome, outcome, 1 - chances, horizons)
        assert found.integrated.value == pytest.approx(wanted, abs=1e-10)


def test_it_is_the_weighted_squares_one_by_one_with_delayed_entry_and_ties():
    for seed in range(10):
        time, event, score, entry = planted(60, seed, ties=True, delayed=True)
        chances, at = chance(score, 0.4), 0.4
        weight = standing(time, event, entry, at)
        assert weight.sum() == pytest.approx(1)
        wanted = (weight * ((time <= at) - chances) ** 2).sum()
        found = brier_score(time, event, chances, at, entry=entry, samples=0)
        assert found.score[0].value == pytest.approx(wanted, abs=1e-12)


def test_a_case_by_hand():
    # at 2.5: died at 1 and 2, one lost at 2 (after the event), three beyond; G(1-) = G(2-) = 1, G(2.5) = 3 / 4
    found = brier_score([1, 2, 2, 3, 4, 5], [1, 1, 0, 0, 1, 0], [0.9, 0.6, 0.5, 0.2, 0.1, 0.4], 2.5, samples=0)
    by_hand = (0.1**2 + 0.4**2) / 6 + (0.2**2 + 0.1**2 + 0.4**2) / 6 / (3 / 4)
    assert found.score[0].value == pytest.approx(by_hand, abs=1e-15)
    assert found.reference == pytest.approx([2 / 3 * 1 / 3])
    assert (found.people, found.events) == (6, 2)


def test_right_chances_beat_useless_ones_and_the_interval_says_so():
    time, event, score, _ = planted(2_000, 1)
    horizons = np.array([0.3, 0.6])
    good = brier_score(time, event, chance(score[:, None], horizons), horizons, samples=200)
    bad = brier_score(time, event, chance(-score[:, None], horizons), horizons, samples=200)
    assert good.integrated_scaled.low > 0 > bad.integrated_scaled.high
    assert np.quantile(bad.values[:, 4] - good.values[:, 4], 0.025) > 0  # the same people drawn for both
    flat = np.broadcast_to(1 - np.exp(-horizons), (len(time), 2))
    useless = brier_score(time, event, flat, horizons, samples=50)
    assert useless.scaled[0].value == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("predicted", "horizons", "sentence"),
    [
        (np.full(30, 1.2), 0.5, r"row 0 has 1.2; must be the chance .* baseline hazard"),
        (np.linspace(-1, 1, 30), 0.5, "row 0 has -1.0"),
        (np.full(30, 0.5), [0.3, 0.5], "one chance a row for 2 horizons"),
        (np.full((30, 3), 0.5), [0.3, 0.5], r"shape \(30, 3\); must be \(30, 2\)"),
        (np.full(29, 0.5), 0.5, "29 values for 30 rows"),
    ],
)
def test_what_is_no_chance_is_refused(predicted, horizons, sentence):
    time, event, _, _ = planted(30, 0)
    with pytest.raises(Refused, match=sentence):
        brier_score(time, event, predicted, horizons)
