"""Reading a manifest: one row a photo. Refused whole if any rule is broken, with every broken rule in one message.

    for table in iter_manifest("people.csv"): ...            # or a .parquet file, or a folder of them, or s3://...
    table = read_manifest("hospital.csv", "mapping.yaml")    # a hospital's own table

The file is read twice: the first pass checks every row and keeps 8-byte hashes, the second makes the tables.
All columns of `schema.CANONICAL` are there in that order, absent ones null, then the others in the order of the file.
A subject whose rows do not all have the same split, given or by default, is refused rather than moved in silence.
"""

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr import store
from fahr.cohorts.mapping import ColumnMapping, read_mapping
from fahr.cohorts.plan import make_plan
from fahr.cohorts.problems import Collector, ManifestError, Problem, Rule, refusal
from fahr.cohorts.repeats import CONFIRMED, Hashes, conflicting, repeated
from fahr.cohorts.rules import Rows, default_splits
from fahr.cohorts.sources import CsvSource, Source, open_source
from fahr.cohorts.splits import SPLITS
from fahr.progress import progress

_UNIQUE = Rule("photo_id", "must be unique", "Rename one of them, or remove the repeated row.")
_ONE_SPLIT = Rule(
    "split",
    "must be the same in all rows of a subject",
    "Give all its rows the same split (an empty cell means the default split of the subject).",
)


def read_manifest(path: str | os.PathLike[str], mapping: ColumnMapping | str | None = None) -> pa.Table:
    """The whole manifest as one table, or `ManifestError`. `mapping` may be the path of a YAML file."""
    return pa.concat_tables(iter_manifest(path, mapping))


def iter_manifest(
    path: str | os.PathLike[str], mapping: ColumnMapping | str | None = None, rows: int = 65_536
) -> Iterator[pa.Table]:
    """The manifest as tables of `rows` rows (the last may be shorter), in bounded memory.

    The whole file is checked before this returns: an iterator that was handed out meets no broken rule.
    """
    if rows < 1:
        raise ValueError(f"rows={rows}: a table holds at least one row.")
    reading = _Reading(path, _mapping(mapping))
    reading.check()
    reading.problems.check()
    return _of_length(reading.tables(), rows)


def check_manifest(
    path: str | os.PathLike[str], mapping: ColumnMapping | str | None = None
) -> tuple[int, tuple[Problem, ...]]:
    """How many rows there are and what is wrong with them (up to 20 of each broken rule); nothing is raised for it."""
    try:
        reading = _Reading(path, _mapping(mapping))
        count = reading.check()
    except ManifestError as error:
        return 0, error.problems
    return count, reading.problems.problems


def _mapping(mapping: ColumnMapping | str | None) -> ColumnMapping:
    return read_mapping(mapping) if isinstance(mapping, str) else mapping or ColumnMapping()


class _Reading:
    """One manifest on its way through both passes."""

    def __init__(self, path: str | os.PathLike[str], mapping: ColumnMapping) -> None:
        self.problems = Collector()
        self._source: Source = open_source(path, mapping)
        self._plan = make_plan(self._source.location, self._source.names, mapping, self.problems)
        folder = store.parent(self._source.location) if _is_file(self._source) else self._source.location
        self._rows = Rows(self._plan, mapping, folder, self.problems)
        self._is_csv = isinstance(self._source, CsvSource)

    def check(self) -> int:
        """The first pass: every rule. Returns the number of rows."""
        photos, subjects, splits = Hashes(), Hashes(), [np.zeros(0, np.int8)]
        several_rows = {"subject_id", "split"} <= self._plan.ours.keys()  # else no subject can be in two splits
        count = 0
        with progress(None, "rows", "checking the manifest") as bar:
            for batch in self._source.batches(self.problems):
                values = self._rows.read(batch)
                if self._is_csv:
                    self._rows.observe_extras(batch)
                photos.add(values["photo_id"])
                if several_rows:
                    codes = pc.index_in(default_splits(values["split"], values["subject_id"]), pa.array(SPLITS))
                    subjects.add(pc.if_else(pc.is_valid(codes), values["subject_id"], pa.scalar(None, pa.string())))
                    splits.append(pc.fill_null(codes, 0).to_numpy(zero_copy_only=False).astype(np.int8))
                count += batch.cells.num_rows
                bar.total = max(count, round(count / max(self._source.done, 1e-9)))
                bar.update(batch.cells.num_rows)
            bar.total = count
        if count == 0 and not self.problems.counts:
            raise refusal(self._source.location, "there is a header and not a single row", "Write a row a photo.")
        self._confirm("photo_id", *repeated(photos.take()))
        if several_rows:
            self._confirm("subject_id", *conflicting(subjects.take(), np.concatenate(splits)))
        return count

    def _confirm(self, name: str, later: np.ndarray, first: np.ndarray) -> None:
        """A second look at the rows whose hashes repeat: equal hashes are not yet equal texts."""
        if not len(later):
            return
        looked_at = np.union1d(later[:CONFIRMED], first[:CONFIRMED])
        again = Rows(self._plan, self._rows.mapping, "/", Collector())  # what is broken has been told
        seen: dict[str, tuple[str, int, str]] = {}
        for batch in self._source.batches(Collector()):
            inside = looked_at[(looked_at >= batch.start) & (looked_at < batch.start + batch.cells.num_rows)]
            if not len(inside):
                continue
            values = again.read(batch)
            splits = default_splits(values["split"], values["subject_id"])
            for index in (inside - batch.start).tolist():
                key, split, row = values[name][index].as_py(), splits[index].as_py(), int(batch.rows[index])
                if key not in seen:
                    seen[key] = (batch.file, row, split)
                    continue
                file, first_row, first_split = seen[key]
                where = f"row {first_row:,}" if file == batch.file else f"{file} row {first_row:,}"
                if name == "photo_id":
                    self.problems.add(_UNIQUE, batch.file, row, key, f"as in {where}")
                elif split != first_split:
                    default = "" if values["split"][index].is_valid else f", so {split!r} by default"
                    note = f"subject {key!r} is {first_split!r} in {where}{default}"
                    self.problems.add(_ONE_SPLIT, batch.file, row, values["split"][index].as_py(), note)
            if inside[-1] == looked_at[-1]:
                break
        self.problems.add_unshown(_UNIQUE if name == "photo_id" else _ONE_SPLIT, len(later) - CONFIRMED)

    def tables(self) -> Iterator[pa.Table]:
        """The second pass. The extra columns' types are known by now."""
        for batch in self._source.batches(self.problems):
            values = self._rows.read(batch)
            self.problems.check()  # the file changed under our hands
            values["split"] = default_splits(values["split"], values["subject_id"])
            values |= self._rows.extras(batch, from_csv=self._is_csv)
            yield pa.table(values)


def _is_file(source: Source) -> bool:
    return source.location.lower().endswith(".csv") or store.exists(source.location)


def _of_length(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows, cut anew."""
    rest: pa.Table | None = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        cut = 0
        while rest.num_rows - cut >= rows:
            yield rest.slice(cut, rows)
            cut += rows
        rest = rest.slice(cut)
    if rest is not None and rest.num_rows:
        yield rest
