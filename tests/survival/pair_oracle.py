"""Every pair in an n x n table: the definition itself, slow and plain. n = rows."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Oracle:
    """(n, n) pairs, i down and j across, and what each is worth."""

    comparable: np.ndarray
    tied: np.ndarray
    concordant: np.ndarray


def all_pairs(time, event, risk, entry=None, subject=None, before=np.inf):
    i, j = np.ogrid[: len(time), : len(time)]
    later = (time[i] < time[j]) | ((time[i] == time[j]) & (event[j] == 0))
    comparable = (i != j) & (event[i] == 1) & (time[i] < before) & later
    if entry is not None:
        comparable &= entry[j] < time[i]
    if subject is not None:
        comparable &= subject[i] != subject[j]
    tied = comparable & (np.abs(risk[i] - risk[j]) <= 1e-8)
    return Oracle(comparable, tied, comparable & ~tied & (risk[i] > risk[j]))


def value_of(oracle, weights, ipcw=None):
    """The index as a function of the case weights, which may be complex; nan without a pair."""
    pair = np.outer(weights * (1.0 if ipcw is None else ipcw), weights) * oracle.comparable
    if not pair.sum().real > 0:
        return float("nan")
    return (pair * (oracle.concordant + 0.5 * oracle.tied)).sum() / pair.sum()


def random_case(rng, most=14):
    """A small cohort with ties of every kind; every optional column is there half the time."""
    n = int(rng.integers(0, most))
    time = rng.integers(0, rng.integers(2, 12), n).astype(float)
    event = rng.random(n) < rng.choice([0.1, 0.5, 0.9, 1.0])
    risk = rng.integers(-3, rng.integers(-1, 8), n).astype(float)
    if rng.random() < 0.5:  # near-ties on both sides of 1e-8, in chains
        risk = risk + rng.integers(-3, 4, n) * rng.choice([4e-9, 1e-8, 6e-9, 1.5e-8])
    case = {"time": time, "event": event.astype(float), "risk": risk}
    if rng.random() < 0.5:
        case["entry"] = time - rng.choice([0.5, 1.0, 2.0, 5.0], n)
    if rng.random() < 0.5:
        case["weights"] = rng.choice([0.0, 0.25, 1.0, 2.0, 3.0], n)
    if rng.random() < 0.5:
        case["subject"] = rng.integers(0, max(1, n // 2) + 1, n)
    return case


def cohort(n, seed, *, ties=False):
    """A prognostic risk with a true concordance of about 0.7, a third or so censored."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    died = rng.exponential(np.exp(-risk))
    left = rng.exponential(2.0, n)
    time, event = np.minimum(died, left), (died <= left).astype(float)
    if ties:
        time, risk = np.ceil(time * 8) / 8, np.round(risk, 1)
    return time, event, risk
