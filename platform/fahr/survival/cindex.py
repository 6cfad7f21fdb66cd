"""How often the person with the higher risk has the event first: exact, in O(n log n) time and O(n) memory.

found = concordance(time, event, risk)
found.value, found.standard_error, found.comparable
"""

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused, nearest
from fahr.survival.censoring import Survival, uno_weights
from fahr.survival.pairs import Counts, Ranks, Timeline, as_earlier, as_later, count, rank_risks, sort_by_time
from fahr.survival.people import Flags, Floats, Ints, People, read_people, read_risk

Kind = Literal["harrell", "uno"]

REVERSED_BELOW = 0.4


class ReversedSign(UserWarning):
    """A concordance so low that the sign of the risk is probably wrong."""


@dataclass(frozen=True)
class Sample:
    """What stays the same whichever risk is judged. n = rows."""

    rows: int  # that the caller gave
    people: People
    kept: Ints  # (n,) which of those rows
    kind: Kind
    active: Flags  # (n,) events that are the earlier one of pairs
    ipcw: Floats | None  # (n,) factor of the pairs of such an event; None: 1
    tau: float | None
    timeline: Timeline

    @property
    def pair_weights(self) -> Floats:
        """(n,) what the earlier one brings to a pair."""
        return self.people.weights if self.ipcw is None else self.people.weights * self.ipcw


@dataclass(frozen=True)
class Concordance:
    """A pair counts as the product of its two case weights, without Uno's factor: whole numbers without weights."""

    value: float  # from 0 to 1, 0.5 = no better than chance; nan where nobody is comparable
    concordant: float  # the earlier one had the higher risk
    discordant: float
    tied_risk: float  # risks within 1e-8, half a success each
    comparable: float  # all three
    kind: Kind
    tau: float | None  # only events before it count; None: all
    _sample: Sample = field(repr=False, compare=False)
    _ranks: Ranks = field(repr=False, compare=False)
    _earlier: Counts = field(repr=False, compare=False)

    @cached_property
    def standard_error(self) -> float:
        """Infinitesimal jackknife, summed within subjects; Uno's factors are taken as known. Computed when asked for.

        0 where every pair agrees, which says little about the next cohort.
        """
        return standard_error(influence(self), self._sample.people.subject)

    @property
    def looks_reversed(self) -> bool:
        """Below 0.4: of a fitted model, most likely the sign of the risk. Higher must mean worse."""
        return self.value < REVERSED_BELOW

    def warn_if_reversed(self, name: str) -> None:
        """For risks that ought to be informative: a `ReversedSign` warning that names the marker."""
        if self.looks_reversed:
            warnings.warn(
                f"{name}: concordance {self.value:.3f} is below {REVERSED_BELOW}. Higher risk must mean an earlier "
                "event; for survival times or survival probabilities, give their negative.",
                ReversedSign,
                stacklevel=2,
            )


def concordance(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    kind: Kind = "harrell",
    tau: float | None = None,
    censoring: Survival | None = None,
) -> Concordance:
    """The share of comparable pairs in which the higher risk had the event first, ties half. All arrays are (n,).

    A pair: i has the event at T_i; j leaves later, or at T_i without it; entry_j < T_i; the subjects differ.
    risk: any scale, higher = worse. time, entry, tau: any one unit. event: 1 seen, 0 censored. weights: cases, a pair
    weighs the product. subject: rows of one subject are no pair, and one cluster of the error. tau: only events before
    it count.
    kind "uno": pairs weigh G(T_i)^-2 besides (Uno et al., Statistics in Medicine 2011), G = `censoring` (times ->
    probabilities), or Kaplan-Meier of these rows; tau defaults to just above the smaller of the 95th percentile of the
    event times and the last time with G > 0.05.
    """
    sample = read_sample(time, event, entry, weights, subject, kind, tau, censoring)
    return judge(sample, risk)


def read_sample(
    time: ArrayLike,
    event: ArrayLike,
    entry: ArrayLike | None,
    weights: ArrayLike | None,
    subject: ArrayLike | None,
    kind: Kind,
    tau: float | None,
    censoring: Survival | None,
) -> Sample:
    if kind not in get_args(Kind):
        raise Refused(
            f"kind: {kind!r} is not known, only {' and '.join(get_args(Kind))}.{nearest(kind, get_args(Kind))}"
        )
    if tau is not None and not tau > 0:
        raise Refused(f"tau: {tau} is not above 0. Give a time in the unit of `time`, or leave it out.")
    if censoring is not None and kind != "uno":
        raise Refused('censoring: only kind="uno" weighs by it. Leave it out, or ask for that kind.')
    people, kept = read_people(time, event, entry=entry, weights=weights, subject=subject)
    ipcw = None
    active = people.event
    if kind == "uno":
        ipcw, tau = uno_weights(people, censoring, tau)
    if tau is not None:
        active = people.event & (people.time < tau)
    return Sample(len(np.asarray(time)), people, kept, kind, active, ipcw, tau, sort_by_time(people))


def judge(sample: Sample, risk: ArrayLike, name: str = "risk") -> Concordance:
    """`risk`: one value for each row that the caller gave. `name`: what a refusal calls it."""
    ranks = rank_risks(read_risk(name, risk, sample.rows)[sample.kept])
    people = sample.people
    found = count(as_earlier(people, sample.active, ranks, sample.timeline), people.weights, people.weights)
    credit, every = found.below + 0.5 * found.tied, found.all
    if sample.ipcw is not None:
        own = sample.pair_weights
        credit, every = float((own * found.credit).sum()), float((own * found.total).sum())
    value = credit / every if found.pairs and every > 0 else float("nan")
    discordant = found.all - found.below - found.tied
    return Concordance(
        value, found.below, discordant, found.tied, found.all, sample.kind, sample.tau, sample, ranks, found
    )


def influence(found: Concordance) -> Floats:
    """(n,) weight times the derivative of the value by that weight; nan where the value is.

    With N = sum of the credits and M = sum of the weights of all pairs, the value is N / M, and the derivative by w_k
    is (N_k - value * M_k) / M, N_k and M_k over the pairs with k in them, as the earlier or as the later one.
    """
    sample = found._sample
    people = sample.people
    if np.isnan(found.value):
        return np.full(len(people), np.nan)
    own = sample.pair_weights
    sweeps = as_later(people, sample.active, found._ranks, sample.timeline)
    later = count(sweeps, own, people.weights)
    factor = 1.0 if sample.ipcw is None else sample.ipcw
    every = float((own * found._earlier.total).sum())
    # `later` counts the credit of lower risks before k; k is the later one of successes where the risk was higher
    credits = factor * found._earlier.credit + (later.total - later.credit)
    pairs = factor * found._earlier.total + later.total
    return np.asarray(people.weights * (credits - found.value * pairs) / every, np.float64)


def standard_error(influences: Floats, cluster: Ints | None) -> float:
    """Root of the sum of the squares, summed within clusters first."""
    sums = influences if cluster is None or not len(cluster) else np.bincount(cluster, influences)
    return float(np.sqrt((sums**2).sum())) if len(sums) else float("nan")
