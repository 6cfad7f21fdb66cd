"""What is made of all scores together: visits, each the median of its photos, and one CSV."""

import csv
import json
from collections import defaultdict
from datetime import date, timedelta
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from fahr import store
from fahr.scores import write_csv, write_visits


def commit_scores(folder: str, table: pa.Table, rows_per_unit: int = 7) -> None:
    rows = table.select(["photo_id"])
    units = store.WorkUnits(folder, {"made": "by a test"}, stage="score")
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), rows_per_unit))
    for unit in sorted(set(assigned)):
        mine = pa.array(assigned == unit)
        part = rows.filter(mine)
        units.commit(unit, part, {"scores": table.filter(mine)}, store.Ledger("score", part.num_rows, part.num_rows))


def scores(count: int) -> pa.Table:
    rng = np.random.default_rng(5)
    age = rng.normal(50, 10, count)
    risk = np.where(rng.random(count) < 0.2, np.nan, rng.normal(size=count))
    days = [None if rng.random() < 0.2 else date(2020, 1, 1) + timedelta(int(rng.integers(3))) for _ in range(count)]
    made = {
        "photo_id": [f"p{number:03d}" for number in rng.permutation(count)],
        "subject_id": [f"s{number}" for number in rng.integers(0, count // 5, count)],
        "taken_on": pa.array(days, pa.date32()),
        "note": [(None, "", 'a "b", c\nd', "plain")[number % 4] for number in range(count)],
        "landmarks": [None if number % 3 else [0.1 + number, 2.0] for number in range(count)],
        "face_age": age,
        "survival_risk": pa.array(risk, from_pandas=True),
    }
    return pa.table(made)


def test_a_visit_has_the_median_of_its_photos_however_many_rounds_it_takes(tmp_path):
    folder, table = str(tmp_path), scores(120)
    commit_scores(folder, table, 40)
    visits: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in table.sort_by("photo_id").to_pylist():
        visits[row["subject_id"], row["taken_on"], row["photo_id"] if row["taken_on"] is None else ""].append(row)
    wanted = {}
    for (subject, day, _), rows in visits.items():
        risks = [row["survival_risk"] for row in rows if row["survival_risk"] is not None]
        wanted[subject, day, rows[0]["photo_id"]] = (
            len(rows),
            median(row["face_age"] for row in rows),
            median(risks) if risks else None,
        )
    assert max(photos for photos, _, _ in wanted.values()) > 2 and any(risk is None for *_, risk in wanted.values())
    for part_rows in (1000, 50, 13):
        assert write_visits(folder, 120, part_rows=part_rows) == len(wanted)
        (made,) = store.read_parquet(store.join(folder, "visits.parquet"))
        found = {
            (row["subject_id"], row["taken_on"], row["photo_id"]): (
                row["photos"], row["visit_face_age"], row["visit_survival_risk"],
            )
            for row in made.to_pylist()
        }  # fmt: skip
        assert found == wanted


def test_the_csv_holds_the_same_numbers_in_the_order_of_the_photos(folder):
    table = scores(30)
    commit_scores(folder, table)
    assert write_csv(folder, 30)
    lines = store.read_bytes(store.join(folder, "scores.csv")).decode().splitlines(keepends=True)
    found = list(csv.DictReader(lines))
    for row, wanted in zip(found, table.sort_by("photo_id").to_pylist(), strict=True):
        assert (row["photo_id"], row["note"]) == (wanted["photo_id"], wanted["note"] or "")
        assert float(row["face_age"]) == wanted["face_age"]
        assert row["taken_on"] == (str(wanted["taken_on"]) if wanted["taken_on"] else "")
        risk, marks = row["survival_risk"], row["landmarks"]
        assert (float(risk) if risk else None) == wanted["survival_risk"]
        assert (json.loads(marks) if marks else None) == wanted["landmarks"]
    assert not write_csv(folder, 30, most_rows=30)
    assert not store.exists(store.join(folder, "scores.csv"))  # not one of before that lacks the new rows
