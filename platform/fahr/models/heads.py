"""One number from a face: years, or the risk of death. B = images, D = width."""

import torch
from torch import Tensor, nn

from fahr.models.architecture import Architecture
from fahr.models.encoder import Encoder


class Predictor(nn.Module):
    """An encoder and one linear layer on CLS.

    Task `age`: years. Task `survival`: a score without unit, higher = worse. The head runs in fp32 whatever the encoder
    runs in: bf16 has eight bits, which make 61.3 years 61.25.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = Encoder(architecture)
        self.head = nn.Linear(architecture.width, 1)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, D) fp32, CLS after the last norm."""
        encoded: Tensor = self.encoder(images)
        return encoded[:, 0].float()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B,) fp32"""
        return self.predict(self.features(images))

    def predict(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,) fp32: the head alone, for features that were kept."""
        with torch.autocast(features.device.type, enabled=False):
            value: Tensor = self.head(features.float())
        return value[:, 0]

    @torch.no_grad()
    def start_at(self, value: float) -> None:
        """Begin at the mean of the training labels: the mean age in years, 0 for survival."""
        self.head.bias.fill_(value)
