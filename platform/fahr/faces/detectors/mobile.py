"""`retinaface-mobile`: RetinaFace with MobileNet-0.25, the work-horse of machines without a GPU.

On a CPU in fp32 it runs in ONNX Runtime, one photo at a time on one thread: nearly twice as fast as torch in batches.
bf16 and CUDA run in torch, in batches.
"""

from io import BytesIO

import torch
from torch import Tensor, nn

from fahr.faces.detectors import weights
from fahr.faces.detectors.faces import Detector
from fahr.faces.detectors.mobile_network import ANCHORS, MEAN, Network, upsample_like
from fahr.faces.detectors.networks import OnnxNetwork, Precision, TorchNetwork
from fahr.faces.detectors.onnx_writer import to_onnx

NAME = "retinaface-mobile"
THRESHOLD = 0.5  # its score of faces under 40 px falls below; portraits score 0.99 and more


class OnPhotos(nn.Module):
    """(B, H, W, 3) RGB, 0 to 255 -> the maps of `Network`."""

    mean: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN))

    def forward(self, photos: Tensor) -> Tensor:
        return self.network((photos - self.mean).permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def create(*, device: str = "cpu", precision: Precision = "fp32", threshold: float = THRESHOLD) -> Detector:
    loaded = weights.load(weights.WEIGHTS[NAME])
    network = Network(torch.load(BytesIO(loaded.data), map_location="cpu", weights_only=True))
    if device == "cpu" and precision == "fp32":
        return OnnxNetwork(NAME, to_onnx(network, upsample_like), ANCHORS, threshold=threshold, mean=MEAN)
    return TorchNetwork(NAME, OnPhotos(network), ANCHORS, threshold=threshold, device=device, precision=precision)
