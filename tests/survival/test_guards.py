"""Every guard with a table that trips it, and one that does not."""

import numpy as np
import pandas as pd
import pytest

from fahr.errors import Refused
from fahr.survival.cox import NoEstimate
from fahr.survival.design import Term
from fahr.survival.guards import Dates, check_table
from fahr.survival.models import cox_model
from fahr.survival.study import Endpoint
from survival.outcomes import people


def sound(n=200, seed=5):
    """Two photos a person; follow-up from the second."""
    time, event, risk, age, _ = people(n, seed, own=0.4)
    second = np.datetime64("2019-03-01") + np.arange(n) % 300
    end = second + time.astype(int)
    return pd.DataFrame({
        "subject_id": np.arange(n), "first": second - 200, "taken_on": second, "follow_up_days": time, "event": event,
        "last_seen": np.where(event == 1, end - 1, end), "died": np.where(event == 1, end, np.datetime64("NaT")),
        "closed": np.full(n, np.datetime64("2033-12-31")), "risk": risk, "age": age,
        "sex": np.where(np.arange(n) % 2, "f", "m"),
    })  # fmt: skip


DATES = Dates("taken_on", starts="taken_on", earlier="first", last_seen="last_seen", died="died", closed="closed")
COLUMNS = ["risk", "age", "sex"]


def refused(table, told, dates=DATES, columns=COLUMNS):
    with pytest.raises(Refused, match=told) as error:
        check_table(table, Endpoint(), columns, dates)
    return str(error.value)


def test_a_sound_table_passes_and_what_could_not_be_checked_is_told():
    told = check_table(sound(), Endpoint(), COLUMNS, DATES)
    assert len(told.checked) == 4 and told.unchecked == () and told.warnings == ()
    blind = check_table(sound(), Endpoint(), COLUMNS)
    assert blind.unchecked == (
        "immortal time, follow-up before the photo, events after censoring: no dates were given",
    )
    assert check_table(sound(), Endpoint(), COLUMNS, Dates("taken_on")).unchecked[0].startswith("last_seen")
    assert blind.lines()[1].startswith("not checked: immortal time")


def test_a_clock_that_starts_before_the_exposure_is_known_is_refused_unless_people_enter_late():
    table = sound()
    early = Dates("taken_on", starts="first")
    said = refused(table, r"immortal time: the clock starts at first, .* known only from taken_on on", early)
    assert "rows 0, 1, 2" in said and "and 180 more" in said and "Start the clock at taken_on" in said
    late = table.assign(follow_up_days=table["follow_up_days"] + 200, entry_days=200)
    check_table(late, Endpoint(), COLUMNS, early)
    refused(late.assign(entry_days=199), "immortal time", early)
    refused(table.assign(first=table["taken_on"]), r"first must lie before taken_on: rows 0")


def test_follow_up_before_the_photo_is_refused():
    table = sound()
    table.loc[7, "last_seen"] = table.loc[7, "taken_on"] - pd.Timedelta(days=1)
    died = table["died"].copy()
    died[9] = table.loc[9, "taken_on"] - pd.Timedelta(days=30)
    said = refused(table.assign(died=died), "follow-up before the photo: last_seen lies before taken_on: row 7")
    assert "died lies before taken_on: row 9" in said  # both, in one message
    check_table(sound(), Endpoint(), COLUMNS, DATES)


def test_an_event_after_censoring_is_refused():
    table = sound()
    alive = int(np.flatnonzero(table["event"] == 0)[0])
    dead = int(np.flatnonzero(table["event"] == 1)[0])
    wrong = table.copy()
    wrong.loc[alive, "died"] = wrong.loc[alive, "last_seen"]
    refused(wrong, f"event is 0, but died is not after the end of follow-up: row {alive}")
    wrong = table.copy()
    wrong.loc[alive, "died"] = wrong.loc[alive, "last_seen"] + pd.Timedelta(days=50)  # later than what was followed
    check_table(wrong, Endpoint(), COLUMNS, DATES)
    wrong = table.copy()
    wrong.loc[dead, "last_seen"] = wrong.loc[dead, "died"] + pd.Timedelta(days=3)
    refused(wrong, f"last_seen lies after died: nobody is seen alive after that: row {dead}")
    cut = table.assign(closed=np.datetime64("2022-01-01"))
    refused(cut, "event after censoring: it lies after closed, when follow-up ended for all")


def test_a_person_twice_is_refused_unless_clusters_are_meant():
    table = sound()
    table.loc[[3, 8], "subject_id"] = 1
    with pytest.raises(Refused, match=r"row 3 is of 1, and so is row 1, and 1 more rows .* cluster='subject_id'"):
        cox_model(table, ["age"])
    assert cox_model(table, ["age"], cluster="subject_id").clusters == 198
    assert cox_model(sound(), ["age"]).clusters is None


