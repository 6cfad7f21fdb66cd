"""A run: the same every time, the same when it was killed, and never silent about what went wrong.

The golden losses are renewed, when the change is meant, by: python tests/training/test_loop.py
"""

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fahr.training.loader import Batch
from fahr.training.loop import Diverged, Metrics, train
from fahr.training.recipe import Recipe
from fahr.training.schedule import rate
from fahr.training.state import State, fresh, load, save, snapshot
from fahr.training.tasks import Prediction, Task
from tools.workers import forked
from training import small

GOLDEN = Path(__file__).with_name("golden_losses.txt")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Sums are cut by the number of threads: with the same number, the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def begun(kind: str = "pretraining", **changes: Any) -> tuple[Recipe, Task, State]:
    chosen = small.recipe(**changes)
    task = small.TASKS[kind](chosen)
    return chosen, task, fresh(task.model, chosen)


def losses(kind: str = "pretraining", **changes: Any) -> list[float]:
    chosen, task, state = begun(kind, **changes)
    return [metrics.loss for metrics in train(task, small.Memory, chosen, state)]


# The curve


def test_twenty_steps_have_the_golden_losses() -> None:
    """1e-5 for other processors; here, the second run has the bits of the first."""
    found = losses()
    assert found == losses()
    golden = [line.split() for line in GOLDEN.read_text().splitlines()]
    assert [int(number) for number, _ in golden] == list(range(1, 21))
    assert found == pytest.approx([float(loss) for _, loss in golden], rel=1e-5)
    assert found[-1] < 0.9 * found[0], "something is learned"


@pytest.mark.parametrize("kind", small.TASKS)
def test_every_task_learns(kind: str) -> None:
    found = losses(kind, samples=960, base_lr=0.064)
    assert sum(found[-6:]) < 0.9 * sum(found[:6]), found


@pytest.mark.parametrize("kind", ["half_painted", "survival"])
def test_four_micro_batches_give_the_curve_of_one(kind: str) -> None:
    one, four = losses(kind, drop_path=0.3, samples=96), losses(kind, drop_path=0.3, samples=96, micro_batch=4)
    assert four == pytest.approx(one, rel=1e-5)


def test_the_metrics_say_what_happened() -> None:
    chosen, task, state = begun(samples=128)
    told: list[Metrics] = list(train(task, small.Memory, chosen, state))
    assert [each.step for each in told] == list(range(1, 9)) and [each.position for each in told] == [
        16 * number for number in range(1, 9)
    ]
    assert [each.learning_rate for each in told] == [rate(16 * number, chosen) for number in range(8)]
    assert told[0].learning_rate == 0 and told[4].learning_rate == chosen.peak_rate
    assert all(each.grad_norm > 0 and each.samples_per_second > 0 and 0 <= each.waited_share < 1 for each in told)
    assert all(each.memory_bytes > 50 << 20 for each in told) and told[-1].skipped == 0
    assert state.position == 128 and state.optimizer.param_groups[0]["lr"] == told[-1].learning_rate


# Killed and resumed


@pytest.mark.parametrize("kind", ["pretraining", "survival"])
@pytest.mark.parametrize("killed_after", [1, 5, 11])
def test_killed_and_resumed_ends_as_if_never_killed(tmp_path: Path, kind: str, killed_after: int) -> None:
    settings = {"samples": 192, "drop_path": 0.3, "ema": 0.9, "clip": 1.0, "layer_decay": 0.8, "micro_batch": 8}
    chosen, task, whole = begun(kind, **settings)
    expected = [metrics.loss for metrics in train(task, small.Memory, chosen, whole)]
    chosen, task, state = begun(kind, **settings)
    before = [metrics.loss for metrics in train(task, small.Memory, chosen, state, stop_after=killed_after)]
    save(str(tmp_path / "state"), state, chosen.digest())
    torch.manual_seed(killed_after)  # another process has another generator
    chosen, task, again = begun(kind, **settings)
    load(str(tmp_path / "state"), again, chosen.digest())
    after = [metrics.loss for metrics in train(task, small.Memory, chosen, again)]
    assert before + after == expected
    small.assert_equal(snapshot(again, "").tensors, snapshot(whole, "").tensors)


class Dropping(Prediction):
    """With dropout of torch's own, as foreign models have it."""

    def __init__(self, chosen: Recipe) -> None:
        super().__init__(small.predictor(), chosen, lambda scores, labels: scores)
        self.dropout = nn.Dropout(0.5)

    def values(self, images: Tensor, positions: Tensor, labels: Any) -> Tensor:
        scores: Tensor = self.model.predict(self.dropout(self.model.features(images)))
        return (scores - 3).abs()


