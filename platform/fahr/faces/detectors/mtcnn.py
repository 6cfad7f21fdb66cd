"""`mtcnn`: three small networks in a row, with the weights that come inside `facenet-pytorch`. Needs no download.

A pyramid of the photo goes through the first network, squares around its candidates through the second, the survivors
through the third, which also gives the landmarks. The networks are the package's; the steps between them are its
published algorithm, over many photos at once: the package cuts out and resizes one candidate after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from fahr.faces.detectors.faces import Detector, Face, Pixels, best_first, equal_batches

NAME = "mtcnn"
MIN_FACE_PX = 20  # this and the next two are the package's defaults, and FaceAge's
PYRAMID_STEP = 0.709
THRESHOLDS = (0.6, 0.7)  # of the first and the second network
THRESHOLD = 0.85  # of the third; the package's 0.7 takes a collar for a second face, true ones mostly score 0.97
CELL_PX, STRIDE_PX = 12, 2  # what one output of the first network sees, and how far apart they are
MOST_CROPS = 512  # through a network at once


@dataclass(frozen=True, eq=False)
class _Candidates:
    """C squares or boxes over all photos of a batch."""

    boxes: Tensor  # (C, 4) x1, y1, x2, y2
    scores: Tensor  # (C,)
    photo: Tensor  # (C,) which photo

    def __getitem__(self, which: Tensor) -> "_Candidates":
        return _Candidates(self.boxes[which], self.scores[which], self.photo[which])


class Mtcnn:
    name = NAME

    def __init__(self, device: str = "cpu", batch: int = 16, threshold: float = THRESHOLD) -> None:
        self.device, self.batch, self.threshold = torch.device(device), batch, threshold
        self.first, self.second, self.third = (
            network().eval().requires_grad_(False).to(self.device) for network in (PNet, RNet, ONet)
        )

    @torch.inference_mode()
    def detect(self, photos: Sequence[Pixels]) -> list[list[Face]]:
        found: dict[int, list[Face]] = {}
        for numbers, equal in equal_batches(photos, self.batch):
            found |= dict(zip(numbers, self._detect_equal(equal), strict=True))
        return [found[number] for number in range(len(photos))]

    def _detect_equal(self, photos: Pixels) -> list[list[Face]]:
        pixels = torch.from_numpy(photos).to(self.device)
        candidates = self._propose(pixels.permute(0, 3, 1, 2).float())
        sums = _summed(pixels)
        candidates = self._refine(sums, candidates)
        return self._finish(sums, candidates, len(photos))

    def _propose(self, photos: Tensor) -> _Candidates:
        """(B, 3, H, W), 0 to 255 -> squares where the first network suspects a face."""
        height, width = photos.shape[2:]
        found = []
        scale = CELL_PX / MIN_FACE_PX
        while min(height, width) * scale >= CELL_PX:
            size = (int(height * scale + 1), int(width * scale + 1))
            moves, chances = self.first(_normal(F.interpolate(photos, size=size, mode="area")))
            found.append(self._proposals(moves, chances[:, 1], scale))
            scale *= PYRAMID_STEP
        if not found:
            nobody = torch.zeros(0, dtype=torch.long, device=photos.device)
            return _Candidates(photos.new_zeros(0, 4), photos.new_zeros(0), nobody)
        boxes, moves, scores, photo = (torch.cat(each) for each in zip(*found, strict=True))
        kept = _best_by_photo(boxes, scores, photo, 0.7)
        boxes, moves = boxes[kept], moves[kept]
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return _Candidates(_squares(boxes + moves * sides), scores[kept], photo[kept])

    def _proposals(self, moves: Tensor, chances: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        photo, row, column = (chances >= THRESHOLDS[0]).nonzero(as_tuple=True)
        scores = chances[photo, row, column]
        corner = torch.stack([column, row], dim=1).float() * STRIDE_PX + 1
        boxes = torch.cat([(corner / scale).floor(), ((corner + CELL_PX - 1) / scale).floor()], dim=1)
        kept = _best_by_photo(boxes, scores, photo, 0.5)
        return boxes[kept], moves[photo, :, row, column][kept], scores[kept], photo[kept]

    def _refine(self, sums: Tensor, candidates: _Candidates) -> _Candidates:
        candidates, crops = _crops(sums, candidates, 24)
        if not len(crops):
            return candidates
        moves, chances = (
            torch.cat(each) for each in zip(*map(self.second, torch.split(crops, MOST_CROPS)), strict=True)
        )
        passed = chances[:, 1] > THRESHOLDS[1]
        candidates, moves = _Candidates(candidates.boxes, chances[:, 1], candidates.photo)[passed], moves[passed]
        kept = _best_by_photo(candidates.boxes, candidates.scores, candidates.photo, 0.7)
        candidates, moves = candidates[kept], moves[kept]
        return _Candidates(_squares(_moved(candidates.boxes, moves)), candidates.scores, candidates.photo)

    def _finish(self, sums: Tensor, candidates: _Candidates, num_photos: int) -> list[list[Face]]:
        faces: list[list[Face]] = [[] for _ in range(num_photos)]
        candidates, crops = _crops(sums, candidates, 48)
        if not len(crops):
            return faces
        outputs = map(self.third, torch.split(crops, MOST_CROPS))
        moves, points, chances = (torch.cat(each) for each in zip(*outputs, strict=True))
        passed = chances[:, 1] > self.threshold
        candidates = _Candidates(candidates.boxes, chances[:, 1], candidates.photo)[passed]
        corner, sides = candidates.boxes[:, :2], candidates.boxes[:, 2:] - candidates.boxes[:, :2] + 1
        # Five x, then five y, in shares of the square; the package counts pixels from 1. Order as ours.
        landmarks = points[passed].reshape(-1, 2, 5).permute(0, 2, 1) * sides[:, None] + corner[:, None] - 1
        boxes = _moved(candidates.boxes, moves[passed]).cpu().numpy()
        marks, scores, photo = landmarks.cpu().numpy(), candidates.scores.cpu().numpy(), candidates.photo.cpu().numpy()
        for number in range(num_photos):
            mine = np.flatnonzero(photo == number)
            kept = mine[_not_inside_better(boxes[mine], scores[mine], 0.7)]
            faces[number] = best_first(Face(boxes[each], marks[each], float(scores[each])) for each in kept)
        return faces


def _normal(pixels: Tensor) -> Tensor:
    return (pixels - 127.5) * 0.0078125


def _squares(boxes: Tensor) -> Tensor:
    """The square around the same middle whose side is the longer one of the box."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.max(dim=1, keepdim=True).values
    corner = boxes[:, :2] + sides * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], dim=1)