def test_columns_that_know_the_outcome_are_refused():
    table, rng = sound(), np.random.default_rng(0)
    dead = table["event"] == 1
    leaks = {
        "event": (table["event"], "is the outcome itself"),
        "state": (np.where(dead, "dead", "alive"), "tells everybody with the event from everybody without"),
        "grade": (np.where(dead, rng.integers(1, 3, 200), 0), "tells everybody with the event"),
        "autopsy": (np.where(dead, rng.normal(size=200), np.nan), "is known of exactly those with the event"),
        "visit": (np.where(dead, np.nan, rng.normal(size=200)), "is known of exactly those without the event"),
        "months": (table["follow_up_days"] / 30.4, "goes with the time of the event, in order"),
    }
    for name, (values, told) in leaks.items():
        refused(table.assign(**{name: values}), f"{name}: {told}", columns=[name, "age"])
        if name != "event":
            with pytest.raises(Refused, match=told):
                cox_model(table.assign(**{name: values}), [name, "age"])
    cause = Endpoint(event="cause", cause="a")  # who has no cause is alive, not unknown
    causes = table.assign(
        cause=np.where(dead, rng.choice(["a", "b"], 200), None), state=np.where(dead, "dead", "alive")
    )
    check_table(causes, cause, ["state", "age"])  # it does not tell a from b
    first = np.where(causes["cause"] == "a", 1, 0)
    with pytest.raises(Refused, match="first: tells everybody with the event"):
        check_table(causes.assign(first=first), cause, ["first"])
    with pytest.raises(Refused, match="cause: not every value is a number .* say by `cause` which"):
        cox_model(causes, ["age"], endpoint=Endpoint(event="cause"))
    odd = check_table(table.assign(last_visit=rng.normal(size=200)), Endpoint(), ["last_visit"])
    assert "is named like something that is known only after" in odd.warnings[0]
    good = -table["follow_up_days"] + rng.normal(0, 60, 200)
    assert "ranks people nearly without error" in check_table(table.assign(good=good), Endpoint(), ["good"]).warnings[0]
    gaps = table["age"].where(rng.random(200) < 0.5)  # missing, but of both kinds of people
    assert check_table(table.assign(age=gaps), Endpoint(), ["age", "risk", "sex"]).warnings == ()


def test_a_category_without_an_event_is_separation_and_a_small_one_is_not_told():
    table = sound()
    alive = np.flatnonzero(table["event"] == 0)
    stage = np.where(np.arange(200) % 2, "I", "II").astype(object)
    stage[alive[:15]] = "0"
    with pytest.raises(NoEstimate, match=r"separation: of the 15 people with stage 0 nobody had the event.*Join it"):
        cox_model(table.assign(stage=stage), ["stage"])
    dead = np.flatnonzero(table["event"] == 1)
    stage[alive[:15]], stage[dead[:4]] = "I", "IV"
    model = cox_model(table.assign(stage=stage), ["stage"])
    assert model.effect("stage IV").ratio is None and "stage IV: fewer than 10 events" in " ".join(model.warnings)
    assert model.effect("stage II").ratio is not None and "   <10" in "\n".join(model.lines())
    spared = np.isin(np.arange(200), alive[:15]) * 1.0  # as a number, it has no categories to be counted
    with pytest.raises(NoEstimate, match="the likelihood rises for ever with spared"):
        cox_model(table.assign(spared=spared), ["spared", "age"])


def test_more_than_one_column_for_ten_events_is_warned_of():
    table, rng = sound(80), np.random.default_rng(2)
    events = int(table["event"].sum())
    for number in range(events // 10 + 1):
        table[f"x{number}"] = rng.normal(size=80)
    names = [name for name in table if name.startswith("x")]
    told = [each for each in cox_model(table, names).warnings if "more than one for 10" in each]
    assert len(told) == 1 and f"{events // 10} at most" in told[0]
    assert not any("more than one for 10" in each for each in cox_model(table, names[:-1]).warnings)


def test_hazards_that_are_not_proportional_are_warned_of_with_what_to_do():
    rng = np.random.default_rng(4)
    x = rng.normal(size=800)
    early = rng.exponential(1 / (0.6 * np.exp(x)))
    time = np.where(early < 1, early, 1 + rng.exponential(1.7, 800)) * 365
    group = np.where(x > 0, "high", "low")
    table = {"follow_up_days": time, "event": np.ones(800), "x": x, "group": group, "steady": rng.normal(size=800)}
    found = cox_model(table, ["x", "steady"])
    told = [each for each in found.warnings if "changes with time" in each]
    assert (
        len(told) == 1
        and told[0].startswith("x: ")
        and "split the follow-up" in told[0]
        and "restricted mean" in told[0]
    )
    assert any("strata='group'" in each for each in cox_model(table, ["group"]).warnings)
    assert not any("changes with time" in each for each in cox_model(table, ["steady"]).warnings)


def test_columns_that_say_much_the_same_and_few_clusters_are_warned_of():
    table = sound()
    table["other"] = table["age"] + np.random.default_rng(1).normal(0, 3, 200)
    table["hospital"] = np.arange(200) % 6
    model = cox_model(table, ["age", "other"], cluster="hospital")
    assert any("variance inflation age" in each for each in model.warnings)
    assert any("robust errors over 6 clusters" in each for each in model.warnings)
    shown = np.corrcoef(table["age"], table["other"])[0, 1]
    assert model.inflation["age"] == pytest.approx(1 / (1 - shown**2), rel=1e-9)
    calm = cox_model(table, [Term("age", per="decade"), "sex"])
    assert not any("inflation" in each for each in calm.warnings)
