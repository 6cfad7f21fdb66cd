"""aging_rates.parquet: people whose photos lie in several units, among rejects, of two models; in several rounds."""

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fahr import store
from fahr.biomarkers import face_aging_rate
from fahr.cohorts.synthetic import make_truth
from fahr.models import CheckpointConfig, create
from fahr.scores import write_aging_rates, write_visits

FIRST = date(2020, 1, 1)
PRIOR = {"mid": {"mean": 1.0, "variance": 0.3, "people": 50.0}, "long": {"mean": 1.0, "variance": 0.1}}


def config(**more: Any) -> CheckpointConfig:
    shape = create("vit_tiny", patch=16, size=32, task="age").architecture
    return CheckpointConfig(architecture=shape, task="age", input_size=32, **more)


def photo(subject: str, day: int | None, face_age: float | None, **more: Any) -> dict[str, Any]:
    """A row of scores; without a face age a row of rejects."""
    return {
        "subject_id": subject, "taken_on": None if day is None else FIRST + timedelta(day), "face_age": face_age,
        "age": 50.0, "age_model_digest": "sha256:" + "a" * 64, "source_sha256": None, **more,
    }  # fmt: skip


def commit(folder: str, photos: list[dict[str, Any]], *, rows_per_unit: int = 2, stage: str = "score") -> None:
    """Dealt to units by the order of their names, so that a person's photos lie apart."""
    table = pa.Table.from_pylist([{"photo_id": f"p{n:05d}", **each} for n, each in enumerate(photos)]).cast(
        pa.schema(
            [("photo_id", pa.string()), ("subject_id", pa.string()), ("taken_on", pa.date32())]
            + [("face_age", pa.float64()), ("age", pa.float64())]
            + [("age_model_digest", pa.string()), ("source_sha256", pa.string())]
        )
    )
    rows = table.select(["photo_id"])
    units = store.WorkUnits(folder, {"made": "by a test"}, stage=stage)
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), rows_per_unit))
    for unit in sorted(set(assigned)):
        mine = table.filter(pa.array(assigned == unit))
        good = pc.is_valid(mine["face_age"])
        bad = mine.filter(pc.invert(good)).select(["photo_id", "subject_id", "taken_on", "age"])
        ledger = store.Ledger(stage, mine.num_rows, mine.num_rows - bad.num_rows, {"no_face": bad.num_rows})
        kind = "scores" if stage == "score" else "faces"
        units.commit(unit, mine.select(["photo_id"]), {kind: mine.filter(good), "rejects": bad}, ledger)


def read(folder: str) -> dict[str, dict[str, Any]]:
    rows = [row for table in store.read_parquet(f"{folder}/aging_rates.parquet") for row in table.to_pylist()]
    assert len({row["subject_id"] for row in rows}) == len(rows)
    return {row["subject_id"]: row for row in rows}


