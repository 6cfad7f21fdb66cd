"""How a hospital's table becomes a manifest: its column names, its dates, its codes, its units.

columns: {photo_id: FileID, uri: Path, subject_id: PatID, event: Status}
date_format: "%d/%m/%Y"
separator: ";"
encoding: latin-1
decimal: ","
missing: ["NA", "-"]
values: {sex: {"1": F, "2": M}, event: {dead: 1, alive: 0}}
age_unit: months
follow_up_unit: months
"""

from datetime import date, datetime
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from fahr import store
from fahr.cohorts.problems import closest
from fahr.cohorts.schema import CANONICAL
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused

DAYS_PER_MONTH = 30.4375  # a twelfth of it
_PROOF_DAYS = (date(1931, 2, 3), date(2012, 11, 30))  # a format that keeps both keeps day, month and century


class ColumnMapping(BaseModel, frozen=True, extra="forbid"):
    """What differs between a table and a manifest. An empty mapping changes nothing."""

    columns: dict[str, str] = {}  # manifest column -> column of the table; one of the table may serve two of ours
    date_format: str | None = None  # as in strptime; None = YYYY-MM-DD. Typed Parquet dates need none
    separator: str = ","
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] = ()  # cells that mean "not known", in every column; an empty cell always does
    values: dict[str, dict[str, str]] = {}  # column -> {text in the table: text in the manifest}, after `missing`
    age_unit: Literal["years", "months", "days"] = "years"
    follow_up_unit: Literal["days", "months", "years"] = (
        "days"  # of entry_days too; 365.25 days a year, 30.4375 a month
    )

    @property
    def age_divisor(self) -> float:
        """Ages in the table are divided by this to become years."""
        return {"years": 1.0, "months": 12.0, "days": DAYS_PER_YEAR}[self.age_unit]

    @property
    def follow_up_factor(self) -> float:
        """Times in the table are multiplied by this to become days."""
        return {"days": 1.0, "months": DAYS_PER_MONTH, "years": DAYS_PER_YEAR}[self.follow_up_unit]

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{key!r} is no key of a column mapping.{_hint(str(key), cls.model_fields)}")
        return given

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in CANONICAL.names:
                raise ValueError(
                    f"columns: {name!r} is no column of a manifest.{_hint(name, CANONICAL.names)} "
                    "Write manifest column: column of the table; others pass through under their own names."
                )
        return columns

    @field_validator("values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        """Codes written as numbers or truth values, {1: "F"} or {"dead": True}, mean the text of the cell."""
        if not isinstance(values, dict):
            return values
        return {
            name: {str(old): str(new) for old, new in codes.items()} if isinstance(codes, dict) else codes
            for name, codes in values.items()
        }

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        if len(separator) != 1 or separator.isalnum() or separator in '"\r\n':
            raise ValueError(
                f"separator: {separator!r} does not separate cells. "
                'Give one character that is neither letter, digit nor quote, such as ";" or "\\t" (in double quotes).'
            )
        return separator

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError(
                f"encoding: {encoding!r} is not known to Python. Try utf-8, utf-8-sig, latin-1, cp1252 or utf-16."
            ) from None
        return encoding

    @field_validator("date_format")
    @classmethod
    def _keeps_every_day(cls, form: str | None) -> str | None:
        for day in _PROOF_DAYS if form is not None else ():
            try:
                kept = datetime.strptime(day.strftime(form or ""), form or "").date() == day
            except ValueError:
                kept = False
            if not kept:
                raise ValueError(
                    f"date_format: {form!r} loses the day, the month or the century of a date. "
                    'Use %d, %m (or %b) and %Y, as in "%d/%m/%Y".'
                )
        return form


def read_mapping(path: str) -> ColumnMapping:
    """The mapping in a YAML file; every value is read as text, so that `no: 0` and `01` stay what was typed."""
    location = store.absolute(path)
    try:
        given = yaml.load(store.read_bytes(location), Loader=yaml.BaseLoader)  # makes texts, lists and dicts only
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise Refused(f"{location}: not a YAML file ({reason}). Write one `key: value` a line.") from error
    if not isinstance(given, dict):
        raise Refused(f"{location}: a column mapping is a set of `key: value` lines, such as `columns: {{uri: Path}}`.")
    try:
        return ColumnMapping(**given)
    except ValidationError as error:
        faults = [_fault(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        raise Refused(f"{location}: {' '.join(faults)}") from error


def _fault(where: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message if message.endswith(".") else f"{where}: {message}."


def _hint(name: str, known: Any) -> str:
    close = closest(name, known)
    return f" Did you mean {close!r}?" if close else f" Known: {', '.join(known)}."
