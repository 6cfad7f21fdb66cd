"""Probes against scikit-learn and against refits that leave out one face after the other."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from fahr.errors import Refused
from fahr.training.probes import PENALTIES, knn_probe, linear_probe

Data = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def made(num_train: int, width: int, noise: float = 5.0, seed: int = 0) -> Data:
    """Features of very unequal scales and ages that depend on a few of them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_train + 80, width)) * 10 ** random.uniform(-3, 3, width) + random.normal(size=width)
    scaled = (x - x.mean(0)) / x.std(0)
    ages = 50 + scaled[:, :5] @ [8, -5, 4, 3, 2] + noise * random.normal(size=len(x))
    return x[:num_train], ages[:num_train], x[num_train:], ages[num_train:]


@pytest.mark.parametrize(("num_train", "width"), [(300, 20), (60, 200), (40, 40)])
@pytest.mark.parametrize("noise", [0.1, 5.0, 200.0])
def test_the_linear_probe_equals_ridge_with_leave_one_out(num_train: int, width: int, noise: float) -> None:
    data = made(num_train, width, noise)
    found = linear_probe(*data)
    scaler = StandardScaler().fit(data[0])
    penalties = PENALTIES * num_train
    oracle = RidgeCV(alphas=penalties, scoring=None).fit(scaler.transform(data[0]), data[1])
    assert found.chosen == pytest.approx(oracle.alpha_)
    expected = oracle.predict(scaler.transform(data[2]))
    assert found.predictions == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.mae == pytest.approx(mean_absolute_error(data[3], expected))
    assert found.r2 == pytest.approx(r2_score(data[3], expected))


def test_the_chosen_penalty_is_the_best_of_all_refits() -> None:
    """By brute force: every face left out in turn, for every penalty."""
    x, y, *test = made(24, 6)
    scaled = StandardScaler().fit_transform(x)
    errors = []
    for penalty in PENALTIES * len(y):
        missed = []
        for left in range(len(y)):
            others = np.arange(len(y)) != left
            fit = Ridge(alpha=penalty).fit(scaled[others], y[others])
            missed.append(fit.predict(scaled[left : left + 1])[0] - y[left])
        errors.append(np.mean(np.square(missed)))
    assert linear_probe(x, y, *test).chosen == pytest.approx(PENALTIES[int(np.argmin(errors))] * len(y))


@pytest.mark.parametrize("k", [1, 7, 20])
def test_the_neighbour_probe_equals_scikit_learn(k: int) -> None:
    x, y, x_test, y_test = made(2500, 30)
    scaler = StandardScaler().fit(x)
    oracle = KNeighborsRegressor(k).fit(scaler.transform(x), y)
    expected = oracle.predict(scaler.transform(x_test))
    found = knn_probe(x, y, x_test, y_test, k=k)
    assert found.predictions == pytest.approx(expected) and found.mae == pytest.approx(np.abs(expected - y_test).mean())


def test_more_test_faces_than_are_compared_at_a_time() -> None:
    x, y, *_ = made(2000, 8)
    assert knn_probe(x, y, x, y, k=1).mae == 0


def test_features_that_know_nothing_are_as_good_as_the_mean_age() -> None:
    x, y, x_test, y_test = made(400, 30)
    noise = np.random.default_rng(1)
    found = linear_probe(noise.normal(size=x.shape), y, noise.normal(size=x_test.shape), y_test)
    assert found.mae == pytest.approx(np.abs(y_test - y.mean()).mean(), rel=0.05) and abs(found.r2) < 0.1


def test_features_that_tell_the_age_are_read() -> None:
    x, y, x_test, y_test = made(400, 30, noise=0.0)
    assert linear_probe(x, y, x_test, y_test).mae < 0.01
    assert linear_probe(x, y, x_test, y_test).r2 > 0.9999


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_units_of_the_features_and_dead_features_change_nothing(probe: Any) -> None:
    x, y, x_test, y_test = made(200, 12)
    expected = probe(x, y, x_test, y_test).predictions
    units = np.logspace(-2, 2, 12)
    assert probe(x * units + 7, y, x_test * units + 7, y_test).predictions == pytest.approx(expected, rel=1e-6)
    dead, alive = np.full((200, 1), 0.1), np.random.default_rng(0).normal(size=(80, 1))
    wider = probe(np.hstack([x, dead]), y, np.hstack([x_test, alive]), y_test)
    assert wider.predictions == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x, y, a, b: (x[:, 0], y, a, b), r"train: features \(200,\)"),
        (lambda x, y, a, b: (x, y[:-1], a, b), r"ages \(199,\)"),
        (lambda x, y, a, b: (x, y, a[:, :3], b), "12 a face in train, 3 in test"),
        (lambda x, y, a, b: (x, y, a, np.where(np.arange(80) == 7, np.nan, b)), "test: row 7 holds"),
        (lambda x, y, a, b: (x[:2], y[:2], a, b), "train: 2 faces"),
        (lambda x, y, a, b: (x, y * 0 + 40, a, b), "train: 200 faces of 1 ages"),
        (lambda x, y, a, b: (x, y, a, b * 0 + 40), "test: 80 faces of 1 ages"),
    ],
)
def test_what_cannot_be_judged_is_refused(probe: Any, spoil: Any, told: str) -> None:
    with pytest.raises(Refused, match=told):
        probe(*spoil(*made(200, 12)))


def test_more_neighbours_than_faces_are_refused() -> None:
    with pytest.raises(Refused, match="k 20: must be from 1 to the 10 faces"):
        knn_probe(*made(10, 5))
