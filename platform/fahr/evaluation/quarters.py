"""Kaplan-Meier by quartile of the risk: curves, those at risk, medians, chances at horizons, and log-rank tests.

section = quarters(cohort, protocol)
frozen_quarters(cohort.people)        # a Term whose quartiles are those of the people a model learned from
"""

from collections.abc import Mapping

import numpy as np

from fahr.biomarkers.risk import quartile
from fahr.days import DAYS_PER_YEAR
from fahr.evaluation.cohort import Cohort, Table
from fahr.evaluation.protocol import Protocol
from fahr.evaluation.tables import COUNT, P_VALUE, Column, Row, Section, counts, finite, plain
from fahr.evaluation.tables import Table as Printed
from fahr.survival import Curve, Term, kaplan_meier, log_rank, log_rank_trend, restricted_mean
from fahr.survival.curves import FEWEST, counted

PERCENTILES = (25.0, 50.0, 75.0)  # of the people a model learned from
OWN_QUARTERS = "survival_risk: quartiles are of these people"  # as the design says it
NAMES = ("1, lowest", "2", "3", "4, highest")
MONTHS = 12


def frozen_quarters(people: Table) -> Term:
    """Where the percentile is unknown, quartiles of these people."""
    if "survival_percentile" not in people:
        return Term("survival_risk", per="quartile")
    return Term("survival_percentile", per="quartile", cuts=PERCENTILES)


def quarters(cohort: Cohort, protocol: Protocol) -> Section:
    section = Section("quartiles", "Survival by quartile of the risk")
    if not cohort.has("survival_risk"):
        section.refused.append("The scores hold no risk.")
        return section
    with section.attempt("quartiles"):
        curves, whose, known = _curves(cohort.people, section)
        section.drawn["curves"] = curves
        section.tables = [_quartiles(curves, protocol), _at_risk(curves), _steps(curves)]
        if int(cohort.people["event"][known].sum()) < FEWEST:
            section.refused.append(f"log-rank tests: fewer than {FEWEST} events.")
            return section
        entry = cohort.people["entry_days"][known] if cohort.has("entry_days") else None
        time, event = (cohort.people[name][known] for name in ("follow_up_days", "event"))
        tests = [("any difference", log_rank(time, event, whose, entry=entry))]
        tests.append(("a trend over quartiles", log_rank_trend(time, event, whose, entry=entry)))
        section.drawn["test"] = tests[0][1].test
        rows: list[Row] = [{"test": name, "statistic": each.test.statistic, "freedom": each.test.freedom,
                            "p_value": each.test.p_value} for name, each in tests]  # fmt: skip
        section.tables.insert(1, Printed("log_rank", "Log-rank tests", (
            Column("of", ("test",)), Column("chi-squared", ("statistic",), ".2f"), Column("df", ("freedom",), COUNT),
            Column("p", ("p_value",), P_VALUE)), tuple(rows)))  # fmt: skip
        section.methods = [
            "Kaplan-Meier with Greenwood's errors and log(-log) intervals; medians with Brookmeyer and Crowley's; "
            "log-rank tests of any difference and of a trend."
        ]
    return section


def _curves(people: Table, section: Section) -> tuple[dict[str, Curve], np.ndarray, np.ndarray]:
    """By name; and the quartile (K,) of each of the people whose risk is known (P,)."""
    term = frozen_quarters(people)
    values = people[term.column]
    known = ~np.isnan(values)
    cuts = term.cuts or tuple(np.quantile(values[known], (0.25, 0.5, 0.75)).tolist())
    whose = quartile(values[known], cuts)
    if term.cuts is None:
        section.warnings.append(plain(OWN_QUARTERS))
    if not known.all():
        section.warnings.append(f"{int((~known).sum()):,} people without a risk are in no quartile")
    entry = people["entry_days"][known] if "entry_days" in people else None
    time, event = people["follow_up_days"][known], people["event"][known] == 1
    curves = {}
    for number, name in enumerate(NAMES, 1):
        mine = whose == number
        curves[name] = kaplan_meier(time[mine], event[mine], entry=None if entry is None else entry[mine])
    empty = [name for name, curve in curves.items() if curve.people < FEWEST]
    if empty:
        section.warnings.append(f"quartile {'; '.join(empty)}: fewer than {FEWEST} people, so nothing is told of it")
    return curves, whose, known


