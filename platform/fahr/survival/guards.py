"""What must not be in a table of people before anything is fitted to it: immortal time, an event after censoring, a
column that knows the outcome. One refusal tells all that is wrong, with the rows.

told = check_table(table, Endpoint(), ["age", "risk"], Dates(exposed="last_taken_on", starts="first_taken_on"))
told.checked, told.unchecked, told.warnings

Rows are counted from 0. People who are there twice: `read_study`. Few events, hazards that are not proportional and
separation show only in a model: `fahr.survival.models`. m = rows of the table.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.survival.cindex import concordance
from fahr.survival.competing import of_cause
from fahr.survival.curves import FEWEST
from fahr.survival.design import MOST_LEVELS, as_levels, is_number
from fahr.survival.imputation import missing
from fahr.survival.people import Flags, Floats, mean_ranks
from fahr.survival.study import Endpoint, column_names, read_columns

MOST_ROWS = 20  # that one message names
DETERMINED = 0.999  # rank correlation with the time of the event, above which a column is made of it
TOO_GOOD = 0.95  # concordance of a single column that no honest marker has
KNOWS = re.compile(
    r"(^|_)(died|dead|death|deceased|vital|censor\w*|event|follow_?up|last_(seen|contact|visit)|survival_(time|days))(_|$)"
)
Days = NDArray[np.float64]


@dataclass(frozen=True)
class Dates:
    """The names of columns of dates (or of days, as numbers), as far as there are any."""

    exposed: str  # of the last photo from which anything in the model is known
    starts: str | None = None  # when the clock of `time` starts; None: at `exposed`
    earlier: str | None = None  # of an earlier photo of the same person, where two are compared
    last_seen: str | None = None  # alive
    died: str | None = None  # or had the event
    closed: str | None = None  # the day on which the data were cut


@dataclass(frozen=True)
class Checked:
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]  # and why
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        return [
            f"checked: {', '.join(self.checked)}",
            *(f"not checked: {each}" for each in self.unchecked),
            *(f"warning: {each}" for each in self.warnings),
        ]


def check_table(table: Any, endpoint: Endpoint, columns: Sequence[str] = (), dates: Dates | None = None) -> Checked:
    """`columns`: what the outcome is to be explained by. Refused with every rule that is broken."""
    problems, warnings = _leaks(table, endpoint, columns)
    checked, unchecked = ["columns that know the outcome"], []
    if dates is None:
        unchecked.append("immortal time, follow-up before the photo, events after censoring: no dates were given")
    else:
        days = _read_dates(table, dates)
        for name, found in (
            ("immortal time", _immortal(table, endpoint, dates, days)),
            ("follow-up before the photo", _before_photo(dates, days)),
            ("events after censoring", _after_censoring(table, endpoint, dates, days)),
        ):
            problems += found
            checked.append(name)
        unchecked += [
            f"{name}: no column was named" for name in ("last_seen", "died", "closed") if getattr(dates, name) is None
        ]
    if problems:
        raise Refused("\n".join(problems))
    return Checked(tuple(checked), tuple(unchecked), tuple(warnings))


# Dates


def _read_dates(table: Any, dates: Dates) -> dict[str, Days]:
    """(m,) days, nan where unknown, by the field of `Dates`."""
    fields = {field: name for field, name in vars(dates).items() if name is not None}
    found = read_columns(table, fields.values())
    return {field: _days(name, found[name]) for field, name in fields.items()}


def _days(name: str, values: NDArray[Any]) -> Days:
    if is_number(values):
        return values.astype(np.float64)
    gap = missing(values)
    try:
        moments = np.array(["NaT" if lost else each for each, lost in zip(values, gap, strict=True)], "datetime64[D]")
    except (TypeError, ValueError) as error:
        raise Refused(f"{name}: not every value is a date ({error}). Write dates as 2026-11-22.") from error
    return np.where(np.isnat(moments), np.nan, moments.astype(np.int64).astype(np.float64))


def _immortal(table: Any, endpoint: Endpoint, dates: Dates, days: dict[str, Days]) -> list[str]:
    """Who is exposed only later has not died until then: that time must not count as survived because of it."""
    problems = []
    if "earlier" in days:
        problems += _told(
            days["earlier"] >= days["exposed"],
            f"{dates.earlier} must lie before {dates.exposed}",
            "Put the photos in order, and give none twice",
        )
    if "starts" in days:
        late = days["exposed"] - days["starts"]
        there = column_names(table)
        entry = np.zeros(len(late))
        if endpoint.entry is not None and (endpoint.entry in there or endpoint.entry != "entry_days"):
            entry = read_columns(table, [endpoint.entry])[endpoint.entry].astype(np.float64)
        problems += _told(
            late > np.nan_to_num(entry),
            f"immortal time: the clock starts at {dates.starts}, but what is compared is known only from "
            f"{dates.exposed} on, and nobody can have had the event between",
            f"Start the clock at {dates.exposed}, or enter people there (entry = days from {dates.starts} to it)",
        )
    return problems


def _before_photo(dates: Dates, days: dict[str, Days]) -> list[str]:
    problems = []
    for field in ("last_seen", "died"):
        if field in days:
            problems += _told(
                days[field] < days["exposed"],
                f"follow-up before the photo: {getattr(dates, field)} lies before {dates.exposed}",
                "Correct the dates, or remove these rows",
            )
    return problems


def _after_censoring(table: Any, endpoint: Endpoint, dates: Dates, days: dict[str, Days]) -> list[str]:
    found = read_columns(table, [endpoint.time, endpoint.event])
    time, event, known = _outcome(found, endpoint)
    start = days.get("starts", days["exposed"])
    problems = []
    if "died" in days:
        if endpoint.cause is None:
            problems += _told(
                known & ~event & (days["died"] <= start + time),
                f"event after censoring: {endpoint.event} is 0, but {dates.died} is not after the end of follow-up",
                f"Make {endpoint.event} 1, or end the follow-up before",
            )
        if "last_seen" in days:
            problems += _told(
                days["last_seen"] > days["died"],
                f"{dates.last_seen} lies after {dates.died}: nobody is seen alive after that",
                "Correct the dates",
            )
    if "closed" in days:
        problems += _told(
            event & (start + time > days["closed"]),
            f"event after censoring: it lies after {dates.closed}, when follow-up ended for all",
            f"Make {endpoint.event} 0, and end {endpoint.time} there",
        )
    return problems


def _outcome(found: Mapping[str, NDArray[Any]], endpoint: Endpoint) -> tuple[Floats, Flags, Flags]:
    """(m,) times, nan where unknown; who had the event; of whom both are known. With a cause, nothing is none yet."""
    raw = found[endpoint.event]
    gap = missing(found[endpoint.time])
    if endpoint.cause is None:
        gap = gap | missing(raw)
    time = _numbers(endpoint.time, found[endpoint.time], gap, "Time is a number, of days in files")
    if endpoint.cause is not None:
        return time, of_cause(raw, endpoint.cause) & ~gap, ~gap
    event = _numbers(endpoint.event, raw, gap, "Give 1 and 0, or say by `cause` which of them is the event")
    return time, event == 1, ~gap


def _numbers(name: str, values: NDArray[Any], gap: Flags, remedy: str) -> Floats:
    try:
        return np.where(gap, np.nan, values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"{name}: not every value is a number ({error}). {remedy}.") from error


def _told(wrong: Flags, rule: str, remedy: str) -> list[str]:
    """One sentence, if there are such rows."""
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return []
    more = f" and {len(rows) - MOST_ROWS:,} more" if len(rows) > MOST_ROWS else ""
    shown = ", ".join(str(row) for row in rows[:MOST_ROWS].tolist())
    return [f"{rule}: row{'s' if len(rows) > 1 else ''} {shown}{more}. {remedy}."]


# Columns that know the outcome


def _leaks(table: Any, endpoint: Endpoint, columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is refused, and what is only odd."""
    problems, warnings = [], []
    outcome = {endpoint.time, endpoint.event}
    for name in columns:
        if name in outcome:
            problems.append(f"{name}: is the outcome itself. Leave it out of what explains it.")
    found = read_columns(table, [endpoint.time, endpoint.event, *columns])
    time, event, known = _outcome(found, endpoint)
    for name in (each for each in columns if each not in outcome):
        leak = _leak(found[name], time, event, known)
        if leak:
            problems.append(
                f"{name}: {leak}. It was written down after the outcome, or because of it: leave it out, or take its "
                "value on the day of the photo."
            )
        elif KNOWS.search(name.lower()):
            warnings.append(f"{name}: is named like something that is known only after the outcome")
        else:
            warnings += _too_good(name, found[name], time, event, known)
    return problems, warnings


