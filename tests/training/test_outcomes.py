"""Learning risk: losses of a global batch however it is cut, the judge, the age offset, evaluation over folds."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from fahr.errors import Refused
from fahr.models import build
from fahr.objectives import discrete_time_loss
from fahr.training.event_batches import EventBatches
from fahr.training.labels import check_events, check_outcomes
from fahr.training.loader import Batch
from fahr.training.optimizer import make_optimizer
from fahr.training.outcomes import (
    AgeOffset,
    Followed,
    censoring_of,
    fit_age_offset,
    fit_intervals,
    hazard_losses,
    judged,
    known_outcome,
    one_photo,
    pair_losses,
    strata,
)
from fahr.training.risks import Published, evaluated, paired, ranked
from fahr.training.step import pair_step, step
from fahr.training.tasks import Comparison, Prediction, Task
from tools.workers import joined, two_workers
from training import small

ROWS = 512
RNG = np.random.default_rng(11)


def cohort(photos: int = ROWS, per_person: int = 2, seed: int = 11) -> pa.Table:
    """People who die by their age and by what a face shows beside it (`marker`), some watched from later on."""
    rng = np.random.default_rng(seed)
    people = photos // per_person
    age, marker = rng.uniform(40, 80, people), rng.normal(size=people)
    death = rng.exponential(1500 * np.exp(-0.05 * (age - 60) - marker))
    closed = rng.uniform(300, 3000, people)
    days = np.ceil(np.minimum(death, closed))
    entry = np.where(rng.random(people) < 0.3, np.floor(days * rng.uniform(0, 0.9, people)), 0)
    person = np.repeat(np.arange(people), per_person)
    return pa.table({
        "photo_id": [f"p{row:04d}" for row in range(len(person))],
        "subject_id": [f"s{each:04d}" for each in person],
        "follow_up_days": days[person], "event": (death <= closed).astype(np.int8)[person],
        "entry_days": pa.array(entry[person], mask=rng.random(len(person)) < 0.1), "age": age[person],
        "marker": marker[person],
    })  # fmt: skip


TABLE = cohort()
LABELS: dict[str, Any] = {
    name: np.array(TABLE[name].to_pylist(), object) if name == "subject_id" else TABLE[name].to_numpy()
    for name in ("follow_up_days", "event", "entry_days", "subject_id", "age")
}
OFFSET = AgeOffset(0.05, 60.0)
LOSSES: dict[str, dict[str, Any]] = {
    "logistic": {"weight": "gap", "offset": OFFSET},
    "hinge": {"margin": 0.5},
    "exponential": {"weight": "ipcw", "tau": 2.0, "censoring": censoring_of(TABLE)},
    "cox": {"offset": OFFSET},
}
INTERVALS = fit_intervals("here", TABLE)
STEPS = (*LOSSES, "hazard")


# One step: 1 x 256 = 4 x 64 = 2 workers x 128


def batch(start: int, stop: int) -> Batch:
    """Positions of an event-aware order; the pictures are random, the outcomes are not."""
    who = Followed.of(TABLE)
    rows = EventBatches(who.time, who.event, who.subject.astype(str), entry=who.entry, batch=256, seed=3).rows(0, 256)
    rows = rows[start:stop]
    images = torch.from_numpy(np.stack([small.IMAGES[row % small.NUM_ROWS] for row in rows]))
    return Batch(images, rows, torch.arange(start, stop), {name: column[rows] for name, column in LABELS.items()})


def one_step(kind: str, micro_batch: int) -> dict[str, Tensor]:
    """Loss and gradients of 256 people, or of this worker's half of them."""
    recipe = small.recipe(global_batch=256, micro_batch=micro_batch, drop_path=0.3, samples=256, warmup_samples=0)
    task: Task
    if kind == "hazard":
        shape = dataclasses.replace(small.predictor("survival").architecture, head="hazard")
        task = Prediction(build(shape, seed=0), recipe, hazard_losses(INTERVALS.edges))
    else:
        task = Comparison(small.predictor("survival"), recipe, pair_losses(kind, **LOSSES[kind]))
    optimizer = make_optimizer(task.model, recipe)
    start, stop = 0, 256
    wrapped: Any = task
    if distributed.is_initialized():
        start, stop = 128 * distributed.get_rank(), 128 * (distributed.get_rank() + 1)
        wrapped = DistributedDataParallel(task)
    move = step if task.pair_loss is None else pair_step
    outcome = move(wrapped, batch(start, stop), optimizer, recipe)
    assert outcome.samples == 256 and outcome.moved
    return {"loss": torch.tensor([outcome.loss], dtype=torch.float64)} | small.gradients(task.model)


