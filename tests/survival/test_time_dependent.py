"""Curves compared at event times: against Harrell's index, and against every pair."""

from dataclasses import astuple

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import concordance, time_dependent_concordance
from survival.pair_oracle import all_pairs, cohort, random_case, value_of


def event_times(case):
    return np.unique(case["time"][case["event"] == 1])


def test_it_is_the_definition_in_hundreds_of_cases_as_table_and_as_function():
    rng = np.random.default_rng(1)
    defined = 0
    for _ in range(400):
        case = random_case(rng)
        n, times = len(case["time"]), event_times(case)
        case.pop("risk")
        curves = np.round(rng.random((n, len(times))), 1) + rng.integers(0, 3, (n, len(times))) * 6e-9
        curves = np.minimum(curves, 1.0)
        weights = case.get("weights", np.ones(n))
        pairs = [np.zeros((n, n), bool) for _ in range(3)]
        for place, moment in enumerate(times):
            at = all_pairs(case["time"], case["event"], -curves[:, place], case.get("entry"), case.get("subject"))
            for table, found in zip(pairs, (at.comparable, at.tied, at.concordant), strict=True):
                table[case["time"] == moment] = found[case["time"] == moment]
        oracle = type(at)(*pairs) if len(times) else all_pairs(*(np.zeros(n),) * 3)
        found = time_dependent_concordance(**case, survival=curves)
        assert found.value == pytest.approx(value_of(oracle, weights), abs=1e-13, nan_ok=True)
        assert found.comparable == (np.outer(weights, weights) * oracle.comparable).sum()
        columns = {moment: curves[:, place] for place, moment in enumerate(times)}
        by_call = time_dependent_concordance(**case, survival=lambda t, c=columns: c[t])
        np.testing.assert_equal(astuple(by_call), astuple(found))
        defined += found.comparable > 0
    assert defined > 150


def test_curves_that_never_cross_give_harrells_index_and_its_error():
    for seed in range(5):
        time, event, risk = cohort(200, seed, ties=True)
        subject = np.arange(200) // 2
        found = time_dependent_concordance(time, event, lambda t, r=risk: np.exp(-0.1 * t * np.exp(r)), subject=subject)
        plain = concordance(time, event, risk, subject=subject)
        assert found.value == pytest.approx(plain.value, abs=1e-14)
        assert found.standard_error == pytest.approx(plain.standard_error, abs=1e-14)
        assert (found.concordant, found.tied_survival) == (plain.concordant, plain.tied_risk)


def test_curves_that_cross_are_judged_at_the_time_of_the_event():
    # one of two is at risk early, the other late: right at both events, though no single risk could be
    found = time_dependent_concordance([1, 2, 3], [1, 1, 0], [[0.5, 0.4], [0.9, 0.1], [0.8, 0.7]])
    assert (found.value, found.comparable) == (1.0, 3)
    assert time_dependent_concordance([1, 2, 3], [1, 1, 0], [[0.9, 0.4], [0.5, 0.1], [0.8, 0.7]]).concordant == 1


@pytest.mark.parametrize(
    ("survival", "sentence"),
    [
        ([[0.5], [0.5], [0.5]], r"shape \(3, 1\); must be \(3, 2\)"),
        ([[0.5, 0.4], [1.5, 0.4], [0.5, 0.4]], "row 1 has 1.5 at time 1"),
        ([[0.5, 0.4], [0.5, np.nan], [0.5, 0.4]], "row 1 has nan at time 2"),
        (lambda t: [0.5, 0.5], r"shape \(2,\) at time 1"),
    ],
)
def test_curves_that_fit_no_cohort_are_refused(survival, sentence):
    with pytest.raises(Refused, match=sentence):
        time_dependent_concordance([1, 2, 3], [1, 1, 0], survival)


def test_without_events_there_is_no_value():
    assert np.isnan(time_dependent_concordance([1, 2], [0, 0], np.zeros((2, 0))).value)
