"""Is a hazard ratio the same in all kinds of people? One in each subgroup, and a test that they do not differ.

found = subgroup_forest(table, Term("survival_risk", per="sd"), [Subgroup("sex"), Subgroup("age", cuts=(65, 75))],
                        adjust=["age", "sex"])
found.groups["sex"].interaction, found.groups["sex"].holm; print("\\n".join(found.lines()))

A subgroup of fewer than ten people or ten events is not told. A difference between subgroups is the interaction's p
(likelihood ratio; Wald with clusters), never one subgroup being significant and another not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fahr.errors import Refused
from fahr.survival.chi_squared import ChiSquared
from fahr.survival.cox import Hazard, NoEstimate
from fahr.survival.curves import FEWEST, counted, few
from fahr.survival.design import Given, Interaction, Term, as_levels, numbers
from fahr.survival.guards import check_table
from fahr.survival.models import CoxModel, model_of, shown_p
from fahr.survival.multiplicity import holm
from fahr.survival.nested import design_test
from fahr.survival.study import Endpoint, Study, read_study


@dataclass(frozen=True)
class Subgroup:
    """A column that divides people: by its categories, or by bands of a number."""

    column: str
    cuts: tuple[float, ...] = ()  # of bands, closed on the right: (65, 75) makes <= 65, 65-75 and > 75


@dataclass(frozen=True)
class ForestRow:
    level: str
    people: int
    events: int
    hazard: Hazard | None  # None: suppressed, or there is no estimate, and `why` says which
    why: str = ""


@dataclass(frozen=True)
class ForestGroup:
    column: str
    rows: tuple[ForestRow, ...]
    interaction: ChiSquared | None  # None: fewer than two subgroups of which something is told
    holm: float | None  # its p, adjusted for there being several columns
    widest: float | None  # the largest hazard ratio over the smallest


@dataclass(frozen=True, eq=False)
class Forest:
    words: str  # what the hazard ratios are of
    overall: ForestRow
    groups: Mapping[str, ForestGroup]
    adjusted_for: tuple[str, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """A table for a terminal."""
        told = [f"hazard ratio of {self.words}, {self.overall.people:,} people, {few(self.overall.events)} events"]
        wide = max(len(each.level) for group in self.groups.values() for each in group.rows) + 4
        told.append(_row("all", self.overall, wide))
        for name, group in self.groups.items():
            p = "none" if group.interaction is None else shown_p(group.interaction.p_value)
            adjusted = "" if group.holm is None else f", adjusted {shown_p(group.holm)}"
            told.append(f"{name}: p of interaction {p}{adjusted}")
            told += [_row(f"  {each.level}", each, wide) for each in group.rows]
        return [*told, *(f"warning: {each}" for each in self.warnings)]

    def to_json(self) -> dict[str, Any]:
        """Counts of one to nine people or events are null: they are not for everybody's eyes."""
        groups = {name: asdict(group) for name, group in self.groups.items()}
        for group in groups.values():
            for row in group["rows"]:
                row |= {name: counted(row[name]) for name in ("people", "events")}
        overall = asdict(self.overall)
        overall |= {name: counted(overall[name]) for name in ("people", "events")}
        return {
            "words": self.words,
            "overall": overall,
            "groups": groups,
            "adjusted_for": list(self.adjusted_for),
            "warnings": list(self.warnings),
        }


def _row(name: str, row: ForestRow, wide: int) -> str:
    told = row.why
    if row.hazard is not None:
        told = f"{row.hazard.ratio:.2f} [{row.hazard.low:.2f}, {row.hazard.high:.2f}]"
    return f"{name:{wide}s}{few(row.people):>8s}{few(row.events):>8s}  {told}"


def subgroup_forest(
    table: Any,
    exposure: Term | str,
    subgroups: Sequence[Subgroup | str],
    *,
    adjust: Sequence[Given] = (),
    endpoint: Endpoint = Endpoint(),  # noqa: B008, frozen
    strata: str | Sequence[str] | None = None,
    cluster: str | None = None,
) -> Forest:
    """`exposure` must be one column of a model: a number, or a category of two. People who lack any column are out."""
    main = Term(exposure) if isinstance(exposure, str) else exposure
    wanted = [Subgroup(each) if isinstance(each, str) else each for each in subgroups]
    if not wanted:
        raise Refused("subgroups: there are none. Name one column at least.")
    others = [Term(each) if isinstance(each, str) else each for each in adjust if str(each) != main.column]
    names = [main.column, *(each.column for each in others if isinstance(each, Term))]
    names += [each.column for each in wanted]
    names = list(dict.fromkeys(names))
    checked = check_table(table, endpoint, names)
    study = read_study(table, endpoint, names, strata=strata, cluster=cluster)
    whole = model_of(study, [main, *others], warnings=checked.warnings)
    mine = [each for each in whole.effects if each.term == main.column]
    if len(mine) != 1:
        raise Refused(
            f"exposure: {main.column} is {len(mine)} columns of a model; a forest is of one. Give it per='sd'."
        )
    frozen = _frozen(main, whole)
    overall = _judged(study, "all", frozen, others)
    found = [_group(study, each, frozen, others) for each in wanted]
    tests = np.array([math.nan if each.interaction is None else each.interaction.p_value for each in found])
    adjusted = [None if math.isnan(value) else float(value) for value in holm(tests)] if len(tests) else []
    groups = {
        each.column: ForestGroup(each.column, each.rows, each.interaction, value, each.widest)
        for each, value in zip(found, adjusted, strict=True)
    }
    hidden = [f"{name} {row.level}" for name, group in groups.items() for row in group.rows if row.hazard is None]
    told = list(whole.warnings)
    if hidden:
        told.append(f"not told: {', '.join(hidden)}")
    return Forest(mine[0].words, overall, groups, tuple(str(each) for each in others), tuple(told))


