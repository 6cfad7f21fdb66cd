"""Two workers are one worker: losses, gradients, weights, skips, and a change of their number in between.

Each test starts two processes of this file that meet over loopback, and compares what they did with one process.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fahr.errors import Refused
from fahr.training.background import Background
from fahr.training.journal import Journal, read_rows
from fahr.training.keeper import Keeper
from fahr.training.loader import Batch
from fahr.training.loop import train
from fahr.training.recipe import Recipe
from fahr.training.run import Desk, Plan, Stopped, gathered, run
from fahr.training.state import State, fresh, load, read, save, snapshot
from fahr.training.step import pair_step, step
from fahr.training.tasks import Task
from fahr.training.workers import Strategy, agree, placed, rank, wrap
from tools.workers import joined, two_workers
from training import small

KINDS = ("half_painted", "survival")
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp")
CPU = torch.device("cpu")
Results = dict[str, Tensor]


def recipe(**changes: Any) -> Recipe:
    return small.recipe(**{"samples": 96, "drop_path": 0.3, "ema": 0.9, "clip": 5.0} | changes)


def share(start: int) -> small.Memory:
    rank, world = (distributed.get_rank(), 2) if distributed.is_initialized() else (0, 1)
    return small.Memory(start, rank=rank, world=world)


def wrapped(task: Task) -> nn.Module:
    return DistributedDataParallel(task) if distributed.is_initialized() else task


def trained(kind: str, stop_after: int | None = None, state_file: str = "", **changes: Any) -> tuple[Results, State]:
    """Losses and state of a run, begun anew or from a file."""
    chosen = recipe(**changes)
    task = small.TASKS[kind](chosen)
    state = fresh(task.model, chosen)
    if state_file:
        load(state_file, state, "any")
    told = list(train(wrapped(task), share, chosen, state, stop_after=stop_after))
    results = {"loss": torch.tensor([each.loss for each in told], dtype=torch.float64)}
    results["norm"] = torch.tensor([each.grad_norm for each in told], dtype=torch.float64)
    return results | small.gradients(task.model), state


def one_step(kind: str, cut: int) -> Results:
    """A step over 16 samples, the first `cut` of them on the first worker."""
    chosen = recipe(micro_batch=4, clip=0)
    task = small.TASKS[kind](chosen)
    state = fresh(task.model, chosen)
    start, stop = 0, 16
    if distributed.is_initialized():
        start, stop = (0, cut) if distributed.get_rank() == 0 else (cut, 16)
    move = step if task.pair_loss is None else pair_step
    outcome = move(wrapped(task), small.batch_at(start, stop), state.optimizer, chosen)
    assert outcome.samples == 16
    return {"loss": torch.tensor([outcome.loss], dtype=torch.float64)} | small.gradients(task.model)


def poisoned_step() -> Results:
    """The label of position 13, on the second worker, is no number."""
    chosen = recipe()
    task = small.TASKS["age"](chosen)
    state = fresh(task.model, chosen)
    batch = next(iter(share(0)))
    batch.labels["age"][batch.positions.numpy() == 13] = float("nan")
    before = snapshot(state, "").tensors
    outcome = step(wrapped(task), batch, state.optimizer, chosen)
    small.assert_equal(snapshot(state, "").tensors, before)
    return {"culprits": torch.tensor(outcome.culprits)}


def sharded(kind: str, folder: Path) -> Results:
    """The same run with FSDP2; its state is saved whole, and read back into one that is sharded again."""
    chosen = recipe()
    runs = []
    for resumed in (False, True):
        task = small.TASKS[kind](chosen)
        for block in task.model.encoder.blocks:
            fully_shard(block)
        fully_shard(task)
        state = fresh(task.model, chosen)
        if resumed:
            load(str(folder / "sharded"), state, "any")
        told = list(train(task, share, chosen, state, stop_after=None if resumed else 3))
        taken = snapshot(state, "any")
        if not resumed:
            if distributed.get_rank() == 0:
                save_snapshot(folder / "sharded", taken)
            distributed.barrier()
        runs += [each.loss for each in told]
    return {"loss": torch.tensor(runs, dtype=torch.float64)} | taken.tensors


def save_snapshot(file: Path, taken: Any) -> None:
    from fahr.training.state import write

    write(str(file), taken)


class Odd(small.Memory):
    """Fifteen samples a step: seven for one worker, eight for the other."""

    def __iter__(self) -> Iterator[Batch]:
        for first in range(self.start, 10**9, 15):
            yield small.batch_at(first + 15 * self.rank // self.world, first + 15 * (self.rank + 1) // self.world)


def odd(start: int) -> Odd:
    return Odd(start, rank=rank(), world=2 if distributed.is_initialized() else 1)


def uneven(kind: str, strategy: Strategy, micro_batch: int) -> Results:
    """Two steps of 15 samples: losses, norms, and the state as it is in the end."""
    chosen = recipe(global_batch=15, micro_batch=micro_batch, clip=0)
    task = placed(small.TASKS[kind](chosen), CPU)
    task_of_workers = wrap(task, strategy, CPU)
    state = fresh(task.model, chosen)
    told = list(train(task_of_workers, odd, chosen, state, stop_after=2))
    results = {name: torch.tensor([getattr(each, name) for each in told]).double() for name in ("loss", "grad_norm")}
    return results | snapshot(state, "any").tensors


def stopped(strategy: Strategy, folder: Path) -> None:
    """A run that the second worker is asked to stop after its third step. The first has the desk."""
    chosen = recipe()
    task = placed(small.half_painted(chosen), CPU)
    task_of_workers = wrap(task, strategy, CPU)
    state, asked, reported = fresh(task.model, chosen), 0, []

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return rank() == 1 and asked == 3

    with Background() as background:
        desk = None
        if rank() == 0:
            keeper = Keeper(str(folder / "states"), "any", background)
            desk = Desk(keeper, Journal(str(folder), 0, background), background, lambda taken, at: {"masked_loss": 0.5})
        try:
            run(
                task_of_workers, share, chosen, state, plan=Plan(1, frozenset({2}), 1e9, 1e9), digest="any", desk=desk,
                device=CPU, stop=stop, report=reported.append,
            )  # fmt: skip
        except Stopped as error:
            assert "after step 3 of 6" in str(error)
        assert state.position == 48 and [row["position"] for row in reported] == [32]
    distributed.barrier()


def agreements() -> None:
    """What one says, all hear; and what each could not read, all know."""
    mine = [rank() == 0, rank() == 1, False, True]
    assert agree(mine, CPU) == [True, True, False, True]
    assert agree([False], CPU) == [False]
    assert gathered({rank(): f"by {rank()}", 7: "by both"}) == {0: "by 0", 1: "by 1", 7: "by both"}


def worker(rank: int, folder: Path) -> None:
    with joined(rank, folder) as found:
        for kind in KINDS:
            results, _ = trained(kind)
            found |= {f"run/{kind}/{name}": each for name, each in results.items()}
            for cut in (8, 5):
                found |= {f"step/{kind}/{cut}/{name}": each for name, each in one_step(kind, cut).items()}
        found |= poisoned_step()
        _, state = trained("survival", stop_after=2)
        if rank == 0:
            save(str(folder / "after-2"), state, "any")
        distributed.barrier()
        results, _ = trained("survival", state_file=str(folder / "from-1"))
        found |= {f"resumed/{name}": each for name, each in results.items()}
        found |= {f"sharded/{name}": each for name, each in sharded("half_painted", folder).items()}
        agreements()
        for strategy in STRATEGIES:
            for kind in KINDS:
                results = uneven(kind, strategy, 3)
                found |= {f"odd/{kind}/{strategy}/{name}": each for name, each in results.items()}
            stopped(strategy, folder / strategy)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """What two workers found, and their folder."""
    folder = tmp_path_factory.mktemp("workers")
    _, state = trained("survival", stop_after=2)
    save(str(folder / "from-1"), state, "any")
    return two_workers(__file__, folder), folder


def part(found: Results, prefix: str) -> Results:
    return {name.removeprefix(prefix): each for name, each in found.items() if name.startswith(prefix)}


def split(results: Results) -> tuple[Results, Results]:
    """Numbers of a run, and its last gradients."""
    numbers = {name: results[name] for name in ("loss", "norm") if name in results}
    return numbers, {name: each for name, each in results.items() if name not in numbers}


@pytest.mark.parametrize("cut", [8, 5])  # 5 and 11 samples: uneven shares, micro-batches and numbers of them
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_two_workers_is_that_of_one_and_of_accumulation(
    two: tuple[Results, Path], kind: str, cut: int
) -> None:
    numbers, found = split(part(two[0], f"step/{kind}/{cut}/"))
    expected_numbers, expected = split(one_step(kind, cut))  # four micro-batches
    assert float(numbers["loss"]) == pytest.approx(float(expected_numbers["loss"]), rel=1e-6)
    small.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_two_workers_is_that_of_one(two: tuple[Results, Path], kind: str) -> None:
    numbers, found = split(part(two[0], f"run/{kind}/"))
    for micro_batch in (16, 4):
        expected_numbers, expected = split(trained(kind, micro_batch=micro_batch)[0])
        assert numbers["loss"].tolist() == pytest.approx(expected_numbers["loss"].tolist(), rel=1e-5)
        assert numbers["norm"].tolist() == pytest.approx(expected_numbers["norm"].tolist(), rel=1e-3)
        small.assert_close(found, expected, 1e-3)  # after five steps that have amplified the last bit


def test_from_one_worker_to_two_and_from_two_to_one_the_curve_goes_on(two: tuple[Results, Path]) -> None:
    expected = trained("survival")[0]["loss"].tolist()
    assert two[0]["resumed/loss"].tolist() == pytest.approx(expected[2:], rel=1e-5)
    back, _ = trained("survival", state_file=str(two[1] / "after-2"))
    assert back["loss"].tolist() == pytest.approx(expected[2:], rel=1e-5)


def test_a_bad_sample_of_one_worker_is_skipped_by_both_and_named(two: tuple[Results, Path]) -> None:
    assert two[0]["culprits"].tolist() == [13]


def test_a_sharded_run_has_the_same_curve_and_a_whole_state(two: tuple[Results, Path]) -> None:
    found = part(two[0], "sharded/")
    results, state = trained("half_painted")
    assert found.pop("loss").tolist() == pytest.approx(results["loss"].tolist(), rel=1e-5)
    expected = snapshot(state, "").tensors
    assert found.keys() == expected.keys()
    for kind in ("model/", "average/", "step/"):
        small.assert_close(part(found, kind), part(expected, kind), 1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_two_workers_cannot_halve_gives_the_steps_of_one(
    two: tuple[Results, Path], kind: str, strategy: Strategy
) -> None:
    """Micro-batches of 3: the 7 samples of one and the 8 of the other make three parts each."""
    found = part(two[0], f"odd/{kind}/{strategy}/")
    expected = uneven(kind, strategy, 15)
    assert found["loss"].tolist() == pytest.approx(expected["loss"].tolist(), rel=1e-6)
    assert found["grad_norm"].tolist() == pytest.approx(expected["grad_norm"].tolist(), rel=1e-4)
    assert found.keys() == expected.keys()
    for what in ("model/", "average/", "exp_avg/"):
        small.assert_close(part(found, what), part(expected, what), 1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_worker_that_is_asked_to_stop_stops_both_and_the_state_goes_on(
    two: tuple[Results, Path], strategy: Strategy
) -> None:
    folder = two[1] / strategy
    rows = [(row["kind"], row["position"]) for row in read_rows(str(folder))]
    assert rows == [("begin", 0), ("step", 16), ("step", 32), ("judged", 32), ("step", 48)]
    found = read(str(folder / "states" / f"state-{48:015d}.safetensors"), "any")
    _, state = trained("half_painted", stop_after=3)
    expected = snapshot(state, "any")
    assert found.facts == expected.facts and found.tensors.keys() == expected.tensors.keys()
    for what in ("model/", "average/", "step/"):
        small.assert_close(part(found.tensors, what), part(expected.tensors, what), 1e-4)


def test_one_worker_agrees_with_itself_and_needs_no_wrapper() -> None:
    task = small.pretraining(recipe())
    for strategy in STRATEGIES:
        assert wrap(task, strategy, CPU) is task
    assert agree([True, False], CPU) == [True, False] and rank() == 0


def test_an_unknown_strategy_is_refused_by_one_worker_too() -> None:
    with pytest.raises(Refused, match=r"strategy 'fdsp': not one of ddp, fsdp\. Did you mean 'fsdp'\?"):
        wrap(small.pretraining(recipe()), "fdsp", CPU)  # type: ignore[arg-type]


def test_a_task_that_is_not_wrapped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fahr.training.step.world_size", lambda: 2)
    chosen = recipe()
    task = small.TASKS["age"](chosen)
    moves: list[Callable[..., Any]] = [step, pair_step]
    for move in moves:
        with pytest.raises(TypeError, match="2 workers: wrap the task in DDP, or shard it by FSDP2"):
            move(task, small.batch_at(0, 8), fresh(task.model, chosen).optimizer, chosen)


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
