"""Checkpoints -> what each wants to see and whether it may be used; then the models at work in one process.

plans = plan_models(["runs/age/checkpoint", "runs/survival/checkpoint"])
team = Team(plans)
team.values([{plan.cut: face for plan in plans}])      # {"age": (N,) years, "survival": (N,) risk}

S = side in pixels, N = faces.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.faces.aligner import Rejection
from fahr.models import CheckpointConfig, Predictor, load
from fahr.scoring import Scorer

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

TASKS = ("age", "survival")
DETECTOR = "retinaface"  # where neither the user nor the checkpoint names one
_CALIBRATION = {  # what of the config does what to which columns
    "age": (
        ("conformal", "face_age_low and face_age_high are null"),
        ("bias_correction", "face_age_corrected and face_age_deviation_adjusted are null"),
    ),
    "survival": (
        ("risk_sd", "survival_risk is not standardised but the network's own number, of no known scale"),
        ("risk_percentiles", "survival_percentile is null"),
    ),
}
_DECIDING = {  # of the config, for the same weights
    "architecture", "layer_norm_eps", "normalization", "conformal", "bias_correction", "risk_mean", "risk_sd",
    "risk_percentiles",
}  # fmt: skip


class Cut(NamedTuple):
    """How a face is found and cut out of its photo."""

    convention: str
    size: int  # S
    detector: str


@dataclass(frozen=True)
class ModelPlan:
    """A model without its weights."""

    place: str
    task: str
    digest: str
    config: CheckpointConfig
    cut: Cut
    flip: bool  # a face's value is the mean of its own and its mirror image's

    def purpose(self) -> dict[str, Any]:
        """What decides its numbers. The weights' digest does not know of calibration, which config.json holds."""
        held = self.config.model_dump(mode="json", include=_DECIDING)
        described = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]
        decides = {"model": self.digest, "config": described, "faces": [*self.cut], "flip": self.flip}
        return {f"{self.task}_{key}": value for key, value in decides.items()}

    def notes(self) -> list[str]:
        """A line for each thing that the user should know."""
        told = [
            f"the {self.task} model holds no {key}, so {outcome}"
            for key, outcome in _CALIBRATION[self.task]
            if getattr(self.config, key) is None
        ]
        if self.cut.detector not in (learned := _detectors(self.config) or [self.cut.detector]):
            told.append(
                f"warning: the {self.task} model learned from faces found by {' and '.join(learned)}, these are found "
                f"by {self.cut.detector}, which may shift its numbers. Align with --detector {learned[0]} to compare "
                "with what was measured"
            )
        if _measured(self.config) not in (None, self.flip):
            told.append(
                f"warning: the {self.task} model was measured and calibrated with{'out' if self.flip else ''} mirror "
                f"images, this run is with{'' if self.flip else 'out'} them. Leave --flip out to do as was done then"
            )
        return told


def _detectors(config: CheckpointConfig) -> list[str]:
    """Those that found the faces it learned from; none where that is unknown."""
    return config.detector.split("+") if config.detector else []


def _measured(config: CheckpointConfig) -> bool | None:
    """Whether its errors, and so its intervals, are of means over mirror images. None: unknown."""
    flip = (config.metrics or {}).get("flip")
    return flip if isinstance(flip, bool) else None


def plan_models(places: Sequence[str], detector: str | None = None, flip: bool | None = None) -> tuple[ModelPlan, ...]:
    """The age model, then the survival model. Refused: none, two of one task, a model without a head.

    `detector`: for all of them; None: each the one that its checkpoint names. `flip`: likewise, whether the mirror
    image counts; None: as when the model was measured, and where that is unknown it does.
    """
    plans: dict[str, ModelPlan] = {}
    for place in places:
        plan = _plan(place, detector, flip)
        if plan.task in plans:
            raise Refused(
                f"{place}: is a second {plan.task} model beside {plans[plan.task].place}; a run has one at most. "
                "Score with it in a run of its own, with its own DIR as --output."
            )
        plans[plan.task] = plan
    if not plans:
        raise Refused("--models: names no checkpoint. Give one of task age, one of task survival, or both.")
    return tuple(plans[task] for task in TASKS if task in plans)


def _plan(place: str, detector: str | None, flip: bool | None) -> ModelPlan:
    _, config, digest = _opened(place)
    learned = _detectors(config)
    if detector is None and len(learned) > 1:
        raise Refused(
            f"{place}: learned from faces found by {' and '.join(learned)}, so it does not say which to take. Give one "
            "of them as --detector."
        )
    cut = Cut(config.convention, config.input_size, detector or (learned or [DETECTOR])[0])
    measured = _measured(config)
    mirrored = flip if flip is not None else True if measured is None else measured
    return ModelPlan(place, config.task, digest, config, cut, mirrored)


def _opened(place: str) -> tuple[Predictor, CheckpointConfig, str]:
    """The model, what it knows about itself, and the digest of its weights."""
    model = load(place)
    if not isinstance(model, Predictor):
        raise Refused(
            f"{place}: is a model of task {model.architecture.task}, which says nothing about a person. Fine-tune it "
            "to age or survival first, and name that checkpoint."
        )
    config: Any = model.config
    return model, config, str(model.digest)


class Team:
    """The models of `plans` at work. Every face goes through all of them."""

    def __init__(
        self,
        plans: Sequence[ModelPlan],
        *,
        precision: str = "bf16",
        batch: int = 16,
        device: str = "cpu",
        threads: int = 0,
    ) -> None:
        """Options: as of `Scorer`."""
        self.plans = tuple(plans)
        self.cuts = tuple(dict.fromkeys(plan.cut for plan in plans))
        self._scorers: dict[str, Scorer] = {}
        for plan in plans:
            model, config, digest = _opened(plan.place)
            if (digest, config) != (plan.digest, plan.config):
                raise Refused(f"{plan.place}: changed since the run began. Run the same line again, with another DIR.")
            self._scorers[plan.task] = Scorer(model, device=device, precision=precision, batch=batch, threads=threads)

    def values(self, faces: Sequence[Mapping[Cut, Pixels]]) -> dict[str, Floats]:
        """(N,) of each task: years, not clipped; risk, higher = worse."""
        return {plan.task: self._value(plan, [face[plan.cut] for face in faces]) for plan in self.plans}

    def _value(self, plan: ModelPlan, faces: Sequence[Pixels]) -> Floats:
        scorer = self._scorers[plan.task]
        value = scorer.predict(faces)
        if not plan.flip:
            return value
        return (value + scorer.predict([face[:, ::-1] for face in faces])) / 2

    def fault(self, face: Mapping[Cut, Pixels]) -> Rejection | None:
        """Why a face cannot be read by one of the models; None if all can."""
        for plan in self.plans:
            pixels, size = face[plan.cut], plan.cut.size
            if pixels.shape != (size, size, 3):
                height, width = pixels.shape[:2]
                return Rejection(
                    "unreadable",
                    f"The face has {width} x {height} pixels, the {plan.task} model reads {size} x {size}: align the "
                    f"photo with --size {size}.",
                )
            if not self._scorers[plan.task].reads(pixels):
                return Rejection(
                    "low_quality",
                    f"The face is all of one value, which the {plan.task} model cannot read: take another photo.",
                )
        return None
