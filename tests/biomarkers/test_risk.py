"""The scale of a risk: against NumPy on people counted once, against scipy's ranks, and in spite of bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from fahr.biomarkers.risk import fit_risk_scale, percentile, quartile, standardised
from fahr.errors import Refused


def photos(people: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Risks of 1 to 5 photos a person, far from standardised, and whose they are."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(people), rng.integers(1, 6, people))
    return 40 + 3 * rng.normal(size=people)[subjects] + rng.normal(size=len(subjects)), subjects


def test_each_person_counts_once_by_the_mean_of_their_photos():
    risk, subjects = photos(300)
    each = np.array([risk[subjects == person].mean() for person in range(300)])
    found = fit_risk_scale(risk, [f"s{number}" for number in subjects])
    assert found.risk_mean == pytest.approx(each.mean()) and found.risk_sd == pytest.approx(each.std(ddof=1))
    shown = (each - each.mean()) / each.std(ddof=1)
    np.testing.assert_allclose(found.risk_percentiles, np.percentile(shown, range(101)))
    np.testing.assert_allclose(found.quartile_cuts, np.percentile(shown, [25, 50, 75]))
    assert fit_risk_scale(risk).risk_mean == pytest.approx(risk.mean())  # without subjects each photo is somebody


def test_the_order_of_the_photos_changes_no_bit_and_another_unit_changes_nothing_that_is_shown():
    risk, subjects = photos(97)
    found = fit_risk_scale(risk, subjects)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(risk))
        assert fit_risk_scale(risk[order], subjects[order]) == found
    other = fit_risk_scale(1000 * risk - 7, subjects)
    np.testing.assert_allclose(other.risk_percentiles, found.risk_percentiles, atol=1e-9)
    np.testing.assert_allclose(
        standardised(1000 * risk - 7, other.risk_mean, other.risk_sd),
        standardised(risk, found.risk_mean, found.risk_sd),
        atol=1e-9,
    )


def test_the_training_people_have_mean_0_deviation_1_and_a_quarter_of_them_in_each_quarter():
    risk, _ = photos(400)
    risk = risk[:401]
    found = fit_risk_scale(risk)
    shown = standardised(risk, found.risk_mean, found.risk_sd)
    assert shown.mean() == pytest.approx(0, abs=1e-9) and shown.std(ddof=1) == pytest.approx(1)
    assert np.bincount(quartile(shown, found.quartile_cuts)).tolist() == [0, 101, 100, 100, 100]
    shares = percentile(shown, found.risk_percentiles)
    np.testing.assert_allclose(shares, [percentileofscore(shown, each, kind="mean") for each in shown], atol=1)
    assert (shares.min(), shares.max()) == (0, 100)


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: round(value, 3)), min_size=4, max_size=40)
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_people_get_an_ascending_scale_that_keeps_their_order(risk):
    if max(risk) - min(risk) <= 1e-8:
        with pytest.raises(Refused, match="ranks nobody"):
            fit_risk_scale(risk)
        return
    found = fit_risk_scale(risk)
    assert list(found.risk_percentiles) == sorted(found.risk_percentiles) and len(found.risk_percentiles) == 101
    assert found.quartile_cuts == tuple(found.risk_percentiles[n] for n in (25, 50, 75))
    shown = standardised(sorted(risk), found.risk_mean, found.risk_sd)
    quarters, shares = quartile(shown, found.quartile_cuts), percentile(shown, found.risk_percentiles)
    assert (np.diff(quarters) >= 0).all() and (np.diff(shares) >= -1e-9).all()
    assert set(quarters.tolist()) <= {1, 2, 3, 4} and quarters[0] == 1


def test_a_risk_on_a_cut_belongs_to_the_lower_quarter():
    cuts = (-0.5, 0.0, 0.75)
    on_and_beside = [-0.5, np.nextafter(-0.5, 1), 0.0, np.nextafter(0, 1), 0.75, np.nextafter(0.75, 1)]
    assert quartile(on_and_beside, cuts).tolist() == [1, 2, 2, 3, 3, 4]
    assert quartile([-np.inf, -9, 9, np.inf], cuts).tolist() == [1, 1, 4, 4]
    assert quartile([-1, 0, 1], (0, 0, 0)).tolist() == [1, 1, 4]  # equal cuts leave quarters without anybody
    assert quartile([], cuts).tolist() == []


@pytest.mark.parametrize(
    ("risk", "subjects", "told"),
    [
        ([0.3] * 9, None, "is 0.3 for all 9 people, so it ranks nobody. Train longer"),
        ([0.3, 0.3 + 5e-9] * 5, None, "ranks nobody"),  # what concordance calls tied
        ([1.0, 2.0, 3.0], None, "of 3 people; at least 4 are needed"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], list("aabbc"), "of 3 people; at least 4"),
        ([], None, "of 0 people"),
        ([1.0, np.nan, 3.0, 4.0], None, r"risk: row 1 is not a finite number \(nan\)"),
        ([1.0, 2.0, 3.0, np.inf], None, "risk: row 3 is not a finite number"),
        ([1e300, -1e300, 1e299, 0.0], None, "too wide to be squared"),
        ([[1.0], [2.0], [3.0], [4.0]], None, r"shape \(4, 1\); must be \(n,\)"),
        (3.0, None, r"shape \(\)"),
        ([1.0, 2.0, 3.0, 4.0], ["a", "b", None, "d"], "subjects: row 2 is missing"),
        ([1.0, 2.0, 3.0, 4.0], ["a", "b"], "subjects: has 2 values for 4 rows"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_risks_that_make_no_scale_are_refused_with_the_remedy(risk, subjects, told):
    with pytest.raises(Refused, match=told):
        fit_risk_scale(risk, subjects)


def test_a_scale_that_is_none_and_cuts_that_do_not_ascend_are_refused():
    for mean, sd in ((0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf)):
        with pytest.raises(Refused, match="must be finite, and the second above 0"):
            standardised([1.0], mean, sd)
    for cuts in ((0.0, 1.0), (1.0, 0.0, 2.0), (0.0, np.nan, 1.0)):
        with pytest.raises(Refused, match="three ascending numbers"):
            quartile([1.0], cuts)
    with pytest.raises(Refused, match="risk: row 1 is unknown"):
        quartile([0.0, np.nan], (0.0, 1.0, 2.0))
