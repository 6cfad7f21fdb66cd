"""Five landmarks -> 112-pixel crops, against the loop that everybody copies from insightface. Equal outputs asserted.

python benchmarks/crop.py [FACES]

Both on one thread: in a bucket's worth of photos every core has its own worker. Photos are decoded already, and the
faces so large that none has to be smoothed before it shrinks (eyes 24 to 62 px apart): insightface never smooths.
"""

import sys

import cv2
import numpy as np
from _rounds import interleave, table
from numpy.typing import NDArray

from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.faces.alignment import ARCFACE112, align
from fahr.faces.quality import measure

Floats = NDArray[np.float64]


def umeyama(source: Floats, target: Floats) -> Floats:
    """skimage's SimilarityTransform.estimate, which insightface calls for each face: Umeyama 1991 by SVD. (3, 3)"""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source, target = source - source_mean, target - target_mean
    covariance = target.T @ source / len(source)
    signs = np.ones(2)
    if np.linalg.det(covariance) < 0:
        signs[1] = -1
    matrix = np.eye(3)
    u, values, vt = np.linalg.svd(covariance)
    rank = np.linalg.matrix_rank(covariance)
    if rank == 0:
        return np.full((3, 3), np.nan)
    if rank == 1 and np.linalg.det(u) * np.linalg.det(vt) < 0:
        signs[1] = -1
    matrix[:2, :2] = u @ np.diag(signs) @ vt
    scale = (values @ signs) / source.var(axis=0).sum()
    matrix[:2, 2] = target_mean - scale * (matrix[:2, :2] @ source_mean)
    matrix[:2, :2] *= scale
    return matrix


def norm_crop(image: NDArray[np.uint8], landmarks: Floats, size: int = 112) -> NDArray[np.uint8]:
    """insightface's estimate_norm and warpAffine for one face, from its published formula."""
    ratio, shift = (size / 112, 0.0) if size % 112 == 0 else (size / 128, 8.0 * size / 128)
    target = ARCFACE112 * ratio
    target[:, 0] += shift
    crop = cv2.warpAffine(image, umeyama(landmarks, target)[:2], (size, size), borderValue=0.0)
    return np.asarray(crop, np.uint8)


def make(count: int) -> tuple[list[NDArray[np.uint8]], Floats]:
    """VGA photos with a rendered face anywhere in them, each used many times; landmarks as a detector scatters them."""
    rng = np.random.default_rng(0)
    photos, truth = [], []
    for number in range(min(count, 128)):
        options = CohortOptions(size_px=480)
        face = render_face(seed=0, subject=number, photo=0, apparent_age=50.0, frailty=0.0, options=options)
        scale = rng.uniform(24, 62) / float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))
        x, y = rng.uniform(0, 640 - 480 * scale), rng.uniform(0, max(0.0, 480 - 480 * scale))
        to_photo = np.array([[scale, 0, x], [0, scale, y]])
        photos.append(np.asarray(cv2.warpAffine(face.image, to_photo, (640, 480)), np.uint8))
        truth.append(face.landmarks * scale + (x, y))
    which = np.arange(count) % len(photos)
    return [photos[number] for number in which], np.stack(truth)[which] + rng.normal(0, 0.5, (count, 5, 2))


def main(count: int) -> None:
    cv2.setNumThreads(1)
    photos, landmarks = make(count)
    ours = align(photos, landmarks).faces
    theirs = np.stack([norm_crop(photo, points) for photo, points in zip(photos, landmarks, strict=True)])
    off = abs(ours.astype(np.int16) - theirs).mean((1, 2, 3))
    assert off.max() <= 2, f"crops differ by {off.max():.2f} grey levels"
    print(f"equal: mean difference {off.mean():.4f} grey levels, worst face {off.max():.4f}")
    ways = {
        "fahr.faces.alignment.align": lambda: align(photos, landmarks),
        "insightface's norm_crop, face by face": lambda: [
            norm_crop(photo, points) for photo, points in zip(photos, landmarks, strict=True)
        ],
    }
    table("landmarks to crops, one thread", interleave(ways), "fahr.faces.alignment.align", count, "faces")

    def judge() -> None:
        for photo, points, face in zip(photos, landmarks, ours, strict=True):
            measure(photo, points, 1, face)

    measured = interleave({"fahr.faces.quality.measure": judge})
    table("all 17 measures of quality, one thread", measured, "fahr.faces.quality.measure", count, "faces")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
