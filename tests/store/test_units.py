"""Work units: each row exactly once, whatever is killed, grown or changed in between."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fahr import store
from fahr.errors import Refused

TOY = Path(__file__).parents[1] / "tools" / "toy_stage.py"


def rows(ids: list[str], extra: int = 0) -> pa.Table:
    return pa.table({"photo_id": pa.array(ids, pa.string()), "extra": [extra] * len(ids)})


def run(folder: str, table: pa.Table, size: int = 10, stop_after: int | None = None, **purpose: object) -> list[str]:
    """A toy stage: ids that end in 7 are rejected. Returns the units it did."""
    units = store.WorkUnits(folder, {"detector": "mtcnn", **purpose}, stage="toy")
    assigned = np.array(units.assign(table["photo_id"], store.row_digests(table), size))
    todo = sorted(set(assigned) - units.done())[:stop_after]
    for unit in todo:
        part = table.filter(pa.array(assigned == unit))
        bad = pa.array([each.endswith("7") for each in part["photo_id"].to_pylist()])
        good = pa.compute.invert(bad)
        out = {"faces": part.filter(good), "rejects": part.filter(bad)}
        counts = {"no_face": out["rejects"].num_rows} if out["rejects"].num_rows else {}
        ledger = store.Ledger("toy", part.num_rows, out["faces"].num_rows, counts)
        units.commit(unit, part, out, ledger)
    return todo


def read(folder: str) -> Counter[str]:
    return Counter(
        each
        for kind in ("faces", "rejects")
        for t in store.read_units(folder, kind)
        for each in t["photo_id"].to_pylist()
    )


def test_every_row_comes_out_once_and_the_ledger_balances(folder):
    ids = [f"p{i:03d}" for i in range(95)]
    assert len(run(folder, rows(ids))) == 10
    assert read(folder) == Counter(ids)
    ledger = store.WorkUnits(folder, {"detector": "mtcnn"}, stage="toy").ledger()
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (95, 86, {"no_face": 9})


def test_a_second_run_does_nothing_and_growth_costs_only_what_is_new(folder):
    ids = [f"p{i:03d}" for i in range(0, 60, 2)]
    first = run(folder, rows(ids))
    assert run(folder, rows(ids)) == []
    grown = [f"p{i:03d}" for i in range(60)]  # the new ones lie between the old ones
    second = run(folder, rows(grown))
    assert len(second) == 3 and not set(first) & set(second)
    assert read(folder) == Counter(grown)


@settings(max_examples=25)
@given(st.data())
def test_any_sequence_of_growth_and_stops_ends_with_each_row_once(tmp_path_factory, data):
    folder = str(tmp_path_factory.mktemp("units"))
    ids: list[str] = []
    for _ in range(data.draw(st.integers(1, 4))):
        new = data.draw(st.lists(st.text("ab/é7", max_size=5), max_size=12))
        ids = list(dict.fromkeys([*ids, *new]))
        random.Random(0).shuffle(ids)
        run(folder, rows(ids), size=data.draw(st.integers(1, 7)), stop_after=data.draw(st.integers(0, 3)))
        assert all(count == 1 for count in read(folder).values())
    run(folder, rows(ids))
    assert read(folder) == Counter(ids)


def test_files_without_a_marker_are_not_read_and_are_made_again(folder):
    ids = [f"p{i}" for i in range(8)]
    (unit,) = run(folder, rows(ids))
    store.delete(store.join(folder, "units", "done", f"{unit}.json"))
    assert read(folder) == Counter()
    assert run(folder, rows(ids)) == [unit]
    assert read(folder) == Counter(ids)


def test_other_settings_changed_rows_and_vanished_rows_are_refused(folder):
    run(folder, rows(["a", "b", "c"]))
    with pytest.raises(Refused, match=r"detector: 'mtcnn' before, 'yunet' now.*--output"):
        run(folder, rows(["a", "b", "c"]), detector="yunet")
    with pytest.raises(Refused, match="3 rows of the input changed"):
        run(folder, rows(["a", "b", "c"], extra=1))
    with pytest.raises(Refused, match="1 rows that the input no longer has.*'b'"):
        run(folder, rows(["a", "c"]))
    with pytest.raises(Refused, match="unique"):
        run(folder, rows(["a", "a", "b", "c"]))


@pytest.mark.parametrize("came", [["a"], ["a", "b", "b"], ["a", "c"], ["a", "b", "c"], []])
def test_a_unit_that_loses_doubles_or_invents_a_row_is_never_committed(tmp_path, came):
    units = store.WorkUnits(str(tmp_path), {}, stage="toy")
    table = rows(["a", "b"])
    (unit,) = set(units.assign(table["photo_id"], store.row_digests(table), 10))
    with pytest.raises(store.LedgerError):
        units.commit(unit, table, {"faces": rows(came)}, store.Ledger("toy", 2, 2))
    assert units.done() == set() and not (tmp_path / "faces").exists()


@pytest.mark.parametrize("given_", [["a"], ["a", "a"], ["a", "c"], []])
def test_a_unit_is_committed_only_with_the_rows_of_its_plan(tmp_path, given_):
    units = store.WorkUnits(str(tmp_path), {}, stage="toy")
    table = rows(["a", "b"])
    (unit,) = set(units.assign(table["photo_id"], store.row_digests(table), 10))
    with pytest.raises(store.LedgerError, match="not those of unit"):
        units.commit(unit, rows(given_), {"faces": rows(given_)}, store.Ledger("toy", len(given_), len(given_)))
    with pytest.raises(store.LedgerError, match="not those of unit"):
        units.commit("0" * 16, table, {"faces": table}, store.Ledger("toy", 2, 2))
    assert units.done() == set()


def test_two_that_do_the_same_unit_at_once_leave_the_winners_files(folder):
    """Their results differ in the last digit, as on two kinds of processors."""
    units = store.WorkUnits(folder, {}, stage="toy")
    table = rows(["a", "b"])
    (unit,) = set(units.assign(table["photo_id"], store.row_digests(table), 10))
    made = [table.append_column("score", pa.array([1.0, 2.0 + noise])) for noise in (0.0, 1e-7)]
    first = units.commit(unit, table, {"faces": made[0]}, store.Ledger("toy", 2, 2))
    second = units.commit(unit, table, {"faces": made[1]}, store.Ledger("toy", 2, 2))
    assert second.files == first.files
    assert [t["score"].to_pylist() for t in store.read_units(folder, "faces")] == [[1.0, 2.0]]
    assert len(list(store.list_files(store.join(folder, "faces")))) == 1


def test_files_that_no_marker_names_are_swept_once_their_unit_is_done(folder):
    table = rows(["a", "b"])
    (unit,) = run(folder, table)
    units = store.WorkUnits(folder, {"detector": "mtcnn"}, stage="toy")
    for stray in (f"{unit}-00000000.parquet", "ffffffffffffffff-00000000.parquet"):
        store.write_bytes(store.join(folder, "faces", stray), b"x")
    assert units.sweep() == 1
    left = {store.name(entry.location) for entry in store.list_files(store.join(folder, "faces"))}
    assert "ffffffffffffffff-00000000.parquet" in left and f"{unit}-00000000.parquet" not in left
    assert read(folder) == Counter("ab")


def test_damage_after_the_commit_is_found_and_told_how_to_mend(tmp_path):
    run(str(tmp_path), rows(["a", "b"]))
    (file,) = (tmp_path / "faces").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(store.Corrupt, match=r"Delete .*done/.*json and run the stage again"):
        list(store.read_units(str(tmp_path), "faces"))


def test_two_runs_that_plan_at_once_never_put_a_row_into_two_units(tmp_path, monkeypatch):
    """Between one run's reading of the plans and its writing, another run plans overlapping rows."""
    folder = str(tmp_path)
    plain = store.WorkUnits._add_plan
    raced = []

    def racing(self, number, ids, digests, new, size):
        if not raced:
            raced.append(True)
            run(folder, rows(["b", "c", "d"]), size=2)
        return plain(self, number, ids, digests, new, size)

    monkeypatch.setattr(store.WorkUnits, "_add_plan", racing)
    run(folder, rows(["a", "b", "c", "d", "e"]), size=2)
    assert read(folder) == Counter("abcde")


