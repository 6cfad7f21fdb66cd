"""What a cell means: text or typed Parquet columns become dates, numbers, events and landmarks, or broken rules.

A text column is dictionary-encoded and each distinct text is parsed once, by plain Python that can say what is wrong.
"""

import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr.cohorts.mapping import ColumnMapping
from fahr.cohorts.schema import CANONICAL

NUM_LANDMARK_VALUES = 10
_ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NUMERIC_DAY = re.compile(r"\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # exactly what Arrow's own cast accepts
_MISSING_MARKS = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "unknown", "unk", "-", "--", ".", "?"}
_EVENTS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class Broken(Exception):
    """A cell that cannot be understood: the rule it breaks and what to do."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(rule, remedy)
        self.rule = rule
        self.remedy = remedy


Faults = list[tuple[Broken, np.ndarray]]  # a fault and the indices, ascending, of the cells that have it


class Column(NamedTuple):
    """A column as it stands (null where empty), what it means (null where it means nothing), and the broken cells."""

    cells: pa.Array
    values: pa.Array
    broken: Faults

    @property
    def filled(self) -> np.ndarray:
        filled: np.ndarray = self.cells.is_valid().to_numpy(zero_copy_only=False)
        return filled


def read_column(name: str, cells: pa.Array, mapping: ColumnMapping) -> Column:
    """A canonical column from the cells of the file. Raises `Broken` where their type cannot hold it."""
    if is_text(cells.type) or name in mapping.values:
        text = filled_text(name, cells, mapping)
        values, broken = _from_text(name, text, mapping)
        cells = text
    else:
        cells = unmarked(cells, mapping)
        values, broken = _from_typed(name, cells)
    if name == "age":
        values = pc.divide(values, mapping.age_divisor)
    elif name in ("follow_up_days", "entry_days"):
        values = pc.multiply(values, mapping.follow_up_factor)
    return Column(cells, values, broken)


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_text(name: str, cells: pa.Array, mapping: ColumnMapping) -> pa.Array:
    """The column as text, the mapping's marks of missing values made null and its codes replaced."""
    text = cells if pa.types.is_string(cells.type) else pc.cast(cells, pa.string())
    if mapping.missing:
        marks = pc.is_in(text, value_set=pa.array(mapping.missing, pa.string()))
        text = pc.if_else(marks, pa.scalar(None, pa.string()), text)
    codes = mapping.values.get(name)
    return _each(text, lambda one: codes.get(one, one), pa.string())[0] if codes else text


def unmarked(cells: pa.Array, mapping: ColumnMapping) -> pa.Array:
    """Cells that are no text, null where they read as one of the mapping's marks of a missing value."""
    if not mapping.missing or pa.types.is_nested(cells.type):
        return cells
    marks = pc.is_in(pc.cast(cells, pa.string()), value_set=pa.array(mapping.missing, pa.string()))
    return pc.if_else(marks, pa.scalar(None, cells.type), cells)


def filled_text(name: str, cells: pa.Array, mapping: ColumnMapping) -> pa.Array:
    """`as_text` with empty cells made null."""
    text = as_text(name, cells, mapping)
    empty = pc.equal(text, "")
    return pc.if_else(empty, pa.scalar(None, pa.string()), text) if pc.any(empty).as_py() else text


def _each(text: pa.Array, parse: Callable[[str], Any], kind: pa.DataType) -> tuple[pa.Array, Faults]:
    """`parse` of every cell, called once for each distinct text; cells for which it raises `Broken` become null."""
    encoded = text.dictionary_encode()
    faults: dict[int, Broken] = {}

    def attempt(code: int, one: str) -> Any:
        try:
            return parse(one)
        except Broken as broken:
            faults[code] = broken
            return None

    parsed = pa.array([attempt(code, one) for code, one in enumerate(encoded.dictionary.to_pylist())], kind)
    values = parsed.take(encoded.indices)
    if not faults:
        return values, []
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    alike: dict[tuple[str, str], list[int]] = {}
    for code, fault in faults.items():
        alike.setdefault((fault.rule, fault.remedy), []).append(code)
    return values, [(faults[same[0]], np.flatnonzero(np.isin(codes, same))) for same in alike.values()]


def _from_text(name: str, text: pa.Array, mapping: ColumnMapping) -> tuple[pa.Array, Faults]:
    kind = CANONICAL.field(name).type
    if pa.types.is_string(kind):
        return text, []
    if pa.types.is_date(kind):
        return _each(text, lambda one: parse_date(one, mapping.date_format), kind)
    if pa.types.is_floating(kind):
        return _numbers(text, mapping.decimal)
    if pa.types.is_list(kind):
        return _each(text, parse_landmarks, kind)
    return _each(text, parse_event, kind)


def _numbers(text: pa.Array, decimal: str) -> tuple[pa.Array, Faults]:
    """Arrow casts a clean column at once; as soon as one cell is not a finite number, Python reads them one by one."""
    if decimal == ".":
        try:
            values = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            pass
        else:
            if pc.all(pc.is_finite(values)).as_py() is not False:  # None: every cell is empty
                return values, []
    return _each(text, lambda one: parse_number(one, decimal), pa.float64())


