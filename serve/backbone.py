"""Networks at work. A family is one trunk: an age and a survival model whose trunks are equal to the bit run it once.

family = Family(plan_models(["runs/age/checkpoint"]), most=16)
family.values([{cut: face}, ...])          # {"age": (N,) years}, as jobs/score.py has them

`fahr.scoring.Scorer` does the work, as in jobs/score.py. There every batch has one shape, so that no score depends on
its company, to the bit. A server that did so would take the time of sixteen faces for one; so here a batch has the
shape of what waits, which moves a score by rounding only, and with `fixed_shape` it is as there.
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.errors import Refused
from fahr.faces.aligner import Rejection
from fahr.models import Predictor
from fahr.scores import ModelPlan, Team, plan_models
from fahr.scores.models import Cut
from serve.batching import Batcher, passing
from serve.metrics import Meter

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

MOVED = 0.5  # years or SDs: what rounding never moves the built-in face by, and a broken device does


@lru_cache(maxsize=4)
def built_in_face(size: int) -> Pixels:
    """(size, size, 3): of nobody, the same everywhere."""
    options = CohortOptions(size_px=256)
    drawn = render_face(seed=0, subject=1, photo=0, apparent_age=50.0, frailty=0.0, options=options)
    return np.asarray(cv2.resize(drawn.image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def trunk_digest(model: Predictor) -> str:
    """Of everything but the head: equal for two models that read a face in the same way."""
    config: Any = model.config
    shape = model.architecture.to_json() | {"task": "", "head": ""}
    running = hashlib.sha256(repr((shape, model.normalization, config.layer_norm_eps)).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        running.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return running.hexdigest()


class Family(Team):
    """One model of each task at most, all of one trunk. A batch has the shape of its faces, or always the largest."""

    def __init__(
        self, plans: Sequence[ModelPlan], *, most: int, fixed_shape: bool = False, precision: str = "bf16",
        device: str = "cpu", threads: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(plans, precision=precision, batch=most, device=device, threads=threads)
        self.most, self.fixed_shape = most, fixed_shape
        first, *others = (self._scorers[plan.task].model for plan in self.plans)
        for plan, other in zip(self.plans[1:], others, strict=True):
            if trunk_digest(other) != trunk_digest(first) or (plan.cut, plan.flip) != (self.cut, self.plans[0].flip):
                raise Refused(
                    f"{plan.place}: has another trunk than {self.plans[0].place}. Give each its own backbone."
                )
            other.encoder = first.encoder  # one copy in memory

    @property
    def cut(self) -> Cut:
        return self.cuts[0]

    @property
    def digests(self) -> dict[str, str]:
        return {plan.task: plan.digest for plan in self.plans}

    def values(self, faces: Sequence[Mapping[Cut, Pixels]]) -> dict[str, Floats]:
        """(N,) of each task, N at most `most`. The trunk runs once, whatever the number of heads."""
        assert len(faces) <= self.most, f"{len(faces)} faces in a batch of {self.most}"
        scorers = [self._scorers[plan.task] for plan in self.plans]
        for scorer in scorers:
            scorer.batch = self.most if self.fixed_shape else max(1, len(faces))
        seen = [face[self.cut] for face in faces]
        features = [scorers[0].features(seen)]
        if self.plans[0].flip:
            features.append(scorers[0].features([face[:, ::-1] for face in seen]))
        return {
            plan.task: np.mean([scorer.from_features(each) for each in features], axis=0)
            for plan, scorer in zip(self.plans, scorers, strict=True)
        }


@dataclass(frozen=True)
class FacesRead:
    """What was said of the faces of one request, all of them by the same models."""

    values: tuple[Mapping[str, float] | Rejection, ...]  # one a face: by task
    plans: tuple[ModelPlan, ...]  # none where the asker knows them


class Backbone:
    """A deployment: one family, its batches, and its built-in face. `user_config` {"models": [places]} says which
    checkpoints, and may change while requests come: whoever asks gets all of an answer from one of the two."""

    def __init__(
        self,
        *,
        batch: int = 16,
        threads: int = 0,
        device: str = "cpu",
        detector: str | None = None,
        flip: bool | None = None,
        precision: str = "bf16",
        fixed_shape: bool = False,
    ) -> None:
        """Options: as of `plan_models`, `Family` and `Scorer`; `threads` 0: as many as this machine has."""
        threads = threads or os.cpu_count() or 1
        self._detector, self._flip = detector, flip
        self._made_of: dict[str, Any] = {
            "most": batch, "fixed_shape": fixed_shape, "precision": precision, "device": device, "threads": threads,
        }  # fmt: skip
        self._meter = Meter()
        self._batcher: Batcher[Pixels, tuple[Family, dict[str, float]]] = Batcher(
            self._run, batch, device=device, told=self._meter.batch
        )
        self._family: Family | None = None
        self._expected: dict[str, float] = {}

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load, score the built-in face, then take the place of what was there."""
        family = await asyncio.wrap_future(passing(self._opened, list(user_config["models"])))
        if self._family is not None and family.cut != self._family.cut:
            raise Refused(f"{family.plans[0].place}: reads other faces, {family.cut}. Deploy it as a new application.")
        tasks = family.digests.keys()
        if self._family is not None and tasks != self._family.digests.keys():
            raise Refused(
                f"models: tell {' and '.join(tasks)}; this family tells {' and '.join(self._family.digests)}. Name a "
                "checkpoint for each of them, or deploy a new application."
            )
        [(_, expected)] = await self._batcher.in_thread(self._values, family, [built_in_face(family.cut.size)])
        if not all(np.isfinite(value) for value in expected.values()):
            raise Refused(f"{family.plans[0].place}: says {expected} of a face. Take another checkpoint.")
        self._family, self._expected = family, expected

    def _opened(self, places: Sequence[str]) -> Family:
        return Family(plan_models(places, self._detector, self._flip), **self._made_of)

    async def score(self, faces: Sequence[Pixels], known: Mapping[str, str]) -> FacesRead:
        """`known`: task -> digest of the models whose plans the asker has."""
        while True:
            family = self._family
            assert family is not None, "reconfigure comes first"
            faults = [family.fault({family.cut: face}) for face in faces]
            good = [face for face, fault in zip(faces, faults, strict=True) if fault is None]
            made = await self._batcher.submit(good)
            if all(by is family for by, _ in made):  # else the model changed on the way
                break
        values = iter(made)
        told = tuple(next(values)[1] if fault is None else fault for fault in faults)
        return FacesRead(told, () if dict(known) == family.digests else family.plans)

    async def check_health(self) -> None:
        """The built-in face, before whatever waits: a device or a thread that is broken shows here."""
        family, expected = self._family, self._expected  # both of before: they may change while the face waits
        if family is None:
            return
        [(by, values)] = await self._batcher.submit([built_in_face(family.cut.size)], first=True)
        if by is family and not all(abs(values[task] - expected[task]) <= MOVED for task in values):
            raise RuntimeError(f"the built-in face is {values} now, it was {expected} when the model was loaded")

    async def ready(self) -> bool:
        return self._family is not None

    def _run(self, faces: list[Pixels]) -> list[tuple[Family, dict[str, float]]]:
        assert self._family is not None
        return self._values(self._family, faces)

    @staticmethod
    def _values(family: Family, faces: Sequence[Pixels]) -> list[tuple[Family, dict[str, float]]]:
        values = family.values([{family.cut: face} for face in faces])
        return [(family, {task: float(each[row]) for task, each in values.items()}) for row in range(len(faces))]
