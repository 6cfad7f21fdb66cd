"""A batch is what waits when the model becomes free: sizes, order, who gets an error, who is not worth the work."""

import asyncio
import random
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from serve.batching import Batcher, passing


class Model:
    """Doubles numbers; each batch waits at the door until it is opened."""

    def __init__(self, *, shut: bool = False) -> None:
        self.door = threading.Event()
        self.began = threading.Event()
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        if not shut:
            self.door.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.threads.add(threading.get_ident())
        self.began.set()
        assert self.door.wait(20)
        if -1 in items:
            raise ValueError("no such number")
        return [2 * item for item in items]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def begun(model: Model) -> None:
    assert await asyncio.to_thread(model.began.wait, 20)


async def waiting(batcher: Batcher[int, int], number: int) -> None:
    while batcher.waiting < number:
        await asyncio.sleep(0)


def test_alone_a_request_starts_at_once_and_those_who_waited_go_together():
    async def story() -> None:
        model = Model(shut=True)
        batcher: Batcher[int, int] = Batcher(model, 16)
        alone = asyncio.create_task(batcher.submit([0]))
        await begun(model)
        others = [asyncio.create_task(batcher.submit([number])) for number in range(1, 21)]
        await waiting(batcher, 20)
        model.door.set()
        assert await alone == [0]
        assert [await each for each in others] == [[2 * number] for number in range(1, 21)]
        assert [len(batch) for batch in model.batches] == [1, 16, 4]
        assert model.batches[1] == list(range(1, 17)), "first come, first served"

    run(story())


def test_who_was_answered_together_and_asks_again_goes_together(monkeypatch: pytest.MonkeyPatch):
    """Each comes back some turns of the loop later: without waiting, the first of them goes alone."""
    monkeypatch.setattr("serve.batching.GATHER", 1e6)  # whoever is waited for in vain is waited for until `run` fails

    async def story() -> None:
        model = Model(shut=True)
        batcher: Batcher[int, int] = Batcher(model, 5)
        starts = asyncio.create_task(batcher.submit([9]))
        await begun(model)

        async def client(number: int) -> None:
            for _ in range(4):
                assert await batcher.submit([number]) == [2 * number]
                for _ in range(3 * number):
                    await asyncio.sleep(0)

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await waiting(batcher, 8)
        model.door.set()
        await starts
        while len(model.batches) < 6:
            await asyncio.sleep(0)
        assert [len(batch) for batch in model.batches] == [1, 5, 5, 5, 5, 5], "full ones, of eight who come again"
        for each in clients:
            each.cancel()

    run(story())


