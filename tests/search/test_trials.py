"""What is noted of trials, here and in S3, and what is shown of them while a search runs."""

from dataclasses import replace

import pytest

from fahr.report.search_trials import read_trials
from fahr.search.live import Live
from fahr.search.metrics import METRICS
from fahr.search.trials import Notes, Trial, commonest_error, ranked, table

DONE = Trial(
    1, {"loss": "hinge", "tau": 0.5}, 0, "done", 0.71, 0.02, 0.29, 2, ((1.0, 0.68), (2.0, 0.71)), 1.5, "2026-11-22"
)  # fmt: skip
DEFAULT = replace(DONE, number=0, settings={"loss": "cox"}, metric=0.65, score=0.35)
STOPPED = replace(DONE, number=2, state="stopped", metric=0.6, score=0.4)
FAILED = Trial(3, {"loss": "hinge", "tau": 1e-9}, 0, "failed", error='kind "exponential", with a comma\nand a line')


def test_a_killed_search_finds_what_ended_and_what_was_running(folder: str) -> None:
    notes = Notes(folder)
    assert notes.read() == ({}, {})
    for trial in (DEFAULT, DONE, STOPPED, FAILED):
        notes.given(trial.number, trial.settings)
        notes.ended(trial)
    notes.given(4, {"tau": 0.25, "loss": "cox"})
    ended, given = Notes(folder).read()
    assert ended == {each.number: each for each in (DEFAULT, DONE, STOPPED, FAILED)}, "to the last digit"
    assert given == {4: {"tau": 0.25, "loss": "cox"}}


def test_the_table_has_a_row_a_trial_as_the_page_reads_it() -> None:
    made = table([FAILED, DONE, STOPPED, DEFAULT], ["loss", "tau", "margin"])
    read = read_trials(made, higher_is_better=True, scales={"tau": "log"})
    assert read.number.tolist() == [0, 1, 2, 3] and read.state.tolist() == ["done", "done", "stopped", "failed"]
    assert made["p_tau"].to_pylist() == [None, 0.5, 0.5, 1e-9], "null where it does not apply"
    assert made["p_margin"].null_count == 4 and made["metric"].to_pylist()[3] is None
    assert read.curve[1].tolist() == [[1, 0.68], [2, 0.71]]
    assert table([], ["tau"]).num_rows == 0


def test_stopped_and_failed_trials_are_never_ranked() -> None:
    assert [each.number for each in ranked([STOPPED, FAILED, DEFAULT, DONE])] == [1, 0]
    twin = replace(DONE, number=9)
    assert [each.number for each in ranked([twin, DONE])] == [1, 9], "of equals, the earlier"
    assert commonest_error([FAILED, DONE, replace(FAILED, error="b"), FAILED]) == (FAILED.error, 2)
    assert commonest_error([DONE]) == ("", 0)
    same = [replace(FAILED, error=f"scores that spread over {spread:.4g}, too wide") for spread in (81.5, 8e9, 791)]
    assert commonest_error([replace(FAILED, error="b")] * 2 + same) == (same[0].error, 3), "numbers aside"


def test_the_live_table_tells_the_best_the_default_the_time_left_and_the_commonest_error() -> None:
    live = Live(total=10, metric=METRICS["survival"], names=["loss", "tau"])
    better = [
        replace(DONE, number=number, metric=0.7 + number / 100, score=0.3 - number / 100) for number in range(4, 10)
    ]
    lines = live.lines([DEFAULT, *better, FAILED], running=2, elapsed_s=80.0, fresh=4)
    assert lines[0] == "tune: 8 of 10 trials (7 done, 1 failed), 2 running, about 40 s left"
    assert lines[2].split()[:2] == ["9", "0.7900"] and "0 = default  0.6500" in lines[-2], "shown though it is not best"
    assert "1 failed, 1 by: kind" in lines[-1]
    assert live.lines([], running=0, elapsed_s=1.0) == ["tune: 0 of 10 trials (none ended yet), 0 running"]


@pytest.mark.parametrize(("seconds", "told"), [(42, "42 s"), (200, "3 min"), (9000, "2.5 h")])
def test_time_is_told_in_a_unit_that_fits(seconds: float, told: str) -> None:
    from fahr.search.live import duration

    assert duration(seconds) == told
