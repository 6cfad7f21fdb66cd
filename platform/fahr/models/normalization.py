"""Bytes -> what the models read, and back (science.md 2: ImageNet's values, as in the public recipe)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB values between 0 and 1
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(faces: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) fp32 on the same device."""
    mean, std = _constants(faces.device)
    return ((faces.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) normalised -> (N, H, W, 3) uint8 RGB: rounded, cut off at black and white."""
    mean, std = _constants(images.device)
    values = ((images.float() * std + mean) * 255).round().clamp(0, 255)
    return values.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std
