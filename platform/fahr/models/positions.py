"""Where a patch lies, as fixed sines and cosines (docs/training.md)."""

import torch
from torch import Tensor


def sincos_table(width: int, grid: int) -> Tensor:
    """(1, 1 + grid * grid, width) fp32: zeros for CLS, then the patches row by row.

    The first half of the channels encodes the column, the second half the row. In each half, of width/2 channels, come
    sin(index * w_k) for all k, then cos(index * w_k), w_k = 10000^(-k / (width/4)), k = 0 .. width/4 - 1 (Vaswani 2017,
    section 3.5, applied to either axis).
    """
    quarter = width // 4
    frequencies = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (grid, width / 2)
    columns = axis[None, :, :].expand(grid, grid, -1)
    rows = axis[:, None, :].expand(grid, grid, -1)
    table = torch.zeros(1, 1 + grid * grid, width)
    table[0, 1:] = torch.cat([columns, rows], -1).reshape(grid * grid, width)
    return table
