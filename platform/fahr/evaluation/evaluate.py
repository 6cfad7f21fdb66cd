"""All analyses of a cohort, in the order of the report. See `fahr.evaluation`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fahr.days import DAYS_PER_YEAR
from fahr.evaluation import chances, ranks
from fahr.evaluation.cohort import Cohort
from fahr.evaluation.hazards import check_dates, hazards, nested
from fahr.evaluation.markers import distributions
from fahr.evaluation.protocol import Protocol
from fahr.evaluation.quarters import quarters
from fahr.evaluation.tables import COUNT, Column, Row, Section, Table, finite
from fahr.evaluation.words import flow_table, limitations, summary
from fahr.progress import progress
from fahr.survival import kaplan_meier
from fahr.survival.curves import counted


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a report is made of."""

    headline: str
    summary: Table
    sections: tuple[Section, ...]
    methods: tuple[str, ...]
    limitations: tuple[str, ...]
    origin: Mapping[str, str]  # digests and versions
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> tuple[Table, ...]:
        return (self.summary, *(table for section in self.sections for table in section.tables))

    def to_json(self) -> dict[str, Any]:
        """The same numbers as tables/*.csv and the page, unrounded; null is what is not defined or not told."""
        return {
            "headline": self.headline,
            "research_use_only": True,
            "tables": {table.name: list(table.rows) for table in self.tables},
            "sections": {section.name: section.to_json() for section in self.sections},
            "methods": list(self.methods),
            "limitations": list(self.limitations),
            "settings": dict(self.settings),
            "origin": dict(self.origin),
        }


def evaluate(cohort: Cohort, protocol: Protocol, origin: Mapping[str, str] | None = None) -> Evaluation:
    """Refused: dates that cannot be. What has too few events is refused by its own section, and the rest goes on."""
    checked = check_dates(cohort)
    adding = nested(cohort, protocol)
    ladder = adding.drawn.get("ladder")
    total = ranks.resamples(cohort, protocol, ladder) + chances.resamples(cohort, protocol)
    with progress(total, "resamples", "evaluate") as bar:
        sections = (
            _people(cohort, checked),
            quarters(cohort, protocol),
            hazards(cohort, protocol),
            adding,
            ranks.ranks(cohort, protocol, ladder, bar.update),
            distributions(cohort),
            chances.calibration(cohort, protocol, bar.update),
        )
        bar.total = bar.n  # what was refused needed none
    people, events = len(cohort.people["event"]), int(cohort.people["event"].sum())
    shown = f"{counted(events):,}" if counted(events) is not None else "fewer than 10"
    return Evaluation(
        headline=f"{people:,} people, {shown} of whom had the event",
        summary=summary(sections),
        sections=sections,
        methods=tuple(_methods(cohort, protocol, sections)),
        limitations=tuple(limitations(cohort, protocol, sections)),
        origin={**cohort.digests, **(origin or {})},
        settings=protocol.deciding(),
    )


def _people(cohort: Cohort, checked: list[str]) -> Section:
    section = Section("people", "Who was judged")
    people = cohort.people
    reverse = kaplan_meier(people["follow_up_days"], people["event"] == 0, entry=people.get("entry_days"))
    middle, low, high = reverse.median()
    rows: list[Row] = [
        {"what": "people", "form": COUNT, "value": counted(len(people["event"])), "low": None, "high": None},
        {"what": "events", "form": COUNT, "value": counted(int(people["event"].sum())), "low": None, "high": None},
        {"what": "median follow-up, years (reverse Kaplan-Meier)", "form": ".2f",
         **{key: None if each is None else each / DAYS_PER_YEAR
            for key, each in (("value", middle), ("low", low), ("high", high))}},
    ]  # fmt: skip
    if len(people["event"]) >= 10:
        rows += _described(cohort)
    section.tables = [flow_table(cohort), Table("cohort", "The people", (
        Column("", ("what",)), Column("", ("value", "low", "high"), "own")), tuple(rows))]  # fmt: skip
    section.warnings = list(cohort.notes)
    if cohort.joined is not None:
        joined = cohort.joined
        section.words.append(
            f"Outcomes by {joined.key}: {joined.rows:,} rows, {joined.unmatched:,} of them without a scored photo."
        )
        if joined.replaced:
            section.words.append(f"Columns of the outcomes in place of the scores' own: {', '.join(joined.replaced)}.")
    section.words += checked
    return section


def _described(cohort: Cohort) -> list[Row]:
    """Ages, and how many of each word of a covariate."""
    ages = cohort.people["age"]
    known = ages[ages == ages]
    rows: list[Row] = [
        {"what": "age, years: mean", "form": ".1f", "value": finite(float(known.mean()))},
        {"what": "age, years: SD", "form": ".1f", "value": finite(float(known.std(ddof=1)))},
        {"what": "age unknown", "form": COUNT, "value": counted(int((ages != ages).sum()))},
    ]
    for name in cohort.covariates:
        values = cohort.people[name]
        if values.dtype.kind == "f":
            some = values[values == values]
            rows.append({"what": f"{name}: mean", "form": ".2f", "value": finite(float(some.mean()))})
            rows.append({"what": f"{name} unknown", "form": COUNT, "value": counted(int((values != values).sum()))})
            continue
        words = [str(each) if each is not None else "unknown" for each in values.tolist()]
        rows += [{"what": f"{name}: {each}", "form": COUNT, "value": counted(words.count(each))}
                 for each in sorted(set(words))]  # fmt: skip
    return [{**row, "low": None, "high": None} for row in rows]


def _methods(cohort: Cohort, protocol: Protocol, sections: tuple[Section, ...]) -> list[str]:
    told = [
        f"Protocol {protocol.protocol}; split {', '.join(protocol.splits)}. A row a person: the earliest photo with a "
        "known outcome, the median of the photos of that day. Time runs from that day, in days, to the event or the "
        "last contact."
    ]
    if cohort.has("entry_days"):
        told.append("Who came under observation only later is at risk from then on (delayed entry).")
    return told + list(dict.fromkeys(line for section in sections for line in section.methods))