def worker(rank: int, folder: Path) -> None:
    with joined(rank, folder) as found:
        found |= {f"{kind}/{name}": each for kind in STEPS for name, each in one_step(kind, 128).items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return two_workers(__file__, tmp_path_factory.mktemp("workers"))


@pytest.mark.parametrize("kind", STEPS)
def test_256_people_at_once_in_four_parts_and_by_two_workers_make_the_same_step(
    two: dict[str, Tensor], kind: str
) -> None:
    whole = one_step(kind, 256)
    loss = float(whole.pop("loss"))
    for other in (
        one_step(kind, 64),
        {name.split("/", 1)[1]: each for name, each in two.items() if name.startswith(f"{kind}/")},
    ):
        assert float(other.pop("loss")) == pytest.approx(loss, rel=1e-6)
        small.assert_close(other, whole)


# Losses


def by_hand(risk: np.ndarray, *, weight: str = "none", tau: float = 1.0, offset: AgeOffset | None = None) -> float:
    """The logistic loss over pairs, pair by pair."""
    if offset is not None:
        risk = risk + tau * offset.beta * (LABELS["age"] - offset.mean)
    time, event = LABELS["follow_up_days"], LABELS["event"]
    entry, people = np.nan_to_num(LABELS["entry_days"]), LABELS["subject_id"]
    total = weights = 0.0
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & (event == 0))
        for j in np.flatnonzero(later & (entry < time[i]) & (people != people[i])):
            w = min((time[j] - time[i]) / 365.25, 5.0) if weight == "gap" else 1.0
            total += w * np.log1p(np.exp(-(risk[i] - risk[j]) / tau))
            weights += w
    return total / weights


@pytest.mark.parametrize(
    "chosen", [{}, {"weight": "gap"}, {"tau": 0.5, "offset": OFFSET}], ids=["plain", "gap", "offset and tau"]
)
def test_the_logistic_loss_of_labels_is_that_of_a_loop_over_pairs(chosen: dict[str, Any]) -> None:
    """In days, with gaps in years; entries that are unknown are 0; two photos of a person are no pair."""
    risk = RNG.normal(size=ROWS)
    found = pair_losses("logistic", **chosen)(torch.from_numpy(risk), LABELS)
    assert float(found) == pytest.approx(by_hand(risk, **chosen), rel=1e-9)


def test_scores_that_are_not_finite_are_left_to_the_step_which_names_them() -> None:
    scores = torch.zeros(ROWS)
    scores[3] = float("inf")
    scores.requires_grad_()
    for kind in LOSSES:
        loss = pair_losses(kind, **LOSSES[kind])(scores, LABELS)
        assert not bool(loss.isfinite()) and loss.requires_grad


