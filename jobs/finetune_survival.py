"""Fine-tune a model to the risk of death in stages: checkpoint/ with its scale, how well it ranks people, pictures.

Laptop:   python jobs/finetune_survival.py --config configs/laptop_survival.yaml --faces out/align \\
              --init out/mae/checkpoint --output out/survival --workers 0
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/finetune_survival.py --config configs/paper_survival.yaml --faces s3://bucket/align \\
              --init s3://bucket/mae/checkpoint --output s3://bucket/survival --workers 8 --gpus-per-worker 1

Split `train` is learned from, `tune` decides when a stage ends and which of its weights are kept, `test` and the
datasets held out are looked at once, at the end; `calibrate` is left for later use. With --folds N the manifest's
splits are not used: each of N models is tested on people that it has not seen. With --arms the same is done from
several starts. Risk has no unit, higher = worse; all times are days.
"""

import copy
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import model_validator

from fahr import store
from fahr.biomarkers.risk import RiskScale, fit_risk_scale, percentile, standardised
from fahr.config import option
from fahr.errors import Refused
from fahr.models import Predictor, save
from fahr.models.architecture import SIZES, Architecture
from fahr.report.risk_charts import quartile_chart
from fahr.training.augment import Augmentation
from fahr.training.begin import IMAGENET, RANDOM, BegunPredictor, begin_predictor
from fahr.training.event_batches import EventBatches
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.labels import check_events, check_outcomes
from fahr.training.outcomes import (
    ENTRY,
    NEEDED,
    AgeOffset,
    Floats,
    Followed,
    Intervals,
    censoring_of,
    fit_age_offset,
    fit_intervals,
    hazard_losses,
    judged,
    known_outcome,
    label_columns,
    one_photo,
    pair_losses,
    strata,
)  # fmt: skip
from fahr.training.recipe import Recipe
from fahr.training.risks import QUARTERS, Evaluation, Published, evaluated, interval, paired, ranked
from fahr.training.shares import score_all
from fahr.training.tasks import Comparison, Prediction, Task
from fahr.training.workers import rank
from jobs import _run, _train
from jobs._ending import account, ended, unreadable
from jobs._finetune import Aim, Cohort, FinetuneOptions, Outcome, Stage, cohorts, finetune
from jobs._train import Team

STAGES = (Stage(name="all", epochs=20, patience=5),)
OPTIONAL = (ENTRY, "age", "sex")


class Options(FinetuneOptions):
    """Fine-tune a model to the risk of death in stages; the same line again goes on where it stopped.

    The faces need follow_up_days (days from the photo to death or last contact), event (1 = death, 0 = last seen alive)
    and, where observation began later, entry_days. The risk that is learned has no unit: higher = worse. It is shown in
    standard deviations of the people learned from.

    python jobs/finetune_survival.py --config configs/laptop_survival.yaml --faces out/align --init imagenet \\
        --output out/survival
    """

    usual_epochs = 20  # docs/survival_model.md

    loss: Literal["logistic", "hinge", "squared_hinge", "exponential", "cox", "hazard"] = option(
        "logistic",
        help="what is minimised, over pairs of people or of each; docs/survival_model.md tells which to take",
    )
    weight: Literal["none", "ipcw", "gap"] = option(
        "none", help="what a pair counts for: ipcw undoes censoring, gap is the years between the two", off="none"
    )
    tau: float = option(
        1.0,
        gt=0,
        help="divides the difference of two scores; smaller is nearer to the hard order",
        unit="score",
    )
    margin: float = option(1.0, ge=0, help="of the hinges: by how much the worse should lead", unit="tau", off="0")
    events: float = option(
        0.3, gt=0, le=0.5, help="least share of every batch that has the event; the cohort's own where that is more",
        unit="share",
    )  # fmt: skip
    age_offset: bool = option(
        False, help="learn what age does not say: what a Cox model says of age is added while learning, and not shown",
        off="false",
    )  # fmt: skip
    arms: tuple[Literal["mae", "random", "imagenet"], ...] = option(
        (), help="do all of it from each of these starts, mae being --init, and compare", off="none"
    )
    published: Published = option(Published(), help="what others published, told beside ours")
    stages: tuple[Stage, ...] = option(STAGES, help="one after the other, a list", min_length=1)
    # A recipe for fine-tuning (docs/survival_model.md)
    base_lr: float = option(1e-4, gt=0, help="learning rate of a batch of 256, in proportion", unit="per step")
    global_batch: int = option(256, ge=2, help="people that decide one step, over all workers", unit="people")
    layer_decay: float = option(
        0.65, gt=0, le=1, help="how much slower each block learns than the one after it", off="1", unit="factor"
    )

    @model_validator(mode="after")
    def _fits(self) -> "Options":
        wrong = []
        if self.loss in ("cox", "hazard") and (self.weight, self.tau) != ("none", 1.0):
            wrong.append(f"loss {self.loss}: has neither weight nor tau. Leave them out, or take loss logistic")
        if self.margin != 1 and "hinge" not in self.loss:
            wrong.append(f"margin {self.margin:g}: has no effect with loss {self.loss}, only with hinges. Leave it out")
        if self.age_offset and self.loss not in ("logistic", "cox"):
            wrong.append(f"age_offset: is a log hazard, and loss {self.loss} has another scale. Take logistic or cox")
        if any(stage.balanced for stage in self.stages):
            wrong.append("stages: balanced is for ages; here `events` says what is drawn more often. Leave it out")
        if len(set(self.arms)) < len(self.arms):
            wrong.append(f"arms {', '.join(self.arms)}: each once")
        if "mae" in self.arms and self.init in (RANDOM, IMAGENET):
            wrong.append(f"arms mae: begins with --init, which is {self.init}. Give the checkpoint of jobs/pretrain.py")
        if wrong:
            raise ValueError(". ".join(wrong))
        return self

    def starts(self) -> dict[str, tuple[str, str]]:
        """Arm -> folder, init. Without arms: the one run, in its own folder."""
        inits = {"mae": self.init, "random": RANDOM, "imagenet": IMAGENET}
        arms: dict[str, tuple[str, str]] = {
            arm: (store.join(self.output, f"arm-{arm}"), inits[arm]) for arm in self.arms
        }
        return arms or {"": (self.output, self.init)}


