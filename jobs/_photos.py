"""What jobs share that go through photos in work units: options, a pool of actors, and the way through the units.

pool = options.pool("align")                                                 # refused if the cluster is too small
work_off(pool, AlignUnit, (options,), rows, units, options.rows_per_unit, started=started)
"""

from typing import Any, Literal

import pyarrow as pa

from fahr import images, store
from fahr.config import JobOptions, Location, option
from fahr.faces import Aligner
from fahr.faces.quality import QualityGate
from jobs import _cluster

Detector = Literal["retinaface", "retinaface-mobile", "mtcnn", "yunet", "given"]


class PhotoOptions(JobOptions):
    """What may become of a photo, and who works on it."""

    mapping: Location | None = option(None, help="YAML column mapping for the manifest", off="none", result=False)
    many_faces: Literal["reject", "largest"] = option("reject", help="what to do with a photo of several people")
    gate: QualityGate = option(QualityGate(), help="least quality by component")
    max_pixels: int = option(images.DEFAULT_LIMITS.max_pixels, help="larger photos are rejects", unit="px", ge=1)
    max_bytes: int = option(images.DEFAULT_LIMITS.max_bytes, help="larger files are rejects", unit="bytes", ge=1)
    rows_per_unit: int = option(
        1000, help="photos in a work unit; what a kill costs", unit="photos", ge=1, result=False
    )
    workers: int = option(2, help="actors, each with models of its own", unit="actors", ge=1, result=False)
    cpus_per_worker: float = option(0.9, help="CPU that each reserves", unit="CPU", gt=0, result=False)
    gpus_per_worker: float = option(0.0, help="GPU that each reserves", unit="GPU", off="0", ge=0, result=False)
    memory_per_worker: float = option(2.0, help="heap that each reserves", unit="GiB", gt=0, result=False)

    def device(self) -> str:
        return "cuda" if self.gpus_per_worker else "cpu"

    def aligner(self, convention: str, size: int, detector: str) -> Aligner:
        return Aligner(
            detector, size, convention, many_faces=self.many_faces, gate=self.gate,
            limits=images.Limits(self.max_bytes, self.max_pixels), device=self.device(),
        )  # fmt: skip

    def pool(self, stage: str) -> _cluster.Pool:
        """Its actors, asked of the cluster that is there."""
        _cluster.connect()
        memory = int(self.memory_per_worker * 2**30)
        pool = _cluster.Pool(stage, self.workers, self.cpus_per_worker, self.gpus_per_worker, memory)
        remedy = "Lower --workers, --cpus-per-worker or --memory-per-worker, or start a larger cluster."
        print(_cluster.check([pool], remedy))
        return pool


def work_off(
    pool: _cluster.Pool, actor: type, arguments: tuple[Any, ...], rows: pa.Table, units: store.WorkUnits,
    rows_per_unit: int, *, started: float, groups: pa.Array | None = None, noun: str = "photos",
) -> None:  # fmt: skip
    """Every unit of `rows` that has no marker, each by a call of `actor(*arguments)`.

    `started`: the job, in seconds since 1970. `groups`: rows of two groups are never in one unit.
    """
    blocks = _cluster.todo(rows, units, rows_per_unit, groups)
    left = sum(block.num_rows for block in blocks)
    if left < rows.num_rows:
        print(f"{pool.stage}: {rows.num_rows - left:,} of {rows.num_rows:,} {noun} were done before")
    if blocks:
        first, last = _cluster.run_units(blocks, actor, arguments, pool, noun)
        print(
            f"{pool.stage}: ready after {first - started:.0f} s, then {left:,} {noun} in {last - first:.1f} s, "
            f"{left / max(last - first, 1e-9):,.0f} {noun}/s"
        )
    units.sweep()
