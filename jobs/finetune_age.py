"""Fine-tune a model to age in stages: checkpoint/ with its calibration, an evaluation with intervals, pictures.

Laptop:   python jobs/finetune_age.py --config configs/laptop_age.yaml --faces out/align --init out/mae/checkpoint \\
              --output out/age --workers 0
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/finetune_age.py --config configs/paper_age.yaml --faces s3://bucket/align \\
              --init s3://bucket/mae/checkpoint --output s3://bucket/age --workers 16 --gpus-per-worker 1

Split `train` is learned from, `tune` decides when a stage ends and which of its weights are kept, `calibrate` gives the
correction of bias and the intervals and nothing else, `test` and the datasets held out are looked at once, at the end.
With --folds N the manifest's splits are not used: each of N models is tested on people that it has not seen.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from fahr import store
from fahr.biomarkers import AgeAccuracy, mean_of
from fahr.config import option
from fahr.errors import Refused
from fahr.models import save
from fahr.models.faceage import freeze_like_the_paper
from fahr.objectives.age import LOSSES
from fahr.report.age_charts import ages_chart, agreement_chart, groups_chart, predicted_chart
from fahr.training.ages import APPARENT, GROUPS, Balance, Calibration, Floats, accuracy, age_losses, calibrate, judged
from fahr.training.aging import COLUMNS, AgingCalibration, calibrate_aging
from fahr.training.begin import BegunPredictor, begin_predictor
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.labels import check_ages
from fahr.training.shares import Scored, score_all
from fahr.training.tasks import Prediction
from fahr.training.workers import rank
from jobs import _run, _train
from jobs._ending import account, ended, unreadable
from jobs._finetune import Aim, Cohort, FinetuneOptions, Outcome, Stage, cohorts, finetune
from jobs._train import Team

STAGES = (
    Stage(name="all", epochs=30),
    Stage(name="balanced", balanced=True, epochs=10, base_lr=5e-5, patience=3),
)


class Options(FinetuneOptions):
    """Fine-tune a model to age in stages; the same line again goes on where it stopped.

    python jobs/finetune_age.py --config configs/laptop_age.yaml --faces out/align --init imagenet --output out/age
    """

    loss: Literal["l1", "huber", "distribution", "ordinal", "gaussian"] = option(
        "l1", help="what is minimised; docs/age.md tells which to take"
    )
    stages: tuple[Stage, ...] = option(STAGES, help="one after the other, a list", min_length=1)
    freeze: bool = option(
        False, help="of faceage, hold the layers that its authors held: all before the first Block17", off="false"
    )
    balance: Balance = option(Balance(), help="how stages that say balanced draw")
    published: dict[str, float] = option(
        {}, help="MAE in years that others published of a dataset held out, told beside ours", result=False
    )
    coverage: float = option(0.9, gt=0, lt=1, help="share of people whose age lies in their interval", unit="share")
    fewest: int = option(100, ge=1, help="people of a stratum for an interval of its own", unit="people")
    # A recipe for fine-tuning (docs/age.md)
    base_lr: float = option(5e-4, gt=0, help="learning rate of a batch of 256, in proportion", unit="per step")
    global_batch: int = option(1024, ge=1, help="samples that decide one step, over all workers", unit="samples")
    layer_decay: float = option(
        0.75, gt=0, le=1, help="how much slower each block learns than the one after it", off="1", unit="factor"
    )


def main(options: Options) -> store.Ledger:
    """One run per folder; a finished one is left as it is."""
    return _run.once(options, "finetune_age", work, lambda digest: ended(options, digest, [options.output]))


# On every worker


def work(options: Options, digest: str, team: Team) -> dict[str, Any]:
    """Each model in turn, one or one a fold; then what they say together of people they have not seen."""
    everyone, plan = _train.together(lambda: _planned(options, digest))
    results = [_one(options, cohort, store.join(options.output, name) if name else options.output, digest, team)
               for name, cohort in plan.items()]  # fmt: skip
    return _run.same(lambda: _told(options, digest, everyone, results))


def _planned(options: Options, digest: str) -> tuple[FaceSet, dict[str, Cohort]]:
    _run.check_unchanged(options, digest)
    optional = ["age", "dataset", "source_sha256"]
    everyone = open_faces(options.faces, cache=options.cache_folder(), optional=optional)
    if "age" not in everyone.table.column_names:
        raise Refused(f"{options.faces}: its faces have no column age. Put ages into the manifest (age, or birth_date "
                      "and taken_on) and align again.")  # fmt: skip
    plan = cohorts(options, everyone.table, "age")
    check_ages(options.faces, everyone.table["age"].drop_null().to_numpy())
    for cohort in plan.values():
        check_ages(options.faces, everyone.table.filter(cohort.train)["age"].to_numpy())
    return everyone, plan


@dataclass(frozen=True)
class _Result:
    """Of one model, on every worker; scores of the first."""

    cohort: Cohort
    outcome: Outcome
    faces: dict[str, FaceSet]  # what was looked at once
    scored: dict[str, Scored]
    calibration: Calibration
    found: dict[str, AgeAccuracy]  # of each test
    mean_age: float  # of those learned from: what to guess without looking


def _one(options: Options, cohort: Cohort, folder: str, digest: str, team: Team) -> _Result:
    begun, stats = _train.together(lambda: _begun(options, cohort))
    losses = age_losses(options.loss)
    aim = Aim(
        what="age", labels=("age",),
        task=lambda model, recipe, augmentation: Prediction(model, recipe, losses, augmentation),
        judge=lambda faces, values: judged(faces.table, values),
        balance=lambda faces: _balanced(options, faces),
    )  # fmt: skip
    outcome = finetune(options, aim, cohort, begun.model, folder, digest, team)
    parts = {**({"calibrate": cohort.calibrate} if cohort.calibrate is not None else {}), **cohort.tests}
    faces = {name: _train.together(partial(_open, options, where)) for name, where in parts.items()}
    train = _train.together(partial(_open, options, cohort.train))
    scored = {
        name: score_all(outcome.model, each, device=team.device, flip=options.flip, precision=options.precision)
        for name, each in faces.items()
    }
    result = _Result(cohort, outcome, faces, scored, Calibration(None, None), {}, stats["mean"])
    if rank() == 0:
        calibration = _calibrated(options, faces, scored)
        found = {name: _accuracy(options, faces[name], scored[name], calibration) for name in cohort.tests}
        result = replace(result, calibration=calibration, found=found)
        for name, each in found.items():
            _write(folder, name, each, faces[name].table, scored[name].values)
        _save(options, begun, stats, result, store.join(folder, "checkpoint"), train)
    return result


def learned(
    options: Options, cohort: Cohort, folder: str, digest: str, team: Team
) -> dict[str, tuple[FaceSet, Floats]]:
    """One model of these people, and what it says of each of the cohort's tests: a trial of jobs/tune.py."""
    result = _one(options, cohort, folder, digest, team)
    return {name: (result.faces[name], result.scored[name].values) for name in cohort.tests}