def main(options: Options) -> store.Ledger:
    """One run per folder; a finished one is left as it is."""
    folders = [folder for folder, _ in options.starts().values()]
    return _run.once(options, "finetune_survival", work, lambda digest: ended(options, digest, folders))


# On every worker


@dataclass(frozen=True)
class _Result:
    """Of one model, on every worker; what was found only on the first."""

    cohort: Cohort
    bad: set[str]  # photos that did not decode
    faces: dict[str, FaceSet]  # what was looked at once
    risk: dict[str, Floats]  # and its risks as they are shown, NaN where a face does not decode
    scale: RiskScale
    found: dict[str, Evaluation]


def work(options: Options, digest: str, team: Team) -> dict[str, Any]:
    """Each model in turn, one an arm and fold; then what they say of people they have not seen."""
    everyone, plan = _train.together(lambda: _planned(options, digest))
    starts = options.starts()
    begun: dict[str, BegunPredictor] = {}
    for arm in sorted(starts, key=RANDOM.__eq__):  # last: its network is that of the checkpoint it is compared with
        like = _like(options, begun["mae"].model) if arm == RANDOM and "mae" in begun else options
        begun[arm] = _train.together(partial(_begun, like, starts[arm][1], everyone))
    results = {
        arm: [
            _one(options, cohort, begun[arm], store.join(folder, name) if name else folder, digest, team)
            for name, cohort in plan.items()
        ]
        for arm, (folder, _) in starts.items()
    }
    return _run.same(lambda: _told(options, digest, everyone, results))


def _planned(options: Options, digest: str) -> tuple[FaceSet, dict[str, Cohort]]:
    """Refused before any hour is spent: outcomes that cannot be learned from."""
    _run.check_unchanged(options, digest)
    optional = [*NEEDED, ENTRY, "age", "dataset", "source_sha256"]
    everyone = open_faces(options.faces, cache=options.cache_folder(), optional=optional)
    wanted = [*NEEDED, *(["age"] if options.age_offset else [])]
    if missing := [name for name in wanted if name not in everyone.table.column_names]:
        raise Refused(
            f"{options.faces}: its faces have no column {' and '.join(missing)}. Put them into the manifest (days from "
            "the photo to death or last contact; event 1 = death, 0 = last seen alive) and align again."
        )
    known = known_outcome(age=options.age_offset)
    check_outcomes(options.faces, everyone.table.filter(known_outcome()))
    plan = cohorts(options, everyone.table, " and ".join(wanted), known, strata, calibrated=False)
    for cohort in plan.values():
        check_events(options.faces, everyone.table.filter(cohort.train))
        if options.loss == "hazard":
            fit_intervals(options.faces, everyone.table.filter(cohort.train))
    return everyone, plan


