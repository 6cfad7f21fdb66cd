"""Do chances come true? A Cox model of age, covariates and what the face says gives each person one for each horizon.

section = calibration(cohort, protocol, told)

The scores are no chances: they need a baseline hazard, which is learned from other people than those judged. They are
the people of the baseline splits, where those have events enough; else each fold's are learned from the other folds.
"""

from collections.abc import Sequence

import numpy as np

from fahr.cohorts.folds import deal
from fahr.errors import Refused
from fahr.evaluation.cohort import Cohort, Table
from fahr.evaluation.hazards import ENDPOINT, base_terms, markers_of
from fahr.evaluation.protocol import Protocol
from fahr.evaluation.ranks import Told, reached
from fahr.evaluation.tables import COUNT, Column, Row, Section, finite, plain
from fahr.evaluation.tables import Table as Printed
from fahr.survival import Calibration, Estimate, Term, brier_score, complete_cases, cox_model, judge_calibration
from fahr.survival.curves import FEWEST, counted, few
from fahr.survival.models import EVENTS_A_COLUMN, CoxModel
from fahr.survival.people import Floats

CERTAIN = 1e-6  # chances are kept off 0 and 1, which have no log(-log(1 - chance))
NUMBERS = {
    "observed": "observed share", "expected": "mean chance", "ratio": "observed / expected", "slope": "slope",
    "ici": "mean distance (ICI)", "e50": "median distance (E50)", "e90": "90th percentile (E90)",
    "emax": "largest distance (Emax)",
}  # fmt: skip
MAIN_DAYS = 365.0


def resamples(cohort: Cohort, protocol: Protocol) -> int:
    """What `calibration` will do; one of calibration costs thirty of a concordance."""
    return protocol.bootstraps * 31 if markers_of(cohort) else 0


def calibration(cohort: Cohort, protocol: Protocol, told: Told = lambda number: None) -> Section:
    section = Section("calibration", "Do chances come true?")
    markers = markers_of(cohort)
    terms = [*base_terms(cohort), *(term for each in markers.values() for term in each)]
    if not markers:
        section.refused.append("The scores hold neither a face age nor a risk.")
        return section
    names = [term.column for term in terms]
    cases = complete_cases({name: cohort.people[name] for name in names})
    rows = cases.rows
    if len(rows) < cases.people:
        section.warn([plain(cases.line())])
    people = {name: values[rows] for name, values in cohort.people.items()}
    time, event = people["follow_up_days"], people["event"]
    if int(event.sum()) < FEWEST:
        section.refused.append(f"Fewer than {FEWEST} events: nothing is told.")
        return section
    horizons = [each for each in reached(time, event, protocol) if int(event[time <= each].sum()) >= FEWEST]
    if not horizons:
        section.refused.append(
            f"There is no horizon with {FEWEST} events by then and somebody watched beyond: of "
            f"{', '.join(f'{each:g}' for each in protocol.horizons)} days. Give other --horizons."
        )
        return section
    with section.attempt("chances"):
        chance, how = _chances(cohort, people, terms, horizons, protocol)
        section.methods.append(f"{how} Strata are not heeded." if protocol.strata else how)
        day = min(horizons, key=lambda each: abs(each - MAIN_DAYS))
        found = judge_calibration(
            time, event, chance[:, horizons.index(day)], day, entry=people.get("entry_days"),
            samples=protocol.bootstraps, seed=protocol.seed,
        )  # fmt: skip
        told(30 * protocol.bootstraps)
        section.drawn["calibration"] = found
        section.warn(found.warnings)
        section.tables += [_numbers(found), _groups(found), _curve(found)]
        brier = brier_score(
            time, event, chance, horizons, entry=people.get("entry_days"), samples=protocol.bootstraps,
            seed=protocol.seed,
        )  # fmt: skip
        told(protocol.bootstraps)
        section.warn(brier.warnings)
        brier_rows: list[Row] = [
            {"days": each, **_ends("score", brier.score[at]), **_ends("scaled", brier.scaled[at]),
             "reference": brier.reference[at]} for at, each in enumerate(brier.horizons)
        ]  # fmt: skip
        section.tables.append(Printed("brier", "Brier score", (
            Column("days", ("days",), "g"), Column("score", ("score", "score_low", "score_high"), ".4f"),
            Column("of Kaplan-Meier alone", ("reference",), ".4f"),
            Column("scaled", ("scaled", "scaled_low", "scaled_high"), ".3f")), tuple(brier_rows)))  # fmt: skip
        section.words.append(
            f"At {day:g} days. Perfect: observed / expected 1, slope 1, distances 0. Those of resamples are larger, "
            "since chance moves them one way only: where there is little, their interval lies above the distance "
            "itself. Scaled Brier score: 0 is useless, 1 is perfect."
        )
        section.methods.append(
            "Calibration: observed by Kaplan-Meier; smooth curve and ICI by a Cox model of log(-log(1 - chance)) in "
            "restricted cubic splines; slope likewise. Brier score weighted by inverse probability of censoring."
        )
    return section


