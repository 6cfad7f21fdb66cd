"""824 official portraits with true birth dates and deaths, where a machine has them, as a manifest of ours.

These are identifiable people: show aggregates, never a person's predicted age, risk or aging rate.
"""

import csv
import os
import tempfile
from pathlib import Path
from typing import Literal

import pyarrow as pa

from fahr.cohorts import ColumnMapping, read_manifest

ABSENT = "the real portraits are not here (set PORTRAITS to their folder)"
FILES = {"photos": "photos.csv", "fixture": "fixture.csv"}
MAPPING = ColumnMapping(
    columns={
        "photo_id": "photo",
        "uri": "path",
        "subject_id": "person_id",
        "taken_on": "photo_date",
        "follow_up_days": "followup_years",
        "entry_days": "entry_years",
        "dataset": "set",
    },
    follow_up_unit="years",
)
OUTCOME = ("event", "followup_years", "entry_years")


def portraits_root() -> Path | None:
    """The folder of the portraits: PORTRAITS, or beside the repository; None where there is none."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "portraits"
    root = Path(os.environ.get("PORTRAITS") or beside)
    return root if (root / FILES["photos"]).is_file() else None


def portraits_manifest(root: Path, rows: Literal["photos", "fixture"] = "photos") -> pa.Table:
    """The table of the portraits through `read_manifest`; columns we do not know (age_at_photo, ...) pass through.

    Outcomes stay only where the table says that they count: gpo2014 with survival_ok. No such row enters at or after
    its end of follow-up; if one did, the manifest would be refused, for such a person was never at risk in our sight.
    `age_at_photo` is not mapped to `age`, so that the derived age can be compared with it.
    """
    with open(root / FILES[rows], encoding="utf-8", newline="") as file:
        people = list(csv.DictReader(file))
    for row in people:
        row["photo"] = f"{row['set']}-{row['person_id']}"
        row["path"] = str(root / row["image"])
        if row["set"] != "gpo2014" or row["survival_ok"] != "1":
            row |= dict.fromkeys(OUTCOME, "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "portraits.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(people[0]))
            writer.writeheader()
            writer.writerows(people)
        return read_manifest(path, MAPPING)
