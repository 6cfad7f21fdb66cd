"""Position tables for another number of patches. G = patches along a side, D = width."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fahr.errors import Refused
from fahr.models.positions import sincos_table

# fp32 tables of other projects differ from ours by rounding: theirs are partly computed in fp32, of angles up to G.
SINCOS_TOLERANCE = 1e-5


def table_grid(num_tokens: int) -> int | None:
    """G of a table of 1 + G * G positions, or None."""
    grid = math.isqrt(max(0, num_tokens - 1))
    return grid if grid and 1 + grid * grid == num_tokens else None


def is_sincos(table: Tensor) -> bool:
    """Whether (1, 1 + G * G, D) is our fixed table: nothing in it was learned."""
    grid, width = table_grid(table.shape[1]), table.shape[2]
    if grid is None or width % 4:
        return False
    return bool((table - sincos_table(width, grid)).abs().max() <= SINCOS_TOLERANCE)


def resized(table: Tensor, grid: int, place: str) -> Tensor:
    """(1, 1 + G * G, D) -> (1, 1 + grid * grid, D), fp32.

    The same grid: the table itself. Sines and cosines: made anew, as a model created at that size would have them.
    Learned: bicubic with antialias (Keys 1981, a = -0.5), as timm does, and CLS as it is.
    """
    before = table_grid(table.shape[1]) if table.ndim == 3 else None
    if before is None:
        raise Refused(f"{place}: positions {tuple(table.shape)} are no square grid and CLS. Load it at its own size.")
    if grid == before:
        return table
    width = table.shape[2]
    if is_sincos(table):
        return sincos_table(width, grid)
    square = table[:, 1:].reshape(1, before, before, width).permute(0, 3, 1, 2)
    square = functional.interpolate(square, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:, :1], square.permute(0, 2, 3, 1).reshape(1, grid * grid, width)], 1)
