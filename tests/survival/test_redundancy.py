"""What a risk says beside age: against fits and pairs made by hand, and on people of whom the answer is known."""

import json

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.stats import chi2, pearsonr, spearmanr
from sksurv.metrics import concordance_index_ipcw
from sksurv.util import Surv

from fahr.errors import Refused
from fahr.survival import ReversedSign, compare_concordance, concordance
from fahr.survival.redundancy import redundancy
from survival.outcomes import people
from survival.pair_oracle import all_pairs, value_of


def by_lifelines(time, event, entry, **columns):
    table = pd.DataFrame({"t": time, "e": event, **columns})
    if entry is not None:
        table["entry"] = entry
    options = {"precision": 1e-10, "r_precision": 1e-14}
    return CoxPHFitter().fit(
        table, "t", "e", entry_col="entry" if entry is not None else None, fit_options=options
    )  # fmt: skip


def by_pairs(time, event, risk, entry):
    return value_of(all_pairs(time, event, risk, entry), np.ones(len(time)))


@pytest.mark.parametrize("delayed", [False, True])
def test_every_number_is_that_of_a_fit_or_a_table_of_pairs_made_by_hand(delayed):
    time, event, risk, age, entry = people(300, 1, own=0.6, delayed=delayed)
    face_age = age + np.random.default_rng(9).normal(0, 6, 300)
    found = redundancy(time, event, risk, age, entry=entry, face_age=face_age, bootstraps=200)
    assert (found.people, found.events, found.without_age) == (300, int(event.sum()), 0)
    for told, other in zip(found.correlations, (age, face_age, face_age - age), strict=True):
        assert told.pearson == pytest.approx(pearsonr(risk, other).statistic)
        ends = pearsonr(risk, other).confidence_interval()
        assert (told.low, told.high) == pytest.approx((ends.low, ends.high), abs=1e-6)
        assert told.spearman == pytest.approx(spearmanr(risk, other).statistic)
    only_age, only_risk = (by_lifelines(time, event, entry, x=each) for each in (age, risk))
    both = by_lifelines(time, event, entry, age=age, risk=risk)
    linear = age * both.params_["age"] + risk * both.params_["risk"]
    for told, marker in ((found.age, age), (found.risk, risk), (found.both, linear)):
        assert told.value == pytest.approx(by_pairs(time, event, marker, entry), abs=1e-9)
        assert told.low < told.value < told.high
    assert found.gain.difference == pytest.approx(found.both.value - found.age.value)
    assert found.lead.difference == pytest.approx(found.risk.value - found.age.value)
    again = compare_concordance(time, event, risk, age, entry=entry, samples=200)
    assert (found.lead.low, found.lead.high, found.lead.p_value) == (again.low, again.high, again.p_value)
    for test, small in zip(found.nested, (only_age, only_risk), strict=True):
        statistic = 2 * (both.log_likelihood_ - small.log_likelihood_)
        assert test.statistic == pytest.approx(statistic, abs=1e-5) and test.freedom == 1
        assert test.p_value == pytest.approx(chi2.sf(statistic, 1), rel=1e-4)
    effects = {each.name: each for each in found.effects}
    told, theirs = effects["risk, a SD, adjusted for age"], both.summary.loc["risk"]
    assert found.risk_sd == pytest.approx(risk.std(ddof=1))
    ends = [theirs[name] * found.risk_sd for name in ("coef", "coef lower 95%", "coef upper 95%")]
    assert (told.ratio, told.low, told.high) == pytest.approx(np.exp(ends), rel=1e-4)
    assert effects["age, 10 years, alone"].ratio == pytest.approx(np.exp(10 * only_age.params_["x"]), rel=1e-5)


@pytest.mark.parametrize("delayed", [False, True])
def test_uno_s_concordance_stands_beside_harrell_s(delayed):
    time, event, risk, age, entry = people(300, 1, own=0.6, delayed=delayed)
    found = redundancy(time, event, risk, age, entry=entry, bootstraps=50)
    early = event * (time < found.uno_before)
    assert early.sum() < event.sum()
    for told, marker in ((found.age, age), (found.risk, risk)):
        assert told.uno == pytest.approx(concordance(time, event, marker, entry=entry, kind="uno").value, abs=1e-12)
        assert told.uno_low < told.uno < told.uno_high and told.uno != told.value
        if not delayed:  # which scikit-survival does not know
            seen = Surv.from_arrays(event == 1, time)
            theirs = concordance_index_ipcw(seen, seen, marker, tau=found.uno_before)[0]
            assert told.uno == pytest.approx(theirs, abs=1e-6)
    assert f"Uno, before {found.uno_before:,.6g}" in "\n".join(found.lines())
    without = redundancy(time, event, risk, age, entry=entry, bootstraps=0, uno=False)
    assert without.risk.uno is None and without.uno_before is None and "Uno" not in "\n".join(without.lines())