def apart(photos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first photo of everybody, then the second, ...: in units of two, no person has two photos in one."""
    seen: Counter[str] = Counter()
    turns = []
    for each in photos:
        turns.append(seen[each["subject_id"]])
        seen[each["subject_id"]] += 1
    return [photos[n] for n in sorted(range(len(photos)), key=lambda n: turns[n])]


PHOTOS = [
    photo("two-units", 0, 60.0), photo("two-units", 500, 63.0),
    photo("rejected", 0, 60.0), photo("rejected", 500, None),
    photo("all-rejected", 0, None), photo("all-rejected", 500, None),
    photo("one-of-three-rejected", 0, 60.0), photo("one-of-three-rejected", 400, None),
    photo("one-of-three-rejected", 800, 62.0),
    photo("young", 0, 30.0, age=20.0), photo("young", 500, 30.0, age=21.4),
    photo("two-models", 0, 60.0), photo("two-models", 500, 61.0, age_model_digest="sha256:" + "b" * 64),
    photo("one-day", 0, 60.0), photo("one-day", 0, 64.0),
    photo("soon", 0, 60.0), photo("soon", 9, 64.0),
    photo("late", 0, 60.0), photo("late", 1461, 64.0),
    photo("copied", 0, 60.0, source_sha256="x"), photo("copied", 500, 60.0, source_sha256="x"),
    photo("median", 0, 60.0), photo("median", 0, 70.0), photo("median", 100, 50.0), photo("median", 800, 69.0),
    photo("one-photo", 0, 60.0),
    photo("undated", 0, 60.0), photo("undated", None, 61.0),
]  # fmt: skip
REASONS = {
    "rejected": "rejected_photo", "all-rejected": "rejected_photo", "young": "age_20_or_less",
    "two-models": "other_model", "one-day": "same_day", "soon": "interval_too_short", "late": "interval_too_long",
    "copied": "rejected_photo",
}  # fmt: skip


@pytest.mark.parametrize(("rows_per_unit", "part_rows"), [(2, 1000), (2, 9), (1000, 1)])
def test_a_row_a_person_with_the_rate_or_the_reason_wherever_the_photos_lie(tmp_path, rows_per_unit, part_rows):
    folder = str(tmp_path)
    commit(folder, apart(PHOTOS), rows_per_unit=rows_per_unit)
    knows = config(repeatability_sd_years={"value": 2.0, "low": 1.8, "high": 2.3}, aging_rate_prior=PRIOR)
    made = write_aging_rates(folder, len(PHOTOS), knows, part_rows=part_rows)
    found = read(folder)
    assert set(found) == {each["subject_id"] for each in PHOTOS} - {"one-photo", "undated"}
    assert {name: row["reason"] for name, row in found.items() if row["reason"]} == REASONS
    assert (made.people, made.rates, made.reasons) == (len(found), 3, dict(Counter(REASONS.values())))
    for name, row in found.items():
        assert list(row) == [
            "subject_id", "first_taken_on", "last_taken_on", "interval_days", "band", "face_aging_rate",
            "standard_error", "shrunken_rate", "high", "reason",
        ]  # fmt: skip
        mine = [each for each in PHOTOS if each["subject_id"] == name]
        if row["reason"] is not None:
            assert [row[each] for each in list(row)[4:9]] == [None] * 5
            assert row["interval_days"] == (row["last_taken_on"] - row["first_taken_on"]).days
            assert row["first_taken_on"] == FIRST
            continue
        seen = [each for each in mine if each["face_age"] is not None]
        alone = face_aging_rate(
            [each["face_age"] for each in seen], [each["taken_on"] for each in seen], repeatability_sd=2.0, prior=PRIOR
        )
        assert {key: getattr(alone, key) for key in list(row)[1:]} == {key: row[key] for key in list(row)[1:]}
    assert found["two-units"]["face_aging_rate"] == 3.0 / (500 / 365.25)
    assert found["one-of-three-rejected"]["band"] == "long" and found["one-of-three-rejected"]["high"] is False
    told = made.lines()
    assert told[0].startswith("aging_rates.parquet holds 11 people with two or more dated photos = rate 3 + age_20")
    assert told[1:] == ["the age model holds no aging_rate_prior of band short, so shrunken_rate is null there"]


def test_photos_that_alignment_rejected_are_photos_of_their_people_too(tmp_path):
    faces, folder = str(tmp_path / "faces"), str(tmp_path / "scores")
    gone = photo("a", 500, None)
    commit(faces, [gone, photo("b", 0, 1.0), photo("b", 600, None)], stage="align")
    commit(folder, [photo("a", 0, 60.0), photo("b", 0, 60.0), photo("b", 400, 61.0)])
    write_aging_rates(folder, 3, config(), aligned=faces)
    found = read(folder)
    assert (found["a"]["reason"], found["a"]["interval_days"]) == ("rejected_photo", 500)
    assert (found["b"]["reason"], found["b"]["interval_days"]) == (None, 400)
    write_aging_rates(folder, 3, config())
    assert set(read(folder)) == {"b"}


def test_a_model_that_knows_no_repeatability_gives_rates_without_an_error_and_says_so(tmp_path):
    folder = str(tmp_path)
    commit(folder, PHOTOS)
    made = write_aging_rates(folder, len(PHOTOS), config(aging_rate_prior=PRIOR))
    row = read(folder)["two-units"]
    assert row["face_aging_rate"] == 3.0 / (500 / 365.25)
    assert row["standard_error"] is row["shrunken_rate"] is None and row["high"] is False
    assert "no repeatability_sd_years, so standard_error and shrunken_rate are null" in made.lines()[1]


def test_a_cohort_of_single_photos_has_an_empty_table_and_no_complaint(tmp_path):
    folder = str(tmp_path)
    commit(folder, [photo(f"s{n}", 0, 60.0) for n in range(5)])
    made = write_aging_rates(folder, 5, config())
    assert read(folder) == {} and len(made.lines()) == 1 and made.people == 0


def test_scores_without_people_or_days_have_no_rates(tmp_path):
    folder = str(tmp_path)
    rows = pa.table({"photo_id": ["a", "b"]})
    units = store.WorkUnits(folder, {}, stage="score")
    (unit,) = set(units.assign(rows["photo_id"], store.row_digests(rows), 9))
    scores = rows.append_column("face_age", pa.array([60.0, 61.0]))
    units.commit(unit, rows, {"scores": scores}, store.Ledger("score", 2, 2))
    assert write_aging_rates(folder, 2, config()).people == 0
    assert write_visits(folder, 2) == 2


def test_a_later_photo_moves_the_rate_and_the_same_photos_leave_the_same_bytes(tmp_path):
    place = Path(tmp_path, "aging_rates.parquet")
    commit(str(tmp_path), [photo("a", 0, 60.0), photo("a", 500, 61.0)])
    write_aging_rates(str(tmp_path), 2, config())
    before = place.read_bytes()
    write_aging_rates(str(tmp_path), 2, config())
    assert place.read_bytes() == before
    commit(str(tmp_path), [photo("a", 0, 60.0), photo("a", 500, 61.0), photo("a", 900, 70.0)])
    write_aging_rates(str(tmp_path), 3, config())
    assert read(str(tmp_path))["a"]["interval_days"] == 900


def test_planted_rates_of_a_synthetic_cohort_are_read_back(tmp_path):
    """Photos of 150 people over all bands, dealt to 7 units; face ages without noise show the planted rate."""
    made = make_truth(150, photos_per_subject=3, seed=4)
    truth = made.truth.append_column("taken_on", made.manifest["taken_on"])
    photos = [
        photo(row["subject_id"], None, row["apparent_age"], taken_on=row["taken_on"], age=row["age"])
        for row in truth.to_pylist()
    ]
    commit(str(tmp_path), apart(photos), rows_per_unit=-(-len(photos) // 7))
    planted = dict(zip(truth["subject_id"].to_pylist(), truth["aging_rate"].to_pylist(), strict=True))
    write_aging_rates(str(tmp_path), len(photos), config(), part_rows=150)
    rated = [row for row in read(str(tmp_path)).values() if row["reason"] is None]
    assert {row["band"] for row in rated} == {"short", "mid", "long"} and len(rated) > 75
    for row in rated:
        assert row["face_aging_rate"] == pytest.approx(planted[row["subject_id"]], abs=1e-9)
