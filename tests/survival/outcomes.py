"""Planted people: what the risk says of them beside their age is known."""

import numpy as np


def people(n, seed, *, own=0.0, delayed=False, age_effect=0.07):
    """time (days), event, risk, age, and entry or None. `own`: log hazard ratio a SD of what only the risk shows."""
    rng = np.random.default_rng(seed)
    age, hidden = rng.uniform(20, 90, n), rng.normal(size=n)
    risk = 0.07 * age + own * hidden + rng.normal(0, 0.3, n)
    died = rng.exponential(4000 * np.exp(-age_effect * (age - 60) - own * hidden))
    left = rng.uniform(500, 5000, n)
    time = np.ceil(np.minimum(died, left))
    entry = np.where(rng.random(n) < 0.4, np.floor(time * rng.random(n)), 0.0) if delayed else None
    return time, (died <= left).astype(float), risk, age, entry


def efron(beta, time, event, table, entry=None):
    """Log partial likelihood by its definition, death by death."""
    shown = table @ np.asarray(beta)
    total = 0.0
    for moment in np.unique(time[event == 1]):
        watched = time >= moment if entry is None else (time >= moment) & (entry < moment)
        dead = (time == moment) & (event == 1)
        number = int(dead.sum())
        total += shown[dead].sum()
        everyone, those = np.exp(shown[watched]).sum(), np.exp(shown[dead]).sum()
        total -= sum(np.log(everyone - step / number * those) for step in range(number))
    return total
