"""From the faces of `calibrate` to a checkpoint that knows how far a face age repeats: planted numbers come out."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from fahr.biomarkers import face_aging_rate
from fahr.models import create, load, save
from fahr.training.aging import calibrate_aging

FIRST = date(2015, 1, 1)


def people(count: int, *, repeats: int = 2, sd: float = 2.0, rate_sd: float = 0.6) -> tuple[pa.Table, np.ndarray]:
    """Two visits of each, three to four years apart, of `repeats` photos."""
    rng = np.random.default_rng(0)
    rows, values = [], []
    for person in range(count):
        rate, start = rng.normal(1, rate_sd), rng.uniform(30, 80)
        for visit, day in enumerate((0, int(rng.integers(1100, 1461)))):
            for copy in range(repeats):
                rows.append({
                    "subject_id": f"s{person}", "age": start + day / 365.25, "taken_on": FIRST + timedelta(day),
                    "source_sha256": f"{person}-{visit}-{copy}",
                })  # fmt: skip
                values.append(start + rate * day / 365.25 + sd * rng.normal())
    return pa.Table.from_pylist(rows), np.array(values)


def test_planted_numbers_reach_a_checkpoint_and_the_rate_of_a_new_person(tmp_path):
    found = calibrate_aging(*people(1_000))
    assert found.why == ()
    model = create("vit_tiny", patch=16, size=32, task="age")
    save(model, str(tmp_path / "c"), config=found.to_config())
    config = load(str(tmp_path / "c")).config
    sd, prior = config.repeatability_sd_years, config.aging_rate_prior
    assert sd.value == pytest.approx(2.0, abs=0.1) and sd.low < 2.0 < sd.high
    assert list(prior) == ["long"] and prior["long"]["variance"] == pytest.approx(0.36, abs=0.08)
    new = face_aging_rate([60.0, 70.0], ["2020-01-01", "2023-12-31"], repeatability_sd=sd.value, prior=prior)
    v = 8 / (1460 / 365.25) ** 2
    assert new.shrunken_rate == pytest.approx(1 + 0.36 / (0.36 + v) * (new.face_aging_rate - 1), rel=0.1)


def test_what_cannot_be_fitted_is_left_out_with_its_reason():
    table, values = people(40, repeats=1)
    assert calibrate_aging(table, values).to_config() == {"repeatability_sd_years": None, "aging_rate_prior": None}
    assert "0 people with two photos of one day" in calibrate_aging(table, values).why[0]
    assert "no face has a day" in calibrate_aging(table.drop_columns("taken_on"), values).why[0]
    few = calibrate_aging(*people(20))
    assert few.repeatability_sd_years is not None and few.aging_rate_prior is None
    assert "20 people with an aging rate: at least 30" in few.why[0]


def test_faces_that_do_not_decode_and_copies_are_left_out():
    table, values = people(200)
    bad = np.arange(0, len(values), 9)
    broken = values.copy()
    broken[bad] = np.nan
    kept = np.setdiff1d(np.arange(len(values)), bad)
    assert calibrate_aging(table, broken) == calibrate_aging(table.take(kept), values[kept])
    twice = pa.concat_tables([table, table])
    assert calibrate_aging(twice, np.r_[values, values]) == calibrate_aging(table, values)
