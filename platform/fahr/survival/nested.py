"""What a marker adds to what is known without it: models within models, on the very same people.

found = nested_models(table, ["age", "sex"], {"FAD": ["face_age_deviation"], "risk": ["survival_risk"]})
found.steps["base -> base + FAD"].p_value; print("\\n".join(found.lines()))
interaction(table, ["age", "sex", "survival_risk"], "survival_risk", "sex")   # does the one depend on the other?

Whoever lacks any column of any of the models is in none of them. Likelihood-ratio tests; with clusters or robust errors
the likelihood says nothing, and Wald tests with robust errors take their place: `method` says which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from fahr.errors import Refused
from fahr.survival.chi_squared import ChiSquared
from fahr.survival.cindex import concordance
from fahr.survival.cox import CoxFit, fit_cox, likelihood_ratio, wald
from fahr.survival.curves import FEWEST, few
from fahr.survival.design import Design, Given, Interaction, Term, read_design
from fahr.survival.guards import check_table
from fahr.survival.models import CoxModel, model_of, shown_p
from fahr.survival.study import Endpoint, Study, read_study

BASE = "base"


@dataclass(frozen=True, eq=False)
class Ladder:
    models: Mapping[str, CoxModel]  # `base`, `base + FAD`, ..., with all of them last
    steps: Mapping[str, ChiSquared]  # `base -> base + FAD`, ...; empty with few events
    method: str  # "likelihood ratio" or "Wald, robust"
    concordances: Mapping[str, float]  # Harrell's C of each model, on the people it was fitted to
    n: int
    events: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """A table for a terminal."""
        wide = max(len(name) for name in (*self.models, *self.steps)) + 2
        told = [f"nested models: {self.n:,} people, {few(self.events)} events, the same in each; {self.method} tests"]
        for name, model in self.models.items():
            value = f"C {self.concordances[name]:.3f}" if name in self.concordances else ""
            told.append(f"{name:{wide}s}log-likelihood {model.fit.log_likelihood:.3f}  {value}".rstrip())
        for name, test in self.steps.items():
            shown = f"chi2 {test.statistic:.3f} on {test.freedom}, p {shown_p(test.p_value)}"
            told.append(f"{name:{wide}s}{shown}")
        return [*told, *(f"warning: {each}" for each in self.warnings)]

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "events": self.events,
            "method": self.method,
            "models": {name: model.to_json() for name, model in self.models.items()},
            "steps": {name: asdict(test) for name, test in self.steps.items()},
            "concordances": dict(self.concordances),
            "warnings": list(self.warnings),
        }


def nested_models(
    table: Any,
    base: Sequence[Given],
    added: Mapping[str, Sequence[Given]],
    *,
    endpoint: Endpoint = Endpoint(),  # noqa: B008, frozen
    strata: str | Sequence[str] | None = None,
    cluster: str | None = None,
    robust: bool = False,
) -> Ladder:
    """The base, the base with each of `added`, and with all of them. Steps: from the base to every other, and
    from every other to all."""
    if not added or not base:
        raise Refused("nested models: need a base of one column at least, and something that is added to it.")
    if BASE in added:
        raise Refused(f"added: {BASE!r} is the name of what is there without them. Choose another.")
    everything = _terms([*base, *(term for terms in added.values() for term in terms)])
    study, notes = _read(table, everything, endpoint, strata, cluster)
    wanted: dict[str, tuple[str, ...]] = {BASE: ()}
    for size in sorted({1, len(added) - 1, len(added)} - {0}):
        wanted |= {" + ".join((BASE, *chosen)): chosen for chosen in combinations(added, size)}
    models = {
        name: model_of(study, _terms([*base, *(term for each in chosen for term in added[each])]), robust=robust)
        for name, chosen in wanted.items()
    }
    steps: dict[str, ChiSquared] = {}
    told = models[BASE].events >= FEWEST
    for smaller, fewer in wanted.items() if told else ():
        for larger, more in wanted.items():
            if set(fewer) < set(more) and (not fewer or len(more) == len(added)):
                steps[f"{smaller} -> {larger}"] = _step(models[smaller].fit, models[larger].fit)
    whole = models[" + ".join((BASE, *added))]
    kept = [each for each in whole.warnings if each not in notes]
    return Ladder(
        models=models,
        steps=steps,
        method=_method(whole.fit),
        concordances={name: _concordance(study, model) for name, model in models.items()} if told else {},
        n=whole.n,
        events=whole.events,
        warnings=(*notes, *kept),
    )


@dataclass(frozen=True, eq=False)
class Interacting:
    test: ChiSquared | None  # None with fewer than ten events
    method: str
    model: CoxModel  # with the interaction
    warnings: tuple[str, ...]


def interaction(
    table: Any,
    terms: Sequence[Given],
    one: str,
    other: str,
    *,
    endpoint: Endpoint = Endpoint(),  # noqa: B008, frozen
    strata: str | Sequence[str] | None = None,
    cluster: str | None = None,
    robust: bool = False,
) -> Interacting:
    """`one` and `other` are among `terms`; the test is of all their products at once, against none."""
    given = _terms(terms)
    study, notes = _read(table, given, endpoint, strata, cluster)
    smaller = model_of(study, given, robust=robust)
    larger = model_of(study, [*given, Interaction(one, other)], robust=robust)
    test = _step(smaller.fit, larger.fit) if larger.events >= FEWEST else None
    return Interacting(test, _method(larger.fit), larger, tuple(dict.fromkeys([*notes, *larger.warnings])))


def _terms(terms: Sequence[Given]) -> list[Term | Interaction]:
    """Each once, in order."""
    return list(dict.fromkeys(Term(each) if isinstance(each, str) else each for each in terms))


def _read(
    table: Any,
    terms: Sequence[Term | Interaction],
    endpoint: Endpoint,
    strata: str | Sequence[str] | None,
    cluster: str | None,
) -> tuple[Study, list[str]]:
    names = list(dict.fromkeys(term.column for term in terms if isinstance(term, Term)))
    checked = check_table(table, endpoint, names)
    return read_study(table, endpoint, names, strata=strata, cluster=cluster), list(checked.warnings)


def _step(smaller: CoxFit, larger: CoxFit) -> ChiSquared:
    if larger.clusters is None:
        return likelihood_ratio(smaller, larger)
    assert smaller.rows == larger.rows
    return wald(larger, [name for name in larger.names if name not in smaller.names])


def _method(fit: CoxFit) -> str:
    return "likelihood ratio" if fit.clusters is None else "Wald, robust"


def _concordance(study: Study, model: CoxModel) -> float:
    people = study.people
    assert model.fit.point is not None
    return concordance(people.time, people.event, model.fit.point.score, entry=people.entry).value


def design_test(study: Study, smaller: Sequence[Given], larger: Sequence[Given]) -> ChiSquared:
    """Of the columns that the larger model has beside the smaller's, on the people of a study."""
    fits = [_fit(study, read_design(terms, study.columns)) for terms in (smaller, larger)]
    return _step(fits[0], fits[1])


def _fit(study: Study, design: Design) -> CoxFit:
    people, columns = study.people, design.columns(study.columns)
    return fit_cox(people.time, people.event, columns, entry=people.entry, strata=study.strata, cluster=study.cluster)