def test_age_and_sex_are_compared_with_on_the_people_of_whom_both_are_known():
    time, event, risk, age, entry = people(300, 4, own=0.6, delayed=True)
    rng = np.random.default_rng(4)
    man = (rng.random(300) < 0.5) * 1.0
    time = np.where(man == 1, np.maximum(np.ceil(time / 2), entry + 1), time)  # men die sooner
    sex = np.array(["f", "m"], object)[man.astype(int)]
    sex[rng.random(300) < 0.1] = None
    found = redundancy(time, event, risk, age, sex=sex, entry=entry, bootstraps=50)
    kept = np.array([each is not None for each in sex])
    some = [each[kept] for each in (time, event, entry)]
    fits = {
        words: by_lifelines(*some, **{name: {"age": age, "m": man, "risk": risk}[name][kept] for name in words.split()})
        for words in ("age", "age m", "age m risk")
    }
    told = found.beside_sex
    assert (told.people, told.events, told.without_sex) == (kept.sum(), event[kept].sum(), (~kept).sum())
    for ranking, words in ((told.known, "age m"), (told.both, "age m risk")):
        params = fits[words].params_
        linear = sum({"age": age, "m": man, "risk": risk}[name][kept] * params[name] for name in words.split())
        assert ranking.value == pytest.approx(by_pairs(*some[:2], linear, some[2]), abs=1e-9)
        assert ranking.uno_low < ranking.uno < ranking.uno_high
    assert told.gain.difference == pytest.approx(told.both.value - told.known.value) and told.gain.low > 0
    for test, (small, large) in zip(told.nested, (("age", "age m"), ("age m", "age m risk")), strict=True):
        statistic = 2 * (fits[large].log_likelihood_ - fits[small].log_likelihood_)
        assert test.statistic == pytest.approx(statistic, abs=1e-5) and test.freedom == 1
        assert test.p_value == pytest.approx(chi2.sf(statistic, 1), rel=1e-4)
    assert [test.name for test in told.nested] == ["age -> age + sex", "age + sex -> age + sex + risk"]
    text = "\n".join(found.lines())
    assert "age + sex + risk - (age + sex)" in text and f"sex is unknown of {(~kept).sum()} people" in text
    alone = redundancy(time, event, risk, age, entry=entry, bootstraps=50)
    assert (alone.age, alone.risk, alone.both, alone.nested) == (found.age, found.risk, found.both, found.nested)
    for words, why in ((["f"] * 300, "the same for everybody"), ([None] * 300, "unknown of everybody")):
        found = redundancy(time, event, risk, age, sex=words, entry=entry, bootstraps=0)
        assert found.beside_sex is None and f"sex is {why}" in "\n".join(found.lines())


def test_a_risk_that_is_age_with_noise_adds_nothing_to_it():
    p_values = []
    for seed in range(20):
        found = redundancy(*people(250, seed)[:4], bootstraps=0)
        assert found.nested[0].name == "age -> age + risk"
        p_values.append(found.nested[0].p_value)
        assert any("goes with age, |r| above 0.7" in note for note in found.notes)
    assert 0.2 < np.mean(p_values) < 0.8 and min(p_values) > 1e-3  # as of 20 draws from 0 to 1
    found = redundancy(*people(600, 100)[:4])
    assert found.gain.low < 0.005 and found.gain.high < 0.02


def test_what_only_the_risk_shows_is_found_whether_or_not_it_goes_with_age():
    for delayed in (False, True):
        time, event, risk, age, entry = people(600, 2, own=0.7, delayed=delayed)
        found = redundancy(time, event, risk, age, entry=entry)
        assert found.nested[0].p_value < 1e-9 and found.gain.low > 0 and found.gain.p_value < 0.01
    apart = redundancy(time, event, risk - 0.07 * age, age, entry=entry)
    assert not [note for note in apart.notes if "goes with age" in note]
    assert apart.nested[0].statistic == pytest.approx(found.nested[0].statistic, abs=1e-6)  # the same two columns


def test_photos_of_one_visit_are_one_person_and_later_photos_have_no_say():
    time, event, risk, age, entry = people(200, 3, own=0.6, delayed=True)
    alone = redundancy(time, event, risk, age, entry=entry, bootstraps=100)
    rng = np.random.default_rng(3)
    order = rng.permutation(800)
    noise = 0.2 * np.abs(rng.normal(size=200))
    later = time - np.ceil((time - entry) / 3)
    kept = later[order % 200] > 0
    columns = [
        np.concatenate(each)[order]
        for each in (
            (time, time, time, later), (event,) * 4, (risk - noise, risk + noise, risk, risk + 9), (age,) * 4,
            (entry, entry, entry, np.minimum(entry, later - 1)), (np.arange(200),) * 4,
        )
    ]  # fmt: skip
    time_, event_, risk_, age_, entry_, subject = (each[kept & (columns[0] > columns[4])] for each in columns)
    many = redundancy(time_, event_, risk_, age_, entry=np.maximum(entry_, 0), subject=subject, bootstraps=100)
    assert many.photos > 700 and many.people == 200 and "earliest visit" in "\n".join(many.lines())
    assert many.nested[0].statistic == pytest.approx(alone.nested[0].statistic, rel=1e-9)
    assert (many.both.value, many.risk.value) == pytest.approx((alone.both.value, alone.risk.value), abs=1e-12)
    assert many.correlations[0].pearson == pytest.approx(alone.correlations[0].pearson)