def _quartiles(curves: Mapping[str, Curve], protocol: Protocol) -> Printed:
    last = min((curve.last for curve in curves.values() if curve.people >= FEWEST), default=0.0)
    horizons = [each for each in protocol.horizons if each < last]
    rows: list[Row] = []
    for name, curve in curves.items():
        row: Row = {"quartile": name, **counts(curve.people, curve.events)}
        told = curve.people >= FEWEST
        ends = curve.median() if told else (None, None, None)
        row |= dict(zip(("median_days", "median_low", "median_high"), ends, strict=True))
        for each in horizons:
            low, high = curve.interval([each])
            shown = told and int(curve.at_risk([each])[0]) >= FEWEST
            row |= {f"survival_{each:g}": float(curve.at([each])[0]) if shown else None,
                    f"survival_{each:g}_low": finite(low[0]) if shown else None,
                    f"survival_{each:g}_high": finite(high[0]) if shown else None}  # fmt: skip
        if horizons:
            mean = restricted_mean(curve, horizons[-1]) if told else None
            row |= {f"restricted_mean_{key}": None if mean is None else getattr(mean, key)
                    for key in ("value", "low", "high")}  # fmt: skip
        rows.append(row)
    columns = [Column("quartile", ("quartile",)), Column("people", ("people",), COUNT),
               Column("events", ("events",), COUNT),
               Column("median, days", ("median_days", "median_low", "median_high"), ",.0f")]  # fmt: skip
    for each in horizons:
        keys = (f"survival_{each:g}", f"survival_{each:g}_low", f"survival_{each:g}_high")
        columns.append(Column(f"without the event at {each:g} days", keys, ".1%"))
    if horizons:
        keys = ("restricted_mean_value", "restricted_mean_low", "restricted_mean_high")
        columns.append(Column(f"mean days without it, of {horizons[-1]:g}", keys, ",.0f"))
    return Printed("quartiles", "The quartiles", tuple(columns), tuple(rows))


def _at_risk(curves: Mapping[str, Curve]) -> Printed:
    years = np.arange(0, np.floor(max(curve.last for curve in curves.values()) / DAYS_PER_YEAR) + 1)
    rows = tuple(
        {"quartile": name} | {f"year_{year:g}": counted(int(n)) for year, n in zip(years, watched, strict=True)}
        for name, watched in ((name, curve.at_risk(years * DAYS_PER_YEAR).tolist()) for name, curve in curves.items())
    )
    columns = (Column("watched at year", ("quartile",)), *(Column(f"{y:g}", (f"year_{y:g}",), COUNT) for y in years))
    return Printed("at_risk", "Watched at that time", columns, rows)


def _steps(curves: Mapping[str, Curve]) -> Printed:
    """The curves at the ends of months, as they are drawn; nothing where fewer than ten are watched."""
    rows: list[Row] = []
    for name, curve in curves.items():
        months = np.arange(np.floor(MONTHS * curve.last / DAYS_PER_YEAR) + 1)
        days = months * DAYS_PER_YEAR / MONTHS
        watched, left, (low, high) = curve.at_risk(days), curve.at(days), curve.interval(days)
        for at in np.flatnonzero(watched >= FEWEST).tolist():
            rows.append({"quartile": name, "months": float(months[at]), "watched": int(watched[at]),
                         "survival": float(left[at]), "low": finite(low[at]), "high": finite(high[at])})  # fmt: skip
    columns = (Column("quartile", ("quartile",)), Column("months", ("months",), ".0f"),
               Column("survival", ("survival", "low", "high"), ".3f"))  # fmt: skip
    return Printed("survival_curves", "The curves, month by month", columns, tuple(rows), printed=False)
