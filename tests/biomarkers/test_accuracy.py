"""Errors of an age model, against scikit-learn, SciPy and the definitions."""

import dataclasses
import json
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomarkers.accuracy_oracle import measures, sample
from fahr.biomarkers import age_accuracy, correct, fit_bias, fit_conformal, intervals
from fahr.errors import Refused


def values(errors):
    return {each.name: getattr(errors, each.name).value for each in dataclasses.fields(errors)}


def assert_same(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if np.isnan(value):
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize("whole_years", [False, True])
@pytest.mark.parametrize("years", [10, 5, 1])
def test_every_measure_is_what_sklearn_and_scipy_say(years, whole_years):
    for n, seed in ((2, 0), (3, 1), (57, 2), (800, 3)):
        age, face_age, subject = sample(n, max(1, n // 2), seed, whole_years=whole_years)
        found = age_accuracy(age, face_age, subjects=subject, bootstraps=0, bin_years=years)
        assert_same(values(found.errors), measures(age, face_age, years=years))
        assert (found.n, found.people) == (n, len(set(subject)))
        assert found.binwise_mae == found.errors.binwise_mae.value


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 122), st.integers(-30, 150)), min_size=1, max_size=30),
    st.sampled_from([1, 7, 10]),
)
def test_few_photos_with_ties_are_what_the_definitions_say(rows, years):
    age, face_age = zip(*rows, strict=True)
    found = age_accuracy(age, face_age, bootstraps=0, bin_years=years)
    assert_same(values(found.errors), measures(age, face_age, years=years))


def test_corrected_face_ages_are_judged_as_raw_ones_would_be():
    age, face_age, subject = sample(500, 300, 4)
    line = fit_bias(face_age, age, subject)
    corrected = correct(face_age, age, line)
    found = age_accuracy(age, face_age, subjects=subject, corrected=corrected, bootstraps=50)
    alone = age_accuracy(age, np.asarray(corrected), subjects=subject, bootstraps=50)
    for name, told in dataclasses.asdict(alone.errors).items():
        assert dataclasses.asdict(found.corrected)[name] == pytest.approx(told, abs=1e-9)
    for one, other in zip(found.bands, alone.bands, strict=True):
        for mine, its in ((one.corrected_mae, other.mae), (one.corrected_bias, other.bias)):
            assert dataclasses.astuple(mine) == pytest.approx(dataclasses.astuple(its), abs=1e-9)
    assert abs(found.corrected.error_slope.value) < 0.02 < abs(found.errors.error_slope.value)


def test_coverage_width_and_epsilon_error_are_means_over_photos():
    age, face_age, subject = sample(900, 500, 5)
    low, high = intervals(face_age, fit_conformal(face_age, age, subjects=subject, fewest=50))
    rng = np.random.default_rng(5)
    apparent, sd = age + rng.normal(0, 3, 900), rng.uniform(1, 9, 900)
    found = age_accuracy(age, face_age, low=low, high=high, apparent=(apparent, sd), bootstraps=0)
    assert found.coverage.value == np.mean([a <= b <= c for a, b, c in zip(low, age, high, strict=True)])
    assert found.width.value == pytest.approx(np.mean(high - low))
    epsilon = [1 - np.exp(-((x - m) ** 2) / (2 * s**2)) for x, m, s in zip(face_age, apparent, sd, strict=True)]
    assert found.epsilon_error.value == pytest.approx(np.mean(epsilon))
    plain = age_accuracy(age, face_age, bootstraps=0)
    assert plain.coverage is None and plain.width is None and plain.epsilon_error is None and plain.corrected is None
    # the ends belong to the interval
    assert age_accuracy([50, 60], [50, 60], low=[50, 50], high=[55, 60], bootstraps=0).coverage.value == 1


def test_an_error_of_exactly_k_years_is_within_k_years():
    age = np.array([55.1, 20.3, 70.0, 40.0, 40.0])
    face_age = np.array([60.1, 17.3, 80.0, 45.001, 29.999])
    found = age_accuracy(age, face_age, bootstraps=0).errors
    assert (found.within_3.value, found.within_5.value, found.within_10.value) == (0.2, 0.4, 0.8)


