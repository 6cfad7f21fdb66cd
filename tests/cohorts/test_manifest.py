"""A manifest is read exactly, or refused whole with every broken rule: file, row, column, value, rule, remedy."""

import csv
import io
import json
import os
import pickle
import random
import subprocess
import sys
import time
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fahr import store
from fahr.cohorts import (
    ManifestError,
    check_manifest,
    iter_manifest,
    read_manifest,
    repeats,
    split_of,
    write_manifest,
)
from fahr.cohorts.schema import CANONICAL

POINTS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"
SOUND = {
    "photo_id": "p1",
    "uri": "photos/1.jpg",
    "subject_id": "s1",
    "taken_on": "2020-02-29",
    "birth_date": "1960-02-29",
    "age": "60",
    "sex": "F",
    "split": "train",
    "follow_up_days": "100",
    "entry_days": "3",
    "event": "1",
    "landmarks": POINTS,
}


def save(folder, rows, name="people.csv", columns=None):
    """Rows given as what differs from a sound one; photo and subject are numbered unless given."""
    rows = [SOUND | {"photo_id": f"p{n}", "subject_id": f"s{n}"} | row for n, row in enumerate(rows, 1)]
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / name
    path.write_text(text.getvalue(), encoding="utf-8")
    return str(path)


def refused(path, mapping=None):
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, mapping)
    return caught.value


# one broken cell, column blamed, value shown, part of the rule, part of the remedy
BROKEN_CELLS = [
    ({"photo_id": ""}, "photo_id", "empty", "must not be empty", "name of its own"),
    ({"photo_id": "p1"}, "photo_id", "'p1', as in row 2", "must be unique", "Rename one"),
    ({"uri": ""}, "uri", "empty", "must not be empty", "path or s3:// URI"),
    (
        {"uri": "https://x.org/1.jpg"},
        "uri",
        "'https://x.org/1.jpg'",
        "must be a path or an s3:// URI",
        "copy the photo",
    ),
    ({"taken_on": "2021-02-29"}, "taken_on", "'2021-02-29'", "a day that exists", "Correct the cell"),
    ({"taken_on": "03/04/2021"}, "taken_on", "'03/04/2021'", "written YYYY-MM-DD", "`date_format`"),
    ({"taken_on": "20210304"}, "taken_on", "'20210304'", "written YYYY-MM-DD", "`date_format`"),
    (
        {"taken_on": "2099-01-01", "birth_date": ""},
        "taken_on",
        "'2099-01-01'",
        "not lie in the future",
        "Correct the date",
    ),
    (
        {"birth_date": "2020-03-01", "age": ""},
        "birth_date",
        "'2020-03-01', taken_on 2020-02-29",
        "not be after",
        "one of",
    ),
    ({"birth_date": "1850-01-01", "age": ""}, "birth_date", "'1850-01-01'", "an age of at most 122", "one of the two"),
    (
        {"age": "61.5"},
        "age",
        "'61.5', the dates give 60.00",
        "agree with the dates within 1 year",
        "leave the age empty",
    ),
    ({"age": "732"}, "age", "'732'", "from 0 to 122 years", "`age_unit: months`"),
    ({"age": "-1"}, "age", "'-1'", "from 0 to 122 years", "Correct it"),
    ({"age": "nan"}, "age", "'nan'", "a finite number", '`missing: ["nan"]`'),
    ({"age": "inf"}, "age", "'inf'", "a finite number", "Correct the cell"),
    ({"age": "NA"}, "age", "'NA'", "a finite number", '`missing: ["NA"]`'),
    ({"age": "60,5"}, "age", "'60,5'", "a finite number", '`decimal: ","`'),
    ({"age": "sixty"}, "age", "'sixty'", "a finite number", "Correct the cell"),
    ({"split": "valid"}, "split", "'valid'", "one of train, tune, calibrate, test", "empty it for the default"),
    (
        {"subject_id": "s1", "split": "test"},
        "split",
        "'test', subject 's1' is 'train' in row 2",
        "the same in all",
        "Give",
    ),
    (
        {"follow_up_days": "-3", "entry_days": ""},
        "follow_up_days",
        "'-3'",
        "finite number, 0 or more",
        "from the photo",
    ),
    ({"follow_up_days": "1e999"}, "follow_up_days", "'1e999'", "a finite number", "Correct the cell"),
    ({"follow_up_days": ""}, "follow_up_days", "empty", "is needed where event", "an outcome needs both"),
    ({"event": ""}, "event", "empty", "is needed where follow_up_days", "an outcome needs both"),
    ({"event": "2"}, "event", "'2'", "1 (died) or 0 (alive", "dead: 1"),
    ({"event": "dead"}, "event", "'dead'", "1 (died) or 0 (alive", "dead: 1"),
    ({"entry_days": "-1"}, "entry_days", "'-1'", "finite number, 0 or more", "Correct it"),
    ({"entry_days": "100"}, "entry_days", "'100', follow_up_days 100", "less than follow_up_days", "Correct one"),
    ({"follow_up_days": "", "event": ""}, "entry_days", "'3'", "needs follow_up_days", "empty entry_days"),
    ({"landmarks": "1 2 3"}, "landmarks", "'1 2 3'", "10 finite numbers", "JSON list"),
    ({"landmarks": "[1,2,3,4,5,6,7,8,9,NaN]"}, "landmarks", "'[1,2,3", "10 finite numbers", "JSON list"),
    ({"landmarks": "[1,2,3,4,5,6,7,8,9,null]"}, "landmarks", "'[1,2,3", "10 finite numbers", "JSON list"),
    ({"landmarks": "[" * 5000}, "landmarks", "'[[[", "10 finite numbers", "JSON list"),
]


