"""Cross-validation by person: who is tested in which fold.

fold = deal(subjects, ages, 5, seed=0)      # (N,) 0 to 4: all photos of a person in one
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused


def deal(subjects: Sequence[str], strata: ArrayLike, number: int, *, seed: int = 0) -> NDArray[np.int64]:
    """(N,) the fold of each row, the same on every machine and whatever the order of the rows.

    `strata`: (N,) what every fold should have as much of, such as the decade of age; a person is in the least of his
    or hers. Within a stratum people are shuffled by a hash of (seed, subject) and dealt like cards, each stratum going
    on where the last one ended: folds differ by one person at most, over all and in each stratum.
    """
    if number < 2:
        raise Refused(f"{number} folds: cross-validation needs at least 2.")
    least: dict[str, float] = {}
    for subject, stratum in zip(subjects, np.asarray(strata, np.float64).tolist(), strict=True):
        least[subject] = min(least.get(subject, np.inf), stratum)
    if len(least) < number:
        raise Refused(f"{number} folds of {len(least)} people: some would be empty. Give at most {len(least)}.")
    shuffled = sorted(least, key=lambda subject: (least[subject], drawn(subject, seed)))
    fold = {subject: place % number for place, subject in enumerate(shuffled)}
    return np.array([fold[subject] for subject in subjects], np.int64)


def drawn(subject: str, seed: int) -> int:
    """A number from 0 to 2^64 - 1 that belongs to a person and a seed."""
    return int.from_bytes(blake2b(f"{seed}.{subject}".encode(), digest_size=8).digest(), "big")
