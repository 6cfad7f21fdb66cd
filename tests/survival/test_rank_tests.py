"""Log-rank tests and restricted means against R, against plain loops, and where there is nothing to compare."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival.cox import fit_cox
from fahr.survival.curves import at_risk_table, kaplan_meier
from fahr.survival.rank_tests import log_rank, log_rank_trend
from fahr.survival.rmst import restricted_mean, restricted_mean_difference
from survival.outcomes import people
from survival.r_oracle import close, liver, lung, r, random_people


@pytest.mark.parametrize(
    ("case", "table", "time", "event", "group", "strata"),
    [
        ("lung_sex", lung, "time", "status", "sex", None),
        ("lung_ecog", lung, "time", "status", "ph.ecog", None),
        ("lung_ecog_strata", lung, "time", "status", "ph.ecog", "sex"),
        ("pbc_stage", liver, "time", "status", "stage", None),
        ("random_grade", random_people, "time", "event", "grade", "site"),
    ],
)
def test_groups_are_compared_as_by_r(case, table, time, event, group, strata):
    rows, theirs = table(), r(case)
    happened = rows[event] == (2 if case == "pbc_stage" else 1)
    found = log_rank(rows[time], happened, rows[group], strata=None if strata is None else rows[strata])
    close(found.test.statistic, theirs["statistic"])
    close(found.observed, theirs["observed"])
    close(found.expected, theirs["expected"])
    close(found.variance, theirs["variance"])
    assert found.test.freedom == len(found.groups) - 1 and sum(found.people) == len(rows)


def test_a_trend_is_tested_as_by_r():
    rows = lung()
    found = log_rank_trend(rows["time"], rows["status"], rows["ph.ecog"])
    close([found.test.statistic, found.test.freedom], r("lung_trend")["score"])
    within = log_rank_trend(rows["time"], rows["status"], rows["ph.ecog"], strata=rows["sex"])
    close(within.test.statistic, r("lung_trend_strata")["score"][0])
    rows = random_people()
    close(log_rank_trend(rows["time"], rows["event"], rows["grade"]).test.statistic, r("random_trend")["score"][0])


def test_late_entry_is_counted_as_a_loop_counts_it():
    time, event, _, _, entry = people(140, 6, delayed=True)
    time = np.ceil(time / 200)
    entry = np.floor(np.minimum(entry / 200, time - 1))
    group, site = np.arange(140) % 3, np.arange(140) % 2
    gap, spread = np.zeros(3), np.zeros((3, 3))
    for where in (0, 1):
        for moment in np.unique(time[(event == 1) & (site == where)]):
            watched = (entry < moment) & (time >= moment) & (site == where)
            dead = (time == moment) & (event == 1) & (site == where)
            share = np.bincount(group[watched], minlength=3) / watched.sum()
            gap += np.bincount(group[dead], minlength=3) - dead.sum() * share
            if watched.sum() > 1:
                factor = dead.sum() * (watched.sum() - dead.sum()) / (watched.sum() - 1)
                spread += factor * (np.diag(share) - np.outer(share, share))
    found = log_rank(time, event, group, entry=entry, strata=site)
    close(found.variance, spread)
    close(found.test.statistic, gap[:2] @ np.linalg.solve(spread[:2, :2], gap[:2]))
    trend = log_rank_trend(time, event, group, entry=entry, strata=site)
    scores = np.arange(3)
    close(trend.test.statistic, (scores @ gap) ** 2 / (scores @ spread @ scores))


def test_without_ties_it_is_the_score_test_of_cox():
    rng = np.random.default_rng(2)
    time, event, group = rng.exponential(size=80), rng.random(80) < 0.7, rng.random(80) < 0.5
    fit = fit_cox(time, event, {"x": group * 1.0})
    null = type(fit.point).at(fit.point.sets, fit.point.table, np.zeros(1))
    score = float(null.slope()[0] ** 2 / null.information()[0, 0])
    assert log_rank(time, event, np.where(group, "b", "a")).test.statistic == pytest.approx(score, rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_groups_that_cannot_be_compared_are_refused_and_everybody_at_one_time_is_no_difference():
    for event, group, told in (
        ([1, 0, 1], ["a"] * 3, r"all 3 rows are of one \(a\)"),
        ([0, 0, 0], ["a", "b", "b"], "nobody of 3 had it"),
        ([1, 0, 1], ["a", None, "b"], "group: row 1 is missing"),
    ):
        with pytest.raises(Refused, match=told):
            log_rank([1, 2, 3], event, group)
    at_once = log_rank([5] * 4, [1] * 4, ["a", "a", "b", "b"])
    assert at_once.test.statistic == 0 and at_once.test.p_value == 1
    one = log_rank([1, 2, 2, 2], [1, 0, 0, 0], ["a", "a", "b", "b"])  # one event: expected 1/2, variance 1/4
    assert (one.test.statistic, one.test.freedom) == (pytest.approx(1.0), 1)


CURVES = [
    ("lung_curve", lung, "status", 1, None),
    ("pbc_curve", liver, "status", 2, None),
    ("random_curve", random_people, "event", 1, "entry"),
]


@pytest.mark.parametrize(("case", "table", "event", "which", "entry"), CURVES)
def test_curves_and_restricted_means_are_those_of_r(case, table, event, which, entry):
    rows, theirs = table(), r(case)
    time, happened = rows["time"].to_numpy(float), rows[event].to_numpy() == which
    curve = kaplan_meier(time, happened, entry=None if entry is None else rows[entry].to_numpy(float))
    moments = theirs["times"]
    close(curve.at(moments), theirs["surv"])
    close(curve.standard_error(moments), theirs["std.err"])
    low, high = curve.interval(moments)
    close(low, theirs["lower"])
    close(high, theirs["upper"])
    close(curve.median(), [theirs[name][0] for name in ("median", "median_low", "median_high")])
    if entry is None:  # R counts those at risk at the next time of the data
        assert curve.at_risk(moments).tolist() == theirs["n.risk"].tolist()
    found = restricted_mean(curve, float(theirs["tau"][0]))
    close([found.value, found.standard_error], [theirs["mean"][0], theirs["mean_error"][0]])
    assert found.events == (happened & (time <= found.horizon)).sum()


def test_two_restricted_means_differ_by_what_r_finds_of_each():
    rows, theirs = lung(), r("lung_sexes")
    found = [
        restricted_mean(kaplan_meier(mine["time"].to_numpy(float), mine["status"].to_numpy() == 1), 600.0)
        for _, mine in rows.groupby("sex")
    ]
    close([each.value for each in found], theirs["mean"])
    gap = restricted_mean_difference(found[1], found[0])
    error = np.hypot(*theirs["mean_error"])
    close([gap.value, gap.standard_error], [theirs["mean"][1] - theirs["mean"][0], error])
    assert gap.low < gap.value < gap.high and 0.0001 < gap.p_value < 0.01


def test_a_restricted_mean_by_hand_and_past_the_end():
    """Of 4 people: one goes at 1, one at 3, two are left at 4. Area to 4: 1 + 2 * 3/4 + 1/2."""
    curve = kaplan_meier(np.array([1.0, 3, 4, 4]), np.array([1, 1, 0, 0], bool))
    found = restricted_mean(curve, 4.0)
    assert found.value == pytest.approx(3.0)
    assert found.standard_error == pytest.approx(np.sqrt(2.0**2 / (4 * 3) + 0.5**2 / (3 * 2)))
    with pytest.raises(Refused, match=r"horizon: 5 lies past the longest follow-up, 4, with 50% still"):
        restricted_mean(curve, 5.0)
    gone = kaplan_meier(np.array([1.0, 2.0]), np.ones(2, bool))
    assert restricted_mean(gone, 10.0).value == pytest.approx(1.5)  # nobody is left: the rest of the area is 0
    for horizon in (0.0, -1.0, np.nan):
        with pytest.raises(Refused, match="must be a time above 0"):
            restricted_mean(curve, horizon)
    with pytest.raises(Refused, match="horizon: 4 of one mean and 3"):
        restricted_mean_difference(found, restricted_mean(curve, 3.0))


def test_the_table_of_those_at_risk_hides_small_counts():
    time = np.arange(1.0, 31.0)
    curves = {"all": kaplan_meier(time, np.ones(30, bool)), "few": kaplan_meier(time[:9], np.ones(9, bool))}
    made = at_risk_table(curves, [0, 1, 21, 22, 31])
    assert made.cells() == [["30", "30", "10", "<10", "0"], ["<10", "<10", "0", "0", "0"]]
    assert made.lines()[1].split() == ["all", "30", "30", "10", "<10", "0"]
