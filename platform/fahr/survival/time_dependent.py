"""Concordance of whole survival curves, which may cross: compared at the time of each event.

found = time_dependent_concordance(time, event, survival)          # (n, m) at the m distinct event times, rising
found = time_dependent_concordance(time, event, lambda t: curve(t))   # or t -> (n,)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused
from fahr.survival.cindex import standard_error
from fahr.survival.pairs import TIED
from fahr.survival.people import Floats, People, read_people


@dataclass(frozen=True)
class TimeDependentConcordance:
    """As `Concordance`; nan where nobody is comparable."""

    value: float
    standard_error: float  # infinitesimal jackknife, summed within subjects
    concordant: float
    discordant: float
    tied_survival: float  # within 1e-8
    comparable: float


def time_dependent_concordance(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike | Callable[[float], ArrayLike],
    *,
    entry: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    subject: ArrayLike | None = None,
) -> TimeDependentConcordance:
    """Antolini's index: the share of comparable pairs with S(T_i | i) < S(T_i | j), ties half.

    survival: everybody's predicted probability of no event, higher = better: a column for each of
    np.unique(time[event == 1]), or a function that is called once with each of these times. Pairs are those of
    `concordance`. With curves that never cross it equals Harrell's. O(events x n) time, as reading the curves is.
    """
    people, kept = read_people(time, event, entry=entry, weights=weights, subject=subject)
    rows = len(np.asarray(time))
    times = np.unique(np.asarray(time, np.float64)[np.asarray(event, np.float64) == 1])
    if not callable(survival):
        columns = np.asarray(survival, np.float64)
        if columns.shape != (rows, len(times)):
            raise Refused(
                f"survival: has shape {columns.shape}; must be {(rows, len(times))}, a row each and a column for every "
                "distinct event time, rising."
            )
    credit, pairs, sums = np.zeros(len(people)), np.zeros(len(people)), np.zeros(3)
    for place, moment in enumerate(times.tolist()):
        column = np.asarray(survival(moment), np.float64) if callable(survival) else columns[:, place]
        _check(column, rows, moment)
        _judge_moment(people, moment, column[kept], credit, pairs, sums)
    concordant, tied, comparable = sums.tolist()
    if comparable == 0:
        return TimeDependentConcordance(float("nan"), float("nan"), 0.0, 0.0, 0.0, 0.0)
    value = (concordant + 0.5 * tied) / comparable
    influences = people.weights * (credit - value * pairs) / comparable
    error = standard_error(influences, people.subject)
    return TimeDependentConcordance(value, error, concordant, comparable - concordant - tied, tied, comparable)


def _check(column: NDArray[np.float64], rows: int, moment: float) -> None:
    if column.shape != (rows,):
        raise Refused(f"survival: has shape {column.shape} at time {moment:g}; must be {(rows,)}, one number a row.")
    wrong = ~((column >= 0) & (column <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise Refused(f"survival: row {row} has {column[row]} at time {moment:g}; must be a probability, from 0 to 1.")


def _judge_moment(people: People, moment: float, survival: Floats, credit: Floats, pairs: Floats, sums: Floats) -> None:
    """Adds the pairs of the events at one time: to both rows of each pair, and to `sums` (3,)."""
    watched = (people.time > moment) | ((people.time == moment) & ~people.event)
    if people.entry is not None:
        watched &= people.entry < moment
    others = np.flatnonzero(watched)
    for row in np.flatnonzero(people.event & (people.time == moment)).tolist():
        later = others if people.subject is None else others[people.subject[others] != people.subject[row]]
        gap = survival[later] - survival[row]
        tied = np.abs(gap) <= TIED
        success = np.where(tied, 0.5, gap > 0)
        own, theirs = people.weights[row], people.weights[later]
        credit[row] += (theirs * success).sum()
        pairs[row] += theirs.sum()
        credit[later] += own * success
        pairs[later] += own
        found = [((gap > 0) & ~tied), tied, np.ones(len(later), bool)]
        sums += own * np.array([theirs[each].sum() for each in found])
