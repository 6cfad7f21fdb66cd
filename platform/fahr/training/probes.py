"""What frozen features know of age: a linear and a nearest-neighbour probe. n = faces, D = features.

    linear_probe(features_train, ages_train, features_test, ages_test).mae     # years

People in the test part must not be in the train part; that is the caller's split.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused

Floats = NDArray[np.float64]
PENALTIES = np.logspace(-4, 4, 33)  # of standardised features, per training face


@dataclass(frozen=True)
class Probe:
    mae: float  # mean absolute error on the test part, in years
    r2: float  # 1 - squared error / that of the test part's own mean; below 0 = worse than that constant
    predictions: Floats  # (n,) years, of the test part
    chosen: float  # the ridge penalty lambda, or the number of neighbours


def linear_probe(
    features_train: ArrayLike, ages_train: ArrayLike, features_test: ArrayLike, ages_test: ArrayLike
) -> Probe:
    """Ridge regression on standardised features, its penalty chosen by leave-one-out on the train part.

    With X = U S V' and shrinkage f = s^2 / (s^2 + lambda), face i left out is missed by r_i / (1 - h_i), where r is the
    residual of the whole fit and h_i = 1/n + sum_k U_ik^2 f_k (Allen 1974; Hastie 2009, 7.64): no refits are needed.
    """
    x, y, x_test, y_test = _checked(features_train, ages_train, features_test, ages_test)
    x, x_test = _standardised(x, x_test)
    mean = y.mean()
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    along, squares = u.T @ (y - mean), s**2
    penalties = PENALTIES * len(y)
    errors = [_left_out(u, along, squares / (squares + penalty), y - mean) for penalty in penalties]
    penalty = float(penalties[int(np.argmin(errors))])
    slopes = vt.T @ (s / (squares + penalty) * along)
    return _judged(mean + x_test @ slopes, y_test, penalty)


def knn_probe(
    features_train: ArrayLike, ages_train: ArrayLike, features_test: ArrayLike, ages_test: ArrayLike, k: int = 20
) -> Probe:
    """The mean age of the `k` nearest training faces, by Euclidean distance between standardised features."""
    x, y, x_test, y_test = _checked(features_train, ages_train, features_test, ages_test)
    if not 1 <= k <= len(y):
        raise Refused(f"k {k}: must be from 1 to the {len(y)} faces of the train part.")
    x, x_test = _standardised(x, x_test)
    lengths = (x**2).sum(1)
    predictions = np.empty(len(x_test))
    for start in range(0, len(x_test), 1024):  # distances of a thousand faces at a time
        part = slice(start, start + 1024)
        distances = lengths - 2 * x_test[part] @ x.T  # without the test face's own length, which orders nothing
        nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
        predictions[part] = y[nearest].mean(1)
    return _judged(predictions, y_test, k)


def _left_out(u: Floats, along: Floats, shrinkage: Floats, y: Floats) -> float:
    """The mean squared error of the faces, each predicted by the fit to all others."""
    residual = y - u @ (shrinkage * along)
    leverage = 1 / len(y) + (u**2) @ shrinkage
    return float(np.mean((residual / (1 - leverage)) ** 2))


def _standardised(x: Floats, x_test: Floats) -> tuple[Floats, Floats]:
    """By the train part's means and spreads; a feature that never changes there counts for nothing."""
    mean, sd = x.mean(0), x.std(0)
    scale = np.where(sd > 1e-12 * (1 + np.abs(mean)), sd, np.inf)
    return (x - mean) / scale, (x_test - mean) / scale


def _judged(predictions: Floats, ages: Floats, chosen: float) -> Probe:
    error = predictions - ages
    spread = float(np.sum((ages - ages.mean()) ** 2))
    return Probe(float(np.abs(error).mean()), 1 - float(np.sum(error**2)) / spread, predictions, chosen)


def _checked(*given: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    x, y, x_test, y_test = (np.asarray(each, np.float64) for each in given)
    for part, features, ages in (("train", x, y), ("test", x_test, y_test)):
        if features.ndim != 2 or ages.shape != (len(features),):
            raise Refused(
                f"{part}: features {features.shape} and ages {ages.shape}: (n, D) and (n,) are needed, a row a face."
            )
        if len(ages) < 3 or np.ptp(ages) == 0:
            raise Refused(f"{part}: {len(ages)} faces of {len(np.unique(ages))} ages: at least 3 and 2 are needed.")
        rows = np.flatnonzero(~(np.isfinite(features).all(1) & np.isfinite(ages)))
        if len(rows):
            raise Refused(f"{part}: row {rows[0]} holds what is not finite, {len(rows)} rows in all. Leave them out.")
    if x.shape[1] != x_test.shape[1]:
        raise Refused(f"features: {x.shape[1]} a face in train, {x_test.shape[1]} in test. Use one model for both.")
    return x, y, x_test, y_test
