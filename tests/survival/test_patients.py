"""One row a person, against a plain loop over the photos."""

import statistics

import numpy as np
import pytest

from fahr.errors import Refused
from fahr.survival.patients import read_patients


def photos(seed):
    """Several visits a person, several photos a visit, in any order."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(int(rng.integers(1, 12))):
        died = bool(rng.random() < 0.5)
        for visit in range(int(rng.integers(1, 4))):
            for _ in range(int(rng.integers(1, 5))):
                rows.append((f"s{person}", 100.0 + person - 10 * visit, died, 3.0 * visit, rng.normal()))
    order = rng.permutation(len(rows))
    subject, time, event, entry, value = (np.array(each)[order] for each in zip(*rows, strict=True))
    return subject, time, event, entry, value


@pytest.mark.parametrize("seed", range(30))
def test_a_person_is_the_earliest_visit_with_the_median_of_its_photos(seed):
    subject, time, event, entry, value = photos(seed)
    some = read_patients(time, event, entry=entry, subject=subject)
    told = some.median(value)
    names = list(dict.fromkeys(subject.tolist()))  # in order of appearance
    assert len(some) == len(names) == len(told) and some.photos == len(time)
    for place, name in enumerate(names):
        mine = subject == name
        first = mine & (time == time[mine].max())
        assert told[place] == pytest.approx(statistics.median(value[first]))
        assert (some.time[place], some.event[place], some.entry[place]) == (
            time[first][0], event[first][0], entry[first].max(),
        )  # fmt: skip
        assert first[some.first[place]]
    kept = np.random.default_rng(seed).random(len(some)) < 0.6
    fewer = some.only(kept)
    np.testing.assert_array_equal(fewer.median(value), told[kept])
    np.testing.assert_array_equal(fewer.time, some.time[kept])


def test_without_subjects_every_photo_is_a_person_and_unknown_stays_unknown():
    time, value = np.array([3.0, 3.0, 1.0]), np.array([1.0, np.nan, 2.0])
    some = read_patients(time, [1, 0, 1])
    assert some.entry is None and len(some) == 3
    np.testing.assert_array_equal(some.median(value), value)
    both = read_patients(time, [1, 1, 1], subject=["a", "a", "a"])
    assert np.isnan(both.median(value)).all() and len(both) == 1  # one of the visit's photos has none
    assert len(read_patients([], [], subject=[])) == 0


def test_a_person_who_has_the_event_in_some_photos_only_is_refused_with_the_rows():
    with pytest.raises(Refused, match="rows 0 and 2 are of one person, one with the event and one without"):
        read_patients([5.0, 4.0, 3.0], [1, 0, 0], subject=["a", "b", "a"])
