"""Who was watched for how long, and what happened: arrays checked once, refused with the row that is wrong.

people, kept = read_people(time, event, entry=None, weights=None, subject=None)    # kept: rows with a weight above 0
risk = read_risk("risk", risk, rows)[kept]
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LIGHTEST, HEAVIEST = 1e-100, 1e100  # products of two weights must neither vanish nor overflow


@dataclass(frozen=True)
class People:
    """One row each, in the caller's order. n = rows."""

    time: Floats  # (n,) end of follow-up, 0 or more, in any one unit
    event: Flags  # (n,) whether it ended with the event
    entry: Floats | None  # (n,) start of follow-up; None: from the beginning
    weights: Floats  # (n,) above 0
    weighted: bool  # False: every weight is 1
    subject: Ints | None  # (n,) numbers from 0; None: every row is a person of its own

    def __len__(self) -> int:
        return len(self.time)


def read_people(
    time: ArrayLike,
    event: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    subject: ArrayLike | None = None,
) -> tuple[People, Ints]:
    """The rows that count, and their places: a weight of 0 is as if the row were not there."""
    times = _numbers("time", time)
    rows = len(times)
    _refuse("time", times, times < 0, "is negative", "Time runs from the photo to the end of follow-up.")
    events = _numbers("event", event, rows)
    _refuse("event", events, (events != 0) & (events != 1), "must be 0 or 1", "1 = the event was seen, 0 = censored.")
    entries = None if entry is None else _numbers("entry", entry, rows)
    if entries is not None:
        late = entries >= times
        _refuse("entry", entries, late, "must lie before time", "Who enters at the end was never watched: remove them.")
    heavy = np.ones(rows) if weights is None else _numbers("weights", weights, rows)
    if weights is not None:
        _refuse("weights", heavy, heavy < 0, "is negative", "0 leaves a row out.")
        beyond = (heavy > 0) & ((heavy < LIGHTEST) | (heavy > HEAVIEST))
        _refuse("weights", heavy, beyond, f"lies beyond {LIGHTEST:g} to {HEAVIEST:g}", "Only their ratios matter.")
    who = None if subject is None else read_groups("subject", subject, rows)
    kept = np.flatnonzero(heavy > 0)
    if len(kept) < rows:
        times, events, heavy = times[kept], events[kept], heavy[kept]
        entries = None if entries is None else entries[kept]
        who = None if who is None else who[kept]
    # -0.0 is 0, for whoever sorts by the bits
    people = People(times + 0.0, events == 1, entries, heavy, not bool((heavy == 1).all()), who)
    return people, kept


def read_risk(name: str, risk: ArrayLike, rows: int) -> Floats:
    """(rows,) higher = the event comes earlier."""
    return _numbers(name, risk, rows)


def read_groups(name: str, groups: ArrayLike, rows: int) -> Ints:
    """(rows,) of any names -> numbers from 0, in the order in which the names appear."""
    names = _one_each(name, np.asarray(groups), rows)
    try:
        coded = pa.array(names, from_pandas=True).dictionary_encode()
    except pa.ArrowException as error:
        raise Refused(f"{name}: mixes kinds of names ({error}). Make them all text, or all numbers.") from error
    missing = coded.is_null().to_numpy(zero_copy_only=False)
    _refuse(name, names, missing, "is missing", "Give every row its group, or leave the argument out.")
    return np.asarray(coded.indices.to_numpy(), np.int64)


def _numbers(name: str, values: ArrayLike, rows: int | None = None) -> Floats:
    """(rows,) finite float64."""
    raw = _one_each(name, np.asarray(values), rows)
    if raw.dtype.kind not in "biufO":
        raise Refused(f"{name}: holds {raw.dtype}, not numbers. Convert it first.")
    try:
        numbers = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"{name}: not every value is a number ({error}). Convert it, or remove those rows.") from error
    _refuse(name, raw, ~np.isfinite(numbers), "is not a finite number", "Remove the row, or fill it in.")
    return numbers


def _one_each(name: str, values: NDArray[Any], rows: int | None) -> NDArray[Any]:
    if values.ndim != 1:
        raise Refused(f"{name}: has shape {values.shape}; must be (n,), one value a row. Flatten it.")
    if rows is not None and len(values) != rows:
        raise Refused(f"{name}: has {len(values):,} values for {rows:,} rows of time. Give one value a row.")
    return values


def _refuse(name: str, values: NDArray[Any], wrong: Flags, rule: str, remedy: str) -> None:
    """Names the first wrong row, counted from 0, and how many more there are."""
    if not wrong.any():
        return
    first, others = int(np.argmax(wrong)), int(wrong.sum()) - 1
    more = f", and {others:,} more" if others else ""
    raise Refused(f"{name}: row {first} {rule} ({values[first]!s}){more}. {remedy}")


def mean_ranks(values: Floats) -> Floats:
    """(n,) from 1; equal values share the mean of their ranks."""
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(number) - (number - 1) / 2)[place])
