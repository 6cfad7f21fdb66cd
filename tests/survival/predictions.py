"""Data with predicted chances: those R judged (r_values/prediction.json), planted ones; weights by their definition."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.csv


@cache
def of_r():
    return json.loads((Path(__file__).parent / "r_values" / "prediction.json").read_text())


def _table(name):
    """A data set that lifelines carries, without the seconds that lifelines takes to import."""
    folder = Path(find_spec("lifelines").submodule_search_locations[0]) / "datasets"
    return {key: np.array(each) for key, each in pyarrow.csv.read_csv(folder / f"{name}.csv").to_pydict().items()}


@cache
def breast():
    """time, event, before, after, entry: as generate_prediction.R makes them."""
    data = _table("gbsg2")
    size, nodes, age, time = (data[name].astype(float) for name in ("tsize", "pnodes", "age", "time"))
    hormone = (data["horTh"] == "yes").astype(float)
    before = 1 - np.exp(-np.exp(-1.6 + 0.02 * size))
    after = 1 - np.exp(-np.exp(-1.6 + 0.0093 * size + 0.0811 * nodes - 0.3037 * hormone))
    return time, data["cens"].astype(float), before, after, np.floor(time * (age % 5) / 10)


@cache
def lung():
    """time, event, chance."""
    data = _table("lung")
    age, sex = data["age"].astype(float), data["sex"].astype(float)
    chance = 1 - np.exp(-np.exp(-1.2 + 0.0213 * (age - 60) - 0.4037 * (sex - 1)))
    return data["time"].astype(float), data["status"].astype(float), chance


def planted(n, seed, *, ties=False, delayed=False):
    """time, event, score and entry; the hazard is exp(score) a unit of time, so the chance by t is
    1 - exp(-t exp(score)). Delayed: people who were gone before they could enter are not there."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n) * 0.8
    died, left = rng.exponential(np.exp(-score)), rng.exponential(1.5, n)
    entry = np.where(rng.random(n) < 0.5, rng.uniform(0, 0.6, n), 0.0) if delayed else np.zeros(n)
    time = np.minimum(died, entry + left)
    event = (died <= entry + left).astype(float)
    if ties:
        time = np.ceil(time * 10) / 10
        entry = np.floor(entry * 10) / 10
        score = np.round(score, 1)
    kept = entry < np.minimum(time, died)
    return time[kept], event[kept], score[kept], entry[kept] if delayed else None


def chance(score, horizon):
    return 1 - np.exp(-horizon * np.exp(score))


def standing(time, event, entry, horizon):
    """(n,) what each stands for, one by one: S(T-) / R(T) of an event, S(t) / R(t+) of those beyond."""
    entry = np.full(len(time), -np.inf) if entry is None else entry
    found = np.zeros(len(time))
    left = 1.0
    for moment in np.unique(time[(event == 1) & (time <= horizon)]):
        at_risk = ((entry < moment) & (time >= moment)).sum()
        dead = (time == moment) & (event == 1)
        found[dead] = left / at_risk
        left *= 1 - dead.sum() / at_risk
    beyond = (time > horizon) & (entry <= horizon)
    found[beyond] = left / beyond.sum()
    return found
