"""Manifests to be read: a sound row, a file of what differs from it, and how a bad one is refused."""

import csv
import io

import pytest

from fahr.cohorts import ManifestError, read_manifest

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