def _like(options: Options, model: Predictor) -> Options:
    """A random start of the size and patch that a checkpoint has, whatever `encoder` and `patch` say."""
    shape = model.architecture
    if not isinstance(shape, Architecture) or shape.name not in SIZES:
        return options
    return options.model_copy(update={"encoder": shape.name, "patch": shape.patch})


def _begun(options: Options, init: str, faces: FaceSet) -> BegunPredictor:
    begun = begin_predictor(
        options.encoder if options.model == "fahr" else options.model, options.patch, task="survival",
        head="hazard" if options.loss == "hazard" else "value", size=faces.size, init=init,
        convention=faces.convention, seed=options.seed,
    )  # fmt: skip
    begun.model.__dict__.pop("config", None)  # of a survival model it has the scale, by which the scorer would divide
    return begun


def _one(options: Options, cohort: Cohort, begun: BegunPredictor, folder: str, digest: str, team: Team) -> _Result:
    train = _train.together(partial(_open, options, cohort.train))
    offset = _train.together(lambda: fit_age_offset(options.faces, train.table)) if options.age_offset else None
    intervals = fit_intervals(options.faces, train.table) if options.loss == "hazard" else None
    if rank() == 0:
        for note in check_events(options.faces, train.table):
            team.tell({"warning": f"survival: {note}"})
    model = copy.deepcopy(begun.model)
    if intervals is not None and begun.fresh_head:
        model.start_at(intervals.biases)
    outcome = finetune(options, _aim(options, train, offset, intervals, team), cohort, model, folder, digest, team)
    some = pc.field("photo_id").isin(train.table["photo_id"].take(one_photo(train.table, options.seed)))
    faces = {"train": _train.together(partial(_open, options, cohort.train & some))}
    faces |= {name: _train.together(partial(_open, options, where)) for name, where in cohort.tests.items()}
    scored = {
        name: score_all(outcome.model, each, device=team.device, flip=options.flip, precision=options.precision)
        for name, each in faces.items()
    }
    values = scored.pop("train").values
    scale = _train.together(lambda: fit_risk_scale(values[np.isfinite(values)]))
    risk = {name: standardised(each.values, scale.risk_mean, scale.risk_sd) for name, each in scored.items()}
    result = _Result(cohort, outcome.bad | unreadable(faces, scored), faces, risk, scale, {})
    if rank() == 0:
        result = replace(result, found={name: _evaluated(options, [result], name, folder) for name in risk})
        _write_table(folder, [result])
        _save(options, begun, outcome, result, offset, intervals, store.join(folder, "checkpoint"), train)
    return result


def learned(
    options: Options, cohort: Cohort, folder: str, digest: str, team: Team
) -> dict[str, tuple[FaceSet, Floats]]:
    """One model of these people, and what it says of each of the cohort's tests: a trial of jobs/tune.py."""
    everyone = _train.together(lambda: open_faces(options.faces, cache=options.cache_folder()))
    begun = _train.together(partial(_begun, options, options.init, everyone))
    result = _one(options, cohort, begun, folder, digest, team)
    return {name: (result.faces[name], result.risk[name]) for name in cohort.tests}


def _open(options: Options, where: pc.Expression) -> FaceSet:
    return open_faces(options.faces, NEEDED, where, cache=options.cache_folder(), optional=OPTIONAL)


def _aim(
    options: Options, train: FaceSet, offset: AgeOffset | None, intervals: Intervals | None, team: Team
) -> Aim:  # fmt: skip
    losses = pair_losses(
        options.loss, weight=options.weight, tau=options.tau, margin=options.margin, offset=offset,
        censoring=censoring_of(train.table) if options.weight == "ipcw" else None,
    )  # fmt: skip

    def task(model: Predictor, recipe: Recipe, augmentation: Augmentation) -> Task:
        if intervals is not None:
            return Prediction(model, recipe, hazard_losses(intervals.edges), augmentation)
        return Comparison(model, recipe, losses, augmentation)

    def order(faces: FaceSet, recipe: Recipe) -> tuple[EventBatches, dict[str, Any]]:
        who = Followed.of(faces.table)
        made = EventBatches(
            who.time, who.event, who.subject.astype(str), entry=who.entry, batch=recipe.global_batch, seed=recipe.seed,
            events=options.events,
        )  # fmt: skip
        if made.balance.short and rank() == 0:
            team.tell({"warning": f"survival: {made.balance.short}"})
        return made, made.balance.to_json()

    return Aim(
        what="survival", labels=label_columns(train.table.column_names, age=options.age_offset), task=task,
        judge=lambda faces, values: judged(faces.table, values, offset), order=order,
    )  # fmt: skip