@pytest.mark.parametrize(("cells", "column", "value", "rule", "remedy"), BROKEN_CELLS)
def test_a_broken_cell_is_refused_with_row_column_value_rule_and_remedy(tmp_path, cells, column, value, rule, remedy):
    path = save(tmp_path, [{}, {}, cells, {}])
    error = refused(path)
    assert [(p.row, p.column, p.file) for p in error.problems] == [(4, column, path)]
    told = str(error)
    assert f"{path} row 4: {column} {value}" in told
    assert rule in error.problems[0].rule and remedy in error.problems[0].remedy
    assert f"{column} {error.problems[0].rule}. {error.problems[0].remedy}" in told


HEADERS = [
    ("photo_id,path\np1,a\n", ["uri is required", "columns: {uri: "]),
    ("PhotoID,uri\np1,a\n", ["photo_id is required", "nearest is 'PhotoID'", "columns: {photo_id: PhotoID}"]),
    ("photo_id,uri,sex,sex\np1,a,F,M\n", ["'sex' appears more than once", "Rename"]),
    ("", ["the file is empty", "header row"]),
    ("\n\n", ["the file is empty"]),
    ("\nphoto_id,uri\np1,a\n", ["row 1 is blank"]),
    ("photo_id,uri\n", ["not a single row"]),
    ("photo_id,uri", ["not a single row"]),
    ("just text", ["photo_id is required", "uri is required"]),
    ("photo_id,uri\n\n,\n", ["not a single row"]),
    ("photo_id;uri;age\np1;a;3\n", ["holds no ','", 'separator: ";"']),
    ("photo_id\turi\np1\ta\n", ["holds no ','", 'separator: "\\t"']),
    ("photo_id,uri\np1,a\np2\np3,b,c\n", ["row 3: 'p2', 1 cells", "row 4: 'p3,b,c', 3 cells", "2 cells of the header"]),
    ('photo_id,uri\np1,a\np2,"b\np3,c\n', ["row 3 opens a quote that is never closed", "Close it"]),
    (b"\xef\xbb\xbfphoto_id,uri\np1,a\n", ["byte-order mark of UTF-8", "encoding: utf-8-sig"]),
    ("photo_id,uri\np1,a\n".encode("utf-16"), ["byte-order mark of UTF-16", "encoding: utf-16"]),
    ("photo_id,uri\np1,a\n".encode("utf-16-le"), ["NUL", "encoding: utf-16"]),
    ("photo_id,uri\np1,a\np2,M\u00fcller\n".encode("latin-1"), ["line 3 is not utf-8", "0xfc", "encoding:"]),
    (b"photo_id,uri\np1,a\np2,caf\xc3", ["line 3 is not utf-8"]),
    (b"photo_id,uri\np1,a\np2,b\n\0\0", ["line 4 holds a NUL byte", "Export"]),
]


