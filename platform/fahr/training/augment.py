"""Changes to faces that leave the person as old: batched, on the device of the images.

    changed = augment(images, positions, seed, PRESETS["age"])     # (B, 3, S, S) float32 in [0, 1], before and after

What happens to a face follows from (seed, position) and nothing else: not from the batch it stands in, the worker or
the number of workers. With everything off the images come back as they are. B = faces, S = side in pixels.

Order: mirror; crop, turn and zoom in one interpolation; brightness, contrast, saturation; grey; loss of detail; blur;
a block painted over. Each draws from its own stream, so switching one on or off leaves the others as they were.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from fahr.config import Options, option
from fahr.training.randomness import uniform

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of RGB


class Augmentation(Options):
    """What may happen to a face while training; the defaults do nothing. Amounts are drawn evenly up to the most."""

    crop: float = option(1.0, help="least share of the area that a crop keeps", off="1", gt=0, le=1, unit="share")
    aspect: float = option(
        4 / 3, help="most that a crop is wider than high or higher than wide", ge=1, le=4, unit="ratio"
    )
    turn: float = option(0.0, help="most that a face is turned", unit="degrees", off="0", ge=0, le=180)
    zoom: float = option(
        0.0, help="most that a face is enlarged or shrunk, as a share", off="0", ge=0, lt=1, unit="share"
    )
    interpolation: Literal["bicubic", "bilinear"] = option("bicubic", help="how crops, turns and zooms are sampled")
    mirror: float = option(0.0, help="how often left and right are exchanged", unit="probability", off="0", ge=0, le=1)
    brightness: float = option(
        0.0, help="most that it is brighter or darker, as a share", off="0", ge=0, le=1, unit="share"
    )
    contrast: float = option(
        0.0, help="most that distances from the mean grey change, as a share", off="0", ge=0, le=1, unit="share"
    )
    saturation: float = option(
        0.0, help="most that distances from the own grey change, as a share", off="0", ge=0, le=1, unit="share"
    )
    grey: float = option(0.0, help="how often colour is taken away", unit="probability", off="0", ge=0, le=1)
    detail: float = option(
        0.0, help="how often it is scaled down and up again, as small or much compressed photos are",
        unit="probability", off="0", ge=0, le=1,
    )  # fmt: skip
    detail_kept: float = option(
        0.4, help="least share of its side that a face is scaled down to", gt=0, le=1, unit="share"
    )
    blur: float = option(0.0, help="how often it is blurred", unit="probability", off="0", ge=0, le=1)
    blur_most: float = option(
        0.01,
        help="most of the blur's standard deviation, as a share of the side: 0.01 is 1.1 px of 112",
        gt=0,
        le=0.2,
        unit="share",
    )
    erase: float = option(0.0, help="how often a block is painted over", unit="probability", off="0", ge=0, le=1)
    erase_most: float = option(
        1 / 3, help="most of the area that is painted over; the least is 0.02", ge=0.02, le=1, unit="share"
    )


PRESETS = {
    # docs/training.md: half of an aligned face at least, where MAE's own 0.2 would leave a cheek
    "mae": Augmentation(crop=0.5, mirror=0.5),
    # docs/age.md
    "age": Augmentation(
        turn=10, zoom=0.1, mirror=0.5, brightness=0.2, contrast=0.2, saturation=0.2, grey=0.1, detail=0.2, blur=0.1,
        erase=0.25,
    ),
}  # fmt: skip


def augment(images: Tensor, positions: Tensor, seed: int, options: Augmentation) -> Tensor:
    """(B, 3, S, S) float32 in [0, 1] and (B,) positions in the run, on one device -> the same shape and range."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or len(images) != len(positions):
        raise ValueError(f"images {tuple(images.shape)}, positions {tuple(positions.shape)}: (B, 3, S, S) and (B,).")
    draw = _Draws(seed, positions)
    if options.mirror:
        images = torch.where(draw("mirror") < options.mirror, images.flip(-1), images)
    if options.crop < 1 or options.turn or options.zoom:
        grid = _grid(_matrices(draw, options), images.shape[-1]).to(images.dtype)
        # Reflected: a turned face has no corners that tell by how much, and neither streaks nor black edges to learn.
        images = grid_sample(images, grid, options.interpolation, "reflection", align_corners=False).clamp(0, 1)
    images = _coloured(images, draw, options)
    images = _coarsened(images, draw, options)
    return _erased(images, draw, options) if options.erase else images


class _Draws:
    """Uniform numbers of each face, by the name of their use."""

    def __init__(self, seed: int, positions: Tensor) -> None:
        self.seed, self.positions = seed, positions

    def __call__(self, name: str, count: int = 1) -> Tensor:
        """(B, count, 1, 1): one number, or several beside each other, for all channels and pixels of a face."""
        return uniform(self.seed, self.positions, f"augment.{name}", count)[:, :, None, None]

    def between(self, name: str, low: float, high: float) -> Tensor:
        """(B, 1, 1, 1) evenly in [low, high)"""
        return low + (high - low) * self(name)

    def chosen(self, name: str, share: float) -> Tensor:
        """The numbers of the faces, each with probability `share`."""
        return (self(name)[:, 0, 0, 0] < share).nonzero()[:, 0]


# Place


