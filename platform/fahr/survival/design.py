"""From a table's columns to those of a model: units, standard deviations, quartiles, categories, interactions.

design = read_design([Term("age", per="decade"), Term("risk", per="sd"), "sex", Interaction("risk", "sex")], columns)
design.columns(columns)                             # {"age": ..., "risk": ..., "sex male": ..., "risk x sex male": ...}

What a design takes from its people (deviations, quartiles, categories) it keeps, for people from elsewhere. n = people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fahr.errors import Refused, nearest
from fahr.survival.people import Floats

Per = float | Literal["unit", "decade", "sd", "quartile", "level"]
DECADE = 10.0  # years
MOST_LEVELS = 30  # of a category: more are names, not a category


@dataclass(frozen=True)
class Term:
    """A column of a model. Words and flags are categories; numbers count per unit unless said otherwise."""

    column: str
    per: Per | None = None  # of a number: how much more the hazard ratio is for; None: one unit, or a category of words
    cuts: tuple[float, float, float] | None = None  # of quartiles: frozen ones, of the people a model learned from
    reference: str | None = None  # of a category; None: the first of the alphabet; of quartiles it is the first

    def __str__(self) -> str:
        return self.column


@dataclass(frozen=True)
class Interaction:
    """What two terms do together beyond what each does alone; both must be in the model as well."""

    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.one} x {self.other}"


Given = str | Term | Interaction


@dataclass(frozen=True)
class Coded:
    """One column of the model."""

    name: str
    term: str
    words: str  # what the hazard ratio is of
    per: float = 1.0
    level: str | None = None  # of a category: a 1 for those who have it


@dataclass(frozen=True, eq=False)
class Design:
    terms: tuple[Term | Interaction, ...]
    parts: Mapping[str, tuple[Coded, ...]]  # by term
    levels: Mapping[str, tuple[str, ...]]  # of categories, by term: the reference first
    cuts: Mapping[str, tuple[float, float, float]]
    notes: tuple[str, ...]

    @property
    def coded(self) -> tuple[Coded, ...]:
        return tuple(each for parts in self.parts.values() for each in parts)

    def columns(self, table: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
        """(n,) each; nothing may be missing. Refused: a category that the design does not know."""
        made: dict[str, Floats] = {}
        for term in self.terms:
            if isinstance(term, Term):
                made |= self._column(term, table[term.column])
        for term in self.terms:
            if isinstance(term, Interaction):
                for one in self.parts[term.one]:
                    for other in self.parts[term.other]:
                        made[f"{one.name} x {other.name}"] = made[one.name] * made[other.name]
        return {each.name: made[each.name] for each in self.coded}

    def _column(self, term: Term, values: NDArray[Any]) -> dict[str, Floats]:
        levels = self.levels.get(term.column)
        if levels is None:
            return {term.column: numbers(term.column, values)}
        if term.per == "quartile":
            from fahr.biomarkers.risk import quartile  # not above: that module needs this package

            named = quartile(numbers(term.column, values), self.cuts[term.column]).astype(str)
        else:
            named = as_levels(values)
            odd = sorted(set(named.tolist()) - set(levels))
            if odd:
                raise Refused(
                    f"{term.column}: {odd[0]!r} is none of {', '.join(levels)}, which the model knows."
                    f"{nearest(odd[0], levels)}"
                )
        return {each.name: (named == each.level).astype(np.float64) for each in self.parts[term.column]}


def read_design(terms: Sequence[Given], table: Mapping[str, NDArray[Any]]) -> Design:
    """`table`: columns (n,) in which nothing is missing."""
    given = tuple(Term(each) if isinstance(each, str) else each for each in terms)
    names = [str(each) for each in given]
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"terms: {name} is there {names.count(name)} times. Give each column once.")
    parts: dict[str, tuple[Coded, ...]] = {}
    levels: dict[str, tuple[str, ...]] = {}
    cuts: dict[str, tuple[float, float, float]] = {}
    notes: list[str] = []
    for term in given:
        if isinstance(term, Term):
            parts[term.column] = _coded(term, table[term.column], levels, cuts, notes)
    for term in given:
        if isinstance(term, Interaction):
            for part in (term.one, term.other):
                if part not in parts:
                    raise Refused(
                        f"terms: {term} needs {part} in the model as well.{nearest(part, parts)} What two columns do "
                        "together is told beside what each does alone."
                    )
            parts[str(term)] = tuple(
                Coded(f"{one.name} x {other.name}", str(term), f"{one.words} x {other.words}", one.per * other.per)
                for one in parts[term.one]
                for other in parts[term.other]
            )
    return Design(given, {name: parts[name] for name in names}, levels, cuts, tuple(notes))


def _coded(
    term: Term,
    values: NDArray[Any],
    levels: dict[str, tuple[str, ...]],
    cuts: dict[str, tuple[float, float, float]],
    notes: list[str],
) -> tuple[Coded, ...]:
    name, per = term.column, term.per
    if per is None:
        per = "unit" if is_number(values) else "level"
    if per == "quartile":
        given = term.cuts
        if given is None:
            given = tuple(float(cut) for cut in np.quantile(numbers(name, values), (0.25, 0.5, 0.75)))  # type: ignore[assignment]
            notes.append(f"{name}: quartiles are of these people. Cuts of the people a model learned from are fairer")
        assert given is not None
        cuts[name], levels[name] = given, ("1", "2", "3", "4")
        return tuple(Coded(f"{name} quartile {k}", name, f"{name}, quartile {k} vs 1", level=str(k)) for k in (2, 3, 4))
    if per == "level":
        return _category(term, as_levels(values), levels)
    shown = numbers(name, values)
    if per == "sd":
        deviation = float(shown.std(ddof=1)) if len(shown) > 1 else 0.0
        return (Coded(name, name, f"{name}, a SD ({deviation:.3g})", deviation or 1.0),)
    if isinstance(per, str) and per not in ("unit", "decade"):
        known = ("unit", "decade", "sd", "quartile", "level")
        raise Refused(f"per: {per!r} of {name} is none of {', '.join(known)}, nor a number.{nearest(per, known)}")
    size = {"unit": 1.0, "decade": DECADE}[per] if isinstance(per, str) else float(per)
    if not np.isfinite(size) or size == 0:
        raise Refused(f"per: {size:g} of {name} must be a number other than 0.")
    words = {"unit": name, "decade": f"{name}, 10 years"}.get(str(per), f"{name}, {size:g}")
    return (Coded(name, name, words, size),)


def _category(term: Term, named: NDArray[Any], levels: dict[str, tuple[str, ...]]) -> tuple[Coded, ...]:
    name, found = term.column, sorted(set(named.tolist()))
    if len(found) > MOST_LEVELS:
        raise Refused(
            f"{name}: has {len(found):,} different values; a category may have {MOST_LEVELS}. Give numbers "
            "as numbers; else join them, or stratify by them."
        )
    first = found[0] if term.reference is None else term.reference
    if first not in found:
        raise Refused(f"reference: {first!r} of {name} is none of {', '.join(found)}.{nearest(first, found)}")
    levels[name] = (first, *(each for each in found if each != first))
    return tuple(Coded(f"{name} {each}", name, f"{name}, {each} vs {first}", level=each) for each in levels[name][1:])


def is_number(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "iuf"


def as_levels(values: NDArray[Any]) -> NDArray[Any]:
    """(n,) words; 2.0 is told as 2."""
    if values.dtype.kind == "f" and bool((values == np.round(values)).all()):
        values = values.astype(np.int64)
    return np.array([str(each) for each in values.tolist()])


def numbers(name: str, values: NDArray[Any]) -> Floats:
    try:
        found = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(
            f"{name}: not every value is a number ({error}). Give per='level' if it is a category."
        ) from error
    if not np.isfinite(found).all():
        raise Refused(f"{name}: holds a value that is not finite. Remove the row, or make it nan: missing.")
    return np.asarray(found)