def test_one_age_or_one_face_age_leaves_slopes_and_correlation_undefined_and_nothing_else():
    one_age = age_accuracy([37.4] * 30, np.linspace(20, 60, 30), bootstraps=20)
    undefined = {name for name, value in values(one_age.errors).items() if value is None}
    assert undefined == {"pearson", "r2", "slope", "error_slope"}
    one_face = age_accuracy(np.linspace(20, 60, 90), [37.4] * 90, bootstraps=20)
    assert {name for name, value in values(one_face.errors).items() if value is None} == {"pearson"}
    assert one_face.errors.slope.value == pytest.approx(0, abs=1e-12)
    alone = age_accuracy([50], [48], bootstraps=10)
    assert alone.errors.mae.value == 2 and alone.errors.difference_sd.value is None
    assert "not defined" in "\n".join(alone.lines()) and json.dumps(alone.to_json(), allow_nan=False)


def test_perfect_face_ages_are_perfect():
    age = np.random.default_rng(0).uniform(0, 100, 400)
    found = values(age_accuracy(age, age, bootstraps=0).errors)
    ones = {"pearson", "r2", "slope", "within_3", "within_5", "within_10"}
    assert found == {name: pytest.approx(1.0 if name in ones else 0.0) for name in found}


def test_numbers_survive_ages_that_lie_close_together_and_far_from_zero():
    """Infants of the same week, and people who are all 100: squares of large numbers must not eat the digits."""
    rng = np.random.default_rng(8)
    for centre, spread in ((0.1, 0.02), (100.0, 0.05)):
        age = centre + rng.uniform(-spread, spread, 300)
        face_age = age + 40 + rng.normal(0, 1, 300)
        assert_same(values(age_accuracy(age, face_age, bootstraps=0).errors), measures(age, face_age), tolerance=1e-6)


def test_bins_of_fewer_than_ten_images_are_named_and_not_in_the_average():
    age = np.concatenate([np.full(9, 95.0), np.full(10, 5.0), np.full(40, 50.0), [100.0]])
    face_age = age + np.concatenate([np.full(9, -30.0), np.full(10, 2.0), np.full(40, 4.0), [50.0]])
    found = age_accuracy(age, face_age, bootstraps=0)
    assert found.binwise_mae == pytest.approx(3.0)
    assert found.counted_bins == ("0-9", "50-59") and found.small_bins == ("90-99", "100-109")
    assert age_accuracy([50.0] * 9, [51.0] * 9, bootstraps=0).binwise_mae is None
    # a tenth photo of the same nine people makes the bin count: images are counted, not people
    assert age_accuracy([50.0] * 10, [51.0] * 10, subjects=[*range(9), 0], bootstraps=0).binwise_mae == 1


def test_every_band_of_ages_has_the_figures_of_its_photos():
    age, face_age, subject = sample(1500, 700, 9)
    found = age_accuracy(age, face_age, subjects=subject, bootstraps=0)
    assert sum(band.n for band in found.bands) == 1500
    assert [band.first_year for band in found.bands[1:]] == [band.last_year + 1 for band in found.bands[:-1]]
    for band in found.bands:
        inside = (age >= band.first_year) & (age < band.last_year + 1)
        assert (band.n, band.people) == (inside.sum(), len(set(subject[inside])))
        assert band.people >= 10
        assert band.mae.value == pytest.approx(np.abs(face_age - age)[inside].mean())
        assert band.bias.value == pytest.approx((face_age - age)[inside].mean())
        assert band.label == f"{band.first_year}-{band.last_year}"


