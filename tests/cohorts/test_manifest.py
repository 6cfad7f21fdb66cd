"""A manifest is read exactly: columns and their types, dates and ages, places of photos, shards, buckets."""

import random
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fahr import store
from fahr.cohorts import read_manifest, write_manifest
from fahr.cohorts.schema import CANONICAL
from tools.manifests import refused, save


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