def _balanced(options: Options, faces: FaceSet) -> tuple[Floats, dict[str, Any]]:
    balance = options.balance.of(np.asarray(faces.table["age"].to_numpy(), np.float64))
    return balance.weights, balance.to_json()


def _open(options: Options, where: pc.Expression) -> FaceSet:
    optional = (*GROUPS, *APPARENT, *COLUMNS)
    return open_faces(options.faces, ("age",), where, cache=options.cache_folder(), optional=optional)


def _begun(options: Options, cohort: Cohort) -> tuple[BegunPredictor, dict[str, float]]:
    faces = open_faces(options.faces, ("age",), cohort.train, cache=options.cache_folder())
    ages = np.asarray(faces.table["age"].to_numpy(), np.float64)
    stats = {"n": float(len(ages)), "mean": float(ages.mean()), "sd": float(ages.std()), "min": float(ages.min()),
             "max": float(ages.max())}  # fmt: skip
    begun = begin_predictor(
        options.encoder if options.model == "fahr" else options.model, options.patch, task="age",
        head=LOSSES[options.loss], size=faces.size, init=options.init, convention=faces.convention, seed=options.seed,
    )  # fmt: skip
    if options.freeze:
        freeze_like_the_paper(begun.model.encoder)
    if begun.fresh_head:
        begun.model.start_at(stats["mean"], stats["sd"])
    return begun, stats


