"""Hazard ratios of what a face says, beside age and covariates; and what each adds to what is known without it.

section = hazards(cohort, protocol)       # table `hazard_ratios`: every column of every model; `proportionality`
section = nested(cohort, protocol)        # likelihood-ratio tests: base -> + FAD, + risk, + both; + FAR

Deviation and age count per decade, risk per standard deviation and by quartile, a high rate against one that is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fahr.biomarkers import BANDS
from fahr.evaluation.cohort import Cohort, Table
from fahr.evaluation.protocol import Protocol
from fahr.evaluation.quarters import OWN_QUARTERS, frozen_quarters
from fahr.evaluation.tables import COUNT, P_VALUE, Column, Row, Section, counts, plain
from fahr.evaluation.tables import Table as Printed
from fahr.survival import Dates, Endpoint, Ladder, Term, check_table, cox_model, holm, nested_models
from fahr.survival.curves import FEWEST
from fahr.survival.models import CoxModel

ENDPOINT = Endpoint()
AGE = Term("age", per="decade")
FAD = Term("face_age_deviation", per="decade")
RISK = Term("survival_risk", per="sd")
RATE = Term("high_rate", per="level", reference="not high")


@dataclass(frozen=True)
class Model:
    """A marker beside what is adjusted for, on some people."""

    name: str
    table: Table
    markers: tuple[Term, ...]
    others: tuple[Term, ...]
    strata: tuple[str, ...] = ()
    words: str = ""  # of the marker's ratio, where its own are not plain enough
    tested: bool = False  # belongs to the family that Holm's adjustment is over


def base_terms(cohort: Cohort) -> tuple[Term, ...]:
    """Age, and the covariates."""
    return (AGE, *(Term(name) for name in cohort.covariates))


def markers_of(cohort: Cohort) -> dict[str, tuple[Term, ...]]:
    """What a face says at one time, as far as it was scored."""
    found = {"FAD": FAD, "risk": RISK}
    return {name: (term,) for name, term in found.items() if cohort.has(term.column)}


def check_dates(cohort: Cohort) -> list[str]:
    """Refused: a clock that starts before the photos a marker is made of, photos in the wrong order. What was done."""
    if not len(cohort.rated["event"]):
        return []
    dates = Dates(exposed="last_taken_on", starts="taken_on", earlier="first_taken_on")
    check_table(cohort.rated, ENDPOINT, (), dates)
    return ["Checked of aging rates: the clock starts at the last photo (no immortal time), and photos are in order."]


def models_of(cohort: Cohort, protocol: Protocol) -> list[Model]:
    people, base, strata = cohort.people, base_terms(cohort), protocol.strata
    models = [Model("age", people, (AGE,), base[1:], strata)]
    markers = markers_of(cohort)
    for name, terms in markers.items():
        models.append(Model(name, people, terms, base, strata, tested=True))
    if len(markers) > 1:
        models.append(Model("FAD and risk", people, (FAD, RISK), base, strata))  # each beside the other
    if cohort.has("survival_risk"):
        models.append(Model("risk quartiles", people, (frozen_quarters(people),), base, strata))
    return models + _rate_models(cohort, protocol)


def _rate_models(cohort: Cohort, protocol: Protocol) -> list[Model]:
    """A high rate in each band of time, at the last photo; the shrunken rate in all, each with its own baseline."""
    rated, others = cohort.rated, (*base_terms(cohort), Term("interval_years"))
    models = []
    for band in BANDS if "band" in rated else ():
        mine = rated["band"] == band.name
        if mine.any():
            some = {name: values[mine] for name, values in rated.items()}
            words = f"FAR above {band.cutoff:g} vs not, {band.first_day:,}-{band.last_day:,} days"
            models.append(Model(f"FAR {band.name}", some, (RATE,), others, protocol.strata, words, tested=True))
    if "shrunken_rate" in rated and np.isfinite(rated["shrunken_rate"]).any():
        words = "FAR shrunken, 1 year a year more"
        strata = ("band", *protocol.strata)
        models.append(Model("FAR shrunken", rated, (Term("shrunken_rate"),), others, strata, words))
    return models


def hazards(cohort: Cohort, protocol: Protocol) -> Section:
    section = Section("hazards", "Hazard ratios, adjusted")
    found: list[tuple[Model, CoxModel]] = []
    for model in models_of(cohort, protocol):
        with section.attempt(model.name):
            terms = [*model.markers, *model.others]
            made = cox_model(model.table, terms, endpoint=ENDPOINT, strata=list(model.strata) or None)
            if made.events < FEWEST:
                section.refused.append(
                    f"{model.name}: fewer than {FEWEST} events among its people, so no ratio is told."
                )
                continue
            found.append((model, made))
            section.warn(f"{model.name}: {plain(each)}" for each in made.warnings)
    for name in ("FAD", "risk"):
        if name not in markers_of(cohort):
            section.refused.append(f"{name}: the scores hold none.")
    if not len(cohort.rated["event"]):
        section.refused.append("FAR: nobody of these people has a rate that can be judged.")
    rows = _rows(found)
    tests = [
        {"model": model.name, "term": term, "p_value": p_value}
        for model, made in found
        for term, p_value in made.proportional.items()
    ]
    if found:
        section.words.append(
            f"Ratios above 1: worse. Each marker stands beside {', '.join(('age', *cohort.covariates))} of the day of "
            "the photo; rates also beside the time between their photos."
        )
    section.tables = [
        Printed("hazard_ratios", "Every column of every model", (
            Column("model", ("model",)), Column("hazard ratio of", ("words",)), Column("people", ("people",), COUNT),
            Column("events", ("events",), COUNT), Column("ratio", ("ratio", "low", "high"), ".2f"),
            Column("p", ("p_value",), P_VALUE), Column("p, Holm", ("holm",), P_VALUE)), tuple(rows)),
        Printed("proportionality", "Are hazards proportional?", (
            Column("model", ("model",)), Column("term", ("term",)), Column("p of a drift", ("p_value",), P_VALUE),
        ), tuple(tests)),
    ]  # fmt: skip
    section.drawn["forest"] = [row for row in rows if row["marker"]]
    section.methods = _methods(found, protocol)
    return section


def _rows(found: Sequence[tuple[Model, CoxModel]]) -> list[Row]:
    """Of all effects; Holm's p of the markers that are tested."""
    family = _family(found)
    adjusted = dict(zip(family, holm(np.array([*family.values()])).tolist(), strict=True)) if family else {}
    rows: list[Row] = []
    for model, made in found:
        mine = {term.column for term in model.markers}
        for each in made.effects:
            marker = each.term in mine
            words = model.words if marker and model.words else plain(each.words)
            if marker and len(mine) > 1:
                words += ", beside the other"
            rows.append({
                "model": model.name, "term": each.name, "words": words,
                "marker": marker, **counts(each.people, each.events), "ratio": each.ratio, "low": each.low,
                "high": each.high, "p_value": each.p_value, "holm": adjusted.get(model.name) if marker else None,
            })  # fmt: skip
    return rows


