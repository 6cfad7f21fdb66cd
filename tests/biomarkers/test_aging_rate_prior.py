"""Usual rates, planted and found again; what shrinking towards them is worth; Paule and Mandel by hand."""

import numpy as np
import pytest

from fahr.biomarkers import AgingRates, aging_rates, fit_aging_rate_prior
from fahr.errors import Refused

SD = 2.0
FIRST = np.datetime64("2015-06-01")
DAYS = {"short": (120, 366), "mid": (366, 731), "long": (731, 1461)}


def planted(
    people: int, band: str, *, rate_sd: float, mean: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """True rates, and the face ages, days and subjects of two photos each."""
    rng = np.random.default_rng(seed)
    true = rng.normal(mean, rate_sd, people)
    days = np.stack([np.zeros(people, int), rng.integers(*DAYS[band], people)], axis=1)
    ages = 60 + true[:, None] * days / 365.25 + SD * rng.normal(size=days.shape)
    return true, (ages.ravel(), (FIRST + days).ravel(), np.repeat(np.arange(people), 2))


def fitted(people: int, band: str, **more: float) -> dict[str, dict[str, float]]:
    return fit_aging_rate_prior(aging_rates(*planted(people, band, **more)[1], repeatability_sd=SD))


@pytest.mark.parametrize(
    ("band", "rate_sd", "within"), [("long", 0.5, 0.06), ("long", 1.5, 0.15), ("mid", 2.0, 0.35), ("short", 6.0, 4.0)]
)
def test_a_planted_variance_is_found_again(band, rate_sd, within):
    found = fitted(8_000, band, rate_sd=rate_sd)
    assert list(found) == [band]
    assert found[band]["variance"] == pytest.approx(rate_sd**2, abs=within)
    assert found[band]["observed_mean"] == pytest.approx(1.0, abs=0.3 if band == "short" else 0.1)
    assert (found[band]["mean"], found[band]["people"]) == (1.0, 8_000)


def test_the_variance_solves_the_equation_of_paule_and_mandel():
    rates = aging_rates(*planted(400, "long", rate_sd=0.8)[1], repeatability_sd=SD)
    variance = fit_aging_rate_prior(rates)["long"]["variance"]
    q = ((rates.face_aging_rate - 1) ** 2 / (rates.standard_error**2 + variance)).sum()
    assert variance > 0 and q == pytest.approx(len(rates), rel=1e-9)


def test_where_the_errors_explain_the_scatter_everybody_is_in_step_with_the_calendar():
    rates = aging_rates(*planted(300, "mid", rate_sd=0.0, seed=1)[1], repeatability_sd=1.2 * SD)
    prior = fit_aging_rate_prior(rates)
    assert prior["mid"]["variance"] == 0
    shrunken = aging_rates(*planted(300, "mid", rate_sd=0.0, seed=1)[1], repeatability_sd=SD, prior=prior)
    assert (shrunken.shrunken_rate == 1).all()


@pytest.mark.parametrize(("band", "rate_sd"), [("long", 0.4), ("mid", 0.4), ("short", 3.0)])
def test_shrunken_rates_are_nearer_to_the_truth_and_near_the_best_that_can_be(band, rate_sd):
    prior = fitted(4_000, band, rate_sd=rate_sd)
    true, photos = planted(4_000, band, rate_sd=rate_sd, seed=1)  # people whom the prior does not know
    found = aging_rates(*photos, repeatability_sd=SD, prior=prior)
    raw, shrunken = (((each - true) ** 2).mean() for each in (found.face_aging_rate, found.shrunken_rate))
    trust = rate_sd**2 / (rate_sd**2 + found.standard_error**2)
    best = ((1 + trust * (found.face_aging_rate - 1) - true) ** 2).mean()
    assert shrunken < 0.9 * raw
    assert shrunken < 1.1 * best


def test_shrinking_by_hand():
    prior = {"long": {"mean": 1.0, "variance": 0.5}}
    (found,) = aging_rates([60.0, 70.0], ["2020-01-01", "2023-12-31"], ["a", "a"], repeatability_sd=2.0, prior=prior)
    rate = 10 / (1460 / 365.25)
    v = 2 * 2.0**2 / (1460 / 365.25) ** 2
    assert found.shrunken_rate == pytest.approx(1 + 0.5 / (0.5 + v) * (rate - 1))
    (other,) = aging_rates([60.0, 70.0], ["2020-01-01", "2021-12-31"], ["a", "a"], repeatability_sd=2.0, prior=prior)
    assert other.shrunken_rate is None and other.standard_error is not None  # nothing is known of its band


def test_a_model_that_ages_people_too_slowly_shows_in_the_observed_mean():
    assert fitted(4_000, "long", rate_sd=0.3, mean=0.7)["long"]["observed_mean"] == pytest.approx(0.7, abs=0.05)


def test_a_band_of_few_people_is_left_out_and_no_band_at_all_is_refused():
    both = [planted(29, "mid", rate_sd=1.0)[1], planted(30, "long", rate_sd=1.0)[1]]
    ages, days, people = (np.concatenate(each) for each in zip(*both, strict=True))
    people[58:] += 29
    assert list(fit_aging_rate_prior(aging_rates(ages, days, people, repeatability_sd=SD))) == ["long"]
    with pytest.raises(Refused, match="29 people with an aging rate: at least 30 of one band"):
        fit_aging_rate_prior(aging_rates(*both[0], repeatability_sd=SD))


def test_without_an_error_no_scatter_is_explained():
    rates: AgingRates = aging_rates(*planted(40, "mid", rate_sd=1.0)[1])
    with pytest.raises(Refused, match="no standard error.*Give repeatability_sd"):
        fit_aging_rate_prior(rates)
