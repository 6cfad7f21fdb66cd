"""What the demo expects of a score that is not the truth: on people drawn here, whose hazards are known."""

import numpy as np
import pandas as pd
import pytest

from jobs._demo_truth import PLANTED, _in_its_place, _true


def people(rng: np.random.Generator, number: int) -> pd.DataFrame:
    made = pd.DataFrame({
        "age": rng.uniform(30, 90, number), "dev_ref": rng.normal(0, 5, number), "frailty": rng.normal(size=number),
        "aging_rate": rng.normal(1, 0.3, number), "entry_days": 0.0,
    })  # fmt: skip
    log_hazard = sum(PLANTED[name] * values for name, values in _true(made).items())
    died = rng.exponential(3000 * np.exp(np.mean(log_hazard) - log_hazard))
    return made.assign(follow_up_days=np.minimum(died, 4000.0), event=died <= 4000)


@pytest.mark.parametrize("stable_years", [0.0, 9.0])
def test_what_is_expected_of_a_score_is_what_is_found_also_where_it_errs_about_a_person_each_time(stable_years):
    """Sixty cohorts. Photos of one day differ by 4 years; `stable_years` is an error that each of them repeats."""
    found, reliability = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        drawn = people(rng, 800)
        truth = drawn["dev_ref"].to_numpy()
        score = 0.6 * truth + 0.05 * (drawn["age"] - 60) + stable_years * rng.normal(size=800)
        score = (score + 4 * rng.normal(size=800)).to_numpy()
        cell, expected = _in_its_place(drawn, "deviation", score / 10)
        found.append((cell.value - expected, cell.holds(expected), expected))
        reliability.append((1 - 16 / np.var(score)) * PLANTED["deviation"])
    missed = np.array([each[0] for each in found])
    assert abs(missed.mean()) < 3 * missed.std(ddof=1) / np.sqrt(60)
    assert np.mean([each[1] for each in found]) >= 0.95
    if stable_years:
        expected = np.mean([each[2] for each in found])
        assert expected < np.mean(reliability) / 3, "reliability knows nothing of what is wrong every time"