def test_hazards_through_the_task_are_those_of_the_objective() -> None:
    """Loss and gradient of the head's outputs: a mean over faces, entries that are unknown 0, edges of people."""
    outputs = torch.from_numpy(RNG.normal(size=(ROWS, 10))).requires_grad_()
    (found,) = torch.autograd.grad(hazard_losses(INTERVALS.edges)(outputs, LABELS).mean(), outputs)
    entry = np.nan_to_num(LABELS["entry_days"])
    loss = discrete_time_loss(outputs, LABELS["follow_up_days"], LABELS["event"], INTERVALS.edges, entry=entry)
    (expected,) = torch.autograd.grad(loss, outputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    died = Followed.of(TABLE).patients()
    counts = np.histogram(died.time[died.event], INTERVALS.edges)[0]
    assert counts.sum() == died.event.sum() and np.ptp(counts) <= 3, "as many deaths in each, but for equal days"
    bad = outputs.detach().clone()
    bad[3, 5] = float("inf")
    losses = hazard_losses(INTERVALS.edges)(bad, LABELS)
    assert np.flatnonzero(~losses.isfinite().numpy()).tolist() == [3], "the step names the face"


def test_an_offset_of_age_is_a_cox_model_of_age_alone_with_delayed_entry() -> None:
    from lifelines import CoxPHFitter  # seconds, that the two workers need not spend

    first = TABLE.take(pa.array(range(0, ROWS, 2)))
    frame = first.select(["follow_up_days", "event", "entry_days", "age"]).to_pandas()
    frame["entry_days"] = np.maximum(frame["entry_days"].fillna(0), Followed.of(TABLE).entry[1::2])  # latest of a visit
    fit = CoxPHFitter().fit(frame, "follow_up_days", "event", entry_col="entry_days")
    found = fit_age_offset("here", TABLE)
    assert found.beta == pytest.approx(fit.params_["age"], rel=1e-6) and found.mean == pytest.approx(
        frame["age"].mean()
    )
    assert found.of([found.mean, found.mean + 10]) == pytest.approx([0, 10 * found.beta])
    with pytest.raises(Refused, match="--age-offset has no Cox model of age .* same for everybody"):
        fit_age_offset("here", TABLE.set_column(5, "age", pa.array([50.0] * ROWS)))


def test_the_censoring_curve_counts_people_not_photos() -> None:
    first = TABLE.take(pa.array(range(0, ROWS, 2)))
    many = pa.concat_tables(
        [first, *[first.slice(0, 1).set_column(0, "photo_id", pa.array([f"x{n}"])) for n in range(50)]]
    )
    times = np.linspace(1, 2900, 30)
    assert np.asarray(censoring_of(many)(times)) == pytest.approx(np.asarray(censoring_of(first)(times)))


# The judge


def test_the_judge_is_better_for_the_truth_than_for_age_and_undefined_where_nobody_compares() -> None:
    truth, age = 0.05 * LABELS["age"] + TABLE["marker"].to_numpy(), LABELS["age"]
    good, plain, reverse = (judged(TABLE, each) for each in (truth, age, -truth))
    assert good["score"] < plain["score"] < 0.5 < reverse["score"]
    assert good["score"] == pytest.approx(1 - good["c_index"]) and good["events"] == LABELS["event"][::2].sum()
    assert reverse["c_index"] == pytest.approx(1 - good["c_index"], abs=1e-9)
    nobody = TABLE.set_column(3, "event", pa.array([0] * ROWS, pa.int8()))
    assert judged(nobody, truth)["score"] is None and judged(nobody, truth)["c_index"] is None
    assert judged(TABLE, np.full(ROWS, np.nan))["score"] is None


def test_with_an_offset_the_judge_goes_by_both_and_tells_each() -> None:
    marker = TABLE["marker"].to_numpy()
    row = judged(TABLE, marker, AgeOffset(0.05, 60.0))
    assert row["c_index"] == pytest.approx(judged(TABLE, marker)["c_index"])
    assert row["c_index_with_age"] == pytest.approx(judged(TABLE, marker + 0.05 * LABELS["age"])["c_index"])
    assert row["score"] == pytest.approx(1 - row["c_index_with_age"]) and row["c_index_with_age"] > row["c_index"]


def test_faces_that_do_not_decode_are_not_judged() -> None:
    values = TABLE["marker"].to_numpy().copy()
    values[::2] = np.nan
    kept = TABLE.take(pa.array(range(1, ROWS, 2)))
    assert judged(TABLE, values) == judged(kept, values[1::2])


# Whom


def test_a_photo_of_each_person_is_drawn_the_same_whatever_the_order_of_the_rows() -> None:
    rows = one_photo(TABLE, 0)
    assert len(rows) == ROWS // 2 == len(set(TABLE["subject_id"].take(pa.array(rows)).to_pylist()))
    turned = TABLE.take(pa.array(range(ROWS - 1, -1, -1)))
    chosen = {*TABLE["photo_id"].take(pa.array(rows)).to_pylist()}
    assert {*turned["photo_id"].take(pa.array(one_photo(turned, 0))).to_pylist()} == chosen
    assert 0.3 < (rows % 2).mean() < 0.7 and (one_photo(TABLE, 1) != rows).mean() > 0.3


def test_only_people_followed_for_some_time_to_a_known_end_are_known() -> None:
    table = pa.table({
        "follow_up_days": [10.0, 0.0, None, 10.0, -1.0, 10.0], "event": [1, 1, 1, None, 0, 0],
        "age": [50.0, 50.0, 50.0, 50.0, 50.0, None],
    })  # fmt: skip
    assert table.filter(known_outcome()).num_rows == 3  # the negative one is known: it is to be refused
    assert table.filter(known_outcome(age=True)).num_rows == 2
    assert len(set(strata(TABLE))) > 6 and set(strata(TABLE.drop(["age"]))) == {0.0, 1.0}


def test_outcomes_are_checked_by_value_and_the_first_photo_is_named() -> None:
    check_outcomes("here", TABLE)
    assert check_events("here", TABLE) == []
    few = TABLE.set_column(3, "event", pa.array([1, 1] + [0] * (ROWS - 2), pa.int8()))
    assert "only 1 of 256 people" in check_events("here", few)[0]
    for name, values, told in (
        ("event", [0.5] + [0.0] * (ROWS - 1), "event of photo 'p0000' is 0.5: must be 0 or 1"),
        ("follow_up_days", [-2.0, -3.0] + [9.0] * (ROWS - 2), "'p0000' is -2, and 1 more: must be days"),
    ):
        place = TABLE.column_names.index(name)
        with pytest.raises(Refused, match=told):
            check_outcomes("here", TABLE.drop(["entry_days"]).set_column(place, name, pa.array(values)))


# How good risks are


def pairs_within(fold: np.ndarray, risk: np.ndarray) -> tuple[float, int]:
    """C over people of one fold, by brute force; and how many pairs there are."""
    who = Followed.of(TABLE)
    first = np.arange(0, ROWS, 2)
    time, event, fold = who.time[first], who.event[first] == 1, fold[first]
    entry = np.maximum(who.entry[first], who.entry[first + 1])
    risk = (risk[first] + risk[first + 1]) / 2
    pair = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event)) & (entry < time[:, None])
    pair &= fold[:, None] == fold
    np.fill_diagonal(pair, False)
    won = (risk[:, None] > risk + 1e-8) + 0.5 * (np.abs(risk[:, None] - risk) <= 1e-8)
    return float((won * pair).sum() / pair.sum()), int(pair.sum())


