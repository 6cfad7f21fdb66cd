"""Requests into batches: whoever waits when the model becomes free goes with the next batch.

batcher = Batcher(score_faces, most=16)           # score_faces: a list of items -> as many results, in a thread
ages = await batcher.submit([face, face])         # beside whatever other requests brought meanwhile

A batch is put together at the moment it starts, never before. `@serve.batch` puts one together when its waiting time is
over and lets it queue behind the one at work, as small as it is: docs/serve.md has the figures. Here a request that is
alone starts at once, and the busier the model, the larger its batches. Only those who were answered together are waited
for, a tenth of the time that their batch took: who asks again at once would otherwise go as one and the rest.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made")

# Of the time that a batch took: so much can waiting cost at most, and nothing where the next batch is full already.
GATHER = 0.1


# OpenMP keeps helpers for each thread that calls it. With those of a second thread they are more than the cores, and
# then they sleep between operations instead of waiting: a face alone took 65 ms instead of 42 on two cores. So all that
# is on the CPU shares this thread, and what else runs a model does so in a thread that ends.
_ON_CPU = ThreadPoolExecutor(1, "models")


def passing(call: Callable[..., Made], *given: Any) -> Future[Made]:
    """`call(*given)` in a thread that ends with it."""
    thread = ThreadPoolExecutor(1, "passing")
    made = thread.submit(call, *given)
    thread.shutdown(wait=False)
    return made


@dataclass(eq=False)
class _Waiting:
    item: Any
    future: asyncio.Future[Any]
    request: int
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Item, Result]):
    """One batch at a time, first come first served. Lives in the event loop that first calls `submit`."""

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        most: int,
        *,
        device: str = "cpu",
        told: Callable[[int, int, float, float], None] = lambda size, waiting, waited, took: None,
    ) -> None:
        """`device`: where `run` works.

        `told`: items in a batch that is done, items that wait, seconds that its first waited, seconds it took."""
        assert most >= 1, most
        self.most = most
        self._run, self._told = run, told
        self._queue: deque[_Waiting] = deque()
        self._requests = 0
        self._expected = 0  # items that the next batch waits for
        self._enough = asyncio.Event()
        # Beside a device the CPU may work on the next batch of another model.
        self._thread = _ON_CPU if device == "cpu" else ThreadPoolExecutor(1, "batch")
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def submit(self, items: Sequence[Item], *, first: bool = False) -> list[Result]:
        """The results of `items`, in order. `first`: before whatever waits, such as a health check.

        Whoever gives up waiting takes what has not begun out of the queue. An exception of `run` goes to everybody in
        that batch, and to nobody else.
        """
        loop = asyncio.get_running_loop()
        self._requests += 1
        waiting = [_Waiting(item, loop.create_future(), self._requests) for item in items]
        if first:
            self._queue.extendleft(reversed(waiting))
        else:
            self._queue.extend(waiting)
        if len(self._queue) >= self._expected:
            self._enough.set()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        try:
            results: list[Result] = await asyncio.gather(*(each.future for each in waiting))
            return results
        finally:
            for each in waiting:  # of a request that failed: the rest of it is not worth the work
                each.future.cancel()

    async def in_thread(self, call: Callable[..., Made], *given: Any) -> Made:
        """`call(*given)` in the thread of the batches, between two of them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *given)

    async def _work(self) -> None:
        """Until nobody waits."""
        while batch := self._next():
            started = time.perf_counter()
            try:
                results = await self.in_thread(self._checked, [each.item for each in batch])
            except Exception as error:  # noqa: BLE001 - handed to those who asked, who raise it
                for each in batch:
                    if not each.future.done():
                        each.future.set_exception(error)
            else:
                for each, result in zip(batch, results, strict=True):
                    if not each.future.done():
                        each.future.set_result(result)
            took = time.perf_counter() - started
            self._told(len(batch), len(self._queue), started - batch[0].since, took)
            if len({each.request for each in batch}) > 1:
                await self._gather(min(self.most, len(batch) + len(self._queue)), GATHER * took)

    async def _gather(self, expected: int, seconds: float) -> None:
        """Until `expected` items wait, `seconds` at most."""
        self._expected = expected
        if len(self._queue) < expected:
            self._enough.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), seconds)

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self.most:
            if not (each := self._queue.popleft()).future.done():
                batch.append(each)
        return batch

    def _checked(self, items: list[Item]) -> Sequence[Result]:
        results = self._run(items)
        assert len(results) == len(items), f"{len(results)} results of {len(items)} items"
        return results
