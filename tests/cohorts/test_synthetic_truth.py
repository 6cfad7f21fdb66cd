"""The planted truth: it is what it says, and a Cox model with every planted term finds it from any photo's date."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy import integrate, stats

from fahr.cohorts.synthetic import CohortOptions, CueStrengths, expected_age, make_cohort, make_people, make_truth
from fahr.cohorts.synthetic.truth import TRUTH_COLUMNS, Truth, death_years, log_hazard
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused

TERMS = ("age", "dev_ref", "frailty", "aging_rate")
PLANTED = np.array([np.log(2) / 10, np.log(1.15) / 10, 0.7, 0.5])  # a year, a year, an SD, a unit


def photos(truth: Truth, number: int) -> pd.DataFrame:
    """One photo a subject: the planted terms at it, and the outcome counted from its date."""
    chosen = truth.number == number
    columns = {name: truth.truth.column(name).to_numpy()[chosen] for name in TERMS}
    columns |= {
        name: truth.manifest.column(name).to_numpy()[chosen] for name in ("follow_up_days", "entry_days", "event")
    }
    return pd.DataFrame(columns)


def efron_cox(data: pd.DataFrame, terms: tuple[str, ...] = TERMS) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and standard errors of a Cox model with Efron ties and delayed entry, by Newton's method."""
    data = data.sort_values("follow_up_days", kind="stable")
    x = data[list(terms)].to_numpy()
    x = x - x.mean(0)
    time_n, entry_n, event_n = (data[name].to_numpy() for name in ("follow_up_days", "entry_days", "event"))
    n, p = x.shape
    pairs = np.triu_indices(p)
    deaths = np.flatnonzero(event_n == 1)
    times, first, ties = np.unique(time_n[deaths], return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(times)), ties)
    share = (np.arange(len(deaths)) - np.repeat(first, ties)) / np.repeat(ties, ties)  # Efron's j / d
    from_time = np.searchsorted(time_n, times, side="left")  # still there: time >= t
    order = np.argsort(entry_n, kind="stable")
    from_entry = np.searchsorted(entry_n[order], times, side="left")  # not yet there: entry >= t
    beta = np.zeros(p)
    for _ in range(30):
        weight = np.exp(x @ beta)
        moments = weight[:, None] * np.column_stack([np.ones(n), x, x[:, pairs[0]] * x[:, pairs[1]]])

        def tail(values: np.ndarray, start: np.ndarray) -> np.ndarray:
            sums = np.vstack([np.cumsum(values[::-1], axis=0)[::-1], np.zeros(values.shape[1])])
            return sums[start]

        at_risk = tail(moments, from_time) - tail(moments[order], from_entry)
        tied = np.add.reduceat(moments[deaths], first)
        s = at_risk[group] - share[:, None] * tied[group]
        mean = s[:, 1 : p + 1] / s[:, :1]
        second = s[:, p + 1 :] / s[:, :1] - mean[:, pairs[0]] * mean[:, pairs[1]]
        gradient = (x[deaths] - mean).sum(0)
        information = np.zeros((p, p))
        information[pairs] = second.sum(0)
        information = information + np.triu(information, 1).T
        step = np.linalg.solve(information, gradient)
        beta = beta + step
        if np.abs(step * x.std(0)).max() < 1e-10:
            return beta, np.sqrt(np.diag(np.linalg.inv(information)))
    raise AssertionError("the Cox model did not converge")


def coverage(seeds: range, subjects: int, number: int = 0, **options: object) -> np.ndarray:
    """Share of cohorts whose 95 % interval holds the planted coefficient, a term each."""
    world = CohortOptions(**options)
    planted = PLANTED.copy()
    planted[3] = world.rate_log_hazard
    hits = np.zeros(len(TERMS))
    for seed in seeds:
        truth = make_truth(subjects, photos_per_subject=number + 1, seed=seed, options=world)
        beta, error = efron_cox(photos(truth, number))
        hits += np.abs(beta - planted) <= 1.959964 * error
    return hits / len(seeds)


@pytest.mark.parametrize("number", [0, 1])
def test_the_fast_cox_model_of_these_tests_equals_lifelines(number: int) -> None:
    for seed in range(2):
        data = photos(make_truth(400, photos_per_subject=2, seed=seed), number)
        fit = CoxPHFitter().fit(
            data, "follow_up_days", "event", entry_col="entry_days", fit_options={"precision": 1e-9}
        )
        beta, error = efron_cox(data)
        assert np.abs(fit.params_[list(TERMS)].to_numpy() - beta).max() < 1e-6
        assert np.abs(fit.standard_errors_[list(TERMS)].to_numpy() - error).max() < 1e-6


