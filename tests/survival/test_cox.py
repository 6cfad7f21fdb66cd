"""Cox models against the definition of Efron's likelihood, against figures that R prints, and where none exists."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_lung
from scipy.optimize import minimize
from scipy.stats import chi2

from fahr.errors import Refused
from fahr.survival.cox import NoEstimate, beyond, fit_cox, likelihood_ratio
from fahr.survival.risk_sets import RiskSets
from survival.outcomes import efron, people


@pytest.mark.parametrize("delayed", [False, True])
def test_it_maximises_efrons_likelihood_with_ties_and_delayed_entry(delayed):
    time, event, risk, age, entry = people(120, 3, own=0.5, delayed=delayed)
    time = np.ceil(time / 300)  # heavy ties
    if delayed:
        entry = np.floor(np.minimum(entry / 300, time - 1))
        assert (np.isin(entry[entry > 0], time[event == 1])).sum() > 5  # some enter at the time of a death
    table = np.column_stack([age / 10, risk])
    best = minimize(lambda beta: -efron(beta, time, event, table, entry), [0.0, 0.0], tol=1e-12)
    fit = fit_cox(time, event == 1, {"age": age / 10, "risk": risk}, entry=entry)
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    np.testing.assert_allclose(fit.coefficients, best.x, atol=2e-4)

    def curvature(one, other, step=1e-3):
        def at(up, across):
            beta = fit.coefficients.copy()
            beta[one] += up * step
            beta[other] += across * step
            return efron(beta, time, event, table, entry)

        return -(at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * step**2)

    information = np.array([[curvature(one, other) for other in (0, 1)] for one in (0, 1)])
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(information), rtol=1e-3)


@pytest.mark.parametrize("k", range(8))
def test_log_hazards_far_apart_cost_no_digit(k):
    """Log hazards of 30 and more between the first and the last: sums over those at risk, made as differences, have
    nothing left of the others while such a one has not entered yet."""
    rng = np.random.default_rng(k)
    age, far = rng.normal(size=60), 3 * rng.standard_t(4, 60)
    entry = rng.uniform(0, 10, 60)
    left = entry + rng.uniform(1, 20, 60)
    time = entry + rng.exponential(np.exp(-1.5 * far - 0.5 * age))
    event, time = time < left, np.minimum(time, left)
    groups = rng.integers(0, 2, 60) if k % 2 else None
    fit = fit_cox(time, event, {"far": far, "age": age}, entry=entry, strata=groups)
    table = np.column_stack([far, age]) - fit.means

    def definition(beta):
        parts = [np.ones(60, bool)] if groups is None else [groups == 0, groups == 1]
        return sum(efron(beta, time[each], event[each].astype(float), table[each], entry[each]) for each in parts)

    reached = definition(fit.coefficients)
    assert fit.log_likelihood == pytest.approx(reached, abs=1e-8)
    for step in (*np.eye(2), *-np.eye(2)):
        assert definition(fit.coefficients + 0.01 * step * np.sqrt(np.diag(fit.covariance))) < reached


@pytest.mark.parametrize("strata", [False, True])
def test_sums_that_subtract_nothing_are_the_same_sums(strata):
    time, event, risk, _, entry = people(90, 5, own=0.5, delayed=True)
    time = np.ceil(time / 300)
    entry = np.floor(np.minimum(entry / 300, time - 1))
    groups = np.random.default_rng(0).integers(0, 3, 90) if strata else None
    sets = RiskSets.of(time, event == 1, entry=entry, strata=groups)
    exact = replace(sets, exact=True)
    of_people, of_events = np.column_stack([risk, np.exp(risk)]), np.linspace(1, 2, len(sets.dead))
    np.testing.assert_allclose(exact.at_risk(of_people), sets.at_risk(of_people), rtol=1e-9)
    np.testing.assert_allclose(exact.over_events(of_events), sets.over_events(of_events), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("delayed", [False, True])
def test_it_equals_lifelines(delayed):
    time, event, risk, age, entry = people(700, 6, own=0.7, delayed=delayed)
    table = pd.DataFrame({"t": time, "e": event, "age": age, "risk": risk})
    theirs = CoxPHFitter().fit(
        table.assign(entry=entry) if delayed else table, "t", "e", entry_col="entry" if delayed else None,
        fit_options={"precision": 1e-10, "r_precision": 1e-14},
    )  # fmt: skip
    ours = fit_cox(time, event == 1, {"age": age, "risk": risk}, entry=entry)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood_, abs=1e-6)
    np.testing.assert_allclose(ours.coefficients, theirs.params_.to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(ours.covariance, theirs.variance_matrix_.to_numpy(), rtol=1e-5)
    told = ours.hazard("risk")
    summary = theirs.summary.loc["risk"]
    assert (told.ratio, told.low, told.high) == pytest.approx(
        (summary["exp(coef)"], summary["exp(coef) lower 95%"], summary["exp(coef) upper 95%"]), rel=1e-5
    )
    assert told.p_value == pytest.approx(summary["p"], rel=1e-4)


def test_the_lung_trial_gives_the_figures_of_r():
    """coxph(Surv(time, status) ~ age + sex + ph.ecog, lung), and ~ sex, as R prints them."""
    lung = load_lung()
    rows = lung[["time", "status", "age", "sex", "ph.ecog"]].dropna()
    time, event = rows["time"].to_numpy(float), rows["status"].to_numpy(float) == 1
    columns = {name: rows[name].to_numpy(float) for name in ("age", "sex", "ph.ecog")}
    fit = fit_cox(time, event, columns)
    assert (fit.n, fit.events) == (227, 164)
    np.testing.assert_allclose(fit.coefficients, [0.011067, -0.552612, 0.463728], atol=2e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), [0.009267, 0.167739, 0.113577], atol=2e-6)
    told = fit.hazard("sex")
    assert told.ratio == pytest.approx(0.575445, abs=2e-6) and told.p_value == pytest.approx(0.000986, abs=1e-6)
    assert (told.low, told.high) == pytest.approx((0.4142, 0.7994), abs=1e-4)
    alone = fit_cox(
        lung["time"].to_numpy(float), lung["status"].to_numpy(float) == 1, {"sex": lung["sex"].to_numpy(float)}
    )
    assert alone.coefficients[0] == pytest.approx(-0.5310, abs=1e-4)


def test_a_ratio_for_ten_units_is_the_tenth_power_and_for_less_than_none_its_inverse():
    time, event, _, age, _ = people(200, 1)
    fit = fit_cox(time, event == 1, {"age": age})
    one, ten, less = fit.hazard("age"), fit.hazard("age", per=10), fit.hazard("age", per=-10)
    assert ten.ratio == pytest.approx(one.ratio**10) and ten.low == pytest.approx(one.low**10)
    assert (less.ratio, less.low, less.high) == pytest.approx((1 / ten.ratio, 1 / ten.high, 1 / ten.low))
    assert one.p_value == ten.p_value == less.p_value
    np.testing.assert_allclose(fit.linear({"age": age}), np.log(one.ratio) * age)


def test_no_unit_of_a_column_changes_the_likelihood():
    time, event, risk, age, _ = people(150, 2, own=0.5)
    fit = fit_cox(time, event == 1, {"age": age, "risk": risk})
    other = fit_cox(time, event == 1, {"age": 1e6 * age, "risk": 1e-6 * risk + 1e-3})
    assert other.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)
    assert other.hazard("risk", per=1e-6).ratio == pytest.approx(fit.hazard("risk").ratio, rel=1e-5)


def test_the_ratio_test_is_chi_squared_and_wants_nested_models_of_identical_rows():
    for freedom in range(1, 8):
        for statistic in (0.0, 0.01, 1.0, 3.84, 25.0, 300.0):
            assert beyond(statistic, freedom) == pytest.approx(chi2.sf(statistic, freedom), rel=1e-9, abs=1e-300)
    time, event, risk, age, _ = people(150, 2, own=0.5)
    small, large = fit_cox(time, event == 1, {"age": age}), fit_cox(time, event == 1, {"age": age, "risk": risk})
    told = likelihood_ratio(small, large)
    assert told.statistic == 2 * (large.log_likelihood - small.log_likelihood) > 0 and told.freedom == 1
    fewer = fit_cox(time[1:], event[1:] == 1, {"age": age[1:]})
    entered = fit_cox(time, event == 1, {"age": age}, entry=np.zeros(150))
    for other in (fewer, entered):
        with pytest.raises(Refused, match=r"nested models: one of .* identical rows"):
            likelihood_ratio(other, large)
    for smaller, larger in ((large, small), (small, small)):
        with pytest.raises(Refused, match="is not a part of"):
            likelihood_ratio(smaller, larger)


@pytest.mark.filterwarnings("error")
def test_where_there_is_no_estimate_the_reason_is_told():
    time, event, _, age, _ = people(80, 5)
    happened = event == 1
    cases = [
        ({"age": age}, np.zeros(80, bool), "nobody had the event"),
        ({"age": age, "risk": np.full(80, 3.3)}, happened, "risk is the same for everybody"),
        ({"age": age, "risk": 3 - 2 * age}, happened, "age and risk say the same"),
        ({"soon": -time}, happened, "the likelihood rises for ever with soon"),
        ({"age": age, "dead": happened * 1.0}, happened, "the likelihood rises for ever with dead"),
    ]
    for columns, died, told in cases:
        with pytest.raises(NoEstimate, match=told):
            fit_cox(time, died, columns)


def test_tests_and_intervals_are_right_as_often_as_they_promise():
    """300 cohorts of 150 people with delayed entry: a column that says nothing, and age with its planted ratio."""
    called, covered = [], []
    for seed in range(300):
        time, event, _, age, entry = people(150, seed, delayed=True)
        noise = np.random.default_rng(seed + 10_000).normal(size=150)
        small = fit_cox(time, event == 1, {"age": age}, entry=entry)
        large = fit_cox(time, event == 1, {"age": age, "noise": noise}, entry=entry)
        called.append(likelihood_ratio(small, large).p_value < 0.05)
        told = small.hazard("age", per=10)
        covered.append(told.low < np.exp(0.7) < told.high)
    assert 0.017 < np.mean(called) < 0.088  # 5 % +- 2.6 standard errors of 300 draws, and a little for n = 150
    assert 0.91 < np.mean(covered) < 0.983
