"""p-values of a family: against R, the example of the paper, and the definition of each procedure."""

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival import false_discovery_rate, holm
from survival.predictions import of_r


def test_they_are_what_r_finds():
    asked = of_r()["adjusted"]
    np.testing.assert_allclose(holm(asked["p"]), asked["holm"], atol=1e-14)
    np.testing.assert_allclose(false_discovery_rate(asked["p"]), asked["bh"], atol=1e-14)
    np.testing.assert_allclose(false_discovery_rate(asked["p"], dependence="any"), asked["by"], atol=1e-14)
    mixed, holms, hochbergs = (
        np.array([np.nan if each in (None, "NA") else each for each in asked[name]], float)
        for name in ("mixed", "mixed_holm", "mixed_bh")
    )
    np.testing.assert_allclose(holm(mixed), holms, atol=1e-14)
    np.testing.assert_allclose(false_discovery_rate(mixed), hochbergs, atol=1e-14)


def test_the_example_of_benjamini_and_hochberg_rejects_four_and_bonferroni_three():
    p = np.array(of_r()["adjusted"]["p"])  # their 15 tests of thrombolysis
    assert (false_discovery_rate(p) <= 0.05).sum() == 4
    assert (p * 15 <= 0.05).sum() == 3 and (holm(p) <= 0.05).sum() == 3


def test_at_every_level_they_reject_what_their_steps_reject():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = np.round(rng.random(rng.integers(1, 9)) ** 2, 2)
        level = rng.choice([0.01, 0.05, 0.2])
        ranked, tests = np.sort(p), len(p)
        downs = ranked * (tests - np.arange(tests)) <= level + 1e-12
        first = tests if downs.all() else int(np.argmin(downs))
        ups = np.flatnonzero(ranked * tests / np.arange(1, tests + 1) <= level + 1e-12)
        assert (holm(p) <= level + 1e-12).sum() == first
        assert (false_discovery_rate(p) <= level + 1e-12).sum() == (ups[-1] + 1 if len(ups) else 0)


def test_under_no_effect_at_all_holm_is_wrong_once_in_twenty():
    p = np.random.default_rng(1).random((4_000, 12))
    assert 0.04 < np.mean([(holm(row) <= 0.05).any() for row in p]) < 0.06


def test_empty_families_and_order():
    assert holm([]).shape == (0,) and false_discovery_rate([np.nan])[0] != false_discovery_rate([np.nan])[0]
    p = np.random.default_rng(2).random(20)
    turned = np.random.default_rng(3).permutation(20)
    np.testing.assert_array_equal(holm(p)[turned], holm(p[turned]))
    np.testing.assert_array_equal(false_discovery_rate(p)[turned], false_discovery_rate(p[turned]))


def test_what_is_no_chance_is_refused():
    with pytest.raises(Refused, match=r"number 1 is 1.2"):
        holm([0.1, 1.2])
    with pytest.raises(Refused, match="Flatten"):
        false_discovery_rate([[0.1]])
    with pytest.raises(Refused, match="Did you mean 'any'"):
        false_discovery_rate([0.1], dependence="an")
