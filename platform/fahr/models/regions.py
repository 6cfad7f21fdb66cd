"""Eyes, nose, mouth and skin of an `arcface112` crop: where they are, since every face lies the same way.

    patch_weights({"eyes": 3.0, "mouth": 2.0}, size=112, patch=8)    # (196,), for `random_mask`

Ellipses around the template's landmarks, their half-axes in distances between the eyes. They are right for whole crops
only: a crop cut out of the crop moves them.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused, nearest
from fahr.faces.alignment import EYE_SHARE, template

REGIONS = ("background", "skin", "nose", "mouth", "eyes")


@lru_cache(maxsize=8)
def region_map(size: int) -> NDArray[np.int8]:
    """(size, size): of each pixel its index in REGIONS, later ones over earlier ones. Not to be written to."""
    left, right, tip, *corners = template(size)
    eyes, mouth = (left + right) / 2, np.mean(corners, axis=0)
    ellipses = [  # region, middle, half-axes across and down
        ("skin", eyes + 0.35 * (mouth - eyes), 1.3, 1.6),
        ("nose", eyes + 0.65 * (tip - eyes), 0.28, 0.45),
        ("mouth", mouth, 0.55, 0.28),
        ("eyes", left, 0.40, 0.25),
        ("eyes", right, 0.40, 0.25),
    ]
    y, x = np.mgrid[:size, :size]
    regions = np.zeros((size, size), np.int8)
    for name, (middle_x, middle_y), across, down in ellipses:
        unit = EYE_SHARE * size
        inside = ((x - middle_x) / (across * unit)) ** 2 + ((y - middle_y) / (down * unit)) ** 2 <= 1
        regions[inside] = REGIONS.index(name)
    regions.flags.writeable = False
    return regions


def patch_weights(weights: Mapping[str, float], size: int, patch: int) -> Tensor:
    """(N,) fp32: of each patch, row by row, the mean of its pixels' weights. A region without a weight has 1."""
    for name, weight in weights.items():
        if name not in REGIONS:
            raise Refused(f"region {name!r}: not one of {', '.join(REGIONS)}.{nearest(str(name), REGIONS)}")
        if not (np.isfinite(weight) and weight > 0):
            raise Refused(f"region {name!r} has weight {weight}: must be finite and above 0, 1 changes nothing.")
    of_region = np.array([weights.get(name, 1.0) for name in REGIONS])
    squares = of_region[region_map(size)].reshape(size // patch, patch, size // patch, patch)
    return torch.from_numpy(squares.mean((1, 3)).ravel()).float()
