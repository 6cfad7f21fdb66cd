"""Concordance against the definition pair by pair, against lifelines and scikit-survival, and against simulation."""

import pickle
import subprocess
import sys

import numba
import numpy as np
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_lung
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from fahr.errors import Refused
from fahr.survival import ReversedSign, censoring_survival, compiled, concordance
from fahr.survival.engine import engine
from survival.pair_oracle import all_pairs, cohort, random_case, value_of


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    """Both implementations, by the switch that users have."""
    monkeypatch.setenv("FAHR_NO_NUMBA", "1" if request.param == "plain" else "0")
    assert engine().__name__ == f"fahr.survival.{request.param}"
    return request.param


def weights_of(case):
    return case.get("weights", np.ones(len(case["time"])))


def oracle_of(case, before=np.inf):
    return all_pairs(case["time"], case["event"], case["risk"], case.get("entry"), case.get("subject"), before)


def test_every_pair_count_and_value_is_that_of_the_definition_in_thousands_of_cases(way):
    rng = np.random.default_rng(1)
    undefined = spans = 0
    for _ in range(2500):
        case = random_case(rng)
        found, oracle, weights = concordance(**case), oracle_of(case), weights_of(case)
        pair = np.outer(weights, weights)
        assert found.concordant == (pair * oracle.concordant).sum()
        assert found.tied_risk == (pair * oracle.tied).sum()
        assert found.comparable == (pair * oracle.comparable).sum()
        assert found.discordant == found.comparable - found.concordant - found.tied_risk
        assert found.value == pytest.approx(value_of(oracle, weights), abs=1e-13, nan_ok=True)
        undefined += np.isnan(found.value)
        gap = np.abs(np.subtract.outer(case["risk"], case["risk"]))
        spans += bool(((gap > 0) & (gap <= 1e-8)).any())
    assert undefined > 100 and spans > 500  # the hard cases were among them


def test_uno_weights_and_truncation_are_those_of_the_definition(way):
    rng = np.random.default_rng(2)
    compared = 0
    for _ in range(600):
        case = random_case(rng)
        tau = float(rng.integers(1, 10))
        hazard = rng.uniform(0.01, 0.2)
        found = concordance(**case, kind="uno", tau=tau, censoring=lambda t, h=hazard: np.exp(-h * t))
        ipcw = np.exp(2 * hazard * case["time"])
        oracle, weights = oracle_of(case, before=tau), weights_of(case)
        assert found.value == pytest.approx(value_of(oracle, weights, ipcw), abs=1e-12, nan_ok=True)
        assert found.comparable == (np.outer(weights, weights) * oracle.comparable).sum()
        if found.comparable:
            exact = influence_by_complex_step(oracle, weights, ipcw)
            assert found.standard_error == pytest.approx(clustered(exact, case.get("subject")), abs=1e-12)
            compared += 1
    assert compared > 300


def influence_by_complex_step(oracle, weights, ipcw=None):
    """Weight times derivative of the value by that weight, to rounding: no step is too small for a complex one."""
    exact = np.zeros(len(weights))
    for k in range(len(weights)):
        moved = weights.astype(complex)
        moved[k] += 1e-30j
        exact[k] = weights[k] * value_of(oracle, moved, ipcw).imag / 1e-30
    return exact


def clustered(influences, subject):
    sums = influences if subject is None else [influences[subject == each].sum() for each in np.unique(subject)]
    return np.sqrt(np.square(sums).sum())


def test_the_standard_error_is_the_infinitesimal_jackknife_summed_within_subjects(way):
    rng = np.random.default_rng(3)
    compared = 0
    for _ in range(800):
        case = random_case(rng)
        found = concordance(**case)
        if not found.comparable:
            assert np.isnan(found.standard_error)
            continue
        exact = influence_by_complex_step(oracle_of(case), weights_of(case))
        assert found.standard_error == pytest.approx(clustered(exact, case.get("subject")), abs=1e-12)
        compared += found.standard_error > 0
    assert compared > 300


def test_intervals_by_the_standard_error_cover_the_true_concordance_at_their_level():
    # risk r and exponential times of rate exp(r) for all, censored alike: the truth is read off a large cohort
    truth = concordance(*cohort(200_000, 0)).value
    covered = []
    for seed in range(1, 401):
        found = concordance(*cohort(150, seed))
        covered.append(abs(found.value - truth) < 1.96 * found.standard_error)
    assert 0.92 < np.mean(covered) < 0.975  # 95 % +- 2.3 standard errors of 400 draws, and a little for n = 150


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [40, 3000])
def test_it_equals_lifelines_and_scikit_survival(way, n, ties):
    for seed in range(5):
        time, event, risk = cohort(n, seed, ties=ties)
        found = concordance(time, event, risk)
        theirs = concordance_index_censored(event == 1, time, risk)
        assert (found.concordant, found.discordant, found.tied_risk) == theirs[1:4]
        assert found.value == pytest.approx(theirs[0], abs=1e-14)
        if np.diff(np.unique(risk)).min() > 1e-8:  # lifelines ties only what is equal
            assert found.value == pytest.approx(concordance_index(time, -risk, event), abs=1e-14)


