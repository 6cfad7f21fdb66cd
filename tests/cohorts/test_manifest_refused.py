"""A manifest that breaks a rule is refused whole, with every broken rule: file, row, column, value, rule, remedy."""

import pickle
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fahr.cohorts import ManifestError, check_manifest, iter_manifest, read_manifest, repeats, write_manifest
from tools.manifests import POINTS, refused, save

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


def test_check_manifest_counts_rows_and_lists_problems_without_raising(tmp_path):
    assert check_manifest(save(tmp_path, [{}, {}])) == (2, ())
    count, problems = check_manifest(save(tmp_path, [{}, {"age": "x"}]))
    assert count == 2 and [(p.row, p.column, p.value) for p in problems] == [(3, "age", "x")]
    assert check_manifest(tmp_path / "nowhere.csv")[0] == 0


def test_nothing_is_handed_out_before_the_last_row_was_checked(tmp_path):
    with pytest.raises(ManifestError):
        iter_manifest(save(tmp_path, [{}] * 999 + [{"age": "x"}]), rows=10)


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
