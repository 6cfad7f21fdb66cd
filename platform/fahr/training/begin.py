"""The masked autoencoder that a run starts from: with fresh weights, or with an encoder that has learned elsewhere.

begun = begin(recipe, size=112, decoder=Decoder(), options=MaeOptions(), init="imagenet", convention="arcface112")
begun.model, begun.parent
"""

import functools
from dataclasses import dataclass, replace

from torch import nn

from fahr.errors import Refused
from fahr.models import Architecture, CheckpointConfig, Decoder, MaeOptions, MaskedAutoencoder, load
from fahr.models.checkpoints.hub import KNOWN
from fahr.models.create import build
from fahr.training.recipe import Recipe

RANDOM, IMAGENET = "random", "imagenet"


@dataclass(frozen=True)
class Begun:
    model: MaskedAutoencoder
    parent: str | None  # digest of the checkpoint that the weights are from
    origin: str | None  # and where somebody else's were found


def begin(recipe: Recipe, *, size: int, decoder: Decoder, options: MaeOptions, init: str, convention: str) -> Begun:
    """`init`: random, imagenet, or what `fahr.models.load` opens. Of a checkpoint with the same decoder both halves
    are taken, of any other the encoder under a fresh decoder. The same seed gives the same weights."""
    shape = Architecture.named(recipe.model, patch=recipe.patch, size=size, task="mae", decoder=decoder)
    if init == RANDOM:
        return Begun(_autoencoder(shape, options, recipe.seed), None, None)
    found = _opened(_named(init, recipe), size, recipe.seed, convention)
    theirs = found.architecture
    for what in ("width", "depth", "patch"):
        if getattr(theirs, what) != getattr(shape, what):
            raise Refused(
                f"--init {init}: its {what} is {getattr(theirs, what)}, that of {recipe.model} with patch "
                f"{recipe.patch} is {getattr(shape, what)}. Give the --model and --patch of the checkpoint."
            )
    model = _autoencoder(replace(theirs, name=shape.name, decoder=decoder), options, recipe.seed)
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


def _named(init: str, recipe: Recipe) -> str:
    if init != IMAGENET:
        return init
    name = f"imagenet-{recipe.model}-{recipe.patch}"
    if name not in KNOWN:
        known = ", ".join(each.removeprefix("imagenet-") for each in KNOWN if each.startswith("imagenet-"))
        raise Refused(
            f"--init imagenet: no weights are known for {recipe.model} with patch {recipe.patch}; they are for {known}."
            " Give one of these, or a checkpoint file."
        )
    return name


def _autoencoder(shape: Architecture, options: MaeOptions, seed: int) -> MaskedAutoencoder:
    model = build(shape, options=options, seed=seed)
    assert isinstance(model, MaskedAutoencoder)
    return model