# On the first worker


def _calibrated(options: Options, faces: dict[str, FaceSet], scored: dict[str, Scored]) -> Calibration:
    if "calibrate" not in faces:
        return Calibration(None, None, ("no face has split `calibrate`",))
    return calibrate(
        faces["calibrate"].table, scored["calibrate"].values, coverage=options.coverage, fewest=options.fewest
    )


def _accuracy(options: Options, faces: FaceSet, scored: Scored, calibration: Calibration) -> AgeAccuracy:
    applied = calibration.applied(faces.table, scored.values)
    return accuracy(faces.table, scored.values, bootstraps=options.bootstraps, seed=options.seed, applied=applied)


def _write(folder: str, name: str, found: AgeAccuracy, scored: pa.Table, values: Floats) -> None:
    place = store.join(folder, "evaluation")
    store.write_bytes(store.join(place, f"{name}.json"), json.dumps(found.to_json(), indent=1).encode())
    with pa.BufferOutputStream() as stream:
        csv.write_csv(found.table(), stream)
        store.write_bytes(store.join(place, f"{name}.csv"), stream.getvalue().to_pybytes())
    known = np.isfinite(values)
    scored = scored.filter(pa.array(known))
    seen = scored["age"].to_numpy(), values[known], found, scored["subject_id"].to_pylist()
    figures = {"predicted": predicted_chart(*seen), "agreement": agreement_chart(*seen), "ages": ages_chart(found)}
    if found.groups:
        figures["groups"] = groups_chart(found)
    for figure, png in figures.items():
        store.write_bytes(store.join(place, f"{name}-{figure}.png"), png)


def _save(
    options: Options, begun: BegunPredictor, stats: dict[str, float], result: _Result, place: str, train: FaceSet
) -> None:
    """The checkpoint, with what one request needs."""
    stages, calibration = result.outcome.stages, result.calibration
    people = result.faces.get("calibrate")
    aging = (
        calibrate_aging(people.table, result.scored["calibrate"].values) if people is not None else AgingCalibration()
    )
    metrics = {
        "samples": sum(each["samples"] for each in stages), "loss": stages[-1]["loss"],
        "stages": {each["name"]: each["judged"] for each in stages}, "flip": options.flip,
        "evaluation": {name: each.to_json()["errors"] for name, each in result.found.items()},
        "not_calibrated": [*calibration.why, *aging.why],
    }  # fmt: skip
    config = {
        "detector": "+".join(train.detectors), "convention": train.convention, "data_digest": train.digest,
        "parent_checkpoint": begun.parent, "origin": begun.origin, "label_stats": stats, "metrics": metrics,
        "bias_correction": calibration.bias, "conformal": calibration.conformal,
        **aging.to_config(),
    }  # fmt: skip
    card = f"Fine-tuned to age on {stats['n']:,.0f} faces of {stats['min']:.0f} to {stats['max']:.0f} years."
    for name, each in result.found.items():
        card += f"\n\n{name}:\n\n" + "\n".join(f"    {line}" for line in each.lines())
    save(result.outcome.model, place, config=config, card=card, overwrite=True)


