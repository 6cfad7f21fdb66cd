"""Kaplan-Meier against lifelines, against a plain loop, and where it stops."""

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_lung
from lifelines.utils import median_survival_times

from fahr.survival.curves import kaplan_meier
from survival.outcomes import people


@pytest.mark.parametrize("n", [1, 2, 7, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_it_equals_lifelines_with_its_intervals(n, ties):
    time, event, *_ = people(n, n)
    time = np.ceil(time / 400) if ties else time
    theirs = KaplanMeierFitter().fit(time, event)
    ours = kaplan_meier(time, event == 1)
    moments = np.linspace(0, time.max() * 1.1, 200)
    np.testing.assert_allclose(ours.at(moments), theirs.predict(moments).to_numpy(), atol=1e-12)
    ends = theirs.confidence_interval_.loc[ours.time].to_numpy()
    told = ours.survival > 0
    np.testing.assert_allclose(np.column_stack([ours.low, ours.high])[told], ends[told], atol=1e-9)
    assert np.isnan(ours.low[~told]).all()
    loop = [(time >= moment).sum() for moment in moments]
    assert ours.at_risk(moments).tolist() == loop
    median = theirs.median_survival_time_
    assert ours.median()[0] == (None if np.isinf(median) else median)


def test_late_entry_counts_only_after_it():
    time, event, _, _, entry = people(200, 4, delayed=True)
    time = np.ceil(time / 50)
    entry = np.floor(np.minimum(entry / 50, time - 1))
    found = kaplan_meier(time, event == 1, entry=entry)
    left, expected = 1.0, []
    for moment in np.unique(time[event == 1]):
        watched = ((entry < moment) & (time >= moment)).sum()
        left *= 1 - ((time == moment) & (event == 1)).sum() / watched
        expected.append(left)
    np.testing.assert_allclose(found.survival, expected, atol=1e-12)
    assert found.at_risk([0])[0] == (entry <= 0).sum()
    moments = np.arange(1, time.max() + 2)
    assert found.at_risk(moments).tolist() == [((entry < each) & (time >= each)).sum() for each in moments]
    nobody_late = kaplan_meier(time, event == 1, entry=np.zeros(200))
    np.testing.assert_array_equal(nobody_late.survival, kaplan_meier(time, event == 1).survival)


def test_the_median_of_the_lung_trial_is_that_of_r():
    """survfit(Surv(time, status) ~ 1, lung, conf.type = "log-log"): 310, 284 to 361."""
    lung = load_lung()
    time, event = lung["time"].to_numpy(float), lung["status"].to_numpy(float) == 1
    assert kaplan_meier(time, event).median() == (310.0, 284.0, 361.0)
    theirs = median_survival_times(KaplanMeierFitter().fit(time, event).confidence_interval_)
    assert theirs.to_numpy().ravel().tolist() == [284.0, 361.0]


@pytest.mark.filterwarnings("error")
def test_curves_without_events_or_without_people_are_flat():
    none = kaplan_meier(np.array([3.0, 5.0]), np.zeros(2, bool))
    assert none.at([0, 4, 9]).tolist() == [1, 1, 1] and none.median() == (None, None, None)
    nobody = kaplan_meier(np.zeros(0), np.zeros(0, bool))
    assert (nobody.people, nobody.last, nobody.at([1]).tolist(), nobody.at_risk([0]).tolist()) == (0, 0.0, [1.0], [0])
    # 0.8 * 0.625 is a half
    half = kaplan_meier(np.array([1.0, 2, 2, 2, 2, 3, 3, 3, 4, 4]), np.array([1, 1, 0, 0, 0, 1, 1, 1, 0, 0], bool))
    assert half.median()[0] == 3.0
