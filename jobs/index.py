"""Turn a folder or bucket of photos into a manifest: one row a photo, labels joined on, every rule checked.

Laptop:   python jobs/index.py --photos photos/ --output people.parquet --labels people.csv
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/index.py --photos s3://bucket/photos --output s3://bucket/people.parquet

A listing waits for the network and needs no cluster: it runs in the driver, on threads, in bounded memory.
Beside M.parquet it leaves M.parquet.ledger.json (what was seen, what was left out and why) and M.parquet.options.yaml.
"""

import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from pydantic import field_validator, model_validator

from fahr import store
from fahr.cohorts import ColumnMapping, ManifestError, iter_manifest, read_mapping, write_manifest
from fahr.cohorts.schema import CANONICAL
from fahr.cohorts.sources import open_source
from fahr.config import JobOptions, Location, option
from fahr.errors import Refused, nearest
from fahr.progress import progress
from fahr.version import code_version

ROWS = 65_536  # photos held at a time
ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif", ".tif", ".tiff", ".gif", ".bmp"}

Match = Literal["path", "name", "stem", "subject"]


class Options(JobOptions):
    """Turn a folder or bucket of photos into a manifest: one row a photo, labels joined on, every rule checked.

    python jobs/index.py --photos photos/ --output people.parquet --labels people.csv
    """

    photos: Location = option(help="folder or s3://bucket/prefix that holds the photos, at any depth")
    output: Location = option(help="the manifest to write, .parquet or .csv", result=False)
    labels: Location | None = option(None, help="table of people or photos (.csv, .parquet) to join on", off="none")
    labels_key: str = option("photo_id", help="column of --labels that names the photo or the person")
    match: Match = option(
        "path",
        help="what --labels-key equals: the photo's path below --photos, its file name, the name without its ending, "
        "or the subject_id that --pattern finds",
    )
    mapping: Location | None = option(
        None, help="YAML column mapping for --labels: names, dates, codes, separator, units", off="none"
    )
    pattern: str | None = option(
        None,
        help="regular expression on the path below --photos; its named groups become columns, as in "
        r"'(?P<subject_id>[^/]+)/(?P<taken_on>\d{4}-\d\d-\d\d)\.jpg'",
        off="none",
    )
    all_files: bool = option(
        False, help="take every file for a photo, whatever its ending", off="only " + ", ".join(sorted(ENDINGS))
    )

    @field_validator("output")
    @classmethod
    def _a_manifest(cls, output: str) -> str:
        if not output.endswith((".parquet", ".csv")):
            raise ValueError("a manifest ends in .parquet or .csv")
        return output

    @model_validator(mode="after")
    def _no_option_in_vain(self) -> "Options":
        joining = ("mapping", "labels_key", "match")
        if not self.labels and any(getattr(self, name) != type(self).model_fields[name].default for name in joining):
            raise ValueError(
                "--labels-key, --match and --mapping say how to join --labels, and there are none: give both"
            )
        if inputs := {self.labels, self.mapping, self.config} & set(self.written()):
            raise ValueError(f"{inputs.pop()} is an input and would be overwritten: give another --output")
        return self

    def written(self) -> tuple[str, ...]:
        """Every file that a run may write: never listed as a photo, never an input."""
        beside = ("ledger.json", "options.yaml", "labels_without_photo.csv")
        return (self.output, *(f"{self.output}.{each}" for each in beside))

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            groups = re.compile(pattern or "(?P<x>)").groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        taken = {"photo_id", "uri"} & groups.keys()
        if taken or not groups:
            raise ValueError("needs named groups such as (?P<subject_id>...), other than photo_id and uri")
        return pattern


def main(options: Options) -> store.Ledger:
    """List, join, check, write; the ledger tells what became of every file seen."""
    labels = Labels(options) if options.labels else None
    if options.dry_run:
        print(f"resources: 1 process, {store.WALKERS} listing threads, no cluster")
        return store.Ledger("index", 0, 0)
    started = time.monotonic()
    account = Account()
    _, ledger_json, options_yaml, unmatched_csv = options.written()
    with tempfile.TemporaryDirectory() as scratch:
        joined = os.path.join(scratch, "joined.parquet")
        schema = _schema(options, labels)
        with store.atomic_writer(joined) as file:
            store.write_parquet(file, _joined(options, labels, schema, account), schema)
        _check_matches(options, labels, account)
        ledger = _write(options, labels, account, joined)
    if labels:
        labels.write_unmatched(unmatched_csv)
    options.write(options_yaml)
    ledger.write(ledger_json)
    print(ledger.line(time.monotonic() - started, "files"))
    return ledger


