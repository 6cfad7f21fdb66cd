"""Indexing 100,000 local files against a pathlib walk. Equal outputs asserted.

python benchmarks/index.py [FILES]
"""

import contextlib
import csv
import io
import os
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from _rounds import interleave, table

from fahr import store
from jobs import index


def make(root: str, count: int) -> None:
    """Files of 1 byte, 200 a folder, one in a hundred no photo."""
    for number in range(count):
        if number % 200 == 0:
            os.makedirs(f"{root}/ward{number // 20_000}/day{number // 200:04d}", exist_ok=True)
        ending = "txt" if number % 100 == 99 else "jpg"
        Path(f"{root}/ward{number // 20_000}/day{number // 200:04d}/{number:07d}.{ending}").write_bytes(b"x")


def pathlib_walk(root: str) -> list[tuple[str, int]]:
    """What one writes by hand: names and sizes, sorted."""
    return sorted((str(path), path.stat().st_size) for path in Path(root).rglob("*") if path.is_file())


def pathlib_index(root: str, output: str) -> None:
    """What one writes by hand to get a table: id and path of every photo, as CSV."""
    with open(output, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo_id", "uri"])
        for path, size in pathlib_walk(root):
            if size and os.path.splitext(path)[1].lower() in index.ENDINGS:
                writer.writerow([os.path.relpath(path, root), path])


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root, ours, theirs = (os.path.join(scratch, name) for name in ("photos", "m.parquet", "m.csv"))
        make(root, count)
        assert [(entry.location, entry.size) for entry in store.list_files(root)] == pathlib_walk(root)

        def run() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                index.main(index.Options(photos=root, output=ours))

        ways = {
            "fahr.store.list_files": lambda: sum(entry.size for entry in store.list_files(root)),
            "pathlib rglob + is_file + stat, sorted": lambda: pathlib_walk(root),
        }
        table("listing", interleave(ways), "fahr.store.list_files", count, "files")
        ways = {
            "jobs/index.py: every rule checked, Parquet": run,
            "pathlib walk to CSV, nothing checked": lambda: pathlib_index(root, theirs),
        }
        table("indexing", interleave(ways), "jobs/index.py: every rule checked, Parquet", count, "files")
        with open(theirs, newline="") as file:
            by_hand = list(csv.reader(file))[1:]
        made = pq.read_table(ours, columns=["photo_id", "uri"])
        assert [list(row.values()) for row in made.to_pylist()] == by_hand


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
