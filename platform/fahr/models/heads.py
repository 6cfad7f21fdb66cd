"""One number from a face: years, or the risk of death. B = images, D = width, K = outputs of the head."""

import torch
from torch import Tensor, nn

from fahr.models.architecture import AnyArchitecture, Architecture
from fahr.models.encoder import Encoder
from fahr.models.faceage import FaceAgeTrunk
from fahr.models.normalization import Normalization
from fahr.models.timm_trunk import TimmTrunk
from fahr.models.trunk import Trunk
from fahr.objectives.age import HEADS, first_biases, years


class Predictor(nn.Module):
    """A trunk and one linear layer on its features: CLS, where it is a Vision Transformer of ours.

    Task `age`: years, read from the K outputs of `architecture.head`. Task `survival`: a score without unit, higher =
    worse. The head runs in fp32 whatever the trunk runs in: bf16 has eight bits, which make 61.3 years 61.25.
    """

    def __init__(self, architecture: AnyArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = _trunk(architecture)
        self.head = nn.Linear(architecture.width, HEADS[architecture.head])
        self.normalization = _normalization(self.encoder)  # `load` puts there what the checkpoint says

    def prepare(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) fp32 in 0..1 -> the same shape, normalised as this network learned to read."""
        return self.normalization.apply(pixels)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, D) fp32, such as CLS after the last norm."""
        return self.encoder.pooled(images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B,) fp32"""
        return self.predict(self.features(images))

    def outputs(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, K) fp32: what `fahr.objectives.age_loss` judges."""
        return self._outputs(self.features(images))

    def predict(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,) fp32: the head alone, for features that were kept."""
        outputs = self._outputs(features)
        return years(outputs, self.architecture.head) if self.architecture.task == "age" else outputs[:, 0]

    def _outputs(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            made: Tensor = self.head(features.float())
        return made

    @torch.no_grad()
    def start_at(self, value: float, sd: float = 0.0) -> None:
        """Begin at the mean of the training labels: the mean age in years and their sd, which wide heads start with; 0
        for survival."""
        if self.architecture.task == "age":
            self.head.bias.copy_(first_biases(self.architecture.head, value, sd))
        else:
            self.head.bias.fill_(value)


def _trunk(architecture: AnyArchitecture) -> Trunk:
    if isinstance(architecture, Architecture):
        return Encoder(architecture)
    return {"faceage": FaceAgeTrunk, "timm": TimmTrunk}[architecture.family](architecture)


def _normalization(trunk: Trunk) -> Normalization:
    if isinstance(trunk, TimmTrunk):
        return trunk.normalization
    return Normalization(kind="per_image") if isinstance(trunk, FaceAgeTrunk) else Normalization()
