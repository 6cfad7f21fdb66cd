"""A name -> a model with fresh weights.

model = create("vit_base", patch=8, task="mae", seed=0)
model(images).loss.backward()
rival = create("timm:resnet18", task="age", head="distribution", size=112, seed=0)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, overload

import torch

from fahr.errors import Refused, nearest
from fahr.models import timm_trunk
from fahr.models.architecture import FACEAGE_SIZE, SIZES, AnyArchitecture, Architecture, Backbone, Decoder
from fahr.models.faceage import EMBEDDINGS
from fahr.models.heads import Predictor
from fahr.models.initial import initialise
from fahr.models.mae import MaeOptions, MaskedAutoencoder
from fahr.models.precision import use_fused_attention


@overload
def create(
    name: str,
    *,
    patch: int = 16,
    size: int | None = None,
    task: Literal["mae"] = "mae",
    decoder: Decoder | None = None,
    options: MaeOptions | None = None,
    seed: int | None = None,
) -> MaskedAutoencoder: ...
@overload
def create(
    name: str,
    *,
    patch: int = 16,
    size: int | None = None,
    task: Literal["age", "survival"],
    head: str = "value",
    seed: int | None = None,
) -> Predictor: ...
@overload
def create(
    name: str,
    *,
    patch: int = 16,
    size: int | None = None,
    task: str,
    head: str = "value",
    decoder: Decoder | None = None,
    options: MaeOptions | None = None,
    seed: int | None = None,
) -> MaskedAutoencoder | Predictor: ...
def create(
    name: str,
    *,
    patch: int = 16,
    size: int | None = None,
    task: str = "mae",
    head: str = "value",
    decoder: Decoder | None = None,
    options: MaeOptions | None = None,
    seed: int | None = None,
) -> MaskedAutoencoder | Predictor:
    """`name`: vit_tiny, vit_small, vit_base or vit_large, of `patch` pixels; faceage or faceage-512; timm: and a name
    of timm's. `size`: 112 pixels unless given, of FaceAge 160. `patch` is of these ViTs alone, `decoder` and `options`
    of task `mae`, `head` (one of fahr.models.architecture.HEADS) of the others.

    With `seed` the weights are the same in every process, and torch's global generator is left as it was.
    """
    return build(_shape(name, patch, size, task, head, decoder), options=options, seed=seed)


def _shape(name: str, patch: int, size: int | None, task: str, head: str, decoder: Decoder | None) -> AnyArchitecture:
    is_timm = name.startswith(timm_trunk.PREFIX)
    if not is_timm and name not in (*SIZES, *EMBEDDINGS):
        known = (*SIZES, *EMBEDDINGS)
        raise Refused(f"model {name!r}: not one of {', '.join(known)} or timm:NAME.{nearest(str(name), known)}")
    if name in SIZES:
        size = 112 if size is None else size
        return Architecture.named(name, patch=patch, size=size, task=task, decoder=decoder, head=head)
    if decoder is not None:
        raise Refused(f"decoder: is for {', '.join(SIZES)} with task 'mae', {name} has none. Leave it out.")
    if is_timm:
        return timm_trunk.backbone(name, size=112 if size is None else size, task=task, head=head)
    return Backbone(name, "faceage", FACEAGE_SIZE if size is None else size, task, EMBEDDINGS[name], head)


def build(
    architecture: AnyArchitecture, *, options: MaeOptions | None = None, seed: int | None = None
) -> MaskedAutoencoder | Predictor:
    """The model of an architecture, on the CPU, in fp32, in training mode."""
    if options is not None and architecture.task != "mae":
        raise Refused(f"task {architecture.task!r}: takes no masking options. Leave `options` out, or give task 'mae'.")
    with _seeded(seed):
        model: MaskedAutoencoder | Predictor
        if isinstance(architecture, Architecture) and architecture.task == "mae":
            model = MaskedAutoencoder(architecture, options)
        else:
            model = Predictor(architecture)
        initialise(model)
    use_fused_attention(model, on=False)  # models are born on the CPU
    return model


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
