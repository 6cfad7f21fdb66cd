"""Whether those with the event had higher risks: against R, scikit-survival, and every pair."""

import numpy as np
import pytest
from sksurv.metrics import cumulative_dynamic_auc
from sksurv.util import Surv

from fahr.errors import Refused
from fahr.survival import bootstrap_concordance, time_dependent_auc
from fahr.survival.plain import draw
from survival.predictions import breast, chance, lung, of_r, planted, standing


def values(found):
    return np.array([each.value for each in found])


@pytest.mark.parametrize(("name", "column"), [("breast", 3), ("breast_before", 2), ("lung", 2)])
def test_it_is_what_r_finds_where_events_and_censorings_share_days(name, column):
    data = lung() if name == "lung" else breast()
    asked = of_r()["scores"][name]
    found = time_dependent_auc(data[0], data[1], data[column], asked["times"], samples=0)
    np.testing.assert_allclose(values(found.auc), asked["auc"], rtol=0, atol=1e-10)


def test_it_is_what_scikit_survival_finds_with_the_mean_and_with_near_ties():
    for seed in range(5):
        time, event, score, _ = planted(300, seed)
        risk = np.round(score, 1) + np.random.default_rng(seed).integers(0, 2, 300) * 4e-9
        horizons = [0.2, 0.5, 0.9]
        outcome = Surv.from_arrays(event == 1, time)
        for risks in (risk, np.stack([risk, -score, score**2], axis=1)):
            auc, mean = cumulative_dynamic_auc(outcome, outcome, risks, horizons)
            found = time_dependent_auc(time, event, risks, horizons, samples=0)
            np.testing.assert_allclose(values(found.auc), auc, rtol=0, atol=1e-10)
            assert found.mean.value == pytest.approx(mean, abs=1e-10)
            assert found.cases == tuple(int(((time <= each) & (event == 1)).sum()) for each in horizons)
            assert found.controls == tuple(int((time > each).sum()) for each in horizons)


def test_it_is_the_share_of_pairs_one_by_one_also_with_delayed_entry():
    for seed in range(20):
        time, event, score, entry = planted(60, seed, ties=True, delayed=seed % 2 == 0)
        at = 0.4
        weight = standing(time, event, entry, at)
        cases, controls = weight * (time <= at), weight * (time > at)
        better = (score[:, None] > score) + 0.5 * (score[:, None] == score)
        wanted = (cases[:, None] * controls * better).sum() / (cases.sum() * controls.sum())
        found = time_dependent_auc(time, event, score, at, entry=entry, samples=0)
        assert found.auc[0].value == pytest.approx(wanted, abs=1e-12)
        assert found.mean.value == pytest.approx(wanted, abs=1e-12)
        shuffled = np.random.default_rng(seed).permutation(len(time))
        other = None if entry is None else entry[shuffled]
        again = time_dependent_auc(time[shuffled], event[shuffled], score[shuffled], at, entry=other, samples=0)
        assert again.auc[0].value == pytest.approx(wanted, abs=1e-12)


