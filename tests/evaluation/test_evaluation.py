"""An evaluation finds what was planted, agrees with lifelines, loses nobody and refuses what it cannot know."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter

from evaluation.planted import planted_place, replaced, scored, truth, write
from fahr.cohorts.synthetic.truth import AGE_LOG_HAZARD_PER_YEAR, DEVIATION_LOG_HAZARD_PER_YEAR, FRAILTY_LOG_HAZARD
from fahr.errors import Refused
from fahr.evaluation import Cohort, Evaluation, Protocol, evaluate, read_cohort, read_outcomes
from fahr.evaluation.cohort import REASONS
from fahr.evaluation.hazards import hazards
from fahr.evaluation.markers import CUTS, _bins, _spread
from fahr.evaluation.quarters import quarters
from fahr.survival import concordance

QUICK: dict[str, Any] = {"bootstraps": 40}
FAR_OFF = 3.3  # standard errors: one in a thousand


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return planted_place(tmp_path_factory)


@pytest.fixture(scope="module")
def cohort(place: str) -> Cohort:
    return read_cohort(place, Protocol(**QUICK))


@pytest.fixture(scope="module")
def found(cohort: Cohort) -> Evaluation:
    return evaluate(cohort, Protocol(**QUICK))


def rows(found: Evaluation, name: str, **where: Any) -> list[dict[str, Any]]:
    table = next(table for table in found.tables if table.name == name)
    return [row for row in table.rows if all(row[key] == value for key, value in where.items())]


def one(found: Evaluation, name: str, **where: Any) -> dict[str, Any]:
    (row,) = rows(found, name, **where)
    return row


def refusals(found: Evaluation) -> str:
    return "\n".join(line for section in found.sections for line in section.refused)


def small(folder: Path, people: int = 300, rates: bool = True, **columns: Any) -> str:
    table = scored(truth()).slice(0, people)
    return write(folder, replaced(table, **columns), rates=rates)


# What was planted


def test_hazard_ratios_of_the_truth_come_out_where_they_were_planted(found: Evaluation, cohort: Cohort) -> None:
    planted = {
        "age": 10 * AGE_LOG_HAZARD_PER_YEAR, "face_age_deviation": 10 * DEVIATION_LOG_HAZARD_PER_YEAR,
        "survival_risk": FRAILTY_LOG_HAZARD * float(cohort.people["survival_risk"].std(ddof=1)),
    }  # fmt: skip
    for term, wanted in planted.items():
        row = one(found, "hazard_ratios", model="FAD and risk", term=term)
        error = np.log(row["high"] / row["low"]) / (2 * 1.959964)
        assert abs(np.log(row["ratio"]) - wanted) < FAR_OFF * error, (term, row["ratio"], np.exp(wanted))
    assert one(found, "nested_tests", at="first photo", step="base -> base + risk")["p_value"] < 1e-6


def test_concordance_of_the_whole_model_is_that_of_the_true_hazard(found: Evaluation, cohort: Cohort) -> None:
    facts = {row["photo_id"]: row["log_hazard"] for row in truth().truth.to_pylist()}
    people = cohort.people
    first = {row["subject_id"]: row["photo_id"] for row in reversed(truth().manifest.to_pylist())}
    hazard = np.array([facts[first[each]] for each in people["subject_id"].tolist()])
    oracle = concordance(people["follow_up_days"], people["event"], hazard, entry=people["entry_days"])
    row = one(found, "c_index", marker="model base + FAD + risk")
    assert row["harrell"] == pytest.approx(oracle.value, abs=0.005)
    assert row["harrell_low"] < oracle.value < row["harrell_high"]
    gain = one(found, "c_differences", marker="model base + risk")
    assert gain["low"] > 0
    c = {name: one(found, "c_index", marker=f"model {name}")["harrell"] for name in ("base", "base + risk")}
    assert gain["difference"] == pytest.approx(c["base + risk"] - c["base"], abs=1e-12)


def test_uno_s_concordance_is_that_of_events_before_the_day_that_is_told(found: Evaluation, cohort: Cohort) -> None:
    row, people = one(found, "c_index", marker="risk"), cohort.people
    again = concordance(people["follow_up_days"], people["event"], people["survival_risk"],
                        entry=people["entry_days"], kind="uno", tau=row["before_days"])  # fmt: skip
    assert row["uno"] == pytest.approx(again.value, abs=1e-12)
    assert (people["follow_up_days"][people["event"] == 1] < row["before_days"]).mean() == pytest.approx(0.95, abs=0.01)


def test_shares_beyond_a_cut_are_counted_as_the_papers_count_them() -> None:
    (row,) = _spread("FAD", np.repeat([-5.0, 0.0, 10.0, 3.0], 10), CUTS)
    assert row["shares"] == "> 0: 50.0%, >= 10: 25.0%, <= -5: 25.0%"
    assert (row["share_above_0"], row["share_from_10"], row["share_to_-5"]) == (0.5, 0.25, 0.25)


def test_chances_learned_from_the_model_s_own_kind_of_people_come_true(found: Evaluation) -> None:
    ratio, slope = (one(found, "calibration", number=name) for name in ("observed / expected", "slope"))
    assert 0.8 < ratio["value_low"] < ratio["value_high"] < 1.25 and ratio["value_low"] < 1.05
    assert slope["value_low"] - 0.05 < 1 < slope["value_high"] + 0.05
    assert any("folds of these same people" in line for line in found.methods)


# Other software


def frame(people: dict[str, Any], *columns: str) -> pd.DataFrame:
    made = {name: people[name] for name in ("follow_up_days", "event", "entry_days", *columns)}
    return pd.DataFrame(made | {"male": (people["sex"] == "male").astype(float)}).astype(float)


def test_an_adjusted_cox_model_is_that_of_lifelines(found: Evaluation, cohort: Cohort) -> None:
    table = frame(cohort.people, "age", "face_age_deviation")
    fit = CoxPHFitter().fit(table, "follow_up_days", "event", entry_col="entry_days")
    for term, column, per in (
        ("face_age_deviation", "face_age_deviation", 10),
        ("sex male", "male", 1),
        ("age", "age", 10),
    ):
        row = one(found, "hazard_ratios", model="FAD", term=term)
        low, high = fit.confidence_intervals_.loc[column] * per
        told = [row["ratio"], row["low"], row["high"]]
        assert told == pytest.approx(np.exp([fit.params_[column] * per, low, high]).tolist(), rel=1e-5)
    assert (row["people"], row["events"]) == (len(table), int(table["event"].sum()))


def test_a_high_rate_is_judged_from_the_last_photo_on_as_lifelines_does(found: Evaluation, cohort: Cohort) -> None:
    long = cohort.rated["band"] == "long"
    people = {name: values[long] for name, values in cohort.rated.items()}
    assert (people["taken_on"] == people["last_taken_on"]).all()
    table = frame(people, "age", "interval_years").assign(high=(people["high_rate"] == "high").astype(float))
    fit = CoxPHFitter().fit(table, "follow_up_days", "event", entry_col="entry_days")
    row = one(found, "hazard_ratios", model="FAR long", term="high_rate high")
    assert row["ratio"] == pytest.approx(np.exp(fit.params_["high"]), rel=1e-5)
    assert row["people"] == int(table["high"].sum()) and "above 1 vs not" in row["words"]


def test_strata_have_a_baseline_each_as_in_lifelines(place: str) -> None:
    protocol = Protocol(strata=("site",), covariates=("sex",))
    cohort = read_cohort(place, protocol)
    section = hazards(cohort, protocol)
    table = frame(cohort.people, "age", "survival_risk").assign(site=cohort.people["site"])
    fit = CoxPHFitter().fit(table, "follow_up_days", "event", entry_col="entry_days", strata=["site"])
    (row,) = [row for row in section.drawn["forest"] if row["model"] == "risk"]
    sd = float(cohort.people["survival_risk"].std(ddof=1))
    assert row["ratio"] == pytest.approx(np.exp(sd * fit.params_["survival_risk"]), rel=1e-5)
    assert any("site" in line for line in section.methods)


def test_without_percentiles_quartiles_are_of_the_people_themselves_and_that_is_said(tmp_path: Path) -> None:
    cohort = read_cohort(small(tmp_path, 600, rates=False, survival_percentile=[None] * 600), Protocol())
    section = quarters(cohort, Protocol())
    people = [row["people"] for row in section.tables[0].rows]
    assert max(people) - min(people) <= 1 and any("of these people" in line for line in section.warnings)
    assert any("of these people themselves" in line for line in hazards(cohort, Protocol()).methods)


def test_curves_of_quartiles_are_those_of_lifelines(found: Evaluation, cohort: Cohort) -> None:
    people, shares = cohort.people, cohort.people["survival_percentile"]
    for number, row in enumerate(rows(found, "quartiles")):
        mine = (shares > 25 * number) & (shares <= 25 * (number + 1))
        time, event, entry = (people[name][mine] for name in ("follow_up_days", "event", "entry_days"))
        fit = KaplanMeierFitter().fit(time, event, entry=entry)
        assert (row["people"], row["events"]) == (int(mine.sum()), int(people["event"][mine].sum()))
        assert row["survival_365"] == pytest.approx(float(fit.survival_function_at_times(365).iloc[0]), abs=1e-9)
        watched = (time >= 365.25) & (entry < 365.25)
        assert rows(found, "at_risk")[number]["year_1"] == int(watched.sum())


# Nobody is lost in silence


def test_every_photo_and_every_person_is_judged_or_has_a_reason(tmp_path: Path) -> None:
    table = scored(truth()).slice(0, 600)
    none = [None] * 20
    names = ("event", "follow_up_days", "entry_days", "split", "face_age", "survival_risk")
    columns: dict[str, Any] = {name: table[name].to_pylist() for name in names}
    columns["split"][:10] = ["train"] * 10
    columns["event"][20:30] = none[:10]
    columns["follow_up_days"][40:50] = [0.0] * 10
    columns["entry_days"][60:70] = columns["follow_up_days"][60:70]
    columns["face_age"][80:90] = columns["survival_risk"][80:90] = none[:10]
    cohort = read_cohort(write(tmp_path, replaced(table, **columns)), Protocol())
    photos = {step.reason: step.photos for step in cohort.flow}
    people = {step.reason: step.people for step in cohort.flow}
    assert [photos[name] for name in REASONS] == [10, 10, 10, 10, 10]
    assert cohort.used + sum(cohort.rejects().values()) == cohort.photos == 600
    assert photos["photos"] == photos["scored"] + photos["rejected_no_face"] == 603
    assert photos["judged"] + photos["later_visit"] == cohort.used == 550
    assert people["judged"] + sum(people[name] for name in REASONS) == people["scored"]
    assert people["judged"] == len(cohort.people["event"])
    assert len(cohort.rated["event"]) + sum(cohort.unrated.values()) == people["judged"]


def test_a_person_counts_once_by_the_earliest_day_and_the_median_of_its_photos(cohort: Cohort) -> None:
    table = scored(truth()).to_pandas().sort_values("taken_on", kind="stable")
    first = table.groupby("subject_id")["taken_on"].transform("min") == table["taken_on"]
    wanted = table[first].groupby("subject_id")["face_age"].median()
    assert len(wanted) == len(cohort.people["event"])
    got = pd.Series(cohort.people["face_age"], cohort.people["subject_id"])
    assert got.sort_index().to_numpy() == pytest.approx(wanted.sort_index().to_numpy(), abs=1e-9)


def test_people_without_a_covariate_are_counted_where_it_is_used(tmp_path: Path) -> None:
    sex = scored(truth()).slice(0, 600)["sex"].to_pylist()
    gone = {name: None for name in (0, 1, 2, 3, 4, 5)}
    cohort = read_cohort(small(tmp_path, 600, sex=[gone.get(at, each) for at, each in enumerate(sex)]), Protocol())
    found = evaluate(cohort, Protocol(**QUICK))
    hazards = next(section for section in found.sections if section.name == "hazards")
    assert any("left out" in line and "sex" in line for line in hazards.warnings)


# Refusals


def with_events(folder: Path, number: int) -> str:
    """300 photos of 150 people or so, `number` of whom had the event."""
    table = scored(truth()).slice(0, 300)
    subjects = table["subject_id"].to_pylist()
    some = set(sorted(set(subjects))[::9][:number])  # anybody: not those of the highest risk
    return write(folder, replaced(table, event=[int(each in some) for each in subjects]))


@pytest.mark.filterwarnings("ignore::fahr.survival.ReversedSign")  # of one event, the sign of a C is chance
@pytest.mark.parametrize("events", [0, 1, 9])
def test_fewer_than_ten_events_tell_no_ratio_and_say_so(tmp_path: Path, events: int) -> None:
    protocol = Protocol(**QUICK)
    found = evaluate(read_cohort(with_events(tmp_path, events), protocol), protocol)
    assert not rows(found, "summary") and "c_index" not in {table.name for table in found.tables}
    told = json.dumps(found.to_json(), allow_nan=False)
    assert "ratio" not in {
        key for row in rows(found, "hazard_ratios") for key, value in row.items() if value is not None
    }
    assert "fewer than 10 events" in told.lower() or "nobody" in told.lower()
    assert one(found, "cohort", what="events")["value"] == (0 if events == 0 else None)
    assert refusals(found).count("\n") >= 5


def test_only_an_age_model_or_only_a_survival_model_is_enough_and_the_rest_is_told(tmp_path: Path) -> None:
    protocol, none = Protocol(**QUICK), [None] * 600
    only_age = small(tmp_path / "a", 600, survival_risk=none, survival_percentile=none, survival_model_digest=none)
    found = evaluate(read_cohort(only_age, protocol), protocol)
    assert "The scores hold no risk" in refusals(found) and one(found, "hazard_ratios", model="FAD", marker=True)
    only_risk = small(tmp_path / "b", 600, rates=False, face_age=none, face_age_deviation=none, age_model_digest=none)
    found = evaluate(read_cohort(only_risk, protocol), protocol)
    assert "FAD: the scores hold no face age" in refusals(found) and "FAR" in refusals(found)
    assert one(found, "hazard_ratios", model="risk", marker=True)["ratio"] > 1


def test_what_cannot_be_judged_at_all_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no scoring has ended"):
        read_cohort(str(tmp_path), Protocol())
    none = [None] * 300
    with pytest.raises(Refused, match="Give --outcomes, or other --splits"):
        read_cohort(small(tmp_path / "a", event=none), Protocol())
    with pytest.raises(Refused, match="splits: train 300"):
        read_cohort(small(tmp_path / "b", split=["train"] * 300), Protocol())
    with pytest.raises(Refused, match="age: unknown of everybody"):
        read_cohort(small(tmp_path / "c", age=none), Protocol())
    place = small(tmp_path / "d")
    with pytest.raises(Refused, match="have siet. Did you mean 'site'"):
        read_cohort(place, Protocol(covariates=("siet",)))
    digests = ["sha256:a", "sha256:b"] * 150
    with pytest.raises(Refused, match="of 2 models"):
        read_cohort(small(tmp_path / "e", age_model_digest=digests), Protocol())


def test_a_person_who_had_the_event_by_one_photo_only_is_refused_by_name(tmp_path: Path) -> None:
    table = scored(truth()).slice(0, 300)
    subjects = table["subject_id"].to_pylist()
    twice = next(at for at in range(1, 300) if subjects[at] == subjects[at - 1])
    event = table["event"].to_pylist()
    event[twice] = 1 - event[twice]
    with pytest.raises(Refused, match=subjects[twice]):
        read_cohort(write(tmp_path, replaced(table, event=event)), Protocol())


def test_a_covariate_that_knows_the_outcome_is_refused_in_its_section(tmp_path: Path) -> None:
    table = scored(truth()).slice(0, 300)
    table = table.append_column("vital", table["event"].cast(pa.string()))
    cohort = read_cohort(write(tmp_path, table), Protocol(covariates=("vital",)))
    found = evaluate(cohort, Protocol(covariates=("vital",), **QUICK))
    assert "tells everybody with the event" in refusals(found)


# Outcomes of a hospital


def hospital(folder: Path, columns: str, lines: list[str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "deaths.csv").write_text("\n".join([columns, *lines]) + "\n")
    return str(folder / "deaths.csv")


def test_outcomes_a_person_give_each_photo_its_own_time(place: str, cohort: Cohort, tmp_path: Path) -> None:
    table = scored(truth()).to_pandas()
    first = table.sort_values("taken_on", kind="stable").drop_duplicates("subject_id")
    lines = [f"{row.subject_id},{row.taken_on:%d/%m/%Y},{row.follow_up_days:.0f},{('alive', 'dead')[int(row.event)]}"
             for row in first.itertuples()]  # fmt: skip
    told = hospital(tmp_path, "PatID,Photo,Days,Status", [*lines, "stranger,01/02/2015,50,dead"])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "columns: {subject_id: PatID, taken_on: Photo, follow_up_days: Days, event: Status}\n"
        "date_format: '%d/%m/%Y'\nvalues: {event: {dead: 1, alive: 0}}\n"
    )
    found = read_cohort(place, Protocol(), read_outcomes(told, str(mapping)))
    assert found.joined is not None and (found.joined.key, found.joined.unmatched) == ("subject_id", 1)
    for mine, theirs in ((found.people, cohort.people), (found.rated, cohort.rated)):
        for name in ("follow_up_days", "event"):
            assert (mine[name] == theirs[name]).all(), name


def test_outcomes_that_cannot_be_matched_are_refused_with_both_ids_named(place: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="none of its 1 values of subject_id .*'p-17'.*'s0000000'"):
        read_cohort(
            place, Protocol(), read_outcomes(hospital(tmp_path, "subject_id,follow_up_days,event", ["p-17,5,1"]))
        )
    lines = [f"s{number:07d},900,0" for number in range(50)]
    several = read_outcomes(hospital(tmp_path, "subject_id,follow_up_days,event", lines))
    with pytest.raises(Refused, match="several days.* Give taken_on"):
        read_cohort(place, Protocol(), several)
    with pytest.raises(Refused, match="neither photo_id nor subject_id"):
        read_outcomes(hospital(tmp_path, "id,follow_up_days,event", ["a,5,1"]))
    with pytest.raises(Refused, match="no column event and no follow_up_days"):
        read_outcomes(hospital(tmp_path, "subject_id,days", ["a,5"]))
    with pytest.raises(Refused, match="event"):
        read_outcomes(hospital(tmp_path, "subject_id,follow_up_days,event", ["a,5,7"]))
    with pytest.raises(Refused, match="taken after that person's death"):
        dead = hospital(tmp_path, "subject_id,taken_on,follow_up_days,event", ["s0000000,2001-01-01,5,1"])
        read_cohort(place, Protocol(), read_outcomes(dead))


# Protocols


def test_a_protocol_is_a_name_or_a_file_and_what_is_given_beside_it_wins(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("covariates: [site]\nhorizons: [90]\nbootstraps: 50\n")
    made = Protocol(protocol=str(file), bootstraps=60)
    assert (made.covariates, made.horizons, made.bootstraps) == (("site",), (90.0,), 60)
    assert made.digest() != Protocol(bootstraps=60).digest()
    file.write_text("covariate: [site]\n")
    for given_, told in ((str(file), "Did you mean 'covariates'"), ("standart", "Did you mean 'standard'")):
        with pytest.raises(ValueError, match=told):
            Protocol(protocol=given_)
    for wrong in ({"horizons": (365, 90)}, {"covariates": ("event",)}, {"covariates": ("site",), "strata": ("site",)}):
        with pytest.raises(ValueError, match="--(horizons|covariates)"):
            Protocol(**wrong)


def test_other_people_s_outcomes_turn_risks_into_chances_where_there_are_enough(tmp_path: Path) -> None:
    table = scored(truth())
    half = [("test", "calibrate")[int(each[1:]) % 2] for each in table["subject_id"].to_pylist()]
    protocol = Protocol(**QUICK)
    cohort = read_cohort(write(tmp_path, replaced(table, split=half)), protocol)
    assert not set(cohort.learned["subject_id"].tolist()) & set(cohort.people["subject_id"].tolist())
    found = evaluate(cohort, protocol)
    assert any("other people (split calibrate)" in line for line in found.methods)
    ratio = one(found, "calibration", number="observed / expected")
    assert 0.8 < ratio["value"] < 1.25


@given(st.lists(st.integers(-40, 400), min_size=20, max_size=300))
def test_every_bin_has_ten_people_and_all_are_in_one(values: list[int]) -> None:
    shown = np.array(values, float) / 4
    bins = _bins(shown)
    assert sum(each["people"] for each in bins) == len(values)
    assert all(each["people"] >= 10 for each in bins)
    assert bins[0]["low"] is None and bins[-1]["high"] is None
    for each in bins:
        low, high = (end if end is not None else sign * np.inf for end, sign in ((each["low"], -1), (each["high"], 1)))
        assert each["people"] == int(((shown >= low) & (shown < high)).sum())


# What a hostile reader found


def test_nobody_is_at_risk_before_the_day_that_the_outcomes_run_from(tmp_path: Path) -> None:
    """A photo older than that: its person could not be seen to die in between."""
    table = scored(truth()).slice(0, 300)
    folder = write(tmp_path / "scores", replaced(table, entry_days=[None] * 300))
    days = {row["subject_id"]: row["taken_on"] + timedelta(days=182) for row in table.to_pylist()}
    lines = [f"{who},{day},100,1" for who, day in days.items()]
    told = hospital(tmp_path, "subject_id,taken_on,follow_up_days,event", lines)
    with_zeros = hospital(tmp_path / "zeros", "subject_id,taken_on,follow_up_days,event,entry_days",
                          [f"{line},0" for line in lines])  # fmt: skip
    found, same = (read_cohort(folder, Protocol(), read_outcomes(each)) for each in (told, with_zeros))
    assert found.people["entry_days"].min() >= 182
    assert (found.people["follow_up_days"] - found.people["entry_days"] == 100).all()
    for name in ("follow_up_days", "entry_days"):
        assert (found.people[name] == same.people[name]).all()


def test_a_stratum_is_no_covariate_by_default(place: str) -> None:
    cohort = read_cohort(place, Protocol(strata=("sex",)))
    assert cohort.covariates == () and any("baseline hazard of its own" in each for each in cohort.notes)
    section = hazards(cohort, Protocol(strata=("sex",)))
    assert {row["model"] for row in section.drawn["forest"]} >= {"FAD", "risk"}


def test_people_without_a_covariate_are_counted_under_calibration_too(tmp_path: Path) -> None:
    sex = scored(truth()).slice(0, 900)["sex"].to_pylist()
    some = small(tmp_path, 900, sex=[None if at % 5 == 0 else each for at, each in enumerate(sex)])
    found = evaluate(read_cohort(some, Protocol()), Protocol(**QUICK))
    calibration = next(section for section in found.sections if section.name == "calibration")
    assert any("left out" in line and "sex" in line for line in calibration.warnings), calibration.refused


def test_a_ratio_that_is_suppressed_has_no_p_and_is_no_member_of_the_family(cohort: Cohort) -> None:
    rated = {name: values.copy() for name, values in cohort.rated.items()}
    band = rated["band"] == "short"
    dead, alive = (np.flatnonzero(band & (rated["event"] == each)) for each in (1, 0))
    rated["high_rate"][band] = "not high"
    rated["high_rate"][[*dead[:3], *alive[:20]]] = "high"  # three events of them: nothing may be told
    section = hazards(replace(cohort, rated=rated), Protocol())
    marked = {row["model"]: row for row in section.drawn["forest"]}
    assert marked["FAR short"]["ratio"] is None and marked["FAR short"]["holm"] is None
    told = [name for name, row in marked.items() if row["holm"] is not None]
    assert {"FAD", "risk"} <= set(told)
    smallest = min(marked[name]["p_value"] for name in told)
    assert min(marked[name]["holm"] for name in told) == pytest.approx(len(told) * smallest)
    (line,) = [line for line in section.methods if "Holm" in line]
    assert "FAR short" not in line and all(name in line for name in told)
