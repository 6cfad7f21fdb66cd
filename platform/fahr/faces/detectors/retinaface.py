"""`retinaface`: the network and the weights of the `retina-face` package (ResNet-50), run in batches.

The package looks at one photo a call, with NumPy loops around the network. Here the same network gets photos of one
size together, its batch norms folded, and anchors, decoding and overlap are tensors. Same faces, on CPU and CUDA.
"""

import os
import warnings
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from fahr.faces.detectors import weights
from fahr.faces.detectors.decoding import Anchors, Head, fused_head
from fahr.faces.detectors.faces import Detector
from fahr.faces.detectors.folding import fold_pair
from fahr.faces.detectors.networks import Precision, TorchNetwork

NAME = "retinaface"
THRESHOLD = 0.9  # the package's own
ANCHORS = Anchors(
    strides_px=(32, 16, 8),
    sizes_px=((512, 256), (128, 64), (32, 16)),
    centres_px=(7.5, 7.5, 7.5),  # the middle of a 16-pixel square at every stride, as the network was trained
    shift_unit=1.0,
    growth_unit=1.0,
    whole_pixels=True,
    overlap=0.4,
)


def package_network() -> nn.Module:
    """The package's network with random weights, without the package's front door, which mutes every warning."""
    os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", "pytorch")  # never tensorflow, even where it is installed
    with warnings.catch_warnings():
        from retinaface.model import retinaface_pth_model
    network: nn.Module = retinaface_pth_model.RetinaFace()
    return network.eval().requires_grad_(False)


class OnPhotos(nn.Module):
    """(B, H, W, 3) RGB, 0 to 255 -> three maps (B, 30, h, w), strides 32, 16, 8. Takes `package` apart.

    RGB, though the package wants BGR: it turns the colours round before its network sees them.
    """

    def __init__(self, package: Any) -> None:
        super().__init__()
        _fold(package)
        for stride in (32, 16, 8):
            setattr(package, f"face_rpn_stride{stride}", _Fused(getattr(package, f"face_rpn_stride{stride}")))
        self.package = package

    def forward(self, photos: Tensor) -> list[Tensor]:
        return [each.permute(0, 3, 1, 2) for each in self.package(photos)]


class _Fused(nn.Module):
    """In the place of the package's head: a list of one map where that gives three."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Head = fused_head(head.cls_score, head.bbox_pred, head.landmark_pred, pairs=((0, 2), (1, 3)))
        self.requires_grad_(False)

    def forward(self, level: Tensor) -> list[Tensor]:
        return [self.head(level)]


def _fold(package: Any) -> None:
    """The norms that follow a convolution. Those at the input and before each residual unit have none to go into."""
    fold_pair(package, "conv0", "bn0")
    for stage in (package.stage1, package.stage2, package.stage3, package.stage4):
        for unit in stage.values():
            fold_pair(unit, "conv1", "bn2")
            fold_pair(unit, "conv2", "bn3")
    for module in (package, package.ssh_m1_det, package.ssh_m2_det, package.ssh_m3_det):
        for name in [each for each in module._modules if f"{each}_bn" in module._modules]:
            fold_pair(module, name, f"{name}_bn")


def create(
    *, device: str = "cpu", precision: Precision = "fp32", threshold: float = THRESHOLD, batch: int = 8
) -> Detector:
    loaded = weights.load(weights.WEIGHTS[NAME])
    package = package_network()
    package.load_state_dict(torch.load(BytesIO(loaded.data), map_location="cpu", weights_only=True), strict=True)
    return from_network(package, device=device, precision=precision, threshold=threshold, batch=batch)


def from_network(
    package: nn.Module,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    threshold: float = THRESHOLD,
    batch: int = 8,
) -> TorchNetwork:
    """`package` is changed: hand over a copy if it is needed again."""
    network = OnPhotos(package)
    return TorchNetwork(NAME, network, ANCHORS, threshold=threshold, device=device, precision=precision, batch=batch)
