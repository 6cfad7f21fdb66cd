"""Tests on people from elsewhere, and from later: one site left out at a time, and photos from a date on.

for split in leave_one_site_out(site, event, subject=subject): ...     # .name .train .test (rows)
split = temporal_split(date, time, event, cutoff, subject=subject)     # train on what was known at the cutoff

n = rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.curves import FEWEST
from fahr.survival.people import Flags, Floats, Ints, read_groups, read_people, read_risk


@dataclass(frozen=True, eq=False)
class SiteSplit:
    name: str  # of the site that is left out
    train: Ints  # rows
    test: Ints
    events: int  # of the test rows
    warnings: tuple[str, ...]


def leave_one_site_out(site: ArrayLike, event: ArrayLike, *, subject: ArrayLike | None = None) -> tuple[SiteSplit, ...]:
    """Arrays (n,); by name of the site. Who was at several sites is not in the training rows of any of these."""
    names = np.asarray(site)
    rows = len(names)
    people, _ = read_people(np.ones(rows), event, subject=subject)
    where = read_groups("site", names, rows)
    numbers, firsts = np.unique(where, return_index=True)
    if len(numbers) < 2:
        raise Refused(f"site: there is only {names[0] if rows else 'nobody'}; leaving one out takes two or more.")
    found = []
    for number, first in sorted(
        zip(numbers.tolist(), firsts.tolist(), strict=True), key=lambda each: str(names[each[1]])
    ):
        test = where == number
        shared = ~test & _of_same(people.subject, test)
        told = []
        if shared.any():
            told.append(
                f"{names[first]}: {int(shared.sum()):,} rows elsewhere are of its people, and left out of training"
            )
        events = int(people.event[test].sum())
        if events < FEWEST:
            told.append(
                f"{names[first]}: {events} events, fewer than {FEWEST}: a number of this site alone says little"
            )
        train = np.flatnonzero(~test & ~shared)
        if not people.event[train].any():
            raise Refused(f"site: without {names[first]} nobody had the event, so there is nothing to learn from.")
        found.append(SiteSplit(str(names[first]), train, np.flatnonzero(test), events, tuple(told)))
    return tuple(found)


def _of_same(subject: Ints | None, rows: Flags) -> Flags:
    """(n,) whether a row is of somebody who has one among `rows`."""
    return rows if subject is None else np.isin(subject, subject[rows])


@dataclass(frozen=True, eq=False)
class TemporalSplit:
    """Time and event of the training rows are those that were known at the cutoff; those of the test rows, all."""

    train: Ints  # rows before the cutoff
    train_time: Floats  # of each of them
    train_event: Flags
    test: Ints  # rows from the cutoff on, of other people
    left_out: int  # later rows of training people, and earlier ones not watched before the cutoff
    ended: int  # training rows whose follow-up was cut short
    warnings: tuple[str, ...]


def temporal_split(
    date: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    cutoff: float | np.datetime64,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
) -> TemporalSplit:
    """Arrays (n,). date: of the photo, as datetime64 (time then counts days), or as numbers in the unit of `time`.

    What happens on the cutoff or after it was not known on it: training follow-up ends there, or the future would leak
    into the model. People with a photo before it are training people, and are not tested on their later ones.
    """
    when, border = np.asarray(date), cutoff
    if when.dtype.kind == "M":
        if np.isnat(when).any():
            raise Refused(f"date: row {int(np.argmax(np.isnat(when)))} is missing. Remove the row.")
        when, border = _days(when), float(_days(np.asarray(cutoff, "datetime64[s]")))
    rows = len(when)
    dates = read_risk("date", when, rows)
    people, _ = read_people(time, event, entry=entry, subject=subject)
    if len(people) != rows:
        raise Refused(f"date: has {rows:,} values for {len(people):,} rows of time. Give one value a row.")
    known = float(border) - dates
    before = known > 0
    early = before if people.entry is None else before & (people.entry < known)
    train = np.flatnonzero(early)
    later = ~before & ~_of_same(people.subject, before) if people.subject is not None else ~before
    if not len(train) or not later.any():
        raise Refused(
            f"cutoff: {cutoff} leaves {len(train):,} rows before it and {int(later.sum()):,} of others from it on. "
            f"Dates run from {dates.min(initial=np.inf):g} to {dates.max(initial=-np.inf):g}; choose one between."
        )
    ended = people.time[train] >= known[train]
    happened = people.event[train] & ~ended
    if not happened.any():
        raise Refused(f"cutoff: nobody had the event before {cutoff}, so there is nothing to learn from.")
    told = []
    if people.event[later].sum() < FEWEST:
        told.append(f"from {cutoff} on: {int(people.event[later].sum())} events, fewer than {FEWEST}")
    return TemporalSplit(
        train,
        np.minimum(people.time, known)[train],
        happened,
        np.flatnonzero(later),
        rows - len(train) - int(later.sum()),
        int(ended.sum()),
        tuple(told),
    )


def _days(moments: np.ndarray) -> Floats:
    return np.asarray(moments.astype("datetime64[s]").astype(np.int64) / 86_400, np.float64)
