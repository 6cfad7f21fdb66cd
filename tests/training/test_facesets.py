"""What jobs/align.py left, as rows to train on: every face once, none that is not one, a clear refusal otherwise."""

import datetime
import hashlib
import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fahr import images, store
from fahr.errors import Refused
from fahr.faces.rows import encode
from fahr.training.facesets import BadFace, FaceSet, data_digest, open_faces
from tools.faces import commit_faces, jpegs, people, pictures

COUNT = 35
TRUNCATED = encode(pictures(1)[0], "jpeg")[:-200]


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    return jpegs(pictures(COUNT))


def which(faces: FaceSet) -> list[int]:
    """The numbers that the photos were made under."""
    return [int(photo[1:]) for photo in faces.table["photo_id"].to_pylist()]


@pytest.mark.parametrize("packed", [False, True])
def test_every_face_comes_once_as_it_was_written(folder, tmp_path, encoded, packed):
    commit_faces(folder, encoded)
    faces = open_faces(folder, cache=str(tmp_path / "cache"), packed=packed)
    assert (faces.num_rows, faces.size, faces.convention, faces.detectors) == (COUNT, 32, "arcface112", ("mtcnn",))
    assert sorted(which(faces)) == list(range(COUNT))
    rows = np.arange(COUNT)
    assert faces.encoded(rows) == [encoded[number] for number in which(faces)]
    wanted = np.stack([images.decode(encoded[number]).pixels for number in which(faces)])
    assert np.array_equal(faces.pixels(rows), wanted)
    picked = np.array([7, 0, 34, 7])
    assert np.array_equal(faces.pixels(picked), wanted[picked])
    out = np.zeros((4, 32, 32, 3), np.uint8)
    assert faces.pixels(picked, out) is out and np.array_equal(out, wanted[picked])
    assert faces.pixels(np.empty(0, int)).shape == (0, 32, 32, 3)
    for beyond in ([-1], [COUNT]):
        with pytest.raises(IndexError):
            faces.pixels(beyond)


def test_the_quick_way_to_decode_gives_what_the_one_decoder_gives(tmp_path):
    """Rendered people, black and white corners, grey, PNG."""
    dark = people(1)[0].copy()
    dark[90:, 90:] = 0
    odd = [dark, 255 - dark, np.zeros_like(dark), np.repeat(dark[:, :, :1], 3, 2)]
    grey = cv2.imencode(".jpg", dark[:, :, 1])[1].tobytes()
    made = [*jpegs([*people(6), *odd]), grey, encode(dark, "png")]
    commit_faces(str(tmp_path / "made"), made)
    faces = open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))
    for row, number in enumerate(which(faces)):
        assert np.array_equal(faces.pixels([row])[0], images.decode(made[number]).pixels), number


def test_labels_are_those_of_the_photo(tmp_path, encoded):
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(n) for n in range(COUNT)]
    commit_faces(
        str(tmp_path / "made"),
        encoded,
        sex=[("f", "m", None)[n % 3] for n in range(COUNT)],
        event=pa.array([n % 2 if n % 5 else None for n in range(COUNT)], pa.int8()),
        taken_on=pa.array(days, pa.date32()),
        smoker=[n % 2 == 0 for n in range(COUNT)],
    )
    columns = ["age", "sex", "event", "taken_on", "smoker", "subject_id"]
    faces = open_faces(str(tmp_path / "made"), columns, cache=str(tmp_path / "cache"))
    assert faces.table.column_names == ["photo_id", "subject_id", "split", "age", "sex", "event", "taken_on", "smoker"]
    rows = np.array([3, 3, 20, 0])
    labels = faces.labels(rows)
    numbers = np.array(which(faces))[rows]
    assert list(labels) == columns
    assert labels["age"].tolist() == [20.0 + n for n in numbers]
    assert labels["sex"].tolist() == [("f", "m", None)[n % 3] for n in numbers]
    assert np.array_equal(labels["event"], [n % 2 if n % 5 else np.nan for n in numbers], equal_nan=True)
    assert labels["taken_on"].tolist() == [days[n] for n in numbers]
    assert labels["smoker"].tolist() == [n % 2 == 0 for n in numbers]
    assert labels["subject_id"].tolist() == [f"s{n // 2:05d}" for n in numbers]


