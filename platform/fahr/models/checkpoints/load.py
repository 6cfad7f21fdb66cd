"""A checkpoint -> its model: ours, the authors', the reference MAE's, Transformers', timm's, CLIP's and FaceAge's.

model = load("runs/age/checkpoint", expect_convention="arcface112")
model.architecture, model.config, model.digest
start = load("fahr-face", task="survival", fresh_head=True)     # the encoder, and a head that knows nothing yet
"""

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from fahr import store
from fahr.errors import Refused, nearest
from fahr.models.architecture import TASKS, AnyArchitecture, Architecture, Backbone, Decoder
from fahr.models.checkpoints import faceage, hub
from fahr.models.checkpoints.config import CheckpointConfig, read_config
from fahr.models.checkpoints.interpolate import resized
from fahr.models.checkpoints.layouts import Shape, ours, shape_of
from fahr.models.checkpoints.reading import MAX_BYTES, read_tensors
from fahr.models.checkpoints.save import CONFIG, COUNTER, WEIGHTS
from fahr.models.create import build
from fahr.models.faceage import CONVENTION, DETECTOR
from fahr.models.heads import Predictor
from fahr.models.mae import MaeOptions, MaskedAutoencoder
from fahr.models.normalization import Normalization
from fahr.store.failures import MissingBucket

# What files of other projects do not tell (docs/align.md).
ASSUMED = ("convention", "normalization", "colour_order", "layer_norm_eps")
# Of a CLIP file, unless the user told it; of FaceAge's.
_ENCODER_ASSUMED = (*ASSUMED, "activation", "detector")
_KEPT = ("convention", "normalization", "colour_order", "detector", "origin")  # by a model made from another


@dataclass(frozen=True)
class _Reading:
    """How a file of another project is to be read."""

    encoder_only: bool
    num_heads: int | None
    decoder_heads: int | None
    activation: str | None

    def options(self) -> list[str]:
        """Those that were given."""
        return [name for name in ("num_heads", "decoder_heads", "activation") if getattr(self, name) is not None]


@dataclass(frozen=True)
class _Found:
    """What a location holds, in our names."""

    place: str
    digest: str
    shape: Shape | Backbone
    tensors: dict[str, Tensor]
    layer_norm_eps: float | None
    tasks: tuple[str, ...]  # that it can do as it is, its own first
    config: CheckpointConfig | None  # None: not our file
    origin: str | None
    head: str = "value"
    assumed: tuple[str, ...] = ()  # of a file that is not ours
    facts: Mapping[str, Any] = field(default_factory=dict)  # of its faces, where they are not those of CheckpointConfig


def load(
    location: str | os.PathLike[str],
    *,
    task: str | None = None,
    size: int | None = None,
    interpolate: bool = False,
    fresh_head: bool = False,
    head: str | None = None,
    seed: int | None = None,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    activation: str | None = None,
    expect_convention: str | None = None,
    expect_normalization: Normalization | Mapping[str, Any] | None = None,
    expect_detector: str | None = None,
) -> MaskedAutoencoder | Predictor:
    """A model in fp32 on the CPU, for inference, with `.architecture`, `.config` (CheckpointConfig) and `.digest`.

    `location`: a folder of `save`, a weights file of another project, both local or s3://, or one of hub.KNOWN.
    `task`, `size`: refused if the checkpoint has another. `interpolate` permits another size. `fresh_head` takes the
    encoder alone and starts what `task` puts on it (the head; for `mae` the decoder) from `seed`. `head`: the kind of a
    fresh one (value), or the kind that the checkpoint must have; one of fahr.models.architecture.HEADS.
    `num_heads`, `decoder_heads`: of files of other projects, where width / 64 and width / 32 are wrong. `activation`:
    likewise, where quick_gelu is wrong for a file with CLIP's names (some of OpenCLIP), or gelu for another.
    `expect_...`: what the faces at hand are like. Another convention or normalization is refused, another detector
    warned of.

    A model that was given another size or a fresh head is no longer what was measured: its config names the
    checkpoint as its parent, holds no calibration, and its digest is None.
    """
    if task is not None and task not in TASKS:
        raise Refused(f"task {task!r}: not one of {', '.join(TASKS)}.{nearest(task, TASKS)}")
    if fresh_head and task is None:
        raise Refused(f"fresh_head: needs the task that the head is for. Give task, one of {', '.join(TASKS)}.")
    found = _find(location, _Reading(fresh_head, num_heads, decoder_heads, activation))
    _check_size(found, size, interpolate)
    target = _target(found, task, found.shape.size if size is None else size, fresh_head, head)
    options = _options(found, target, fresh_head)
    config = _config(found, target, options, fresh_head)
    _check_expectations(found.place, config, expect_convention, expect_normalization, expect_detector)
    model = build(target, options=options, seed=seed if fresh_head else 0)  # 0: torch's own generator is left alone
    _fill(model, found, target, fresh_head)
    if isinstance(model, Predictor):
        model.normalization = config.normalization
    model.config, model.digest = config, config.digest  # type: ignore[assignment]
    return model.eval()


