"""Work units: each row exactly once, whatever is killed, grown or changed in between."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
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
        units.commit(unit, part["photo_id"], out, ledger)
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
    ids = pa.array(["a", "b"])
    (unit,) = set(units.assign(ids, np.array([1, 2], dtype=np.uint64), 10))
    with pytest.raises(store.LedgerError):
        units.commit(unit, ids, {"faces": rows(came)}, store.Ledger("toy", 2, 2))
    assert units.done() == set() and not (tmp_path / "faces").exists()


def test_damage_after_the_commit_is_found_and_told_how_to_mend(tmp_path):
    (unit,) = run(str(tmp_path), rows(["a", "b"]))
    file = tmp_path / "faces" / f"{unit}.parquet"
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


def test_shards_have_bounded_groups_and_only_a_complete_set_is_read(folder):
    blob = os.urandom(1000)
    tables = [pa.table({"n": list(range(i, i + 50)), "face": [blob] * 50}) for i in range(0, 1000, 50)]
    shards = store.write_shards(
        folder, iter(tables), tables[0].schema, shard_bytes=300_000, row_group_bytes=60_000, metadata={"made": "here"}
    )
    assert len(shards) > 1 or sum(each.size for each in shards) < 300_000
    assert sum(each.rows for each in shards) == 1000
    numbers = [n for table in store.read_shards(folder, columns=["n"]) for n in table["n"].to_pylist()]
    assert numbers == list(range(1000))
    for shard in shards:
        with store.open_input(store.join(folder, shard.name)) as file:
            parquet = pq.ParquetFile(file)
            assert parquet.schema_arrow.metadata[b"made"] == b"here"
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        assert max(sizes) <= 60 and parquet.num_row_groups > 1
    store.delete(store.join(folder, "shards.json"))
    with pytest.raises(store.Missing, match="writing never ended"):
        list(store.read_shards(folder))


def test_an_empty_stream_is_one_shard_without_rows(tmp_path):
    schema = pa.schema([("n", pa.int64())])
    assert [each.rows for each in store.write_shards(str(tmp_path), iter([]), schema)] == [0]
    assert (
        list(store.read_shards(str(tmp_path))) == [] or sum(t.num_rows for t in store.read_shards(str(tmp_path))) == 0
    )


def test_a_rotted_page_is_found_while_reading(tmp_path):
    table = pa.table({"n": np.random.default_rng(0).integers(0, 1 << 60, 20_000)})
    store.write_shards(str(tmp_path), iter([table]), table.schema)
    file = tmp_path / "part-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(store.Corrupt, match="damaged"):
        list(store.read_shards(str(tmp_path)))
