"""Photos -> faces and landmarks, against the packages as they are. Equal outputs asserted.

python benchmarks/detect.py [PORTRAITS]

1. The network of `retina-face` in batches, against its own `detect_faces` at the same resolution: the default there,
   which enlarges small photos to 1,024 px, would be another task. Random weights, since a speed needs no true ones; the
   class heads are fitted to find one gaudy patch, so that scores are as sure as those of faces.
2. `retinaface-mobile` from JPEG to 112 px crop, one single-thread worker a core, against YuNet in the same layout, at
   the same size, and against facenet-pytorch's MTCNN photo by photo.
3. MTCNN in batches against facenet-pytorch's photo by photo.
"""

import copy
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", "pytorch")

import cv2
import numpy as np
import torch
from _rounds import interleave, table
from numpy.typing import NDArray

from fahr.errors import Refused
from fahr.faces.alignment import similarity, template, warp
from fahr.faces.detectors import Detector, Face, InputSize, create_detector, retinaface
from fahr.images import decode

Pixels = NDArray[np.uint8]
WORKERS = os.cpu_count() or 1


def random_network(seed: int, photos: list[Pixels], centres: NDArray[np.int64]) -> Any:
    """The package's network with random weights, its norms set by the photos, its heads fitted to the patches."""
    torch.manual_seed(seed)
    network: Any = retinaface.package_network()
    batch = torch.from_numpy(np.stack(photos)).float()
    with torch.no_grad():
        for norm in [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]:
            norm.momentum = None
        network.train()(batch)
        network.eval()
        for stride in (32, 16, 8):
            head = getattr(network, f"face_rpn_stride{stride}")
            features = heard(network, head, batch)
            head.cls_score.weight.zero_()
            head.cls_score.bias.copy_(torch.tensor([10.0, 10.0, -10.0, -10.0]))
            for layer, spread in ((head.bbox_pred, 0.1), (head.landmark_pred, 0.2)):
                layer.weight *= spread / layer(features).std()
                layer.bias.zero_()
            if stride == 16:
                fit(head.cls_score, features, centres // 16)
    return network


def heard(network: Any, head: Any, batch: torch.Tensor) -> torch.Tensor:
    """(B, 512, h, w): what this head is given."""
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network(batch)
    hook.remove()
    return seen[0]


def fit(score: torch.nn.Conv2d, features: torch.Tensor, cells: NDArray[np.int64]) -> None:
    """Least squares, for the first anchor of each cell: 8 logits in the middle of a patch, -8 away from all patches."""
    wanted = torch.full((len(features), *features.shape[2:]), -8.0)
    for photo, places in zip(wanted, cells, strict=True):
        for x, y in places:
            photo[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 0  # around the middle anything may come out
            photo[y, x] = 8
    flat, target = features.permute(0, 2, 3, 1).flatten(0, 2).double(), wanted.flatten().double()
    used = target != 0
    flat, target = flat[used], target[used]
    mean, weight = flat.mean(0), torch.where(target > 0, float((target < 0).sum() / (target > 0).sum()), 1.0) ** 0.5
    with_one = torch.cat([flat - mean, torch.ones(len(flat), 1)], 1) * weight[:, None]
    ridge = torch.eye(with_one.shape[1]).double() * 1e-3 * len(flat) * flat.var(0).mean()
    solution = torch.linalg.solve(with_one.T @ with_one + ridge, with_one.T @ (weight * target))
    score.weight[2, :, 0, 0] = solution[:-1].float()
    score.bias[[0, 2]] = torch.tensor([0.0, float(solution[-1] - solution[:-1] @ mean)])


def scenes(size: int, count: int, patches: int) -> tuple[list[Pixels], NDArray[np.int64]]:
    """Dull photos with one gaudy patch of 96 px in several places, and its middles (photos, patches, 2) as x, y."""
    rng = np.random.default_rng(size)
    patch = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    photos, centres = [], np.zeros((count, patches, 2), np.int64)
    for number in range(count):
        coarse = rng.integers(96, 160, (size // 10, size // 10, 3), np.uint8)
        photo = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
        spots = rng.permutation((size // 112) ** 2)[:patches]
        for which, spot in enumerate(spots):
            x, y = (int(each) * 112 + 56 for each in np.unravel_index(spot, (size // 112, size // 112)))
            photo[y - 48 : y + 48, x - 48 : x + 48] = patch
            centres[number, which] = x, y
        photos.append(photo)
    return photos, centres


def theirs(network: Any, photos: list[Pixels]) -> list[list[Face]]:
    from retinaface import RetinaFace

    found = []
    for photo in photos:
        faces = RetinaFace.detect_faces(photo[:, :, ::-1], model=network, allow_upscaling=False)
        found.append(
            [
                Face(
                    np.array(face["facial_area"], np.float32),
                    np.array(list(face["landmarks"].values()), np.float32),
                    float(face["score"]),
                )
                for face in faces.values()
            ]
        )
    return found


def shifts(ours: list[list[Face]], reference: list[list[Face]]) -> NDArray[np.float32]:
    """Pixels between landmarks, for each face of the reference the nearest of ours. As many faces: asserted."""
    assert [len(faces) for faces in ours] == [len(faces) for faces in reference], "another number of faces"
    apart = [
        min(float(np.hypot(*(face.landmarks - other.landmarks).T).max()) for other in mine)
        for mine, others in zip(ours, reference, strict=True)
        for face in others
    ]
    return np.array(apart, np.float32)


def same_faces(ours: list[list[Face]], reference: list[list[Face]]) -> list[bool]:
    """For each photo: the best face at the same place to 0.01 px, or none in both."""
    best = partial(max, key=lambda face: face.score, default=None)
    pairs = [(best(mine), best(others)) for mine, others in zip(ours, reference, strict=True)]
    return [
        mine is other if mine is None or other is None else bool(abs(mine.landmarks - other.landmarks).max() <= 0.01)
        for mine, other in pairs
    ]


def package(size: int, count: int, patches: int, batch: int, rounds: int) -> None:
    photos, centres = scenes(size, count, patches)
    network = random_network(0, photos, centres)
    create = partial(retinaface.from_network, threshold=0.9, batch=batch)
    exact, quick = create(copy.deepcopy(network)), create(copy.deepcopy(network), precision="bf16")
    reference = theirs(network, photos)
    off = shifts(exact.detect(photos), reference)
    assert len(off) >= count and off.max() <= 0.5, f"{len(off)} faces, landmarks differ by {off.max():.2f} px"
    quick_off = shifts(quick.detect(photos), reference)  # random weights magnify rounding: no bar on pixels here
    print(
        f"equal: {len(off)} faces in {count} photos, landmarks in fp32 {off.max():.4f} px apart at most; bf16 finds "
        f"the same faces, {quick.seen_twice} photos seen again in fp32, landmarks {np.median(quick_off):.1f} px apart"
    )
    ways: dict[str, Callable[[], object]] = {
        "retina-face detect_faces, one by one": lambda: theirs(network, photos),
        f"retinaface fp32, batches of {batch} at most": lambda: exact.detect(photos),
        f"retinaface bf16, batches of {batch} at most": lambda: quick.detect(photos),
    }
    seconds = interleave(ways, rounds)
    for name in list(ways)[1:]:
        rival = next(iter(ways))
        shown = {rival: seconds[rival], name: seconds[name]}
        table(f"{size} x {size} px, {torch.get_num_threads()} threads", shown, name, count, "photos")


_worker: dict[str, Detector] = {}


def start_worker(name: str) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker["detector"] = create_detector(name, size=InputSize(), retry=False)


def cut(photo: Pixels, faces: list[Face]) -> list[Pixels]:
    """The same crops for all: what differs is who found the landmarks."""
    if not faces:
        return []
    matrices = similarity(np.stack([face.landmarks for face in faces]), template(112))
    return [warp(photo, matrix, 112) for matrix in matrices]


def run_worker(paths: list[str]) -> list[list[Face]]:
    photos = [decode(Path(path).read_bytes()).pixels for path in paths]
    found = _worker["detector"].detect(photos)
    for photo, faces in zip(photos, found, strict=True):
        cut(photo, faces)
    return found


def in_workers(pool: ProcessPoolExecutor, paths: list[str]) -> list[list[Face]]:
    chunks = [paths[start : start + 10] for start in range(0, len(paths), 10)]
    return [faces for chunk in pool.map(run_worker, chunks) for faces in chunk]


def package_mtcnn(mtcnn: Any, paths: list[str]) -> list[list[Face]]:
    found: list[list[Face]] = []
    for path in paths:
        photo = decode(Path(path).read_bytes()).pixels
        boxes, scores, points = mtcnn.detect(photo, landmarks=True)
        some = [] if boxes is None else zip(boxes, points, scores, strict=True)
        found.append([Face(box, point, float(score)) for box, point, score in some])
        cut(photo, found[-1])
    return found


def portraits(count: int, rounds: int) -> None:
    from facenet_pytorch import MTCNN

    root = Path(os.environ.get("PORTRAITS") or Path(__file__).parents[2] / "shared" / "data" / "portraits")
    paths = [str(path) for path in sorted(root.glob("images/*/*.jpg"))]
    if not paths:
        print("skipped: the real portraits are not here (set PORTRAITS to their folder)")
        return
    paths = paths[-count:]  # all the colour ones, so that sizes are mixed
    rival, ours = MTCNN(), create_detector("mtcnn", size=InputSize(), retry=False)

    def batched() -> list[list[Face]]:
        photos = [decode(Path(path).read_bytes()).pixels for path in paths]
        found = ours.detect(photos)
        for photo, faces in zip(photos, found, strict=True):
            cut(photo, faces)
        return found

    same = same_faces(batched(), package_mtcnn(rival, paths))
    assert np.mean(same) >= 0.95, f"only {np.mean(same):.0%} of the portraits have the package's faces"
    print(
        f"equal: MTCNN's landmarks to 0.01 px in {sum(same)} of {len(same)}; in the others a candidate meets the frame"
    )
    ways: dict[str, Callable[[], object]] = {
        "facenet-pytorch MTCNN, one by one": lambda: package_mtcnn(rival, paths),
        "mtcnn, batched": batched,
    }
    pools = {}
    os.environ.setdefault("FAHR_WEIGHTS", str(Path(__file__).parents[2] / "shared" / "weights"))
    for name in ("retinaface-mobile", "yunet"):
        try:
            create_detector(name)
        except Refused as error:
            print(f"skipped: {error}")
            continue
        # Forked, a worker would wait for ever for the threads that OpenCV and torch had in this process.
        context = multiprocessing.get_context("spawn")
        pools[name] = ProcessPoolExecutor(WORKERS, context, start_worker, (name,))
        found = in_workers(pools[name], paths)
        print(f"{name}: exactly one face in {sum(len(faces) == 1 for faces in found)} of {len(paths)} portraits")
        ways[f"{name}, {WORKERS} workers of 1 thread"] = partial(in_workers, pools[name], paths)
    seconds = interleave(ways, rounds)
    alone, batches, *in_pools = ways
    table("JPEG to crop", {name: seconds[name] for name in (alone, batches)}, batches, len(paths), "portraits")
    if len(in_pools) == 2:
        shown = {name: seconds[name] for name in (alone, *in_pools)}
        table("JPEG to crop", shown, in_pools[0], len(paths), "portraits")
    for pool in pools.values():
        pool.shutdown()


def main(count: int = 200, rounds: int = 5) -> None:
    package(250, 16, 2, 8, rounds)
    package(640, 4, 6, 4, rounds)
    portraits(count, rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