def _find(location: str | os.PathLike[str], reading: _Reading) -> _Found:
    text = os.fspath(location)
    if text in hub.UNPUBLISHED:
        raise Refused(f"{text}: there are no weights of this name. {hub.UNPUBLISHED[text]}")
    if text in hub.KNOWN:
        fetched = hub.fetch(text)
        return _foreign(fetched.data, fetched.origin, reading)
    place = store.absolute(text)
    if store.name(place) == WEIGHTS and store.exists(store.join(store.parent(place), CONFIG)):
        place = store.parent(place)
    try:
        described = store.read_bytes(store.join(place, CONFIG), MAX_BYTES)
    except MissingBucket:
        raise
    except store.Missing:
        return _foreign(_read_file(place, text), place, reading)
    if given := reading.options():
        raise Refused(f"{place}: is a checkpoint of ours, which says that itself. Leave {' and '.join(given)} out.")
    return _own(read_config(described, store.join(place, CONFIG)), place)


def _read_file(place: str, text: str) -> bytes:
    if os.path.isdir(place) or store.exists(store.join(place, WEIGHTS)):
        raise Refused(
            f"{place}: is no checkpoint, since it has no {CONFIG}: empty, another folder, or a save that was killed. "
            "Name a folder that `save` finished, or a weights file."
        )
    try:
        return store.read_bytes(place, MAX_BYTES)
    except MissingBucket:
        raise
    except store.Missing as error:
        names = ", ".join(hub.KNOWN)
        raise store.Missing(
            f"{place}: no such checkpoint: neither a folder, nor a file, nor one of the names {names}."
            f"{nearest(text, [*hub.KNOWN, *hub.UNPUBLISHED])}"
        ) from error


def _own(config: CheckpointConfig, place: str) -> _Found:
    weights = store.join(place, WEIGHTS)
    data = store.read_bytes(weights, MAX_BYTES)
    digest = _digest(data)
    if digest != config.digest:
        raise Refused(
            f"{weights}: {len(data):,} bytes with digest {digest}; {CONFIG} says {config.digest}: cut short, changed, "
            "or a save that was killed. Restore both from one copy, or save again."
        )
    shape = config.architecture
    encoder = shape if isinstance(shape, Backbone) else _encoder(shape)
    tensors = read_tensors(data, weights)
    return _Found(
        place, digest, encoder, tensors, config.layer_norm_eps, (config.task,), config, config.origin, shape.head
    )


def _encoder(shape: Architecture) -> Shape:
    return Shape(
        shape.name,
        shape.width,
        shape.depth,
        shape.num_heads,
        shape.patch,
        shape.size,
        shape.mlp_ratio,
        shape.decoder,
        shape.pre_norm,
        shape.activation,
    )


def _foreign(data: bytes, place: str, reading: _Reading) -> _Found:
    if data.startswith(faceage.MAGIC):
        return _faceage(data, place, reading)
    contents = ours(read_tensors(data, place), place, encoder_only=reading.encoder_only)
    tensors, eps = contents.tensors, contents.layer_norm_eps
    activation = contents.activation if reading.activation is None else reading.activation
    shape = shape_of(tensors, place, reading.num_heads, reading.decoder_heads, activation)
    # One output is taken for an age: no survival model of this kind is public. Who has one says task="survival".
    tasks: tuple[str, ...] = ("age", "survival") if "head.weight" in tensors else ()
    tasks += ("mae",) if shape.decoder else ()
    assumed = *ASSUMED, *(each for each in contents.assumed if each not in reading.options())
    return _Found(place, _digest(data), shape, tensors, eps, tasks, None, place, assumed=assumed)


def _faceage(data: bytes, place: str, reading: _Reading) -> _Found:
    if given := reading.options():
        raise Refused(f"{place}: is HDF5, as FaceAge's network is, which has none. Leave {' and '.join(given)} out.")
    contents = faceage.read(data, place)
    facts = {"convention": CONVENTION, "detector": DETECTOR, "normalization": Normalization(kind="per_image")}
    return _Found(
        place, _digest(data), contents.shape, contents.tensors, None, ("age",), None, place,
        assumed=faceage.ASSUMED, facts=facts,
    )  # fmt: skip


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _check_size(found: _Found, size: int | None, interpolate: bool) -> None:
    if size is None or size == found.shape.size:
        return
    if isinstance(found.shape, Backbone):
        raise Refused(f"{found.place}: reads faces of {found.shape.size} px, not {size}. Align to {found.shape.size}.")
    if not interpolate:
        raise Refused(
            f"{found.place}: reads faces of {found.shape.size} px, not {size}. Align to {found.shape.size}, or give "
            "interpolate=True to stretch its positions and then train it further."
        )