@pytest.mark.parametrize("ties", [False, True])
def test_uno_equals_scikit_survival(way, ties):
    for seed in range(6):
        time, event, risk = cohort(300, seed, ties=ties)
        outcome = Surv.from_arrays(event == 1, time)
        default = concordance(time, event, risk, kind="uno")
        for tau in (1.0, float(np.quantile(time, 0.9)), default.tau):
            theirs = concordance_index_ipcw(outcome, outcome, risk, tau=tau)[0]
            assert concordance(time, event, risk, kind="uno", tau=tau).value == pytest.approx(theirs, abs=1e-12)
        assert default.value == concordance(time, event, risk, kind="uno", tau=default.tau).value
        training = cohort(500, seed + 100, ties=ties)
        theirs = concordance_index_ipcw(Surv.from_arrays(training[1] == 1, training[0]), outcome, risk, tau=1.0)[0]
        given = censoring_survival(training[0], training[1])
        mine = concordance(time, event, risk, kind="uno", tau=1.0, censoring=given)
        assert mine.value == pytest.approx(theirs, abs=1e-12)


def test_uno_estimates_what_no_censoring_would_show_where_harrell_is_biased():
    # a risk that ranks early events well and late ones badly: censoring hides the late ones from Harrell
    rng = np.random.default_rng(5)
    n = 60_000
    died = rng.exponential(1.0, n)
    risk = np.where(died < 0.5, -died, rng.normal(-0.9, 0.3, n))
    left = rng.exponential(0.7, n)
    time, event = np.minimum(died, left), died <= left
    full = concordance(died, np.ones(n), risk, tau=1.5)
    assert abs(concordance(time, event, risk, kind="uno", tau=1.5).value - full.value) < 0.005
    assert abs(concordance(time, event, risk, tau=1.5).value - full.value) > 0.02


def test_the_default_tau_keeps_its_own_time_and_says_what_it_is():
    time, event = np.arange(1.0, 101.0), np.ones(100)
    found = concordance(time, event, -time, kind="uno")
    assert found.tau == pytest.approx(np.percentile(time, 95)) and found.tau > np.percentile(time, 95)
    assert found.value == 1.0
    one = concordance([1.0, 2.0], [1, 0], [1.0, 0.0], kind="uno")
    assert (one.value, one.comparable) == (1.0, 1)
    thin = concordance([*range(1, 101), 200, 300], [*([0] * 100), 1, 1], np.zeros(102), kind="uno")
    assert thin.tau == pytest.approx(96, abs=1e-9)  # G falls to 6/102 = 0.059 at 96 and to 0.049 at 97
    assert thin.comparable == 0 and np.isnan(thin.value)


def test_delayed_entry_counts_only_who_was_already_watched(way):
    # the second enters after the first has died, the third on the very day, the fourth before
    found = concordance([5, 9, 9, 9], [1, 0, 0, 0], [1, 2, 3, 0], entry=[0, 6, 5, 4])
    assert (found.comparable, found.concordant) == (1, 1)


def test_a_frequency_weight_is_as_many_rows(way):
    rng = np.random.default_rng(6)
    for _ in range(200):
        case = random_case(rng)
        many = rng.integers(0, 4, len(case["time"]))
        case.pop("weights", None)
        repeated = {name: np.repeat(column, many) for name, column in case.items()}
        one, other = concordance(**case, weights=many), concordance(**repeated)
        assert one.value == pytest.approx(other.value, abs=1e-14, nan_ok=True)
        assert (one.comparable, one.tied_risk) == (other.comparable, other.tied_risk)


def test_the_opposite_risk_has_the_opposite_concordance(way):
    rng = np.random.default_rng(7)
    for _ in range(200):
        case = random_case(rng)
        found, opposite = concordance(**case), concordance(**{**case, "risk": -case["risk"]})
        assert opposite.value == pytest.approx(1 - found.value, abs=1e-14, nan_ok=True)
        assert opposite.concordant == found.discordant


