"""What a checkpoint knows about itself: `config.json`, typed.

Whatever is not known is null, and the answer that would need it says so instead of guessing.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    JsonValue,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from fahr.errors import Refused, nearest
from fahr.models.architecture import Architecture, Backbone, architecture_from_json
from fahr.models.mae import MaeOptions
from fahr.models.normalization import Normalization, Triple
from fahr.objectives.hazard import INTERVALS

FORMAT: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Interval(_Part):
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.low}, {self.value}, {self.high}: low <= value <= high must hold")
        return self


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(later < earlier for earlier, later in pairwise(values)):
        raise ValueError("must ascend")
    return values


def _counted(strata: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    if without := [name for name, stratum in strata.items() if stratum.get("n", 0) < 1]:
        raise ValueError(f"stratum {without[0]!r} does not say how many faces (n) it was fitted on")
    return strata


ArchitectureField = Annotated[
    InstanceOf[Architecture] | InstanceOf[Backbone],
    BeforeValidator(lambda found: architecture_from_json(found) if isinstance(found, Mapping) else found),
    PlainSerializer(lambda shape: shape.to_json()),
]


class CheckpointConfig(_Part):
    """Every key is written, null where unknown."""

    format: Literal[1] = FORMAT
    architecture: ArchitectureField
    task: Literal["mae", "age", "survival"]
    input_size: int  # pixels a side
    # Of our ViTs: 1e-12 where they are from Transformers, which shows in the fifth digit. Null: as built.
    layer_norm_eps: float | None = Field(1e-6, gt=0)
    mae_options: MaeOptions | None = None  # of task `mae`: how the pixels that it predicts are to be read

    # What a face must look like before the model reads it.
    convention: str = "arcface112"  # the crop template, one of fahr.faces.alignment.CONVENTIONS
    normalization: Normalization = Normalization()  # of Predictor.prepare; a MaskedAutoencoder's is ImageNet's
    colour_order: Literal["RGB"] = "RGB"
    detector: str | None = None

    # Where it comes from.
    digest: str | None = None  # `sha256:...` of the weights' file; None: these weights are in no file
    parent_checkpoint: str | None = None  # digest of what training started from
    data_digest: str | None = None
    code_version: str | None = None
    origin: str | None = None  # where the weights of somebody else were found
    assumed: tuple[str, ...] = ()  # keys that somebody else's file does not tell and that we took for granted

    # What was measured, and what one request needs.
    label_stats: dict[str, float] | None = None  # of the training labels: n, mean, sd, min, max; years
    metrics: dict[str, JsonValue] | None = None
    bias_correction: dict[str, float] | None = None
    conformal: Annotated[dict[str, dict[str, float]], AfterValidator(_counted)] | None = None  # per stratum, with n
    risk_mean: float | None = None
    risk_sd: float | None = Field(None, gt=0)
    # Of the risk as it is shown: standardised where the two above are known. From least to greatest, evenly spaced.
    risk_percentiles: Annotated[tuple[float, ...], Field(min_length=2), AfterValidator(_ascending)] | None = None
    quartile_cuts: Annotated[Triple, AfterValidator(_ascending)] | None = None
    # Of a head `hazard`: days from the photo, the first 0, between which each output tells the hazard.
    hazard_edges: Annotated[tuple[float, ...], AfterValidator(_ascending)] | None = None
    repeatability_sd_years: Interval | None = None
    aging_rate_prior: dict[Literal["short", "mid", "long"], dict[str, float]] | None = None
    ood: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "CheckpointConfig":
        shape = self.architecture
        for key, value, wanted in (("task", self.task, shape.task), ("input_size", self.input_size, shape.size)):
            if value != wanted:
                raise ValueError(f"{key} {value!r} contradicts the architecture, which has {wanted!r}")
        if self.mae_options is not None and self.task != "mae":
            raise ValueError(f"mae_options belong to task 'mae', not to {self.task!r}")
        if self.hazard_edges is not None and (shape.head, len(self.hazard_edges)) != ("hazard", INTERVALS + 1):
            raise ValueError(
                f"hazard_edges are the {INTERVALS + 1} ends of the intervals of a head 'hazard'; this one is "
                f"{shape.head!r}, with {len(self.hazard_edges)}"
            )
        if (self.risk_mean is None) != (self.risk_sd is None):
            raise ValueError(f"risk_mean {self.risk_mean}, risk_sd {self.risk_sd}: a scale has both or neither")
        if self.risk_percentiles is not None and self.quartile_cuts is not None:
            least, greatest = self.risk_percentiles[0], self.risk_percentiles[-1]
            if not least <= self.quartile_cuts[0] <= self.quartile_cuts[-1] <= greatest:
                raise ValueError(
                    f"quartile_cuts {self.quartile_cuts} lie outside risk_percentiles, which go from {least:g} to "
                    f"{greatest:g}: both are of the risk as it is shown"
                )
        return self

    def to_bytes(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()


KEYS = tuple(CheckpointConfig.model_fields)


def make_config(values: Mapping[str, Any], place: str) -> CheckpointConfig:
    """Refused with `place` and every broken rule in one message."""
    if unknown := [str(key) for key in values if key not in KEYS]:
        raise Refused(f"{place}: unknown key {unknown[0]!r}; known are {', '.join(KEYS)}.{nearest(unknown[0], KEYS)}")
    try:
        return CheckpointConfig.model_validate(dict(values))
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'as a whole'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        )
        raise Refused(f"{place}: {told}. Correct it, or save the checkpoint again.") from error


def read_config(data: bytes, place: str) -> CheckpointConfig:
    """`config.json` of our own making."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Refused(
            f"{place}: is not JSON ({error}): cut short, or another file. Restore it, or save the checkpoint again."
        ) from error
    version = found.get("format") if isinstance(found, dict) else None
    if version is None:
        raise Refused(
            f"{place}: has no key 'format', so this folder is not one of our checkpoints. To open weights of another "
            "project, name their file (.pth, .pt, .bin or .safetensors), not the folder."
        )
    if version != FORMAT:
        raise Refused(f"{place}: is in format {version!r}; this version reads {FORMAT}. Use the version that wrote it.")
    return make_config(found, place)