def _target(found: _Found, task: str | None, size: int, fresh_head: bool, head: str | None) -> AnyArchitecture:
    wanted = task or (found.tasks[0] if found.tasks else None)
    if wanted is None:
        raise Refused(
            f"{found.place}: holds an encoder only. To put a head on it and train, give task and fresh_head=True."
        )
    if wanted not in found.tasks and not fresh_head:
        raise Refused(
            f"{found.place}: is a model of task {' or '.join(found.tasks) or 'none'}, not {wanted}. Name a checkpoint "
            f"of task {wanted}, or give fresh_head=True to train one from its encoder."
        )
    if head is not None and head != found.head and not fresh_head:
        raise Refused(
            f"{found.place}: has a head of kind {found.head!r}, not {head!r}. Leave head out, or give fresh_head=True "
            "to train one of this kind from its encoder."
        )
    kind = (head or "value") if fresh_head else found.head
    shape = found.shape
    if isinstance(shape, Backbone):
        return replace(shape, task=wanted, head=kind)
    decoder = None
    if wanted == "mae":
        decoder = Decoder() if fresh_head or shape.decoder is None else shape.decoder
    return Architecture(
        shape.name,
        shape.width,
        shape.depth,
        shape.num_heads,
        shape.patch,
        size,
        wanted,
        shape.mlp_ratio,
        decoder,
        shape.pre_norm,
        shape.activation,
        kind,
    )


def _options(found: _Found, target: AnyArchitecture, fresh_head: bool) -> MaeOptions | None:
    """Those that the decoder was trained with; what other projects used is not told."""
    if target.task != "mae":
        return None
    known = found.config.mae_options if found.config is not None and not fresh_head else None
    return known or MaeOptions()


def _config(found: _Found, target: AnyArchitecture, options: MaeOptions | None, fresh_head: bool) -> CheckpointConfig:
    same = not fresh_head and target.size == found.shape.size
    if found.config is not None and same:
        return found.config
    values: dict[str, Any] = {"architecture": target, "task": target.task, "input_size": target.size}
    values |= {"mae_options": options, "layer_norm_eps": found.layer_norm_eps}
    values |= {"digest": found.digest} if same else {"parent_checkpoint": found.digest}
    if found.config is None:
        told_by_training: tuple[str, ...] = () if fresh_head else ("mae_options",) if options else ("task",)
        told_by_training = () if found.facts else told_by_training  # FaceAge's tells ages
        values |= {"origin": found.origin, "assumed": (*found.assumed, *told_by_training)} | dict(found.facts)
    else:
        values |= {key: getattr(found.config, key) for key in _KEPT}
        values["assumed"] = tuple(key for key in found.config.assumed if key in _ENCODER_ASSUMED or not fresh_head)
    return CheckpointConfig(**values)


def _check_expectations(
    place: str,
    config: CheckpointConfig,
    convention: str | None,
    normalization: Normalization | Mapping[str, Any] | None,
    detector: str | None,
) -> None:
    if convention is not None and convention != config.convention:
        raise Refused(
            f"{place}: reads faces cut as {config.convention}, not as {convention}: its numbers would be wrong by "
            f"years. Align the photos with --convention {config.convention}."
        )
    if normalization is not None:
        wanted = Normalization.model_validate(normalization)
        if wanted != config.normalization:
            raise Refused(
                f"{place}: reads pixels normalized with {config.normalization}, not {wanted}. Normalize as it says, or "
                "choose another checkpoint."
            )
    if detector is not None and config.detector is not None and detector != config.detector:
        warnings.warn(
            f"{place}: learned from faces found by {config.detector}; these were found by {detector}, which may shift "
            f"its numbers. Align with --detector {config.detector} to compare with what was measured.",
            stacklevel=3,
        )


def _fill(model: nn.Module, found: _Found, target: AnyArchitecture, fresh_head: bool) -> None:
    """Every tensor of the model from the file, by name and shape; with a fresh head those of the encoder."""
    wanted = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if (not fresh_head or name.startswith("encoder.")) and not name.endswith(COUNTER)
    }
    tensors = {name: tensor for name, tensor in found.tensors.items() if name in wanted}
    if found.config is not None and not fresh_head and (left := sorted(found.tensors.keys() - wanted.keys())):
        raise Refused(f"{found.place}: holds tensors that its {CONFIG} has no place for: {', '.join(left[:5])}.")
    if missing := [name for name in wanted if name not in tensors]:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise Refused(f"{found.place}: lacks {some} (in our names). Give a file that holds the whole model.")
    for name, tensor in tensors.items():
        if isinstance(target, Architecture) and name.endswith("pos_embed") and target.size != found.shape.size:
            tensors[name] = resized(tensor, target.grid, found.place)
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise Refused(
                f"{found.place}: {name} is {tuple(tensor.shape)}, {tuple(wanted[name].shape)} is needed for "
                f"{target.name}. The file mixes models, or num_heads and decoder_heads are wrong."
            )
    model.load_state_dict(model.state_dict() | tensors)
    for module in model.modules():
        if found.layer_norm_eps is not None and isinstance(module, nn.LayerNorm):
            module.eps = found.layer_norm_eps