@pytest.mark.parametrize("packed", [False, True])
def test_where_chooses_rows_and_nothing_else_moves(tmp_path, encoded, packed):
    commit_faces(str(tmp_path / "made"), encoded)
    every = open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))
    train = pc.field("split") == "train"
    faces = open_faces(str(tmp_path / "made"), ["age"], train, cache=str(tmp_path / "cache"), packed=packed)
    assert which(faces) == [number for number in which(every) if number % 4 < 2]
    assert set(faces.table["split"].to_pylist()) == {"train"}
    rows = np.arange(faces.num_rows)
    assert faces.encoded(rows) == [encoded[number] for number in which(faces)]
    there = [which(every).index(number) for number in which(faces)]
    assert np.array_equal(faces.pixels(rows), every.pixels(there))
    assert faces.labels(rows)["age"].tolist() == [20.0 + number for number in which(faces)]
    others = open_faces(str(tmp_path / "made"), where=pc.field("split") == "test", cache=str(tmp_path / "cache"))
    again = open_faces(str(tmp_path / "made"), where=train, cache=str(tmp_path / "cache"))
    assert len({every.digest, faces.digest, others.digest}) == 3 and again.digest == faces.digest


def test_the_digest_tells_data_apart_and_knows_it_again(tmp_path, encoded):
    def digest(name: str, made: list[bytes]) -> str:
        commit_faces(str(tmp_path / name), made)
        return open_faces(str(tmp_path / name), cache=str(tmp_path / "cache")).digest

    other = [*encoded[:-1], encode(255 - pictures(COUNT)[-1], "jpeg")]
    assert digest("one", encoded) == digest("copy", encoded)
    assert len({digest("one", encoded), digest("other", other), digest("fewer", encoded[:-1])}) == 3


def test_the_digest_of_the_data_is_told_from_markers_alone(folder, tmp_path, encoded):
    """Before a cluster is asked for anything, and by a process that copies nothing."""
    commit_faces(folder, encoded)
    opened = open_faces(folder, cache=str(tmp_path / "cache")).digest
    shards = [each.location for each in store.list_files(store.join(folder, "faces"))]
    for shard in shards:
        store.delete(shard)
    assert len(shards) > 1 and data_digest(folder) == opened
    commit_faces(str(tmp_path / "fewer"), encoded[:-1])
    assert data_digest(str(tmp_path / "fewer")) != opened
    train = open_faces(str(tmp_path / "fewer"), where=pc.field("split") == "train", cache=str(tmp_path / "cache"))
    assert data_digest(str(tmp_path / "fewer")) != train.digest  # which rows are asked for is another matter


def test_a_folder_without_a_face_has_no_digest(tmp_path, encoded):
    with pytest.raises(Refused, match=r"holds no face \(0 finished units\)"):
        data_digest(str(tmp_path / "nothing"))
    commit_faces(str(tmp_path / "made"), encoded)
    with pytest.raises(Refused, match=f"holds no face.*or name {tmp_path / 'made'}"):
        data_digest(str(tmp_path / "made" / "faces"))


def test_optional_columns_come_where_they_are_there(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded, sex=["f"] * COUNT, race=pa.nulls(COUNT))
    settings = {"cache": str(tmp_path / "cache"), "optional": ["sex", "height", "age", "sex", "race", "subject_id"]}
    faces = open_faces(str(tmp_path / "made"), ["age"], **settings)
    labels = faces.labels([0, 1])
    assert list(labels) == ["age", "sex", "race", "subject_id"]
    assert labels["sex"].tolist() == ["f", "f"] and all(each is None or each != each for each in labels["race"])
    assert faces.table.column_names == ["photo_id", "subject_id", "split", "age", "sex", "race"]
    assert faces.digest == open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache")).digest
    assert open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"), optional=["height"]).labels([0]) == {}
    with pytest.raises(Refused, match="no column 'height' to learn from"):
        open_faces(str(tmp_path / "made"), ["height"], **settings)


