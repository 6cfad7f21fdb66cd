"""A folder or bucket becomes a manifest; what is no photo is counted; what is wrong is refused and nothing written."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fahr import store
from fahr.cohorts import ManifestError, read_manifest
from fahr.errors import Refused
from jobs import index


def photos(folder: Path, *names: str) -> str:
    for name in names:
        file = folder / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"jpeg")
    return str(folder / "photos")


def run(tmp_path: Path, **options: object) -> tuple[store.Ledger, pa.Table]:
    options = {"photos": str(tmp_path / "photos"), "output": str(tmp_path / "people.parquet"), **options}
    ledger = index.main(index.Options(**options))
    return ledger, read_manifest(str(options["output"]))


def refused(tmp_path: Path, says: str, **options: object) -> None:
    before = set(os.listdir(tmp_path))
    with pytest.raises(Refused, match=says):
        run(tmp_path, **options)
    assert set(os.listdir(tmp_path)) == before, "something was written"


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_every_file_seen_is_a_row_or_a_counted_reject(tmp_path, ending, capsys):
    photos(tmp_path, "b/2.JPG", "a 1.png", "b/x.heic", "notes.txt", "b/data.db", "noending")
    (tmp_path / "photos" / "zero.jpg").touch()
    ledger, table = run(tmp_path, output=str(tmp_path / f"people.{ending}"))
    assert table["photo_id"].to_pylist() == ["a 1.png", "b/2.JPG", "b/x.heic"]
    assert all(Path(uri).read_bytes() == b"jpeg" for uri in table["uri"].to_pylist())
    assert (ledger.rows_in, ledger.rows_out, ledger.rejects) == (7, 3, {"not_a_photo": 3, "empty": 1})
    written = json.loads((tmp_path / f"people.{ending}.ledger.json").read_text())
    assert written["other_files_by_ending"] == {"": 1, ".db": 1, ".txt": 1}
    assert written["config_digest"] in (tmp_path / f"people.{ending}.options.yaml").read_text()
    assert "index: rows_in 7 = rows_out 3 + not_a_photo 3 + empty 1" in capsys.readouterr().out


def test_the_manifest_carries_its_origin(tmp_path):
    photos(tmp_path, "a.jpg")
    ledger, _ = run(tmp_path)
    metadata = pq.read_schema(tmp_path / "people.parquet").metadata
    assert metadata[b"fahr.config_digest"].decode() == ledger.config_digest
    assert metadata[b"fahr.code_version"].decode() == ledger.code_version


def test_the_same_place_gives_the_same_bytes_in_a_bucket_and_any_number_of_times(quick_bucket, tmp_path):
    for name in ("b.jpg", "a/c.jpg", "d.txt"):
        store.write_bytes(f"{quick_bucket}/photos/{name}", b"x")
    made = []
    for number in (1, 2):
        output = f"{quick_bucket}/{number}.parquet"
        index.main(index.Options(photos=f"{quick_bucket}/photos", output=output))
        made.append(store.read_bytes(output))
    assert made[0] == made[1]
    assert read_manifest(output)["uri"].to_pylist() == [f"{quick_bucket}/photos/{n}" for n in ("a/c.jpg", "b.jpg")]


def test_labels_are_joined_by_path_name_stem_or_person(tmp_path):
    photos(tmp_path, "p1/2019-05-01.jpg", "p1/2020-05-01.jpg", "p2/x.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("key,age,ward\np1/2019-05-01.jpg,61.5,007\np2/x.jpg,40,008\n")
    ledger, table = run(tmp_path, labels=str(labels), labels_key="key")
    assert table["age"].to_pylist() == [61.5, None, 40.0]
    assert table["ward"].to_pylist() == ["007", None, "008"]
    assert ledger.more["photos_without_label"] == 1 and ledger.more["labels_without_photo"] == 0

    labels.write_text("FileID,event,follow_up_days\nx,1,30\nnobody,0,5\n")
    ledger, table = run(tmp_path, labels=str(labels), labels_key="FileID", match="stem")
    assert table["event"].to_pylist() == [None, None, 1] and table["follow_up_days"].to_pylist() == [None, None, 30.0]
    assert ledger.more["labels_without_photo"] == 1
    assert "nobody" in (tmp_path / "people.parquet.labels_without_photo.csv").read_text()

    labels.write_text("subject_id,birth_date,sex\np1,1960-05-01,F\np2,1970-01-01,M\n")
    pattern = r"(?P<subject_id>[^/]+)/(?:(?P<taken_on>\d{4}-\d\d-\d\d)|.*)\.jpg"
    _, table = run(tmp_path, labels=str(labels), labels_key="subject_id", match="subject", pattern=pattern)
    assert table["sex"].to_pylist() == ["F", "F", "M"]
    assert table["subject_id"].to_pylist() == ["p1", "p1", "p2"]
    assert [None if age is None else round(age, 2) for age in table["age"].to_pylist()] == [59.0, 60.0, None]
    assert table["split"][0] == table["split"][1]
    assert not (tmp_path / "people.parquet.labels_without_photo.csv").exists()


def test_a_hospital_table_is_joined_through_its_mapping(tmp_path):
    photos(tmp_path, "1.jpg")
    (tmp_path / "table.csv").write_bytes("Datei;Größe;Tod;Tage\n1.jpg;1,7;ja;12,5\n".encode("latin-1"))
    (tmp_path / "map.yaml").write_text(
        'separator: ";"\nencoding: latin-1\ndecimal: ","\n'
        "columns: {event: Tod, follow_up_days: Tage}\nvalues: {event: {ja: 1, nein: 0}}\n"
    )
    _, table = run(tmp_path, labels=str(tmp_path / "table.csv"), mapping=str(tmp_path / "map.yaml"), labels_key="Datei")
    assert table["event"].to_pylist() == [1] and table["follow_up_days"].to_pylist() == [12.5]


def test_broken_labels_are_refused_with_their_own_row_and_nothing_is_written(tmp_path):
    photos(tmp_path, "1.jpg", "2.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("photo_id,age,event,follow_up_days\n1.jpg,200,0,4\n2.jpg,50,2,-1\n")
    before = set(os.listdir(tmp_path))
    with pytest.raises(ManifestError) as caught:
        run(tmp_path, labels=str(labels))
    message = str(caught.value)
    assert all(each in message for each in ("labels.csv", "age", "200", "event", "'2'", "follow_up_days", "-1"))
    assert {(problem.row, problem.column) for problem in caught.value.problems} >= {
        (2, "age"),
        (3, "event"),
        (3, "follow_up_days"),
    }
    assert set(os.listdir(tmp_path)) == before


def test_wrong_joins_are_refused(tmp_path):
    photos(tmp_path, "a/1.jpg", "b/1.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("photo_id,age\n1.jpg,50\n")
    refused(tmp_path, "none of its 1 labels fits a photo.*--match", labels=str(labels))
    refused(tmp_path, "1 labels fit several photos", labels=str(labels), match="name")
    refused(tmp_path, "no column 'photo'.*'photo_id'", labels=str(labels), labels_key="photo")
    refused(tmp_path, "--pattern with", labels=str(labels), match="subject")
    refused(tmp_path, "both give age", labels=str(labels), match="name", pattern="(?P<age>.*)")
    labels.write_text("photo_id,FileID,age\n7,1,50\n")
    refused(tmp_path, "--labels-key is 'FileID', and it has a photo_id too", labels=str(labels), labels_key="FileID")
    labels.write_text("photo_id,age\na/1.jpg,50\na/1.jpg,51\n")
    refused(tmp_path, "unique", labels=str(labels))


def test_no_photos_no_folder_and_wrong_options_are_refused(tmp_path):
    photos(tmp_path, "a.txt")
    refused(tmp_path, r"no photo found \(0 empty files, 1 other files: 1 .txt\)")
    refused(tmp_path, "no such file or folder", photos=str(tmp_path / "none"))
    for wrong in ({"output": "people.xlsx"}, {"pattern": "("}, {"pattern": "(?P<uri>.*)"}, {"pattern": "abc"}):
        with pytest.raises(ValueError, match=r"\.parquet or \.csv|regular expression|named groups"):
            index.Options(**{"photos": "p", "output": "o.csv", **wrong})


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    photos(tmp_path, "a.jpg")
    index.main(index.Options(photos=str(tmp_path / "photos"), output=str(tmp_path / "o.csv"), dry_run=True))
    assert os.listdir(tmp_path) == ["photos"] and "resources" in capsys.readouterr().out


def test_all_files_takes_any_ending(tmp_path):
    photos(tmp_path, "a", "b.dat")
    ledger, _ = run(tmp_path, all_files=True)
    assert ledger.rows_out == 2


def test_inputs_are_never_overwritten(tmp_path):
    photos(tmp_path, "1.jpg")
    labels = tmp_path / "people.csv"
    labels.write_text("photo_id,age\n1.jpg,50\n")
    with pytest.raises(ValueError, match="input and would be overwritten"):
        run(tmp_path, labels=str(labels), output=str(labels))
    with pytest.raises(ValueError, match="overwritten"):
        run(tmp_path, labels=str(tmp_path / "a.csv.labels_without_photo.csv"), output=str(tmp_path / "a.csv"))
    assert labels.read_text().startswith("photo_id,age")


def test_a_pattern_that_fits_nothing_is_refused_and_one_that_fits_some_is_told(tmp_path, capsys):
    photos(tmp_path, "p1/a.jpg", "b.jpg")
    refused(tmp_path, "none of 2 paths fits, such as 'b.jpg'", pattern="(?P<subject_id>zzz)")
    run(tmp_path, pattern="(?P<subject_id>[^/]+)/.*")
    assert "1 of 2 paths do not fit --pattern" in capsys.readouterr().err


def test_what_a_pattern_finds_is_held_to_the_rules_and_told_by_photo(tmp_path):
    photos(tmp_path, "x.jpg")
    refused(tmp_path, r"(?s)--pattern break a rule.*photo 'x.jpg': age 'x'", pattern=r"(?P<age>.*)\.jpg")


def test_options_that_would_do_nothing_are_refused(tmp_path):
    photos(tmp_path, "1.jpg")
    for wrong in ({"match": "stem"}, {"labels_key": "FileID"}, {"mapping": "map.yaml"}):
        with pytest.raises(ValueError, match="how to join --labels"):
            run(tmp_path, **wrong)


def test_names_that_are_no_text_are_counted_and_odd_ones_kept(tmp_path):
    folder = Path(photos(tmp_path, "new\nline.jpg", "co,mma'\".jpg", "~x.jpg", "%41.jpg"))
    with open(os.fsencode(folder) + b"/\xff\xe9.jpg", "wb") as file:
        file.write(b"1")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    for ending in ("csv", "parquet"):
        ledger, table = run(tmp_path, output=str(tmp_path / f"m.{ending}"))
        assert (ledger.rows_out, ledger.rejects) == (4, {"unreadable_name": 1, "empty": 1})
        assert all(Path(uri).read_bytes() == b"jpeg" for uri in table["uri"].to_pylist())


def test_a_run_never_lists_its_own_output(tmp_path):
    folder = photos(tmp_path, "1.jpg")
    for _ in range(2):
        ledger, table = run(tmp_path, output=folder + "/m.parquet", all_files=True)
        assert table["photo_id"].to_pylist() == ["1.jpg"] and ledger.rows_in == 1


def test_a_manifest_serves_as_labels(tmp_path):
    photos(tmp_path, "1.jpg")
    run(tmp_path)
    _, table = run(tmp_path, labels=str(tmp_path / "people.parquet"), output=str(tmp_path / "again.csv"))
    assert table["photo_id"].to_pylist() == ["1.jpg"]


def test_rows_lost_on_the_way_to_the_file_leave_no_file(tmp_path, monkeypatch):
    photos(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    plain = index.iter_manifest
    monkeypatch.setattr(index, "iter_manifest", lambda path: (table.slice(1) for table in plain(path)))
    with pytest.raises(store.LedgerError, match="missing 1"):
        run(tmp_path)
    assert os.listdir(tmp_path) == ["photos"]
