"""Cox models of a table of people: hazard ratios a decade, a SD, a quartile or a category, and what to mistrust.

model = cox_model(table, [Term("face_age_deviation", per="decade"), Term("survival_risk", per="sd"), "age", "sex"],
                  endpoint=Endpoint(event="cause_of_death", cause="cardiovascular"), strata="site")
model.effect("survival_risk").ratio                 # .low .high .p_value .people .events
print("\\n".join(model.lines()))
model.risk(other_table)                             # (n,) higher = worse, in people from elsewhere

Complete cases, and how many are lost is told. n = people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fahr.errors import Refused, nearest
from fahr.survival.chi_squared import ChiSquared
from fahr.survival.cox import CoxFit, NoEstimate, fit_cox, wald
from fahr.survival.curves import FEWEST, counted, few
from fahr.survival.design import Coded, Design, Given, Interaction, Term, read_design
from fahr.survival.guards import check_table
from fahr.survival.imputation import missing
from fahr.survival.people import Flags, Floats
from fahr.survival.proportionality import proportional_hazards
from fahr.survival.study import Endpoint, Study, read_columns, read_study

EVENTS_A_COLUMN = 10
ALPHA = 0.05  # of the test of proportional hazards
INFLATED = 5.0  # variance of a coefficient, against what it were if the columns had nothing to do with each other
FEWEST_CLUSTERS = 20  # below, robust errors are too small


@dataclass(frozen=True)
class Effect:
    """A hazard ratio; None with fewer than ten events, in all or in its category, of which nothing is told."""

    name: str  # the column of the model
    term: str
    words: str
    ratio: float | None
    low: float | None  # 95 %
    high: float | None
    p_value: float | None  # Wald, two-sided
    people: int  # of a category: who is in it
    events: int


@dataclass(frozen=True, eq=False)
class CoxModel:
    endpoint: Endpoint
    effects: tuple[Effect, ...]
    tests: Mapping[str, ChiSquared]  # by term, all its columns at once (Wald)
    proportional: Mapping[str, float]  # p by term of hazards being proportional; empty with few events
    inflation: Mapping[str, float]  # of the variance, by column
    n: int
    events: int
    people: int  # with those who were left out
    strata: int | None
    clusters: int | None  # None: errors are not robust
    warnings: tuple[str, ...]
    design: Design = field(repr=False)
    study: Study = field(repr=False)
    fit: CoxFit = field(repr=False)

    def effect(self, name: str) -> Effect:
        """Of a column (`sex male`), or of a term that is one column."""
        for each in self.effects:
            if name == each.name:
                return each
        mine = [each for each in self.effects if each.term == name]
        if len(mine) == 1:
            return mine[0]
        known = [each.name for each in self.effects]
        raise Refused(f"effect: {name!r} is none of {', '.join(known)}.{nearest(name, known)}")

    def risk(self, table: Any) -> Floats:
        """(n,) log hazard ratio against the mean of the model's people; nan where a column is missing."""
        columns = read_columns(table, _columns_of(self.design.terms))
        return risk_of(self.fit, self.design, columns)

    def lines(self) -> list[str]:
        """A table for a terminal."""
        wide = max([len(each.words) for each in self.effects] + [8]) + 2
        head = f"Cox model of {self.endpoint}: {self.n:,} people, {few(self.events)} events"
        if self.strata is not None:
            head += f", {self.strata} strata"
        if self.clusters is not None:
            head += f", robust errors over {self.clusters:,} clusters"
        told = [head, f"{'':{wide}s}{'people':>8s}{'events':>8s}  {'hazard ratio':24s}p"]
        for each in self.effects:
            shown = f"{each.words:{wide}s}{few(each.people):>8s}{few(each.events):>8s}  "
            if each.ratio is None or each.p_value is None:
                told.append(f"{shown}fewer than {FEWEST} events")
            else:
                ratio = f"{each.ratio:.3f} [{each.low:.3f}, {each.high:.3f}]"
                told.append(f"{shown}{ratio:24s}{shown_p(each.p_value)}")
        lost = self.study.cases.line()
        return [*told, lost, *(f"warning: {each}" for each in self.warnings if each != lost)]

    def to_json(self) -> dict[str, Any]:
        """Without NaN: null is what is not defined or not shown, such as counts of one to nine."""
        overall = self.fit.overall() if self.clusters is None else wald(self.fit, self.fit.names)
        return {
            "endpoint": asdict(self.endpoint),
            "people": self.people,
            "n": self.n,
            "events": counted(self.events),
            "strata": self.strata,
            "clusters": self.clusters,
            "effects": [
                asdict(each) | {"people": counted(each.people), "events": counted(each.events)} for each in self.effects
            ],
            "tests": {name: asdict(each) for name, each in self.tests.items()},
            "overall": asdict(overall),
            "log_likelihood": self.fit.log_likelihood,
            "proportional": dict(self.proportional),
            "inflation": dict(self.inflation),
            "missing": self.study.cases.missing,
            "warnings": list(self.warnings),
        }