def test_row_digests_tell_rows_columns_and_nulls_apart():
    table = pa.table(
        {"a": ["x", "x", None, "", "xy"], "b": ["y", "z", "y", "y", ""], "c": [[1.0], [1.0], None, [2.0], []]}
    )
    digests = store.row_digests(table)
    assert len(set(digests.tolist())) == 5
    assert (store.row_digests(table.select(["c", "b", "a"])) == digests).all()
    assert (store.row_digests(table.rename_columns(["a", "b", "d"])) != digests).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": [None]}, {"a": ["\0"]}),
        ({"a": [None]}, {"a": ["~"]}),
        ({"a": ["x\x1fy"], "b": ["z"]}, {"a": ["x"], "b": ["y\x1fz"]}),
        ({"a": ["1:x"], "b": [""]}, {"a": [""], "b": ["1:x"]}),
        ({"a": ["x1:y"], "b": ["z"]}, {"a": ["x"], "b": ["y1:z"]}),
        ({"a\x1fb": ["x"], "c": ["y"]}, {"a": ["x"], "b\x1fc": ["y"]}),
    ],
)
def test_row_digests_cannot_be_made_equal_by_clever_cells(one, other):
    texts = [pa.table({name: pa.array(cells, pa.string()) for name, cells in each.items()}) for each in (one, other)]
    assert store.row_digests(texts[0])[0] != store.row_digests(texts[1])[0]


