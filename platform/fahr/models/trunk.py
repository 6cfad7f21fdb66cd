"""What makes features of a face: a Vision Transformer, FaceAge's network, or one of timm's. Heads stand on it."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fahr.errors import Refused


class Trunk(nn.Module, ABC):
    """`blocks`: transformer blocks, first to last, which layer decay and drop path tell apart; others have none."""

    blocks: nn.ModuleList
    autocast_to: torch.dtype | None = None  # where precision.for_inference made the weights smaller

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, D) fp32"""

    def exact(self) -> list[nn.Module]:
        """Parts that stay fp32 under bf16, since they stand where an eighth bit is a tenth of a year."""
        return []

    def rounded(self, images: Tensor) -> AbstractContextManager[object]:
        """Within it, matrix products run in what the weights were rounded to; outside of inference as around it."""
        return torch.autocast(images.device.type, self.autocast_to) if self.autocast_to else nullcontext()


def check_size(images: Tensor, side: int) -> None:
    if images.shape[1:] != (3, side, side):
        raise Refused(
            f"images of shape {tuple(images.shape)}: this model reads (batch, 3, {side}, {side}). Align the faces "
            f"to {side} px, or create the model with their size."
        )
