"""Score a cohort: face age and survival risk of every photo, or of every aligned face. Research use only.

Laptop:   python jobs/score.py --faces out/align --models out/age/checkpoint --output out/scores
          python jobs/score.py --manifest people.csv --models out/age/checkpoint out/survival/checkpoint --output out/s
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/score.py --faces s3://bucket/align --models s3://bucket/age/checkpoint --output s3://bucket/age

Exactly once: kill anything at any moment and run the same line again. A work unit is one block of a Ray Data plan, done
by one call of an actor: read (or download and align), decode, predict, commit. What passes through Ray is names and
counts, never pixels, so a worker's memory is bounded by its unit's encoded faces and the driver's by the manifest.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator

from fahr import store
from fahr.cohorts import read_manifest
from fahr.config import Location, option
from fahr.errors import Refused
from fahr.faces.rows import REJECT_FIELDS
from fahr.models.checkpoints.hub import KNOWN, UNPUBLISHED
from fahr.scores import (
    SCORE_FIELDS,
    ModelPlan,
    Team,
    plan_faces,
    plan_models,
    read_faces,
    score_faces,
    score_photos,
    write_aging_rates,
    write_csv,
    write_visits,
)
from fahr.version import code_version
from jobs import _cluster
from jobs._photos import Detector, PhotoOptions, work_off

# A folder or a file, or a name that weights are known by.
Checkpoint = Annotated[
    str, AfterValidator(lambda given: given if given in (*KNOWN, *UNPUBLISHED) else store.absolute(given))
]
_ALIGNING = ("mapping", "detector", "many_faces", "gate", "max_pixels", "max_bytes")  # of no use to aligned faces


class Options(PhotoOptions):
    """Score a cohort: face age and survival risk of every photo, or of every aligned face. Research use only.

    python jobs/score.py --faces out/align --models out/age/checkpoint --output out/scores
    """

    manifest: Location | None = option(
        None, help="the photos: a manifest (.csv, .parquet, or a folder of Parquet)", off="none: --faces", result=False
    )
    faces: Location | None = option(
        None, help="aligned faces: the output of jobs/align.py", off="none: --manifest", result=False
    )
    models: Annotated[list[Checkpoint], Field(min_length=1)] = option(
        help="checkpoints: one of task age, one of task survival, or both", result=False
    )
    output: Location = option(
        help="folder for scores/, rejects/, visits, aging_rates.parquet and ledger.json", result=False
    )
    flip: bool | None = option(
        None, help="score the mean of a face and its mirror image: twice the work",
        off="none: as when the model was measured; where that is unknown, true",
    )  # fmt: skip
    precision: Literal["bf16", "fp32"] = option("bf16", help="of the network; heads are fp32 always")
    batch: int = option(16, help="photos detected, and faces scored, at once", unit="photos", ge=1)
    detector: Detector | None = option(
        None, help="which detector finds the faces of a manifest", off="none: the one that the checkpoint names"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Options":
        if (self.manifest is None) == (self.faces is None):
            given = "neither" if self.manifest is None else "both"
            raise ValueError(f"--manifest, --faces: exactly one of the two says what to score, {given} was given")
        if self.faces is not None:
            fields = type(self).model_fields
            idle = [name for name in _ALIGNING if getattr(self, name) != fields[name].default]
            if idle:
                flags = ", ".join("--" + name.replace("_", "-") for name in idle)
                raise ValueError(f"{flags}: --faces are aligned already. Leave it out, or give --manifest")
        return self


@dataclass(frozen=True)
class _Source:
    """What is scored: a row a photo. `rows` is what tells that a row is the one of before."""

    rows: pa.Table
    groups: pa.Array | None  # a unit holds rows of one file of faces
    columns: Sequence[str]
    digest: str
    noun: str


class ScoreUnit:
    """An actor: the models, one work unit a call."""

    def __init__(self, options: Options, plans: tuple[ModelPlan, ...]) -> None:
        cv2.setNumThreads(1)  # one worker a core: threads of OpenCV or torch would fight over it
        threads = 0 if options.gpus_per_worker else 1
        self.options = options
        self.team = Team(
            plans,
            precision=options.precision,
            batch=options.batch,
            device=options.device(),
            threads=threads,
        )
        self.aligners = {} if options.faces else {cut: options.aligner(*cut) for cut in self.team.cuts}
        self.units = _units(options, plans)

    def __call__(self, block: pa.Table) -> pa.Table:
        unit, rows = _cluster.unit_of(block)
        started = time.time()
        if self.options.faces:
            made = score_faces(read_faces(self.options.faces, rows), self.team)
        else:
            made = score_photos(rows, self.aligners, self.team, batch=self.options.batch)
        ledger = made.ledger()
        self.units.commit(unit, rows, {"scores": made.scores, "rejects": made.rejects}, ledger)
        return _cluster.counts(ledger, started, time.time())


def _units(options: Options, plans: Sequence[ModelPlan]) -> store.WorkUnits:
    purpose: dict[str, Any] = {**options.deciding(), "source": "faces" if options.faces else "manifest"}
    for plan in plans:
        purpose |= plan.purpose()
    return store.WorkUnits(options.output, purpose, stage="score")


def main(options: Options) -> store.Ledger:
    """Plan the units, run those without a marker, account for every row."""
    started = time.time()
    source, plans = _prepared(options)
    pool = options.pool("score")
    if options.dry_run:
        return store.Ledger("score", 0, 0)
    if not options.faces:
        for cut in dict.fromkeys(plan.cut for plan in plans):
            options.aligner(*cut)  # weights that are missing are refused here, once, not by every actor
    units = _units(options, plans)
    work_off(
        pool, ScoreUnit, (options, plans), source.rows, units, options.rows_per_unit, started=started,
        groups=source.groups, noun=source.noun,
    )  # fmt: skip
    ledger = _account(options, plans, units, source)
    print(ledger.line())
    return ledger


def _prepared(options: Options) -> tuple[_Source, tuple[ModelPlan, ...]]:
    """What is scored and by which models: everything that can be refused before work begins."""
    if options.faces is not None:
        found = plan_faces(options.faces)
        plans = plan_models(options.models, found.detector, options.flip)
        found.check(options.faces, plans)
        source = _Source(found.rows, found.rows["file"].combine_chunks(), found.columns, found.digest, "faces")
    else:
        assert options.manifest is not None
        plans = plan_models(options.models, options.detector, options.flip)
        table = read_manifest(options.manifest, options.mapping)
        digest = hashlib.sha256(np.sort(store.row_digests(table)).tobytes()).hexdigest()[:16]
        source = _Source(table, None, table.column_names, digest, "photos")
    if taken := sorted({*SCORE_FIELDS.names, *REJECT_FIELDS.names} & set(source.columns)):
        raise Refused(
            f"{options.manifest or options.faces}: has columns {', '.join(taken)}, which scores have of their own. "
            "Rename them: in a column mapping, or before aligning."
        )
    for plan in plans:
        kind = f"{plan.cut.convention} of {plan.cut.size} px found by {plan.cut.detector}{', mirrored too' * plan.flip}"
        print(f"score: {plan.task} by {plan.place} ({plan.digest[:19]}), faces {kind}")
        for note in plan.notes():
            print(f"score: {note}.")
    return source, plans


def _account(options: Options, plans: Sequence[ModelPlan], units: store.WorkUnits, source: _Source) -> store.Ledger:
    """The sum over the markers must be the input; then what is made of all scores together; the ledger comes last."""
    total = units.ledger()
    more: dict[str, Any] = {
        "manifest": options.manifest,
        "faces": options.faces,
        "data_digest": source.digest,
        "models": {plan.task: {"checkpoint": plan.place, **plan.purpose()} for plan in plans},
    }
    ledger = store.Ledger(
        "score", source.rows.num_rows, total.rows_out, total.rejects, options.digest(), code_version(), more
    ).check()
    visits = write_visits(options.output, ledger.rows_out)
    print(f"score: visits.parquet holds {visits:,} visits (one person, one day)")
    for plan in plans:
        if plan.task == "age":
            more["aging_rates"] = _aging_rates(options, plan, ledger.rows_in)
    if not write_csv(options.output, ledger.rows_out):
        print("score: no scores.csv, since there are a million scores and more: read scores/*.parquet")
    options.write(store.join(options.output, "options.yaml"))
    ledger.write(store.join(options.output, "ledger.json"))
    return ledger


def _aging_rates(options: Options, plan: ModelPlan, rows: int) -> dict[str, Any]:
    """What the ledger says of aging_rates.parquet: how many, and by which measurement error."""
    made = write_aging_rates(options.output, rows, plan.config, aligned=options.faces)
    for line in made.lines():
        print(f"score: {line}")
    decided = plan.config.model_dump(mode="json", include={"repeatability_sd_years", "aging_rate_prior"})
    return {"people": made.people, "rates": made.rates, "reasons": made.reasons, **decided}


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.score import Options, main

    run_job(Options, main)