def test_to_json_table_and_lines_tell_the_same():
    age, face_age, subject = sample(400, 200, 10)
    sex = np.where(subject % 2, "female", "male")
    found = age_accuracy(
        age,
        face_age,
        subjects=subject,
        groups={"sex": sex},
        corrected=face_age - 1,
        low=age - 1,
        high=age,
        bootstraps=30,
    )
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    table = found.table()
    assert table.schema.names == ["measure", "group", "value", "n", "people", "estimate", "low", "high"]
    rows = {(row["measure"], row["group"], row["value"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    for prefix, part in (("", "errors"), ("corrected_", "corrected")):
        for name, each in told[part].items():
            row = rows[prefix + name, None, None]
            assert [row["estimate"], row["low"], row["high"]] == [each["value"], each["low"], each["high"]]
    for band in told["bands"]:
        assert rows["mae", "age", band["label"]]["n"] == band["n"]
    for cell in told["groups"]:
        assert rows["slope", "sex", cell["labels"][0]]["estimate"] == cell["slope"]["value"]
    gap = told["gaps"][0]
    assert rows["mae_gap", "sex", f"{gap['worst'][0]} - {gap['best'][0]}"]["high"] == gap["gap"]["high"]
    text = "\n".join(found.lines())
    mae = told["errors"]["mae"]
    assert f"{mae['value']:.2f} [{mae['low']:.2f}, {mae['high']:.2f}]" in text
    assert f"400 photos of {found.people} people" in text and "female" in text and max(map(len, found.lines())) < 140
    assert not any(isinstance(each, float) and np.isnan(each) for row in table.to_pylist() for each in row.values())


def test_ten_thousand_faces_without_intervals_take_milliseconds():
    age, face_age, subject = sample(10_000, 4000, 11)
    taken = []
    for _ in range(7):
        started = time.thread_time()
        assert age_accuracy(age, face_age, subjects=subject, bootstraps=0).binwise_mae
        taken.append(time.thread_time() - started)
    assert min(taken) < 0.05


def test_inputs_of_arrow_pandas_and_lists_are_read_alike():
    age, face_age, subject = sample(60, 30, 12)
    names = [f"p{each}" for each in subject]
    plain = age_accuracy(age, face_age, subjects=names, bootstraps=16)
    others = age_accuracy(pa.array(age), face_age.tolist(), subjects=pa.array(names), bootstraps=16)
    assert others == plain


OK_AGE, OK_FACE = [50.0, 60.0, 70.0], [51.0, 59.0, 75.0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"age": []}, "age: is empty"),
        ({"age": [50, np.nan, 70]}, r"age: row 1 is unknown \(nan\). Leave the photo out"),
        ({"age": [50, None, 70]}, "age: row 1 is unknown"),
        ({"age": [50, 60, 122.5]}, r"age: row 2 must be from 0 to 122 years \(122.5\)"),
        ({"age": [-1, -2, 70]}, "age: row 0 .*, and 1 more"),
        ({"age": [[50, 60, 70]]}, r"age: has shape \(1, 3\)"),
        ({"age": ["a", "b", "c"]}, "age: not every value is a number"),
        ({"face_age": [51, 59]}, "face_age: has 2 values for 3 photos"),
        ({"face_age": [51, 59, np.nan]}, "face_age: row 2 is unknown"),
        ({"face_age": [51, 59, np.inf]}, "face_age: row 2 is infinite"),
        ({"subjects": ["a", "b"]}, "subjects: has 2 values for 3"),
        ({"subjects": ["a", None, "b"]}, "subjects: row 1 is missing"),
        ({"low": OK_AGE}, "high: is missing"),
        ({"high": OK_AGE}, "low: is missing"),
        ({"low": [1, 99, 1], "high": [2, 2, 2]}, r"low: row 1 lies above high \(99.0\)"),
        ({"low": [1, 1, np.nan], "high": [2, 2, 2]}, "low: row 2 is unknown"),
        ({"corrected": [1, 2]}, "corrected: has 2 values"),
        ({"apparent": (OK_AGE, [5, 0, 5])}, "apparent SD: row 1 must be above 0"),
        ({"apparent": (OK_AGE[:2], [5, 5, 5])}, "apparent mean: has 2 values"),
        ({"groups": {"sex": ["f", "m"]}}, "groups\\['sex'\\]: has 2 values"),
        ({"groups": {"sex": np.array(["f", 1, 2.5], object)}}, "groups\\['sex'\\]: mixes kinds"),
        ({"groups": {"sex": ["f", "m", "f"]}, "pairs": [("sex", "rase")]}, "pairs: 'rase' is no group"),
        ({"groups": {"sex": ["f", "m", "f"]}, "pairs": [("sex", "sex")]}, "two different names"),
        ({"bootstraps": -1}, "bootstraps: -1"),
        ({"seed": -1}, "seed: -1"),
        ({"bin_years": 2.5}, "bin_years: 2.5"),
        ({"bin_years": 0}, "bin_years: 0"),
        ({"fewest": 0}, "fewest: 0"),
        ({"threads": 0}, "threads: 0"),
    ],
)
def test_bad_input_is_refused_with_row_rule_and_remedy(change, sentence):
    given_ = {"age": OK_AGE, "face_age": OK_FACE, **change}
    with pytest.raises(Refused, match=sentence):
        age_accuracy(given_.pop("age"), given_.pop("face_age"), **given_)


def test_corrected_face_ages_given_as_raw_are_refused():
    age, face_age, _ = sample(100, 100, 13)
    corrected = correct(face_age, age, fit_bias(face_age, age))
    with pytest.raises(Refused, match="corrected already"):
        age_accuracy(age, corrected)
