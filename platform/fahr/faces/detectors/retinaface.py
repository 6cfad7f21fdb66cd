"""`retinaface`: the network and the weights of the `retina-face` package (ResNet-50), with nothing slow around them.

The package looks at one photo a call, with NumPy loops around the network. Here the same layers run with their batch
norms folded: in fp32 on a CPU by ONNX Runtime, else by torch, which gets photos of one size together. Same faces.
"""

import os
import warnings
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fahr.faces.detectors import weights
from fahr.faces.detectors.decoding import Anchors, fused_head
from fahr.faces.detectors.faces import Detector
from fahr.faces.detectors.folding import fold_pair
from fahr.faces.detectors.mobile_network import upsample_like
from fahr.faces.detectors.networks import OnnxNetwork, Precision, TorchNetwork
from fahr.faces.detectors.onnx_writer import to_onnx

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


class Network(nn.Module):
    """At rest: batch norms folded, one head a level. (B, 3, H, W) RGB, 0 to 255 -> three maps (B, 30, h, w).

    The strides are 32, 16 and 8. Takes `package` apart: its layers, called in our order, since its own function asks
    for shapes on the way and can be written to no file. RGB, though the package wants BGR: it turns the colours round
    before its network sees them.
    """

    def __init__(self, package: Any) -> None:
        super().__init__()
        _fold(package)
        self.heads = nn.ModuleList(
            fused_head(head.cls_score, head.bbox_pred, head.landmark_pred, pairs=((0, 2), (1, 3)))
            for head in (package.face_rpn_stride32, package.face_rpn_stride16, package.face_rpn_stride8)
        )
        for stride in (32, 16, 8):
            delattr(package, f"face_rpn_stride{stride}")
        self.package = package
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.eval().requires_grad_(False)

    def forward(self, photos: Tensor) -> list[Tensor]:
        package = self.package
        values = self.pool(F.relu(package.conv0(package.bn_data(photos))))
        values, _ = _stage(package.stage1, values)
        values, _ = _stage(package.stage2, values)
        values, eighth = _stage(package.stage3, values)
        values, sixteenth = _stage(package.stage4, values)
        coarse = F.relu(package.ssh_c3_lateral(F.relu(package.bn1(values))))
        middle = F.relu(package.ssh_c2_lateral(sixteenth))
        middle = F.relu(package.ssh_c2_aggr(middle + upsample_like(coarse, middle)))
        fine = F.relu(package.ssh_m1_red_conv(eighth))
        fine = F.relu(package.ssh_c1_aggr(fine + upsample_like(middle, fine)))
        contexts = (package.ssh_m3_det, package.ssh_m2_det, package.ssh_m1_det)
        levels = [_context(layers, level) for layers, level in zip(contexts, (coarse, middle, fine), strict=True)]
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


def _stage(units: Any, values: Tensor) -> tuple[Tensor, Tensor]:
    """The stage's output, and what its first unit knows before it halves the resolution."""
    before: list[Tensor] = []
    for unit in units.values():
        active = F.relu(unit.bn1(values))
        before.append(F.relu(unit.conv1(active)))
        residual = unit.conv3(F.relu(unit.conv2(before[-1])))
        values = residual + (unit.sc(active) if unit.sc is not None else values)
    return values, before[0]


def _context(layers: Any, level: Tensor) -> Tensor:
    """Three fields of view, 3, 5 and 7 pixels wide, side by side."""
    shared = F.relu(layers.context_conv1(level))
    wide = layers.context_conv3_2(F.relu(layers.context_conv3_1(shared)))
    return F.relu(torch.cat([layers.conv1(level), layers.context_conv2(shared), wide], dim=1))


class OnPhotos(nn.Module):
    """(B, H, W, 3) -> the maps of `Network`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, photos: Tensor) -> list[Tensor]:
        return self.network(photos.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


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
) -> TorchNetwork | OnnxNetwork:
    """`package` is changed: hand over a copy if it is needed again. On as many threads of a CPU as torch has now."""
    network = Network(package)
    if device == "cpu" and precision == "fp32":
        model, threads = to_onnx(network, upsample_like), torch.get_num_threads()
        return OnnxNetwork(NAME, model, ANCHORS, threshold=threshold, threads=threads)
    on_photos = OnPhotos(network)
    return TorchNetwork(NAME, on_photos, ANCHORS, threshold=threshold, device=device, precision=precision, batch=batch)
