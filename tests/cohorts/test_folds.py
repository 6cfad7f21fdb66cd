"""Folds are of whole people, as even as they can be, and the same wherever they are dealt."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fahr.cohorts.folds import deal
from fahr.errors import Refused

GOLDEN = [0, 3, 4, 0, 4, 0, 1, 3, 2, 1]  # of s0 to s9 among 50 people
PHOTOS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=1, max_size=120)


@settings(derandomize=True, deadline=None)
@given(PHOTOS, st.integers(2, 7), st.integers(0, 3))
def test_people_stay_whole_and_folds_differ_by_one_person_over_all_and_in_each_stratum(photos, number, seed):
    subjects, strata = [f"s{who}" for who, _ in photos], [stratum for _, stratum in photos]
    if len(set(subjects)) < number:
        with pytest.raises(Refused, match="some would be empty"):
            deal(subjects, strata, number, seed=seed)
        return
    fold = deal(subjects, strata, number, seed=seed)
    where = {subject: set(fold[np.array(subjects) == subject]) for subject in subjects}
    assert all(len(each) == 1 for each in where.values())
    least = {subject: min(s for who, s in zip(subjects, strata, strict=True) if who == subject) for subject in where}
    for members in [list(where), *([w for w in where if least[w] == s] for s in set(least.values()))]:
        counts = Counter({each: 0 for each in range(number)})
        counts.update(next(iter(where[member])) for member in members)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_fold_of_a_person_depends_on_neither_the_order_of_rows_nor_the_machine():
    subjects, strata = [f"s{n}" for n in range(50)], [n % 5 for n in range(50)]
    fold, back = deal(subjects, strata, 5), deal(subjects[::-1], strata[::-1], 5)
    assert (fold == back[::-1]).all()
    assert (deal(subjects, strata, 5, seed=1) != fold).any()
    assert fold[:10].tolist() == GOLDEN


def test_one_fold_is_refused():
    with pytest.raises(Refused, match="at least 2"):
        deal(["a", "b"], [0, 0], 1)