def test_intervals_cover_every_planted_term_in_at_least_90_of_100_cohorts() -> None:
    found = coverage(range(200), subjects=1000)
    assert found.min() >= 0.90, dict(zip(TERMS, found, strict=True))


def test_follow_up_may_start_at_the_second_photo() -> None:
    found = coverage(range(60), subjects=1200, number=1)
    assert found.min() >= 0.85, dict(zip(TERMS, found, strict=True))  # 60 cohorts: 0.95 less 3.5 standard errors


@pytest.mark.evidence
@pytest.mark.parametrize("number", [0, 1])
def test_intervals_cover_every_planted_term_in_95_of_100_of_2000_cohorts(number: int) -> None:
    found = coverage(range(2000), subjects=1000, number=number)
    print(f"coverage from photo {number}:", dict(zip(TERMS, found.round(4).tolist(), strict=True)))
    assert found.min() >= 0.935 and found.max() <= 0.965, dict(zip(TERMS, found, strict=True))


def test_a_large_cohort_gives_back_the_planted_coefficients_with_entry_and_ties() -> None:
    truth = make_truth(150_000, photos_per_subject=2, seed=11)
    for number in (0, 1):
        beta, error = efron_cox(photos(truth, number))
        assert (np.abs(beta - PLANTED) < 4 * error).all(), (number, beta, error)


def test_leaving_frailty_out_or_adding_noise_shrinks_the_deviation_coefficient_as_the_docstring_says() -> None:
    data = photos(make_truth(200_000, seed=5), 0)

    def per_decade(table: pd.DataFrame, terms: tuple[str, ...]) -> float:
        return float(10 * efron_cox(table, terms)[0][1])

    without = per_decade(data, ("age", "dev_ref", "aging_rate"))
    noise = np.random.default_rng(0).normal(0, 5, len(data))
    noisy = per_decade(data.assign(dev_ref=data["dev_ref"] + noise), TERMS)
    print(f"per decade: {without:.3f} without frailty, {noisy:.3f} with 5 years of noise")
    assert 0.09 < without < 0.135
    assert 0.05 < noisy < 0.09


def test_the_death_time_inverts_the_cumulated_hazard_found_by_numerical_integration() -> None:
    options = CohortOptions()
    draw = np.random.default_rng(3)
    for _ in range(20):
        age, dev, frailty, rate = draw.uniform(20, 90), draw.normal(0, 5), draw.normal(), draw.lognormal(0, 0.4)
        entry, exponential = draw.uniform(0, 2), draw.exponential()

        def hazard(t: float, who: tuple[float, ...] = (age, dev, frailty, rate)) -> float:
            return float(np.exp(log_hazard(np.array(who[0] + t), *(np.array(v) for v in who[1:]), options)))

        death = float(death_years(np.log(hazard(0.0)), np.array(entry), np.array(exponential)))
        assert death > entry
        assert integrate.quad(hazard, entry, death)[0] == pytest.approx(exponential, rel=1e-6)


def test_log_hazard_of_a_person_of_70_is_the_formula_of_the_issue() -> None:
    options = CohortOptions(baseline_hazard_per_year=0.2, rate_log_hazard=0.3)
    expected = 0.2 * 2 * 1.15 * np.exp(0.7 * 1.5) * np.exp(0.3 * -0.25)
    found = log_hazard(*(np.array(v) for v in (70.0, 10.0, 1.5, 0.75)), options)
    assert np.exp(found) == pytest.approx(expected)


def test_planted_quantities_have_their_distributions_and_are_independent() -> None:
    people = make_people(100_000, seed=8)
    log_sd = np.sqrt(np.log(1 + 0.4**2))
    for values, law in (
        (people.dev_ref_years, stats.norm(0, 5)),
        (people.frailty, stats.norm(0, 1)),
        (people.aging_rate, stats.lognorm(log_sd, scale=np.exp(-(log_sd**2) / 2))),
        (people.age_years, stats.uniform(20, 70)),
    ):
        assert stats.kstest(values, law.cdf).pvalue > 1e-4
    assert people.aging_rate.mean() == pytest.approx(1, abs=0.01)
    assert people.aging_rate.std() == pytest.approx(0.4, abs=0.01)
    table = np.column_stack([people.age_years, people.dev_ref_years, people.frailty, people.aging_rate])
    ranks = stats.spearmanr(table).statistic
    assert np.abs(ranks[np.triu_indices(4, 1)]).max() < 4.5 / np.sqrt(len(table))


