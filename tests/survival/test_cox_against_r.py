"""Cox models against R's `survival`: ties, delayed entry, strata, clusters, residuals, baseline, drifting hazards."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival.chi_squared import quadratic_form
from fahr.survival.cox import fit_cox, likelihood_ratio, wald
from fahr.survival.proportionality import TRANSFORMS, proportional_hazards
from fahr.survival.risk_sets import RiskSets
from survival.outcomes import people
from survival.r_oracle import close, gbsg2, liver, lung, r, random_people, rossi

CASES = {  # case: people, time, event, columns, and the names of entry, strata, cluster
    "lung": (lung, "time", "status", ["age", "sex", "ph.ecog"], {}),
    "lung_strata": (lung, "time", "status", ["age", "ph.ecog"], {"strata": "sex"}),
    "lung_cluster": (lung, "time", "status", ["age", "sex", "ph.ecog"], {"cluster": "inst"}),
    "rossi": (rossi, "week", "arrest", ["fin", "age", "race", "wexp", "mar", "paro", "prio"], {}),
    "rossi_robust": (rossi, "week", "arrest", ["fin", "age", "prio"], {"robust": True}),
    "pbc": (liver, "time", "died", ["age", "edema", "log bili", "log protime", "log albumin"], {}),
    "pbc_strata": (liver, "time", "died", ["age", "log bili", "log albumin"], {"strata": "stage", "cluster": "years"}),
    "random": (random_people, "time", "event", ["dose", "old"], {}),
    "random_entry": (random_people, "time", "event", ["dose", "old"], {"entry": "entry"}),
    "random_entry_strata": (random_people, "time", "event", ["dose", "old"], {"entry": "entry", "strata": "site"}),
    "random_entry_robust": (random_people, "time", "event", ["dose", "old"], {"entry": "entry", "robust": True}),
    "random_entry_cluster": (random_people, "time", "event", ["dose", "old"], {"entry": "entry", "cluster": "family"}),
    "random_all": (
        random_people, "time", "event", ["dose", "old"], {"entry": "entry", "strata": "site", "cluster": "family"},
    ),
    "random_cause": (random_people, "time", "second", ["dose", "old"], {"entry": "entry"}),
    "random_interaction": (random_people, "time", "event", ["dose", "old", "both"], {}),
}  # fmt: skip


def table_of(case):
    table = CASES[case][0]()
    if "status" in table and "stage" in table:
        return table.assign(died=table["status"] == 2, years=np.round(table["age"]))
    if "dose" in table:
        return table.assign(second=table["cause"] == 2, both=table["dose"] * table["old"])
    return table


def fitted(case):
    _, time, event, names, options = CASES[case]
    table = table_of(case)
    made = {
        name: given if given is True else np.unique(table[given], return_inverse=True)[1]
        for name, given in options.items()
        if name != "entry"
    }
    entry = table[options["entry"]].to_numpy(float) if "entry" in options else None
    columns = {name: table[name].to_numpy(float) for name in names}
    return fit_cox(table[time].to_numpy(float), table[event].to_numpy() == 1, columns, entry=entry, **made)


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_that_of_r(case):
    fit, theirs = fitted(case), r(case)
    assert [fit.n, fit.events] == theirs["counts"].tolist()
    close(fit.coefficients, theirs["coefficients"])
    close(fit.naive, theirs["covariance"])
    close(fit.covariance, theirs.get("robust", theirs["covariance"]))
    assert (fit.clusters is not None) == ("robust" in theirs)
    close([fit.null_log_likelihood, fit.log_likelihood], theirs["log_likelihood"])
    told = [fit.hazard(name) for name in fit.names]
    close([each.p_value for each in told], theirs["p_values"])
    close([[each.low for each in told], [each.high for each in told]], theirs["interval"])
    overall, together = fit.overall(), wald(fit, fit.names)
    close([overall.statistic, overall.freedom, overall.p_value], theirs["overall"][:3])
    close(round(together.statistic, 2), theirs["overall"][6])  # R rounds it
    count = len(theirs["schoenfeld"]) // len(fit.names)
    assert fit.point is not None
    close((fit.point.score_residuals() * fit.scale)[:15].T, theirs["score_residuals"])
    ours = (fit.point.schoenfeld() * fit.scale)[:count]
    first = fit.point.sets.time[count] if case != "random" else np.inf
    whole = fit.point.sets.time[:count] < first  # R orders equal times otherwise with delayed entry
    if "entry" not in CASES[case][4]:
        close(ours.T, theirs["schoenfeld"])
    elif "strata" not in CASES[case][4]:
        them = theirs["schoenfeld"].reshape(len(fit.names), -1).T[whole]
        close(np.sort(ours[whole], axis=0), np.sort(them, axis=0))


@pytest.mark.parametrize("case", CASES)
def test_hazards_that_drift_are_found_as_by_r(case):
    fit, theirs = fitted(case), r(case)
    for transform in TRANSFORMS:
        found = proportional_hazards(fit, transform=transform)
        statistics = [*(each.statistic for each in found.tests.values()), found.overall.statistic]
        close(statistics, theirs[f"zph_{transform}"])
    if "entry" not in CASES[case][4]:
        found = proportional_hazards(fit)
        close(found.scaled[: len(theirs["zph_scaled"]) // len(fit.names)].T, theirs["zph_scaled"])


@pytest.mark.parametrize("case", ["lung", "rossi", "pbc", "random", "random_entry"])
def test_the_baseline_hazard_is_that_of_r(case):
    fit, theirs = fitted(case), r(case)
    of_zeros = np.exp(-float(fit.coefficients @ fit.means))
    close(fit.baseline().at(theirs["hazard_times"]) * of_zeros, theirs["hazard"])
    someone = {name: np.array([0.0]) for name in fit.names}
    close(fit.survival(someone, theirs["hazard_times"]), np.exp(-theirs["hazard"]))


def test_categories_are_tested_together_as_by_r():
    table = gbsg2()
    time, event = table["time"].to_numpy(float), table["cens"].to_numpy() == 1
    columns = {"horTh": table["horTh"] == "yes", "age": table["age"], "tsize": table["tsize"]}
    columns |= {"II": table["tgrade"] == "II", "III": table["tgrade"] == "III"}
    columns |= {"nodes": table["nodes"], "receptor": table["receptor"]}
    columns = {name: each.to_numpy(float) for name, each in columns.items()}
    fit, theirs = fit_cox(time, event, columns), r("gbsg2")
    close(fit.coefficients, theirs["coefficients"])
    close(fit.covariance, theirs["covariance"])
    terms = {name: [name] for name in columns if "I" not in name} | {"tgrade": ["II", "III"]}
    found = proportional_hazards(fit, terms=terms)
    order = ["horTh", "age", "tsize", "tgrade", "nodes", "receptor"]
    close([*(found.tests[name].statistic for name in order), found.overall.statistic], theirs["zph_km"])
    assert found.tests["tgrade"].freedom == 2
    small = fit_cox(time, event, {name: columns[name] for name in ("age", "tsize")})
    large = fit_cox(time, event, {name: columns[name] for name in ("age", "tsize", "II", "III", "nodes")})
    ratio = likelihood_ratio(small, large)
    close([ratio.statistic, ratio.freedom, ratio.p_value], r("gbsg2_ladder")["ratio"])


def test_sums_over_people_and_sums_over_events_are_one_matrix_and_its_transpose():
    time, event, *_, entry = people(90, 3, delayed=True)
    time = np.ceil(time / 300)
    entry = np.floor(np.minimum(entry / 300, time - 1))
    strata = np.arange(90) % 3
    sets = RiskSets.of(time, event == 1, entry=entry, strata=strata)
    matrix = sets.at_risk(np.eye(90))
    np.testing.assert_allclose(sets.over_events(np.eye(len(sets.dead))), matrix.T, atol=1e-12)
    for place, row in enumerate(sets.dead.tolist()):
        watched = (entry < time[row]) & (time >= time[row]) & (strata == strata[row])
        tied = (time == time[row]) & (event == 1) & (strata == strata[row])
        np.testing.assert_allclose(matrix[place], watched - sets.share[place] * tied, atol=1e-12)


def test_a_stratum_is_fitted_as_if_it_were_alone():
    time, event, risk, age, entry = people(160, 8, own=0.5, delayed=True)
    site = np.arange(160) % 2
    columns = {"age": age, "risk": risk}
    whole = fit_cox(time, event == 1, columns, entry=entry, strata=site)
    alone = [
        fit_cox(time[mine], event[mine] == 1, {name: each[mine] for name, each in columns.items()}, entry=entry[mine])
        for mine in (site == 0, site == 1)
    ]
    # each stratum adds its own likelihood: at its own best coefficients they are at least as high together
    assert sum(each.log_likelihood for each in alone) >= whole.log_likelihood
    assert sum(each.null_log_likelihood for each in alone) == pytest.approx(whole.null_log_likelihood, abs=1e-9)
    with pytest.raises(Refused, match="not the same ones"):
        likelihood_ratio(fit_cox(time, event == 1, {"age": age}, entry=entry), whole)


def test_a_drift_that_was_planted_is_found_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    x = rng.normal(size=1500)
    early = rng.exponential(1 / (0.6 * np.exp(1.2 * x)))  # the effect ends at time 1
    time = np.where(early < 1, early, 1 + rng.exponential(1.7, 1500))
    fit = fit_cox(time, np.ones(1500, bool), {"x": x})
    found = proportional_hazards(fit)
    assert found.drifting() == ("x",) and found.tests["x"].p_value < 1e-6
    assert found.coefficients("x")[found.time < 1].mean() == pytest.approx(1.2, abs=0.2)
    assert found.coefficients("x")[found.time > 1].mean() == pytest.approx(0.0, abs=0.2)
    p_values = []
    for seed in range(100):
        steady, seen, _, age, entry = people(120, seed, delayed=True)
        p_values.append(
            proportional_hazards(
                fit_cox(steady, seen == 1, {"age": age}, entry=entry), transform="rank"
            ).overall.p_value
        )
    assert np.mean(np.array(p_values) < 0.05) < 0.11
    with pytest.raises(Refused, match=r"'ranks' is none of .* Did you mean 'rank'\?"):
        proportional_hazards(fit, transform="ranks")


def test_a_quadratic_form_leaves_out_directions_without_variance():
    spread = np.array([[2.0, -2.0], [-2.0, 2.0]])
    found = quadratic_form(np.array([1.0, -1.0]), spread)
    assert (found.freedom, found.statistic) == (1, pytest.approx(0.5))
    assert quadratic_form(np.zeros(2), np.zeros((2, 2))).freedom == 0
