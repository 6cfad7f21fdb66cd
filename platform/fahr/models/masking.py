"""Which patches an encoder may see. B = images, N = patches, K = kept, M = N - K masked."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fahr.errors import Refused


class Mask(NamedTuple):
    """Patch numbers, ascending in each row."""

    keep: Tensor  # (B, K) long
    masked: Tensor  # (B, M) long
    ids_restore: Tensor  # (B, N) long: where patch n stands in [keep, masked]

    def removed(self) -> Tensor:
        """(B, N) bool, True = removed."""
        return self.ids_restore >= self.keep.shape[1]


def num_kept(num_patches: int, ratio: float) -> int:
    """int(N * (1 - ratio)), in floating point as the public recipe has it. Refused: all or nothing."""
    if not (isinstance(ratio, int | float) and 0 < ratio < 1):
        raise Refused(f"mask ratio {ratio!r}: must be above 0 and below 1. Give 0.75, the usual one.")
    kept = int(num_patches * (1 - ratio))
    if kept < 1:
        most = math.floor(100 * (1 - 1 / num_patches)) / 100
        remedy = f"Give at most {most}, or a smaller patch" if most > 0 else "Give a smaller patch"
        raise Refused(f"mask ratio {ratio}: leaves none of the {num_patches} patches visible. {remedy}.")
    if kept == num_patches:
        raise Refused(
            f"mask ratio {ratio}: masks none of the {num_patches} patches. Give at least {1 / num_patches:.3f}."
        )
    return kept


def random_mask(
    batch: int,
    num_patches: int,
    ratio: float,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Mask:
    """Rank uniform noise, keep the first int(N * (1 - ratio)) patches of each image.

    `weights`, (N,) or (B, N), above 0: patches are masked one after the other without replacement, each time with
    probability proportional to weight. That is what ranking -log(u) / w does, u uniform, the M smallest masked
    (Efraimidis and Spirakis 2006). How many are masked never changes, and equal weights give the mask of no weights.
    The noise is drawn where `generator` lives, so that a CPU generator gives the same masks on every device.
    """
    kept = num_kept(num_patches, ratio)
    device = torch.device(device or "cpu")
    rank = torch.rand(batch, num_patches, generator=generator, device=generator.device if generator else device)
    if weights is not None:
        rank = rank.log() / _checked(weights, num_patches).to(rank)
    order = rank.argsort(1).to(device)
    keep, masked = order[:, :kept].sort(1).values, order[:, kept:].sort(1).values
    return Mask(keep, masked, torch.cat([keep, masked], 1).argsort(1))


def _checked(weights: Tensor, num_patches: int) -> Tensor:
    if weights.shape[-1] != num_patches or weights.ndim > 2:
        raise Refused(f"weights of shape {tuple(weights.shape)}: one for each of {num_patches} patches is needed.")
    if not bool((torch.isfinite(weights) & (weights > 0)).all()):
        raise Refused("weights: each must be finite and above 0. Give a small weight to patches to be left visible.")
    return weights


def random_subset(masked: Tensor, number: int, generator: torch.Generator | None = None) -> Tensor:
    """(B, M) -> (B, number): each row's own, ascending, every subset of that size equally likely."""
    device = generator.device if generator else masked.device
    noise = torch.rand(masked.shape, generator=generator, device=device)
    chosen = noise.argsort(1)[:, :number].sort(1).values.to(masked.device)
    return masked.gather(1, chosen)