def parse_date(text: str, form: str | None) -> date:
    if form is not None:
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            raise Broken(
                f"must be a day written as the date_format {form!r} says", _missing(text) or "Correct the cell."
            ) from None
    try:
        if _ISO_DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        raise Broken("must be a day that exists, written YYYY-MM-DD", "Correct the cell.") from None
    remedy = _missing(text) or (
        'Give the table\'s `date_format` (such as "%d/%m/%Y" or "%m/%d/%Y") in the column mapping.'
        if _NUMERIC_DAY.match(text)
        else "Correct the cell, or give the table's `date_format` in the column mapping."
    )
    raise Broken("must be a day written YYYY-MM-DD", remedy)


def parse_number(text: str, decimal: str) -> float:
    plain = "" if decimal != "." and "." in text else text.replace(decimal, ".")
    if _NUMBER.fullmatch(plain) and math.isfinite(value := float(plain)):
        return value
    remedy = _missing(text) or "Correct the cell."
    if decimal == "." and "," in text and _NUMBER.fullmatch(text.replace(",", ".", 1)):
        remedy = 'If the comma is the decimal mark, give `decimal: ","` in the column mapping.'
    raise Broken("must be a finite number", remedy)


def parse_event(text: str) -> int:
    event = _EVENTS.get(text.lower())
    if event is None:
        raise _no_event(text)
    return event


def parse_landmarks(text: str) -> list[float]:
    """A JSON list, or numbers with blanks between them; the decimal mark is always the point."""
    try:
        if text.lstrip().startswith("["):
            values = json.loads(text, parse_int=float)
        else:
            values = [parse_number(part, ".") for part in text.split()]
    except (ValueError, RecursionError, Broken):
        raise _no_landmarks(text) from None
    if len(values) != NUM_LANDMARK_VALUES or not all(isinstance(one, float) and math.isfinite(one) for one in values):
        raise _no_landmarks(text)
    return list(values)


def _no_event(text: str) -> Broken:
    return Broken(
        "must be 1 (died) or 0 (alive at last contact)",
        _missing(text) or "Correct the cell, or give `values: {event: {dead: 1, alive: 0}}` in the column mapping.",
    )


def _no_landmarks(text: str) -> Broken:
    return Broken(
        f"must be {NUM_LANDMARK_VALUES} finite numbers, x and y of five points",
        _missing(text) or "Write a JSON list, [x1, y1, ..., x5, y5], or the numbers with blanks between them.",
    )


def _missing(text: str) -> str | None:
    """The remedy for a cell that seems to say "not known" in words. Only an empty cell does so in a manifest."""
    if text.strip().lower() not in _MISSING_MARKS:
        return None
    return f"Leave the cell empty, or give `missing: [{json.dumps(text)}]` in the column mapping."


def _from_typed(name: str, cells: pa.Array) -> tuple[pa.Array, Faults]:
    """A Parquet column that is no text. Its type must fit; 12.0 is no name and 737000 no date."""
    kind, given, types = CANONICAL.field(name).type, cells.type, pa.types
    if types.is_null(given):
        return pa.nulls(len(cells), kind), []
    number = types.is_integer(given) or types.is_floating(given) or types.is_decimal(given)
    if types.is_string(kind) and types.is_integer(given):
        return pc.cast(cells, kind), []
    if types.is_date(kind) and (types.is_date(given) or types.is_timestamp(given)):
        return pc.cast(cells, kind, safe=False), []
    if types.is_floating(kind) and number:
        return pc.cast(cells, kind, safe=False), []
    if types.is_int8(kind) and (number or types.is_boolean(given)):
        wide = pc.cast(cells, pa.float64()) if number else pc.cast(pc.cast(cells, pa.int8()), pa.float64())
        good = pc.or_(pc.equal(wide, 0.0), pc.equal(wide, 1.0))
        return pc.cast(pc.if_else(good, wide, None), kind), _flagged(pc.invert(good), _no_event(""))
    if types.is_list(kind) and _is_list_of_numbers(given):
        return _typed_landmarks(cells, kind)
    raise Broken(f"must hold {_WANTED[str(kind)]}, not the Parquet type {given}", "Write the column with such a type.")


_WANTED = {
    "string": "text or whole numbers",
    "date32[day]": "dates, timestamps or text",
    "double": "numbers or text",
    "int8": "0 and 1, truth values or text",
    "list<item: double>": "lists of numbers or text",
}


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _typed_landmarks(cells: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Faults]:
    values = pc.cast(cells, kind, safe=False)
    good = pc.equal(pc.list_value_length(values), NUM_LANDMARK_VALUES)
    flat = pc.list_flatten(values)
    unusable = np.flatnonzero(~pc.fill_null(pc.is_finite(flat), False).to_numpy(zero_copy_only=False))
    if len(unusable):
        mask = np.ones(len(cells), bool)
        mask[pc.list_parent_indices(values).to_numpy(zero_copy_only=False)[unusable]] = False
        good = pc.and_(good, pa.array(mask))
    return pc.if_else(good, values, pa.scalar(None, kind)), _flagged(pc.invert(good), _no_landmarks(""))


def _flagged(mask: pa.Array, broken: Broken) -> Faults:
    hits = np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))
    return [(broken, hits)] if len(hits) else []
