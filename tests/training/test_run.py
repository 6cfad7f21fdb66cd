"""A run with everything beside it: what is told, kept and judged is the same however often it was killed."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies

from fahr.training.background import Background
from fahr.training.journal import Journal, read_rows
from fahr.training.keeper import Keeper
from fahr.training.loader import Batch
from fahr.training.loop import Diverged
from fahr.training.recipe import Recipe
from fahr.training.run import Desk, Plan, Stopped, gathered, run
from fahr.training.state import Snapshot, fresh, restore, snapshot
from tools.runs import Pulled
from training import small

CPU = torch.device("cpu")
NEVER_S = 1e9


def recipe(**changes: Any) -> Recipe:
    """Six steps."""
    return small.recipe(**{"samples": 96, "ema": 0.9, "drop_path": 0.2, "warmup_samples": 16} | changes)


def plan(**changes: Any) -> Plan:
    values = {"log_every": 2, "judge_at": frozenset({3, 6}), "save_every_s": NEVER_S, "look_every_s": NEVER_S}
    return Plan(**values | changes)  # type: ignore[arg-type]


class Started:
    """One start of the run in `folder`, from its newest state, as a job does it."""

    def __init__(self, folder: Path, chosen: Recipe, kind: str = "pretraining") -> None:
        self.folder, self.recipe, self.kind = folder, chosen, kind
        self.judged: list[int] = []
        self.saved: list[int] = []
        self.told: list[Mapping[str, Any]] = []
        self.reported: list[Mapping[str, Any]] = []

    def go(
        self,
        *,
        pull_after: int | None = None,
        batches: Callable[[int], Any] = small.Memory,
        chosen: Plan | None = None,
        judge: Callable[[Snapshot, int], Mapping[str, Any]] | None = None,
        **hooks: Any,
    ) -> Snapshot:
        task = small.TASKS[self.kind](self.recipe)
        state = fresh(task.model, self.recipe)

        def tell(row: Mapping[str, Any]) -> None:
            self.told.append(row)
            if row["position"] == 16 * (pull_after or -1):
                raise Pulled

        def looked(taken: Snapshot, position: int) -> Mapping[str, Any]:
            assert taken.facts["position"] == position == state.position
            assert position not in keeper.positions(), "a run that goes on from it would not judge"
            self.judged.append(position)
            return {"masked_loss": float(taken.tensors[next(iter(sorted(taken.tensors)))].double().sum())}

        with Background() as background:
            keeper = Keeper(str(self.folder / "states"), "abc", background, keep=100)
            if taken := keeper.newest():
                restore(taken, state)
            journal = Journal(str(self.folder), state.position, background, "abc")
            desk = Desk(keeper, journal, background, judge or looked, tell)
            plain_save = keeper.save

            def save(taken: Snapshot, before: Callable[[], None]) -> None:
                self.saved.append(taken.facts["position"])
                plain_save(taken, before)
                background.wait(60)

            keeper.save = save  # type: ignore[method-assign]
            settings = {"report": self.reported.append, "digest": "abc", "device": CPU} | hooks
            run(task, batches, self.recipe, state, plan=chosen or plan(), desk=desk, **settings)
            journal.flush()
            background.wait(60)
        return snapshot(state, "abc")


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What must be the same: all but the seconds."""
    kept = (
        "kind",
        "position",
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "skipped_steps",
        "masked_loss",
        "culprits",
    )
    return [tuple(row.get(name) for name in kept) for row in read_rows(str(folder))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshot, Started]:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    started = Started(folder, recipe())
    return folder, started.go(), started


Whole = tuple[Path, Snapshot, Started]


