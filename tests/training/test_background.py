"""Writes beside training: in order, only the last of a name, never in the way, and never lost without a word."""

import errno
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fahr import store
from fahr.training import background as module
from fahr.training.background import Background

SOON = 20.0  # s, on a machine that is busy


class Gate:
    """A job that stays inside until it is let go."""

    def __init__(self) -> None:
        self.inside, self.free = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.inside.set()
        assert self.free.wait(SOON)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.free.set()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def background(said: list[str]) -> Iterator[Background]:
    with Background(said.append) as made:
        yield made


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_jobs_are_done_in_the_order_in_which_they_were_put(background: Background) -> None:
    done: list[int] = []
    for number in range(50):
        background.put(f"job {number}", lambda number=number: done.append(number))  # type: ignore[misc]
    background.wait(SOON)
    assert done == list(range(50))


def test_of_several_that_wait_under_a_name_only_the_last_is_done_and_in_its_own_turn(
    background: Background, gate: Gate
) -> None:
    done: list[str] = []
    background.put("first", gate)
    assert gate.inside.wait(SOON)
    for what in ("state 1", "metrics 1", "state 2", "metrics 2", "state 3"):
        background.put(what.split()[0], lambda what=what: done.append(what))  # type: ignore[misc]
    assert done == [] and gate.inside.is_set()  # five puts came back while the job was still inside
    gate.free.set()
    background.wait(SOON)
    assert done == ["metrics 2", "state 3"]


def test_a_name_whose_job_is_being_done_is_done_again(background: Background, gate: Gate) -> None:
    """What is being written holds the old bytes: the new ones must follow."""
    done: list[str] = []
    background.put("state", gate)
    assert gate.inside.wait(SOON)
    background.put("state", lambda: done.append("new"))
    gate.free.set()
    background.wait(SOON)
    assert done == ["new"]


def test_no_write_is_lost_between_a_thousand_puts(background: Background) -> None:
    found = {"a": -1, "b": -1}
    for number in range(1000):
        background.put("ab"[number % 2], lambda number=number: found.update({"ab"[number % 2]: number}))  # type: ignore[misc]
        if number % 97 == 0:
            background.wait(SOON)
            assert max(found.values()) == number
    background.wait(SOON)
    assert found == {"a": 998, "b": 999}


# A store that is silent


class Silent:
    """Not there, so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.done = times, threading.Event()
        self.failed = threading.Event()

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            self.failed.set()
            raise store.Unavailable("writing x: no answer; gave up.")
        self.done.set()


def test_a_silent_store_is_tried_again_and_told_while_training_goes_on(
    background: Background, said: list[str], gate: Gate
) -> None:
    assert background.behind_s == 0
    silent, after = Silent(3), threading.Event()
    background.put("hold", gate)
    background.put("state", silent)
    background.put("metrics", after.set)
    gate.free.set()
    background.wait(SOON)  # raises nothing
    assert silent.done.is_set() and after.is_set() and silent.left == 0
    assert len(said) == 4 and all(text.startswith("state: ") for text in said)
    assert all("no answer" in text and "tried again" in text for text in said[:3]) and "written, after" in said[3]
    assert background.behind_s == 0


def test_while_the_store_is_silent_the_time_is_told_and_a_newer_state_takes_the_place(
    background: Background, said: list[str]
) -> None:
    silent, free, newer = Silent(10**9), threading.Event(), threading.Event()

    def slowly() -> None:
        free.wait(0.001)
        silent()

    background.put("state", slowly)
    until(lambda: background.behind_s > 0)
    first = background.behind_s
    until(lambda: background.behind_s > first)
    background.put("state", newer.set)  # is not refused
    background.wait(SOON)
    assert newer.is_set() and not silent.done.is_set() and background.behind_s == 0


def test_the_time_of_silence_can_be_asked_for_at_the_moment_in_which_it_ends(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, silent = threading.Event(), Silent(1)

    def job() -> None:
        if not silent.left:
            assert free.wait(SOON)
        silent()

    background.put("state", job)
    until(lambda: background.behind_s > 0)
    real = time.monotonic

    def ends_meanwhile() -> float:
        if threading.current_thread() is threading.main_thread() and not free.is_set():
            free.set()
            until(lambda: background._since is None)
        return real()

    monkeypatch.setattr(module.time, "monotonic", ends_meanwhile)
    assert background.behind_s >= 0
    monkeypatch.undo()
    background.wait(SOON)


def test_waiting_has_an_end_when_the_store_has_none(background: Background) -> None:
    pause = threading.Event()

    def never() -> None:
        pause.wait(0.01)
        raise store.Unavailable("no answer.")

    background.put("state", never)
    until(lambda: background.behind_s > 0)
    began = time.monotonic()
    with pytest.raises(store.Unavailable, match=r"not written within 0 s.*run the same line again"):
        background.wait(0.2)
    assert 0.2 <= time.monotonic() - began < SOON


# What does not pass by itself


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_raised_at_the_next_put_and_at_every_wait(background: Background) -> None:
    background.put("state", full_disk)
    with pytest.raises(OSError, match="No space left"):
        background.wait(SOON)
    with pytest.raises(OSError, match="No space left"):
        background.put("metrics", lambda: None)
    with pytest.raises(OSError, match="No space left"):
        background.wait()


def test_a_full_disk_frees_whoever_waits_behind_it(background: Background, gate: Gate) -> None:
    """A wait without an end must not go on for ever because one of several jobs failed."""
    background.put("hold", gate)
    background.put("state", full_disk)
    background.put("state 2", gate)
    gate.free.set()
    with pytest.raises(OSError, match="No space left"):
        background.wait()


def test_closing_does_not_wait_for_a_write_that_hangs(gate: Gate) -> None:
    with Background() as background:
        background.put("state", gate)
        assert gate.inside.wait(SOON)
        began = time.monotonic()
    assert time.monotonic() - began < 5  # 1 s, and what a busy machine adds


def test_an_error_of_the_run_itself_comes_through(gate: Gate) -> None:
    with pytest.raises(KeyError, match="mine"), Background() as background:
        background.put("state", full_disk)
        raise KeyError("mine")


def test_its_thread_ends_with_it() -> None:
    with Background() as background:
        background.put("state", lambda: None)
        background.wait(SOON)
        assert "background writes" in [each.name for each in threading.enumerate()]
    assert not background._thread.is_alive()
