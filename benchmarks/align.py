"""jobs/align.py against the same aligner in a plain process pool; the driver's memory; large photos decoded small.

python benchmarks/align.py [PHOTOS] [ROUNDS]

1. PHOTOS rendered photos of 256 px, two workers of one thread each on both sides, the same work units, faces written
   as Parquet by both. Start-up is told apart: a pool forks and imports, Ray starts a cluster and places actors.
2. What the driver holds at its peak for 5,000 and for 20,000 photos, a fresh process each.
3. Photos of a 12-megapixel camera, decoded as small as the aligner needs them, against all of their pixels by Pillow.
"""

import argparse
import io
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _rounds import interleave, median_range, ratios, table
from PIL import Image

from fahr import store
from fahr.cohorts import read_manifest
from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.errors import Refused
from fahr.faces import Aligner
from fahr.faces.aligner import WORKING_PX
from fahr.faces.rows import align_rows
from fahr.images import decode

WORKERS, ROWS_PER_UNIT, DISTINCT = 2, 250, 500


def make(folder: Path, count: int) -> tuple[str, list[list[float]]]:
    """DISTINCT rendered photos, used again under other ids until there are `count`. The manifest."""
    folder.mkdir(exist_ok=True)
    options = CohortOptions()
    landmarks = []
    for number in range(min(count, DISTINCT)):
        face = render_face(seed=0, subject=number, photo=0, apparent_age=20 + number % 70, frailty=0.0, options=options)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), face.image[:, :, ::-1])
        landmarks.append(face.landmarks.ravel().tolist())
    which = np.arange(count) % len(landmarks)
    rows = pa.table(
        {
            "photo_id": [f"p{number:06d}" for number in range(count)],
            "uri": [str(folder / f"{number:04d}.jpg") for number in which],
            "landmarks": [landmarks[number] for number in which],
        }
    )
    pq.write_table(rows, folder / f"{count}.parquet")
    return str(folder / f"{count}.parquet"), landmarks


_worker: dict[str, Aligner] = {}


def start_worker(detector: str) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _worker["aligner"] = Aligner(detector, 112)


def run_unit(work: tuple[pa.Table, str]) -> tuple[float, float]:
    rows, out = work
    started = time.time()
    made = align_rows(rows, _worker["aligner"])
    pq.write_table(made.faces, out)
    return started, time.time()


def by_pool(manifest: str, output: str, detector: str) -> tuple[float, float]:
    """Seconds until the first photo, and from there to the last."""
    began = time.time()
    rows = read_manifest(manifest)
    os.makedirs(output)
    work = [
        (rows.slice(start, ROWS_PER_UNIT).combine_chunks(), f"{output}/{start:06d}.parquet")
        for start in range(0, rows.num_rows, ROWS_PER_UNIT)
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, start_worker, (detector,)) as pool:
        spans = list(pool.map(run_unit, work))
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    return first - began, last - first


def by_job(manifest: str, output: str, detector: str) -> tuple[float, float]:
    from jobs import align

    said = io.StringIO()
    with redirect_stdout(said):
        align.main(
            align.Options(
                manifest=manifest,
                output=output,
                detector=detector,
                workers=WORKERS,
                rows_per_unit=ROWS_PER_UNIT,
            )
        )
    found = re.search(r"ready after (\d+) s, then [\d,]+ photos in ([\d.]+) s", said.getvalue())
    assert found, said.getvalue()
    return float(found[1]), float(found[2])


def faces_of(tables: list[pa.Table]) -> dict[str, bytes]:
    return {
        photo: face
        for part in tables
        for photo, face in zip(part["photo_id"].to_pylist(), part["face"].to_pylist(), strict=True)
    }


