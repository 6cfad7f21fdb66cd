"""Which column of the file is which of ours, settled from the header and the mapping before any row is read."""

from dataclasses import dataclass

from fahr.cohorts.mapping import ColumnMapping
from fahr.cohorts.problems import Collector, Rule, closest
from fahr.cohorts.schema import CANONICAL, REQUIRED


@dataclass(frozen=True)
class Plan:
    """Positions in the file: of our columns, and of those that pass through, in file order."""

    ours: dict[str, int]
    extras: dict[str, int]


def make_plan(file: str, names: list[str], mapping: ColumnMapping, problems: Collector) -> Plan:
    ours = _mapped(file, names, mapping, problems)
    used = set(ours.values())
    extras: dict[str, int] = {}
    for position, name in enumerate(names):
        if position in used:
            continue
        if name in ours or name in extras:
            _tell_twice(file, name, mapping, problems)
        elif name in CANONICAL.names:
            ours[name] = position
        else:
            extras[name] = position
    for name in REQUIRED:
        if name not in ours and name not in mapping.columns:
            near = closest(name, names)
            remedy = f"Give `columns: {{{name}: {near or 'NAME'}}}` in the column mapping, or add the column."
            there = f"nearest is {near!r}" if near else f"there are {', '.join(map(repr, names))}"[:300]
            problems.add(Rule(name, f"is required and no column of that name is there; {there}", remedy), file, None)
    for name in mapping.values:
        if name not in ours and name not in extras:
            near = closest(name, [*ours, *extras])
            remedy = f"Did you mean {near!r}?" if near else f"Name one of {', '.join([*ours, *extras])}."
            problems.add(
                Rule(None, f"`values` of the mapping names {name!r}, which is no column here", remedy), file, None
            )
    return Plan(ours, extras)


def _mapped(file: str, names: list[str], mapping: ColumnMapping, problems: Collector) -> dict[str, int]:
    ours: dict[str, int] = {}
    for ours_name, theirs in mapping.columns.items():
        if names.count(theirs) == 1:
            ours[ours_name] = names.index(theirs)
        elif theirs in names:
            _tell_twice(file, theirs, mapping, problems)
        else:
            near = closest(theirs, names)
            remedy = f"Did you mean {near!r}?" if near else f"The table has {', '.join(map(repr, names))}."[:300]
            rule = Rule(None, f"the column mapping reads {ours_name} from {theirs!r}, which is no column here", remedy)
            problems.add(rule, file, None)
    return ours


def _tell_twice(file: str, name: str, mapping: ColumnMapping, problems: Collector) -> None:
    if name in mapping.columns and mapping.columns[name] != name:
        text = f"the table has its own {name!r}, and the column mapping reads {name} from {mapping.columns[name]!r}"
        problems.add(Rule(None, text, f"Rename or remove the table's own column {name!r}."), file, None)
    else:
        rule = Rule(None, f"the column name {name!r} appears more than once", "Rename one of them, or remove it.")
        if rule not in problems.counts:
            problems.add(rule, file, None)
