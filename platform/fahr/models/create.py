"""A name -> a model with fresh weights.

model = create("vit_base", patch=8, task="mae", seed=0)
model(images).loss.backward()
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, overload

import torch

from fahr.errors import Refused
from fahr.models.architecture import Architecture, Decoder
from fahr.models.heads import Predictor
from fahr.models.initial import initialise
from fahr.models.mae import MaeOptions, MaskedAutoencoder
from fahr.models.precision import use_fused_attention


@overload
def create(
    name: str,
    *,
    patch: int = 16,
    size: int = 112,
    task: Literal["mae"] = "mae",
    decoder: Decoder | None = None,
    options: MaeOptions | None = None,
    seed: int | None = None,
) -> MaskedAutoencoder: ...
@overload
def create(
    name: str, *, patch: int = 16, size: int = 112, task: Literal["age", "survival"], seed: int | None = None
) -> Predictor: ...
@overload
def create(
    name: str,
    *,
    patch: int = 16,
    size: int = 112,
    task: str,
    decoder: Decoder | None = None,
    options: MaeOptions | None = None,
    seed: int | None = None,
) -> MaskedAutoencoder | Predictor: ...
def create(
    name: str,
    *,
    patch: int = 16,
    size: int = 112,
    task: str = "mae",
    decoder: Decoder | None = None,
    options: MaeOptions | None = None,
    seed: int | None = None,
) -> MaskedAutoencoder | Predictor:
    """`name`: vit_tiny, vit_small, vit_base or vit_large. `decoder` and `options` are of task `mae` only.

    With `seed` the weights are the same in every process, and torch's global generator is left as it was.
    """
    shape = Architecture.named(name, patch=patch, size=size, task=task, decoder=decoder)
    return build(shape, options=options, seed=seed)


def build(
    architecture: Architecture, *, options: MaeOptions | None = None, seed: int | None = None
) -> MaskedAutoencoder | Predictor:
    """The model of an architecture, on the CPU, in fp32, in training mode."""
    if options is not None and architecture.task != "mae":
        raise Refused(f"task {architecture.task!r}: takes no masking options. Leave `options` out, or give task 'mae'.")
    with _seeded(seed):
        is_mae = architecture.task == "mae"
        model = MaskedAutoencoder(architecture, options) if is_mae else Predictor(architecture)
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