def _chances(
    cohort: Cohort, people: Table, terms: Sequence[Term], horizons: Sequence[float], protocol: Protocol
) -> tuple[Floats, str]:
    """(n, K), and how they came about."""
    learned = cohort.learned
    words = " and ".join(protocol.baseline_splits)
    if learned["event"].sum() >= FEWEST and all(term.column in learned for term in terms):
        made = cox_model(learned, terms, endpoint=ENDPOINT)
        if made.events >= EVENTS_A_COLUMN * len(made.fit.names):
            told = f"{made.n:,} other people (split {words}), {made.events:,} of whom had the event"
            return _of(made, people, horizons), f"Chances: Cox model of {_list(terms)} learned from {told}."
    fold = deal(people["subject_id"].tolist(), people["event"], protocol.folds, seed=protocol.seed)
    chance = np.empty((len(fold), len(horizons)))
    for number in range(protocol.folds):
        mine = fold == number
        rest = {name: values[~mine] for name, values in people.items()}
        made = cox_model(rest, terms, endpoint=ENDPOINT)
        if made.events < EVENTS_A_COLUMN * len(made.fit.names):
            raise Refused(
                f"{few(made.events)} events for {len(made.fit.names)} columns in a fold, fewer than {EVENTS_A_COLUMN} "
                "a column. Leave covariates out, or follow up for longer"
            )
        chance[mine] = _of(made, {name: values[mine] for name, values in people.items()}, horizons)
    return chance, (
        f"Chances: Cox model of {_list(terms)}, each person's learned from the other {protocol.folds - 1} of "
        f"{protocol.folds} folds of these same people, since too few others (split {words}) have known outcomes. This "
        "says whether the shape is right, not whether it would be elsewhere."
    )


def _list(terms: Sequence[Term]) -> str:
    return plain(", ".join(str(term) for term in terms))


def _of(made: CoxModel, people: Table, horizons: Sequence[float]) -> Floats:
    columns = made.design.columns({term.column: people[term.column] for term in made.design.terms})  # type: ignore[union-attr]
    return np.clip(1 - made.fit.survival(columns, list(horizons)), CERTAIN, 1 - CERTAIN)


def _ends(name: str, found: Estimate) -> Row:
    return {name: finite(found.value), f"{name}_low": finite(found.low), f"{name}_high": finite(found.high)}


def _numbers(found: Calibration) -> Printed:
    rows: list[Row] = []
    for name, words in NUMBERS.items():
        each: Estimate = getattr(found, name)
        rows.append({"number": words, "days": found.horizon, "people": counted(found.people),
                     "events": counted(found.events), **_ends("value", each)})  # fmt: skip
    return Printed("calibration", "Calibration", (
        Column("", ("number",)), Column("people", ("people",), COUNT), Column("events by then", ("events",), COUNT),
        Column("value", ("value", "value_low", "value_high"), ".3f")), tuple(rows))  # fmt: skip


def _groups(found: Calibration) -> Printed:
    rows: list[Row] = []
    for each in found.groups:
        few = each.people < FEWEST
        row: Row = {"predicted": each.predicted, "people": counted(each.people), "events": counted(each.events)}
        rows.append(row | {key: None if few else finite(getattr(each, key)) for key in ("observed", "low", "high")})
    return Printed("calibration_groups", "People with like chances", (
        Column("mean chance", ("predicted",), ".1%"), Column("people", ("people",), COUNT),
        Column("events by then", ("events",), COUNT), Column("observed", ("observed", "low", "high"), ".1%")),
        tuple(rows))  # fmt: skip


def _curve(found: Calibration) -> Printed:
    rows = tuple({"predicted": each.predicted, **_ends("observed", each.observed)} for each in found.curve)
    columns = (Column("predicted", ("predicted",), ".3f"),
               Column("observed", ("observed", "observed_low", "observed_high"), ".3f"))  # fmt: skip
    return Printed("calibration_curve", "The smooth curve", columns, rows, printed=False)