def shown_p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def cox_model(
    table: Any,
    terms: Sequence[Given],
    *,
    endpoint: Endpoint = Endpoint(),  # noqa: B008, frozen
    strata: str | Sequence[str] | None = None,
    cluster: str | None = None,
    robust: bool = False,
) -> CoxModel:
    """`table`: columns by name, a row a person, or several of a `cluster`. Raises `NoEstimate` where the data determine
    no coefficient, and says why; refuses columns that know the outcome (`fahr.survival.guards`)."""
    given = tuple(Term(each) if isinstance(each, str) else each for each in terms)
    names = _columns_of(given)
    checked = check_table(table, endpoint, names)
    study = read_study(table, endpoint, names, strata=strata, cluster=cluster)
    return model_of(study, given, robust=robust, warnings=checked.warnings)


def _columns_of(terms: Sequence[Term | Interaction]) -> list[str]:
    return [term.column for term in terms if isinstance(term, Term)]


def model_of(study: Study, terms: Sequence[Given], *, robust: bool = False, warnings: Sequence[str] = ()) -> CoxModel:
    """Of people who are read already; nothing of them may be missing."""
    design = read_design(terms, study.columns)
    columns = design.columns(study.columns)
    people = study.people
    if not people.event.any():
        raise NoEstimate(f"nobody of {len(people):,} had the event ({study.endpoint}): a longer follow-up has some")
    _refuse_empty_levels(design, columns, study)
    fit = fit_cox(
        people.time,
        people.event,
        columns,
        entry=people.entry,
        strata=study.strata,
        cluster=study.cluster,
        robust=robust,
    )
    told = fit.events >= FEWEST
    inflation = _inflation(fit)
    proportional = _proportional(fit, design) if told else {}
    notes = [*warnings, *design.notes, *_warnings(study, design, fit, columns, inflation, proportional)]
    return CoxModel(
        endpoint=study.endpoint,
        effects=tuple(_effect(each, fit, columns[each.name], people.event, told) for each in design.coded),
        tests={name: wald(fit, [each.name for each in parts]) for name, parts in design.parts.items()} if told else {},
        proportional=proportional,
        inflation=inflation,
        n=fit.n,
        events=fit.events,
        people=study.cases.people,
        strata=None if study.strata is None else len(np.unique(study.strata)),
        clusters=fit.clusters,
        warnings=tuple(notes),
        design=design,
        study=study,
        fit=fit,
    )


def _effect(each: Coded, fit: CoxFit, column: Floats, event: Flags, told: bool) -> Effect:
    mine = column != 0 if each.level is not None else np.ones(len(column), bool)
    counts = int(mine.sum()), int(event[mine].sum())
    if not told or (each.level is not None and counts[1] < FEWEST):
        return Effect(each.name, each.term, each.words, None, None, None, None, *counts)
    found = fit.hazard(each.name, per=each.per)
    return Effect(each.name, each.term, each.words, found.ratio, found.low, found.high, found.p_value, *counts)