def test_lines_stand_at_the_steps_of_the_plan(whole: Whole) -> None:
    rows = read_rows(str(whole[0]))
    found = [(row["kind"], row["position"] // 16) for row in rows]
    assert found == [("begin", 0), ("step", 2), ("step", 3), ("judged", 3), ("step", 4), ("step", 6), ("judged", 6)]
    for row in rows:
        if row["kind"] == "step":
            assert row["step"] * 16 == row["position"] and row["workers"] == 1 and row["skipped_steps"] == 0
            assert row["samples_per_second"] > 0 and row["memory_bytes"] > 0
            assert 0 <= row["waited_share"] <= 1 and 0 <= row["saving_share"] <= 1
            assert "flop_utilisation" not in row  # of a device whose peak nobody measured


def test_judged_when_planned_and_before_the_state_is_written(whole: Whole) -> None:
    _, _, started = whole
    assert started.judged == [48, 96] and started.saved == [48, 96]
    assert [row["position"] for row in started.reported] == [48, 96]
    assert all(math.isfinite(row["masked_loss"]) and math.isfinite(row["loss"]) for row in started.reported)
    assert [row["position"] for row in started.told] == [16 * step for step in range(1, 7)]


@pytest.mark.parametrize("pull_after", [1, 3, 4, 6])
def test_killed_at_any_step_it_tells_and_ends_as_if_never_killed(whole: Whole, tmp_path: Path, pull_after: int) -> None:
    """States are written at judgements alone: what came after is lost and done again, lines included."""
    started = Started(tmp_path, recipe())
    with pytest.raises(Pulled):
        started.go(pull_after=pull_after)
    end = started.go()
    assert told(tmp_path) == told(whole[0])
    small.assert_equal(end.tensors, whole[1].tensors)
    assert end.facts == whole[1].facts
    assert started.judged == [48, 96], "a judgement that a state holds is not made again"


def test_killed_after_every_step_it_still_comes_to_the_same_end(whole: Whole, tmp_path: Path) -> None:
    """With a state after every step nothing is done twice; each life begins elsewhere in the window of the metrics."""
    torch.manual_seed(5)
    started, always = Started(tmp_path, recipe()), plan(save_every_s=0.0)
    for step in range(2, 7):
        with pytest.raises(Pulled):
            started.go(pull_after=step, chosen=always)
    end = started.go(chosen=always)
    assert told(tmp_path) == told(whole[0]) and started.saved == [16 * step for step in range(1, 7)]
    small.assert_equal(end.tensors, whole[1].tensors)


def test_killed_while_it_judges_it_judges_again(whole: Whole, tmp_path: Path) -> None:
    def dies(taken: Snapshot, position: int) -> Mapping[str, Any]:
        raise Pulled

    with pytest.raises(Pulled):
        Started(tmp_path, recipe()).go(judge=dies)
    started = Started(tmp_path, recipe())
    started.go()
    assert started.judged == [48, 96] and told(tmp_path) == told(whole[0])


def test_a_finished_run_does_nothing_more(whole: Whole) -> None:
    before = told(whole[0])
    again = Started(whole[0], recipe())

    def never(start: int) -> small.Memory:
        raise AssertionError(start)

    end = again.go(batches=never)
    small.assert_equal(end.tensors, whole[1].tensors)
    assert told(whole[0]) == before and again.judged == again.saved == again.told == []


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_asked_to_stop_it_leaves_a_state_at_that_step(whole: Whole, tmp_path: Path, stop_after: int) -> None:
    started = Started(tmp_path, recipe())
    with pytest.raises(Stopped, match=f"stopped after step {stop_after} of 6"):
        started.go(stop=lambda: len(started.told) == stop_after)
    assert started.saved[-1] == 16 * stop_after
    assert [row[1] for row in told(tmp_path) if row[1] > 16 * stop_after] == []
    end = Started(tmp_path, recipe()).go()
    assert told(tmp_path) == told(whole[0])
    small.assert_equal(end.tensors, whole[1].tensors)
    assert issubclass(Stopped, KeyboardInterrupt)  # who stops a job must not be told of an error


def test_a_warning_that_the_machine_goes_away_is_heeded_once(tmp_path: Path) -> None:
    asked = 0

    def noticed() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 2

    started = Started(tmp_path, recipe())
    started.go(noticed=noticed, chosen=plan(look_every_s=0.0, judge_at=frozenset({6})))
    assert started.saved == [32, 96] and asked == 2  # and is not asked again


def test_until_the_machine_goes_away_little_of_what_is_learned_is_at_stake(tmp_path: Path) -> None:
    started = Started(tmp_path, recipe())
    started.go(noticed=lambda: True, chosen=plan(look_every_s=0.0, leave_every_s=0.0, judge_at=frozenset()))
    assert started.saved[:4] == [16, 32, 48, 64]  # each step


def test_nobody_looks_before_it_is_time(tmp_path: Path) -> None:
    def never() -> bool:
        raise AssertionError("asked")

    Started(tmp_path, recipe(samples=32)).go(noticed=never)


# Steps that are skipped


class Poisoned(small.Memory):
    """Ages that are no numbers, at two positions of the third step."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            for number, position in enumerate(batch.positions.tolist()):
                if position in (37, 40):
                    batch.labels["age"][number] = float("nan")
            yield batch


def test_a_step_that_is_skipped_stands_in_the_file_with_its_positions(tmp_path: Path) -> None:
    started = Started(tmp_path, recipe(), "age")
    started.go(batches=Poisoned, chosen=plan(log_every=100, judge_at=frozenset({6})))
    rows = [row for row in read_rows(str(tmp_path)) if row["kind"] in ("skipped", "step")]
    assert rows[0] == {"kind": "skipped", "position": 48, "step": 3, "culprits": [37, 40]}
    assert (rows[1]["step"], rows[1]["loss"], rows[1]["skipped_steps"]) == (3, None, 1)
    assert (rows[2]["step"], rows[2]["skipped_steps"]) == (6, 1) and len(rows) == 3
    (warning,) = [row["warning"] for row in started.told if "warning" in row]
    assert "step 3: loss nan" in warning and "Positions 37, 40;" in warning and "skip 1 of at most 10" in warning


def test_a_run_that_diverges_ends_with_what_was_told_and_kept_before(tmp_path: Path) -> None:
    started = Started(tmp_path, recipe(nonfinite_limit=0), "age")
    with pytest.raises(Diverged, match="at positions 37, 40"):
        started.go(batches=Poisoned, chosen=plan(judge_at=frozenset({2, 6})))
    assert started.saved == [32] and [row[1] for row in told(tmp_path)] == [0, 32, 32]


# Without a desk, and alone


def test_a_worker_without_a_desk_trains_the_same(whole: Whole) -> None:
    chosen = recipe()
    task = small.pretraining(chosen)
    state, reported = fresh(task.model, chosen), []
    hooks = {"digest": "abc", "device": CPU, "report": reported.append}
    run(task, small.Memory, chosen, state, plan=plan(), desk=None, **hooks)
    small.assert_equal(snapshot(state, "abc").tensors, whole[1].tensors)
    assert [row["position"] for row in reported] == [48, 96]


def test_the_faces_that_one_worker_could_not_read_are_all_there_are() -> None:
    assert gathered({3: "cut"}) == {3: "cut"}


# The plan


@hypothesis.given(
    steps=strategies.integers(1, 10**6) | strategies.integers(1, 40),
    log_rows=strategies.integers(1, 10**7),
    judgements=strategies.integers(1, 300),
)
def test_a_plan_judges_evenly_and_always_at_the_end(steps: int, log_rows: int, judgements: int) -> None:
    chosen = small.recipe(samples=steps * 16 + 5, warmup_samples=0)
    found = Plan.of(chosen, log_rows=log_rows, judgements=judgements, save_every_s=1.0)
    judged = sorted(found.judge_at)
    assert judged[-1] == steps and judged[0] >= 1 and len(judged) == min(steps, judgements)
    gaps = [later - earlier for earlier, later in zip([0, *judged], judged, strict=False)]
    assert max(gaps) - min(gaps) <= 2 or len(judged) == steps
    assert 1 <= found.log_every <= steps
    lines = steps // found.log_every
    assert min(steps, log_rows) <= lines < 2 * log_rows or (found.log_every == 1 and lines == steps)


def test_asked_to_stop_after_the_last_step_it_has_ended(whole: Whole, tmp_path: Path) -> None:
    started = Started(tmp_path, recipe())
    end = started.go(stop=lambda: len(started.told) == 6)
    assert told(tmp_path) == told(whole[0])
    small.assert_equal(end.tensors, whole[1].tensors)


def test_a_face_that_did_not_decode_before_a_kill_is_still_known_after_it(tmp_path: Path) -> None:
    """A process that begins anew has met none of them, and may meet none again."""
    with pytest.raises(Pulled):
        Started(tmp_path, recipe()).go(pull_after=5, bad=lambda: {7: "truncated"})
    assert Started(tmp_path, recipe()).go().facts["bad"] == {"7": "truncated"}
    assert Started(tmp_path, recipe()).go(bad=lambda: {9: "empty"}).facts["bad"] == {"7": "truncated"}, "all is done"
