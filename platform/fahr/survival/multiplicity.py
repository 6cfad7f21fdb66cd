"""p-values of a family of tests, adjusted for there being many.

holm(p)                     # (m,): at or below 0.05, and the chance of even one false finding is 0.05 at most
false_discovery_rate(p)     # (m,): of those at or below 0.05, 5 % are false on average
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused, nearest
from fahr.survival.people import Floats, Ints

Dependence = Literal["positive", "any"]


def holm(p_values: ArrayLike) -> Floats:
    """Step down (Holm 1979, Scandinavian Journal of Statistics 6:65). nan, a test that was not done, stays nan and is
    not counted; any dependence."""
    given, order = _read(p_values)
    tests = len(order)
    steps = np.maximum.accumulate(given[order] * np.arange(tests, 0, -1))
    return _placed(given, order, steps)


def false_discovery_rate(p_values: ArrayLike, *, dependence: Dependence = "positive") -> Floats:
    """Step up: "positive" dependence or none, by Benjamini and Hochberg (1995, JRSS B 57:289); "any", by Benjamini and
    Yekutieli (2001, Annals of Statistics 29:1165). nan as in `holm`."""
    if dependence not in get_args(Dependence):
        raise Refused(
            f"dependence: {dependence!r} is not known.{nearest(dependence, get_args(Dependence))} Give one of "
            f"{get_args(Dependence)}."
        )
    given, order = _read(p_values)
    tests = len(order)
    rank = np.arange(1, tests + 1)
    price = float((1 / rank).sum()) if dependence == "any" else 1.0
    steps = np.minimum.accumulate((given[order] * tests * price / rank)[::-1])[::-1]
    return _placed(given, order, steps)


def _read(p_values: ArrayLike) -> tuple[Floats, Ints]:
    """(m,), and the places of those that are not nan, rising."""
    given = np.asarray(p_values, np.float64)
    if given.ndim != 1:
        raise Refused(f"p_values: has shape {given.shape}; must be (m,), one for each test of the family. Flatten it.")
    wrong = ~np.isnan(given) & ~((given >= 0) & (given <= 1))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise Refused(f"p_values: number {place} is {given[place]}; must be from 0 to 1, or nan for a test not done.")
    order = np.argsort(given, kind="stable")
    return given, np.asarray(order[: int((~np.isnan(given)).sum())], np.int64)


def _placed(given: Floats, order: Ints, steps: Floats) -> Floats:
    found = np.full(len(given), np.nan)
    found[order] = np.minimum(steps, 1.0)
    return found