def test_with_folds_nobody_is_judged_by_a_fit_on_themselves():
    time, event, risk, age, _ = people(24, 5, own=0.5)
    found = redundancy(time, event, risk, age, folds=24, bootstraps=0)
    others = np.arange(24)
    linear = np.zeros(24)
    for person in range(24):
        rest = others != person
        fit = by_lifelines(time[rest], event[rest], None, age=age[rest], risk=risk[rest])
        linear[person] = age[person] * fit.params_["age"] + risk[person] * fit.params_["risk"]
    assert found.both.value == pytest.approx(by_pairs(time, event, linear, None), abs=1e-9)
    assert "each person's by a fit on the others, in 24 folds" in "\n".join(found.lines())
    time, event, _, age, _ = people(400, 6)
    noise = np.random.default_rng(6).normal(size=400)
    within, without = (redundancy(time, event, noise, age, folds=folds, bootstraps=0) for folds in (0, 5))
    assert abs(without.both.value - within.both.value) < 0.02 and without.both.value != within.both.value


def test_with_fewer_than_ten_events_only_values_are_told_and_why():
    time, _, risk, age, _ = people(60, 7, own=0.5)
    event = np.zeros(60)
    event[np.argsort(time)[:9]] = 1
    found = redundancy(time, event, risk, age)
    assert found.nested == () and found.bootstraps == 0 and found.age.value is not None
    told = [found.age, found.risk, found.both, found.gain, found.lead, *found.correlations, *found.effects]
    assert all(each.low is None and each.high is None for each in told)
    assert found.gain.p_value is None and found.gain.difference is not None
    assert found.notes[0].startswith("9 events of 60 people: intervals and tests need 10")
    event[np.argsort(time)[9]] = 1
    assert redundancy(time, event, risk, age, bootstraps=50).nested


def test_a_reversed_sign_warns():
    time, event, risk, age, _ = people(200, 8, own=0.5)
    with pytest.warns(ReversedSign, match="risk: concordance 0"):
        found = redundancy(time, event, -risk, age, bootstraps=20)
    assert any("its sign is probably wrong" in note for note in found.notes)
    assert found.correlations[0].redundant  # also below -0.7


@pytest.mark.filterwarnings("error")
def test_where_something_is_not_defined_the_rest_is_still_told():
    time, event, risk, age, _ = people(80, 9, own=0.5)
    cases = {
        "the same line": (event, 3 * age - 2, age, "age and risk say the same"),
        "one risk": (event, np.full(80, 0.2), age, "risk is the same for everybody, so it ranks nobody"),
        "one age": (event, risk, np.full(80, 50.0), "age is the same for everybody"),
        "no event": (0 * event, risk, age, "nobody had the event"),
        "some ages unknown": (event, risk, np.where(age > 85, np.nan, age), None),
        "face ages unknown": (event, risk, age, None),
    }
    for name, (died, said, years, told) in cases.items():
        face_age = np.where(age > 40, np.nan, age) if name == "face ages unknown" else age + 1
        found = redundancy(time, died, said, years, face_age=face_age, bootstraps=20)
        text = json.dumps(found.to_json(), allow_nan=False)
        assert json.loads(text)["people"] == (~np.isnan(years)).sum(), name
        assert told is None or told in "\n".join(found.lines()), name
        if name == "the same line":
            assert found.both.value is None and found.nested == () and found.risk.value == found.age.value
        if name == "some ages unknown":
            assert found.without_age == (age > 85).sum() and "more of unknown age" in found.lines()[0]
        if name == "face ages unknown":
            assert found.correlations[1].people == (age <= 40).sum() and found.correlations[0].people == 80


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"age": np.full(30, np.nan)}, "age: of none of 30 people.*give them"),
        ({"age": np.zeros(29)}, r"age: has shape \(29,\)"),
        ({"age": np.full(30, np.inf)}, "age: row 0 is not a finite number"),
        ({"sex": ["f"] * 29}, r"sex: has shape \(29,\)"),
        ({"face_age": ["young"] * 30}, "face_age: not every value is a number of years"),
        ({"risk": np.full(30, np.nan)}, "risk: row 0 is not a finite number"),
        ({"time": -np.ones(30)}, "time: row 0 is negative"),
        ({"folds": 1}, "folds: 1 must be 0, or at least 2"),
        ({"bootstraps": -1}, "bootstraps: -1"),
        ({"subject": ["a"] * 30}, "event: rows .* of one person, one with the event and one without"),
        ({"entry": np.full(30, 1e9)}, "entry: row 0 must lie before time"),
    ],
)
def test_wrong_input_is_refused_with_the_remedy(change, told):
    time, event, risk, age, _ = people(30, 10)
    given = {"time": time, "event": event, "risk": risk, "age": age, **change}
    with pytest.raises(Refused, match=told):
        redundancy(given.pop("time"), given.pop("event"), given.pop("risk"), given.pop("age"), **given)
