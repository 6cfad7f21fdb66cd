"""Bytes -> what the models read, and back. What is done to the pixels belongs to the model: `Predictor.prepare`.

`fixed`: (value - mean) / std of each colour, for nearly all networks ImageNet's (as in public recipes).
`per_image`: (value - mean) / std over all pixels and colours of the crop itself, as FaceAge does (docs/models.md).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB values between 0 and 1
IMAGENET_STD = (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]


class Normalization(BaseModel):
    """`mean` and `std`, for red, green and blue between 0 and 1, are of kind `fixed` alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: Literal["fixed", "per_image"] = "fixed"
    mean: Triple | None = None
    std: Triple | None = None

    @model_validator(mode="before")
    @classmethod
    def _imagenet(cls, found: Any) -> Any:
        """What is left out is ImageNet's; the first checkpoints lack the kind."""
        if not isinstance(found, Mapping) or found.get("kind", "fixed") != "fixed":
            return found
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **found}

    @model_validator(mode="after")
    def _possible(self) -> "Normalization":
        if self.kind == "per_image":
            if self.mean is not None or self.std is not None:
                raise ValueError("kind 'per_image' takes mean and std from each image: leave both out")
        elif self.mean is None or self.std is None:
            raise ValueError("kind 'fixed' needs a mean and a std for each colour")
        elif min(self.std) <= 0:
            raise ValueError(f"std {self.std}: must be above 0")
        return self

    def __str__(self) -> str:
        return "each crop's own mean and std" if self.kind == "per_image" else f"mean={self.mean} std={self.std}"

    def apply(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) fp32 in 0..1 -> the same shape. A flat crop has no spread: with `per_image` it becomes zeros,
        and `fahr.scoring` refuses it (`reads`)."""
        if self.kind == "per_image":
            std, mean = torch.std_mean(pixels, (1, 2, 3), correction=0, keepdim=True)
            flat = pixels.amax((1, 2, 3), keepdim=True) == pixels.amin((1, 2, 3), keepdim=True)
            return ((pixels - mean) / std).masked_fill(flat, 0.0).contiguous()
        mean, std = (torch.tensor(each, device=pixels.device).view(3, 1, 1) for each in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()

    def reads(self, face: NDArray[np.uint8]) -> bool:
        """Whether a crop, (H, W, 3), can be normalised: per image, one that is all of one value cannot."""
        return self.kind == "fixed" or bool(face.max() > face.min())


IMAGENET = Normalization()


def unit(faces: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) fp32 in 0..1 on the same device."""
    return faces.permute(0, 3, 1, 2).float() / 255


def normalise(faces: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) fp32 on the same device, with ImageNet's values."""
    return IMAGENET.apply(unit(faces))


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) normalised with ImageNet's values -> (N, H, W, 3) uint8 RGB: rounded, cut off at black and white."""
    mean, std = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    values = ((images.float() * std + mean) * 255).round().clamp(0, 255)
    return values.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