def test_the_order_of_rows_and_the_unit_of_time_do_not_matter(way):
    rng = np.random.default_rng(8)
    time, event, risk = cohort(400, 8, ties=True)
    subject, weights = rng.integers(0, 150, 400), rng.random(400) + 0.1
    one = concordance(time, event, risk, entry=time - 0.5, subject=subject, weights=weights)
    order = rng.permutation(400)
    days = time[order] * 365.25
    entry = (time - 0.5)[order] * 365.25
    other = concordance(days, event[order], risk[order], entry=entry, subject=subject[order], weights=weights[order])
    assert other.value == pytest.approx(one.value, abs=1e-12)
    assert other.standard_error == pytest.approx(one.standard_error, abs=1e-12)


def test_compiled_and_plain_agree_on_a_large_cohort_with_everything(monkeypatch):
    rng = np.random.default_rng(9)
    n = 30_000
    time, event, risk = cohort(n, 9)
    risk = np.where(rng.random(n) < 0.5, np.round(risk, 1), risk) + rng.integers(0, 4, n) * 4e-9
    time = np.where(rng.random(n) < 0.5, np.round(time, 1) + 0.1, time)
    extra = {
        "entry": time * rng.uniform(-1, 0.9, n),
        "weights": rng.random(n) * 3,
        "subject": rng.integers(0, n // 3, n),
    }
    for kind in ("harrell", "uno"):
        found = []
        for switch in ("0", "1"):
            monkeypatch.setenv("FAHR_NO_NUMBA", switch)
            one = concordance(time, event, risk, kind=kind, **extra)
            found.append([one.value, one.standard_error, one.concordant / n, one.tied_risk / n, one.comparable / n])
        np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"time": [], "event": [], "risk": []}, (np.nan, 0)),
        ({"time": [3], "event": [1], "risk": [0]}, (np.nan, 0)),
        ({"time": [1, 2, 3], "event": [0, 0, 0], "risk": [1, 2, 3]}, (np.nan, 0)),
        ({"time": [1, 2, 3], "event": [0, 0, 1], "risk": [1, 2, 3]}, (np.nan, 0)),  # one event, and nobody after it
        ({"time": [1, 2, 3], "event": [1, 0, 0], "risk": [3, 2, 1]}, (1.0, 2)),  # one event
        ({"time": [2, 2, 2], "event": [1, 1, 1], "risk": [3, 2, 1]}, (np.nan, 0)),  # all at once
        ({"time": [2, 2], "event": [1, 0], "risk": [3, 2]}, (1.0, 1)),  # the event comes before the censoring
        ({"time": [2, 2], "event": [0, 1], "risk": [3, 2]}, (0.0, 1)),
        ({"time": [0, 0, 1], "event": [1, 0, 0], "risk": [1, 1, 0]}, (0.75, 2)),  # time 0
        ({"time": [-0.0, 0.0], "event": [0, 1], "risk": [0, 1]}, (1.0, 1)),  # both zeros are one time
        ({"time": [1, 2, 3], "event": [1, 1, 0], "risk": [0.0, -0.0, 0.0]}, (0.5, 3)),
        ({"time": [1, 2, 3], "event": [1, 1, 1], "risk": [9, 8, 7], "subject": [4, 4, 4]}, (np.nan, 0)),
        ({"time": [1, 2, 3], "event": [1, 1, 1], "risk": [9, 8, 7], "weights": [0, 1, 0]}, (np.nan, 0)),
        ({"time": [1, 2], "event": [1, 1], "risk": [1e308, -1e308]}, (1.0, 1)),
        ({"time": [1e-320, 1e300], "event": [True, False], "risk": [5e-324, 1.0]}, (0.0, 1)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_degenerate_cohorts_have_the_value_of_the_definition_or_none(way, case, expected):
    found = concordance(**case)
    assert (found.value, found.comparable) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.standard_error) == np.isnan(found.value)
    if min(case["time"], default=1) > 0:  # an event at time 0 lies before any tau
        assert np.isnan(concordance(**case, kind="uno", tau=1e-321).value)


def test_weights_that_leave_nobody_do_not_leave_rounding_either(way):
    # all pairs are within a subject: what is taken away is the sum of what was added, in another order
    rng = np.random.default_rng(10)
    weights = rng.random(60) * 10.0 ** rng.integers(-6, 6, 60)
    found = concordance(rng.random(60), np.ones(60), rng.random(60), weights=weights, subject=np.zeros(60, int))
    assert found.comparable == 0 and np.isnan(found.value)


def test_a_chain_of_near_ties_is_no_group():
    # 0 ties with 0.8e-8 and that with 1.6e-8, but the ends differ
    found = concordance([1, 2, 3], [1, 1, 1], [0.0, 0.8e-8, 1.6e-8])
    assert (found.tied_risk, found.discordant, found.concordant) == (2, 1, 0)


