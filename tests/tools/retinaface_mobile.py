"""RetinaFace with MobileNet-0.25, just enough of it to judge photos with the shared weights.

Written from the published architecture: a thin MobileNet, a feature pyramid of 64 channels at strides 8, 16 and 32, a
context module a level, and heads for class, box and five landmarks at two anchors a cell.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

MIN_SIZES_PX = ((16, 32), (64, 128), (256, 512))
STRIDES = (8, 16, 32)
VARIANCE = (0.1, 0.2)
MEAN = (104.0, 117.0, 123.0)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, slope: float | None = 0.1) -> nn.Sequential:
    """Convolution, batch norm and, unless slope is None, a leaky ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers) if slope is None else nn.Sequential(*layers, nn.LeakyReLU(slope))


def depthwise(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(0.1),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        wide = (8, 16, 32, 32, 64, 64)
        steps = (1, 2, 1, 2, 1)
        first = [depthwise(a, b, s) for a, b, s in zip(wide[:-1], wide[1:], steps, strict=True)]
        self.stage1 = nn.Sequential(conv(3, 8, 3, 2), *first)
        self.stage2 = nn.Sequential(depthwise(64, 128, 2), *(depthwise(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(depthwise(128, 256, 2), depthwise(256, 256, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        one = self.stage1(x)
        two = self.stage2(one)
        return [one, two, self.stage3(two)]


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (conv(n, 64, 1) for n in (64, 128, 256))
        self.merge1, self.merge2 = conv(64, 64, 3), conv(64, 64, 3)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        one, two, three = self.output1(levels[0]), self.output2(levels[1]), self.output3(levels[2])
        two = self.merge2(two + F.interpolate(three, size=two.shape[2:], mode="nearest"))
        one = self.merge1(one + F.interpolate(two, size=one.shape[2:], mode="nearest"))
        return [one, two, three]


class Context(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3X3 = conv(64, 32, 3, slope=None)
        self.conv5X5_1, self.conv5X5_2 = conv(64, 16, 3), conv(16, 16, 3, slope=None)
        self.conv7X7_2, self.conv7x7_3 = conv(16, 16, 3), conv(16, 16, 3, slope=None)

    def forward(self, x: Tensor) -> Tensor:
        five = self.conv5X5_1(x)
        seven = self.conv7x7_3(self.conv7X7_2(five))
        return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(five), seven], 1))


class Head(nn.Module):
    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(64, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.values)


class RetinaFaceMobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fpn = Body(), Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList(Head(2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(Head(4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = [ssh(f) for ssh, f in zip((self.ssh1, self.ssh2, self.ssh3), self.fpn(self.body(x)), strict=True)]
        heads = (self.ClassHead, self.BboxHead, self.LandmarkHead)
        scores, boxes, points = (
            torch.cat([head(level) for head, level in zip(group, levels, strict=True)], 1) for group in heads
        )
        return scores.softmax(-1)[..., 1], boxes, points


def priors(height_px: int, width_px: int) -> Tensor:
    """Anchors as centre and size, in shares of the photo."""
    rows = []
    for sizes, stride in zip(MIN_SIZES_PX, STRIDES, strict=True):
        cells = product(range(-(-height_px // stride)), range(-(-width_px // stride)))
        for (y, x), size in product(cells, sizes):
            rows.append(
                ((x + 0.5) * stride / width_px, (y + 0.5) * stride / height_px, size / width_px, size / height_px)
            )
    return torch.tensor(rows)


def load(weights: Path) -> RetinaFaceMobile:
    model = RetinaFaceMobile().eval()
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=True)
    return model


@torch.no_grad()
def detect(model: RetinaFaceMobile, photos: list[np.ndarray], least_score: float = 0.5) -> list[np.ndarray]:
    """Faces of equally large RGB photos: arrays (n, 15) of box, score and five points (x, y), in pixels."""
    batch = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() - torch.tensor(MEAN).view(1, 3, 1, 1)
    height, width = batch.shape[2:]
    scores, boxes, points = model(batch)
    anchors = priors(height, width)
    size = torch.tensor([width, height], dtype=torch.float32)
    found = []
    for score, box, point in zip(scores, boxes, points, strict=True):
        keep = score > least_score
        a, b = anchors[keep], box[keep]
        centre = a[:, :2] + b[:, :2] * VARIANCE[0] * a[:, 2:]
        extent = a[:, 2:] * torch.exp(b[:, 2:] * VARIANCE[1])
        corners = torch.cat([(centre - extent / 2) * size, (centre + extent / 2) * size], 1)
        marks = a[:, None, :2] + point[keep].view(-1, 5, 2) * VARIANCE[0] * a[:, None, 2:]
        best = nms(corners, score[keep], 0.4)
        rows = torch.cat([corners, score[keep][:, None], (marks * size).flatten(1)], 1)[best]
        found.append(rows.numpy())
    return found
