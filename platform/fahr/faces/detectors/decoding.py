"""What a RetinaFace network says about its anchors -> boxes, landmarks, scores. One way for every backbone.

B photos of one size, N anchors, C candidates, F faces. 15 numbers an anchor: face logit minus background logit, 4 of
the box, 10 of the landmarks.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from fahr.faces.detectors.faces import Face

VALUES = 15


@dataclass(frozen=True)
class Anchors:
    """Where a network's anchors lie, and in which units it corrects them."""

    strides_px: tuple[int, ...]  # one a level, in the order of the network's outputs
    sizes_px: tuple[tuple[int, ...], ...]  # sides of the square anchors of one cell
    centres_px: tuple[float, ...]  # of the first cell, from the corner of the photo
    shift_unit: float  # anchor sides, for box centres and landmarks
    growth_unit: float  # logarithm of the box side over the anchor side
    whole_pixels: bool  # x2 is the last pixel inside, so that a side is x2 - x1 + 1
    overlap: float  # intersection over union from which the lesser of two boxes goes


@dataclass(frozen=True, eq=False)
class Found:
    """The faces of one photo, best first, on the CPU."""

    boxes_F4: Tensor
    landmarks_F52: Tensor
    scores_F: Tensor

    def faces(self) -> list[Face]:
        values = (self.boxes_F4.numpy(), self.landmarks_F52.numpy(), self.scores_F.tolist())
        return [Face(box, points, score) for box, points, score in zip(*values, strict=True)]


@lru_cache(maxsize=64)
def anchor_grid(anchors: Anchors, height: int, width: int, device: str) -> Tensor:
    """(N, 3): centre x, centre y and side of every anchor, in pixels of a height x width input."""
    levels = []
    for stride, sizes, centre in zip(anchors.strides_px, anchors.sizes_px, anchors.centres_px, strict=True):
        ys = torch.arange(-(-height // stride), dtype=torch.float32) * stride + centre
        xs = torch.arange(-(-width // stride), dtype=torch.float32) * stride + centre
        sides = torch.tensor(sizes, dtype=torch.float32)
        y, x, side = torch.meshgrid(ys, xs, sides, indexing="ij")
        levels.append(torch.stack([x, y, side], dim=-1).reshape(-1, 3))
    return torch.cat(levels).to(device)


def logit(probability: float) -> float:
    if not 0 < probability < 1:
        raise ValueError(f"threshold {probability}: it lies between 0 and 1, both excluded")
    return log(probability / (1 - probability))


class Head(nn.Conv2d):
    """Works in fp32 whatever the layers before it do: a score in bf16 has steps of 0.004 near 1."""

    def forward(self, level: Tensor) -> Tensor:
        return super().forward(level.float())


def fused_head(scores: nn.Conv2d, boxes: nn.Conv2d, landmarks: nn.Conv2d, pairs: tuple[tuple[int, int], ...]) -> Head:
    """Three 1x1 heads as one with 15 channels an anchor. `pairs`: the channels (background, face) of each anchor.

    A softmax over two classes is a sigmoid of their difference, which is one channel instead of two.
    """
    fused = Head(scores.in_channels, VALUES * len(pairs), 1)
    for name in ("weight", "bias"):
        score, box, point = (getattr(head, name) for head in (scores, boxes, landmarks))
        rows = []
        for anchor, (background, face) in enumerate(pairs):
            rows += [
                score[face : face + 1] - score[background : background + 1],
                box[4 * anchor : 4 * anchor + 4],
                point[10 * anchor : 10 * anchor + 10],
            ]
        getattr(fused, name).data.copy_(torch.cat(rows))
    return fused


def join_levels(maps: list[Tensor]) -> Tensor:
    """Maps (B, anchors x 15, height, width), one a level -> (B, N, 15) in the order of `anchor_grid`."""
    return torch.cat([each.permute(0, 2, 3, 1).reshape(len(each), -1, VALUES) for each in maps], dim=1)


def decode(rows_BN15: Tensor, anchors: Anchors, height: int, width: int, least_logit: float) -> list[Found]:
    """Faces whose logit is at least `least_logit`, for each of B photos, in pixels of the network's input."""
    grid = anchor_grid(anchors, height, width, str(rows_BN15.device))
    photo_C, anchor_C = (rows_BN15[..., 0] >= least_logit).nonzero(as_tuple=True)
    rows, cells = rows_BN15[photo_C, anchor_C].float().cpu(), grid[anchor_C].cpu()
    centre, side = cells[:, :2], cells[:, 2:]
    middle = centre + rows[:, 1:3] * anchors.shift_unit * side
    reach = (side * torch.exp(rows[:, 3:5] * anchors.growth_unit) - float(anchors.whole_pixels)) / 2
    limit = torch.tensor([width - 1.0, height - 1.0])
    boxes = torch.cat([torch.minimum(middle - reach, limit), torch.minimum(middle + reach, limit)], 1).clamp(min=0)
    landmarks = centre[:, None] + rows[:, 5:].reshape(-1, 5, 2) * anchors.shift_unit * side[:, None]
    scores = torch.sigmoid(rows[:, 0])
    ends = torch.searchsorted(photo_C.cpu(), torch.arange(len(rows_BN15) + 1)).tolist()
    found = []
    for start, end in pairwise(ends):
        kept = start + best_of_overlapping(boxes[start:end], scores[start:end], anchors)
        found.append(Found(boxes[kept], landmarks[kept], scores[kept]))
    return found


def best_of_overlapping(boxes_C4: Tensor, scores_C: Tensor, anchors: Anchors) -> Tensor:
    """Indices of the boxes that no better box covers by `overlap` or more, best first."""
    if anchors.whole_pixels:
        boxes_C4 = boxes_C4 + torch.tensor([0.0, 0.0, 1.0, 1.0])
    # torchvision drops at more than the limit, we at the limit: pass the number just below it, in its own precision.
    limit = float(np.nextafter(np.float32(anchors.overlap), np.float32(0)))
    kept: Tensor = nms(boxes_C4, scores_C, limit)
    return kept