def test_skewed_ages_span_20_to_90_with_few_over_75() -> None:
    ages = make_people(50_000, seed=1, options=CohortOptions(age_shape="skewed")).age_years
    assert ages.min() >= 20 and ages.max() <= 90
    assert 0.005 < (ages > 75).mean() < 0.04


@pytest.mark.parametrize("shape", ["uniform", "skewed"])
def test_about_half_of_the_people_die_under_observation(shape: str) -> None:
    options = CohortOptions(age_shape=shape)
    shares = [make_people(5_000, seed=seed, options=options).event.mean() for seed in range(6)]
    assert 0.48 < np.mean(shares) < 0.52
    assert min(shares) > 0.40 and max(shares) < 0.60


def test_censoring_is_random_and_administrative_and_some_enter_late() -> None:
    people = make_people(20_000, seed=2)
    closed = people.first_day + people.last_day == (people.first_day + people.last_day).max()  # the closing date
    censored = ~people.event
    assert 0.05 < closed[censored].mean() < 0.95
    assert 0.25 < (people.entry_day > 0).mean() < 0.35
    assert (people.last_day > people.entry_day).all()
    # who is lost, and who enters late, says nothing about frailty among people of one risk
    lost = np.corrcoef(people.frailty, people.entry_day)[0, 1]
    assert abs(lost) < 4 / np.sqrt(20_000)


def test_photos_are_before_last_contact_on_whole_days_and_span_the_bands() -> None:
    truth = make_truth(20_000, photos_per_subject=3, seed=6)
    m, t = truth.manifest.to_pandas(), truth.truth.to_pandas()
    assert tuple(t.columns) == TRUTH_COLUMNS
    assert (m["photo_id"] == t["photo_id"]).all() and m["photo_id"].is_unique
    assert (m["follow_up_days"] > m["entry_days"]).all() and (m["entry_days"] >= 0).all()
    taken, born = pd.to_datetime(m["taken_on"]), pd.to_datetime(m["birth_date"])
    last = taken + pd.to_timedelta(m["follow_up_days"], unit="D")
    assert last.groupby(m["subject_id"]).nunique().max() == 1  # every photo of a person ends on one day
    assert ((taken - born).dt.days / DAYS_PER_YEAR).to_numpy() == pytest.approx(t["age"].to_numpy(), abs=1e-9)
    days = (taken - taken.groupby(m["subject_id"]).transform("first")).dt.days
    gaps = days.groupby(m["subject_id"]).diff().dropna()
    shares = [gaps.between(*band).mean() for band in ((0, 0), (1, 9), (10, 365), (366, 730), (731, 1460), (1461, 9999))]
    assert min(shares) > 0.01, shares
    expected = t["dev_ref"] + (t["aging_rate"] - 1) * days / DAYS_PER_YEAR
    assert np.abs(t["deviation"] - expected).max() < 1e-9
    assert np.abs(t["apparent_age"] - t["age"] - t["deviation"]).max() < 1e-9
    hazard = log_hazard(*(t[c].to_numpy() for c in ("age", "dev_ref", "frailty", "aging_rate")), CohortOptions())
    assert np.abs(t["log_hazard"] - hazard).max() < 1e-9


