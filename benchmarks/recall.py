"""Which faces each detector finds, by their size, place and turn, and by the size at which the photo is looked at.

python benchmarks/recall.py [--portraits FOLDER] [--faces N] [--quick]

Every scene is a frame of 1,024 x 1,024 px with one face whose place is known: a rendered person, or a real portrait
where FOLDER has some (FOLDER/images/*/*.jpg), on a plain or on a mottled ground in turn. A face is as high as the box
from its forehead to its chin. Two workers of one thread each; this is no measure of speed.

found   some detection overlaps the face's box by more than 0.3 (intersection over union), or is right
right   the landmarks of some detection are off by at most 20 % of the eye distance, in the mean of the five

The places in real portraits are those that the detectors agree on, upright and at their defaults: not quite known, and
kind to them.
"""

import argparse
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.errors import Refused
from fahr.faces.detectors import Detector, Face, InputSize, create_detector, given_face
from fahr.images import decode

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

DETECTORS = ("mtcnn", "yunet", "retinaface-mobile")
FRAME_PX = 1024
INPUT_PX = (320, 640, 1024)  # the longer side of what a detector is given
HEIGHTS_PX = (12, 16, 24, 32, 48, 64, 128)
SHARES = (0.4, 0.6, 0.8)  # of the frame's height
TURNS = (1, 2, 3)  # quarters against the clock
YAWS = (30, 45, 60)  # degrees
ORDINARY_PX = 256  # height of the turned faces
OVERLAP, ASTRAY = 0.3, 0.2


@dataclass(frozen=True, eq=False)
class Scene:
    """One face in a photo."""

    photo: Pixels
    landmarks: Floats  # (5, 2)
    eyes_px: float  # between them, when the head looks straight ahead
    box: Floats  # (4,) x1, y1, x2, y2


def upright(photo: Pixels, landmarks: Floats, eyes_px: float) -> Scene:
    """Its box goes from forehead to chin, by the landmarks."""
    return Scene(photo, landmarks, eyes_px, np.asarray(given_face(landmarks).box, np.float64))


# Where the faces come from