def _leak(values: NDArray[Any], time: Floats, event: Flags, known: Flags) -> str:
    """Why a column knows the outcome; nothing if it does not."""
    if min(int(event[known].sum()), int((~event)[known].sum())) < 2:
        return ""
    lost = missing(values)[known]
    died = event[known]
    if (lost == died).all() or (lost == ~died).all():
        who = "without" if (lost == died).all() else "with"
        return f"is known of exactly those {who} the event"
    whole = known & ~missing(values)
    died, lasted = event[whole], time[whole]
    if died.any() and not died.all() and _decides(values[whole], died):
        return "tells everybody with the event from everybody without"
    if is_number(values) and int(died.sum()) >= FEWEST:
        one = values[whole].astype(np.float64)[died]
        if len(np.unique(one)) > 2 and abs(_rank_correlation(one, lasted[died])) > DETERMINED:
            return "goes with the time of the event, in order"
    return ""


def _decides(values: NDArray[Any], died: Flags) -> bool:
    """Whether a column of few different values has only one outcome for each."""
    names, place = np.unique(as_levels(values), return_inverse=True)
    if len(names) > min(MOST_LEVELS, len(values) // 2) or len(names) < 2:
        return False
    share = np.bincount(place, died) / np.bincount(place)
    return bool(np.isin(share, (0.0, 1.0)).all())


def _rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's; 0 where one of them is the same for all."""
    ranks = (mean_ranks(one), mean_ranks(other))
    return float(np.corrcoef(*ranks)[0, 1]) if min(np.ptp(each) for each in ranks) > 0 else 0.0


def _too_good(name: str, values: NDArray[Any], time: Floats, event: Flags, known: Flags) -> list[str]:
    if not is_number(values):
        return []
    whole = known & ~missing(values)
    numbers = values[whole].astype(np.float64)
    usable = int(event[whole].sum()) >= FEWEST and bool((time[whole] >= 0).all()) and bool(np.isfinite(numbers).all())
    if not usable:
        return []
    value = concordance(time[whole], event[whole], numbers).value
    if max(value, 1 - value) > TOO_GOOD:
        return [f"{name}: ranks people nearly without error (C {value:.3f}). Does it know the outcome?"]
    return []
