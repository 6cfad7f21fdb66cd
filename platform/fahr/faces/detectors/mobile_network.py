"""RetinaFace with a MobileNet of a quarter of the width: 433,343 values. Written from the published architecture.

A thin MobileNetV1, a feature pyramid of 64 channels at strides 8, 16 and 32, a context module a level, and heads for
class, box and five landmarks at two anchors a cell. Names follow the published checkpoint, so that it loads strictly.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fahr.faces.detectors.decoding import Anchors, fused_head
from fahr.faces.detectors.folding import fold_sequences

ANCHORS = Anchors(
    strides_px=(8, 16, 32),
    sizes_px=((16, 32), (64, 128), (256, 512)),
    centres_px=(4.0, 8.0, 16.0),
    shift_unit=0.1,
    growth_unit=0.2,
    whole_pixels=False,
    overlap=0.4,
)
MEAN = (104.0, 117.0, 123.0)  # subtracted from the channels in the order that they come in
SLOPE = 0.1  # of the leaky ReLUs; 0 in wider networks of this family
WIDTH = 64  # channels of the pyramid


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, active: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE)) if active else nn.Sequential(*layers)


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(SLOPE),
    )


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv(3, 8, 3, 2),
            _separable(8, 16, 1),
            _separable(16, 32, 2),
            _separable(32, 32, 1),
            _separable(32, 64, 2),
            _separable(64, 64, 1),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, 2), *(_separable(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, 2), _separable(256, 256, 1))

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth = self.stage1(photos)
        sixteenth = self.stage2(eighth)
        return eighth, sixteenth, self.stage3(sixteenth)


def upsample_like(small: Tensor, large: Tensor) -> Tensor:
    """`small` at the height and width of `large`, each pixel repeated."""
    return F.interpolate(small, size=large.shape[2:], mode="nearest")


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv(inputs, WIDTH, 1) for inputs in (64, 128, 256))
        self.merge1, self.merge2 = _conv(WIDTH, WIDTH, 3), _conv(WIDTH, WIDTH, 3)

    def forward(self, levels: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.output1(levels[0]), self.output2(levels[1]), self.output3(levels[2])
        middle = self.merge2(middle + upsample_like(coarse, middle))
        fine = self.merge1(fine + upsample_like(middle, fine))
        return fine, middle, coarse


class Context(nn.Module):
    """Three fields of view, 3, 5 and 7 pixels wide, side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = WIDTH // 2, WIDTH // 4
        self.conv3X3 = _conv(WIDTH, half, 3, active=False)
        self.conv5X5_1 = _conv(WIDTH, quarter, 3)
        self.conv5X5_2 = _conv(quarter, quarter, 3, active=False)
        self.conv7X7_2 = _conv(quarter, quarter, 3)
        self.conv7x7_3 = _conv(quarter, quarter, 3, active=False)

    def forward(self, level: Tensor) -> Tensor:
        three, shared = self.conv3X3(level), self.conv5X5_1(level)
        five, seven = self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat([three, five, seven], dim=1))


class Head(nn.Module):
    def __init__(self, values: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(WIDTH, 2 * values, 1)


class Published(nn.Module):
    """The network as its checkpoint names it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fpn = Backbone(), Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList(Head(2) for _ in range(3))
        self.BboxHead = nn.ModuleList(Head(4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in range(3))

    def levels(self, photos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.fpn(self.body(photos))
        return self.ssh1(fine), self.ssh2(middle), self.ssh3(coarse)


class Network(nn.Module):
    """At rest: batch norms folded, one head a level. (B, 3, H, W) -> three maps (B, 30, h, w)."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        published = Published().eval().requires_grad_(False)
        published.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=True)
        fold_sequences(published)
        groups: Any = zip(published.ClassHead, published.BboxHead, published.LandmarkHead, strict=True)
        self.heads = nn.ModuleList(
            fused_head(score.conv1x1, box.conv1x1, point.conv1x1, pairs=((0, 1), (2, 3)))
            for score, box, point in groups
        )
        self.published = published
        self.eval().requires_grad_(False)

    def forward(self, photos: Tensor) -> list[Tensor]:
        return [head(level) for head, level in zip(self.heads, self.published.levels(photos), strict=True)]
