"""The portraits read as a manifest: every row, its age, its outcome and its file are as the table of the data says."""

import hashlib
from pathlib import Path

import pyarrow.compute as pc
import pytest

from real.portraits import ABSENT, portraits_manifest, portraits_root

ROOT = portraits_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason=ABSENT)


@pytest.fixture(scope="module")
def manifest():
    return portraits_manifest(ROOT)


def test_824_photos_of_812_people_with_79_deaths(manifest):
    assert manifest.num_rows == 824
    assert pc.count_distinct(manifest["photo_id"]).as_py() == 824
    assert pc.count_distinct(manifest["subject_id"]).as_py() == 812
    assert pc.sum(manifest["event"]).as_py() == 79
    assert len(manifest["event"].drop_null()) == len(manifest["follow_up_days"].drop_null()) == 812
    assert set(manifest.filter(pc.is_valid(manifest["event"]))["dataset"].to_pylist()) == {"gpo2014"}


def test_median_follow_up_is_13_6_years_and_everybody_enters_before_the_end(manifest):
    people = manifest.filter(pc.is_valid(manifest["event"]))
    assert pc.quantile(people["follow_up_days"], 0.5)[0].as_py() / 365.25 == pytest.approx(13.6, abs=0.05)
    assert pc.all(pc.less(people["entry_days"], people["follow_up_days"])).as_py()
    assert pc.max(people["entry_days"]).as_py() == pytest.approx(2.538 * 365.25)


def test_derived_ages_agree_with_the_table_to_a_hundredth_of_a_year(manifest):
    difference = pc.max(pc.abs(pc.subtract(manifest["age"], manifest["age_at_photo"]))).as_py()
    assert manifest["age"].null_count == 0 and difference <= 0.01


def test_every_photo_is_there_and_a_sample_has_the_digest_of_the_table(manifest):
    uris = manifest["uri"].to_pylist()
    assert all(Path(uri).is_file() for uri in uris)
    for uri, digest in list(zip(uris, manifest["sha256"].to_pylist(), strict=True))[::40]:
        assert hashlib.sha256(Path(uri).read_bytes()).hexdigest() == digest


def test_both_photos_of_a_pair_are_in_the_same_split(manifest):
    splits = {}
    for row in manifest.select(["subject_id", "split"]).to_pylist():
        splits.setdefault(row["subject_id"], set()).add(row["split"])
    assert {len(found) for found in splits.values()} == {1} and len(set.union(*splits.values())) == 4


def test_the_fixture_has_48_of_these_photos():
    small = portraits_manifest(ROOT, "fixture")
    assert small.num_rows == 48 and "role" in small.schema.names
