"""AdamW, fused, its parameters grouped by depth and by whether they decay.

optimizer = make_optimizer(model, recipe)
set_rate(optimizer, 1e-4)
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fahr.errors import Refused
from fahr.models import MaskedAutoencoder, Predictor
from fahr.training.recipe import Recipe

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")
_EMBEDDINGS = ("encoder.cls_token", "encoder.patch_embed.", "encoder.norm_pre.")  # the last where CLIP was the start


def decays(name: str, parameter: Tensor) -> bool:
    """Matrices and filters decay. Biases and everything else with one axis do not, nor do the CLS and mask tokens:
    they are vectors like a bias, and have three axes for the sake of broadcasting alone."""
    return parameter.ndim > 1 and not name.endswith("_token")


def layer_id(name: str, depth: int) -> int:
    """0 = embeddings, 1 .. depth = the encoder's blocks, depth + 1 = its last norm, the head and the decoder."""
    if found := _BLOCK.match(name):
        return int(found[1]) + 1
    return 0 if name.startswith(_EMBEDDINGS) else depth + 1


def layer_scale(name: str, depth: int, decay: float) -> float:
    """decay^(depth + 1 - id): 1 for the head (docs/age.md; Clark 2020, Bao 2022)."""
    return float(decay ** (depth + 1 - layer_id(name, depth)))


def make_optimizer(model: MaskedAutoencoder | Predictor, recipe: Recipe) -> torch.optim.AdamW:
    """Groups in the order in which their first parameter stands in the model, and in a group the model's order."""
    depth = len(model.encoder.blocks)
    if recipe.layer_decay != 1 and not depth:
        raise Refused(
            f"layer_decay {recipe.layer_decay:g}: {model.architecture.name} has no transformer blocks to tell apart. "
            "Give 1."
        )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = layer_scale(name, depth, recipe.layer_decay), decays(name, parameter)
            groups.setdefault(key, []).append(parameter)
    settings = [
        {"params": members, "scale": scale, "weight_decay": recipe.weight_decay if decay else 0.0}
        for (scale, decay), members in groups.items()
    ]
    optimizer = torch.optim.AdamW(settings, lr=recipe.peak_rate, betas=recipe.betas, fused=True)
    set_rate(optimizer, 0.0)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Every group gets its share of `rate`: `min_lr` too is scaled by depth."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
