"""Who has the event first: concordances and time-dependent AUC of each marker and nested model, on the same people.

section = ranks(cohort, protocol, ladder, told)     # ladder: of `nested`; told(n): n resamples are done

Intervals are of resamples of people; differences are of the same resamples.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from fahr.errors import Refused
from fahr.evaluation.cohort import Cohort
from fahr.evaluation.protocol import Protocol
from fahr.evaluation.tables import COUNT, Column, Row, Section, counts, finite
from fahr.evaluation.tables import Table as Printed
from fahr.survival import Ladder, bootstrap_concordance, time_dependent_auc
from fahr.survival.bootstrap import Bootstrap, summarise
from fahr.survival.curves import FEWEST, counted
from fahr.survival.people import Floats

ALONE = {"age": "age", "face_age": "face age", "face_age_deviation": "FAD", "survival_risk": "risk"}
CONFIDENCE = 0.95
Told = Callable[[int], None]


def resamples(cohort: Cohort, protocol: Protocol, ladder: Ladder | None) -> int:
    """How many `ranks` will do."""
    if ladder is None:
        return 0
    markers = len([name for name in ALONE if cohort.has(name)])
    return protocol.bootstraps * (2 * (markers + len(ladder.models)) + 3)


def ranks(cohort: Cohort, protocol: Protocol, ladder: Ladder | None, told: Told = lambda number: None) -> Section:
    section = Section("concordance", "Who has the event first")
    if ladder is None:
        section.refused.append("There are no nested models, so there is nothing to compare.")
        return section
    if ladder.events < FEWEST:
        section.refused.append(f"Fewer than {FEWEST} events: no concordance is told.")
        return section
    study = next(iter(ladder.models.values())).study
    rows = study.rows
    people = {name: values[rows] for name, values in cohort.people.items()}
    markers: dict[str, Floats] = {words: people[name] for name, words in ALONE.items() if cohort.has(name)}
    markers |= {f"model {name}": model.risk(people) for name, model in ladder.models.items()}
    entry = people.get("entry_days")
    time, event = people["follow_up_days"], people["event"]
    found: dict[str, Bootstrap] = {}
    told_rows: list[Row] = []
    for name, values in markers.items():
        whole = ~np.isnan(values)
        row: Row = {"marker": name, **counts(int(whole.sum()), int(event[whole].sum()))}
        for kind in ("harrell", "uno"):
            made = bootstrap_concordance(
                time[whole], event[whole], values[whole], entry=None if entry is None else entry[whole],
                samples=protocol.bootstraps, seed=protocol.seed, kind=kind,
            )  # fmt: skip
            told(protocol.bootstraps)
            row |= {"before_days": math.ceil(made.tau)} if made.tau is not None else {}
            row |= {kind: finite(made.value), f"{kind}_low": finite(made.low), f"{kind}_high": finite(made.high)}
            if kind == "harrell" and whole.all():
                found[name] = made
        told_rows.append(row)
    section.tables = [_table(told_rows), _differences(found)]
    section.drawn["c_index"] = told_rows
    with section.attempt("time-dependent AUC"):
        section.tables.append(_auc(section, time, event, entry, markers, protocol, told))
    columns = max(len(model.fit.names) for model in ladder.models.values())
    section.words.append(
        "0.5 is chance, 1 is every pair in the right order. Models are linear predictors of Cox models."
    )
    section.methods = [
        f"Concordance by Harrell (ties of markers half) and by Uno (weighted by censoring; of events before "
        f"95 % of them have been, or before 5 % or fewer would still be watched, the sooner); percentile intervals of "
        f"{protocol.bootstraps:,} resamples of people, seed {protocol.seed}. Models are judged on the people they were "
        f"fitted on, which flatters them a little (at most {columns} coefficients).",
    ]
    if protocol.strata:
        section.methods.append("Pairs are of all people, strata not heeded; models keep their strata's coefficients.")
    if any(each.name == "auc" for each in section.tables):
        section.methods.append("Time-dependent AUC: cumulative/dynamic, weighted by inverse probability of censoring.")
    return section


def _table(rows: list[Row]) -> Printed:
    return Printed("c_index", "Concordance", (
        Column("marker", ("marker",)), Column("people", ("people",), COUNT), Column("events", ("events",), COUNT),
        Column("Harrell's C", ("harrell", "harrell_low", "harrell_high"), ".3f"),
        Column("Uno's C", ("uno", "uno_low", "uno_high"), ".3f"),
        Column("of events before, days", ("before_days",), ",.0f")), tuple(rows))  # fmt: skip


def _differences(found: Mapping[str, Bootstrap]) -> Printed:
    """Harrell's, of the same resamples: models less the base, and the risk less age."""
    pairs = [(name, "model base") for name in found if name.startswith("model base +")]
    pairs += [("risk", "age")] if {"risk", "age"} <= found.keys() else []
    pairs += [("face age", "age")] if {"face age", "age"} <= found.keys() else []
    rows: list[Row] = []
    for one, other in pairs:
        low, high, _ = summarise(found[one].values - found[other].values, CONFIDENCE)
        rows.append({"marker": one, "less": other, "difference": finite(found[one].value - found[other].value),
                     "low": finite(low), "high": finite(high)})  # fmt: skip
    return Printed("c_differences", "Differences of Harrell's C", (
        Column("marker", ("marker",)), Column("less", ("less",)),
        Column("difference", ("difference", "low", "high"), "+.4f")), tuple(rows))  # fmt: skip


def _auc(
    section: Section,
    time: Floats,
    event: Floats,
    entry: Floats | None,
    markers: Mapping[str, Floats],
    protocol: Protocol,
    told: Told,
) -> Printed:
    """Of age, the risk and the largest model, at the horizons that the follow-up reaches."""
    models = [name for name in markers if name.startswith("model ")]
    rows: list[Row] = []
    horizons = reached(time, event, protocol)
    if not horizons:
        raise Refused(
            f"nobody is watched beyond {protocol.horizons[0]:g} days, or has the event by the last of the horizons. "
            "Give earlier --horizons"
        )
    for name in [each for each in ("age", "risk", models[-1]) if each in markers]:
        values = markers[name]
        whole = ~np.isnan(values)
        made = time_dependent_auc(
            time[whole], event[whole], values[whole], horizons, entry=None if entry is None else entry[whole],
            samples=protocol.bootstraps, seed=protocol.seed,
        )  # fmt: skip
        told(protocol.bootstraps)
        section.warn(f"AUC: {each}" for each in made.warnings)
        for at, each in enumerate(made.auc):
            few = made.cases[at] < FEWEST or made.controls[at] < FEWEST
            row: Row = {"marker": name, "days": made.horizons[at], "with": counted(made.cases[at]),
                        "without": counted(made.controls[at])}  # fmt: skip
            rows.append(row | {key: None if few else finite(getattr(each, key)) for key in ("value", "low", "high")})
    return Printed("auc", "Time-dependent AUC", (
        Column("marker", ("marker",)), Column("days", ("days",), "g"),
        Column("with the event by then", ("with",), COUNT), Column("watched beyond", ("without",), COUNT),
        Column("AUC", ("value", "low", "high"), ".3f")), tuple(rows))  # fmt: skip


def reached(time: Floats, event: Floats, protocol: Protocol) -> list[float]:
    """Horizons after the first event and before the end of the longest follow-up."""
    first = float(time[event == 1].min()) if (event == 1).any() else float("inf")
    return [each for each in protocol.horizons if first <= each < float(time.max())]