def _check_matches(options: Options, labels: "Labels | None", account: "Account") -> None:
    """A listing without photos, a pattern or labels that fit none: a wrong option, not a manifest."""
    if not account.photos:
        raise Refused(f"{options.photos}: no photo found ({account.told()}). Check the location, or --all-files.")
    if account.outside_pattern == account.photos:
        raise Refused(
            f"--pattern = {options.pattern!r}: none of {account.photos:,} paths fits, such as {account.first!r}. "
            "It must fit the whole path below --photos."
        )
    if account.outside_pattern:
        print(f"index: {account.outside_pattern:,} of {account.photos:,} paths do not fit --pattern", file=sys.stderr)
    if labels:
        labels.check_matches(options)


def _write(options: Options, labels: "Labels | None", account: "Account", joined: str) -> store.Ledger:
    """The joined rows through the manifest's rules into --output. The ledger balances, or nothing is written."""
    written = 0
    made: list[store.Ledger] = []

    def counted(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        nonlocal written
        for table in tables:
            written += table.num_rows
            yield table
        made.append(_ledger(options, labels, account, written).check())  # before the file gets its name

    try:
        tables = iter_manifest(joined)
    except ManifestError as error:
        raise Refused(_retold(error, joined, options)) from error
    # A CSV has no place for its origin; its ledger tells it.
    origin = {"fahr.config_digest": options.digest(), "fahr.code_version": code_version()}
    metadata = origin if options.output.endswith(".parquet") else None
    write_manifest(counted(tables), options.output, metadata=metadata)
    return made[0]


def _retold(error: ManifestError, joined: str, options: Options) -> str:
    """The rows of the joined table are nobody's: name the photos instead."""
    ids = pq.read_table(joined, columns=["photo_id"])["photo_id"]
    given = {"--pattern": options.pattern, "--labels": options.labels}
    lines = [f"{' and '.join(name for name in given if given[name])} break a rule in {error.total:,} places:"]
    for problem in error.problems:
        photo = ids[problem.row - 2].as_py() if problem.row else "?"
        lines.append(f"  photo {photo!r}: {problem.column} {problem.value!r} {problem.rule}. {problem.remedy}")
    return "\n".join(lines)


class Account:
    """What was seen while listing."""

    def __init__(self) -> None:
        self.seen = 0
        self.photos = 0
        self.first = ""
        self.empty = 0
        self.unnameable = 0  # names that are no text: no table can hold them
        self.other: Counter[str] = Counter()  # files that are no photos, by ending
        self.outside_pattern = 0

    def told(self) -> str:
        endings = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in self.other.most_common(5))
        return f"{self.empty:,} empty files, {self.other.total():,} other files{': ' + endings if endings else ''}"


def _ledger(options: Options, labels: "Labels | None", account: Account, written: int) -> store.Ledger:
    more = {
        "photos": options.photos,
        "other_files_by_ending": dict(account.other.most_common()),
        "photos_outside_pattern": account.outside_pattern,
    }
    if labels:
        more |= {"photos_without_label": labels.photos_without, "labels_without_photo": int((labels.hits == 0).sum())}
    rejects = {"not_a_photo": account.other.total(), "empty": account.empty, "unreadable_name": account.unnameable}
    counted = {reason: count for reason, count in rejects.items() if count}
    return store.Ledger("index", account.seen, written, counted, options.digest(), code_version(), more)


def _schema(options: Options, labels: "Labels | None") -> pa.Schema:
    fields = [pa.field("photo_id", pa.string()), pa.field("uri", pa.string())]
    groups = re.compile(options.pattern).groupindex if options.pattern else {}
    if labels and (both := groups.keys() & set(labels.table.column_names)):
        raise Refused(f"--pattern and --labels both give {', '.join(sorted(both))}. Take it from one of the two.")
    fields += [pa.field(name, pa.string()) for name in groups]
    return pa.schema(fields + (list(labels.table.schema) if labels else []))


def _joined(options: Options, labels: "Labels | None", schema: pa.Schema, account: Account) -> Iterator[pa.Table]:
    """Photos in the order of their names, with what their paths and labels say."""
    pattern = re.compile(options.pattern) if options.pattern else None
    root = options.photos.rstrip("/")
    for ids in _photos(options, account):
        columns: dict[str, Any] = {"photo_id": ids, "uri": [f"{root}/{each}" for each in ids]}
        if pattern:
            found = [match.groupdict() if (match := pattern.fullmatch(each)) else {} for each in ids]
            account.outside_pattern += sum(not each for each in found)
            columns |= {name: [each.get(name) for each in found] for name in pattern.groupindex}
        if labels:
            keys = columns["subject_id"] if options.match == "subject" else list(map(_KEY[options.match], ids))
            columns |= labels.of(keys)
        yield pa.table(columns, schema=schema)


_KEY = {
    "path": lambda path: path,
    "name": lambda path: path.rpartition("/")[2],
    "stem": lambda path: os.path.splitext(path.rpartition("/")[2])[0],
}


