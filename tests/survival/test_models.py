"""Models of tables: units, categories, interactions, subgroups; against R and the arrays, and what they say aloud."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import chi2

from fahr.errors import Refused
from fahr.survival.cox import NoEstimate, fit_cox
from fahr.survival.design import Interaction, Term
from fahr.survival.models import cox_model
from fahr.survival.nested import interaction, nested_models
from fahr.survival.study import Endpoint
from fahr.survival.subgroups import Subgroup, subgroup_forest
from survival.outcomes import people
from survival.r_oracle import close, gbsg2, lung, r, random_people

LUNG = Endpoint(time="time", event="status")


def table(n=400, seed=1, *, own=0.5, delayed=False):
    time, event, risk, age, entry = people(n, seed, own=own, delayed=delayed)
    rng = np.random.default_rng(seed + 99)
    made = {"subject_id": [f"p{k}" for k in range(n)], "follow_up_days": time, "event": event, "risk": risk, "age": age}
    if delayed:
        made["entry_days"] = entry
    made |= {"sex": rng.choice(["female", "male"], n), "site": rng.choice(["x", "y", "z"], n)}
    return pd.DataFrame(made)


def test_units_and_categories_give_the_figures_of_r():
    rows = gbsg2()
    terms = ["horTh", Term("age", per="decade"), "tsize", "tgrade", Term("pnodes", per=10), "receptor"]
    model = cox_model(rows, terms, endpoint=Endpoint(time="time", event="cens"))
    theirs = r("gbsg2")
    order = ["horTh yes", "age", "tsize", "tgrade II", "tgrade III", "pnodes", "receptor"]
    units = np.array([1, 10, 1, 1, 1, 1, 1])  # R's nodes are in tens already
    ratios = [model.effect(name).ratio for name in order]
    close(ratios, np.exp(theirs["coefficients"] * units))
    close([model.effect(name).p_value for name in order], theirs["p_values"])
    close([model.proportional[name] for name in ("age", "tgrade")], _beyond(theirs["zph_km"][[1, 3]], [1, 2]))
    assert model.effect("tgrade III").words == "tgrade, III vs I"
    assert model.effect("tgrade III").people == (rows["tgrade"] == "III").sum()
    assert model.tests["tgrade"].freedom == 2
    with pytest.raises(Refused, match="effect: 'tgrade' is none of"):
        model.effect("tgrade")
    turned = cox_model(rows, ["horTh", Term("tgrade", reference="III")], endpoint=Endpoint(time="time", event="cens"))
    assert {each.name for each in turned.effects} == {"horTh yes", "tgrade I", "tgrade II"}


def _beyond(statistics, freedoms):
    return [chi2.sf(one, freedom) for one, freedom in zip(statistics, freedoms, strict=True)]


@pytest.mark.parametrize("kind", ["pandas", "arrow", "dict"])
def test_any_table_gives_the_same_and_late_entry_is_heeded(kind):
    rows = table(delayed=True)
    given = {"pandas": rows, "arrow": pa.Table.from_pandas(rows), "dict": {name: rows[name] for name in rows}}[kind]
    model = cox_model(given, ["age", Term("risk", per="sd"), "sex"], strata="site")
    columns = {"age": rows["age"], "risk": rows["risk"], "sex male": rows["sex"] == "male"}
    site = np.unique(rows["site"], return_inverse=True)[1]
    fit = fit_cox(
        rows["follow_up_days"].to_numpy(), rows["event"].to_numpy() == 1,
        {name: each.to_numpy(float) for name, each in columns.items()},
        entry=rows["entry_days"].to_numpy(), strata=site,
    )  # fmt: skip
    assert model.effect("risk").ratio == pytest.approx(fit.hazard("risk", per=rows["risk"].std()).ratio, rel=1e-9)
    assert model.effect("sex").ratio == pytest.approx(fit.hazard("sex male").ratio, rel=1e-9)
    assert (model.strata, model.clusters, model.n) == (3, None, 400)
    without = cox_model(given, ["age"], endpoint=Endpoint(entry=None))
    assert without.study.people.entry is None
    assert abs(without.effect("age").ratio - cox_model(given, ["age"]).effect("age").ratio) > 1e-6


def test_quartiles_are_those_of_frozen_cuts_and_said_to_be_of_these_people_otherwise():
    rows = table()
    model = cox_model(rows, [Term("risk", per="quartile", cuts=(3.0, 4.0, 5.0)), "age"])
    assert [each.words for each in model.effects][:2] == ["risk, quartile 2 vs 1", "risk, quartile 3 vs 1"]
    assert model.effect("risk quartile 4").people == (rows["risk"] > 5).sum()
    own = cox_model(rows, [Term("risk", per="quartile")])
    assert any("quartiles are of these people" in each for each in own.warnings)
    assert sorted(each.people for each in own.effects) == [100, 100, 100]


def test_any_endpoint_and_any_blood_value_will_do():
    rows = random_people().rename(columns={"dose": "creatinine"})
    model = cox_model(
        rows, ["creatinine", "old"], endpoint=Endpoint(time="time", event="cause", cause="2", entry="entry"),
    )  # fmt: skip
    theirs = r("random_cause")
    close([each.ratio for each in model.effects], np.exp(theirs["coefficients"]))
    assert model.events == theirs["counts"][1] and "cause 2" in model.lines()[0]


def test_people_with_something_missing_are_left_out_and_counted_aloud():
    rows = table()
    rows.loc[:9, "risk"] = np.nan
    rows.loc[5:19, "sex"] = None
    rows.loc[19:20, "event"] = np.nan
    model = cox_model(rows, ["risk", "sex"])
    assert (model.n, model.people) == (379, 400)
    line = "complete cases: 379 of 400 people, 21 left out (event 2, risk 10, sex 15)"
    assert line in model.warnings and line in model.lines()
    whole = cox_model(rows.dropna(), ["risk", "sex"])
    assert whole.effect("risk") == model.effect("risk") and not any("left out" in each for each in whole.warnings)
    risks = model.risk(rows)
    assert np.isnan(risks[:10]).all() and np.isfinite(risks[20:]).all()
    np.testing.assert_allclose(risks[21:].mean() - model.risk(rows.dropna()).mean(), 0, atol=0.2)
    rows.loc[30, "follow_up_days"] = -4
    with pytest.raises(Refused, match=r"time: row 30 is negative"):
        cox_model(rows, ["risk"])


def test_missing_columns_are_named_with_the_nearest_all_at_once():
    with pytest.raises(Refused, match=r"'rsik'\. Did you mean 'risk'\? 'sxe'\. Did you mean 'sex'\? It has "):
        cox_model(table(), ["rsik", "sxe"])
    with pytest.raises(Refused, match=r"'follow_up_day'\. Did you mean 'follow_up_days'\?"):
        cox_model(table(), ["age"], endpoint=Endpoint(time="follow_up_day"))
    with pytest.raises(Refused, match="'entry_day'"):
        cox_model(table(), ["age"], endpoint=Endpoint(entry="entry_day"))


def test_products_need_their_factors_and_are_those_of_r():
    rows, where = random_people(), Endpoint(time="time", event="event")
    model = cox_model(rows, ["dose", "old", Interaction("dose", "old")], endpoint=where)
    close(model.fit.coefficients, r("random_interaction")["coefficients"])
    found = interaction(rows, ["dose", "old"], "dose", "old", endpoint=where)
    ours = 2 * (r("random_interaction")["log_likelihood"][1] - r("random")["log_likelihood"][1])
    close(found.test.statistic, ours)
    assert found.method == "likelihood ratio"
    robust = interaction(rows, ["dose", "old"], "dose", "old", endpoint=where, cluster="family")
    assert robust.method == "Wald, robust" and robust.test.statistic != pytest.approx(found.test.statistic, rel=1e-3)
    with pytest.raises(Refused, match=r"dose x old needs old in the model as well"):
        cox_model(rows, ["dose", Interaction("dose", "old")], endpoint=where)


def test_models_within_models_are_of_the_same_people():
    found = nested_models(lung(), ["age", "sex"], {"ECOG": ["ph.ecog"]}, endpoint=LUNG)
    step = found.steps["base -> base + ECOG"]
    close([step.statistic, step.freedom, step.p_value], r("lung_ladder")["ratio"])
    rows = table()
    rows.loc[:39, "risk"] = np.nan
    rows["fad"] = np.random.default_rng(0).normal(size=400)
    ladder = nested_models(rows, ["age"], {"FAD": ["fad"], "risk": [Term("risk", per="sd")]})
    assert list(ladder.models) == ["base", "base + FAD", "base + risk", "base + FAD + risk"]
    assert {model.n for model in ladder.models.values()} == {360} == {ladder.n}
    assert len({model.fit.rows for model in ladder.models.values()}) == 1
    assert set(ladder.steps) == {
        "base -> base + FAD", "base -> base + risk", "base -> base + FAD + risk",
        "base + FAD -> base + FAD + risk", "base + risk -> base + FAD + risk",
    }  # fmt: skip
    assert ladder.steps["base -> base + risk"].p_value < 1e-6 < ladder.steps["base -> base + FAD"].p_value
    assert ladder.concordances["base + risk"] > ladder.concordances["base"] + 0.01
    assert sum("40 left out (risk 40)" in line for line in ladder.lines()) == 1
    json.dumps(ladder.to_json(), allow_nan=False)


def test_a_forest_tells_each_subgroup_as_its_own_model_and_hides_small_ones():
    rows = table(600, 4)
    rows["sex"] = np.where(np.arange(600) < 8, "other", rows["sex"])
    main = Term("risk", per="sd")
    forest = subgroup_forest(rows, main, ["sex", Subgroup("age", cuts=(45.0, 65.0))], adjust=["age", "sex"])
    sd = rows["risk"].std()
    male = rows[rows["sex"] == "male"]
    alone = cox_model(male, [Term("risk", per=sd), "age"]).effect("risk")
    row = next(each for each in forest.groups["sex"].rows if each.level == "male")
    assert (row.people, row.hazard.ratio, row.hazard.low) == (len(male), alone.ratio, alone.low)
    assert [each.level for each in forest.groups["age"].rows] == ["<= 45", "45-65", "> 65"]
    assert forest.groups["age"].rows[0].people == (rows["age"] <= 45).sum()
    hidden = next(each for each in forest.groups["sex"].rows if each.level == "other")
    assert hidden.hazard is None and any("not told: sex other" in each for each in forest.warnings)
    # the test is of those two subgroups that are told
    two = rows[rows["sex"] != "other"]
    expected = interaction(two, ["risk", "age", "sex"], "risk", "sex").test
    found = forest.groups["sex"].interaction
    assert (found.freedom, found.statistic) == (1, pytest.approx(expected.statistic, rel=1e-6))
    assert forest.groups["sex"].holm >= found.p_value
    assert json.loads(json.dumps(forest.to_json(), allow_nan=False))["groups"]["sex"]["rows"][2]["people"] is None
    assert "      <10" in "\n".join(forest.lines())


def test_an_interaction_that_was_planted_is_found_and_none_otherwise():
    rng = np.random.default_rng(3)
    x, sex = rng.normal(size=1200), rng.choice(["f", "m"], 1200)
    died = rng.exponential(1000 * np.exp(-0.8 * x * (sex == "m")))
    left = rng.uniform(200, 3000, 1200)
    rows = {"x": x, "sex": sex, "noise": rng.choice(["a", "b", "c"], 1200), "event": (died < left) * 1}
    rows["follow_up_days"] = np.minimum(died, left)
    forest = subgroup_forest(rows, "x", ["sex", "noise"])
    assert forest.groups["sex"].holm < 1e-6 and forest.groups["noise"].interaction.p_value > 0.01
    assert forest.groups["sex"].widest == pytest.approx(np.exp(0.8), rel=0.3)


@pytest.mark.filterwarnings("error")
def test_data_that_determine_nothing_say_so():
    rows = table(60)
    cases = [
        (rows.assign(event=0), ["age"], "nobody of 60 had the event"),
        (rows.assign(sex="f"), ["sex"], "sex is the same for everybody"),
        (rows.assign(blood=3.5), ["blood", "age"], "blood is the same for everybody"),
        (rows.assign(other=rows["age"] * 2), ["age", "other"], "age and other say the same"),
    ]
    for given, terms, told in cases:
        with pytest.raises(NoEstimate, match=told):
            cox_model(given, terms)
    one = rows.assign(event=(np.arange(60) == np.argsort(rows["follow_up_days"].to_numpy())[30]) * 1)
    model = cox_model(one, ["age"])
    assert model.effects[0].ratio is None and any("fewer than 10 events" in each for each in model.warnings)
    at_once = cox_model(rows.assign(follow_up_days=100.0), ["age"])  # no order at all: only who, not when
    assert np.isfinite(at_once.fit.coefficients).all() and at_once.effects[0].ratio is not None
    json.dumps(model.to_json(), allow_nan=False)


def test_terms_that_make_no_column_are_refused():
    rows = table(80)
    for terms, told in (
        (["age", "age"], "age is there 2 times"),
        ([Term("age", per="decades")], r"'decades' of age is none of .* Did you mean 'decade'\?"),
        ([Term("age", per=0)], "must be a number other than 0"),
        ([Term("sex", reference="mle")], r"'mle' of sex is none of female, male\. Did you mean 'male'\?"),
        ([Term("sex", per="sd")], "sex: not every value is a number"),
        ([Term("subject_id")], "subject_id: has 80 different values; a category may have 30"),
    ):
        with pytest.raises(Refused, match=told):
            cox_model(rows, terms)
    model = cox_model(rows, ["sex"])
    with pytest.raises(Refused, match="'unknown' is none of female, male, which the model knows"):
        model.risk(rows.assign(sex="unknown"))
