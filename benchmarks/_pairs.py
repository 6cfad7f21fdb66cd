"""What comparisons of trained models share: rendered people as faces, results that are kept, paired differences.

A pair shares its seed; each pair has a seed of its own. The interval is Student's, of the mean difference over pairs.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import stats

from fahr import store
from fahr.cohorts import read_manifest
from fahr.cohorts.synthetic import CohortOptions, make_cohort
from fahr.faces import Aligner
from fahr.faces.rows import align_rows
from fahr.version import code_version

Scores = dict[str, float]
ROWS_PER_UNIT = 250


def aligned(work: Path, subjects: int, *, seed: int = 0, options: CohortOptions | None = None) -> str:
    """Rendered people, one photo each, cut to the template by their true landmarks: an output of jobs/align.py."""
    name = "-".join([str(subjects), *([str(seed)] if seed else []), *([options.age_shape] if options else [])])
    people, folder = work / f"people-{name}", str(work / f"align-{name}")
    if not (people / "manifest.parquet").exists():
        shutil.rmtree(people, ignore_errors=True)  # of a run that was stopped: the manifest is written last
        make_cohort(subjects, 1, seed=seed, out=people, options=options)
    rows = read_manifest(people / "manifest.parquet")
    units = store.WorkUnits(folder, {"made": "by benchmarks/light_decoder.py"}, stage="align")
    assigned = np.array(units.assign(rows["photo_id"], store.row_digests(rows), ROWS_PER_UNIT))
    aligner = Aligner("given")
    for unit in sorted(set(assigned) - units.done()):
        part = rows.filter(pa.array(assigned == unit))
        made = align_rows(part, aligner)
        units.commit(unit, part, {"faces": made.faces, "rejects": made.rejects}, made.ledger())
    units.sweep()
    print(units.ledger().line())
    return folder


def kept(file: Path, make: Callable[[], Scores]) -> Scores:
    """What is in `file`, or what is made now and put there whole."""
    if not file.exists():
        store.write_bytes(str(file), json.dumps({"code_version": code_version(), "scores": make()}).encode())
    found = json.loads(file.read_text())
    if found["code_version"] != code_version():
        print(f"{file}: made by code {found['code_version']}, this is {code_version()}; delete it to make it anew")
    told: Scores = found["scores"]
    return told


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t-interval."""
    number = len(values)
    half = float(stats.t.ppf(0.975, number - 1) * np.std(values, ddof=1) / np.sqrt(number))
    return float(np.mean(values)) - half, float(np.mean(values)), float(np.mean(values)) + half


def difference(
    title: str, pairs: list[tuple[float, float]], most: float | None = None, percent: bool = False, unit: str = "y"
) -> bool:
    """Print what the second of each pair has more than the first; whether the interval lies inside +-`most`."""
    values = [100 * (new / old - 1) if percent else new - old for old, new in pairs]
    low, mean, high = interval(values)
    inside = most is None or (-most < low and high < most)
    told = "%" if percent else unit
    verdict = "" if most is None else f"   {'inside' if inside else 'NOT inside'} +-{most:g} {told}"
    each = " ".join(f"{value:+.3f}" for value in values)
    print(f"  {title:44s} {mean:+.3f} {told} [{low:+.3f}, {high:+.3f}]{verdict}   pairs: {each}")
    return inside