# The local copy


def test_shards_are_read_once_and_never_again(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded)
    first = open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"), packed=True)
    for shard in (tmp_path / "made" / "faces").iterdir():
        shard.unlink()
    again = open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"), packed=True)
    assert np.array_equal(first.pixels(range(COUNT)), again.pixels(range(COUNT)))
    with pytest.raises(store.Missing):
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "elsewhere"))


def test_data_that_grew_gets_a_copy_of_its_own(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded[:20])
    assert open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache")).num_rows == 20
    commit_faces(str(tmp_path / "made"), encoded)
    assert sorted(which(open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache")))) == list(range(COUNT))


@pytest.mark.parametrize("kind", ["arrow", "u8"])
def test_a_copy_that_was_cut_short_is_told_and_made_anew(tmp_path, encoded, kind):
    commit_faces(str(tmp_path / "made"), encoded)
    whole = open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"), packed=True).pixels(range(COUNT))
    (made,) = (tmp_path / "cache").glob(f"*.{kind}")
    size = made.stat().st_size
    made.write_bytes(made.read_bytes()[: size // 2])
    with pytest.warns(UserWarning, match=f"has {size // 2:,} bytes instead of {size:,}"):
        again = open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"), packed=True)
    assert np.array_equal(again.pixels(range(COUNT)), whole)


OPEN = """
import sys, time
from fahr.training import facesets
real = facesets._sizes
def slow(table):
    print("unit", flush=True)
    time.sleep(float(sys.argv[3]))
    return real(table)
facesets._sizes = slow
faces = facesets.open_faces(sys.argv[1], cache=sys.argv[2])
print("open", faces.num_rows, flush=True)
"""


def opening(made: Path, cache: Path, pause: float) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", OPEN, str(made), str(cache), str(pause)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def test_killed_while_copying_it_leaves_nothing_that_is_read(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded)
    cache = tmp_path / "cache"
    first = opening(tmp_path / "made", cache, 60)
    assert first.stdout is not None and first.stdout.readline() == "unit\n"
    first.kill()
    first.communicate()
    assert [each for each in cache.iterdir() if each.name.endswith(".part")]
    assert not [each for each in cache.iterdir() if each.suffix in (".arrow", ".json")]
    faces = open_faces(str(tmp_path / "made"), cache=str(cache))
    assert faces.encoded(range(COUNT)) == [encoded[number] for number in which(faces)]
    assert not [each for each in cache.iterdir() if each.name.endswith(".part")]


def test_of_processes_that_open_together_one_copies_and_the_others_wait(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded)
    both = [opening(tmp_path / "made", tmp_path / "cache", 0.2) for _ in range(2)]
    said = [each.communicate(timeout=60)[0].split("\n") for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert sorted(lines.count("unit") for lines in said) == [0, 4]
    assert all(f"open {COUNT}" in lines for lines in said)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded)
    for marker in (tmp_path / "made" / "units" / "done").iterdir():
        told = json.loads(marker.read_bytes())
        told["files"]["faces"]["bytes"] = 10**17
        marker.write_text(json.dumps(told))
    with pytest.raises(Refused, match=r"400,000,000\.00 GB are needed .* another disk"):
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))
    assert not [each for each in (tmp_path / "cache").iterdir() if not each.name.endswith(".lock")]


@pytest.mark.parametrize("kind", ["arrow", "u8"])
def test_a_disk_that_fills_up_is_a_refusal_and_leaves_no_half_copy(tmp_path, kind):
    """The process's own limit on a file's size stands in for the end of the disk: the same failure, while writing."""
    commit_faces(str(tmp_path / "made"), jpegs(people(40)))
    if kind == "u8":
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if kind == "arrow" else 1_000_000, before[1]))
    try:
        with pytest.raises(Refused, match="GB are needed .* another disk"):
            open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"), packed=kind == "u8")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [each for each in (tmp_path / "cache").iterdir() if kind in each.suffix or ".part" in each.name]


