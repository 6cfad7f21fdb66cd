"""Writes that training does not wait for.

    with Background() as background:
        background.put("state", lambda: write(location, taken))     # returns at once

One thread, in the order given; of several that wait under one name only the last is done, since it makes the others
old. A store that does not answer is tried again for as long as the run lasts, and told once each time; whatever else
goes wrong (a full disk, no permission) is raised at the next call, so that a run does not go on for days unsaved.
"""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fahr import store

Job = Callable[[], None]


class Background:
    def __init__(self, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> None:
        self._say = say
        self._waiting: dict[str, Job] = {}  # in the order in which they were put
        self._change = threading.Condition()
        self._busy = False
        self._ended = False
        self._error: BaseException | None = None
        self._since: float | None = None  # when the store stopped answering
        self._thread = threading.Thread(target=self._work, name="background writes", daemon=True)
        self._thread.start()

    def put(self, name: str, job: Job) -> None:
        """Do `job` soon, in place of one of that name that still waits. Raises what went wrong before."""
        with self._change:
            self._raise()
            self._waiting.pop(name, None)
            self._waiting[name] = job
            self._change.notify_all()

    @property
    def behind_s(self) -> float:
        """For how long the store has not answered; 0 when all is well."""
        since = self._since  # once: the thread may set it to None between two looks
        return 0.0 if since is None else time.monotonic() - since

    def wait(self, seconds: float | None = None) -> None:
        """Until everything is written. Raises what went wrong, and `Unavailable` after `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._change:
            while (self._waiting or self._busy) and self._error is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    names = ", ".join(self._waiting) or "the last write"
                    silent = f", the store has not answered for {self.behind_s:.0f} s" if self.behind_s else ""
                    raise store.Unavailable(
                        f"{names}: not written within {seconds:.0f} s{silent}. What was written before is kept: run "
                        "the same line again."
                    )
                self._change.wait(left)
            self._raise()

    def close(self) -> None:
        """End the thread. What still waits is not written: call `wait` first, unless the run has failed anyway."""
        with self._change:
            self._ended = True
            self._change.notify_all()
        self._thread.join(timeout=1)  # it may be inside a write that hangs; being a daemon it ends with the process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._ended:
                    self._change.wait()
                if self._ended:
                    return
                name = next(iter(self._waiting))
                job = self._waiting.pop(name)
                self._busy = True
            error = self._attempt(name, job)
            with self._change:
                self._busy = False
                if isinstance(error, store.Unavailable):
                    self._waiting = {name: job, **self._waiting} if name not in self._waiting else self._waiting
                elif error is not None:
                    self._error = error
                self._change.notify_all()

    def _attempt(self, name: str, job: Job) -> BaseException | None:
        try:
            job()
        except store.Unavailable as error:  # `store` has tried for BRIDGE_S by then
            self._since = self._since or time.monotonic()
            self._say(f"{name}: {error} Training goes on; it is tried again.")
            return error
        except BaseException as error:  # noqa: BLE001 - kept for the thread that trains
            return error
        if self._since is not None:
            self._say(f"{name}: written, after {self.behind_s:.0f} s without an answer")
            self._since = None
        return None
