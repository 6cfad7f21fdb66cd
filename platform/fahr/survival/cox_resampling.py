"""One Cox model fitted to many resamples of the same people, who are sorted only once.

refit = CoxRefit.of(watch, {"x": x}, fit)         # watch: people by time; fit: the model of all of them, to start from
found = refit(counts)                             # None: the resample determines no coefficients
found.coefficients, found.hazard(365.0)           # hazard: cumulative, of a row of zeros

What `fit_cox` finds for rows repeated as often as they were drawn, several times sooner.
n = people, K = columns, M = 1 + K + K (K + 1) / 2 sums, D = events drawn, each as often as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fahr.survival.cox import FARTHEST, CoxFit
from fahr.survival.horizon import Watch
from fahr.survival.partial_likelihood import WIDE
from fahr.survival.people import Floats, Ints

STEPS, ENOUGH = 30, 1e-12  # of Newton's method; by how much, in log-likelihood, another step would gain
HALVES = 20  # of a step that does not rise


@dataclass(frozen=True, eq=False)
class Refitted:
    coefficients: Floats  # (K,)
    _time: Floats  # (D,) rising
    _added: Floats  # (D,)

    def hazard(self, horizon: float) -> float:
        return float(self._added[: int(np.searchsorted(self._time, horizon, "right"))].sum())


@dataclass(frozen=True, eq=False)
class CoxRefit:
    watch: Watch
    table: Floats  # (n, K) with mean 0 and deviation 1
    sums: Floats  # (M, n) what is summed over those at risk: 1, the columns, and their products
    pairs: tuple[Ints, Ints]  # (K (K + 1) / 2,) which columns are multiplied
    start: Floats  # (K,)
    centre: Floats
    scale: Floats
    by_entry: Ints | None  # (n,) rows by entry
    late: Ints | None  # (n,) place in that order of the first who enters too late to be at risk when a row leaves

    @staticmethod
    def of(watch: Watch, columns: Mapping[str, Floats], fit: CoxFit) -> "CoxRefit":
        raw = np.column_stack([columns[name] for name in fit.names])
        centre, scale = raw.mean(0), raw.std(0)
        table = (raw - centre) / scale
        pairs = np.triu_indices(table.shape[1])
        sums = np.vstack([np.ones(len(table)), table.T, table.T[pairs[0]] * table.T[pairs[1]]])
        by_entry = late = None
        if watch.entry is not None:
            by_entry = np.argsort(watch.entry, kind="stable")
            late = np.searchsorted(watch.entry[by_entry], watch.time, "left")
        return CoxRefit(watch, table, sums, pairs, fit.coefficients * scale, centre, scale, by_entry, late)

    def __call__(self, counts: Floats) -> Refitted | None:
        drawn = _Drawn.of(self.watch, counts)
        if not len(drawn.dead):
            return None
        beta = self.start
        with np.errstate(all="ignore"):  # of steps that are too long, and halved
            value, slope, information, added = self._judge(drawn, beta)
            for _ in range(STEPS):
                try:
                    step = np.linalg.solve(information, slope)
                except np.linalg.LinAlgError:
                    return None
                if float(step @ slope) <= ENOUGH:
                    break
                for _ in range(HALVES):
                    found = self._judge(drawn, beta + step)
                    if value <= found[0] < np.inf:
                        break
                    step = step / 2
                beta, (value, slope, information, added) = beta + step, found
        if not np.isfinite(value) or not (np.abs(beta) < FARTHEST).all():
            return None
        coefficients = beta / self.scale
        shift = np.exp(-float(coefficients @ self.centre))
        return Refitted(coefficients, self.watch.time[drawn.dead], added * shift)

    def _judge(self, drawn: "_Drawn", beta: Floats) -> tuple[float, Floats, Floats, Floats]:
        """Log-likelihood, its slope (K,), information (K, K), and what each event adds to the hazard (D,)."""
        size = len(beta)
        score = np.einsum("k,kn", beta, self.sums[1 : size + 1])  # not by BLAS, whose threads would be in the way
        highest = float(score.max())
        if self.by_entry is not None and highest - float(score.min()) > WIDE:
            return np.nan, np.full(size, np.nan), np.full((size, size), np.nan), np.full(len(drawn.dead), np.nan)
        values = self.sums * (drawn.counts * np.exp(score - highest))
        at_risk = _from(values)[:, drawn.first]
        if self.by_entry is not None and self.late is not None:
            at_risk = at_risk - _from(values[:, self.by_entry])[:, self.late[drawn.dead]]
        own = values[:, drawn.dead] / drawn.counts[drawn.dead]
        at_risk -= drawn.share * np.add.reduceat(own, drawn.begins, axis=1)[:, drawn.tie]
        mean = at_risk[1 : size + 1] / at_risk[0]
        information = np.empty((size, size))
        upper = (at_risk[size + 1 :] / at_risk[0]).sum(1) - (mean[self.pairs[0]] * mean[self.pairs[1]]).sum(1)
        information[self.pairs] = upper
        information.T[self.pairs] = upper
        value = float((score[drawn.dead] - highest - np.log(at_risk[0])).sum())
        slope = self.table[drawn.dead].sum(0) - mean.sum(1)
        return value, slope, information, np.exp(-highest) / at_risk[0]


@dataclass(frozen=True, eq=False)
class _Drawn:
    counts: Floats  # (n,)
    dead: Ints  # (D,) rows
    first: Ints  # (D,) the first row of the same time
    begins: Ints  # first event of each time
    tie: Ints  # (D,) number of that time
    share: Floats  # (D,) Efron: how much of those with the event at that time counts as gone already

    @staticmethod
    def of(watch: Watch, counts: Floats) -> "_Drawn":
        rows = np.flatnonzero(watch.event)
        dead = np.repeat(rows, counts[rows].astype(np.int64))
        first = watch.first[dead]
        new = np.diff(first, prepend=-1) > 0
        begins, tie = np.flatnonzero(new), np.cumsum(new) - 1
        number = np.bincount(tie)
        share = (np.arange(len(dead)) - begins[tie]) / number[tie] if len(dead) else np.zeros(0)
        return _Drawn(counts, dead, first, begins, tie, share)


def _from(values: Floats) -> Floats:
    """(M, n) -> (M, n + 1): the sum of a row and all after it; 0 after the last."""
    found = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values[:, ::-1], axis=1, out=found[:, -2::-1])
    return found
