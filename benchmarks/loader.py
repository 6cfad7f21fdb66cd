"""fahr.training.loader against torch's DataLoader with Pillow, and against Ray Data over the same shards.

python benchmarks/loader.py [FACES] [ROUNDS]

FACES rendered faces of 112 px in JPEG 95 4:4:4, as jobs/align.py writes them, two threads or worker processes each,
batches of 256, shuffled alike; Ray Data alone is not asked to shuffle. Pixels are compared before anything is timed.
"""

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from _rounds import interleave, median_range, ratios, table
from numpy.typing import NDArray
from PIL import Image

from fahr import store
from fahr.cohorts.synthetic import CohortOptions, render_face
from fahr.faces.rows import encode
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.loader import Loader
from fahr.training.sampling import Order

DISTINCT, BATCH, THREADS, ROWS_PER_UNIT = 500, 256, 2, 1000
JPEG, PACKED, TORCH, RAY = "fahr, JPEG", "fahr, packed", "DataLoader, Pillow", "Ray Data, OpenCV"


def make(folder: Path, count: int) -> str:
    """DISTINCT rendered faces, used again under other ids until there are `count`, as finished units."""
    options = CohortOptions(size_px=256)
    pictures = []
    for number in range(min(count, DISTINCT)):
        face = render_face(seed=0, subject=number, photo=0, apparent_age=20 + number % 70, frailty=0.0, options=options)
        small = cv2.resize(face.image, (112, 112), interpolation=cv2.INTER_AREA)
        pictures.append(encode(np.asarray(small, np.uint8), "jpeg"))
    ids = pa.array([f"p{number:06d}" for number in range(count)])
    rows = pa.table({"photo_id": ids, "subject_id": ids, "split": ["train"] * count})
    units = store.WorkUnits(str(folder), {"made": "by benchmarks/loader.py"}, stage="align")
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), ROWS_PER_UNIT))
    for unit in np.unique(assigned):
        part = rows.filter(pa.array(assigned == unit))
        numbers = [int(photo[1:]) % len(pictures) for photo in part["photo_id"].to_pylist()]
        faces = part.append_column("face", pa.array([pictures[number] for number in numbers], pa.binary()))
        for name, value in (("convention", "arcface112"), ("detector", "given")):
            faces = faces.append_column(name, pa.array([value] * part.num_rows))
        units.commit(unit, part, {"faces": faces}, store.Ledger("align", part.num_rows, part.num_rows))
    print(f"{count:,} faces of {statistics.mean(map(len, pictures)):,.0f} bytes on average")
    return str(folder)


class PillowFaces(torch.utils.data.Dataset[torch.Tensor]):
    """The usual way: a face decoded by Pillow, a tensor a face, stacked by DataLoader."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(io.BytesIO(self.encoded[row])).convert("RGB")))


def decode_batch(batch: dict[str, NDArray[np.object_]]) -> dict[str, NDArray[np.uint8]]:
    cv2.setNumThreads(1)
    decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in batch["face"]]
    return {"image": np.stack(decoded)}


def ours(faces: FaceSet, batches: int) -> Iterator[NDArray[np.uint8]]:
    with Loader(faces, Order(faces.num_rows, 0), global_batch=BATCH, threads=THREADS) as loader:
        for batch in itertools.islice(loader, batches):
            yield batch.images.numpy()


def by_ray(folder: str) -> Iterator[NDArray[np.uint8]]:
    import ray

    plan = ray.data.read_parquet(f"{folder}/faces", columns=["face"]).map_batches(decode_batch, batch_size=BATCH)
    for batch in plan.iter_batches(batch_size=BATCH, prefetch_batches=2, drop_last=True):
        yield batch["image"]


def consume(batches: Iterator[NDArray[np.uint8]], steady: list[float] | None = None) -> None:
    """Look at every batch. `steady`: takes the faces a second after the first batch has come."""
    seen, first = 0, 0.0
    for images in batches:
        assert images.shape[1:] == (112, 112, 3)
        int(images[:, 56, 56].sum())
        first = first or time.perf_counter()
        seen += len(images)
    if steady is not None:
        steady.append((seen - BATCH) / max(time.perf_counter() - first, 1e-9))


def check(encoded: FaceSet, packed: FaceSet, rival: torch.utils.data.DataLoader[torch.Tensor], batches: int) -> None:
    """The same pixels at the same positions; Pillow and OpenCV bring different JPEG libraries."""
    off = 0
    for one, two, theirs in zip(ours(encoded, batches), ours(packed, batches), rival, strict=False):
        assert np.array_equal(one, two), "packed and decoded faces differ"
        off = max(off, int(abs(one.astype(np.int16) - theirs.numpy()).max()))
    assert off <= 2, f"Pillow's pixels are {off} grey levels away"
    print(f"equal: {batches * BATCH:,} faces; Pillow's at most {off} grey levels away")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", nargs="?", type=int, default=20_000)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    options = parser.parse_args()
    import ray

    ray.init(address="local", num_cpus=THREADS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder) / "align", options.faces)
        encoded = open_faces(made, cache=f"{folder}/cache")
        packed = open_faces(made, cache=f"{folder}/cache", packed=True)
        batches = options.faces // BATCH
        order = Order(encoded.num_rows, 0).rows(0, encoded.num_rows).tolist()
        rival = torch.utils.data.DataLoader(
            PillowFaces(encoded.encoded(np.arange(encoded.num_rows))),
            BATCH, sampler=order, num_workers=THREADS, persistent_workers=True, drop_last=True,
        )  # fmt: skip
        check(encoded, packed, rival, batches)
        steady: list[float] = []
        ways = {
            JPEG: lambda: consume(ours(encoded, batches)),
            PACKED: lambda: consume(ours(packed, batches)),
            TORCH: lambda: consume(each.numpy() for each in rival),
            RAY: lambda: consume(by_ray(made), steady),
        }
        seconds = interleave(ways, options.rounds)
        table(f"{THREADS} threads or workers, batches of {BATCH}", seconds, JPEG, batches * BATCH, "faces")
        print(f"  Ray Data once it runs: {median_range(steady[1:], 0)} faces/s (above: with its start)")
        for name, bar in ((JPEG, 1.5), (PACKED, 10.0)):
            times = ratios(seconds[TORCH], seconds[name])
            verdict = "met" if statistics.median(times) >= bar else "MISSED"
            print(f"  {name}: {median_range(times)}x DataLoader with Pillow; bar {bar:g}x {verdict}")
    ray.shutdown()


if __name__ == "__main__":
    main()
