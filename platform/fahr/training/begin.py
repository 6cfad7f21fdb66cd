"""The masked autoencoder that a run starts from: with fresh weights, or with an encoder that has learned elsewhere.

begun = begin("vit_base", 8, size=112, decoder=Decoder(), options=MaeOptions(), init="imagenet",
              convention="arcface112", seed=0)
begun.model, begun.parent
"""

import functools
from dataclasses import dataclass, replace

from torch import nn

from fahr.errors import Refused
from fahr.models import (
    Architecture,
    CheckpointConfig,
    Decoder,
    MaeOptions,
    MaskedAutoencoder,
    Predictor,
    create,
    load,
)
from fahr.models.checkpoints.hub import KNOWN
from fahr.models.create import build
from fahr.models.faceage import CONVENTION, EMBEDDINGS

RANDOM, IMAGENET = "random", "imagenet"


@dataclass(frozen=True)
class Begun:
    model: MaskedAutoencoder
    parent: str | None  # digest of the checkpoint that the weights are from
    origin: str | None  # and where somebody else's were found


def begin(
    name: str, patch: int, *, size: int, decoder: Decoder, options: MaeOptions, init: str, convention: str, seed: int
) -> Begun:
    """`init`: random, imagenet, or what `fahr.models.load` opens. Of a checkpoint with the same decoder both halves
    are taken, of any other the encoder under a fresh decoder. The same seed gives the same weights."""
    shape = Architecture.named(name, patch=patch, size=size, task="mae", decoder=decoder)
    if init == RANDOM:
        return Begun(_autoencoder(shape, options, seed), None, None)
    found = _opened(_named(init, name, patch), size, seed, convention)
    theirs = found.architecture
    for what in ("width", "depth", "patch"):
        if getattr(theirs, what) != getattr(shape, what):
            raise Refused(
                f"--init {init}: its {what} is {getattr(theirs, what)}, that of {name} with patch "
                f"{patch} is {getattr(shape, what)}. Give the --model and --patch of the checkpoint."
            )
    model = _autoencoder(replace(theirs, name=shape.name, decoder=decoder), options, seed)
    model.encoder.load_state_dict(found.encoder.state_dict())
    if theirs.decoder == decoder:
        model.decoder.load_state_dict(found.decoder.state_dict())
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = found.encoder.norm.eps
    config = found.config
    assert isinstance(config, CheckpointConfig)
    return Begun(model, config.digest or config.parent_checkpoint, config.origin)


def _opened(place: str, size: int, seed: int, convention: str) -> MaskedAutoencoder:
    """With its own decoder where it has one, otherwise with a fresh one."""
    opened = functools.partial(
        load, place, task="mae", size=size, interpolate=True, seed=seed, expect_convention=convention
    )
    try:
        found = opened()
    except Refused:  # an encoder alone, or a file that can't be opened at all: then the next line says why
        found = opened(fresh_head=True)
    assert isinstance(found, MaskedAutoencoder)
    return found


def _named(init: str, model: str, patch: int) -> str:
    if init != IMAGENET:
        return init
    name = f"imagenet-{model}-{patch}"
    if name not in KNOWN:
        known = ", ".join(each.removeprefix("imagenet-") for each in KNOWN if each.startswith("imagenet-"))
        raise Refused(
            f"--init imagenet: no weights are known for {model} with patch {patch}; they are for {known}."
            " Give one of these, or a checkpoint file."
        )
    return name


def _autoencoder(shape: Architecture, options: MaeOptions, seed: int) -> MaskedAutoencoder:
    model = build(shape, options=options, seed=seed)
    assert isinstance(model, MaskedAutoencoder)
    return model


# A predictor


@dataclass(frozen=True)
class BegunPredictor:
    model: Predictor
    parent: str | None  # digest of the checkpoint that the weights are from
    origin: str | None  # and where somebody else's were found
    fresh_head: bool  # whether the head has still to be told where to begin


def begin_predictor(
    name: str, patch: int, *, task: str, head: str, size: int, init: str, convention: str, seed: int
) -> BegunPredictor:
    """`name`: of a ViT, faceage, or timm:NAME. `init`: random, imagenet, or what `fahr.models.load` opens.

    Of a checkpoint for the same task with the same head all is taken, of any other the encoder under a fresh head;
    then `name` and `patch` are the checkpoint's own.
    """
    if name in EMBEDDINGS and convention != CONVENTION:
        raise Refused(
            f"--model {name}: reads faces cut as {CONVENTION}, these are {convention}. Align the photos with "
            f"--convention {CONVENTION}."
        )
    if init == RANDOM:
        model = create(name, patch=patch, size=size, task=task, head=head, seed=seed)
        assert isinstance(model, Predictor)
        return BegunPredictor(model, None, None, True)
    opened = functools.partial(
        load, _named(init, name, patch), task=task, head=head, size=size, interpolate=True, seed=seed,
        expect_convention=convention,
    )  # fmt: skip
    kept = True
    try:
        found = opened()
    except Refused:  # an encoder alone, another task or head; or a file that can't be opened: the next line says why
        found, kept = opened(fresh_head=True), False
    assert isinstance(found, Predictor)
    config = found.config
    assert isinstance(config, CheckpointConfig)
    return BegunPredictor(found.train(), config.digest or config.parent_checkpoint, config.origin, not kept)
