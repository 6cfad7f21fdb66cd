"""A hospital's own table becomes a manifest by a few lines of YAML, and a wrong line is refused with the right one."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from fahr.cohorts import ColumnMapping, ManifestError, read_manifest, read_mapping
from fahr.errors import Refused

HOSPITAL = (
    "FileID;Path;PatID;Birth;Photo day;Age (months);Sex;Status;FU months;Late;Ward;BMI\n"
    "1;a\\1.jpg;007;31/12/1950;01/02/2010;709,5;1;dead;10;2;-;23,5\n"
    "2;b.jpg;008;29/02/1952;03/04/2011;-;2;alive;12,5;-;M\u00fc;24,25\n"
)
MAPPING = """
columns: {photo_id: FileID, uri: Path, subject_id: PatID, birth_date: Birth, taken_on: Photo day, age: Age (months),
          sex: Sex, event: Status, follow_up_days: FU months, entry_days: Late}
date_format: "%d/%m/%Y"
separator: ";"
encoding: latin-1
decimal: ","
missing: ["-"]
values: {sex: {1: F, 2: M}, event: {dead: 1, alive: 0}}
age_unit: months
follow_up_unit: months
"""


@pytest.fixture
def hospital(tmp_path):
    (tmp_path / "hospital.csv").write_bytes(HOSPITAL.encode("latin-1"))
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    return tmp_path


def test_a_hospital_table_is_read_through_its_mapping(hospital):
    rows = read_manifest(str(hospital / "hospital.csv"), str(hospital / "mapping.yaml")).to_pylist()
    first, second = rows
    assert (first["photo_id"], first["subject_id"], first["sex"], first["event"]) == ("1", "007", "F", 1)
    assert (first["birth_date"], first["taken_on"]) == (date(1950, 12, 31), date(2010, 2, 1))
    assert first["age"] == (date(2010, 2, 1) - date(1950, 12, 31)).days / 365.25
    assert first["follow_up_days"] == 304.375 and first["entry_days"] == 2 * 30.4375
    assert second["follow_up_days"] == 12.5 * 30.4375 and second["entry_days"] == 0 and second["sex"] == "M"
    assert (first["Ward"], second["Ward"]) == (None, "M\u00fc")
    assert (first["BMI"], second["BMI"]) == (23.5, 24.25) and "FileID" not in first


@pytest.mark.parametrize(
    ("unit", "given", "years"), [("years", "61.5", 61.5), ("months", "738", 61.5), ("days", "7305", 20.0)]
)
def test_ages_come_in_years_months_or_days(tmp_path, unit, given, years):
    (tmp_path / "m.csv").write_text(f"photo_id,uri,age\np,a,{given}\n")
    assert read_manifest(tmp_path / "m.csv", ColumnMapping(age_unit=unit))["age"].to_pylist() == [years]


@pytest.mark.parametrize(("unit", "days"), [("days", 2.0), ("months", 60.875), ("years", 730.5)])
def test_follow_up_comes_in_days_months_or_years(tmp_path, unit, days):
    (tmp_path / "m.csv").write_text("photo_id,uri,follow_up_days,event,entry_days\np,a,2,1,1\n")
    table = read_manifest(tmp_path / "m.csv", ColumnMapping(follow_up_unit=unit))
    assert table["follow_up_days"].to_pylist() == [days] and table["entry_days"].to_pylist() == [days / 2]


def test_one_column_may_serve_two_and_two_may_change_places(tmp_path):
    (tmp_path / "m.csv").write_text("image,sex,race\na.jpg,X,F\n")
    mapping = ColumnMapping(columns={"photo_id": "image", "uri": "image", "sex": "race", "race": "sex"})
    row = read_manifest(tmp_path / "m.csv", mapping).to_pylist()[0]
    assert (row["photo_id"], row["uri"], row["sex"], row["race"]) == ("a.jpg", str(tmp_path / "a.jpg"), "F", "X")


@pytest.mark.parametrize(
    ("given", "encoding"),
    [
        ("\ufeffphoto_id,uri\np,M\u00fc\n", "utf-8-sig"),
        ("photo_id,uri\np,M\u00fc\n", "utf-16"),
        ("photo_id,uri\np,M\u00fc\n", "cp1252"),
    ],
)
def test_other_encodings_are_read_when_they_are_named(tmp_path, given, encoding):
    (tmp_path / "m.csv").write_bytes(given.removeprefix("\ufeff").encode(encoding))
    assert read_manifest(tmp_path / "m.csv", ColumnMapping(encoding=encoding))["uri"][0].as_py().endswith("/M\u00fc")


WRONG_FILES = [
    ("seperator: ;", "'seperator' is no key of a column mapping. Did you mean 'separator'?"),
    ("columns: {photoid: FileID}", "'photoid' is no column of a manifest. Did you mean 'photo_id'?"),
    ("separator: ';;'", "separator: ';;' does not separate cells"),
    ("separator: \\t", '"\\t" (in double quotes)'),
    ("encoding: latin-99", "encoding: 'latin-99' is not known"),
    ("date_format: '%d/%m/%y'", "loses the day, the month or the century"),
    ("date_format: '%m/%Y'", "loses the day, the month or the century"),
    ("age_unit: weeks", "age_unit: Input should be 'years', 'months' or 'days'"),
    ("decimal: ';'", "decimal: Input should be"),
    ("missing: NA", "missing: Input should be"),
    ("columns: [a]", "columns: Input should be"),
    ("values: {sex: F}", "values.sex: Input should be"),
    ("just text", "a column mapping is a set of"),
    ("a: [", "not a YAML file"),
    ("seperator: ;\n", "Did you mean"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_FILES)
def test_a_wrong_mapping_file_is_refused_with_its_name_and_the_remedy(tmp_path, text, told):
    (tmp_path / "mapping.yaml").write_text(text)
    with pytest.raises(Refused) as caught:
        read_mapping(str(tmp_path / "mapping.yaml"))
    assert told in str(caught.value) and "mapping.yaml" in str(caught.value)


def test_a_mapping_made_in_python_refuses_unknown_keys_and_cannot_be_changed():
    with pytest.raises(ValidationError, match="Did you mean 'date_format'"):
        ColumnMapping(dateformat="%d/%m/%Y")
    with pytest.raises(ValidationError, match="frozen"):
        ColumnMapping().separator = ";"


NAMES = {"columns": {"photo_id": "FileID", "uri": "Path"}}
WRONG_FOR_THE_TABLE = [
    (
        {"columns": {"photo_id": "fileid", "uri": "Path"}},
        "reads photo_id from 'fileid', which is no column here. Did you mean 'FileID'?",
    ),
    ({"columns": {"photo_id": "FileID", "uri": "xyz"}}, "The table has 'FileID', 'Path'"),
    ({"columns": {"photo_id": "FileID", "uri": "Path", "event": "Path"}}, "the table has its own 'event'"),
    (
        NAMES | {"values": {"Event": {"a": 1}}},
        "names 'Event', which is no column here. Did you mean 'event'?",
    ),
    (NAMES | {"date_format": "%d/%m/%Y"}, "row 2: taken_on '2020-01-02'"),
    (NAMES | {"decimal": ","}, "row 2: age '6.5'"),
    (NAMES | {"encoding": "ascii"}, "line 2 is not ascii text (byte 0xc3)"),
    (NAMES | {"encoding": "utf-16"}, "is not utf-16 text"),
    ({"separator": ";"}, "holds no ';' to separate columns"),
]


@pytest.mark.parametrize(("mapping", "told"), WRONG_FOR_THE_TABLE)
def test_a_mapping_that_does_not_fit_the_table_is_refused_with_the_nearest_name(tmp_path, mapping, told):
    (tmp_path / "m.csv").write_text("FileID,Path,taken_on,age,event\np,\u00e9,2020-01-02,6.5,\n", encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.csv", ColumnMapping(**mapping))
    assert told in str(caught.value)


def test_codes_and_missing_marks_also_work_on_typed_and_on_passing_columns(tmp_path):
    pq.write_table(
        pa.table({"photo_id": ["a", "b"], "uri": ["x", "y"], "sex": [1, 2], "ecog": ["0", "NA"]}),
        tmp_path / "m.parquet",
    )
    table = read_manifest(tmp_path / "m.parquet", ColumnMapping(values={"sex": {1: "F", 2: "M"}}, missing=("NA",)))
    assert table["sex"].to_pylist() == ["F", "M"] and table["ecog"].to_pylist() == ["0", None]


def test_a_mark_of_a_missing_value_is_none_in_numbers_and_dates_too(tmp_path):
    columns = {
        "photo_id": ["a", "b"], "uri": ["x", "y"], "event": pa.array([1, None]), "follow_up_days": [100, 99999],
        "taken_on": pa.array([date(2020, 1, 2), date(1900, 1, 1)]), "dose": [5.5, 99999.0], "age": [50.0, -1.0],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    marks = ("99999", "99999.0", "-1", "1900-01-01")
    table = read_manifest(tmp_path / "m.parquet", ColumnMapping(missing=marks))
    for name in ("follow_up_days", "taken_on", "dose", "age"):
        assert table[name].is_null().to_pylist() == [False, True], name