# On the first worker


def _evaluated(options: Options, results: list[_Result], part: str, folder: str) -> Evaluation:
    """Of a part of one model's people; or of all folds, each person by the model that has not seen him or her."""
    table = pa.concat_tables([result.faces[part].table for result in results], promote_options="default")
    fold = np.repeat(np.arange(len(results)), [len(result.risk[part]) for result in results])
    risk, shares = (np.concatenate(each) for each in zip(*(_shown(result, part) for result in results), strict=True))
    known = np.isfinite(risk)
    table, risk, shares = table.filter(pa.array(known)), risk[known], shares[known]
    found = evaluated(
        table, risk, shares, bootstraps=options.bootstraps, seed=options.seed,
        fold=fold[known] if len(results) > 1 else None,
    )  # fmt: skip
    name = store.join(folder, "evaluation", part if len(results) == 1 else "folds")
    store.write_bytes(f"{name}.json", json.dumps(found.to_json(), indent=1).encode())
    if found.quartiles is not None:
        who = Followed.of(table)
        picture = quartile_chart(
            who.time, who.event, shares, QUARTERS, found.quartiles, entry=who.entry, subject=who.subject
        )
        store.write_bytes(f"{name}-quartiles.png", picture)
    return found


def _shown(result: _Result, part: str) -> tuple[Floats, Floats]:
    """Risks and their percentiles among the people learned from, NaN where a face does not decode."""
    risk = result.risk[part]
    shares = percentile(np.nan_to_num(risk), result.scale.risk_percentiles)
    return risk, np.where(np.isfinite(risk), shares, np.nan)


def _write_table(folder: str, results: list[_Result]) -> None:
    """A row for each photo that was not learned from, in each fold; risks in SDs of that model's training people."""
    parts = []
    for number, result in enumerate(results, 1):
        for name in result.risk:
            table = result.faces[name].table
            columns = [each for each in ("photo_id", "subject_id", *NEEDED, ENTRY, "age") if each in table.column_names]
            part, risks = table.select(columns), _shown(result, name)
            part = part.append_column("part", pa.array([name] * part.num_rows, pa.string()))
            part = part.append_column("fold", pa.array([number if len(results) > 1 else 0] * part.num_rows, pa.int64()))
            for column, values in zip(("risk", "percentile"), risks, strict=True):
                part = part.append_column(column, pa.array(values, from_pandas=True))
            parts.append(part)
    with pa.BufferOutputStream() as stream:
        pq.write_table(pa.concat_tables(parts, promote_options="default"), stream)
        store.write_bytes(store.join(folder, "predictions.parquet"), stream.getvalue().to_pybytes())


def _save(
    options: Options, begun: BegunPredictor, outcome: Outcome, result: _Result, offset: AgeOffset | None,
    intervals: Intervals | None, folder: str, train: FaceSet,
) -> None:  # fmt: skip
    """The checkpoint, with what one request needs."""
    who, stages = Followed.of(train.table).patients(), outcome.stages
    metrics = {
        "samples": sum(each["samples"] for each in stages), "loss": stages[-1]["loss"], "flip": options.flip,
        "stages": {each["name"]: each["judged"] for each in stages}, "balance": stages[-1]["balance"],
        "evaluation": {name: each.ranked.to_json() for name, each in result.found.items()},
        "people": len(who), "events": int(who.event.sum()),
        "age_offset": None if offset is None else {"beta_per_year": offset.beta, "mean_age": offset.mean},
    }  # fmt: skip
    config = {
        "detector": "+".join(train.detectors), "convention": train.convention, "data_digest": train.digest,
        "parent_checkpoint": begun.parent, "origin": begun.origin, "metrics": metrics, **asdict(result.scale),
        "hazard_edges": None if intervals is None else tuple(intervals.edges.tolist()),
    }  # fmt: skip
    card = (
        f"Fine-tuned to the risk of death on {train.num_rows:,} faces of {len(who):,} people, {who.event.sum():,} of "
        "whom died. Risk has no unit; higher = worse. It is shown in standard deviations of these people."
    )
    if offset is not None:
        card += f" It learned beside an age offset of {offset.beta:.4f} a year, which is no part of it."
    if intervals is not None:
        days = ", ".join(f"{day:g}" for day in intervals.edges[1:])
        card += f" It is the log of the mean probability of death by {days} days, among batches with more events."
    for name, each in result.found.items():
        card += f"\n\n{name}:\n\n" + "\n".join(f"    {line}" for line in each.ranked.lines())
    save(outcome.model, folder, config=config, card=card, overwrite=True)


