"""A whole set of faces scored by all workers of a run, a share each; every row of it, whatever their number.

scored = score_all(model, faces, device=device)      # the same on every worker
scored.values                                        # (N,) years or risk, NaN where the face does not decode
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from fahr.models import Predictor
from fahr.scoring import Scorer
from fahr.training.facesets import BadFace, FaceSet
from fahr.training.step import world_size
from fahr.training.workers import rank

Floats = NDArray[np.float64]
_CHUNK = 512  # faces decoded at once: 19 MB


@dataclass(frozen=True, eq=False)
class Scored:
    values: Floats  # (N,) in the order of the rows
    bad: Mapping[int, str]  # row -> why it has none


def score_all(
    model: Predictor, faces: FaceSet, *, device: torch.device, flip: bool = False, precision: str = "bf16"
) -> Scored:
    """By the one scorer, on a copy of `model`, whose weights are the same on all workers. All of them call it.

    `flip`: the mean over each face and its mirror image.
    """
    scorer = Scorer(copy.deepcopy(model), device=str(device), precision=precision)
    mine = np.array_split(np.arange(faces.num_rows), world_size())[rank()]
    values = np.full(len(mine), np.nan)
    bad: dict[int, str] = {}
    for start in range(0, len(mine), _CHUNK):
        rows, pixels = _readable(faces, mine[start : start + _CHUNK], bad)
        flat = np.array([not scorer.reads(each) for each in pixels], bool)
        bad |= {int(row): "it is all of one colour, which this network cannot normalise." for row in rows[flat]}
        rows, pixels = rows[~flat], pixels[~flat]
        if len(rows):
            told = scorer.predict(pixels)
            if flip:
                told = (told + scorer.predict(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2
            values[rows - mine[0]] = told
    shares: list[Any] = [(values, bad)]
    if world_size() > 1:
        shares = [None] * world_size()
        distributed.all_gather_object(shares, (values, bad))
    return Scored(
        np.concatenate([share[0] for share in shares]),
        {row: why for share in shares for row, why in share[1].items()},
    )


def _readable(
    faces: FaceSet, rows: NDArray[np.int64], bad: dict[int, str]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The rows that decode, and their pixels; the others go into `bad`."""
    while True:
        try:
            return rows, faces.pixels(rows)
        except BadFace as face:
            bad[face.row] = face.why
            rows = rows[rows != face.row]


def spread(model: nn.Module, device: torch.device) -> None:
    """Give all workers the weights that the first one has. All of them call it."""
    if world_size() == 1:
        return
    for each in model.state_dict().values():
        there = each.to(device)
        distributed.broadcast(there, 0)
        each.copy_(there)
