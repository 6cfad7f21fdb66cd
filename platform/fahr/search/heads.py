"""A trial on features that were kept: every person judged once by a head that has not seen him or her.

    for step, found in cross_validated(kept, rows, setup, metric, fold, seed): ...      # after each pass
    held = refitted(kept, parts.pool, parts.aside, setup, seed, best_step)              # (n,) of people kept aside

N = photos, D = width of the features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fahr.search.metrics import Measured, Metric
from fahr.training.head_trials import HeadStage, Lesson, learn, predicted
from fahr.training.outcomes import Floats
from fahr.training.sampling import Ints


@dataclass(frozen=True, eq=False)
class Kept:
    """What trials read: the faces themselves are no longer needed."""

    features: NDArray[np.float32]  # (N, D)
    table: pa.Table  # N rows: subject_id and the labels

    def take(self, rows: Ints) -> "Kept":
        return Kept(np.ascontiguousarray(self.features[rows]), self.table.take(pa.array(rows)))


@dataclass(frozen=True)
class Setup:
    """A configuration of the job, as far as a head needs it."""

    lesson: Callable[[pa.Table], Lesson]  # for the people of a table
    stages: Callable[[int, int], tuple[HeadStage, ...]]  # number of photos, seed -> what is done with them


def passes(stages: Sequence[HeadStage], rows: int) -> list[int]:
    """Of each stage: how often it is looked at, once a pass over the photos and once at least."""
    return [max(1, round(stage.recipe.num_samples / rows)) for stage in stages]


def cross_validated(
    kept: Kept, setup: Setup, metric: Metric, fold: Ints, *, seed: int
) -> Iterator[tuple[int, Measured]]:
    """Heads of all folds learn in step; after each pass all people together are judged, those of a fold by its head."""
    number = int(fold.max()) + 1
    sides = [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(number)]
    looks = passes(setup.stages(len(fold) - len(sides[0][1]), seed), len(fold) - len(sides[0][1]))
    running = [_learning(kept.take(learned), setup, looks, seed) for learned, _ in sides]
    judged = [kept.take(held) for _, held in sides]
    values = np.full(len(fold), np.nan)
    for step in range(1, sum(looks) + 1):
        for learning, (_, held), some in zip(running, sides, judged, strict=True):
            values[held] = next(learning)(some)
        yield step, metric.measured(kept.table, values, fold)


def refitted(kept: Kept, pool: Ints, aside: Ints, setup: Setup, *, seed: int, until: int) -> Floats:
    """(n,) of the people aside, by a head that learned from all the others for `until` passes."""
    looks = passes(setup.stages(len(pool), seed), len(pool))
    predict = next(islice(_learning(kept.take(pool), setup, looks, seed), min(until, sum(looks)) - 1, None))
    return predict(kept.take(aside))


def _learning(some: Kept, setup: Setup, looks: Sequence[int], seed: int) -> Iterator[Callable[[Kept], Floats]]:
    """After each look: what the head says of others by now."""
    lesson = setup.lesson(some.table)
    for head in learn(some.features, lesson, setup.stages(some.table.num_rows, seed), times=looks):
        yield lambda others: predicted(head, others.features, lesson, others.table)  # noqa: B023 - asked at once
