"""The mean difference of two models: against a loop over people, and against the interval that it must have."""

import numpy as np
import pytest

from fahr.biomarkers import mean_of
from fahr.errors import Refused
from fahr.survival.plain import draw


def test_the_interval_is_that_of_people_drawn_with_all_their_photos():
    rng = np.random.default_rng(0)
    who = np.array([f"p{number}" for number in rng.integers(0, 40, 300)])
    values = rng.normal(-1, 3, 300)
    found = mean_of(values, who, bootstraps=64, seed=5)
    names = list(dict.fromkeys(who))  # in order of appearance
    rows = [np.flatnonzero(who == name) for name in names]
    means = []
    for number in range(64):
        counts = draw(5, number, len(names))
        chosen = np.concatenate([np.tile(rows[each], int(count)) for each, count in enumerate(counts)])
        means.append(values[chosen].mean())
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)


def test_photos_of_the_same_people_are_not_more_evidence():
    rng = np.random.default_rng(1)
    once = rng.normal(0, 1, 200)
    alone, thrice = mean_of(once), mean_of(np.repeat(once, 3), np.repeat(np.arange(200), 3))
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    pooled = mean_of(np.repeat(once, 3))
    assert pooled.high - pooled.low < 0.7 * (alone.high - alone.low)


def test_few_people_get_no_interval_and_nonsense_is_refused():
    assert mean_of(np.ones(9)).low is None
    assert mean_of(np.ones(10)).low == 1
    assert mean_of(np.arange(20.0), bootstraps=0).low is None
    with pytest.raises(Refused, match="row 1"):
        mean_of([1.0, np.nan])
    with pytest.raises(Refused, match="shape"):
        mean_of([])
    with pytest.raises(Refused, match="shape"):
        mean_of(np.ones((3, 2)))
