"""What a pair counts for. n = people, D = events with a later partner.

none    1
ipcw    1 / G(T_i)^2: G is the survival function of censoring, so that pairs count as if nobody had been censored
        (Uno 2011, Statistics in Medicine 30:1105)
gap     min((T_j - T_i) / gap_unit, 5): pairs that are years apart tell more than pairs that are days apart
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakSet

import numpy as np

from fahr.errors import Refused, nearest
from fahr.objectives.outcomes import Floats
from fahr.objectives.pairs import Pairs

WEIGHTS = ("none", "ipcw", "gap")
FLOOR = 0.05  # of G: no event counts more than 400 times
GAP_CAP = 5.0  # in gap_units

Censoring = Callable[[Floats], Floats]  # times -> share of people not yet censored then, fitted on training data

_told: WeakSet[Censoring] = WeakSet()  # whose floor was spoken of: once is enough for a run of many batches


def check_weight(weight: str, censoring: Censoring | None, gap_unit: float | None) -> None:
    if weight not in WEIGHTS:
        raise Refused(f"weight {weight!r}: not one of {', '.join(WEIGHTS)}.{nearest(str(weight), WEIGHTS)}")
    if weight == "ipcw" and not callable(censoring):
        raise Refused(
            f"weight 'ipcw' with censoring={censoring!r}: needs the survival function of censoring, a function of "
            "times fitted on the training data. Give censoring, or weight='none'."
        )
    if weight == "gap" and not (gap_unit is not None and 0 < gap_unit < float("inf")):
        raise Refused(
            f"weight 'gap' with gap_unit={gap_unit!r}: needs one year in the unit of `time`, above 0. Give 365.25 for "
            "days, or weight='none'."
        )
    if censoring is not None and weight != "ipcw":
        warnings.warn(f"censoring has no effect with weight={weight!r}: only 'ipcw' reads it.", stacklevel=3)
    if gap_unit is not None and weight != "gap":
        warnings.warn(f"gap_unit has no effect with weight={weight!r}: only 'gap' reads it.", stacklevel=3)


def weighted(pairs: Pairs, weight: str, censoring: Censoring | None, gap_unit: float | None) -> Pairs:
    """The same pairs, less those that count for nothing."""
    if weight == "ipcw":
        assert censoring is not None
        return _inverse_censoring(pairs, censoring)
    if weight == "gap":
        assert gap_unit is not None
        return replace(pairs, gap=pairs.time / gap_unit)
    return pairs


def _inverse_censoring(pairs: Pairs, censoring: Censoring) -> Pairs:
    if not len(pairs.rows):
        return pairs
    times = pairs.time[pairs.rows]
    uncensored = np.asarray(censoring(times), np.float64)
    if uncensored.shape != times.shape:
        raise Refused(f"censoring gave shape {uncensored.shape} for {len(times)} times: one share each is needed.")
    wrong = np.flatnonzero(~((uncensored >= 0) & (uncensored <= 1)))
    if len(wrong):
        raise Refused(
            f"censoring gave {uncensored[wrong[0]]} at time {times[wrong[0]]:g}, row "
            f"{pairs.order[pairs.rows[wrong[0]]]}: a share between 0 and 1 is needed. Give the survival function of "
            "censoring, not its hazard or weights."
        )
    low = (uncensored > 0) & (uncensored < FLOOR)
    if low.any() and _is_new(censoring):
        warnings.warn(
            f"ipcw: at {low.sum()} of {len(low)} events of this batch fewer than {FLOOR:.0%} were uncensored (least: "
            f"{uncensored[low].min():.3g}); they count as at {FLOOR:.0%}. Told once for this censoring.",
            stacklevel=4,
        )
    some = uncensored > 0
    return replace(
        pairs,
        rows=pairs.rows[some],
        first=pairs.first[some],
        row_weight=np.maximum(uncensored[some], FLOOR) ** -2.0,
    )


def _is_new(censoring: Censoring) -> bool:
    try:
        new = censoring not in _told
        _told.add(censoring)
    except TypeError:  # an object that cannot be remembered is told of every time
        return True
    return new
