"""What R found (r_values/generate.R), and the people it found it in."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines.datasets import load_gbsg2, load_lung, load_rossi

FOLDER = Path(__file__).parent / "r_values"


@cache
def _values():
    found = {}
    for line in (FOLDER / "values.csv").read_text().splitlines():
        if line[0] != "#" and not line.startswith("case,"):
            case, key, numbers = line.split(",", 2)
            found.setdefault(case, {})[key] = np.array([float(each) for each in numbers.replace("NA", "nan").split()])
    return found


def r(case):
    """{"coefficients": array, ...}; matrices by column, as R lays them out."""
    return _values()[case]


def close(ours, theirs, *, rtol=1e-6):
    """Equal to 1e-6, of each number or of the largest."""
    theirs = np.asarray(theirs)
    largest = np.nanmax(np.abs(theirs), initial=0.0)
    np.testing.assert_allclose(np.ravel(ours), np.ravel(theirs), rtol=rtol, atol=rtol * 1e-3 * largest)


@cache
def lung():
    return load_lung()[["time", "status", "age", "sex", "ph.ecog", "inst"]].dropna().reset_index(drop=True)


@cache
def rossi():
    return load_rossi()


@cache
def gbsg2():
    table = load_gbsg2()
    return table.assign(nodes=table["pnodes"] / 10, receptor=table["progrec"] / 100)


@cache
def liver():
    table = pd.read_csv(FOLDER / "pbc.csv").dropna().reset_index(drop=True)
    for name in ("bili", "protime", "albumin"):
        table[f"log {name}"] = np.log(table[name])
    return table


@cache
def random_people():
    return pd.read_csv(FOLDER / "random.csv")