def _group(study: Study, subgroup: Subgroup, main: Term, others: Sequence[Given]) -> ForestGroup:
    column = subgroup.column
    levels = _levels(subgroup, study)
    order = _order(subgroup, levels)
    rows, told = [], []
    for level in order:
        row = _judged(study.only(levels == level), level, main, others)
        rows.append(row)
        if row.hazard is not None:
            told.append(level)
    ratios = [row.hazard.ratio for row in rows if row.hazard is not None]
    widest = max(ratios) / min(ratios) if len(ratios) > 1 else None
    test = None
    if len(told) > 1:
        kept = study.only(np.isin(levels, told))
        kept.columns["subgroup"] = levels[np.isin(levels, told)]
        # a number stays beside its own bands; a category is its own subgroup, and would be there twice
        rest = [each for each in others if subgroup.cuts or str(each) != column]
        base = [*_varying(kept, [main, *rest]), Term("subgroup", per="level")]
        test = design_test(kept, base, [*base, Interaction(main.column, "subgroup")])
    return ForestGroup(column, tuple(rows), test, None, widest)


def _levels(subgroup: Subgroup, study: Study) -> np.ndarray[Any, Any]:
    """(n,) words."""
    values = study.columns[subgroup.column]
    if not subgroup.cuts:
        return as_levels(values)
    cuts = list(subgroup.cuts)
    if cuts != sorted(set(cuts)):
        raise Refused(f"cuts: {cuts} of {subgroup.column} must rise.")
    return np.array(_bands(cuts))[np.searchsorted(cuts, numbers(subgroup.column, values), "left")]


def _bands(cuts: Sequence[float]) -> list[str]:
    between = [f"{low:g}-{high:g}" for low, high in pairwise(cuts)]
    return [f"<= {cuts[0]:g}", *between, f"> {cuts[-1]:g}"]


def _order(subgroup: Subgroup, levels: np.ndarray[Any, Any]) -> list[str]:
    there = set(levels.tolist())
    return [each for each in (_bands(subgroup.cuts) if subgroup.cuts else sorted(there)) if each in there]


def _frozen(main: Term, whole: CoxModel) -> Term:
    """In the same unit in every subgroup: a SD is that of all of them."""
    coded = whole.design.parts[main.column][0]
    if coded.level is None:
        return Term(main.column, per=coded.per)
    return Term(main.column, per="level", reference=whole.design.levels[main.column][0])


def _judged(study: Study, level: str, main: Term, others: Sequence[Given]) -> ForestRow:
    people, events = len(study), int(study.people.event.sum())
    if events < FEWEST or people < FEWEST:
        return ForestRow(level, people, events, None, f"fewer than {FEWEST} events or people")
    try:
        model = model_of(study, _varying(study, [main, *others]))
        effect = next(each for each in model.effects if each.term == main.column)
    except (NoEstimate, StopIteration) as error:
        return ForestRow(level, people, events, None, str(error) or f"{main.column} is the same for all")
    if effect.ratio is None or effect.low is None or effect.high is None or effect.p_value is None:
        return ForestRow(level, people, events, None, f"fewer than {FEWEST} events or people in {effect.name}")
    found = Hazard(effect.ratio, effect.low, effect.high, effect.p_value)
    return ForestRow(level, people, events, found)


def _varying(study: Study, terms: Sequence[Given]) -> list[Given]:
    """Without columns that are the same for all of these people, and what interacts with them."""
    given = [Term(each) if isinstance(each, str) else each for each in terms]
    columns = [each.column for each in given if isinstance(each, Term)]
    same = {name for name in columns if len(np.unique(as_levels(study.columns[name]))) < 2}
    return [
        each
        for each in given
        if not (each.column in same if isinstance(each, Term) else each.one in same or each.other in same)
    ]
