"""Brier score of predicted chances: the mean squared distance from what happened by each horizon.

found = brier_score(time, event, predicted, [182, 365, 730])     # predicted (n, K): chance of the event by each
found.score[0].value, found.scaled[0].value, found.integrated.value
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.survival.horizon import Standing, read_chances, read_horizons, read_watch, warn_of_few
from fahr.survival.people import Floats
from fahr.survival.resampling import Estimate, check_samples, estimates, resampled


@dataclass(frozen=True)
class Brier:
    """0 is perfect. `scaled`: 1 - score / that of Kaplan-Meier for everybody; 0 is useless, below 0 is harmful."""

    horizons: tuple[float, ...]
    score: tuple[Estimate, ...]
    scaled: tuple[Estimate, ...]
    reference: tuple[float, ...]  # the score of Kaplan-Meier for everybody
    integrated: Estimate | None  # the mean over time from the first horizon to the last; None: there is only one
    integrated_scaled: Estimate | None
    people: int
    events: int  # by the last horizon
    warnings: tuple[str, ...]
    values: Floats = field(repr=False, compare=False)  # (samples, 2 K + 2): scores, scaled, integrated, and its scaled


def brier_score(
    time: ArrayLike,
    event: ArrayLike,
    predicted: ArrayLike,
    horizons: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Brier:
    """With inverse probability of censoring weights (Graf et al. 1999, Statistics in Medicine 18:2529), those of each
    resample its own. Arrays (n,), a row a person; predicted (n, K), or (n,) for one horizon. Integrated by trapezoids
    over the horizons, divided by the time between the first and the last.
    """
    watch = read_watch(time, event, entry=entry, subject=subject)
    wanted = read_horizons(watch, horizons)
    check_samples(samples, seed, confidence, threads)
    chances = np.ascontiguousarray(read_chances("predicted", predicted, watch, len(wanted)).T)
    died, lived = (1 - chances) ** 2, chances**2

    def statistic(counts: Floats) -> Floats:
        standing = watch.stand(counts, wanted)
        score = np.array([_score(standing, place, died[place], lived[place]) for place in range(len(wanted))])
        reference = standing.survival * (1 - standing.survival)
        ends = [_mean(wanted, score), _mean(wanted, reference)]
        return np.concatenate([score, _scaled(score, reference), ends[:1], _scaled(*map(np.atleast_1d, ends))])

    values = resampled(statistic, watch.cluster, samples=samples, seed=seed, threads=threads)
    ones = np.ones(len(watch))
    found = estimates(statistic(ones), values, confidence)
    number = len(wanted)
    survival = watch.stand(ones, wanted).survival
    return Brier(
        tuple(wanted.tolist()),
        found[:number],
        found[number : 2 * number],
        tuple((survival * (1 - survival)).tolist()),
        found[-2] if number > 1 else None,
        found[-1] if number > 1 else None,
        len(watch),
        int(watch.event[watch.time <= wanted[-1]].sum()),
        tuple(warn_of_few(watch, wanted)),
        values,
    )


def _score(standing: Standing, place: int, died: Floats, lived: Floats) -> float:
    """nan if nobody is still watched."""
    stop = standing.stops[place]
    controls = standing.controls(place)
    if not controls.any():
        return float("nan")
    # not by BLAS, whose threads get in the way of those of the resamples
    return float((standing.cases(place) * died[:stop]).sum() + (controls * lived[stop:]).sum())


def _scaled(score: Floats, reference: Floats) -> Floats:
    return np.asarray(1 - np.divide(score, reference, out=np.full(len(score), np.nan), where=reference > 0))


def _mean(horizons: Floats, scores: Floats) -> float:
    if len(horizons) == 1:
        return float("nan")
    areas = np.diff(horizons) * (scores[1:] + scores[:-1]) / 2
    return float(areas.sum() / (horizons[-1] - horizons[0]))
