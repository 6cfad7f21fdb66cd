"""Batches from which deaths can be ranked: enough events in each, and somebody censored who outlived every one of them.

    order = EventBatches(days, died, people, entry=days_at_entry, batch=256, seed=0, events=0.3)
    rows = order.rows(start, stop)        # as of fahr.training.sampling.Order: the Loader takes it

Every global batch, whole, is a function of (data, seed, its number): not of workers, threads or restarts. In it
  - nobody has two photos;
  - at least the share `events` of the photos end with the event, or all people who had it, where these are fewer;
  - no event is without a censored partner (fahr.objectives.pairs) while somebody outside the batch could be one.

People take turns, not photos: those who had the event in one queue, the censored in another, each shuffled anew for
every pass, and of a person's photos each comes once in as many passes as there are. What is left over at the end of a
pass, too little for a batch, sits that pass out. An epoch is as many samples as there are photos; events come more
often in it than once where they are rarer than `events`. N = photos.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused
from fahr.training.randomness import key, uniform
from fahr.training.sampling import Ints, Order, permuted

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class EventBalance:
    """What is drawn from, and how often; goes into stage.json."""

    photos: int
    people: int
    people_with_event: int
    events_in_batch: int
    batch: int
    turns_with_event: float  # that a person has in an epoch
    turns_censored: float
    effective_people: float  # (sum of turns)^2 / sum of their squares: equal turns would give all people
    events_nobody_outlives: int  # photos with the event that no censored person can be compared with
    short: str  # "" where the share asked for is reached, otherwise why not

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Queue:
    """People who have photos of one kind, and these photos."""

    name: str
    people: Ints  # (p,) codes
    rows: Ints  # person after person
    first: Ints  # (p + 1,) where in `rows` each one's begin

    def turn(self, count: int, number: int, seed: int) -> Ints:
        """(count,) the photos of the batch with this number, of different people."""
        if not count:
            return np.empty(0, np.int64)
        lap, place = divmod(number, len(self.people) // count)
        places = np.arange(place * count, (place + 1) * count)
        return self.photos(permuted(places, len(self.people), f"{self.name}.{seed}.{lap}"), lap, seed)

    def photos(self, which: Ints, lap: int, seed: int) -> Ints:
        """One photo of each of these people: of n photos each comes once in n laps, beginning anywhere."""
        owned = self.first[which + 1] - self.first[which]
        drawn = uniform(seed, torch.from_numpy(self.people[which]), f"{self.name}.photo", 1).numpy()[:, 0]
        found: Ints = self.rows[self.first[which] + ((drawn * owned).astype(np.int64) + lap) % owned]
        return found


class EventBatches(Order):
    def __init__(
        self,
        time: ArrayLike,
        event: ArrayLike,
        subject: ArrayLike,
        *,
        batch: int,
        seed: int,
        entry: ArrayLike | None = None,
        events: float = 0.3,
    ) -> None:
        """(N,) each, as `ranking_loss` takes them. Refused: nobody with the event, fewer people than a batch has."""
        self._time = np.asarray(time, np.float64)
        super().__init__(len(self._time), seed)
        self._event = np.asarray(event, np.float64) == 1
        self._entry = np.full(self.num_rows, -np.inf) if entry is None else np.asarray(entry, np.float64)
        self._person = np.unique(np.asarray(subject), return_inverse=True)[1].reshape(-1).astype(np.int64)
        self._people = int(self._person.max(initial=-1)) + 1
        self._died, self._seen = (self._queue(name) for name in ("died", "seen"))
        self.batch = batch
        self._check(events)
        died, seen = len(self._died.people), len(self._seen.people)
        wanted = math.ceil(events * batch - 1e-9)
        own = math.ceil(batch * died / (died + seen) - 1e-9)
        self._num_died = min(max(wanted, own, batch - seen), died)
        self._fewest = min(wanted, died, batch // 2)  # that partners leave room for
        self._last_seen = float(self._time[self._seen.rows].max()) if seen else -math.inf
        self._recent: dict[int, Ints] = {}  # batches: threads and workers' shares ask for one several times
        self.balance = self._balance(wanted)

    def rows(self, start: int, stop: int) -> Ints:
        """(stop - start,) the rows at positions start to stop - 1, over the ends of batches."""
        if not 0 <= start <= stop:
            raise Refused(f"positions {start:,} to {stop:,}: must be from 0 on, and not backwards.")
        numbers = range(start // self.batch, -(-stop // self.batch))
        made = [self._rows(number) for number in numbers]
        first = numbers.start * self.batch
        return np.concatenate(made)[start - first : stop - first] if made else np.empty(0, np.int64)

    def _queue(self, name: str) -> _Queue:
        rows = np.flatnonzero(self._event == (name == "died"))
        rows = rows[np.argsort(self._person[rows], kind="stable")]
        people, first = np.unique(self._person[rows], return_index=True)
        return _Queue(name, people, rows, np.append(first, len(rows)))

    def _check(self, events: float) -> None:
        people = self._people
        if not 0 < events <= 0.5:
            raise Refused(f"events {events}: must be above 0 and at most 0.5, the other half being their partners.")
        if not len(self._died.people):
            raise Refused(f"none of {people:,} people had the event: there is nothing to rank by. Follow them longer.")
        if len(both := np.intersect1d(self._died.people, self._seen.people)):
            raise Refused(
                f"{len(both):,} people have photos with the event and photos without it. Whether a person has it is "
                "the same for all photos: correct the manifest."
            )
        if not 2 <= self.batch <= people:
            raise Refused(
                f"a global batch of {self.batch:,} from {people:,} people, one photo of each: it must be from 2 to "
                "their number. Give a smaller --global-batch, or more people."
            )

    def _balance(self, wanted: int) -> EventBalance:
        died, seen, drawn = len(self._died.people), len(self._seen.people), self._num_died
        often = self.num_rows / self.batch
        one, other = often * drawn / died, often * (self.batch - drawn) / max(seen, 1)
        short = ""
        if drawn < wanted:
            short = f"{died} people had the event: all are in every batch, where {wanted} were wanted"
        return EventBalance(
            self.num_rows, self._people, died, drawn, self.batch, one, other,
            (died * one + seen * other) ** 2 / (died * one**2 + seen * other**2), self._without_partner(), short,
        )  # fmt: skip

    def _without_partner(self) -> int:
        """Events that no censored person of all can be compared with."""
        seen = self._seen.rows[np.argsort(self._entry[self._seen.rows], kind="stable")]
        died = self._died.rows
        entered = np.searchsorted(self._entry[seen], self._time[died], side="left")  # entry below the time
        latest = np.maximum.accumulate(np.append(-math.inf, self._time[seen]))[entered]
        return int((latest < self._time[died]).sum())

    # A batch

    def _rows(self, number: int) -> Ints:
        if (known := self._recent.get(number)) is None:
            known = self._made(number)
            self._recent = {**dict(list(self._recent.items())[-7:]), number: known}
        return known

    def _made(self, number: int) -> Ints:
        died = self._died.turn(self._num_died, number, self.seed)
        seen = self._seen.turn(self.batch - self._num_died, number, self.seed)
        died, seen = self._with_partners(died, seen, number)
        rows = np.concatenate([died, seen])
        return rows[permuted(np.arange(self.batch), self.batch, f"within.{self.seed}.{number}")]

    def _with_partners(self, died: Ints, seen: Ints, number: int) -> tuple[Ints, Ints]:
        """Events that nobody censored in the batch answers get somebody from outside; who is not needed gives way.

        It ends: each turn more events have a partner, or there are fewer events. Room is found: were every censored
        one the only partner of some event, the events would be more than half, and may become fewer.
        """
        for turn in range(2 * self.batch):
            answers = self._answers(died[:, None], seen[None, :])
            found = self._newcomer(died, seen, answers, f"{self.seed}.{number}.{turn}")
            if found is None:
                break
            row, asking = found
            drawn = permuted(np.arange(len(seen)), len(seen), f"leave.{self.seed}.{number}.{turn}")
            only = answers[answers.sum(1) == 1].any(0)  # the only partner of some event
            free = drawn[~only[drawn]]
            if len(free):
                seen = np.append(np.delete(seen, free[0]), row)
            elif len(died) > self._fewest:
                others = np.flatnonzero(np.arange(len(died)) != asking)
                died = np.delete(died, others[key(self.seed, f"leave.{number}.{turn}") % len(others)])
                seen = np.append(seen, row)
            else:
                raise AssertionError("no room for a partner")
        return died, seen

    def _newcomer(self, died: Ints, seen: Ints, answers: Flags, name: str) -> tuple[int, int] | None:
        """A row outside the batch that answers an event which has no partner, and which event of `died` that is."""
        asking = np.flatnonzero(~answers.any(1) & (self._time[died] <= self._last_seen))
        if not len(asking):
            return None
        there = np.zeros(self._people, bool)
        there[self._person[died]] = there[self._person[seen]] = True
        outside = self._seen.rows[~there[self._person[self._seen.rows]]]
        for which in asking[np.argsort(-self._time[died[asking]], kind="stable")].tolist():
            able = outside[self._answers(int(died[which]), outside)]
            if len(able):
                return int(able[key(0, f"partner.{name}") % len(able)]), which
        return None

    def _answers(self, died: Ints | int, seen: Ints) -> Flags:
        """Whether the censored `seen` were still watched when `died` did, broadcast."""
        when = self._time[died]
        return np.asarray((self._time[seen] >= when) & (self._entry[seen] < when))