def _matrices(draw: _Draws, options: Augmentation) -> Tensor:
    """(B, 2, 3) float64: a pixel of the result -> where it is taken from; both run from -1 to 1, edge to edge.

    float64, since vectorised sines differ by a last bit between batch sizes, and that of float32 shows in the pixels.
    """
    area, ratio, left, top = uniform(draw.seed, draw.positions, "augment.crop", 4).double().unbind(1)
    area = options.crop + (1 - options.crop) * area
    ratio = ((2 * ratio - 1) * math.log(options.aspect)).exp() if options.crop < 1 else torch.ones_like(area)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)  # shares of the side
    angle, zoom = (2 * uniform(draw.seed, draw.positions, "augment.turn", 2).double() - 1).unbind(1)
    angle, scale = angle * math.radians(options.turn), 1 / (1 + zoom * options.zoom)
    # First to the place in the crop, then about the middle of the photo.
    middle_x, middle_y = (1 - width) * (2 * left - 1), (1 - height) * (2 * top - 1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [
        cos * width, -sin * height, cos * middle_x - sin * middle_y,
        sin * width, cos * height, sin * middle_x + cos * middle_y,
    ]  # fmt: skip
    return torch.stack(rows, 1).view(-1, 2, 3)


def _grid(matrices: Tensor, side: int) -> Tensor:
    """(B, 2, 3) -> (B, S, S, 2) float64: where each pixel's centre is taken from."""
    centres = (torch.arange(side, device=matrices.device, dtype=matrices.dtype) * 2 + 1) / side - 1
    x, y = centres[None, None, :, None], centres[None, :, None, None]
    across, down, shift = matrices[:, None, None].unbind(-1)
    return across * x + down * y + shift


# Colour


def _grey(images: Tensor) -> Tensor:
    """(B, 1, S, S)"""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def _coloured(images: Tensor, draw: _Draws, options: Augmentation) -> Tensor:
    if options.brightness:
        images = (images * draw.between("brightness", 1 - options.brightness, 1 + options.brightness)).clamp(0, 1)
    if options.contrast:
        mean = _grey(images).mean((2, 3), keepdim=True)
        images = _away(images, mean, draw.between("contrast", 1 - options.contrast, 1 + options.contrast))
    if options.saturation:
        factor = draw.between("saturation", 1 - options.saturation, 1 + options.saturation)
        images = _away(images, _grey(images), factor)
    if options.grey:
        images = torch.where(draw("grey") < options.grey, _grey(images), images)
    return images


def _away(images: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """Each value `factor` times as far from `centre`."""
    return (centre + factor * (images - centre)).clamp(0, 1)


# Detail: everything separable is a matrix from the left and its transpose from the right, one for each face


def _coarsened(images: Tensor, draw: _Draws, options: Augmentation) -> Tensor:
    side = images.shape[-1]
    if options.detail:
        kept = draw.between("detail.kept", options.detail_kept, 1)[:, 0, 0, 0]
        images = _both_ways(images, draw.chosen("detail", options.detail), _down_and_up(kept, side))
    if options.blur:
        sigma = draw.between("blur.sigma", 0, options.blur_most)[:, 0, 0, 0] * side
        images = _both_ways(images, draw.chosen("blur", options.blur), _gaussian(sigma, side))
    return images


def _both_ways(images: Tensor, chosen: Tensor, matrices: Tensor) -> Tensor:
    """Only the chosen faces, which are few: (B, 3, S, S), (C,), (B, S, S)"""
    matrix = matrices[chosen][:, None]
    return images.index_copy(0, chosen, (matrix @ images[chosen] @ matrix.mT).clamp(0, 1))


def _down_and_up(kept: Tensor, side: int) -> Tensor:
    """(B,) shares -> (B, S, S): down to round(kept S) pixels by a triangle as wide as two of them, up bilinearly."""
    small = (kept * side).round().clamp(min=1)[:, None, None]
    number = torch.arange(side, device=kept.device)
    # How far pixel s of the small picture lies from pixel l of the large one, counted in small pixels.
    apart = (number[:, None] + 0.5) - (number[None, :] + 0.5) * (small / side)
    weights = (1 - apart.abs()).clamp(min=0) * (number[:, None] < small)
    down = weights / weights.sum(2, keepdim=True).clamp(min=1e-9)
    up = weights.mT / weights.mT.sum(2, keepdim=True)
    return up @ down


def _gaussian(sigma: Tensor, side: int) -> Tensor:
    """(B,) pixels -> (B, S, S), rows of sum 1: at the edge, what lies outside has no weight."""
    number = torch.arange(side, device=sigma.device)
    apart = (number[:, None] - number[None, :]) / sigma.clamp(min=1e-3)[:, None, None]
    weights = (-0.5 * apart**2).exp()
    return weights / weights.sum(2, keepdim=True)


# A block


def _erased(images: Tensor, draw: _Draws, options: Augmentation) -> Tensor:
    """Painted over in one random colour; up to three times as wide as high, or as high as wide (Zhong et al. 2020)."""
    side = images.shape[-1]
    area, ratio, left, top = uniform(draw.seed, draw.positions, "augment.erase.block", 4)[:, :, None, None].unbind(1)
    area = 0.02 + (options.erase_most - 0.02) * area
    ratio = ((2 * ratio - 1) * math.log(3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    centres = (torch.arange(side, device=images.device) + 0.5) / side
    x, y = centres[None, None, :] - (1 - width) * left, centres[None, :, None] - (1 - height) * top
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    painted = inside[:, None] & (draw("erase") < options.erase)
    return torch.where(painted, draw("erase.colour", 3), images)