def _family(found: Sequence[tuple[Model, CoxModel]]) -> dict[str, float]:
    """p of each marker that is tested and whose ratio is told: what is suppressed is no member of the family."""
    return {
        model.name: made.tests[model.markers[0].column].p_value
        for model, made in found
        if model.tested and all(each.ratio is not None for each in made.effects if each.term == model.markers[0].column)
    }


def _methods(found: Sequence[tuple[Model, CoxModel]], protocol: Protocol) -> list[str]:
    if not found:
        return []
    told = [
        "Cox proportional hazards with Efron's ties, delayed entry where it was given, and Wald intervals; complete "
        "cases of each model's columns, and how many they are is told."
    ]
    if protocol.strata:
        told.append(f"Baseline hazards are each value's own of {', '.join(protocol.strata)}.")
    names = [model.name for model, _ in found]
    if "risk quartiles" in names:
        told.append(
            "Quartiles of the risk are of these people themselves: the checkpoint holds none of those it learned from."
            if any(OWN_QUARTERS in note for _, made in found for note in made.warnings)
            else "Quartiles of the risk are those of the people the model learned from; 1 is the reference."
        )
    if any(name.startswith("FAR") and name != "FAR shrunken" for name in names):
        told.append(
            "Face aging rates: time runs from the last photo, before which nobody can know the rate. High is above the "
            "cutoff of the band of time between the photos; bands are never pooled but for the shrunken rate, "
            "stratified by band."
        )
    tested = [*_family(found)]
    if len(tested) > 1:
        told.append(f"p values of {', '.join(tested)} are adjusted together by Holm's method.")
    told.append(
        "Proportional hazards: exact score test on Schoenfeld residuals, time by Kaplan-Meier, as R survival >= 3."
    )
    return told


# What each adds


def nested(cohort: Cohort, protocol: Protocol) -> Section:
    section = Section("nested", "What each adds to age and covariates")
    base, strata = base_terms(cohort), list(protocol.strata)
    markers = markers_of(cohort)
    with section.attempt("first photo"):
        if markers:
            found = nested_models(cohort.people, base, markers, endpoint=ENDPOINT, strata=strata or None)
            section.drawn["ladder"] = found
            _add(section, found, "first photo", cohort)
    with section.attempt("last photo"):
        if len(cohort.rated["event"]):
            added = {"FAD": (FAD,), "FAR": (RATE,)}
            others = (*base, Term("interval_years"))
            found = nested_models(cohort.rated, others, added, endpoint=ENDPOINT, strata=["band", *strata])
            _add(section, found, "last photo", cohort)
    rows = section.drawn.get("rows", ([], []))
    section.tables = [
        Printed("nested_tests", "Likelihood-ratio tests", (
            Column("people of the", ("at",)), Column("step", ("step",)), Column("chi-squared", ("statistic",), ".2f"),
            Column("df", ("freedom",), COUNT), Column("p", ("p_value",), P_VALUE)), tuple(rows[1])),
        Printed("nested_models", "The models", (
            Column("people of the", ("at",)), Column("model", ("model",)), Column("columns", ("columns",), COUNT),
            Column("people", ("people",), COUNT), Column("events", ("events",), COUNT),
            Column("log-likelihood", ("log_likelihood",), ".3f"), Column("C", ("c_index",), ".3f")), tuple(rows[0])),
    ]  # fmt: skip
    if rows[0]:
        section.words.append(
            f"Base: {', '.join(('age', *cohort.covariates))}. All models of one photo are of the very same people."
        )
        section.methods = [
            "Nested Cox models on identical rows: 2 (log-likelihood of the larger - of the smaller), chi-squared with "
            "as many degrees of freedom as columns were added."
        ]
    return section


def _add(section: Section, found: Ladder, at: str, cohort: Cohort) -> None:
    models, steps = section.drawn.setdefault("rows", ([], []))
    for name, model in found.models.items():
        models.append({
            "at": at, "model": name, "columns": len(model.fit.names), **counts(model.n, model.events),
            "log_likelihood": model.fit.log_likelihood, "c_index": found.concordances.get(name),
        })  # fmt: skip
    for name, test in found.steps.items():
        steps.append({"at": at, "step": name, "statistic": test.statistic, "freedom": test.freedom,
                      "p_value": test.p_value})  # fmt: skip
    if not found.steps:
        section.refused.append(f"{at}: fewer than {FEWEST} events, so no test is told.")
    section.warn(f"{at}: {plain(each)}" for each in found.warnings)
