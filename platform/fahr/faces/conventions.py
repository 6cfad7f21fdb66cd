"""Faces that were cut out before: tight, with a margin, or to the template that the models learned from?

crop_convention(landmarks_found_in_the_crops, 112, 112).message   # None, or what to do
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fahr.faces.alignment import similarity, template


@dataclass(frozen=True)
class CropConvention:
    """How crops lie against the `arcface112` template; medians over the crops."""

    scale: float  # of the face: 1 as in the template, 2 a face of twice that size
    offset_x: float  # of the face's middle, to the right, as a share of the side of the crop
    offset_y: float  # downwards
    roll: float  # degrees, clockwise
    verdict: str  # arcface112, tight, margin, shifted, turned or not_square
    message: str | None  # None for arcface112


# Landmarks found in crops scatter: faces cut to the template measure 0.90 to 1.07, offsets to 0.05 and roll to 10
# degrees (YuNet on 138 portraits, 96 % of them). The detector's box without a margin has an offset of -0.09.
SCALE_RANGE = (0.87, 1.14)
MAX_OFFSET = 0.06
MAX_ROLL = 12.0


def crop_convention(landmarks: ArrayLike, width: int, height: int) -> CropConvention:
    """(N, 5, 2) landmarks found in N crops of `width` x `height` pixels -> were they cut to the template?

    A model that learned one cut is wrong by years on another (docs/align.md), and nothing in its answer shows it. Ask
    with a hundred crops of a set rather than with one: detectors are not at their best in a crop.
    """
    points = np.asarray(landmarks, np.float64).reshape(-1, 5, 2)
    if not len(points):
        raise ValueError("No landmarks were given: detect the faces in some crops first.")
    size = min(width, height)
    mean = points.mean(1)
    # Scale and turn are those of the similarity back to the template, inverted: it is the one that ignores a mirror.
    back = similarity(points, template(size))[:, :, 0]
    scale = float(np.median(1 / np.hypot(back[:, 0], back[:, 1])))
    roll = float(np.median(np.degrees(np.arctan2(-back[:, 1], back[:, 0]))))
    # Where the face's middle should lie, for the part of the crop that is a square in its middle.
    corner = np.array([(width - size) / 2, (height - size) / 2])
    offset_x, offset_y = (float(value) for value in np.median(mean - corner - template(size).mean(0), axis=0) / size)
    verdict = "arcface112"
    if max(width, height) > 1.02 * size:
        verdict = "not_square"
    elif not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        verdict = "tight" if scale > 1 else "margin"
    elif max(abs(offset_x), abs(offset_y)) > MAX_OFFSET:
        verdict = "shifted"
    elif abs(roll) > MAX_ROLL:
        verdict = "turned"
    message = None
    if verdict != "arcface112":
        message = (
            f"These crops ({width} x {height} px) are not cut to arcface112: {_VERDICTS[verdict]}. The face is "
            f"{scale:.2f} times as large as in the template, {SCALE_RANGE[0]} to {SCALE_RANGE[1]} is expected; its "
            f"middle is off by {offset_x:+.2f}, {offset_y:+.2f} of the side, {MAX_OFFSET} is allowed; it is turned by "
            f"{roll:+.0f} degrees, {MAX_ROLL:.0f} are allowed. Align the original photos instead."
        )
    return CropConvention(scale, offset_x, offset_y, roll, verdict, message)


_VERDICTS = {
    "not_square": "they are not square",
    "tight": "they are tighter",
    "margin": "they have a margin around the face",
    "shifted": "the face lies elsewhere in them",
    "turned": "the face is not upright in them",
}
