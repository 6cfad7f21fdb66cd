"""Quarters of a risk: against lifelines by hand, and where a quarter is empty, without events, or separates all."""

import json

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.utils import median_survival_times

from fahr.errors import Refused
from fahr.survival.quartiles import quartile_hazards
from survival.outcomes import people


def cohort(n, seed, **options):
    time, event, risk, age, entry = people(n, seed, own=0.6, **options)
    sex = np.random.default_rng(seed).choice(["female", "male"], n)
    return time, event, (risk - risk.mean()) / risk.std(), age, sex, entry


def cuts_of(risk):
    return np.quantile(risk, [0.25, 0.5, 0.75]).tolist()


@pytest.mark.parametrize("delayed", [False, True])
def test_every_number_is_that_of_lifelines(delayed):
    time, event, risk, age, sex, entry = cohort(400, 1, delayed=delayed)
    cuts = cuts_of(risk)
    found = quartile_hazards(time, event, risk, cuts, age=age, sex=sex, entry=entry)
    quarter = 1 + (risk > cuts[0]) + (risk > cuts[1]) + (risk > cuts[2])
    table = pd.DataFrame({"t": time, "e": event} | {f"q{n}": (quarter == n) * 1.0 for n in (2, 3, 4)})
    if delayed:
        table["entry"] = entry
    more = table.assign(age=age, male=(sex == "male") * 1.0)
    options = {"entry_col": "entry" if delayed else None, "fit_options": {"precision": 1e-10, "r_precision": 1e-14}}
    plain, adjusted = (CoxPHFitter().fit(each, "t", "e", **options).summary for each in (table, more))
    for each in found.groups:
        mine = quarter == each.quartile
        assert (each.people, each.events) == (mine.sum(), event[mine].sum())
        curve = KaplanMeierFitter().fit(time[mine], event[mine], entry=entry[mine] if delayed else None)
        wanted = curve.median_survival_time_
        assert each.median == (None if np.isinf(wanted) else wanted)
        if not delayed:
            ends = median_survival_times(curve.confidence_interval_).to_numpy().ravel()
            assert [each.median_low, each.median_high] == [None if np.isinf(end) else end for end in ends]
        for told, theirs in ((each.unadjusted, plain), (each.adjusted, adjusted)):
            if each.quartile == 1:
                assert told is None
                continue
            row = theirs.loc[f"q{each.quartile}", ["exp(coef)", "exp(coef) lower 95%", "exp(coef) upper 95%", "p"]]
            assert (told.ratio, told.low, told.high, told.p_value) == pytest.approx(row.tolist(), rel=1e-4)
    assert found.groups[3].unadjusted.low > 1 and found.notes == ()
    text = "\n".join(found.lines())
    assert "adjusted for age and sex" in text and f"{found.groups[3].adjusted.ratio:.2f}" in text
    json.dumps(found.to_json(), allow_nan=False)


def test_a_risk_on_a_cut_is_in_the_lower_quarter_and_other_peoples_cuts_stay_as_they_are():
    time, event, risk, *_ = cohort(200, 2)
    risk = np.round(risk, 1)
    found = quartile_hazards(time, event, risk, (-0.5, 0.0, 0.5))
    assert [each.people for each in found.groups] == [
        (risk <= -0.5).sum(), ((risk > -0.5) & (risk <= 0)).sum(), ((risk > 0) & (risk <= 0.5)).sum(),
        (risk > 0.5).sum(),
    ]  # fmt: skip


def test_who_has_an_unknown_age_or_sex_counts_unadjusted_only():
    time, event, risk, age, sex, _ = cohort(300, 3)
    age, sex = np.where(np.arange(300) % 10 == 0, np.nan, age), sex.astype(object)
    sex[5::10] = None
    found = quartile_hazards(time, event, risk, cuts_of(risk), age=age, sex=sex)
    assert (found.people, found.adjusted_people) == (300, 240)
    known = ~np.isnan(age) & (sex != np.array(None))
    alone = quartile_hazards(time[known], event[known], risk[known], found.cuts, age=age[known], sex=sex[known])
    assert [each.adjusted for each in found.groups] == [each.adjusted for each in alone.groups]
    assert "without 60 of whom they are unknown" in found.lines()[1]
    three = sex.copy()
    three[sex == None] = "x"  # noqa: E711
    assert quartile_hazards(time, event, risk, found.cuts, sex=three).adjusted_people == 300


def test_photos_of_one_visit_are_one_person():
    time, event, risk, age, sex, _ = cohort(150, 4)
    alone = quartile_hazards(time, event, risk, cuts_of(risk), age=age, sex=sex)
    order = np.random.default_rng(4).permutation(450)
    spread = np.concatenate([risk - 0.3, risk, risk + 0.4])
    many = quartile_hazards(
        *(np.tile(each, 3)[order] for each in (time, event)), spread[order], alone.cuts,
        age=np.tile(age, 3)[order], sex=np.tile(sex, 3)[order], subject=np.tile(np.arange(150), 3)[order],
    )  # fmt: skip
    assert (many.photos, many.people) == (450, 150)
    for one, other in zip(many.groups[1:], alone.groups[1:], strict=True):
        assert one.unadjusted.ratio == pytest.approx(other.unadjusted.ratio)
        assert one.adjusted.high == pytest.approx(other.adjusted.high)
        assert (one.median, one.events) == (other.median, other.events)


