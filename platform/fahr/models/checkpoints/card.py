"""MODEL_CARD.md: what a reader must know before using a checkpoint, then the facts of its configuration."""

import json

from fahr.models.architecture import AnyArchitecture, Architecture, Backbone
from fahr.models.checkpoints.config import CheckpointConfig

_WHAT = {
    "mae": "A masked autoencoder that has learned faces: the start of age and survival models. It predicts pixels.",
    "age": "Reads an apparent biological age, in years, from an aligned face.",
    "survival": "Reads a survival risk from an aligned face: a score without unit, higher = worse.",
}

_MUST_SAY = """## Use
For research only. This is no medical device.

Not for:
- diagnosis, or any decision about the care of a person
- the prognosis of an individual
- hiring, insurance, credit, policing or immigration
- recognising or verifying who somebody is
- people under 18

A face photograph is personal data and says something about health: ask for consent. Images are processed locally and
are not stored unless that is switched on.

## What the numbers mean
Hazard ratios are averages over a cohort. They say little about the person in one photo.

The noise between two photos of one person can exceed a real effect: one journalist's photos gave 27 to 38 years. Show
the interval, ask for several photos, take their median, and let the quality gate refuse what it cannot read.

## Where it fails
- makeup, filters and edited photos
- lighting, pose, a smile
- people over 90, of whom training sets hold few, and under 18, for whom it is not made
- faces cut in another way than `convention` says, or found by another detector
- people unlike those it was trained on: compare errors by group before relying on it
"""


def render(config: CheckpointConfig, notes: str = "") -> str:
    """`notes`: Markdown about this one checkpoint, such as its data and who may be misjudged."""
    shape = config.architecture
    parts = [
        f"# {shape.name}, {config.task}",
        f"{_WHAT[config.task]}\n",
        *([f"## About this checkpoint\n{notes.strip()}\n"] if notes.strip() else []),
        _MUST_SAY,
        "## Facts",
        f"{_network(shape)} It reads {shape.size} x {shape.size} pixels, {config.colour_order}"
        f"{f', in patches of {shape.patch}' if isinstance(shape, Architecture) else ''}."
        f"{'' if shape.head == 'value' else f' Its head is of kind {shape.head}.'}\n",
        _table(config),
    ]
    if config.assumed:
        parts.append(
            f"\nAssumed, since the original file does not say: {', '.join(config.assumed)}. "
            "Check them before you trust a number."
        )
    if config.origin is not None:
        parts.append(f"\nMade from weights of somebody else ({config.origin}): check their licence and terms.")
    return "\n".join(parts) + "\n"


def _network(shape: AnyArchitecture) -> str:
    if isinstance(shape, Backbone):
        what = (
            "FaceAge's Inception-ResNet v1" if shape.family == "faceage" else f"{shape.name.partition(':')[2]} of timm"
        )
        return f"{what}, with a head on its {shape.width} features."
    return (
        f"A Vision Transformer of width {shape.width}, depth {shape.depth} and {shape.num_heads} heads."
        f"{' A LayerNorm stands before its first block.' if shape.pre_norm else ''}"
        f"{'' if shape.activation == 'gelu' else f' Its activation is {shape.activation}.'}"
    )


def _table(config: CheckpointConfig) -> str:
    facts = config.model_dump(mode="json", exclude={"architecture", "format", "assumed", "origin"})
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in facts.items())])


def _cell(value: object) -> str:
    if value is None:
        return "not known"
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
