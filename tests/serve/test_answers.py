"""From values to answers: the median's interval, quartiles, rates; what is missing is null and told."""

import hashlib
import statistics
from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fahr.faces import AlignedFace, Aligner
from fahr.scores import plan_models
from fahr.scores.rates import _rates as rates_of_the_job
from serve import answers
from serve.answers import Model
from serve.problems import Problem

DAY = date(2020, 3, 1)


@pytest.fixture(scope="module")
def seen(photos) -> list[AlignedFace]:
    found = Aligner("mtcnn").align(photos)
    assert all(isinstance(each, AlignedFace) for each in found)
    return found


@pytest.fixture(scope="module")
def age(models) -> Model:
    return Model("age", plan_models([models["age"]])[0])


@pytest.fixture(scope="module")
def survival(models) -> Model:
    return Model("survival", plan_models([models["survival"]])[0])


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> dict[str, Model]:
    """Models that know nothing of themselves."""
    from fahr.models import create, save

    made = {}
    for task in ("age", "survival"):
        place = str(tmp_path_factory.mktemp("bare") / task)
        save(create("vit_tiny", patch=16, size=32, task=task, seed=1), place, config={"detector": "mtcnn"})
        made[task] = Model(task, plan_models([place])[0])
    return made


@settings(max_examples=30)
@given(st.lists(st.floats(-20, 140), min_size=1, max_size=6), st.floats(1, 120))
def test_the_answer_is_the_median_with_the_interval_of_its_own_decade(age, seen, values, years):
    told = answers.face_age(age, seen[: len(values)], values, years)
    assert told.face_age == pytest.approx(statistics.median(values), abs=1e-9)
    half = 6.25 if 50 <= told.face_age < 60 else 7.5  # by hand from the checkpoint's strata
    assert told.high - told.face_age == pytest.approx(half) and told.face_age - told.low == pytest.approx(half)
    assert told.face_age_deviation == pytest.approx(told.face_age - years)
    assert [each.face_age for each in told.photos] == values and [each.photo for each in told.photos] == list(
        range(len(values))
    )


@settings(max_examples=30)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_risk_has_its_percentile_and_quarter_and_no_order_of_photos_changes_them(survival, seen, values, draw):
    told = answers.survival_risk(survival, seen[: len(values)], values)
    shuffled = draw.sample(values, len(values))
    again = answers.survival_risk(survival, seen[: len(values)], shuffled)
    assert (told.risk, told.percentile, told.quartile) == (again.risk, again.percentile, again.quartile)
    middle = statistics.median(values)
    assert told.risk == pytest.approx(middle, abs=1e-12)
    assert told.quartile == 1 + sum(told.risk > cut for cut in (-0.7, 0.0, 0.7))
    assert told.percentile == pytest.approx(min(100, max(0, (told.risk + 3) / 6 * 100)), abs=1e-6)


def test_a_risk_on_a_cut_belongs_to_the_lower_quarter(survival, seen):
    assert [answers.survival_risk(survival, seen[:1], [cut]).quartile for cut in (-0.7, 0.0, 0.7)] == [1, 2, 3]


def test_what_the_model_does_not_know_is_null_and_a_note_says_so(bare, seen):
    one = answers.face_age(bare["age"], seen[:1], [40.0], 50.0)
    assert (one.low, one.high, one.face_age_corrected) == (None, None, None) and one.face_age_deviation == -10
    assert any("conformal" in note for note in one.notes) and any("bias_correction" in note for note in one.notes)
    two = answers.survival_risk(bare["survival"], seen[:1], [0.5])
    assert (two.percentile, two.quartile) == (None, None) and any("quartile_cuts" in note for note in two.notes)
    days = [DAY, DAY + timedelta(800)]
    three = answers.face_aging_rate(bare["age"], seen[:2], [40.0, 44.0], days, [b"1", b"2"])
    assert (three.standard_error, three.shrunken_rate) == (None, None) and three.band == "long"
    assert any("repeatability_sd_years" in note for note in three.notes)


def test_without_an_age_there_is_no_deviation(age, seen):
    told = answers.face_age(age, seen[:2], [60.0, 62.0])
    assert told.face_age == 61 and told.face_age_deviation is None and told.age is None


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 1600), st.floats(20, 90), st.integers(0, 3)), min_size=2, max_size=6),
    st.one_of(st.none(), st.floats(15, 90)),
)
def test_the_rate_is_that_of_the_job_over_the_same_photos(age, seen, photos, years):
    """Copies, days in any order, days of one day, the young: the table of jobs/score.py is the oracle."""
    days = [DAY + timedelta(after) for after, _, _ in photos]
    values = [value for _, value, _ in photos]
    files = [bytes([copy]) for _, _, copy in photos]
    first = days.index(min(days))
    table = pa.table(
        {
            "subject_id": ["s"] * len(photos), "taken_on": pa.array(days, pa.date32()), "face_age": values,
            "age": pa.array([years if number == first else None for number in range(len(photos))], pa.float64()),
            "age_model_digest": ["d"] * len(photos),
            "source_sha256": [hashlib.sha256(file).hexdigest() for file in files],
        }
    )  # fmt: skip
    [row] = rates_of_the_job(table, age.plan.config).to_pylist()
    try:
        told = answers.face_aging_rate(age, seen[: len(photos)], values, days, files, years)
    except Problem as problem:
        assert problem.status == 422 and problem.reason == row["reason"] is not None
        return
    assert row["reason"] is None
    for name in ("face_aging_rate", "standard_error", "shrunken_rate", "interval_days", "band", "high"):
        assert getattr(told, name) == row[name], name
    assert (told.first_taken_on, told.last_taken_on) == (row["first_taken_on"], row["last_taken_on"])


@pytest.mark.parametrize(
    ("days", "years", "reason", "said"),
    [
        ((0, 0), None, "same_day", "one day"),
        ((0, 9), None, "interval_too_short", "9 days"),
        ((0, 1461), None, "interval_too_long", "1,461 days"),
        ((0, 500), 20.0, "age_20_or_less", "20 or younger"),
    ],
)
def test_no_rate_is_a_422_that_names_the_reason_and_the_remedy(age, seen, days, years, reason, said):
    taken = [DAY + timedelta(each) for each in days]
    with pytest.raises(Problem) as told:
        answers.face_aging_rate(age, seen[:2], [50.0, 51.0], taken, [b"1", b"2"], years)
    assert (told.value.status, told.value.reason) == (422, reason)
    assert said in told.value.detail and "send" in told.value.detail


def test_the_same_photo_twice_is_one_photo(age, seen):
    with pytest.raises(Problem) as told:
        answers.face_aging_rate(age, seen[:2], [50.0, 50.0], [DAY, DAY + timedelta(800)], [b"1", b"1"])
    assert told.value.reason == "rejected_photo"


def test_the_shrunken_rate_lies_between_the_rate_and_what_is_usual(age, seen):
    told = answers.face_aging_rate(age, seen[:2], [50.0, 58.0], [DAY, DAY + timedelta(1000)], [b"1", b"2"])
    assert told.band == "long" and told.high is True
    assert 1.0 < told.shrunken_rate < told.face_aging_rate and told.standard_error > 0