def _moved(boxes: Tensor, moves: Tensor) -> Tensor:
    return boxes + moves * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)


def _best_by_photo(boxes: Tensor, scores: Tensor, photo: Tensor, limit: float) -> Tensor:
    """Indices of what no better box of the same photo overlaps by more than `limit`."""
    kept = []
    for number in torch.unique(photo).tolist():
        mine = (photo == number).nonzero()[:, 0]
        kept.append(mine[nms(boxes[mine], scores[mine], limit)])
    return torch.cat(kept) if kept else photo


def _summed(photos: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, H + 1, W + 1, 3) sums over everything above and to the left; whole numbers, so exact."""
    sums = photos.to(torch.int32).cumsum(1, dtype=torch.int64).cumsum(2)
    return F.pad(sums, (0, 0, 1, 0, 1, 0))


def _crops(sums: Tensor, candidates: _Candidates, side: int) -> tuple[_Candidates, Tensor]:
    """Each candidate's part of its photo as (C, 3, side, side), each pixel the mean of the area that it covers.

    Black outside of the photo, as MTCNN's authors do it. The package cuts the square off there and stretches the rest,
    but not the landmarks: in faces that fill the frame they miss by a third of the eye distance.

    Four looks into the sums give the mean of any rectangle: as many steps for a thousand crops as for one.
    """
    limits = torch.tensor([sums.shape[2] - 1, sums.shape[1] - 1], device=sums.device)
    whole = candidates.boxes.trunc().long()
    low, high = whole[:, :2] - 1, whole[:, 2:]
    inside = ((high > low) & (high > 0) & (low < limits)).all(dim=1)
    candidates, low, high = candidates[inside], low[inside], high[inside]
    steps = torch.arange(side, device=sums.device)
    length = (high - low)[:, :, None]  # (C, 2, 1)
    start = low[:, :, None] + steps * length // side
    end = low[:, :, None] - (-(steps + 1) * length) // side  # rounded up: neighbouring areas may share a pixel
    area = (end - start)[:, 1, :, None] * (end - start)[:, 0, None, :]
    start, end = (torch.minimum(each.clamp(min=0), limits[:, None]) for each in (start, end))
    flat = sums.reshape(-1, 3)
    base = candidates.photo[:, None, None] * sums.shape[1]

    def look(rows: Tensor, columns: Tensor) -> Tensor:
        where = (base + rows[:, :, None]) * sums.shape[2] + columns[:, None, :]
        return flat[where.reshape(-1)].reshape(len(where), side, side, 3)

    (left, top), (right, bottom) = start.unbind(1), end.unbind(1)
    total = look(bottom, right) - look(top, right) - look(bottom, left) + look(top, left)
    return candidates, _normal(total.float() / area[..., None]).permute(0, 3, 1, 2)


def _not_inside_better(boxes: NDArray[np.float32], scores: NDArray[np.float32], limit: float) -> NDArray[np.intp]:
    """Indices of what shares at most `limit` of the smaller box with any better one; a side is x2 - x1 + 1."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        shared = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2]) + 1
        common = np.maximum(shared, 0).prod(axis=1)
        left = left[common / np.minimum(area[best], area[left]) <= limit]
    return np.array(kept, np.intp)


def create(*, device: str = "cpu", threshold: float = THRESHOLD) -> Detector:
    return Mtcnn(device, threshold=threshold)