def test_people_who_enter_late_stand_for_those_who_never_could():
    rng = np.random.default_rng(0)
    score = rng.normal(size=400_000)
    dead = (rng.exponential(np.exp(-score)) <= 0.5)[np.argsort(score)]
    truth = ((np.cumsum(~dead) * dead).sum()) / (dead.sum() * (~dead).sum())
    time, event, score, entry = [], [], [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        risk = rng.normal(size=60_000)
        died, start = rng.exponential(np.exp(-risk)), rng.uniform(0, 0.45, 60_000) * (rng.random(60_000) < 0.9)
        end = start + rng.exponential(1.0, 60_000)
        kept = start < np.minimum(died, end)
        time.append(np.minimum(died, end)[kept])
        event.append((died <= end)[kept])
        score.append(risk[kept])
        entry.append(start[kept])
    time, event, score, entry = (np.concatenate(each) for each in (time, event, score, entry))
    right = time_dependent_auc(time, event, score, 0.5, entry=entry, samples=0).auc[0].value
    wrong = time_dependent_auc(time, event, score, 0.5, samples=0).auc[0].value
    assert abs(right - truth) < 0.006 and abs(wrong - truth) > 0.01


def test_a_resample_is_the_statistic_of_the_people_drawn():
    time, event, score, entry = planted(80, 3, ties=True, delayed=True)
    who = np.arange(len(time)) // 2
    found = time_dependent_auc(time, event, score, [0.3, 0.6], entry=entry, subject=who, samples=30, seed=7, threads=2)
    for number in (0, 13, 29):
        rows = np.repeat(np.arange(len(time)), draw(7, number, who.max() + 1)[who].astype(int))
        again = time_dependent_auc(time[rows], event[rows], score[rows], [0.3, 0.6], entry=entry[rows], samples=0)
        np.testing.assert_allclose(found.values[number], [*values(again.auc), again.mean.value], atol=1e-12)
    low, high = np.quantile(found.values[:, 0], [0.025, 0.975])
    assert (found.auc[0].low, found.auc[0].high) == (low, high)
    alone = time_dependent_auc(time, event, score, [0.3, 0.6], entry=entry, subject=who, samples=30, seed=7, threads=1)
    np.testing.assert_array_equal(alone.values, found.values)


def test_resamples_are_those_of_the_concordance_and_copies_of_people_narrow_nothing():
    time, event, score, _ = planted(150, 5)
    one = time_dependent_auc(time, event, score, 0.5, samples=200)
    twice = [np.repeat(each, 2) for each in (time, event, score, np.arange(150))]
    two = time_dependent_auc(*twice[:3], 0.5, subject=twice[3], samples=200)
    np.testing.assert_allclose(one.values, two.values, atol=1e-12)
    c = bootstrap_concordance(time, event, score, samples=200).values
    assert np.corrcoef(c, one.values[:, 0])[0, 1] > 0.7


def test_what_makes_it_shaky_is_told():
    time, event, score, entry = planted(200, 1, delayed=True)
    found = time_dependent_auc(time, event, score, [0.02, 0.5], entry=entry, samples=50)
    assert any("fewer than 10 of one" in each for each in found.warnings)
    assert any("delayed entry" in each for each in found.warnings)
    few = time_dependent_auc([1, 2, 3, 4], [1, 0, 0, 0], [3, 2, 1, 0], 1.5, samples=100)
    assert few.auc[0].undefined > 0 and any("not defined in" in each for each in few.warnings)
    assert not time_dependent_auc(*planted(500, 2)[:3], 0.5, samples=0).warnings
    lost = np.where(np.arange(500) < 490, 1.0, 5.0)
    rare = time_dependent_auc(lost, np.arange(500) < 12, np.arange(500.0), 2, samples=0)
    assert any("few stand for many" in each for each in rare.warnings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"event": np.zeros(40)}, "none of the 40 rows has it"),
        ({"horizons": 100}, "past the follow-up: nobody is watched beyond"),
        ({"horizons": [0.5, 0.5]}, "must rise"),
        ({"horizons": 0}, "must be above 0"),
        ({"horizons": []}, "must be above 0"),
        ({"horizons": 1e-9}, "nobody had the event by 1e-09"),
        ({"risk": np.ones(40)}, "the same for everybody"),
        ({"risk": np.ones((40, 3))}, r"shape \(40, 3\); must be \(40, 1\)"),
        ({"risk": np.full(40, np.nan)}, "row 0 is not a finite number"),
        ({"samples": -1}, "samples: -1"),
        ({"confidence": 1.0}, "confidence: 1.0"),
    ],
)
def test_what_cannot_be_judged_is_refused(changes, sentence):
    time, event, score, _ = planted(40, 0)
    given = {"time": time, "event": event, "risk": score, "horizons": 0.5, **changes}
    with pytest.raises(Refused, match=sentence):
        time_dependent_auc(**given)


def test_entry_that_leaves_a_gap_in_the_watch_is_refused():
    with pytest.raises(Refused, match="all who were watched at some time before 3"):
        time_dependent_auc([1, 5, 6, 7], [1, 1, 0, 1], [1, 2, 3, 4], 3, entry=[0, 2, 2, 2])
    with pytest.raises(Refused, match="just after 3: others enter later"):
        time_dependent_auc([1, 2, 6, 7], [1, 0, 0, 1], [1, 2, 3, 4], 3, entry=[0, 0, 4, 4])


def test_a_monotone_change_of_the_risk_changes_nothing():
    time, event, score, _ = planted(200, 9)
    one = time_dependent_auc(time, event, score, 0.7, samples=20)
    two = time_dependent_auc(time, event, chance(score, 0.7) * 1e3, 0.7, samples=20)
    np.testing.assert_array_equal(one.values, two.values)