BASE = {"time": [1.0, 2.0, 3.0], "event": [1, 0, 1], "risk": [3.0, 2.0, 1.0]}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"time": [1.0, np.nan, 3.0]}, r"time: row 1 is not a finite number \(nan\)"),
        ({"time": [1.0, 2.0, -3.0]}, r"time: row 2 is negative \(-3.0\)"),
        ({"time": [[1.0], [2.0], [3.0]]}, r"time: has shape \(3, 1\)"),
        ({"time": ["1", "2", "3"]}, "time: holds <U1, not numbers"),
        ({"event": [1, 2, 1]}, r"event: row 1 must be 0 or 1 \(2.0\)"),
        ({"event": [1, None, 1]}, "event: row 1 is not a finite number"),
        ({"event": [1, 0]}, "event: has 2 values for 3 rows"),
        ({"risk": [np.inf, np.inf, 1.0]}, r"risk: row 0 is not a finite number \(inf\), and 1 more"),
        ({"risk": [3.0, 2.0, 1.0, 0.0]}, "risk: has 4 values for 3 rows"),
        ({"entry": [0.0, 2.0, 0.0]}, r"entry: row 1 must lie before time \(2.0\)"),
        ({"entry": [0.0, np.nan, 0.0]}, "entry: row 1"),
        ({"weights": [1, 1, -1]}, "weights: row 2 is negative"),
        ({"weights": [1, 1e-200, 1]}, "weights: row 1 lies beyond"),
        ({"subject": ["a", None, "b"]}, "subject: row 1 is missing"),
        ({"subject": ["a", "b"]}, "subject: has 2 values"),
        ({"kind": "unos"}, "Did you mean 'uno'"),
        ({"tau": 0}, "tau: 0 is not above 0"),
        ({"tau": float("nan")}, "tau: nan"),
        ({"censoring": np.ones_like}, "censoring: only"),
        ({"kind": "uno", "censoring": lambda t: np.full(len(t), 1.5)}, "censoring: must give one probability"),
        (
            {"kind": "uno", "censoring": lambda t: (t < 2) * 1.0, "tau": 9},
            "censoring: nobody is still watched at time 3",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_with_the_row(changed, sentence):
    with pytest.raises(Refused, match=sentence):
        concordance(**{**BASE, **changed})


def test_a_reversed_sign_is_told_and_a_right_one_is_not(recwarn):
    time, event, risk = cohort(500, 1)
    right, wrong = concordance(time, event, risk), concordance(time, event, -risk)
    assert wrong.looks_reversed and not right.looks_reversed and not concordance([], [], []).looks_reversed
    right.warn_if_reversed("face risk")
    assert not recwarn.list
    with pytest.warns(ReversedSign, match="face risk: concordance 0.2"):
        wrong.warn_if_reversed("face risk")


def test_a_result_survives_pickling():
    found = concordance(*cohort(50, 1))
    assert pickle.loads(pickle.dumps(found)).standard_error == found.standard_error


def test_without_numba_the_plain_way_is_taken_and_gives_the_same():
    code = """
import sys
sys.modules["numba"] = None
from fahr.survival import concordance
from fahr.survival.engine import engine
print(engine().__name__, concordance([1, 2, 2, 4], [1, 1, 0, 0], [1.0, 3.0, 1.0, 2.0]).value)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fahr.survival.plain", repr(concordance(*NAMED).value)]


NAMED = ([1, 2, 2, 4], [1, 1, 0, 0], [1.0, 3.0, 1.0, 2.0])


def test_where_machine_code_cannot_be_kept_it_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])  # what no writable folder comes down to
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(weights_of)
    assert compiled.compiled(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize(
    ("columns", "published"),
    [
        (["sex"], ("0.579", "0.021")),
        (["age", "sex"], ("0.603", "0.025")),
        (["age", "sex", "ph.ecog"], ("0.637", "0.025")),
        (["age", "sex", "ph.karno"], ("0.637", "0.025")),
    ],
)
def test_value_and_standard_error_are_those_that_r_prints_for_its_lung_data(way, columns, published):
    # summary(coxph(Surv(time, status) ~ ..., lung)), survival 3: "Concordance= 0.603  (se = 0.025 )"
    lung = load_lung()[["time", "status", *columns]].dropna()
    risk = CoxPHFitter().fit(lung, "time", "status").predict_log_partial_hazard(lung)
    found = concordance(lung["time"], lung["status"], risk)
    assert (f"{found.value:.3f}", f"{found.standard_error:.3f}") == published
