"""What a RetinaFace network says about its anchors -> boxes, landmarks, scores. One way for every backbone.

B photos of one size, N anchors, C candidates, F faces. 15 numbers an anchor: face logit minus background logit, 4 of
the box, 10 of the landmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fahr.faces.detectors.faces import Face, Floats

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
    """The faces of one photo, best first."""

    boxes_F4: Floats
    landmarks_F52: Floats
    scores_F: Floats

    def faces(self) -> list[Face]:
        values = zip(self.boxes_F4, self.landmarks_F52, self.scores_F.tolist(), strict=True)
        return [Face(box, points, score) for box, points, score in values]


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
    rows, cells = rows_BN15[photo_C, anchor_C].float().cpu().numpy(), grid[anchor_C].cpu().numpy()
    ends = np.searchsorted(photo_C.cpu().numpy(), np.arange(len(rows_BN15) + 1))
    return [_found(rows[start:end], cells[start:end], anchors, height, width) for start, end in pairwise(ends)]


def decode_one(maps: Sequence[Floats], anchors: Anchors, height: int, width: int, least_logit: float) -> Found:
    """The same of one photo on a CPU, from maps (height, width, anchors x 15), one a level."""
    rows_N15 = np.concatenate([each.reshape(-1, VALUES) for each in maps])
    anchor_C = np.flatnonzero(rows_N15[:, 0] >= least_logit)
    cells = anchor_grid(anchors, height, width, "cpu").numpy()[anchor_C]
    return _found(rows_N15[anchor_C], cells, anchors, height, width)


def _found(rows_C15: Floats, cells_C3: Floats, anchors: Anchors, height: int, width: int) -> Found:
    """In NumPy: for the few candidates of a photo, torch would spend its time on starting each of these steps."""
    centre, side = cells_C3[:, :2], cells_C3[:, 2:]
    middle = centre + rows_C15[:, 1:3] * anchors.shift_unit * side
    growth = torch.from_numpy(rows_C15[:, 3:5] * anchors.growth_unit)  # NumPy's exp differs in the last bit
    reach = (side * torch.exp(growth).numpy() - float(anchors.whole_pixels)) / 2
    limit = np.array([width - 1.0, height - 1.0], np.float32)
    boxes = np.concatenate([np.minimum(middle - reach, limit), np.minimum(middle + reach, limit)], 1).clip(min=0)
    scores: Floats = torch.sigmoid(torch.from_numpy(rows_C15[:, 0])).numpy()
    kept = best_of_overlapping(boxes, scores, anchors)
    shifts = rows_C15[kept, 5:].reshape(-1, 5, 2) * anchors.shift_unit
    return Found(boxes[kept], centre[kept, None] + shifts * side[kept, None], scores[kept])


def best_of_overlapping(boxes_C4: Floats, scores_C: Floats, anchors: Anchors) -> NDArray[np.intp]:
    """Indices of the boxes that no better box covers by `overlap` or more, best first; of equals, the first.

    One step a face that is kept: a photo has few, and starting torchvision's `nms` costs more than these steps do.
    """
    x1, y1, x2, y2 = boxes_C4.T
    if anchors.whole_pixels:
        x2, y2 = x2 + 1, y2 + 1
    area = (x2 - x1) * (y2 - y1)
    left = np.argsort(-scores_C, kind="stable")
    kept = []
    with np.errstate(invalid="ignore"):  # two boxes without an area: 0 / 0 covers nothing
        while len(left):
            best, left = left[0], left[1:]
            kept.append(best)
            common = np.maximum(np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left]), 0)
            common *= np.maximum(np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left]), 0)
            left = left[~(common / (area[best] + area[left] - common) >= anchors.overlap)]
    return np.array(kept, np.intp)
