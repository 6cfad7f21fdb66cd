"""One linear layer learned on features that were kept: a fine-tune job's stage with its encoder frozen, in seconds.

    lesson = RiskLesson(table, loss="logistic", tau=1.0, margin=1.0, weight="none", events=0.3, age_offset=False)
    for head in learn(features, lesson, (HeadStage(recipe, False),), times=(10,)): ...   # after each tenth

The same batches, losses, rates and first weights as the job has (fahr.training), without augmentation: what is kept is
one set of features a face. N = photos, D = width of the features, K = outputs of the head, B = photos of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fahr.objectives.age import HEADS, LOSSES, first_biases, years
from fahr.objectives.hazard import INTERVALS, hazard_risk
from fahr.training.ages import Balance, age_losses
from fahr.training.event_batches import EventBatches
from fahr.training.optimizer import set_rate
from fahr.training.outcomes import (
    AgeOffset,
    Floats,
    Followed,
    censoring_of,
    fit_age_offset,
    fit_intervals,
    hazard_losses,
    pair_losses,
)
from fahr.training.recipe import Recipe
from fahr.training.sampling import Ints, Order
from fahr.training.schedule import rate

SPREAD = 0.02  # of the first weights, as fahr.models.initial has it


@dataclass(frozen=True)
class HeadStage:
    recipe: Recipe  # its length in samples
    balanced: bool  # rare ages more often


class Lesson(Protocol):
    """What is learned from whom: rows 0 to N - 1 are those people's photos."""

    outputs: int

    def order(self, stage: HeadStage) -> Order: ...
    def first_bias(self) -> Tensor | None: ...
    def loss(self, outputs: Tensor, rows: Ints) -> Tensor: ...
    def values(self, outputs: Tensor, table: pa.Table) -> Floats: ...


class RiskLesson:
    """Who dies first. Arguments as jobs/finetune_survival.py has them."""

    outputs = 1

    def __init__(
        self, table: pa.Table, *, loss: str, weight: str, tau: float, margin: float, events: float, age_offset: bool
    ) -> None:
        self._events = events
        self._who = Followed.of(table)
        self._person = np.unique(self._who.subject.astype(str), return_inverse=True)[1]
        self._offset: AgeOffset | None = fit_age_offset("the people learned from", table) if age_offset else None
        self._age = np.asarray(table["age"].to_numpy(), np.float64) if age_offset else None
        self._loss = pair_losses(
            loss, weight=weight, tau=tau, margin=margin, offset=self._offset,
            censoring=censoring_of(table) if weight == "ipcw" else None,
        )  # fmt: skip

    def order(self, stage: HeadStage) -> Order:
        who, recipe = self._who, stage.recipe
        return EventBatches(
            who.time, who.event, self._person, entry=who.entry, batch=recipe.global_batch, seed=recipe.seed,
            events=self._events,
        )  # fmt: skip

    def first_bias(self) -> Tensor | None:
        return None

    def loss(self, outputs: Tensor, rows: Ints) -> Tensor:
        return self._loss(outputs[:, 0], self._labels(rows))

    def _labels(self, rows: Ints) -> dict[str, Any]:
        who = self._who
        labels: dict[str, Any] = {
            "follow_up_days": who.time[rows], "event": who.event[rows], "subject_id": self._person[rows],
        }  # fmt: skip
        if who.entry is not None:
            labels["entry_days"] = who.entry[rows]
        if self._age is not None:
            labels["age"] = self._age[rows]
        return labels

    def values(self, outputs: Tensor, table: pa.Table) -> Floats:
        """(n, 1) -> (n,) risks, as they are judged: with what age says where that was learned beside it."""
        found: Floats = outputs[:, 0].double().numpy()
        return found if self._offset is None else found + self._offset.of(table["age"].to_numpy())