def test_over_folds_only_people_of_one_fold_are_compared() -> None:
    """Each fold's risks are shifted by 100: across folds the order would be that of the folds."""
    fold = np.repeat(np.arange(ROWS // 2) % 5, 2)
    risk = TABLE["marker"].to_numpy() + RNG.normal(size=ROWS) + 100.0 * fold
    found = ranked(TABLE, risk, bootstraps=50, fold=fold)
    expected, pairs = pairs_within(fold, risk)
    assert found.c_index == pytest.approx(expected, abs=1e-12) and found.comparable == pairs
    assert found.low < found.c_index < found.high and found.people == ROWS // 2
    assert ranked(TABLE, risk, bootstraps=0).c_index < expected - 0.05
    gain = paired(TABLE, risk, risk - 100.0 * fold + 3, bootstraps=50, fold=fold)
    assert gain["difference"] == pytest.approx(0, abs=1e-12)


def test_over_folds_hazards_are_those_of_a_cox_model_stratified_by_fold() -> None:
    """lifelines' own strata say what a clock moved by fold does."""
    import pandas as pd
    from lifelines import CoxPHFitter

    fold = np.repeat(np.arange(ROWS // 2) % 5, 2)
    marker = TABLE["marker"].to_numpy()
    found = evaluated(TABLE, marker, np.full(ROWS, 40.0) + 30 * np.sign(marker), bootstraps=0, fold=fold)
    who, first = Followed.of(TABLE), np.arange(0, ROWS, 2)
    frame = pd.DataFrame({
        "time": who.time[first], "event": who.event[first], "entry": np.maximum(who.entry[first], who.entry[first + 1]),
        "age": LABELS["age"][first], "risk": marker[first], "fold": fold[first],
    })  # fmt: skip
    fit = CoxPHFitter().fit(frame, "time", "event", entry_col="entry", strata=["fold"])
    effects = {each.name: each.ratio for each in found.beside_age.effects}
    sd = frame["risk"].std(ddof=1)
    assert effects["risk, a SD, adjusted for age"] == pytest.approx(np.exp(fit.params_["risk"] * sd), rel=1e-4)
    assert effects["age, 10 years, adjusted for risk"] == pytest.approx(np.exp(fit.params_["age"] * 10), rel=1e-4)


def test_an_evaluation_tells_what_it_can_and_what_others_published() -> None:
    marker = TABLE["marker"].to_numpy()
    found = evaluated(TABLE.drop(["age"]), marker, 100 * np.argsort(np.argsort(marker)) / ROWS, bootstraps=0)
    assert found.beside_age is None and found.quartiles is not None and found.ranked.low is None
    text = "\n".join(found.lines(Published(c_index=0.72, quartile_hazard_ratio=3.22)))
    assert "0.720" in text and "3.22" in text and found.to_json()["beside_age"] is None
    nobody = evaluated(TABLE.slice(0, 0), marker[:0], marker[:0], bootstraps=10)
    assert nobody.ranked.c_index is None and "undefined" in "\n".join(nobody.lines(Published()))


def test_the_code_in_the_documentation_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "survival_model.md").read_text()
    known: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(code, known)
    assert known["died"][known["rows"]].sum() == 30 and len(set(known["person"][known["rows"]])) == 100
    assert known["scores"].grad[0] < 0 < known["scores"].grad[2]  # a step against it pushes "a" up, "c" down


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