@pytest.mark.parametrize(("content", "fragments"), HEADERS)
def test_a_file_that_is_no_table_of_ours_is_refused_with_its_cause_and_remedy(tmp_path, content, fragments):
    path = tmp_path / "people.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    told = str(refused(str(path)))
    assert str(path) in told
    assert [fragment for fragment in fragments if fragment not in told] == [], told


def test_missing_misnamed_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    (tmp_path / "fake.parquet").write_bytes(b"photo_id,uri\np1,a\n")
    (tmp_path / "empty").mkdir()
    assert "no such file" in str(refused(str(tmp_path / "nowhere.csv")))
    assert "no such file" in str(refused(str(tmp_path / "nowhere.parquet")))
    assert "not .xlsx" in str(refused(str(tmp_path / "table.xlsx")))
    assert "not a readable Parquet file" in str(refused(str(tmp_path / "fake.parquet")))
    assert "no .parquet file" in str(refused(str(tmp_path / "empty")))


def test_a_manifest_that_breaks_every_rule_gets_one_message_with_all_of_them(tmp_path):
    path = save(tmp_path, [{}, *(cells for cells, *_ in BROKEN_CELLS)])
    with open(path, "a", encoding="utf-8") as file:
        file.write("one cell only\n")
    error = refused(path)
    told = str(error)
    for number, (_, column, _, rule, remedy) in enumerate(BROKEN_CELLS):
        matching = [p for p in error.problems if p.row == number + 3 and p.column == column and rule in p.rule]
        assert matching and remedy in matching[0].remedy, (number, rule)
        assert matching[0].rule in told
    assert "cells of the header" in told
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == told and again.problems == error.problems


def test_twenty_rows_of_a_rule_are_told_and_the_others_counted(tmp_path):
    error = refused(save(tmp_path, [{"event": "7"}] * 1_254))
    assert [p.row for p in error.problems] == list(range(2, 22))
    assert error.total == 1_254
    assert str(error).endswith("and 1,234 more")


def test_repeated_photos_are_counted_exactly_and_hash_collisions_are_not_repeats(tmp_path, monkeypatch):
    rows = [{"photo_id": f"p{n % 1500}", "subject_id": f"s{n}"} for n in range(4_000)]
    assert refused(save(tmp_path, rows)).total == 2_500
    monkeypatch.setattr(repeats, "hash", lambda one: 1 if isinstance(one, str) else 2, raising=False)
    assert read_manifest(save(tmp_path, [{}] * 50)).num_rows == 50
    error = refused(save(tmp_path, [{}] * 50 + [{"photo_id": "p7"}]))
    assert [(p.row, p.value, p.note) for p in error.problems] == [(52, "p7", "as in row 8")]


def test_blank_lines_are_no_records_and_do_not_shift_row_numbers(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("photo_id,uri,event\n\np1,a,\nshort\n\n,,\np2,b,\np3,c,9\n\n\n")
    told = str(refused(str(path)))
    assert "row 4: 'short'" in told and "row 8: event '9'" in told


def test_cells_with_line_breaks_keep_the_row_numbers_of_a_spreadsheet(tmp_path):
    assert refused(save(tmp_path, [{"note": "one\ntwo\nthree"}, {"event": "9"}])).problems[0].row == 3


def test_quotes_inside_cells_and_line_breaks_at_the_end_of_the_file_are_read(tmp_path):
    path = tmp_path / "m.csv"
    for end in ("", "\n", "\n\n", "\r\n", "\n,,\n"):
        path.write_bytes(('photo_id,uri,note\np,a,5" tall\nq,b,"x\ny"' + end).encode())
        assert read_manifest(path)["note"].to_pylist() == ['5" tall', "x\ny"]


def test_absent_columns_are_null_ours_come_first_and_others_pass_through_in_file_order(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "ward,uri,ecog,photo_id,code,dose,price,version,note\nA,x.jpg,1,p1,007,2.5,1.50,1.10,\nB,y.jpg,,p2,12,3,2.25,1.1,z\n"
    )
    table = read_manifest(path)
    assert table.schema.names == [*CANONICAL.names, "ward", "ecog", "code", "dose", "price", "version", "note"]
    assert pa.schema(list(table.schema)[: len(CANONICAL)]).equals(CANONICAL)
    assert [str(table.schema.field(n).type) for n in ("ecog", "code", "dose", "price", "version")] == [
        "int64", "string", "double", "double", "string",
    ]  # fmt: skip
    assert table["code"].to_pylist() == ["007", "12"] and table["ecog"].to_pylist() == [1, None]
    assert table["age"].null_count == 2 and table["entry_days"].to_pylist() == [0.0, 0.0]
    assert table["note"].to_pylist() == [None, "z"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "0"], "int64"),
        (["1", "9223372036854775807"], "int64"),
        (["1", "9223372036854775808"], "string"),
        (["-0"], "string"),
        (["+1"], "string"),
        ([" 1"], "string"),
        (["1.0", "2"], "double"),
        (["0.1", "1e-07", "0.30000000000000004"], "double"),
        (["0.1000", "0.2000"], "double"),
        (["0.10", "0.1"], "string"),
        (["1e3"], "string"),
        (["0.12345678901234567890"], "string"),
        (["1.5", "x"], "string"),
        (["1_0"], "string"),
        (["9007199254740993", "0.5"], "string"),
        (["", ""], "string"),
    ],
)
def test_an_extra_column_becomes_a_number_only_if_no_text_is_lost(tmp_path, cells, kind):
    column = read_manifest(save(tmp_path, [{"x": cell} for cell in cells]))["x"]
    assert str(column.type) == kind
    if kind == "string":
        assert column.to_pylist() == [cell or None for cell in cells]
    else:
        assert column.to_pylist() == [float(cell) if kind == "double" else int(cell) for cell in cells]


