"""A model -> a checkpoint: a folder, local or in a bucket, with weights, what they are, and a card for people.

    config = save(model, "runs/age/checkpoint", config={"detector": "mtcnn", "data_digest": digest})

A folder cannot be written at a stroke, so `config.json` comes last and names the digest of the weights. A save that was
killed leaves a folder that `load` refuses.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fahr import store
from fahr.errors import Refused
from fahr.models.checkpoints.card import render
from fahr.models.checkpoints.config import CheckpointConfig, make_config
from fahr.models.encoder import Encoder
from fahr.models.faceage import CONVENTION, DETECTOR, FaceAgeTrunk
from fahr.models.heads import Predictor
from fahr.models.mae import MaskedAutoencoder
from fahr.version import code_version

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "MODEL_CARD.md"
COUNTER = ".num_batches_tracked"  # of BatchNorms: only those without a momentum read it, and we have none
_OURS = ("format", "architecture", "task", "input_size", "layer_norm_eps", "mae_options", "digest", "code_version")


def save(
    model: MaskedAutoencoder | Predictor,
    folder: str,
    *,
    config: CheckpointConfig | Mapping[str, Any] | None = None,
    card: str = "",
    overwrite: bool = False,
) -> CheckpointConfig:
    """Write the checkpoint and return its configuration, whose `digest` names the weights.

    `config`: what is known beside the model (data, metrics, calibration, parent, ...); a CheckpointConfig to carry on
    from, or a mapping with some of its keys. What the model itself tells is worked out here. `card`: Markdown for the
    model card. Weights are written in fp32, whatever the model runs in.

    Refused: a folder that holds a checkpoint, unless `overwrite`; a kill in the midst of that leaves neither.
    """
    if not isinstance(model, MaskedAutoencoder | Predictor):
        raise TypeError(f"{type(model).__name__} can't be saved: give the model of `create`, out of any wrapper.")
    folder = store.absolute(folder)
    if not overwrite and store.exists(store.join(folder, CONFIG)):
        raise Refused(f"{folder}: holds a checkpoint already. Give another folder, or overwrite=True.")
    data = safetensors.torch.save(_tensors(model, folder))
    complete = _complete(model, config, f"sha256:{hashlib.sha256(data).hexdigest()}")
    described = complete.to_bytes()  # before anything is written: it may refuse
    store.write_bytes(store.join(folder, WEIGHTS), data)
    store.write_bytes(store.join(folder, CARD), render(complete, card).encode())
    store.write_bytes(store.join(folder, CONFIG), described)
    return complete


def _tensors(model: torch.nn.Module, folder: str) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(COUNTER):
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise Refused(
                f"{folder}: was not written, since {name} holds values that are not finite: the training diverged. "
                "Go back to the checkpoint before it."
            )
        tensors[name] = tensor.detach().to("cpu", torch.float32).contiguous()
    return tensors


def _complete(
    model: MaskedAutoencoder | Predictor, config: CheckpointConfig | Mapping[str, Any] | None, digest: str
) -> CheckpointConfig:
    if isinstance(config, CheckpointConfig):
        values = {name: getattr(config, name) for name in CheckpointConfig.model_fields}
    else:
        values = _home(model) | dict(config or {})
        if given := [key for key in _OURS if key in values]:
            raise Refused(f"config: {', '.join(given)} can't be given, since save works it out. Leave it out.")
    shape = model.architecture
    values |= {
        "architecture": shape,
        "task": shape.task,
        "input_size": shape.size,
        "layer_norm_eps": model.encoder.norm.eps if isinstance(model.encoder, Encoder) else None,  # one for all
        "mae_options": model.options if isinstance(model, MaskedAutoencoder) else None,
        "digest": digest,
        "code_version": code_version(),
    }
    complete = make_config({"normalization": model.normalization} | values, "config")
    if complete.normalization != model.normalization:
        raise Refused(
            f"config: normalization {complete.normalization} is not what this model reads, {model.normalization}. "
            "Leave it out, or set model.normalization before training."
        )
    return complete


def _home(model: MaskedAutoencoder | Predictor) -> dict[str, str]:
    """How FaceAge's faces are cut, unless told otherwise; all others have the defaults of CheckpointConfig."""
    if isinstance(model.encoder, FaceAgeTrunk):
        return {"convention": CONVENTION, "detector": DETECTOR}
    return {}