@pytest.mark.filterwarnings("error")
def test_a_quarter_without_an_event_has_ratio_0_and_leaves_the_others_as_they_are():
    time, event, risk, age, _, _ = cohort(300, 5)
    cuts = cuts_of(risk)
    event = np.where((risk > cuts[0]) & (risk <= cuts[1]), 0.0, event)
    found = quartile_hazards(time, event, risk, cuts, age=age)
    assert found.groups[1].unadjusted is None and found.groups[1].median is None
    assert any("quartile 2: nobody had the event, so its ratio is 0" in note for note in found.notes)
    # the limit of ever smaller ratios, by the definition of the likelihood
    from scipy.optimize import minimize

    from survival.outcomes import efron

    table = np.column_stack([(risk > cuts[1]) & (risk <= cuts[2]), risk > cuts[2]]).astype(float)
    far = -60.0 * ((risk > cuts[0]) & (risk <= cuts[1]))
    best = minimize(
        lambda beta: -efron([1.0, *beta], time, event, np.column_stack([far, table])), [0.0, 0.0], tol=1e-10
    )
    told = [found.groups[number].unadjusted.ratio for number in (2, 3)]
    assert told == pytest.approx(np.exp(best.x), rel=1e-3)


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_compared_is_told_and_not_made_up():
    time, event, risk, age, sex, _ = cohort(200, 6)
    cuts = cuts_of(risk)
    soon = np.where(risk > cuts[2], np.ceil(time / 1e4), time + 10)  # quartile 4 is gone before anybody else
    cases = {
        "nobody in 4": (time, event, cuts[:2] + [9.0], "quartile 4: nobody"),
        "all in 1": (time, event, [9.0, 9.0, 9.0], "no other quartile has an event"),
        "all in 4": (time, event, [-9.0, -9.0, -9.0], "quartile 1 has no event"),
        "no event in 1": (time, np.where(risk <= cuts[0], 0.0, event), cuts, "no ratio can be against it"),
        "no event": (time, 0 * event, cuts, "quartile 1 has no event, so there is nothing to compare with"),
        "monotone": (soon, np.where(risk > cuts[2], 1.0, event), cuts, "rises for ever with quartile 4"),
    }
    for name, (times, died, borders, told) in cases.items():
        found = quartile_hazards(times, died, risk, borders, age=age, sex=sex)
        assert any(told in note for note in found.notes), (name, found.notes)
        assert sum(each.people for each in found.groups) == 200
        text = json.dumps(found.to_json(), allow_nan=False)
        assert "Infinity" not in text and len(found.lines()) >= 6
        if name == "nobody in 4":
            assert found.groups[3].unadjusted is None and found.groups[2].unadjusted.ratio > 1
        if name not in ("nobody in 4",):
            assert found.groups[3].unadjusted is None
    one_sex = quartile_hazards(time, event, risk, cuts, sex=np.full(200, "female"))
    assert any("sex is the same for everybody and left out" in note for note in one_sex.notes)
    assert one_sex.groups[3].adjusted == one_sex.groups[3].unadjusted


def test_wrong_input_is_refused_with_the_remedy():
    time, event, risk, age, _, _ = cohort(30, 7)
    with pytest.raises(Refused, match="three ascending numbers"):
        quartile_hazards(time, event, risk, [0.0, -1.0, 1.0])
    with pytest.raises(Refused, match=r"age: has shape \(29,\)"):
        quartile_hazards(time, event, risk, [-1, 0, 1], age=age[1:])
    with pytest.raises(Refused, match="age: not every value is a number"):
        quartile_hazards(time, event, risk, [-1, 0, 1], age=["old"] * 30)
    with pytest.raises(Refused, match="risk: row 0 is not a finite number"):
        quartile_hazards(time, event, np.full(30, np.nan), [-1, 0, 1])


def test_nobody_sees_a_count_of_one_to_nine_nor_a_ratio_that_rests_on_it():
    risk = np.repeat([1.0, 2.0, 3.0, 4.0], 50)
    died = np.tile(np.arange(50), 4) < np.repeat([12, 12, 12, 9], 50)  # nine in quartile 4
    time = np.random.default_rng(0).permutation(200) + 1.0
    found = quartile_hazards(time, died, risk, (1.5, 2.5, 3.5))
    told = found.to_json()["groups"]
    assert [each["events"] for each in told] == [12, 12, 12, None]
    assert told[3]["unadjusted"] is None and told[2]["unadjusted"] is not None
    assert "<10" in found.lines()[-1] and found.lines()[-1].rstrip().endswith("none")
    died[np.flatnonzero(died)[:3]] = False  # nine in quartile 1, against which all are
    few = quartile_hazards(time, died, risk, (1.5, 2.5, 3.5))
    assert all(each["unadjusted"] is None for each in few.to_json()["groups"])
