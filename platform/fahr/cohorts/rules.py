"""The rules of a manifest, applied to one batch after another; and the typed rows that a sound batch becomes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr import store
from fahr.cohorts.cells import Broken, Column, as_text, filled_text, is_text, read_column, unmarked
from fahr.cohorts.extras import NumberGuess
from fahr.cohorts.mapping import ColumnMapping
from fahr.cohorts.plan import Plan
from fahr.cohorts.problems import Collector, Rule
from fahr.cohorts.schema import CANONICAL, REQUIRED
from fahr.cohorts.sources import Batch
from fahr.cohorts.splits import SPLITS, split_of
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused

OLDEST_YEARS = 122.0  # the longest human life on record
AGE_TOLERANCE_YEARS = 1.0  # tables often hold completed years
_ORDINARY_RELATIVE = r"^[^./~][^~\x00]*[^/\x00]$"
_ORDINARY_ABSOLUTE = r"^/[^\x00]*[^/\x00]$"
_ORDINARY_S3 = r"^s3://[^/\x00]+/[^\x00]*[^/\x00]$"
_UNUSUAL_PATH = r"//|/\.|:"

_Note = Callable[[int], str]


class Rows:
    """Reads batches of cells by a plan. What is broken goes to `problems`; what comes back is right if nothing did."""

    def __init__(self, plan: Plan, mapping: ColumnMapping, base: str, problems: Collector) -> None:
        self.plan = plan
        self.mapping = mapping
        self._base = base
        self._problems = problems
        # A photo taken today is today's somewhere on earth: the earliest time zone is 14 hours ahead of UTC.
        self._latest_day = (datetime.now(UTC) + timedelta(hours=14)).date()
        self._guesses = {name: NumberGuess(mapping.decimal) for name in plan.extras}

    def read(self, batch: Batch) -> dict[str, pa.Array]:
        """The canonical columns of a batch, derived and defaulted but for `default_splits`, in order."""
        columns = {name: self._column(batch, name) for name in CANONICAL.names}
        told = _Telling(batch, columns, self._problems)
        for name in REQUIRED:
            if name in self.plan.ours:
                told.flag(name, ~columns[name].filled, "must not be empty", _FILL[name])
        values = {name: column.values for name, column in columns.items()}
        values["uri"] = _absolute(values["uri"], self._base, told)
        values["age"] = _ages(values, self._latest_day, told)
        _check_follow_up(values, columns, told)
        values["entry_days"] = pc.fill_null(values["entry_days"], 0.0)
        values["subject_id"] = pc.coalesce(values["subject_id"], values["photo_id"])
        told.flag(
            "split",
            pc.and_not(pc.is_valid(values["split"]), pc.is_in(values["split"], value_set=pa.array(SPLITS))),
            f"must be one of {', '.join(SPLITS)}",
            "Correct it, empty it for the default, or give `values: {split: {valid: tune}}` in the column mapping.",
        )
        return values

    def _column(self, batch: Batch, name: str) -> Column:
        kind, length = CANONICAL.field(name).type, batch.cells.num_rows
        nothing = Column(pa.nulls(length, pa.string()), pa.nulls(length, kind), [])
        if name not in self.plan.ours:
            return nothing
        try:
            column = read_column(name, batch.cells.column(self.plan.ours[name]), self.mapping)
        except Broken as broken:
            rule = Rule(name, broken.rule, broken.remedy)
            if rule not in self._problems.counts:
                self._problems.add(rule, batch.file, None)
            return Column(pa.array(["?"] * length), nothing.values, [])  # filled, so that no rule calls it missing
        for fault, indices in column.broken:
            rule = Rule(name, fault.rule, fault.remedy)
            shown = indices[: self._problems.room(rule)].tolist()
            for index in shown:
                self._problems.add(rule, batch.file, int(batch.rows[index]), column.cells[index].as_py())
            self._problems.add_unshown(rule, len(indices) - len(shown))
        return column

    def observe_extras(self, batch: Batch) -> None:
        """Let the columns that pass through a CSV show whether they are numbers."""
        for name, guess in self._guesses.items():
            guess.observe(filled_text(name, self._extra(batch, name), self.mapping))

    def extras(self, batch: Batch, *, from_csv: bool) -> dict[str, pa.Array]:
        """The columns that pass through; those of a CSV have the type that all observed cells allow."""
        columns = {name: self._extra(batch, name) for name in self.plan.extras}
        if from_csv:
            texts = {name: filled_text(name, cells, self.mapping) for name, cells in columns.items()}
            return {name: self._guesses[name].convert(text) for name, text in texts.items()}
        for name, cells in columns.items():
            if name in self.mapping.values or (self.mapping.missing and is_text(cells.type)):
                columns[name] = as_text(name, cells, self.mapping)
            else:
                columns[name] = unmarked(cells, self.mapping)
        return columns

    def _extra(self, batch: Batch, name: str) -> pa.Array:
        return batch.cells.column(self.plan.extras[name])


class _Telling:
    """Turns a mask over a batch into problems."""

    def __init__(self, batch: Batch, columns: dict[str, Column], problems: Collector) -> None:
        self.columns = columns
        self._batch = batch
        self._problems = problems

    def flag(self, name: str, mask: Any, text: str, remedy: str, note: _Note | None = None) -> None:
        """Every row where `mask` is true breaks a rule of column `name`; null is not true."""
        if isinstance(mask, pa.Array | pa.ChunkedArray):
            mask = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        hits = np.flatnonzero(mask)
        if not len(hits):
            return
        rule = Rule(name, text, remedy)
        shown = [int(index) for index in hits[: self._problems.room(rule)]]
        for index in shown:
            value = self.columns[name].cells[index].as_py()
            self._problems.add(rule, self._batch.file, int(self._batch.rows[index]), value, note(index) if note else "")
        self._problems.add_unshown(rule, len(hits) - len(shown))


_FILL = {
    "photo_id": "Give every photo a name of its own.",
    "uri": "Give the path or s3:// URI of the photo, or remove the row.",
}


def _absolute(uris: pa.Array, base: str, told: _Telling) -> pa.Array:
    """`store.absolute` of every URI. Ordinary ones are joined at once: Python takes a minute for ten million."""
    unusual = pc.match_substring_regex(uris, _UNUSUAL_PATH)
    plain = pc.and_not(pc.match_substring_regex(uris, _ORDINARY_RELATIVE), unusual)
    done = pc.if_else(plain, pc.binary_join_element_wise(base.rstrip("/"), uris, "/"), uris)
    absolute = pc.and_not(pc.match_substring_regex(uris, _ORDINARY_ABSOLUTE), unusual)
    ready = pc.or_(pc.or_(plain, absolute), pc.match_substring_regex(uris, _ORDINARY_S3))
    left = np.flatnonzero(~pc.fill_null(ready, True).to_numpy(zero_copy_only=False))
    if not len(left):
        return done
    slow: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for index in map(int, left):
        try:
            slow[index] = store.absolute(uris[index].as_py(), base)
        except Refused as refused:
            reasons[index] = str(refused)
    mask = np.isin(np.arange(len(uris)), list(reasons))
    told.flag("uri", mask, "must be a path or an s3:// URI", "Correct it, or copy the photo.", lambda i: reasons[i])
    mask = np.isin(np.arange(len(uris)), list(slow))
    return pc.replace_with_mask(done, pa.array(mask), pa.array([slow[index] for index in sorted(slow)], pa.string()))


def _ages(values: dict[str, pa.Array], latest_day: Any, told: _Telling) -> pa.Array:
    """Whole days between the dates / 365.25 where both are there, the given age elsewhere."""
    taken, born, given = values["taken_on"], values["birth_date"], values["age"]
    future = pc.greater(taken, pa.scalar(latest_day))
    told.flag("taken_on", future, "must not lie in the future", "Correct the date of the photo.")
    taken = pc.if_else(future, pa.scalar(None, taken.type), taken)  # one mistake, one problem
    days = pc.subtract(pc.cast(taken, pa.int32()), pc.cast(born, pa.int32()))
    derived = pc.divide(pc.cast(days, pa.float64()), DAYS_PER_YEAR)
    told.flag(
        "birth_date",
        pc.less(days, 0),
        "must not be after taken_on",
        "Correct one of the two dates.",
        lambda i: f"taken_on {taken[i]}",
    )
    told.flag(
        "birth_date",
        pc.greater(derived, OLDEST_YEARS),
        f"must give an age of at most {OLDEST_YEARS:.0f} years at taken_on",
        "Correct one of the two dates.",
        lambda i: f"taken_on {taken[i]}, age {derived[i].as_py():.1f}",
    )
    possible = pc.and_(pc.greater_equal(given, 0.0), pc.less_equal(given, OLDEST_YEARS))
    told.flag(
        "age",
        pc.invert(possible),
        f"must be from 0 to {OLDEST_YEARS:.0f} years",
        "Correct it, or give `age_unit: months` or `days` in the column mapping.",
    )
    sound = pc.and_(possible, pc.and_(pc.greater_equal(days, 0), pc.less_equal(derived, OLDEST_YEARS)))
    told.flag(
        "age",
        pc.and_(sound, pc.greater(pc.abs(pc.subtract(given, derived)), AGE_TOLERANCE_YEARS)),
        "must agree with the dates within 1 year",
        "Correct the age or a date, or leave the age empty: it follows from the dates.",
        lambda i: f"the dates give {derived[i].as_py():.2f}",
    )
    return pc.coalesce(derived, given)


def _check_follow_up(values: dict[str, pa.Array], columns: dict[str, Column], told: _Telling) -> None:
    follow_up, entry = values["follow_up_days"], values["entry_days"]
    has_follow_up, has_event = columns["follow_up_days"].filled, columns["event"].filled
    both = "Fill it, or empty the other: an outcome needs both."
    told.flag("event", has_follow_up & ~has_event, "is needed where follow_up_days is given", both)
    told.flag("follow_up_days", has_event & ~has_follow_up, "is needed where event is given", both)
    for name, times in (("follow_up_days", follow_up), ("entry_days", entry)):
        sound = pc.and_(pc.greater_equal(times, 0.0), pc.is_finite(times))
        told.flag(
            name, pc.invert(sound), "must be a finite number, 0 or more", "Correct it: time counts from the photo."
        )
    late = pc.greater(entry, 0.0)
    told.flag(
        "entry_days",
        pc.and_(late, pa.array(~has_follow_up & ~has_event)),
        "needs follow_up_days where it is above 0",
        "Fill follow_up_days and event, or empty entry_days.",
    )
    told.flag(
        "entry_days",
        pc.and_(pc.and_(late, pc.greater_equal(follow_up, 0.0)), pc.greater_equal(entry, follow_up)),
        "must be less than follow_up_days where it is above 0",
        "Correct one of them, or empty the outcome: who was never seen after entry adds nothing.",
        lambda i: f"follow_up_days {follow_up[i].as_py():g}",
    )


def default_splits(split: pa.Array, subject: pa.Array) -> pa.Array:
    """The given split, or where there is none the default one of the subject."""
    if split.null_count == 0:
        return split
    encoded = pc.if_else(pc.is_null(split), subject, pa.scalar(None, pa.string())).dictionary_encode()
    defaults = pa.array([split_of(one) for one in encoded.dictionary.to_pylist()], pa.string())
    return pc.coalesce(split, defaults.take(encoded.indices))
