"""One number from a face: years, or the risk of death. B = images, D = width, K = outputs of the head."""

import torch
from torch import Tensor, nn

from fahr.models.architecture import HEADS, AnyArchitecture, Architecture
from fahr.models.encoder import Encoder
from fahr.models.faceage import FaceAgeTrunk
from fahr.models.normalization import Normalization
from fahr.models.timm_trunk import TimmTrunk
from fahr.models.trunk import Trunk
from fahr.objectives.age import first_biases, years
from fahr.objectives.hazard import hazard_risk


class Predictor(nn.Module):
    """A trunk and one linear layer on its features: CLS, where it is a Vision Transformer of ours.

    Task `age`: years, read from the K outputs of `architecture.head`. Task `survival`: a score without unit, higher =
    worse: the output itself, or what K hazards come to. The head runs in fp32 whatever the trunk runs in: bf16 has
    eight bits, which make 61.3 years 61.25.
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
        """(B, 3, S, S) normalised -> (B, K) fp32: what `fahr.objectives.age_loss` and `discrete_time_loss` judge."""
        return self._outputs(self.features(images))

    def predict(self, features: Tensor) -> Tensor:
        """(B, D) -> (B,) fp32: the head alone, for features that were kept."""
        outputs = self._outputs(features)
        if self.architecture.task == "age":
            return years(outputs, self.architecture.head)
        return hazard_risk(outputs) if self.architecture.head == "hazard" else outputs[:, 0]

    def _outputs(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            made: Tensor = self.head(features.float())
        return made

    @torch.no_grad()
    def start_at(self, value: float | Tensor, sd: float = 0.0) -> None:
        """Begin at the mean of the training labels: the mean age in years and their sd, which wide heads start with; 0
        for survival, or of the head `hazard` everybody's (K,) logits."""
        if self.architecture.task == "age":
            self.head.bias.copy_(first_biases(self.architecture.head, float(value), sd))
        else:
            self.head.bias.copy_(torch.as_tensor(value).expand_as(self.head.bias))


def _trunk(architecture: AnyArchitecture) -> Trunk:
    if isinstance(architecture, Architecture):
        return Encoder(architecture)
    return {"faceage": FaceAgeTrunk, "timm": TimmTrunk}[architecture.family](architecture)


def _normalization(trunk: Trunk) -> Normalization:
    if isinstance(trunk, TimmTrunk):
        return trunk.normalization
    return Normalization(kind="per_image") if isinstance(trunk, FaceAgeTrunk) else Normalization()