def test_uris_are_made_absolute_from_the_folder_of_the_manifest(tmp_path):
    uris = [
        "a/b.jpg",
        "./a//b.jpg",
        "../up.jpg",
        "/data/x.jpg",
        "/data/./x.jpg",
        "s3://b/a//k.jpg",
        "a b:c.jpg",
        "x",
        ".h/y",
    ]
    table = read_manifest(save(tmp_path, [{"uri": uri} for uri in uris]))
    assert table["uri"].to_pylist() == [store.absolute(uri, str(tmp_path)) for uri in uris]
    shards = tmp_path / "shards"
    for number in (2, 1):
        piece = pa.table({"photo_id": [f"p{number}"], "uri": ["x.jpg"]})
        write_manifest(piece, shards / f"{number}.parquet")
    table = read_manifest(shards)
    assert table["photo_id"].to_pylist() == ["p1", "p2"]
    assert table["uri"].to_pylist() == [str(shards / "x.jpg")] * 2


@given(
    uri=st.text(st.sampled_from("ab./~: \n\u00e9s3"), min_size=1, max_size=12)
    | st.builds("s3://b/{}".format, st.text("a/.", min_size=1))
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_uri_is_made_absolute_as_the_store_does_it(tmp_path, uri):
    write_manifest(pa.table({"photo_id": ["p"], "uri": [uri]}), tmp_path / "m.parquet")
    try:
        expected = store.absolute(uri, str(tmp_path))
    except ValueError:
        assert refused(tmp_path / "m.parquet").problems[0].column == "uri"
    else:
        assert read_manifest(tmp_path / "m.parquet")["uri"].to_pylist() == [expected]


def test_ages_are_whole_days_over_365_25_also_on_leap_days(tmp_path):
    rng = random.Random(4)
    days = [date(1900, 2, 28), date(2000, 2, 29), date(2004, 2, 29), date(1999, 12, 31), date(2000, 1, 1)]
    days += [date(1930, 1, 1) + timedelta(rng.randrange(30_000)) for _ in range(60)]
    pairs = [(born, taken) for born in days for taken in days if born <= taken and taken.year - born.year < 121]
    rows = [{"birth_date": str(born), "taken_on": str(taken), "age": ""} for born, taken in pairs]
    ages = read_manifest(save(tmp_path, rows))["age"].to_pylist()
    assert ages == [(taken.toordinal() - born.toordinal()) / 365.25 for born, taken in pairs]


def test_completed_years_agree_with_the_dates_and_the_dates_are_kept(tmp_path):
    born, first = date(1960, 2, 29), date(1990, 1, 1)
    taken = [first + timedelta(days) for days in range(3_000)]
    completed = [t.year - born.year - ((t.month, t.day) < (born.month, born.day)) for t in taken]
    rows = [{"taken_on": str(t), "birth_date": str(born), "age": str(c)} for t, c in zip(taken, completed, strict=True)]
    ages = read_manifest(save(tmp_path, rows))["age"].to_pylist()
    assert ages == [(t - born).days / 365.25 for t in taken]


TYPED = {
    "photo_id": pa.array([1, 2], pa.int64()),
    "uri": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
    "taken_on": pa.array([0, 1_600_000_000], pa.timestamp("s", "Asia/Tokyo")),
    "birth_date": pa.array([-5_000, -4_000], pa.date32()),
    "follow_up_days": pa.array([1, 2], pa.int32()),
    "event": pa.array([True, False]),
    "landmarks": pa.array([[float(n) for n in range(10)]] * 2, pa.list_(pa.float32(), 10)),
    "site": pa.array(["", None]),
    "tags": pa.array([["x"], []]),
}


def test_typed_parquet_columns_are_understood_and_others_pass_through_untouched(tmp_path):
    pq.write_table(pa.table(TYPED), tmp_path / "m.parquet")
    table = read_manifest(tmp_path / "m.parquet")
    assert table["photo_id"].to_pylist() == ["1", "2"]
    assert table["taken_on"].to_pylist() == [date(1970, 1, 1), date(2020, 9, 13)]
    assert table["event"].to_pylist() == [1, 0] and table["site"].to_pylist() == [None, None]
    assert table["landmarks"].to_pylist() == [[float(n) for n in range(10)]] * 2
    assert table["tags"].to_pylist() == [["x"], []]


@pytest.mark.parametrize(
    ("column", "cells", "told"),
    [
        ("birth_date", pa.array([1960, 1970]), "must hold dates, timestamps or text, not the Parquet type int64"),
        ("subject_id", pa.array([1.0, 2.0]), "must hold text or whole numbers, not the Parquet type double"),
        ("landmarks", pa.array([[1.0] * 10, [1.0] * 9 + [None]]), "row 3: landmarks"),
        ("landmarks", pa.array([[1.0] * 10, [1.0] * 9]), "row 3: landmarks"),
        ("event", pa.array([0.0, 0.5]), "row 3: event '0.5'"),
        ("follow_up_days", pa.array([1.0, float("nan")]), "row 3: follow_up_days 'nan'"),
        ("age", pa.array([1.0, float("nan")]), "row 3: age 'nan'"),
    ],
)
def test_parquet_cells_that_break_a_rule_are_refused(tmp_path, column, cells, told):
    pq.write_table(pa.table(TYPED | {column: cells}), tmp_path / "m.parquet")
    assert told in str(refused(tmp_path / "m.parquet"))


def test_shards_name_the_file_and_its_own_row_and_must_be_alike(tmp_path):
    for number, event in enumerate(("1", "3")):
        cells = {
            "photo_id": [f"{number}a", "twice"],
            "uri": ["x", "y"],
            "event": [event, "1"],
            "follow_up_days": [1, 1],
        }
        write_manifest(pa.table(cells), tmp_path / "shards" / f"part-{number}.parquet")
    told = str(refused(tmp_path / "shards"))
    assert "part-1.parquet row 2: event '3'" in told
    assert "part-1.parquet row 3: photo_id 'twice', as in " in told and "part-0.parquet row 3" in told
    write_manifest(pa.table({"photo_id": ["c"], "uri": ["z"]}), tmp_path / "shards" / "part-2.parquet")
    assert "part-2.parquet: its columns differ" in str(refused(tmp_path / "shards"))


def test_manifests_in_a_bucket_are_read_and_written_like_local_ones(folder):
    table = pa.table({"photo_id": ["a", "b", "c"], "uri": ["x.jpg", "./d/y.jpg", "s3://other/z.jpg"]})
    write_manifest(table, f"{folder}/m.csv")
    write_manifest(table.slice(0, 1), f"{folder}/shards/1.parquet")
    write_manifest(table.slice(1), f"{folder}/shards/2.parquet")
    for path, base in ((f"{folder}/m.csv", folder), (f"{folder}/shards", f"{folder}/shards")):
        read = read_manifest(path)
        assert read["photo_id"].to_pylist() == ["a", "b", "c"]
        assert read["uri"].to_pylist() == [store.absolute(uri, base) for uri in table["uri"].to_pylist()]
    for nowhere in ("no.csv", "no.parquet", "no"):
        assert "no such file" in str(refused(f"{folder}/{nowhere}")) or "no .parquet" in str(
            refused(f"{folder}/{nowhere}")
        )


def test_of_our_own_shards_only_those_of_the_index_are_read(tmp_path):
    table = read_manifest(save(tmp_path, [{}] * 4))
    folder = str(tmp_path / "shards")
    store.write_shards(folder, iter([table]), table.schema)
    stray = tmp_path / "shards" / "part-00001.parquet"  # of an earlier, larger set
    pq.write_table(table.slice(0, 1), stray)
    assert read_manifest(folder)["photo_id"] == table["photo_id"]


def test_check_manifest_counts_rows_and_lists_problems_without_raising(tmp_path):
    assert check_manifest(save(tmp_path, [{}, {}])) == (2, ())
    count, problems = check_manifest(save(tmp_path, [{}, {"age": "x"}]))
    assert count == 2 and [(p.row, p.column, p.value) for p in problems] == [(3, "age", "x")]
    assert check_manifest(tmp_path / "nowhere.csv")[0] == 0


def test_nothing_is_handed_out_before_the_last_row_was_checked(tmp_path):
    with pytest.raises(ManifestError):
        iter_manifest(save(tmp_path, [{}] * 999 + [{"age": "x"}]), rows=10)


def test_an_unfinished_write_leaves_what_was_there(tmp_path):
    path = save(tmp_path, [{}])
    table = read_manifest(path)

    def interrupted():
        yield table
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(interrupted(), path)
    assert read_manifest(path).equals(table)


def test_parquet_carries_the_metadata_it_is_given_and_csv_refuses_it(tmp_path):
    table = read_manifest(save(tmp_path, [{}]))
    write_manifest([table, table.slice(0, 0)], tmp_path / "m.parquet", metadata={"config_digest": "abc"})
    assert pq.read_schema(tmp_path / "m.parquet").metadata[b"config_digest"] == b"abc"
    with pytest.raises(ValueError, match="no place for metadata"):
        write_manifest(table, tmp_path / "m.csv", metadata={"a": "b"})
    with pytest.raises(ValueError, match="ends in .csv or .parquet"):
        write_manifest(table, tmp_path / "m.txt")


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
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
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
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
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


CORRUPTIONS = {
    "photo_id": ["", "p1"],
    "uri": ["", "ftp://x/y"],
    "taken_on": ["2020-13-01", "1.2.2020", "yesterday", "2999-01-01"],
    "birth_date": ["1960-02-30", "60-02-03", "?", "2020-03-01"],
    "age": ["abc", "12", "123", "-0.1", "6O"],
    "split": ["TRAIN", "dev", "0"],
    "follow_up_days": ["", "x", "-1", "inf"],
    "entry_days": ["x", "-0.5", "100", "1e9"],
    "event": ["", "yes", "-1", "0.5"],
    "landmarks": ["x", "[]", POINTS + " 1", "{}", "[1,2"],
}


@given(st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_corrupted_cell_is_refused_and_named_exactly(tmp_path, data):
    column = data.draw(st.sampled_from(sorted(CORRUPTIONS)))
    at = data.draw(st.integers(1, 39))
    error = refused(
        save(tmp_path, [{}] * at + [{column: data.draw(st.sampled_from(CORRUPTIONS[column]))}] + [{}] * (40 - at))
    )
    assert {(p.row, p.column) for p in error.problems} == {(at + 2, column)}


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


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    raw = pa.array([b"a", b"\xff"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"photo_id": raw, "uri": ["x", "y"]}), tmp_path / "m.parquet")
    assert "not a readable Parquet file" in str(refused(tmp_path / "m.parquet"))


def test_a_date_column_of_another_format_is_told_quickly_however_long_it_is(tmp_path):
    rows = "".join(f"p{n},x,{n % 28 + 1}.{n % 12 + 1}.2019\n" for n in range(60_000))
    (tmp_path / "m.csv").write_text("photo_id,uri,taken_on\n" + rows)
    started = time.perf_counter()
    error = refused(tmp_path / "m.csv")
    assert error.total == 60_000 and len(error.problems) == 20 and time.perf_counter() - started < 5


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