def _told(options: Options, digest: str, everyone: FaceSet, results: list[_Result]) -> dict[str, Any]:
    """The first worker's last words: scores of people not learned from, the evaluation over all folds, the ledger."""
    table = _predictions(results)
    with pa.BufferOutputStream() as stream:
        pq.write_table(table, stream)
        store.write_bytes(store.join(options.output, "predictions.parquet"), stream.getvalue().to_pybytes())
    if options.folds:
        table = pa.concat_tables([result.faces["test"].table for result in results])
        values = np.concatenate([result.scored["test"].values for result in results])
        found = _pooled(options, table, values, results)
        _write(options.output, "folds", found, table, values)
        lines = _lines(options, f"{options.folds} folds", [("test", result) for result in results], found)
    else:
        (only,) = results
        lines = [line for name, each in only.found.items() for line in _lines(options, name, [(name, only)], each)]
    lines += [f"not calibrated: {why}" for result in results for why in result.calibration.why]
    store.write_bytes(store.join(options.output, "evaluation", "evaluation.txt"), ("\n".join(lines) + "\n").encode())
    _ledger(options, digest, everyone.table, results).write(store.join(options.output, "ledger.json"))
    return {}


def _lines(options: Options, name: str, of: list[tuple[str, _Result]], found: AgeAccuracy) -> list[str]:
    """The table, beside what guessing the mean age would have given, and what others have published."""
    guessed, gained, subjects = [], [], list[str]()
    for part, result in of:
        known = np.isfinite(result.scored[part].values)
        table = result.faces[part].table.filter(pa.array(known))
        ages = np.asarray(table["age"].to_numpy(), np.float64)
        guessed.append(np.abs(ages - result.mean_age))
        gained.append(np.abs(result.scored[part].values[known] - ages) - guessed[-1])
        subjects += table["subject_id"].to_pylist()
    against = mean_of(np.concatenate(gained), subjects, bootstraps=options.bootstraps, seed=options.seed)
    lines = [name, *(f"  {line}" for line in found.lines())]
    lines.append(f"  {'MAE of guessing the mean age, years':36s}{np.concatenate(guessed).mean():.2f}")
    between = "" if against.low is None else f" [{against.low:+.2f}, {against.high:+.2f}]"
    lines.append(f"  {'Ours less that, years':36s}{against.value:+.2f}{between}")
    if found.corrected is not None:
        lines.append(
            "  bias-corrected errors know the calendar age: a blind model would have none. Judge by the raw ones"
        )
    if name in options.published:
        lines.append(f"  {'MAE that was published, years':36s}{options.published[name]:.2f}")
    return lines


def _predictions(results: list[_Result]) -> pa.Table:
    """A row for each photo that was not learned from, in each fold."""
    parts = []
    for number, result in enumerate(results, 1):
        for name, faces in result.faces.items():
            part = faces.table.select(["photo_id", "subject_id", "age"])
            part = part.append_column("part", pa.array([name] * part.num_rows, pa.string()))
            part = part.append_column("fold", pa.array([number if len(results) > 1 else 0] * part.num_rows, pa.int64()))
            parts.append(part.append_column("face_age", pa.array(result.scored[name].values, from_pandas=True)))
    return pa.concat_tables(parts)


def _pooled(options: Options, table: pa.Table, values: Floats, results: list[_Result]) -> AgeAccuracy:
    """Over all folds: each person is scored once, by a model that has not seen him or her."""
    applied = [
        result.calibration.applied(result.faces["test"].table, result.scored["test"].values) for result in results
    ]
    names = set.intersection(*(set(each) for each in applied))
    more = {name: np.concatenate([each[name] for each in applied]) for name in names}
    return accuracy(table, values, bootstraps=options.bootstraps, seed=options.seed, applied=more)


def _ledger(options: Options, digest: str, everyone: pa.Table, results: list[_Result]) -> store.Ledger:
    used = [where for each in results for where in each.cohort.tests.values()]
    used += [where for each in results for where in (each.cohort.train, each.cohort.calibrate) if where is not None]
    bad = {photo for each in results for photo in each.outcome.bad | unreadable(each.faces, each.scored)}
    return account(
        "finetune_age", options, digest, everyone, used, bad, pc.field("age").is_valid(),
        {"no_age": everyone["age"].null_count},
    )  # fmt: skip


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.finetune_age import Options, main

    run_job(Options, main)
