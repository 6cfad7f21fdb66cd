"""Five landmarks -> a face crop in a fixed place: `arcface112` by a similarity, `faceage160` by the detector's box.

    made = align(photos, landmarks, size=112)     # made.faces: (N, 112, 112, 3) uint8, made.landmarks: (N, 5, 2)

N = faces. Points are (x, y) in pixels, the centre of the first pixel is (0, 0), in the order of the upright face: the
eye on the viewer's left, the other eye, nose tip, mouth corner on the viewer's left, the other corner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# The points of insightface's ArcFace crops of 112 px (docs/align.md): WebFace42M, the pretraining set, is cut this way.
ARCFACE112: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
CONVENTIONS = {"arcface112": 112, "faceage160": 160}  # name -> the size in pixels at which it is at home
EYE_SHARE = float(np.hypot(*(ARCFACE112[1] - ARCFACE112[0]))) / 112  # between the eyes, as a share of an ArcFace crop

# Landmark checks. Lengths are in distances between the eyes, so that the rules hold for every size of face. Simulated
# heads with 5 % of scatter miss the template by at most 0.28 at a yaw of 45 degrees and 0.36 at 60, pitched by up to
# 30; with left and right exchanged by no less than 0.56 and 0.52. Beyond a yaw of 75 the two can't be told apart.
MAX_MISFIT = 0.45
MIN_SPREAD = 0.08  # narrowest over widest standard deviation of the points; 0 on a line, a profile has about 0.3
MIN_APART = 0.01  # of the longest distance between two points
MAX_OUTSIDE = 0.5


def template(size: int) -> Floats:
    """(5, 2) where the landmarks lie in an `arcface112` crop of `size` pixels: the whole crop is scaled."""
    return ARCFACE112 * (size / 112)


def similarity(landmarks: ArrayLike, template: ArrayLike) -> Floats:
    """(N, 5, 2), (5, 2) -> (N, 2, 3): the rotation, scale and shift that bring each row closest to the template.

    Least squares in template pixels and never a mirror image: Umeyama 1991, whose SVD is in the plane one complex
    number. With points p and template t about their means, as x + iy: a = sum(conj(p) t) / sum(|p|^2).
    """
    points, target = np.asarray(landmarks, np.float64), np.asarray(template, np.float64)
    p = points[..., 0] + 1j * points[..., 1]
    t = target[..., 0] + 1j * target[..., 1]
    p_mean, t_mean = p.mean(-1, keepdims=True), t.mean()
    p = p - p_mean
    spread = (p.real**2 + p.imag**2).sum(-1)
    if not (np.isfinite(spread) & (spread > 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(spread) & (spread > 0)))[0])
        raise ValueError(f"Landmarks of row {row} are not finite or all in one place: ask check_landmarks first.")
    a = (p.conj() @ (t - t_mean)) / spread
    b = t_mean - a * p_mean[..., 0]
    rows = [a.real, -a.imag, b.real, a.imag, a.real, b.imag]
    return np.stack(rows, -1).reshape(*a.shape, 2, 3)


def transform(points: ArrayLike, matrix: ArrayLike) -> Floats:
    """(..., P, 2) points of the photo, (..., 2, 3) matrices of its crop -> the points in the crop."""
    matrix = np.asarray(matrix, np.float64)
    mapped: Floats = np.asarray(points, np.float64) @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return mapped


def warp(image: Pixels, matrix: ArrayLike, size: int) -> Pixels:
    """(H, W, 3) uint8 and (2, 3), photo to crop -> (size, size, 3): bilinear, black outside the photo.

    Up to a shrinkage of 2 this is cv2.warpAffine; beyond that, bilinear sampling would skip pixels and turn hair and
    skin into noise, so the photo is smoothed first, only where it is needed.
    """
    face = np.empty((size, size, 3), np.uint8)
    _warp_all([image], np.asarray(matrix, np.float64)[None], face[None])
    return face


@dataclass(frozen=True)
class Crops:
    faces: Pixels  # (N, size, size, 3)
    landmarks: Floats  # (N, 5, 2) in the crop
    matrices: Floats  # (N, 2, 3) from the photo to the crop


def align(images: Sequence[Pixels], landmarks: ArrayLike, size: int = 112) -> Crops:
    """N photos (H, W, 3) and (N, 5, 2) -> their `arcface112` crops. A photo with more faces is named once for each."""
    points = np.asarray(landmarks, np.float64).reshape(-1, 5, 2)
    if len(images) != len(points):
        raise ValueError(f"{len(images)} photos and {len(points)} rows of landmarks: name a photo once for each face.")
    matrices = similarity(points, template(size))
    faces = np.empty((len(points), size, size, 3), np.uint8)
    _warp_all(images, matrices, faces)
    return Crops(faces, transform(points, matrices), matrices)


def _warp_all(images: Sequence[Pixels], matrices: Floats, faces: Pixels) -> None:
    """Fills `faces` (N, size, size, 3). Everything but the pixels is worked out for all faces at once."""
    size = faces.shape[1]
    starts, stops, shrinkage = _regions(images, matrices, size)
    regional = matrices.copy()  # from the region, not the photo
    regional[:, :, 2] += (matrices[:, :, :2] * starts[:, None, :]).sum(2)
    rows = zip(images, starts.tolist(), stops.tolist(), shrinkage.tolist(), regional, faces, strict=True)
    for image, (left, top), (right, bottom), shrunk, matrix, face in rows:
        if right <= left or bottom <= top:
            face[:] = 0
            continue
        region = image[top:bottom, left:right]
        if shrunk > 2:
            region, matrix = _smoothed(region, matrix, shrunk)
        # Four channels fill a register: with both conversions it takes half the time of three, for the same pixels.
        # The copy reads the rows, which are far apart in memory, quicker than the conversion would.
        padded = cv2.cvtColor(region.copy(), cv2.COLOR_RGB2RGBA)
        padded = cv2.warpAffine(padded, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=0.0)
        cv2.cvtColor(padded, cv2.COLOR_RGBA2RGB, dst=face)


def _regions(
    images: Sequence[Pixels], matrices: Floats, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Of each photo what its crop is made of: (N, 2) first x, y, (N, 2) one past the last, (N,) shrinkage."""
    a, b, shift_x, c, d, shift_y = matrices.reshape(-1, 6).T
    area = np.abs(a * d - b * c)
    if not (np.isfinite(matrices).all() and (area > 1e-12).all()):
        raise ValueError("A matrix is not finite or maps the photo onto a point or line: ask check_landmarks first.")
    shrinkage = 1 / np.sqrt(area)
    middle = (size - 1) / 2
    det = a * d - b * c
    x = (d * (middle - shift_x) - b * (middle - shift_y)) / det
    y = (a * (middle - shift_y) - c * (middle - shift_x)) / det
    # A margin for bilinear's neighbour and for the reach of the filter: the edge of a region is never sampled.
    margin = np.where(shrinkage > 2, 4 * shrinkage, 2)
    centre = np.stack([x, y], 1)
    reach = np.stack([(abs(d) + abs(b)) / area * middle + margin, (abs(a) + abs(c)) / area * middle + margin], 1)
    ends = np.array([image.shape[1::-1] for image in images], np.float64).reshape(-1, 2)
    starts = np.clip(np.floor(centre - reach), 0, ends).astype(np.int64)
    stops = np.clip(np.ceil(centre + reach) + 1, 0, ends).astype(np.int64)
    return starts, stops, shrinkage


