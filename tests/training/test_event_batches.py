"""Batches from which deaths can be ranked: what every one of them promises, whatever the cohort looks like."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.objectives.outcomes import checked_outcomes
from fahr.objectives.pairs import pairs_of
from fahr.training.event_batches import EventBatches
from fahr.training.sampling import split

Cohort = dict[str, NDArray[Any]]


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Cohort, int, float, int]:
    """Few people with many ties, late entries and several photos; batch, share of events, seed."""
    count = draw(st.integers(4, 40))
    time = np.array(draw(st.lists(st.integers(1, 12), min_size=count, max_size=count)), float)
    person = np.array(draw(st.lists(st.integers(0, 25), min_size=count, max_size=count)))
    person[1] = (person[0] + 1) % 26
    died = np.array(draw(st.lists(st.booleans(), min_size=26, max_size=26)))
    died[person[0]] = True
    subject, event, people = np.array([f"s{n}" for n in person]), died[person].astype(int), len(set(person))
    late = draw(st.booleans())
    entry = np.array([draw(st.integers(0, int(each) - 1)) for each in time], float) if late else np.zeros(count)
    made = {"time": time, "event": event, "subject": subject, "entry": entry}
    return made, draw(st.integers(2, people)), draw(st.sampled_from([0.1, 0.3, 0.5])), draw(st.integers(0, 99))


def order_of(cohort: Cohort, batch: int, share: float = 0.3, seed: int = 0) -> EventBatches:
    return EventBatches(
        cohort["time"], cohort["event"], cohort["subject"], entry=cohort["entry"], batch=batch, seed=seed, events=share
    )


def answers(cohort: Cohort, died: int, seen: int) -> bool:
    """By the words of the definition: `seen`, censored and somebody else, was watched when `died` did."""
    return bool(
        not cohort["event"][seen]
        and cohort["subject"][seen] != cohort["subject"][died]
        and cohort["entry"][seen] < cohort["time"][died] <= cohort["time"][seen]
    )


@settings(max_examples=200)
@given(cohorts())
def test_every_batch_keeps_its_three_promises(made: tuple[Cohort, int, float, int]) -> None:
    cohort, batch, share, seed = made
    order = order_of(cohort, batch, share, seed)
    had_event = len(set(cohort["subject"][cohort["event"] == 1]))
    for number in range(4):
        rows = order.rows(number * batch, (number + 1) * batch)
        people = cohort["subject"][rows]
        assert len(rows) == batch and len(set(people)) == batch, "one photo of a person"
        events = [row for row in rows if cohort["event"][row]]
        assert len(events) >= min(math.ceil(share * batch - 1e-9), batch // 2, had_event)
        for row in events:
            if not any(answers(cohort, row, other) for other in rows):
                able = [other for other in range(len(cohort["time"])) if answers(cohort, row, other)]
                assert {cohort["subject"][other] for other in able} <= set(people), "somebody outside could be it"


@settings(max_examples=60)
@given(cohorts())
def test_what_answers_an_event_is_a_pair_of_the_loss(made: tuple[Cohort, int, float, int]) -> None:
    """Every partner that is promised counts in `ranking_loss`, so an event that has one is learned from."""
    cohort, batch, share, seed = made
    rows = order_of(cohort, batch, share, seed).rows(0, batch)
    time, event, entry = (cohort[name][rows] for name in ("time", "event", "entry"))
    died = {n for n, row in enumerate(rows) if event[n] and any(answers(cohort, row, other) for other in rows)}
    pairs = pairs_of(checked_outcomes(batch, time, event, entry), None)
    with_partner = set()
    for place, first in zip(pairs.rows, pairs.first, strict=True):
        later = pairs.order[first:]
        if any(pairs.entry is None or entry[j] < time[pairs.order[place]] for j in later):
            with_partner.add(int(pairs.order[place]))
    assert died <= with_partner


@settings(max_examples=60)
@given(cohorts(), st.data())
def test_any_stretch_is_that_stretch_of_the_whole_for_any_number_of_workers(
    made: tuple[Cohort, int, float, int], data: st.DataObject
) -> None:
    cohort, batch, share, seed = made
    whole = order_of(cohort, batch, share, seed).rows(0, 5 * batch)
    start = data.draw(st.integers(0, 5 * batch))
    stop = data.draw(st.integers(start, 5 * batch))
    anew = order_of(cohort, batch, share, seed)
    assert (anew.rows(start, stop) == whole[start:stop]).all()
    world = data.draw(st.integers(1, batch))
    positions = np.arange(2 * batch, 3 * batch)
    shares = [split(positions, rank, world) for rank in range(world)]
    joined = [anew.rows(int(each[0]), int(each[-1]) + 1) for each in shares]
    assert (np.concatenate(joined) == whole[2 * batch : 3 * batch]).all()


def planted(people: int = 300, *, events: float = 0.1, photos: int = 3, seed: int = 0) -> Cohort:
    """People with one to `photos` photos, of whom the share `events` died, some time before the study closed."""
    rng = np.random.default_rng(seed)
    died, closed = rng.random(people) < events, rng.uniform(1000, 2000, people)
    subject = np.repeat(np.arange(people), rng.integers(1, photos + 1, people))
    time = np.where(died, rng.uniform(1, 1000, people), closed)[subject].round()
    return {"time": time, "event": died[subject].astype(int), "subject": subject, "entry": np.zeros(len(time))}


def test_all_photos_come_and_people_of_a_kind_equally_often() -> None:
    cohort = planted()
    order = order_of(cohort, 32)
    rows = order.rows(0, 32 * 300)
    assert set(rows) == set(range(len(cohort["time"])))
    turns = Counter(cohort["subject"][rows].tolist())
    for kind, often in ((1, order.balance.turns_with_event), (0, order.balance.turns_censored)):
        people = sorted(set(cohort["subject"][cohort["event"] == kind]))
        expected = often * len(rows) / len(cohort["time"])
        counts = np.array([turns[person] for person in people])
        assert counts.mean() == pytest.approx(expected, rel=0.01)
        assert counts.min() > 0.6 * expected and counts.max() < 1.5 * expected
    photos = Counter(rows.tolist())
    for person in set(cohort["subject"]):
        own = [photos[row] for row in np.flatnonzero(cohort["subject"] == person)]
        assert max(own) - min(own) <= 5 + 0.5 * max(own), "a person's photos take turns"


def test_events_are_drawn_up_to_the_share_and_never_below_the_cohorts_own() -> None:
    for own, expected in ((0.1, 0.3), (0.6, 0.6)):
        cohort = planted(events=own)
        order = order_of(cohort, 50)
        share = cohort["event"][order.rows(0, 50 * 40)].mean()
        people = len(set(cohort["subject"][cohort["event"] == 1])) / 300
        assert share == pytest.approx(max(expected if own < 0.3 else people, 0.3), abs=0.021)
        assert order.balance.events_in_batch == round(share * 50)


def test_the_balance_tells_the_effective_number_of_people_by_kish() -> None:
    cohort = planted()
    told = order_of(cohort, 32).balance
    died, seen = told.people_with_event, told.people - told.people_with_event
    turns = np.repeat([told.turns_with_event, told.turns_censored], [died, seen])
    assert turns.sum() == pytest.approx(len(cohort["time"]))  # an epoch is as many samples as photos
    assert told.effective_people == pytest.approx(turns.sum() ** 2 / (turns**2).sum())
    assert told.short == "" and told.events_nobody_outlives == 0 and told.to_json()["batch"] == 32


@settings(max_examples=60)
@given(cohorts())
def test_events_that_nobody_outlives_are_counted_as_brute_force_counts_them(
    made: tuple[Cohort, int, float, int],
) -> None:
    cohort, batch, share, seed = made
    count = range(len(cohort["time"]))
    alone = [row for row in count if cohort["event"][row] and not any(answers(cohort, row, each) for each in count)]
    assert order_of(cohort, batch, share, seed).balance.events_nobody_outlives == len(alone)


def test_few_events_are_all_in_every_batch_and_that_is_told() -> None:
    cohort = planted(100, events=0.03, photos=1)
    order = order_of(cohort, 20)
    died = set(np.flatnonzero(cohort["event"]))
    assert 0 < len(died) < 6
    for number in range(5):
        assert died <= set(order.rows(20 * number, 20 * number + 20))
    assert order.balance.short == f"{len(died)} people had the event: all are in every batch, where 6 were wanted"


def test_where_all_died_the_batch_is_all_events() -> None:
    cohort = planted(40, events=1.0, photos=1)
    order = order_of(cohort, 8)
    assert cohort["event"][order.rows(0, 400)].all() and order.balance.events_nobody_outlives == 40
    assert set(order.rows(0, 400)) == set(range(40))


def test_another_seed_gives_other_batches_and_each_pass_another_order() -> None:
    cohort = planted()
    first, other = (order_of(cohort, 32, seed=seed).rows(0, 3200) for seed in (0, 1))
    assert (first != other).mean() > 0.9
    batches = {tuple(sorted(each)) for each in first.reshape(100, 32)}
    assert len(batches) == 100


def test_what_cannot_be_ranked_is_refused() -> None:
    cohort = planted(30, events=0.5, photos=1)
    with pytest.raises(Refused, match="a global batch of 31 from 30 people.*smaller --global-batch"):
        order_of(cohort, 31)
    with pytest.raises(Refused, match="must be from 2 to their number"):
        order_of(cohort, 1)
    with pytest.raises(Refused, match="none of 30 people had the event"):
        order_of(cohort | {"event": np.zeros(30)}, 8)
    for share in (0.0, 0.6):
        with pytest.raises(Refused, match=f"events {share}: must be above 0 and at most 0.5"):
            order_of(cohort, 8, share)
    with pytest.raises(Refused, match="1 people have photos with the event and photos without it"):
        order_of(cohort | {"subject": np.array([0, 0, *range(2, 30)]), "event": np.arange(30) == 0}, 8)
    with pytest.raises(Refused, match="backwards"):
        order_of(cohort, 8).rows(2, 1)