def _photos(options: Options, account: Account) -> Iterator[list[str]]:
    """Paths below --photos, some tens of thousands at a time."""
    ids: list[str] = []
    skip = len(options.photos.rstrip("/")) + 1
    own = set(options.written())
    with progress(None, "files", "index") as bar:
        for entry in store.list_files(options.photos):
            if entry.location in own:
                continue
            bar.update()
            account.seen += 1
            ending = os.path.splitext(entry.location)[1].lower()
            if not _is_text(entry.location):
                account.unnameable += 1
            elif ending not in ENDINGS and not options.all_files:
                account.other[ending] += 1
            elif entry.size == 0:
                account.empty += 1
            else:
                account.photos += 1
                account.first = account.first or entry.location[skip:]
                ids.append(entry.location[skip:])
                if len(ids) == ROWS:
                    yield ids
                    ids = []
    yield ids


def _is_text(name: str) -> bool:
    """Linux allows names that are no UTF-8; Python smuggles them in as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Labels:
    """The label table, checked by the manifest's own rules and held in memory, with one row a key."""

    def __init__(self, options: Options) -> None:
        location = str(options.labels)
        mapping = read_mapping(options.mapping) if options.mapping else ColumnMapping()
        names = open_source(location, mapping).names
        if options.labels_key not in names:
            raise Refused(
                f"{location}: has no column {options.labels_key!r}.{nearest(options.labels_key, names)} "
                "Name the one that identifies photo or person with --labels-key."
            )
        if options.labels_key != "photo_id" and mapping.columns.get("photo_id", "photo_id") in names:
            raise Refused(
                f"{location}: --labels-key is {options.labels_key!r}, and it has a photo_id too, which the index "
                "makes from the photo's path. Rename that column, or match by it with --labels-key photo_id."
            )
        if options.match == "subject" and "subject_id" not in (options.pattern or ""):
            raise Refused("--match subject needs a --pattern with (?P<subject_id>...): where else would it be?")
        # The key stands in for the two columns that a table of labels does not have: every rule is then checked with
        # the table's own row numbers, and the key is checked to be there and unique.
        keyed = {**mapping.columns, "photo_id": options.labels_key}
        if "uri" not in names and "uri" not in keyed:  # a manifest may serve as labels: it has its own
            keyed["uri"] = options.labels_key
        parts = list(iter_manifest(location, mapping.model_copy(update={"columns": keyed})))
        table = pa.concat_tables(parts)
        given = {canonical for canonical in CANONICAL.names if mapping.columns.get(canonical, canonical) in names}
        if {"taken_on", "birth_date"} <= given:
            given.add("age")
        kept = [name for name in table.column_names if name not in CANONICAL.names or name in given]
        self.keys = table["photo_id"].to_pylist()
        self.table = table.select([name for name in kept if name not in ("photo_id", "uri", options.labels_key)])
        if options.match == "subject" and "subject_id" in self.table.column_names:
            self.table = self.table.drop_columns("subject_id")
        self.hits = np.zeros(len(self.keys), dtype=np.int64)
        self.photos_without = 0
        self._row = {key: row for row, key in enumerate(self.keys)}

    def of(self, keys: list[str | None]) -> dict[str, pa.ChunkedArray]:
        """The label columns of these photos; null where a photo has no label."""
        rows = [self._row.get(key) for key in keys]
        found = np.array([row for row in rows if row is not None], dtype=np.int64)
        np.add.at(self.hits, found, 1)
        self.photos_without += len(rows) - len(found)
        at = pa.array(rows, pa.int64())
        return {name: self.table[name].take(at) for name in self.table.column_names}

    def check_matches(self, options: Options) -> None:
        """A label that fits no photo at all, or several where it names one, is a wrong --match."""
        if not self.hits.any():
            raise Refused(
                f"{options.labels}: none of its {len(self.keys):,} labels fits a photo (the first: {self.keys[0]!r}). "
                f"Check --labels-key and --match (now {options.match})."
            )
        twice = np.flatnonzero(self.hits > 1)
        if len(twice) and options.match in ("name", "stem"):
            shown = ", ".join(repr(self.keys[row]) for row in twice[:5])
            raise Refused(
                f"{options.labels}: {len(twice):,} labels fit several photos each (such as {shown}), since file names "
                "repeat in other folders. Use --match path, or --match subject if a label is a person's."
            )

    def write_unmatched(self, location: str) -> None:
        """The labels that no photo took, for the user to look into. No file when there are none."""
        unmatched = [self.keys[row] for row in np.flatnonzero(self.hits == 0)]
        if unmatched:
            with store.atomic_writer(location) as file:
                arrow_csv.write_csv(pa.table({"label": unmatched}), file)
            print(f"index: {len(unmatched):,} labels have no photo: {location}", file=sys.stderr)
        else:
            store.delete(location)  # of an earlier run


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.index import Options, main

    run_job(Options, main)
