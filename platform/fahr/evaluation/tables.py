"""Tables as they are printed and as they are kept: one list of rows, so that page, CSV and JSON hold the same numbers.

table = Table("c_index", "Concordance", (Column("marker", ("marker",)), Column("C", ("c", "low", "high"), ".3f")), rows)
table.cell(row, column)         # "0.712 [0.690, 0.733]": what a page prints of a row's c, low and high
table.csv()                     # every key of the rows, unrounded

A None is what is not defined, or must not be told: counts of one to nine people.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fahr.errors import Refused
from fahr.survival.cox import NoEstimate
from fahr.survival.curves import FEWEST, counted
from fahr.survival.models import shown_p

Row = dict[str, Any]
NAMES = {  # of columns, as they are printed
    "face_age_deviation": "FAD", "survival_risk": "risk", "survival_percentile": "risk", "high_rate": "FAR",
    "interval_years": "years between the photos", "shrunken_rate": "shrunken FAR",
}  # fmt: skip
COUNT, P_VALUE, TEXT, OWN = "count", "p", "text", "own"  # forms beside those of Python's numbers; own: the row's `form`


@dataclass(frozen=True)
class Column:
    """What a page shows of a row: one key, or a value with both ends of its interval."""

    words: str
    keys: tuple[str, ...]
    form: str = TEXT


@dataclass(frozen=True)
class Table:
    name: str  # tables/NAME.csv
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    printed: bool = True  # False: in the files only, and the page draws it

    def cell(self, row: Mapping[str, Any], column: Column) -> str:
        value, *ends = (row.get(key) for key in column.keys)
        form = str(row["form"]) if column.form == OWN else column.form
        told = show(value, form)
        if len(ends) == 2 and not all(each is None for each in ends):
            told += f" [{show(ends[0], form)}, {show(ends[1], form)}]"
        return told

    def csv(self) -> bytes:
        """Floats with all their digits; an empty cell is None."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row)) or [
            key for column in self.columns for key in column.keys
        ]
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, keys, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in self.rows)
        return out.getvalue().encode()


def show(value: Any, form: str) -> str:
    """A value as a page prints it."""
    if form == COUNT:
        return f"<{FEWEST}" if value is None else f"{value:,}"
    if value is None:
        return "-"
    if form == P_VALUE:
        return shown_p(value)
    return str(value) if form == TEXT else f"{value:{form}}"


def finite(value: float | None) -> float | None:
    """None instead of nan and infinity, which JSON has not."""
    return None if value is None or not math.isfinite(value) else float(value)


def counts(people: int, events: int) -> Row:
    """Both as they may be told."""
    return {"people": counted(people), "events": counted(events)}


@dataclass
class Section:
    """A part of the report: what was asked, what came out, and what was refused."""

    name: str
    heading: str
    words: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    drawn: dict[str, Any] = field(default_factory=dict)  # for the charts: curves, rows, calibrations
    refused: list[str] = field(default_factory=list)  # what was not done, and why
    warnings: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)  # of what was done

    def attempt(self, what: str) -> "Attempt":
        """`with section.attempt("FAD"): ...`: what cannot be estimated is told, and the rest goes on."""
        return Attempt(self, what)

    def warn(self, told: Iterable[str]) -> None:
        self.warnings += [each for each in told if each not in self.warnings]

    def to_json(self) -> dict[str, Any]:
        return {
            "heading": self.heading,
            "words": self.words,
            "refused": self.refused,
            "warnings": self.warnings,
            "tables": [each.name for each in self.tables],
        }


class Attempt:
    """Turns a refusal of one analysis into a sentence of its section."""

    def __init__(self, section: Section, what: str) -> None:
        self._section, self._what = section, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, NoEstimate | Refused):
            return False
        self._section.refused.append(f"{self._what}: {plain(str(error).removesuffix('.'))}.")
        return True


def plain(words: str) -> str:
    """With the names of columns as they are printed."""
    for column, name in NAMES.items():
        words = words.replace(column, name)
    return words


def rows_of(tables: Sequence[Table], name: str) -> tuple[Row, ...]:
    """No rows where there is no such table."""
    return next((each.rows for each in tables if each.name == name), ())
