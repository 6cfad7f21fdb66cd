"""One table filled in by chained equations: each column with gaps is drawn anew, in turn, given all others.

filled = fill(columns, outcome, iterations, rng)     # {name: (n,)}; columns: {name: Column}; outcome: (n, J)

n = people, p = predictors, C = levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fahr.survival.people import Flags, Floats, Ints

DONORS = 5
RIDGE = 1e-5  # of the predictors' squares: they may say the same
SOFT = 1e-2  # how strongly a logistic coefficient is drawn to 0, as that many people would: none is infinite
STEPS, ENOUGH = 50, 1e-10


@dataclass(frozen=True, eq=False)
class Column:
    values: NDArray[Any]  # (n,) as given
    gap: Flags  # (n,)
    numbers: Floats  # (n,) nan in gaps: the value, or the place of its level
    levels: tuple[Any, ...]  # of two values, or words; empty: numbers

    def restored(self, numbers: Floats) -> NDArray[Any]:
        """(n,) of the kind that was given; what was known stays."""
        if not self.gap.any():
            return self.values
        if not self.levels:
            return numbers
        drawn = np.array([self.levels[place] for place in numbers[self.gap].astype(int)], self.values.dtype)
        found = self.values.copy()
        found[self.gap] = drawn
        return found


def fill(columns: Mapping[str, Column], outcome: Floats, iterations: int, rng: Generator) -> dict[str, NDArray[Any]]:
    now = {name: each.numbers.copy() for name, each in columns.items()}
    gaps = {name: np.flatnonzero(each.gap) for name, each in columns.items()}
    for name, rows in gaps.items():
        known = columns[name].numbers[~columns[name].gap]
        now[name][rows] = known[rng.integers(0, len(known), len(rows))]
    turns = sorted((name for name in columns if len(gaps[name])), key=lambda name: len(gaps[name]))
    for _ in range(iterations):
        for name in turns:
            others = [_shown(now[other], columns[other].levels) for other in columns if other != name]
            predictors = _scaled(np.hstack([outcome, *others]))
            column, rows = columns[name], gaps[name]
            seen = np.flatnonzero(~column.gap)
            if column.levels:
                drawn = draw_level(column.numbers[seen].astype(np.int64), predictors[seen], predictors[rows], rng)
                now[name][rows] = drawn
            else:
                now[name][rows] = draw_number(column.numbers[seen], predictors[seen], predictors[rows], rng)
    return {name: each.restored(now[name]) for name, each in columns.items()}


def _shown(numbers: Floats, levels: tuple[Any, ...]) -> Floats:
    """(n, 1), or an indicator for each level but the first."""
    if not levels:
        return numbers[:, None]
    return np.asarray(numbers[:, None] == np.arange(1, len(levels)), np.float64)


def _scaled(table: Floats) -> Floats:
    """(n, p + 1) with an intercept, the rest with mean 0 and deviation 1."""
    spread = table.std(0)
    spread[spread == 0] = 1.0
    return np.hstack([np.ones((len(table), 1)), (table - table.mean(0)) / spread])


def draw_number(known: Floats, seen: Floats, asked: Floats, rng: Generator) -> Floats:
    """Predictive mean matching: known (k,), seen (k, p), asked (j, p) -> (j,)."""
    squares = seen.T @ seen
    inverse = np.linalg.inv(squares + RIDGE * np.diag(np.diag(squares)))
    middle = inverse @ seen.T @ known
    free = max(len(known) - seen.shape[1], 1)
    spread = np.sqrt(((known - seen @ middle) ** 2).sum() / rng.chisquare(free))
    drawn = middle + spread * np.linalg.cholesky((inverse + inverse.T) / 2) @ rng.normal(size=len(middle))
    return known[_donors(seen @ middle, asked @ drawn, rng)]


def _donors(have: Floats, want: Floats, rng: Generator) -> Ints:
    """(k,), (j,) -> (j,) places in `have`: one of the nearest few of each."""
    number = min(DONORS, len(have))
    order = np.argsort(have, kind="stable")
    ranked = have[order]
    begin = np.clip(np.searchsorted(ranked, want) - number, 0, max(len(have) - 2 * number, 0))
    window = np.minimum(begin[:, None] + np.arange(2 * number), len(have) - 1)
    far = np.abs(ranked[window] - want[:, None])
    if len(have) < 2 * number:  # the last one again, and again
        far[:, len(have) :] = np.inf
    nearest = np.argsort(far, axis=1, kind="stable")[:, :number]
    chosen = nearest[np.arange(len(want)), rng.integers(0, number, len(want))]
    return np.asarray(order[window[np.arange(len(want)), chosen]], np.int64)


def draw_level(known: Ints, seen: Floats, asked: Floats, rng: Generator) -> Ints:
    """Multinomial: known (k,) places of levels, seen (k, p), asked (j, p) -> (j,)."""
    levels = int(known.max()) + 1
    middle, covariance = _multinomial(known, seen, levels)
    drawn = middle.ravel() + np.linalg.cholesky(covariance) @ rng.normal(size=middle.size)
    chances = np.cumsum(_softmax(asked, drawn.reshape(middle.shape)), axis=1)
    return np.asarray((rng.random(len(asked))[:, None] > chances[:, :-1]).sum(1), np.int64)


def _softmax(table: Floats, coefficients: Floats) -> Floats:
    """(n, p), (C - 1, p) -> (n, C); level 0 is the reference."""
    scores = np.hstack([np.zeros((len(table), 1)), table @ coefficients.T])
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def _multinomial(known: Ints, table: Floats, levels: int) -> tuple[Floats, Floats]:
    """Coefficients (C - 1, p) and the covariance of all of them, by Newton's method."""
    size = table.shape[1]
    hit = np.asarray(known[:, None] == np.arange(1, levels), np.float64)
    beta = np.zeros((levels - 1, size))
    curvature = np.eye(beta.size)
    for _ in range(STEPS):
        chances = _softmax(table, beta)[:, 1:]
        slope = (hit - chances).T @ table - SOFT * beta
        curvature = SOFT * np.eye(beta.size)
        for one in range(levels - 1):
            for other in range(levels - 1):
                heavy = chances[:, one] * ((one == other) - chances[:, other])
                block = table.T @ (heavy[:, None] * table)
                curvature[one * size : (one + 1) * size, other * size : (other + 1) * size] += block
        step = np.linalg.solve(curvature, slope.ravel())
        beta = beta + (step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))).reshape(beta.shape)
        if float(slope.ravel() @ step) < ENOUGH:
            break
    covariance = np.linalg.inv(curvature)
    return beta, (covariance + covariance.T) / 2