class HazardLesson(RiskLesson):
    """Loss `hazard`: a probability of dying for each interval of time, of each photo alone."""

    outputs = INTERVALS

    def __init__(self, table: pa.Table, *, events: float) -> None:
        super().__init__(table, loss="cox", weight="none", tau=1.0, margin=1.0, events=events, age_offset=False)
        self._intervals = fit_intervals("the people learned from", table)
        self._losses = hazard_losses(self._intervals.edges)

    def first_bias(self) -> Tensor:
        return self._intervals.biases

    def loss(self, outputs: Tensor, rows: Ints) -> Tensor:
        return self._losses(outputs, self._labels(rows)).mean()

    def values(self, outputs: Tensor, table: pa.Table) -> Floats:
        """(n, K) -> (n,) risks"""
        found: Floats = hazard_risk(outputs).double().numpy()
        return found


class AgeLesson:
    """How old somebody is. Arguments as jobs/finetune_age.py has them."""

    def __init__(self, table: pa.Table, *, loss: str, balance: Balance) -> None:
        self._head = LOSSES[loss]
        self.outputs = HEADS[self._head]
        self._balance = balance
        self._losses = age_losses(loss)
        self._ages = np.asarray(table["age"].to_numpy(), np.float64)

    def order(self, stage: HeadStage) -> Order:
        weights = self._balance.of(self._ages).weights if stage.balanced else None
        return Order(len(self._ages), stage.recipe.seed, weights)

    def first_bias(self) -> Tensor | None:
        return torch.as_tensor(first_biases(self._head, float(self._ages.mean()), float(self._ages.std())))

    def loss(self, outputs: Tensor, rows: Ints) -> Tensor:
        return self._losses(outputs, {"age": self._ages[rows]}).mean()

    def values(self, outputs: Tensor, table: pa.Table) -> Floats:
        """(n, K) -> (n,) years"""
        found: Floats = years(outputs, self._head).double().numpy()
        return found


class NotFinite(ArithmeticError):
    """A loss that is not a number: the rate is too high for this loss."""


def learn(
    features: NDArray[np.float32], lesson: Lesson, stages: Sequence[HeadStage], *, times: Sequence[int]
) -> Iterator[nn.Linear]:
    """(N, D) of the people of the lesson -> the head, `times` in each stage, evenly spaced, the last at its end.

    It is the same head, further learned. Stages begin with a fresh optimizer, as those of the job do.
    """
    kept = torch.from_numpy(features)
    head = first_head(features.shape[1], lesson, stages[0].recipe.seed)
    for stage, often in zip(stages, times, strict=True):
        recipe = stage.recipe
        order = lesson.order(stage)
        optimizer = torch.optim.AdamW(
            [
                {"params": [head.weight], "weight_decay": recipe.weight_decay},
                {"params": [head.bias], "weight_decay": 0.0},
            ],
            lr=recipe.peak_rate, betas=recipe.betas, fused=True,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["scale"] = 1.0
        shown = [round(recipe.num_steps * number / often) for number in range(1, often + 1)]
        for _ in range(shown.count(0)):  # fewer steps than looks
            yield head
        for step in range(recipe.num_steps):
            start = step * recipe.global_batch
            rows = order.rows(start, start + recipe.global_batch)
            loss = lesson.loss(head(kept[rows]), rows)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if not bool(loss.isfinite()):
                raise NotFinite(f"the loss is not finite (rate {recipe.base_lr:.3g}): a lower rate may do")
            if recipe.clip:
                nn.utils.clip_grad_norm_(head.parameters(), recipe.clip)
            set_rate(optimizer, rate(start, recipe))
            optimizer.step()
            for _ in range(shown.count(step + 1)):
                yield head


def first_head(width: int, lesson: Lesson, seed: int) -> nn.Linear:
    head = nn.Linear(width, lesson.outputs)
    with torch.no_grad():
        nn.init.normal_(head.weight, std=SPREAD, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(head.bias)
        bias = lesson.first_bias()
        if bias is not None:
            head.bias.copy_(bias)
    return head


@torch.no_grad()
def predicted(head: nn.Linear, features: NDArray[np.float32], lesson: Lesson, table: pa.Table) -> Floats:
    """(n, D) -> (n,) years or risk"""
    return lesson.values(head(torch.from_numpy(features)), table)
