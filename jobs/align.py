"""Align every face of a manifest: faces/, rejects/ and a ledger that balances.

Laptop:   python jobs/align.py --manifest people.csv --output out/align --detector mtcnn
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/align.py --manifest s3://bucket/people.parquet --output s3://bucket/align

Exactly once: kill anything at any moment and run the same line again. The manifest is cut into work units; each is one
block of a Ray Data plan, done by one call of an actor: download, decode, detect, crop, measure, encode, commit. What
passes through Ray is manifest rows and counts, never pixels, so a worker's memory is bounded by its batch and the
driver's by the manifest.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa

from fahr import images, store
from fahr.cohorts import read_manifest
from fahr.config import Location, option
from fahr.faces import Aligner
from fahr.faces.rows import FaceFormat, align_rows
from fahr.version import code_version
from jobs import _cluster
from jobs._photos import Detector, PhotoOptions, work_off

Convention = Literal["arcface112", "faceage160"]


class Options(PhotoOptions):
    """Align every face of a manifest: faces/, rejects/ and a ledger that balances.

    python jobs/align.py --manifest people.csv --output out/align --detector mtcnn
    """

    manifest: Location = option(help="the photos: a manifest (.csv, .parquet, or a folder of Parquet)", result=False)
    output: Location = option(help="folder for faces/, rejects/ and ledger.json", result=False)
    detector: Detector = option("retinaface", help="which detector; never chosen by what lies on disk")
    convention: Convention = option("arcface112", help="where the landmarks land; a model refuses another one")
    size: int | None = option(
        None, help="side of a crop", unit="px", off="the convention's own: 112 or 160", ge=16, le=1024
    )
    face_format: FaceFormat = option(
        "jpeg", help="how a face is stored: jpeg (95, 4:4:4) or png (lossless, 4 times as large)"
    )
    batch: int = option(16, help="photos detected at once", unit="photos", ge=1, result=False)


class AlignUnit:
    """An actor: one aligner, one work unit a call."""

    def __init__(self, options: Options) -> None:
        cv2.setNumThreads(1)  # one worker a core: threads of OpenCV or torch would fight over it
        self.options = options
        self.aligner = _aligner(options)
        self.units = _units(options)

    def __call__(self, block: pa.Table) -> pa.Table:
        unit, rows = _cluster.unit_of(block)
        started = time.time()
        made = align_rows(rows, self.aligner, batch=self.options.batch, face_format=self.options.face_format)
        ledger = made.ledger()
        self.units.commit(unit, rows, {"faces": made.faces, "rejects": made.rejects}, ledger)
        return _cluster.counts(ledger, started, time.time())


def _aligner(options: Options) -> Aligner:
    size = options.size or {"arcface112": 112, "faceage160": 160}[options.convention]
    return options.aligner(options.convention, size, options.detector)


def _units(options: Options) -> store.WorkUnits:
    return store.WorkUnits(options.output, options.deciding(), stage="align")


def main(options: Options) -> store.Ledger:
    """Plan the units, run those without a marker, account for every row."""
    started = time.time()
    table = read_manifest(options.manifest, options.mapping)
    pool = options.pool("align")
    if options.dry_run:
        return store.Ledger("align", 0, 0)
    _aligner(options)  # weights that are missing are refused here, once, not by every actor
    units = _units(options)
    work_off(pool, AlignUnit, (options,), table, units, options.rows_per_unit, started=started)
    ledger = _account(options, units, table.num_rows)
    _pictures(options, ledger)
    print(ledger.line())
    return ledger


def _account(options: Options, units: store.WorkUnits, rows: int) -> store.Ledger:
    """The sum over the markers must be the manifest."""
    total = units.ledger()
    ledger = store.Ledger(
        "align",
        rows,
        total.rows_out,
        total.rejects,
        options.digest(),
        code_version(),
        {"manifest": options.manifest, "detector": options.detector, "convention": options.convention},
    ).check()
    options.write(store.join(options.output, "options.yaml"))
    ledger.write(store.join(options.output, "ledger.json"))
    return ledger


SHEET = 64  # faces shown


def _pictures(options: Options, ledger: store.Ledger) -> None:
    """A contact sheet of the first faces, spread over the units, and a bar chart of the rejects."""
    faces: list[np.ndarray] = []
    for data in _spread(options.output, SHEET):
        faces.append(cv2.resize(images.decode(data).pixels, (112, 112), interpolation=cv2.INTER_AREA))
    if faces:
        faces += [np.full((112, 112, 3), 255, np.uint8)] * (SHEET - len(faces))
        sheet = np.vstack([np.hstack(faces[row : row + 8]) for row in range(0, SHEET, 8)])
        done, png = cv2.imencode(".png", sheet[:, :, ::-1])
        assert done
        store.write_bytes(store.join(options.output, "figures", "faces.png"), png.tobytes())
    from fahr.report.charts import reject_chart  # matplotlib takes a second to load: only when a chart is due

    store.write_bytes(store.join(options.output, "figures", "rejects.png"), reject_chart(ledger))


def _spread(output: str, wanted: int) -> Iterator[bytes]:
    """Some faces of each of up to eight units."""
    units = [unit for unit in store.committed(output) if unit.files["faces"]["rows"]]
    chosen = [units[i] for i in sorted({int(i) for i in np.linspace(0, len(units) - 1, 8)})] if units else []
    share: Counter[str] = Counter()
    for unit in chosen:
        where = store.join(output, "faces", unit.files["faces"]["name"])
        for table in store.read_parquet(where, ["face"], rows=wanted // len(chosen)):
            for data in table["face"].to_pylist():
                if share[unit.name] < wanted // len(chosen):
                    share[unit.name] += 1
                    yield data
            break


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.align import Options, main

    run_job(Options, main)