def job_against_pool(folder: Path, count: int, rounds: int) -> None:
    detector = "retinaface-mobile"
    os.environ.setdefault("FAHR_WEIGHTS", str(Path(__file__).parents[2] / "shared" / "weights"))
    try:
        Aligner(detector)
    except Refused:
        detector = "mtcnn"
        print("the weights of retinaface-mobile are not at hand: mtcnn")
    manifest, _ = make(folder / "photos", count)
    starts: dict[str, list[float]] = {"jobs/align.py": [], "process pool": []}
    work: dict[str, list[float]] = {"jobs/align.py": [], "process pool": []}
    for number in range(rounds + 1):
        for name, way in (("process pool", by_pool), ("jobs/align.py", by_job)):
            start, seconds = way(manifest, str(folder / f"{name[0]}{number}"), detector)
            if number:  # the first round warms up
                starts[name].append(start)
                work[name].append(seconds)
    pool = faces_of([pq.read_table(path) for path in sorted((folder / f"p{rounds}").glob("*.parquet"))])
    job = faces_of(list(store.read_units(str(folder / f"j{rounds}"), "faces")))
    assert pool == job and len(job) > 0.95 * count, f"{len(pool)} and {len(job)} faces, not all equal"
    print(f"equal: {len(job):,} faces of {count:,} photos, byte for byte; detector {detector}")
    table(f"{WORKERS} workers of 1 thread", work, "jobs/align.py", count, "photos")
    print(f"  the job has {median_range(ratios(work['process pool'], work['jobs/align.py']))} of the pool's rate")
    for name, values in starts.items():
        print(f"  start-up of {name}: {median_range(values, 1)} s (Ray itself was up)")


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def memory(folder: Path) -> None:
    """`given` landmarks: the fastest way through the job, so that the driver is what is tested."""
    for count in (5_000, 20_000):
        manifest, _ = make(folder / f"given{count}", count)
        line = [sys.executable, __file__, "--driver", manifest, str(folder / f"g{count}")]
        run = subprocess.run(line, check=True, capture_output=True, text=True)
        print(f"  {count:,} photos: driver's peak {float(run.stdout.split()[-1]):,.0f} MiB")


def camera_photos(count: int) -> list[bytes]:
    """4,000 x 3,000 JPEGs with a rendered face in the middle of a textured room."""
    rng = np.random.default_rng(0)
    photos = []
    for number in range(count):
        room = cv2.resize(rng.integers(0, 256, (75, 100, 3), np.uint8), (4000, 3000), interpolation=cv2.INTER_CUBIC)
        room = np.clip(room.astype(np.int16) + rng.integers(-6, 7, room.shape, np.int8), 0, 255).astype(np.uint8)
        face = render_face(
            seed=1, subject=number, photo=0, apparent_age=50, frailty=0.0, options=CohortOptions(size_px=256)
        )
        room[800:2200, 1300:2700] = cv2.resize(face.image, (1400, 1400), interpolation=cv2.INTER_CUBIC)
        done, data = cv2.imencode(".jpg", room[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        assert done
        photos.append(data.tobytes())
    return photos


def decoding(rounds: int) -> None:
    cv2.setNumThreads(1)
    photos = camera_photos(8)
    for data in photos:
        small = decode(data, shortest_side=WORKING_PX).pixels
        full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        shrunk = cv2.resize(full, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        off = float(abs(small.astype(np.int16) - shrunk).mean())
        assert off < 2, f"decoded small and shrunk afterwards differ by {off:.1f} grey levels"
    sizes = f"{full.shape[1]} x {full.shape[0]} -> {small.shape[1]} x {small.shape[0]}"
    print(f"equal: {sizes}, {off:.2f} grey levels apart")
    ways = {
        "fahr.images.decode, small": lambda: [decode(data, shortest_side=WORKING_PX) for data in photos],
        "fahr.images.decode, all pixels": lambda: [decode(data) for data in photos],
        "Pillow, all pixels": lambda: [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in photos],
    }
    table("12-megapixel JPEGs, one thread", interleave(ways, rounds), "fahr.images.decode, small", 8, "photos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", type=int, default=5_000)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--driver", nargs=2, metavar=("MANIFEST", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.driver:
        manifest, output = options.driver
        by_job(manifest, output, "given")
        print(peak_mib())
        return
    with tempfile.TemporaryDirectory() as folder:
        decoding(options.rounds)
        job_against_pool(Path(folder), options.photos, options.rounds)
        print("the driver's memory, landmarks given:")
        memory(Path(folder))


if __name__ == "__main__":
    main()
