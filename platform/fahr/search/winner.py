"""The finalists, judged again with seeds that the sweep did not have; which of them wins; how it flattered.

winner = choose(finalists)
optimism(metric, winner, held_out)          # above 0: it did better where it was chosen
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fahr.biomarkers.accuracy_results import Estimate
from fahr.errors import Refused
from fahr.search.metrics import Metric
from fahr.search.spaces import Settings
from fahr.search.trials import Trial


@dataclass(frozen=True)
class Finalist:
    number: int  # of the trial in the sweep
    settings: Settings
    runs: tuple[Trial, ...]  # one a seed
    held: tuple[str, ...] = ()  # where each has written what it says of the people kept aside

    @property
    def score(self) -> float | None:
        """The mean over seeds, lower is better; None where one of them failed."""
        scores = [each.score for each in self.runs]
        return None if None in scores or not scores else float(np.mean([each for each in scores if each is not None]))

    @property
    def metric(self) -> float:
        """Likewise, in the metric's unit."""
        return float(np.mean([each.metric for each in self.runs if each.metric is not None]))


def choose(finalists: Sequence[Finalist]) -> Finalist:
    """The best by the mean over its seeds, of which the sweep knew none; of equals the default, then the earlier."""
    there = [(each.score, each.number, each) for each in finalists if each.score is not None]
    if not there:
        errors = "; ".join(dict.fromkeys(run.error for each in finalists for run in each.runs if run.error))
        raise Refused(f"every finalist failed with some seed ({errors}). Search gentler values, or more trials.")
    return min(there, key=lambda each: each[:2])[2]


def optimism(metric: Metric, winner: Finalist, held_out: Estimate) -> Estimate:
    """By how much better it looked where it was chosen; the interval is that of the people kept aside."""
    sign = 1.0 if metric.higher_is_better else -1.0
    ends = [None if each is None else sign * (winner.metric - each) for each in (held_out.low, held_out.high)]
    low, high = sorted(each for each in ends if each is not None) if None not in ends else (None, None)
    assert held_out.value is not None
    return Estimate(sign * (winner.metric - held_out.value), low, high)