def _refuse_empty_levels(design: Design, columns: Mapping[str, Floats], study: Study) -> None:
    """A category in which nobody has the event has a ratio of 0, or makes all others infinite."""
    event = study.people.event
    for term, parts in design.parts.items():
        levels = design.levels.get(term)
        if levels is None:
            continue
        shown = {each.level: columns[each.name] == 1 for each in parts}
        shown[levels[0]] = ~np.any(list(shown.values()), axis=0) if shown else np.ones(len(event), bool)
        if len(levels) < 2:
            raise NoEstimate(f"{term} is the same for everybody: {levels[0]}. Leave it out")
        for level in levels:
            if not event[shown[level]].any():
                raise NoEstimate(
                    f"separation: of the {few(int(shown[level].sum()))} people with {term} {level} nobody had the "
                    "event, so the likelihood rises for ever. Join it with another category, or leave it out"
                )


def _inflation(fit: CoxFit) -> dict[str, float]:
    """Variance inflation factors, by column; of people, not of risk sets."""
    if len(fit.names) < 2 or fit.point is None:
        return dict.fromkeys(fit.names, 1.0)
    shown = fit.point.table
    found = np.diag(np.linalg.inv(shown.T @ shown / len(shown)))
    return dict(zip(fit.names, found.tolist(), strict=True))


def _proportional(fit: CoxFit, design: Design) -> dict[str, float]:
    terms = {name: [each.name for each in parts] for name, parts in design.parts.items()}
    return {name: test.p_value for name, test in proportional_hazards(fit, terms=terms).tests.items()}


def _warnings(
    study: Study,
    design: Design,
    fit: CoxFit,
    columns: Mapping[str, Floats],
    inflation: Mapping[str, float],
    proportional: Mapping[str, float],
) -> list[str]:
    told = []
    if len(study.cases.rows) < study.cases.people:
        told.append(study.cases.line())
    if fit.events < FEWEST:
        told.append(f"fewer than {FEWEST} events: no hazard ratio is told")
    if len(fit.names) * EVENTS_A_COLUMN > fit.events:
        told.append(
            f"{len(fit.names)} columns for {few(fit.events)} events, more than one for {EVENTS_A_COLUMN}: ratios come "
            f"out too far from 1. Leave some out: {fit.events // EVENTS_A_COLUMN} at most"
        )
    for each in design.coded:
        if each.level is not None and fit.events >= FEWEST:
            events = int(study.people.event[columns[each.name] != 0].sum())
            if events < FEWEST:
                told.append(f"{each.name}: fewer than {FEWEST} events, so nothing is told of it. Join it with another")
    for name, p_value in proportional.items():
        if p_value < ALPHA:
            words = design.levels.get(name) is not None
            other = f"stratify by it (strata={name!r}), or tell" if words else "split the follow-up, or tell"
            told.append(
                f"{name}: its hazard ratio changes with time (p {shown_p(p_value)}), and the one told is a mean over "
                f"the follow-up. Instead, {other} differences of restricted mean time"
            )
    products = any(isinstance(term, Interaction) for term in design.terms)  # of course these go with their factors
    inflated = [f"{name} {value:.1f}" for name, value in inflation.items() if value > INFLATED and not products]
    if inflated:
        told.append(
            f"columns say much the same (variance inflation {', '.join(inflated)}): test one beside the other, in "
            "nested models"
        )
    if fit.clusters is not None and fit.clusters < FEWEST_CLUSTERS:
        told.append(f"robust errors over {fit.clusters} clusters, fewer than {FEWEST_CLUSTERS}: they are too small")
    return told


def risk_of(fit: CoxFit, design: Design, columns: Mapping[str, Any]) -> Floats:
    """(n,) nan where one of the columns is missing."""
    whole = ~np.any([missing(values) for values in columns.values()], axis=0)
    found = np.full(len(whole), np.nan)
    made = design.columns({name: values[whole] for name, values in columns.items()})
    found[whole] = fit.linear(made) - float(fit.coefficients @ fit.means)
    return found
