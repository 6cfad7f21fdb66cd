"""Images -> patches, row by row. B = images, N = patches of an image, K = those asked for, P = patch in pixels."""

import torch
from torch import Tensor


def cut(images: Tensor, patch: int, which: Tensor | None = None) -> Tensor:
    """(B, 3, S, S) -> (B, N, 3, P, P), or with `which`, (B, K) of patch numbers, only those: (B, K, 3, P, P).

    Only the pixels that are asked for are copied: with three quarters masked, that and the projection after it cost a
    quarter.
    """
    batch, channels, size, _ = images.shape
    grid = size // patch
    squares = images.reshape(batch, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    if which is None:
        return squares.reshape(batch, grid * grid, channels, patch, patch)
    row = torch.arange(batch, device=which.device)[:, None]
    return squares[row, which // grid, which % grid]


def pixels(patches: Tensor) -> Tensor:
    """(B, K, 3, P, P) -> (B, K, P * P * 3) in the order row, column, channel: what a decoder predicts."""
    return patches.permute(0, 1, 3, 4, 2).flatten(2)


def join(patches: Tensor) -> Tensor:
    """(B, N, P * P * 3) in the order row, column, channel -> (B, 3, S, S): the inverse of `pixels(cut(...))`."""
    batch, number, values = patches.shape
    grid, patch = round(number**0.5), round((values / 3) ** 0.5)
    squares = patches.reshape(batch, grid, grid, patch, patch, 3)
    return squares.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, grid * patch, grid * patch)