def _smoothed(region: Pixels, matrix: Floats, shrinkage: float) -> tuple[Pixels, Floats]:
    """A region without the detail that the crop cannot show, at a whole fraction of its size, and its own matrix.

    First the mean over blocks, which is quick and leaves a shrinkage of 1.5 to 3; then a Gaussian of 0.4 pixels of the
    crop, about as wide as the triangle of Pillow's bilinear reduction.
    """
    block = max(1, int(shrinkage / 1.5))
    height, width = region.shape[:2]
    # Black outside the photo, as bilinear sampling has it, and whole blocks.
    reach = math.ceil(2 * shrinkage / block) * block
    bottom, right = (reach + -length % block for length in (height, width))
    region = np.asarray(cv2.copyMakeBorder(region, reach, bottom, reach, right, cv2.BORDER_CONSTANT, value=0), np.uint8)
    if block > 1:
        small = (region.shape[1] // block, region.shape[0] // block)
        region = np.asarray(cv2.resize(region, small, interpolation=cv2.INTER_AREA), np.uint8)
    region = np.asarray(cv2.GaussianBlur(region, (0, 0), 0.4 * shrinkage / block), np.uint8)
    # The centre of small pixel u is large pixel block * u + (block - 1) / 2, counted from the border that was added.
    offset = (block - 1) / 2 - reach
    shift = matrix[:, :2] @ np.array([offset, offset]) + matrix[:, 2]
    return region, np.column_stack([matrix[:, :2] * block, shift])


# FaceAge: the detector's box, stretched


def mtcnn_box(corners: ArrayLike) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels -> (x, y, width, height) as mtcnn 0.1.1, FaceAge's detector, reports it."""
    left, top, right, bottom = (float(value) for value in np.asarray(corners, np.float64))
    x, y = max(0, int(left)), max(0, int(top))
    return x, y, int(right - x), int(bottom - y)


def faceage_crop(image: Pixels, box: Sequence[int], size: int = 160) -> tuple[Pixels, Floats]:
    """(H, W, 3) uint8 and (x, y, width, height) -> `faceage160` crop (size, size, 3) and its matrix (2, 3).

    The public FaceAge code to the byte: a negative corner is mirrored into the photo, which moves the box; what
    reaches past the far edges is cut off; no margin, no alignment, aspect not kept, Pillow's bicubic filter.
    """
    x, y, width, height = box
    x, y = abs(x), abs(y)
    cut = image[y : y + height, x : x + width] if width > 0 and height > 0 else image[:0]
    if not cut.size:
        frame = f"{image.shape[1]} x {image.shape[0]}"
        raise ValueError(f"The box {tuple(box)} (x, y, width, height) holds no pixel of the {frame} photo.")
    face = Image.fromarray(cut).resize((size, size), Image.Resampling.BICUBIC)
    across, down = size / cut.shape[1], size / cut.shape[0]
    # Pillow keeps the corners of pixels in place, so centres move by half a pixel at either scale.
    matrix = [[across, 0, (0.5 - x) * across - 0.5], [0, down, (0.5 - y) * down - 0.5]]
    return np.array(face), np.array(matrix)


# Can these be the landmarks of a face?


def misfit(landmarks: ArrayLike, mirrored: bool = False) -> float:
    """Root mean square distance of (5, 2) from the template after the best similarity, in the template's eye distances.

    0 is the average frontal face; a yaw of 45 degrees gives about 0.2; no resemblance is the template's own 0.66.
    `mirrored` measures the landmarks as a mirror would show them.
    """
    points = np.asarray(landmarks, np.float64)
    if mirrored:
        points = points * (-1, 1)
    off = transform(points, similarity(points[None], ARCFACE112)[0]) - ARCFACE112
    return float(np.sqrt((off**2).sum(-1).mean())) / (112 * EYE_SHARE)


def check_landmarks(landmarks: ArrayLike, width: int, height: int) -> str | None:
    """(5, 2) in a photo of `width` x `height` pixels -> what is wrong with them, in a sentence, or None.

    A face turned by any angle in the plane passes: the similarity turns it upright.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        return f"Landmarks have shape {points.shape}; 5 points (x, y) are needed: detect the face again."
    if not np.isfinite(points).all():
        return f"{int((~np.isfinite(points)).sum())} of 10 landmark values are not finite: detect the face again."
    if abs(points).max() > 1e6:
        return f"A landmark lies at {abs(points).max():.3g} px; no photo is that large: detect the face again."
    return _shape_fault(points) or _frame_fault(points, width, height)


def _shape_fault(points: Floats) -> str | None:
    apart = np.hypot(*(points[:, None] - points[None]).T)
    first, second = (int(which) for which in np.unravel_index(int((apart + np.eye(5) * 1e9).argmin()), (5, 5)))
    if apart[first, second] <= MIN_APART * apart.max():
        return (
            f"Landmarks {first + 1} and {second + 1} lie {apart[first, second]:.2g} px apart, duplicated; more than "
            f"{MIN_APART:.0%} of the widest distance ({apart.max():.3g} px) is needed: detect the face again."
        )
    wide, narrow = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if narrow < MIN_SPREAD * wide:
        return (
            f"Landmarks are collinear: {narrow / wide:.3f} times as wide as long, {MIN_SPREAD} is the least: "
            f"detect the face again."
        )
    fit = misfit(points)
    reflected = misfit(points, mirrored=True)
    if reflected < fit and reflected <= MAX_MISFIT:
        return (
            f"Landmarks are mirrored: they miss a face by {fit:.2f} eye distances, in a mirror by {reflected:.2f}: "
            f"give them as the viewer sees them, left eye, right eye, nose, left and right mouth corner."
        )
    if fit > MAX_MISFIT:
        return (
            f"Landmarks miss the shape of a face by {fit:.2f} eye distances, {MAX_MISFIT} is allowed: "
            f"check their order, or detect the face again."
        )
    return None


def _frame_fault(points: Floats, width: int, height: int) -> str | None:
    matrix = similarity(points[None], ARCFACE112)[0]
    eyes = 112 * EYE_SHARE / float(np.hypot(matrix[0, 0], matrix[1, 0]))  # holds for a profile as well
    beyond = np.maximum(-points, points - (width - 1, height - 1)).max() / eyes
    if beyond > MAX_OUTSIDE:
        return (
            f"A landmark lies {beyond:.1f} eye distances outside the {width} x {height} photo, {MAX_OUTSIDE} is "
            f"allowed: give landmarks in pixels of this very photo."
        )
    return None