def test_row_digests_take_every_type_that_passes_through_a_manifest():
    cells = {
        "bytes": pa.array([b"\xff", b"\xfe"]),
        "struct": pa.array([{"day": date(2020, 1, 1)}, {"day": date(2020, 1, 2)}]),
        "map": pa.array([[("k", 1)], [("k", 2)]], pa.map_(pa.string(), pa.int64())),
        "lists": pa.array([[b"x"], [b"y"]]),
        "large": pa.array(["x", "y"], pa.large_string()),
        "when": pa.array([datetime(2020, 1, 1), datetime(2020, 1, 2)]),
        "coded": pa.array(["x", "y"]).dictionary_encode(),
    }
    for name, column in cells.items():
        first, second = store.row_digests(pa.table({name: column}))
        assert first != second, name


def test_a_run_killed_again_and_again_loses_and_doubles_nothing(tmp_path):
    kill_rounds(str(tmp_path), rounds=2, seed=0)


@pytest.mark.faults
@pytest.mark.parametrize("where", ["local", "s3"])
def test_killed_three_times_the_next_run_completes_each_row_once(where, tmp_path, request):
    folder = str(tmp_path) if where == "local" else request.getfixturevalue("bucket") + "/units"
    kill_rounds(folder, rounds=3, seed=1)


@pytest.mark.evidence
@pytest.mark.parametrize("where", ["local", "s3"])
def test_killed_twenty_times_the_next_run_completes_each_row_once(where, tmp_path, request):
    folder = str(tmp_path) if where == "local" else request.getfixturevalue("bucket") + "/units"
    kill_rounds(folder, rounds=20, seed=2)


