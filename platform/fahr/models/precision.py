"""fp32 or bf16, and which attention kernel.

model = for_inference(load("RUN/checkpoint"), "cuda", "bf16")    # to score with
with autocast("cuda", "bf16"): loss = model(images).loss         # to train with
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers.attention import Attention
from torch import nn

from fahr.errors import Refused, nearest
from fahr.models.heads import Predictor

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def for_inference(model: Predictor, device: torch.device | str, precision: str = "bf16") -> Predictor:
    """The same model, changed in place: on `device`, in eval mode, its weights fixed.

    With bf16 the weights of the trunk's linear layers and convolutions are bf16, and nothing else: the tokens between
    the blocks, the norms and the head stay fp32, and so does what `Trunk.exact` names. That is what autocast computes
    while training, to the bit, with half the weights to read; an encoder that is bf16 altogether was no faster on a CPU
    and twice as far from fp32.
    """
    dtype, encoder = _dtype(precision), model.encoder
    if encoder.autocast_to is not None and encoder.autocast_to != dtype:
        raise Refused(f"precision {precision!r}: this model was rounded to {encoder.autocast_to}. Load it again.")
    device = torch.device(device)
    if dtype != torch.float32:
        kept = {id(module) for part in encoder.exact() for module in part.modules()}
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in kept:
                module.to(dtype)
        encoder.autocast_to = dtype
    use_fused_attention(model, on=device.type == "cuda")
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def autocast(device: torch.device | str, precision: str) -> Iterator[None]:
    """Matrix products in `precision`, while weights, losses and heads stay fp32. With fp32: nothing changes."""
    dtype = _dtype(precision)
    with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
        yield


def use_fused_attention(model: nn.Module, on: bool) -> None:
    """On for CUDA, off on a CPU: there the plain products of matrices win at 13 to 197 tokens."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = on  # type: ignore[misc]  # Final for TorchScript's sake, which nobody uses here


def _dtype(precision: str) -> torch.dtype:
    if precision not in PRECISIONS:
        raise Refused(
            f"precision {precision!r}: not one of {', '.join(PRECISIONS)}.{nearest(str(precision), PRECISIONS)}"
        )
    return PRECISIONS[precision]
