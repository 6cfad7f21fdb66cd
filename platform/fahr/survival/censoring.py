"""Who would still be watched at t had nobody died: the survival function of censoring, and Uno's weights by it.

censoring = censoring_survival(time, event)    # of the training people
censoring(times)                               # (m,) probabilities
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.people import Flags, Floats, People, read_people

Survival = Callable[[Floats], ArrayLike]

LEAST = 0.05  # by default no pair is weighted by less than this chance of being watched
EVENTS_PERCENTILE = 95.0


@dataclass(frozen=True)
class StepFunction:
    """A probability that falls at each time, and has fallen at that time already."""

    time: Floats  # (m,) rising
    probability: Floats  # (m,) just after

    def __call__(self, time: ArrayLike) -> Floats:
        return np.concatenate(([1.0], self.probability))[np.searchsorted(self.time, time, "right")]


def censoring_survival(
    time: ArrayLike, event: ArrayLike, *, entry: ArrayLike | None = None, weights: ArrayLike | None = None
) -> StepFunction:
    """Kaplan-Meier with the censored as events. At equal times events come first, so they are not at risk of it."""
    return fit_censoring(read_people(time, event, entry=entry, weights=weights)[0])


def fit_censoring(people: People) -> StepFunction:
    times, place = np.unique(people.time, return_inverse=True)
    size = len(times)
    died = np.bincount(place, people.weights * people.event, size)
    censored = np.bincount(place, people.weights * ~people.event, size)
    at_risk = np.cumsum((died + censored)[::-1])[::-1]
    if people.entry is not None:  # not watched yet at the times up to entry
        entered = np.searchsorted(times, people.entry, "right")
        at_risk = at_risk - np.cumsum(np.bincount(entered, people.weights, size + 1)[::-1])[::-1][1:]
    left = np.maximum(at_risk - died, censored)  # rounding must not make a negative probability
    stays = 1.0 - np.divide(censored, left, out=np.zeros(size), where=censored > 0)
    return StepFunction(times, np.asarray(np.cumprod(stays), np.float64))


def uno_weights(people: People, censoring: Survival | None, tau: float | None) -> tuple[Floats, float]:
    """(n,) G(T)^-2 of the events before tau, 0 of all others; and tau, chosen if it was None.

    The default lies just above the smaller of two times: the 95th percentile of the event times, and the last observed
    time at which G is above 0.05.
    """
    if censoring is None:
        chance = fit_censoring(people)(people.time)
    else:
        chance = np.asarray(censoring(people.time), np.float64)
        if chance.shape != people.time.shape or not ((chance >= 0) & (chance <= 1)).all():
            raise Refused("censoring: must give one probability, from 0 to 1, for each of the times it is called with.")
    if tau is None:
        tau = _default_tau(people, chance)
    active = people.event & (people.time < tau)
    never = active & (chance <= 0)
    if never.any():
        worst = float(people.time[never].min())
        raise Refused(
            f"censoring: nobody is still watched at time {worst:g}, so an event there would weigh infinitely much. "
            f"Give tau={worst:g} or less."
        )
    return np.divide(1.0, chance**2, out=np.zeros(len(people)), where=active), tau


def _default_tau(people: People, chance: Floats) -> float:
    watched: Flags = chance > LEAST
    if not watched.any():
        return 0.0
    last = float(people.time[watched].max())
    if people.event.any():
        last = min(last, float(np.percentile(people.time[people.event], EVENTS_PERCENTILE)))
    return float(np.nextafter(last, np.inf))
