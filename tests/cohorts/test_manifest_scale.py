"""Any manifest survives being written and read, in any order and chunks; a large one in bounded memory."""

import json
import os
import random
import subprocess
import sys
import time
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fahr.cohorts import iter_manifest, read_manifest, split_of, write_manifest
from fahr.cohorts.schema import CANONICAL
from tools.manifests import refused, save

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
WORD = TEXT.map(lambda text: text + "x")  # no number, so that a CSV keeps it text
DAY = st.dates(date(1935, 1, 1), date(2020, 12, 31))


@st.composite
def people(draw):
    """Sound rows as a table, in Parquet's types."""
    num = draw(st.integers(1, 12))
    rows = []
    for number in range(num):
        born, taken = sorted((draw(DAY), draw(DAY)))
        outcome = draw(st.booleans())
        follow_up = draw(st.floats(1, 1e5))
        subject = draw(WORD)
        rows.append(
            {
                "photo_id": f"{number} {draw(TEXT)}",
                "uri": draw(WORD),
                "subject_id": subject,
                "taken_on": draw(st.sampled_from([taken, None])),
                "birth_date": draw(st.sampled_from([born, None])),
                "age": draw(st.none() | st.just((taken - born).days / 365.25)),
                "sex": draw(st.none() | TEXT),
                "site": draw(st.none() | TEXT),
                "split": draw(st.sampled_from([None, split_of(subject)])),
                "follow_up_days": follow_up if outcome else None,
                "entry_days": draw(st.sampled_from([None, 0.0, follow_up / 2])) if outcome else None,
                "event": draw(st.integers(0, 1)) if outcome else None,
                "landmarks": draw(st.none() | st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=10)),
                'note \u00e9, "q"\n': draw(WORD),
                "dose": draw(st.floats(allow_nan=False)) + 0.0,
                "count": draw(st.integers(-(2**63), 2**63 - 1)),
            }
        )
    kinds = {field.name: field.type for field in CANONICAL} | {"dose": pa.float64(), "count": pa.int64()}
    return pa.table({name: pa.array([r[name] for r in rows], kinds.get(name, pa.string())) for name in rows[0]})


@given(table=people())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_manifest_survives_csv_and_parquet_unchanged(tmp_path, table):
    write_manifest(table, tmp_path / "first.parquet")
    read = read_manifest(tmp_path / "first.parquet")
    for name in ("again.csv", "again.parquet"):
        write_manifest(read, tmp_path / name)
        again = read_manifest(tmp_path / name)
        assert again.schema.equals(read.schema)
        assert again.to_pylist() == read.to_pylist()


@given(table=people(), seed=st.integers(0, 2**32), rows=st.sampled_from([1, 7, 65_536]))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_row_order_and_chunk_size_never_change_a_row(tmp_path, table, seed, rows):
    order = list(range(table.num_rows))
    random.Random(seed).shuffle(order)
    write_manifest(table, tmp_path / "m.csv")
    write_manifest(table.take(order), tmp_path / "n.csv")
    straight = read_manifest(tmp_path / "m.csv")
    pieces = list(iter_manifest(tmp_path / "n.csv", rows=rows))
    assert [piece.num_rows for piece in pieces[:-1]] == [rows] * (len(pieces) - 1)
    assert pa.concat_tables(pieces).to_pylist() == straight.take(order).to_pylist()


def test_a_file_of_many_blocks_reads_as_one_of_few(tmp_path):
    """9 MB: many of the 1 MB blocks, with non-ASCII letters and line breaks that fall across their edges."""
    rows = [{"photo_id": f"\u00e9{n}", "note": "\u6f22\n" * (n % 900)} for n in range(5_000)]
    path = save(tmp_path, rows)
    table = read_manifest(path)
    assert table["note"].to_pylist() == [row["note"] or None for row in rows]
    assert refused(save(tmp_path, [*rows, {"event": "x"}])).problems[0].row == 5_002


# Not getrusage's ru_maxrss: a process that was started by a large one inherits the large one's maximum.
MEASURE = """
import json, re, sys, time
from pathlib import Path
from fahr.cohorts import iter_manifest
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
for _ in iter_manifest(sys.argv[1]): pass          # imports and buffers
before, started = peak(), time.perf_counter()
tables = iter_manifest(sys.argv[2])
checked = time.perf_counter()
rows = sum(table.num_rows for table in tables)
print(json.dumps({"rows": rows, "grown": peak() - before, "peak": peak(), "check_s": checked - started,
                  "read_s": time.perf_counter() - checked}))
"""


def big(path, num):
    """Nine columns; two photos a subject."""
    with open(path, "w", encoding="ascii") as file:
        file.write("photo_id,uri,subject_id,taken_on,birth_date,sex,follow_up_days,event,bmi\n")
        for n in range(num):
            s = n // 2
            file.write(
                f"P{n:08d},photos/{n % 1000:03d}/P{n:08d}.jpg,S{s:08d},"
                f"20{10 + s % 10}-{1 + s % 12:02d}-{1 + n % 28:02d},"
                f"19{40 + s % 40}-{1 + s % 12:02d}-{1 + s % 28:02d},{'FM'[s % 2]},{n * 7919 % 5000},{s % 3 // 2},"
                f"{20 + n % 200 / 10}\n"
            )
    return str(path)


def measure(warm, path):
    # An allocator that keeps what was freed would be measured instead of what is held.
    plain = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    line = [sys.executable, "-c", MEASURE, warm, path]
    run = subprocess.run(line, check=True, capture_output=True, text=True, env=plain)
    return json.loads(run.stdout)


def test_memory_is_bounded_and_grows_by_less_than_64_bytes_a_row(tmp_path):
    small, large = big(tmp_path / "small.csv", 300_000), big(tmp_path / "large.csv", 1_300_000)
    grown = measure(small, large)
    assert grown["rows"] == 1_300_000
    assert grown["grown"] > 1_000_000, "the measure must see the hashes that are kept: it would be of another process"
    assert grown["grown"] < 64 * 1_000_000, f"{grown['grown'] / 2**20:.1f} MiB more for a million rows more"
    assert grown["peak"] < 512 << 20


def test_progress_is_told_when_checking_takes_long_and_never_when_it_does_not(tmp_path, monkeypatch, capfd):
    read_manifest(save(tmp_path, [{}] * 5))
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("fahr.progress.QUIET_S", 0)
    read_manifest(save(tmp_path, [{}] * 5))
    assert "checking the manifest: 100%" in capfd.readouterr().err


@pytest.mark.evidence
@pytest.mark.timeout(900)
def test_ten_million_rows_are_checked_at_300_000_rows_a_second(tmp_path):
    started = time.perf_counter()
    path = big(tmp_path / "ten_million.csv", 10_000_000)
    print(f"\nwritten in {time.perf_counter() - started:.0f} s")
    run = measure(big(tmp_path / "small.csv", 100_000), path)
    print(
        f"10 M rows: checked in {run['check_s']:.1f} s ({run['rows'] / run['check_s']:,.0f} rows/s), "
        f"read in {run['read_s']:.1f} s, peak {run['peak'] / 2**20:,.0f} MiB, {run['grown'] / 1e7:.0f} bytes a row"
    )
    assert run["rows"] == 10_000_000 and run["check_s"] < 120 and run["grown"] < 40 * 10_000_000