def _told(options: Options, digest: str, everyone: FaceSet, results: dict[str, list[_Result]]) -> dict[str, Any]:
    """The first worker's last words: the evaluation of each arm, over all folds where there are any; the ledger."""
    lines = _arms(options, results) if options.arms else []
    for arm, (folder, _) in options.starts().items():
        found = results[arm][0].found
        if options.folds:
            found = {f"{options.folds} folds": _evaluated(options, results[arm], "test", folder)}
            _write_table(folder, results[arm])
        for name, each in found.items():
            lines += [f"{arm}: {name}" if arm else name, *(f"  {line}" for line in each.lines(options.published))]
    place = store.join(options.output, "evaluation", "evaluation.txt")
    store.write_bytes(place, ("\n".join(lines) + "\n").encode())
    models = [each for arm in results.values() for each in arm]
    _ledger(options, digest, everyone.table, models).write(store.join(options.output, "ledger.json"))
    return {}


def _arms(options: Options, results: dict[str, list[_Result]]) -> list[str]:
    """The same people, order and seed from several starts: C of each, and what it gains over random weights."""
    lines = [f"{'start':10s}{'of':8s}{'C-index':24s}{'less that of random':28s}p"]
    told: dict[str, Any] = {}
    for part in ["test"] if options.folds else list(results[options.arms[0]][0].risk):
        shown = {arm: np.concatenate([each.risk[part] for each in models]) for arm, models in results.items()}
        known = np.all([np.isfinite(each) for each in shown.values()], axis=0)
        models = results[options.arms[0]]
        table = pa.concat_tables([each.faces[part].table for each in models], promote_options="default")
        fold = np.repeat(np.arange(len(models)), [len(each.risk[part]) for each in models])[known]
        for arm, risk in shown.items():
            same: dict[str, Any] = {
                "bootstraps": options.bootstraps,
                "seed": options.seed,
                "fold": fold if options.folds else None,
            }
            one = ranked(table.filter(pa.array(known)), risk[known], **same)
            gain = None
            if "random" in shown and arm != "random":
                gain = paired(table.filter(pa.array(known)), risk[known], shown["random"][known], **same)
            lines.append(f"{arm:10s}{part:8s}{interval(one.c_index, one.low, one.high):24s}{_gained(gain)}".rstrip())
            told[f"{arm}/{part}"] = {"ranked": one.to_json(), "less_random": gain}
    place = store.join(options.output, "evaluation", "arms.json")
    store.write_bytes(place, json.dumps(told, indent=1).encode())
    return lines


def _gained(gain: dict[str, float | None] | None) -> str:
    if gain is None:
        return ""
    p = "" if gain["p_value"] is None else f"{gain['p_value']:.3g}"
    return f"{interval(gain['difference'], gain['low'], gain['high'], '+.3f'):28s}{p}"


def _ledger(options: Options, digest: str, everyone: pa.Table, results: list[_Result]) -> store.Ledger:
    """Apart: faces without an outcome, of people who were not followed, and without the age that an offset needs."""
    known, held = known_outcome(age=options.age_offset), everyone.filter(known_outcome()).num_rows
    no_time = everyone.filter(pc.field("event").is_valid() & (pc.field("follow_up_days") == 0)).num_rows
    why = {
        "no_outcome": everyone.num_rows - held - no_time, "no_follow_up": no_time,
        "no_age": held - everyone.filter(known).num_rows,
    }  # fmt: skip
    used = [where for each in results for where in (*each.cohort.tests.values(), each.cohort.train)]
    bad = {photo for each in results for photo in each.bad}
    return account("finetune_survival", options, digest, everyone, used, bad, known, why)


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.finetune_survival import Options, main

    run_job(Options, main)