def test_a_cache_is_on_a_local_disk(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded)
    with pytest.raises(Refused, match="local"):
        open_faces(str(tmp_path / "made"), cache="s3://bucket/cache")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(Refused, match="cannot hold a cache"):
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "taken"))


def test_a_copy_does_not_hold_the_faces_in_memory(tmp_path):
    """Opening 60 MB of faces takes less than 20 MB of the process's own memory."""
    big = [*jpegs(pictures(1, 400)), *[os.urandom(200_000) for _ in range(299)]]
    commit_faces(str(tmp_path / "made"), big, rows_per_unit=20)
    code = f"""
        from fahr.training.facesets import open_faces
        import re
        def own():
            return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
        open_faces({str(tmp_path / "made")!r}, cache={str(tmp_path / "cache")!r})
        before = own()
        faces = open_faces({str(tmp_path / "made")!r}, cache={str(tmp_path / "cache")!r})
        assert sum(len(faces.encoded([row])[0]) for row in range(faces.num_rows)) > 59e6
        print(own() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20


# Faces that are none


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (TRUNCATED, "truncated"),
        (TRUNCATED + b"\xff\xd9", "truncated"),
        (b"", "image"),
        (b"no picture", "image"),
        (None, "image"),
        (encode(pictures(1, 48)[0], "jpeg"), "it has 48 x 48 pixels, the others 32 x 32"),
        (encode(pictures(1)[0], "png")[:-30], "truncated"),
    ],
    ids=["cut", "end mark glued on", "empty", "text", "null", "other size", "png cut"],
)
def test_a_bad_face_is_named_and_the_others_are_good(tmp_path, encoded, packed, bad, why):
    commit_faces(str(tmp_path / "made"), [*encoded[:13], bad, *encoded[14:]], rows_per_unit=100)
    faces = open_faces(str(tmp_path / "made"), where=pc.field("age") > 22, cache=str(tmp_path / "cache"), packed=packed)
    row = which(faces).index(13)
    with pytest.raises(BadFace, match=why) as caught:
        faces.pixels([0, row, 1])
    assert (caught.value.row, caught.value.photo_id) == (row, "p00013")
    good = [each for each in range(faces.num_rows) if each != row]
    wanted = [images.decode(encoded[which(faces)[each]]).pixels for each in good]
    assert np.array_equal(faces.pixels(good), wanted)


# Refusals


def test_no_faces_are_refused_with_where_to_look(tmp_path, encoded):
    for empty in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(Refused, match=r"holds no face \(0 finished units\)"):
            open_faces(str(empty), cache=str(tmp_path / "cache"))
    commit_faces(str(tmp_path / "made"), encoded)
    with pytest.raises(Refused, match=f"or name {tmp_path}/made"):
        open_faces(str(tmp_path / "made" / "faces"), cache=str(tmp_path / "cache"))
    with pytest.raises(Refused, match=r"of 35 faces, none where"):
        open_faces(str(tmp_path / "made"), where=pc.field("age") > 200, cache=str(tmp_path / "cache"))


def test_photos_that_were_all_rejected_are_no_faces(tmp_path):
    rows = pa.table({"photo_id": ["a", "b"]})
    units = store.WorkUnits(str(tmp_path / "made"), {}, stage="align")
    (unit,) = set(units.assign(rows["photo_id"], store.row_digests(rows), 10))
    units.commit(unit, rows, {"faces": rows.slice(0, 0), "rejects": rows}, store.Ledger("align", 2, 0, {"no_face": 2}))
    with pytest.raises(Refused, match=r"holds no face \(1 finished units\).*ledger.json says why"):
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))


def test_mixed_sizes_and_conventions_are_refused_with_a_photo_of_each(tmp_path, encoded):
    commit_faces(str(tmp_path / "sizes"), [*encoded[:10], *jpegs(pictures(10, 48))])
    with pytest.raises(Refused, match=r"several sizes .*: 32 \(photo 'p\d+'\), 48 \(photo 'p\d+'\)"):
        open_faces(str(tmp_path / "sizes"), cache=str(tmp_path / "cache"))
    conventions = ["arcface112"] * 20 + ["faceage160"] * 15
    commit_faces(str(tmp_path / "cuts"), encoded, convention=conventions)
    with pytest.raises(Refused, match=r"several conventions: arcface112 \(photo .*faceage160 .*same settings"):
        open_faces(str(tmp_path / "cuts"), cache=str(tmp_path / "cache"))
    commit_faces(str(tmp_path / "bad"), [b"x"] * 3)
    with pytest.raises(Refused, match="none of its 3 faces decodes"):
        open_faces(str(tmp_path / "bad"), cache=str(tmp_path / "cache"))


def test_several_detectors_are_told_not_refused(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded, detector=["yunet", "mtcnn", "yunet", "given", "mtcnn"] * 7)
    assert open_faces(str(tmp_path / "made"), cache=str(tmp_path / "c")).detectors == ("given", "mtcnn", "yunet")


def test_columns_that_are_not_there_or_no_labels_are_refused(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded, landmarks=[[1.0, 2.0]] * COUNT)
    for column, why in (
        ("agee", "Did you mean 'age'"),
        ("face", "no column 'face'"),
        ("landmarks", "labels are numbers"),
    ):
        with pytest.raises(Refused, match=why):
            open_faces(str(tmp_path / "made"), [column], cache=str(tmp_path / "cache"))
    with pytest.raises(Refused, match=r"cannot choose faces by .*spilt.*Columns: photo_id"):
        open_faces(str(tmp_path / "made"), where=pc.field("spilt") == "train", cache=str(tmp_path / "cache"))


def test_units_may_lack_a_column_and_may_not_contradict_each_other(tmp_path, encoded):
    """A manifest that grew may have gained a column, or first filled one."""
    commit_faces(str(tmp_path / "made"), encoded[:20], site=pa.nulls(20))
    rewrite(tmp_path / "made", lambda number, table: table.drop_columns("age") if number == 0 else table)
    rewrite(tmp_path / "made", lambda number, table: with_site(table, pa.string()) if number == 1 else table)
    faces = open_faces(str(tmp_path / "made"), ["age", "site"], cache=str(tmp_path / "cache"))
    labels = faces.labels(range(20))
    assert np.isnan(labels["age"]).sum() == 10 and (labels["site"] == "here").sum() == 10
    rewrite(tmp_path / "made", lambda number, table: with_site(table, pa.int64()) if number == 0 else table)
    with pytest.raises(Refused, match=r"disagree about a column .*site.*one run"):
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))


def with_site(table: pa.Table, kind: pa.DataType) -> pa.Table:
    value = "here" if kind == pa.string() else 3
    return table.drop_columns("site").append_column("site", pa.array([value] * table.num_rows, kind))


def rewrite(made: Path, change) -> None:
    """Write each unit's faces anew, and its marker."""
    for number, marker in enumerate(sorted((made / "units" / "done").iterdir())):
        told = json.loads(marker.read_bytes())
        shard = made / "faces" / told["files"]["faces"]["name"]
        pq.write_table(change(number, pq.read_table(shard)), shard)
        told["files"]["faces"]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        marker.write_text(json.dumps(told))


def test_a_shard_that_was_changed_after_it_was_finished_is_refused(tmp_path, encoded):
    commit_faces(str(tmp_path / "made"), encoded)
    shard = sorted((tmp_path / "made" / "faces").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(store.Corrupt, match="not what its marker recorded"):
        open_faces(str(tmp_path / "made"), cache=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("*.arrow"))