@lru_cache(maxsize=1)
def rendered(count: int) -> list[Scene]:
    """Men and women of four races, 20 to 88 years old, each in a photo of 512 px."""
    scenes = []
    for number in range(count):
        face = render_face(
            seed=7,
            subject=number,
            photo=0,
            apparent_age=20 + number * 37 % 69,
            frailty=0.0,
            sex=("female", "male")[number % 2],
            race=("white", "black", "asian", "other")[number // 2 % 4],
            options=CohortOptions(size_px=512),
        )
        scenes.append(upright(face.image, face.landmarks, eye_distance(face.landmarks)))
    return scenes


@lru_cache(maxsize=1)
def portraits(folder: str, count: int, names: tuple[str, ...]) -> list[Scene]:
    """Real ones spread over the folder, with landmarks that the detectors agree on to a tenth of the eye distance."""
    paths = sorted(Path(folder).glob("images/*/*.jpg"))
    if not paths:
        raise Refused(f"{folder}: no portraits (images/*/*.jpg) are there. Name their folder, or leave it out.")
    photos = [decode(paths[int(at)].read_bytes()).pixels for at in np.linspace(0, len(paths) - 1, count)]
    found = [detector(name, None, True).detect(photos) for name in names]
    scenes = []
    for photo, *results in zip(photos, *found, strict=True):
        if all(len(faces) == 1 for faces in results):
            points = np.array([faces[0].landmarks for faces in results], np.float64)
            middle = np.asarray(points.mean(0), np.float64)
            eyes = eye_distance(middle)
            if np.hypot(*(points - middle).T).mean(0).max() < 0.1 * eyes:
                scenes.append(upright(photo, middle, eyes))
    return scenes


def eye_distance(landmarks: Floats) -> float:
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


# What is done to them


def ground(number: int, size: tuple[int, int]) -> Pixels:
    """(height, width): plain for even numbers; mottled for odd ones, in spots of 8 to 40 px."""
    rng = np.random.default_rng([1, number])
    if number % 2 == 0:
        return np.full((*size, 3), rng.integers(60, 200, 3), np.uint8)
    spot = int(rng.integers(8, 40))
    coarse = rng.integers(60, 200, (-(-size[0] // spot) + 1, -(-size[1] // spot) + 1, 3), np.uint8)
    wide = cv2.resize(coarse, (coarse.shape[1] * spot, coarse.shape[0] * spot), interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide[: size[0], : size[1]], np.uint8)


def pasted(source: Scene, face_px: float, onto: Pixels, middle: ArrayLike | None, number: int) -> Scene:
    """The portrait, its edges faded out over a tenth of its width, with the middle of its face at (x, y) of `onto`.

    `middle` None: anywhere that leaves the whole portrait inside. What reaches past the ground is cut off.
    """
    scale = face_px / float(source.box[3] - source.box[1])
    height, width = (max(2, round(side * scale)) for side in source.photo.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(source.photo, (width, height), interpolation=how), np.uint8)
    ratio = np.array([width, height]) / source.photo.shape[1::-1]
    points = (source.landmarks + 0.5) * ratio - 0.5
    room = np.array([onto.shape[1] - width, onto.shape[0] - height])
    if middle is None:
        corner = np.random.default_rng([2, number]).integers(0, room + 1)
    else:
        box = given_face(points).box
        corner = np.rint(np.asarray(middle, np.float64) - (box[:2] + box[2:]) / 2).astype(np.int64)
    x, y = corner.tolist()
    ramps = [np.minimum(np.arange(n), np.arange(n)[::-1]) / max(1.0, 0.1 * width) for n in (height, width)]
    fade = np.minimum(np.outer(*(np.minimum(ramp, 1) for ramp in ramps)), 1)[:, :, None]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, onto.shape[1]), min(y + height, onto.shape[0])
    part = (slice(top - y, bottom - y), slice(left - x, right - x))
    photo = onto.copy()
    below = photo[top:bottom, left:right]
    photo[top:bottom, left:right] = np.rint(small[part] * fade[part] + below * (1 - fade[part])).astype(np.uint8)
    return upright(photo, points + corner, source.eyes_px * scale)


def in_frame(source: Scene, face_px: float, number: int) -> Scene:
    return pasted(source, face_px, ground(number, (FRAME_PX, FRAME_PX)), None, number)


def close_up(source: Scene, share: float) -> Scene:
    """The face in the middle of the frame, `share` of its height; the portrait's edge is drawn out where it ends."""
    scale = share * FRAME_PX / float(source.box[3] - source.box[1])
    shift = FRAME_PX / 2 - scale * (source.box[:2] + source.box[2:]) / 2
    move = np.column_stack([scale * np.eye(2), shift])
    size = (FRAME_PX, FRAME_PX)
    photo = cv2.warpAffine(source.photo, move, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return upright(np.asarray(photo, np.uint8), scale * source.landmarks + shift, scale * source.eyes_px)


def turned(scene: Scene, quarters: int) -> Scene:
    """By so many quarters against the clock; the first eye stays the first."""
    points, corners = scene.landmarks, scene.box.reshape(2, 2)
    for _ in range(quarters):
        points, corners = (np.column_stack([each[:, 1], FRAME_PX - 1 - each[:, 0]]) for each in (points, corners))
    box = np.concatenate([corners.min(0), corners.max(0)])
    return Scene(np.ascontiguousarray(np.rot90(scene.photo, quarters)), points, scene.eyes_px, box)


def yawed(source: Scene, degrees: float) -> Scene:
    """Like a head that turns: the portrait lies on an upright cylinder as wide as a head, 2.4 eye distances.

    A cylinder has no nose: its tip moves less than a real one's. What was hidden is the near edge, drawn out.
    """
    radius, turn = 1.2 * source.eyes_px, math.radians(degrees)
    middle = float(source.landmarks[:2, 0].mean())
    across = (np.arange(source.photo.shape[1]) - middle) / radius
    angle = np.arcsin(across.clip(-1, 1)) - turn
    on_head = np.sin(angle.clip(-math.pi / 2, math.pi / 2))
    columns = middle + radius * np.where(abs(across) < 1, on_head, across)
    xs, ys = np.meshgrid(columns, np.arange(source.photo.shape[0]))
    photo = cv2.remap(
        source.photo, xs.astype(np.float32), ys.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    points = source.landmarks.copy()
    points[:, 0] = middle + radius * np.sin(np.arcsin(((points[:, 0] - middle) / radius).clip(-1, 1)) + turn)
    return upright(np.asarray(photo, np.uint8), points, source.eyes_px)


def cases() -> dict[str, Callable[[Scene, int], Scene]]:
    """Column of the table -> the scene made of one portrait and its number."""

    def small(height: int) -> Callable[[Scene, int], Scene]:
        return lambda source, number: in_frame(source, height, number)

    def close(share: float) -> Callable[[Scene, int], Scene]:
        return lambda source, number: close_up(source, share)

    def around(quarters: int) -> Callable[[Scene, int], Scene]:
        return lambda source, number: turned(in_frame(source, ORDINARY_PX, number), quarters)

    def aside(degrees: int) -> Callable[[Scene, int], Scene]:
        return lambda source, number: in_frame(yawed(source, degrees), ORDINARY_PX, number)

    found = {f"{height} px": small(height) for height in HEIGHTS_PX}
    found |= {f"{share:.0%}": close(share) for share in SHARES}
    found |= {f"{90 * quarters} deg": around(quarters) for quarters in TURNS}
    return found | {f"yaw {degrees}": aside(degrees) for degrees in YAWS}


# What is found


@cache
def detector(name: str, side_px: int | None, retry: bool) -> Detector:
    """`side_px`: of the longer side of what it sees; None is its default."""
    return create_detector(name, size=InputSize(side_px) if side_px else None, retry=retry)


def available() -> tuple[str, ...]:
    """Those whose weights are here; of the others, why not."""
    names = []
    for name in DETECTORS:
        try:
            detector(name, None, True)
        except Refused as error:
            print(f"skipped {name}: {error}")
            continue
        names.append(name)
    return tuple(names)


def overlap(one: ArrayLike, other: ArrayLike) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    common = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def astray(face: Face, scene: Scene) -> float:
    """Mean distance of the landmarks from where they are, in eye distances."""
    return float(np.hypot(*(face.landmarks - scene.landmarks).T).mean()) / scene.eyes_px


def judge(faces: list[Face], scene: Scene) -> tuple[bool, bool]:
    """Found, right."""
    right = any(astray(face, scene) <= ASTRAY for face in faces)
    return right or any(overlap(face.box, scene.box) > OVERLAP for face in faces), right


@dataclass(frozen=True)
class Task:
    folder: str  # of portraits; "": rendered people
    count: int  # of faces
    names: tuple[str, ...]  # of the detectors
    sides: tuple[int, ...] = INPUT_PX

    def sources(self) -> list[Scene]:
        return portraits(self.folder, self.count, self.names) if self.folder else rendered(self.count)


Row = tuple[str, int, bool]  # detector, input size, retry


def run_case(task: Task, case: str) -> dict[Row, tuple[int, int, int]]:
    """Scenes, found, right, for each row."""
    scenes = [cases()[case](source, number) for number, source in enumerate(task.sources())]
    photos = [scene.photo for scene in scenes]
    results = {}
    for name in task.names:
        for side in task.sides:
            for retry in (False, True):
                found = detector(name, side, retry).detect(photos)
                marks = [judge(faces, scene) for faces, scene in zip(found, scenes, strict=True)]
                results[name, side, retry] = (len(marks), sum(m[0] for m in marks), sum(m[1] for m in marks))
    return results


# Padding


def letterboxed(photo: Pixels, fill: str) -> Pixels:
    """Square, as batches of unlike photos are made: rows added below, black or of the photo's mean colour."""
    colour = np.zeros(3) if fill == "black" else photo.reshape(-1, 3).mean(0)
    missing = photo.shape[1] - photo.shape[0]
    padded = cv2.copyMakeBorder(photo, 0, missing, 0, 0, cv2.BORDER_CONSTANT, value=colour.tolist())
    return np.asarray(padded, np.uint8)


def run_padding(task: Task, gap: float) -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """By detector and fill, of each face found both ways: the shift, the error as it is, and the error when padded.

    Photos of 640 x 480 px, a face of 160 px with its chin `gap` face heights above the lower border.
    """
    scenes = [
        pasted(source, 160, ground(number, (480, 640)), (200 + number * 31 % 240, 480 - 160 * (0.5 + gap)), number)
        for number, source in enumerate(task.sources())
    ]
    results: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for name in task.names:
        exact = detector(name, 640, False).detect([scene.photo for scene in scenes])
        for fill in ("black", "mean"):
            padded = detector(name, 640, False).detect([letterboxed(scene.photo, fill) for scene in scenes])
            rows = results.setdefault((name, fill), [])
            for scene, one, other in zip(scenes, exact, padded, strict=True):
                here, there = nearest(one, scene), nearest(other, scene)
                if here is None or there is None:
                    rows.append((math.nan, math.nan, math.nan))
                    continue
                moved = float(np.hypot(*(here.landmarks - there.landmarks).T).mean()) / scene.eyes_px
                rows.append((moved, astray(here, scene), astray(there, scene)))
    return results


def nearest(faces: list[Face], scene: Scene) -> Face | None:
    """The detection of the true face."""
    true = [face for face in faces if judge([face], scene)[0]]
    return min(true, key=lambda face: astray(face, scene), default=None)


GAPS = {"on the border": 0.0, "a quarter of a face away": 0.25, "in the middle": 1.0}


# The tables


def start_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def recall_table(pool: ProcessPoolExecutor, tasks: dict[str, Task]) -> str:
    jobs = {
        (faces, case): pool.submit(run_case, task, case)
        for faces, task in tasks.items()
        for case in reversed(cases())  # the last ones take longest
    }
    made = {key: job.result() for key, job in jobs.items()}
    rows = []
    for faces in tasks:
        for name, side, retry in made[faces, next(iter(cases()))]:
            results = [made[faces, case][name, side, retry] for case in cases()]
            cells = [f"{100 * found / n:.0f}/{100 * right / n:.0f}" for n, found, right in results]
            rows.append([faces, name, str(side), "yes" if retry else "no", *cells])
    counts = {faces: next(iter(made[faces, "128 px"].values()))[0] for faces in tasks}
    told = ", ".join(f"{number} {faces} faces" for faces, number in counts.items())
    least = min(counts.values())
    title = f"Found/right in %, {told} a cell; 0 or 100 % of {least} leaves {min(100, 300 / least):.0f} % open (95 %)."
    return title + "\n\n" + table(["faces", "detector", "input px", "retry", *cases()], rows)


def padding_table(pool: ProcessPoolExecutor, tasks: dict[str, Task]) -> str:
    jobs = {
        (faces, place): pool.submit(run_padding, task, gap)
        for faces, task in tasks.items()
        for place, gap in GAPS.items()
    }
    rows = []
    for (faces, place), job in jobs.items():
        for (name, fill), found in job.result().items():
            values = np.array(found)
            lost = int(np.isnan(values[:, 0]).sum())
            shift, exact, padded = (values[~np.isnan(values[:, 0])] * 100).T if lost < len(values) else [[math.nan]] * 3
            cells = [f"{np.median(each):.1f}/{np.percentile(each, 95):.1f}" for each in (shift, exact, padded)]
            rows.append([faces, place, name, fill, *cells, f"{lost} of {len(found)}"])
    header = [
        "faces",
        "chin",
        "detector",
        "padding",
        "shift",
        "error as it is",
        "error when padded",
        "not found in both",
    ]
    return "Landmarks, median/p95 in % of the eye distance; one look, no rescaling.\n\n" + table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", default="", help="folder with images/*/*.jpg; left out: rendered faces only")
    parser.add_argument("--faces", type=int, default=12, help="in a cell, half of them portraits where there are some")
    parser.add_argument("--quick", action="store_true", help="two faces a cell, one input size: does it run?")
    options = parser.parse_args()
    names = available()
    folders = {"rendered": ""} | ({"portraits": options.portraits} if options.portraits else {})
    few = 2 if options.quick else max(2, options.faces // len(folders))
    sides = (640,) if options.quick else INPUT_PX
    # Forked, a worker would wait for ever for the threads that OpenCV and torch have in this process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, start_worker) as pool:
        tasks = {faces: Task(folder, few, names, sides) for faces, folder in folders.items()}
        print(recall_table(pool, tasks) + "\n")
        print(
            padding_table(
                pool,
                {faces: Task(folder, few if options.quick else 4 * few, names) for faces, folder in folders.items()},
            )
        )


if __name__ == "__main__":
    main()