def test_covariates_go_with_each_other_as_in_a_clinic_but_add_nothing_to_the_hazard() -> None:
    truth = make_truth(60_000, seed=9)
    m, t = truth.manifest.to_pandas(), truth.truth.to_pandas()
    current, male = m["smoking"] == "current", m["sex"] == "male"
    assert (
        m.loc[m["site"] == "lung", "smoking"].ne("never").mean()
        > m.loc[m["site"] == "breast", "smoking"].ne("never").mean() + 0.2
    )
    assert (m.loc[current, "alcohol"] == "heavy").mean() > (m.loc[~current, "alcohol"] == "heavy").mean() + 0.05
    assert m.loc[m["site"] == "breast", "sex"].eq("female").mean() > 0.9
    assert m.loc[m["stage"] == "IV", "intent"].eq("palliative").mean() > 0.3
    assert np.corrcoef(m["ecog"], t["frailty"])[0, 1] > 0.3 and np.corrcoef(m["ecog"], t["age"])[0, 1] > 0.1
    extra = pd.DataFrame(
        {
            "ecog": m["ecog"],
            "male": male,
            "stage": m["stage"].isin(["III", "IV"]),
            "smokes": current,
            "drinks": m["alcohol"] == "heavy",
            "palliative": m["intent"] == "palliative",
        }
    ).astype(float)
    beta, error = efron_cox(photos(truth, 0).join(extra), (*TERMS, *extra.columns))
    assert (np.abs(beta - np.append(PLANTED, np.zeros(extra.shape[1]))) < 4 * error).all()


def test_the_same_seed_gives_the_same_people_in_another_process_and_a_larger_cohort_begins_with_them() -> None:
    code = (
        "import hashlib; from fahr.cohorts.synthetic import make_truth as m; t = m(300, photos_per_subject=2, seed={});"
        "told = hashlib.sha256(repr([t.manifest.to_pylist(), t.truth.to_pylist()]).encode()).hexdigest()"
    )

    def digest(seed: int) -> str:
        names: dict[str, str] = {}
        exec(code.format(seed), names)
        return names["told"]

    other = [sys.executable, "-c", code.format(4) + "; print(told)"]
    told = subprocess.run(other, capture_output=True, text=True, check=True).stdout.strip()
    assert digest(4) == told != digest(5)
    small, large = make_people(50, seed=4), make_people(500, seed=4)
    assert np.array_equal(small.last_day, large.last_day[:50]) and np.array_equal(small.frailty, large.frailty[:50])


def test_a_million_people_take_seconds() -> None:
    begin = time.process_time()
    assert make_truth(1_000_000, seed=1).truth.num_rows == 1_000_000
    assert time.process_time() - begin < 30


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda out: make_cohort(0, 1, 0, out), "subjects=0: a cohort holds at least 1 person. Ask for 1 or more."),
        (lambda out: make_cohort(5, 0, 0, out), "photos_per_subject=0"),
        (lambda out: make_cohort(5, 1, -1, out), "seed=-1"),
        (lambda out: make_cohort(5, 1, 0, "s3://bucket/people"), "local folder"),
        (lambda out: make_truth(5, options=CohortOptions(event_share=0.9)), "the hazard allows at most 0."),
        (lambda out: make_truth(5, options=CohortOptions(baseline_hazard_per_year=1e-3)), "raise the baseline hazard"),
        (lambda out: CohortOptions(event_share=1.5), "event_share=1.5: input should be less than 1"),
        (lambda out: CohortOptions(event_shar=0.5), "Did you mean 'event_share'?"),
        (lambda out: CohortOptions(cues={"folds": -1}), "folds=-1"),
        (lambda out: CueStrengths(wrinkles=1), "no option 'wrinkles'"),
        (lambda out: CohortOptions(age_shape="flat"), "age_shape='flat': input should be 'uniform' or 'skewed'"),
    ],
)  # fmt: skip
def test_impossible_wishes_are_refused_with_the_remedy_and_leave_no_folder(tmp_path, wrong, told) -> None:
    with pytest.raises(Refused) as refusal:
        wrong(tmp_path / "people")
    assert told in str(refusal.value)
    assert not (tmp_path / "people").exists()


def test_an_output_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(Refused, match="is not empty.*name a new folder"):
        make_cohort(2, 1, 0, tmp_path)
    with pytest.raises(Refused, match="is a file"):
        make_cohort(2, 1, 0, tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_best_guess_at_an_age_errs_less_than_the_drawn_age_and_in_no_direction():
    """Of other people than it is made from: no bias in any tenth of them, and no straight line does better."""
    others = make_truth(20_000, seed=3).truth
    shown, age = (others.column(name).to_numpy() for name in ("apparent_age", "age"))
    missed = age - expected_age(shown)
    for tenth in np.array_split(np.argsort(shown), 10):
        assert abs(missed[tenth].mean()) < 4 * missed[tenth].std() / np.sqrt(len(tenth)) + 0.1
    line = age - np.polyval(np.polyfit(shown, age, 1), shown)
    assert missed.std() < line.std() < (age - shown).std()
