"""The mean of a value a photo, with an interval over people: of the difference of two models' errors on the same faces.

    mean_of(np.abs(shown - age) - np.abs(guess - age), subjects)      # .value, .low, .high in years; below 0: `shown`

N = photos.
"""

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.accuracy_results import Estimate
from fahr.biomarkers.bias import read_people
from fahr.biomarkers.deviation import refuse_rows
from fahr.biomarkers.estimates import Sums, estimate
from fahr.biomarkers.resample import make_layer, resample
from fahr.errors import Refused


def mean_of(values: ArrayLike, subjects: ArrayLike | None = None, *, bootstraps: int = 1000, seed: int = 0) -> Estimate:
    """(N,) -> their mean and its 95 % percentile interval, people drawn with all of their photos.

    Without an interval: fewer than 10 people, or `bootstraps` 0. Drawn as `age_accuracy` draws with the same seed.
    """
    known = np.asarray(values, np.float64)
    if known.ndim != 1 or not len(known):
        raise Refused(f"values of shape {known.shape}: give one number a photo, and at least one.")
    refuse_rows("values", known, ~np.isfinite(known), "is not finite", "Leave the photo out.")
    person = read_people(subjects, len(known))
    people = int(person.max()) + 1
    layer = make_layer(np.zeros(len(known), np.int64), person, np.stack([np.ones(len(known)), known]))
    drawn = resample([layer], people=people, samples=bootstraps, seed=seed)[0] if bootstraps else None
    total = Sums.of(layer, ("n", "value"), drawn).added()
    means = None if total.drawn is None else total.drawn["value"] / total.drawn["n"]
    return estimate(total.sample["value"] / total.sample["n"], means, people)
