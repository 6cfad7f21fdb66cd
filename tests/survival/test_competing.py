"""Several causes: against R, by hand, against Kaplan-Meier, and by moving one person's weight."""

import numpy as np
import pytest
from lifelines import CoxPHFitter

from fahr.errors import Refused
from fahr.survival.competing import cumulative_incidence, of_cause
from fahr.survival.cox import fit_cox
from fahr.survival.curves import kaplan_meier
from survival.outcomes import people
from survival.r_oracle import close, liver, r, random_people

CASES = {
    "random_causes": (random_people, "cause", {}),
    "random_causes_entry": (random_people, "cause", {"entry": "entry"}),
    "pbc_causes": (liver, "status", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_shares_errors_and_intervals_are_those_of_r(case):
    table, cause, options = CASES[case]
    rows, theirs = table(), r(case)
    found = cumulative_incidence(rows["time"], rows[cause], **{name: rows[one] for name, one in options.items()})
    moments, states = theirs["times"], {name: theirs[name].reshape(3, -1)[1:] for name in ("states", "errors")}
    close([found.at(name, moments) for name in found.causes], states["states"])
    close([found.standard_error(name, moments) for name in found.causes], states["errors"])
    for place, end in enumerate(("lower", "upper")):
        them = theirs[end].reshape(3, -1)[1:]
        ours = np.array([found.interval(name, moments)[place] for name in found.causes])
        told = states["states"] > 0
        close(ours[told], them[told])


def test_errors_over_clusters_are_sums_of_what_each_weight_moves_in_r():
    rows, theirs = random_people(), r("random_causes_cluster")
    found = cumulative_incidence(rows["time"], rows["cause"], cluster=rows["family"])
    errors = [found.standard_error(name, theirs["times"]) for name in found.causes]
    close(errors, theirs["errors"].reshape(3, -1)[1:])


def test_five_people_by_hand():
    """At 1 one of 5 dies of a; at 2 one is censored; at 3 one of 3 has b; at 4 both others: a and b."""
    found = cumulative_incidence([1, 2, 3, 4, 4], ["a", None, "b", "a", "b"])
    assert found.causes == ("a", "b") and found.events == (2, 2)
    np.testing.assert_allclose(found.at("a", [0, 1, 3, 4]), [0, 0.2, 0.2, 0.2 + 0.8 * 2 / 3 / 2])
    np.testing.assert_allclose(found.at("b", [0, 1, 3, 4]), [0, 0, 0.8 / 3, 0.8 / 3 + 0.8 * 2 / 3 / 2])
    assert found.without[-1] == pytest.approx(0.0)


def test_of_one_cause_it_is_one_minus_kaplan_meier_and_of_two_they_add_up():
    time, event, _, _, entry = people(120, 2, delayed=True)
    time = np.ceil(time / 100)
    entry = np.floor(np.minimum(entry / 100, time - 1))
    moments = np.linspace(0, time.max(), 30)
    left = kaplan_meier(time, event == 1, entry=entry).at(moments)
    one = cumulative_incidence(time, event, entry=entry)
    np.testing.assert_allclose(one.at("1.0", moments), 1 - left, atol=1e-12)
    cause = np.where(event == 1, 1 + np.arange(120) % 2, 0)
    both = cumulative_incidence(time, cause, entry=entry)
    np.testing.assert_allclose(both.at("1", moments) + both.at("2", moments), 1 - left, atol=1e-12)
    naive = 1 - kaplan_meier(time, cause == 1, entry=entry).at(moments[-1])
    assert naive > both.at("1", moments[-1])[0] + 0.05


def test_a_hazard_of_one_cause_censors_the_others():
    rows = random_people()
    mine = of_cause(rows["cause"], 2)
    assert mine.tolist() == (rows["cause"] == 2).tolist()
    fit = fit_cox(rows["time"].to_numpy(float), mine, {"dose": rows["dose"].to_numpy()})
    theirs = CoxPHFitter().fit(rows.assign(mine=mine)[["time", "mine", "dose"]], "time", "mine")
    assert fit.coefficients[0] == pytest.approx(theirs.params_["dose"], rel=1e-5)


def test_what_is_not_there_is_refused_with_what_is():
    for cause, told in (([0, 0, 0], "nobody of 3 had any"), ([None, "", "0"], "nobody of 3 had any")):
        with pytest.raises(Refused, match=told):
            cumulative_incidence([1, 2, 3], cause)
    found = cumulative_incidence([1, 2, 3], ["cardiac", "cancer", None])
    with pytest.raises(Refused, match=r"'cardiack' is none of cancer, cardiac\. Did you mean 'cardiac'\?"):
        found.at("cardiack", [1])
    with pytest.raises(Refused, match="time: 9 lies past the longest follow-up, 3"):
        found.at("cancer", [9])
    with pytest.raises(Refused, match="nobody had 'stroke'; causes there are: cancer, cardiac"):
        of_cause(["cardiac", "cancer", None], "stroke")
