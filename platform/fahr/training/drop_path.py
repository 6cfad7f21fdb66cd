"""Stochastic depth (Huang 2016) whose choice belongs to the sample: the same alone, in a batch, on any worker."""

import torch
from torch import Tensor, nn

from fahr.models import MaskedAutoencoder, Predictor
from fahr.models.encoder import drop_paths
from fahr.training.randomness import uniform


class KeyedDropPath(nn.Module):
    """Leaves out a branch for some samples and strengthens it for the others, so that its mean stays."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draw: Tensor | None = None  # (B,) in [0, 1), set for each batch by `draw_drop_paths`

    def forward(self, branch: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        if not self.training or self.rate == 0:
            return branch
        if self.draw is None or len(self.draw) != len(branch):
            raise TypeError(f"no draw for these {len(branch)} samples: call draw_drop_paths before the model.")
        kept = (self.draw >= self.rate).to(branch.dtype) / (1 - self.rate)
        return branch * kept.view(-1, *[1] * (branch.ndim - 1))


def use_keyed_drop_paths(model: MaskedAutoencoder | Predictor, rate: float) -> list[KeyedDropPath]:
    """The rates of `fahr.models.encoder.drop_paths`, drawn by key: the modules, two a block."""
    drop_paths(model.encoder, rate)
    made = []
    for block in model.encoder.blocks:
        for place in ("drop_path1", "drop_path2"):
            keyed = KeyedDropPath(getattr(block, place).drop_prob)
            setattr(block, place, keyed)
            made.append(keyed)
    return made


def draw_drop_paths(modules: list[KeyedDropPath], seed: int, positions: Tensor) -> None:
    """One number for each of the samples at `positions` (B,) and each module."""
    draws = uniform(seed, positions, "drop_path", len(modules))
    for module, draw in zip(modules, torch.unbind(draws, 1), strict=True):
        module.draw = draw
