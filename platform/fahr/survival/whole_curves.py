"""Whether whole survival curves are calibrated, over all times at once: each person's own end on its own curve.

found = d_calibration(event, survival)    # survival (n,): predicted chance of no event by each person's own end
found.p_value                             # small: the curves are wrong somewhere
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.chi_squared import beyond
from fahr.survival.people import read_people, read_risk

FEWEST_EXPECTED = 5  # people a bin, for the chi-squared distribution to be near


@dataclass(frozen=True)
class DCalibration:
    people: int
    events: int
    bins: tuple[float, ...]  # people in each tenth of the chance, from 0 up; of the censored, their shares
    statistic: float
    freedom: int
    p_value: float
    warnings: tuple[str, ...]


def d_calibration(
    event: ArrayLike, survival: ArrayLike, *, survival_at_entry: ArrayLike | None = None, bins: int = 10
) -> DCalibration:
    """Of right curves, S_i(T_i) is spread evenly from 0 to 1 (Haider et al. 2020, JMLR 21:85). Who is censored at S is
    anywhere below: S itself holds (S - low) / S of the bin it lies in, and each lower bin 1 / (bins S). Chi-squared
    with bins - 1 degrees of freedom; with much censoring it rejects less often than it says. survival_at_entry: with
    delayed entry, each curve is taken from there on."""
    rows = len(np.asarray(event))
    people, _ = read_people(np.ones(rows), event)
    left = _chances("survival", survival, rows)
    if survival_at_entry is not None:
        start = _chances("survival_at_entry", survival_at_entry, rows)
        wrong = (start < left) | (start == 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise Refused(
                f"survival_at_entry: row {row} has {start[row]}, below {left[row]} at the end, or 0. Give each curve "
                "at entry, above 0 and no lower than at the end."
            )
        left = left / start
    if bins < 2:
        raise Refused(f"bins: {bins} must be at least 2; 10 is usual.")
    if not people.event.any():
        raise Refused(f"event: none of the {rows:,} rows has it, so no curve can be told to be wrong.")
    place = np.minimum((left * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place[people.event], minlength=bins).astype(np.float64)
    for own, chance in zip(place[~people.event].tolist(), left[~people.event].tolist(), strict=True):
        if chance == 0:
            counts[0] += 1
            continue
        counts[:own] += 1 / (bins * chance)
        counts[own] += (chance - own / bins) / chance
    expected = rows / bins
    statistic = float(((counts - expected) ** 2).sum() / expected)
    told = []
    if expected < FEWEST_EXPECTED:
        told.append(f"{rows:,} people in {bins} bins: fewer than {FEWEST_EXPECTED} in each, so p is rough")
    return DCalibration(
        rows,
        int(people.event.sum()),
        tuple(counts.tolist()),
        statistic,
        bins - 1,
        beyond(statistic, bins - 1),
        tuple(told),
    )


def _chances(name: str, values: ArrayLike, rows: int) -> np.ndarray:
    chances = read_risk(name, values, rows)
    wrong = ~((chances >= 0) & (chances <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise Refused(f"{name}: row {row} is {chances[row]}; must be a chance of no event, from 0 to 1.")
    return chances