def kill_rounds(folder: str, rounds: int, seed: int) -> None:
    """Kill -9 a run after a random number of its output lines, `rounds` times, then let it end and count."""
    draw = random.Random(seed)
    done: set[str] = set()
    for _ in range(rounds):
        child = subprocess.Popen([sys.executable, str(TOY), folder, "400", "4"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(draw.randint(1, 12)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        now = {unit.name for unit in store.committed(folder)} if _started(folder) else set()
        assert done <= now
        done = now
    last = subprocess.run([sys.executable, str(TOY), folder, "400", "4"], capture_output=True, text=True, check=True)
    did = {line.split()[1] for line in last.stdout.splitlines() if line.startswith("commit")}
    assert not did & done, "a finished unit was done again"
    assert read(folder) == Counter(f"p{i:05d}" for i in range(400))
    assert "toy: rows_in 400 = rows_out 360 + no_face 40" in last.stdout


def _started(folder: str) -> bool:
    return store.is_s3(folder) or os.path.isdir(folder)


def blobs(start: int, count: int) -> pa.Table:
    return pa.table({"n": list(range(start, start + count)), "face": [os.urandom(1000) for _ in range(count)]})


@pytest.mark.parametrize(("shard_bytes", "group_bytes"), [(300_000, 60_000), (60_000, 60_000), (1, 1), (10**9, 60_000)])
def test_shards_hold_every_row_whatever_their_size(tmp_path, shard_bytes, group_bytes):
    tables = [blobs(start, 50) for start in range(0, 1000, 50)]
    shards = store.write_shards(
        str(tmp_path), iter(tables), tables[0].schema, shard_bytes=shard_bytes, row_group_bytes=group_bytes
    )
    assert sum(each.rows for each in shards) == 1000
    assert len(shards) >= {300_000: 3, 60_000: 10, 1: 1000, 10**9: 1}[shard_bytes]
    assert [n for table in store.read_shards(str(tmp_path)) for n in table["n"].to_pylist()] == list(range(1000))


def test_shards_have_bounded_groups_and_only_a_complete_set_is_read(folder):
    tables = [blobs(start, 50) for start in range(0, 300, 50)]
    shards = store.write_shards(
        folder, iter(tables), tables[0].schema, shard_bytes=100_000, row_group_bytes=30_000, metadata={"made": "here"}
    )
    numbers = [n for table in store.read_shards(folder, columns=["n"]) for n in table["n"].to_pylist()]
    assert numbers == list(range(300))
    for shard in shards:
        with store.open_input(store.join(folder, shard.name)) as file:
            parquet = pq.ParquetFile(file)
            assert parquet.schema_arrow.metadata[b"made"] == b"here"
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        assert max(sizes) <= 30
    store.delete(store.join(folder, "shards.json"))
    with pytest.raises(store.Missing, match="writing never ended"):
        list(store.read_shards(folder))


def test_a_rewrite_of_shards_that_dies_leaves_no_set_that_looks_complete(tmp_path):
    first = [blobs(start, 50) for start in range(0, 300, 50)]
    store.write_shards(str(tmp_path), iter(first), first[0].schema, shard_bytes=60_000, row_group_bytes=60_000)

    def dying():
        yield from first[:3]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write_shards(str(tmp_path), dying(), first[0].schema, shard_bytes=60_000, row_group_bytes=60_000)
    with pytest.raises(store.Missing, match="writing never ended"):
        list(store.read_shards(str(tmp_path)))


def test_an_empty_stream_is_one_shard_without_rows(tmp_path):
    schema = pa.schema([("n", pa.int64())])
    assert [each.rows for each in store.write_shards(str(tmp_path), iter([]), schema)] == [0]
    assert sum(table.num_rows for table in store.read_shards(str(tmp_path))) == 0


def test_a_rotted_page_is_found_while_reading(tmp_path):
    table = pa.table({"n": np.random.default_rng(0).integers(0, 1 << 60, 20_000)})
    store.write_shards(str(tmp_path), iter([table]), table.schema)
    file = tmp_path / "part-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(store.Corrupt, match="damaged"):
        list(store.read_shards(str(tmp_path)))