@pytest.mark.parametrize("alone", [[1], [1, 2, 3]])
def test_who_was_answered_alone_is_not_waited_for(alone: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.batching.GATHER", 1e6)

    async def story() -> None:
        model = Model()
        batcher: Batcher[int, int] = Batcher(model, 16)
        for items in (alone, [4], alone):
            assert await batcher.submit(items) == [2 * item for item in items]

    run(story())


def test_who_does_not_come_again_is_waited_for_a_tenth_of_the_time_that_the_batch_took():
    async def story() -> None:
        told: list[tuple[int, int, float, float]] = []
        model = Model(shut=True)
        batcher: Batcher[int, int] = Batcher(model, 16, told=lambda *each: told.append(each))
        asyncio.get_running_loop().call_later(0.5, model.door.set)
        both = [asyncio.create_task(batcher.submit([number])) for number in (1, 2)]
        await asyncio.gather(*both)
        assert await batcher.submit([3]) == [6]
        assert [size for size, _, _, _ in told] == [2, 1]
        (_, _, _, took), (_, _, waited, _) = told
        assert 0.08 * took < waited < 0.5 * took

    run(story())


def test_everybody_gets_their_own_results_in_order_whatever_the_company():
    async def story() -> None:
        model, draw = Model(), random.Random(0)
        batcher: Batcher[int, int] = Batcher(model, 7)

        async def client(number: int) -> None:
            for turn in range(20):
                items = [number * 1000 + turn * 10 + each for each in range(draw.randint(0, 9))]
                assert await batcher.submit(items) == [2 * item for item in items]

        await asyncio.gather(*(client(number) for number in range(25)))
        assert max(map(len, model.batches)) == 7 and len(model.threads) == 1
        seen = [item for batch in model.batches for item in batch]
        assert len(seen) == len(set(seen)), "an item was worked on twice"

    run(story())


def test_an_error_goes_to_the_batch_that_had_it_and_the_next_one_works():
    async def story() -> None:
        model = Model(shut=True)
        batcher: Batcher[int, int] = Batcher(model, 2)
        first = asyncio.create_task(batcher.submit([-1]))
        await begun(model)
        beside = [asyncio.create_task(batcher.submit(items)) for items in ([1], [-1], [3])]
        await waiting(batcher, 3)
        model.door.set()
        done = await asyncio.gather(first, *beside, return_exceptions=True)
        assert [type(each) for each in done] == [ValueError, ValueError, ValueError, list]
        assert done[3] == [6] and await batcher.submit([4]) == [8]

    run(story())


def test_a_request_that_failed_in_one_batch_takes_its_rest_out_of_the_queue():
    async def story() -> None:
        model = Model()
        batcher: Batcher[int, int] = Batcher(model, 1)
        with pytest.raises(ValueError, match="no such number"):
            await batcher.submit([-1, *range(10, 30)])
        await batcher.submit([5])
        assert len(model.batches) < 10, "what nobody waits for was worked on"

    run(story())


def test_who_gives_up_waiting_is_not_worked_on():
    async def story() -> None:
        model = Model(shut=True)
        batcher: Batcher[int, int] = Batcher(model, 16)
        kept = asyncio.create_task(batcher.submit([0]))
        await begun(model)
        gone = asyncio.create_task(batcher.submit([7, 8]))
        stays = asyncio.create_task(batcher.submit([9]))
        await waiting(batcher, 3)
        gone.cancel()
        model.door.set()
        assert await kept == [0] and await stays == [18]
        assert model.batches == [[0], [9]]

    run(story())


def test_a_health_check_goes_before_whatever_waits():
    async def story() -> None:
        model = Model(shut=True)
        batcher: Batcher[int, int] = Batcher(model, 3)
        running = asyncio.create_task(batcher.submit([0]))
        await begun(model)
        others = asyncio.create_task(batcher.submit([1, 2, 3, 4]))
        await waiting(batcher, 4)
        health = asyncio.create_task(batcher.submit([100, 101], first=True))
        await waiting(batcher, 6)
        model.door.set()
        assert await health == [200, 202] and await running == [0] and await others == [2, 4, 6, 8]
        assert model.batches[1] == [100, 101, 1]

    run(story())


def test_what_a_batch_took_is_told():
    async def story() -> None:
        told: list[tuple[int, int, float, float]] = []
        model = Model()
        batcher: Batcher[int, int] = Batcher(model, 4, told=lambda *each: told.append(each))
        await batcher.submit(list(range(10)))
        assert [(size, left) for size, left, _, _ in told] == [(4, 6), (4, 2), (2, 0)]
        assert all(waited >= 0 and took >= 0 for _, _, waited, took in told)

    run(story())


def test_too_few_results_are_an_error_not_a_hang():
    async def story() -> None:
        batcher: Batcher[int, int] = Batcher(lambda items: items[:-1], 4)
        with pytest.raises(AssertionError, match="1 results of 2 items"):
            await batcher.submit([1, 2])

    run(story())


def test_all_that_is_on_the_cpu_runs_in_one_thread_and_what_loads_a_model_leaves_none():
    """A second thread's OpenMP helpers put those of the first to sleep between operations."""

    async def story() -> None:
        models = [Model() for _ in range(3)]
        on_cpu: list[Batcher[int, int]] = [Batcher(model, 4) for model in models[:2]]
        beside: Batcher[int, int] = Batcher(models[2], 4, device="cuda")
        for batcher in (*on_cpu, beside, *on_cpu):
            await batcher.submit([1, 2])
        assert len(models[0].threads | models[1].threads) == 1
        assert not models[2].threads & models[0].threads, "a device works beside the CPU"
        loader = await asyncio.wrap_future(passing(threading.current_thread))
        loader.join(20)
        assert not loader.is_alive() and loader.ident not in models[0].threads

    run(story())
    with pytest.raises(ValueError, match="no such number"):
        passing(Model(), [-1]).result()
