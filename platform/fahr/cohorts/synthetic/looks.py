"""How well anybody could tell the age from a face: the best guess at a calendar age, given the age that is drawn.

best = expected_age(apparent)              # (N,) years; its mean error is the least there can be
"""

import numpy as np
import numpy.typing as npt

from fahr.cohorts.synthetic.truth import make_truth

Floats = npt.NDArray[np.float64]

_OTHERS, _NEAREST = 100_000, 1_000  # people asked, and how many of them for a guess


def expected_age(apparent: Floats) -> Floats:
    """E[age | apparent age], years: the mean age of the thousand of 100,000 other people who look nearest to it."""
    others = make_truth(_OTHERS, seed=7).truth
    looks, ages = (np.asarray(others[name].to_numpy(), np.float64) for name in ("apparent_age", "age"))
    order = np.argsort(looks)
    sums = np.concatenate([[0.0], np.cumsum(ages[order])])
    half = _NEAREST // 2
    places = np.clip(np.searchsorted(looks[order], apparent), half, _OTHERS - half)
    return np.asarray((sums[places + half] - sums[places - half]) / _NEAREST)