def test_foreign_dropout_too_goes_on_where_it_was() -> None:
    chosen = small.recipe(samples=128)
    runs = []
    for cuts in ((8,), (3, 5)):
        task = Dropping(chosen)
        state, told = fresh(task.model, chosen), []
        for number in cuts:
            torch.manual_seed(number)
            told += [each.loss for each in train(task, small.Memory, chosen, state, stop_after=number)]
        runs.append(told)
    assert runs[0] == runs[1] and len(set(runs[0])) == 8


def test_a_process_that_is_killed_leaves_a_state_that_goes_on(tmp_path: Path) -> None:
    """SIGKILL between two saves: what the file holds is a whole step, and the rest of the curve is the same."""
    file, said = tmp_path / "state", tmp_path / "told"
    run = forked(__file__, str(file), told=said)
    run.join(120)
    assert run.exitcode == -9, said.read_text()
    told = [json.loads(line) for line in said.read_text().splitlines()]
    chosen, task, state = begun()
    load(str(file), state, chosen.digest())
    assert state.position == 7 * 16 and len(told) == 7
    rest = [metrics.loss for metrics in train(task, small.Memory, chosen, state)]
    assert told + rest == losses()


def test_a_finished_run_opens_no_data_and_does_nothing() -> None:
    chosen, task, state = begun(samples=32, warmup_samples=0)
    assert len(list(train(task, small.Memory, chosen, state))) == 2
    before = small.weights(task.model)

    def never(start: int) -> small.Memory:
        raise AssertionError(start)

    assert list(train(task, never, chosen, state)) == []
    small.assert_equal(small.weights(task.model), before)


# What goes wrong


class Poisoned(small.Memory):
    """Labels that are not numbers, in some batches."""

    bad = (2, 4, 5)  # batches, from 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if int(batch.positions[0]) // 16 in self.bad:
                batch.labels["age"][5] = float("nan")
            yield batch


def test_bad_steps_are_skipped_and_counted_until_the_limit() -> None:
    chosen, task, state = begun("age", nonfinite_limit=2, ema=0.9)
    told: list[Metrics] = []
    kept: dict[str, Tensor] = {}
    with pytest.raises(Diverged, match=r"step 6: loss nan, .*at positions 85\. That is skipped step 3, .*limit is 2\."):
        for metrics in train(task, Poisoned, chosen, state):
            told.append(metrics)
            if metrics.culprits:
                small.assert_equal(snapshot(state, "").tensors, kept)
            kept = snapshot(state, "").tensors
    assert [(each.skipped, each.culprits) for each in told] == [(0, ()), (0, ()), (1, (37,)), (1, ()), (2, (69,))]
    assert math.isfinite(told[3].loss) and state.position == 96


def test_a_loader_that_ends_too_early_is_told() -> None:
    chosen, task, state = begun()
    with pytest.raises(RuntimeError, match="the loader ended at position 48 of 320"):
        list(train(task, lambda start: small.Memory(start, num_batches=3), chosen, state))


def test_a_loader_that_stands_elsewhere_is_told() -> None:
    chosen, task, state = begun()
    with pytest.raises(RuntimeError, match="the loader is at position 16, the run at 0"):
        list(train(task, lambda start: small.Memory(start + 16), chosen, state))


def test_a_loader_with_other_batches_is_told() -> None:
    chosen, task, state = begun()
    with pytest.raises(RuntimeError, match="step 1: 8 samples, global_batch is 16"):
        list(train(task, lambda start: small.Memory(start, global_batch=8), chosen, state))


@pytest.mark.parametrize("way", ["end", "break", "error"])
def test_the_loader_is_closed_however_the_run_ends(way: str) -> None:
    opened: list[small.Memory] = []

    def remembered(start: int) -> small.Memory:
        opened.append(small.Memory(start, num_batches=1 if way == "error" else None))
        return opened[-1]

    chosen, task, state = begun(samples=32, warmup_samples=0)
    steps = train(task, remembered, chosen, state)
    if way == "error":
        with pytest.raises(RuntimeError):
            list(steps)
    elif way == "break":
        next(steps)
        assert not opened[0].closed
        steps.close()
    else:
        list(steps)
    assert [each.closed for each in opened] == [True]


def killed_in_the_eighth_step(file: str) -> None:
    chosen, task, state = begun()
    for metrics in train(task, small.Memory, chosen, state):
        if metrics.step == 8:
            os.kill(os.getpid(), 9)
        save(file, state, chosen.digest())
        print(json.dumps(metrics.loss), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    if len(sys.argv) > 1:
        killed_in_the_eighth_step(sys.argv[1])
    GOLDEN.write_text("".join(f"{number} {loss:.9g}\n" for number, loss in enumerate(losses(), 1)))
