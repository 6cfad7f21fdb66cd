"""Fine-tuning in stages: each learns from what the one before it ended with, and ends with its best weights.

    outcome = finetune(options, aim, cohort, begun, folder, digest, team)      # on every worker

A stage is a run of the engine (fahr.training.run) with a folder of its own: states, metrics.jsonl, and `best/`, the
weights of its best judgement. Kill it anywhere and run the same line again: finished stages are not done again, the
one that was running goes on from its newest state, and what it judged before counts.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import model_validator

from fahr import store
from fahr.cohorts.folds import deal, drawn
from fahr.config import Options as Group
from fahr.config import option
from fahr.errors import Refused, nearest
from fahr.models import Predictor
from fahr.models.architecture import SIZES, Architecture
from fahr.training.augment import PRESETS, Augmentation
from fahr.training.background import Background
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.flops import count_flops, peak_flops
from fahr.training.journal import Journal
from fahr.training.keeper import Keeper
from fahr.training.labels import check_leaks
from fahr.training.recipe import Recipe
from fahr.training.run import Desk, Plan, copied, gathered, run
from fahr.training.sampling import Order
from fahr.training.shares import Scored, score_all, spread
from fahr.training.state import Snapshot, State, fill, fresh
from fahr.training.step import world_size
from fahr.training.tasks import Task
from fahr.training.workers import placed, wrap
from jobs import _run, _train
from jobs._run import Init, RunOptions
from jobs._train import Team


class Stage(Group):
    """What differs from stage to stage; what is none is as in the run."""

    name: str = option(help="what its folder is called")
    datasets: tuple[str, ...] | None = option(None, help="only faces of these datasets", off="none: all")
    balanced: bool = option(False, help="draw rare ages more often", off="false")
    epochs: float | None = option(None, gt=0, help="length, unless `samples` says it", off="none", unit="passes")
    samples: int | None = option(None, ge=1, help="length, repeats counted", off="none", unit="faces")
    base_lr: float | None = option(None, gt=0, help="learning rate of a batch of 256", off="none", unit="per step")
    patience: int | None = option(
        None, ge=1, help="judgements without a better one after which it ends", off="none: goes on to its end",
        unit="judgements",
    )  # fmt: skip
    freeze: Literal["none", "encoder"] = option("none", help="encoder: only the head learns, of a ViT", off="none")
    blocks: int = option(0, ge=0, help="last blocks of a frozen encoder that learn too", off="0", unit="blocks")

    @model_validator(mode="after")
    def _thawed(self) -> "Stage":
        if self.blocks and self.freeze == "none":
            raise ValueError(f"stage {self.name!r}: blocks {self.blocks} has no effect without freeze: encoder")
        return self

    def recipe(self, options: RunOptions, num_rows: int) -> Recipe:
        length: dict[str, Any] = {}
        if self.epochs is not None or self.samples is not None:
            length = {"epochs": self.epochs, "samples": self.samples}
        rate = {} if self.base_lr is None else {"base_lr": self.base_lr}
        found = options.recipe(num_rows, **length, **rate)
        warmup = found.num_samples // 6 if options.warmup_samples is None else options.warmup_samples
        changed: dict[str, Any] = {"warmup_samples": warmup}  # 5 of 30 epochs (docs/age.md)
        if self.freeze == "encoder" and not self.blocks:
            changed["drop_path"] = 0.0  # a head alone learns from whole features
        return found.model_copy(update=changed)

    def check(self, model: Predictor) -> None:
        """Refused: to freeze what has no blocks of ours, or fewer."""
        shape = model.architecture
        if self.freeze != "none" and not isinstance(shape, Architecture):
            raise Refused(
                f"stage {self.name!r}: freeze: encoder is for a ViT (--model fahr), not for {shape.name}. Leave it out."
            )
        if self.blocks > (depth := len(model.encoder.blocks)):
            raise Refused(f"stage {self.name!r}: blocks {self.blocks}: {shape.name} has {depth}. Give at most that.")

    def hold(self, model: Predictor) -> Predictor:
        """What this stage leaves as it is learns nothing."""
        if self.freeze == "encoder":
            model.encoder.requires_grad_(False)
            blocks = model.encoder.blocks
            for part in (*blocks[len(blocks) - self.blocks :], *([model.encoder.norm] if self.blocks else [])):
                part.requires_grad_(True)
        return model


class FinetuneOptions(RunOptions):
    """What fine-tuning needs beside a recipe, whatever is learned. The recipe's values hold for stages without own."""

    usual_epochs = 30  # of a stage that says nothing, where the run says nothing (docs/age.md)

    init: Init = option(help="weights to begin with: a checkpoint, a name it is known by, imagenet, or random")
    model: str = option("fahr", help="network: fahr (a ViT), faceage, or timm:NAME for any network of timm")
    encoder: str = option(
        "vit_base", help=f"size of a ViT that begins at random: {', '.join(SIZES)}; a checkpoint knows"
    )
    patch: int = option(8, ge=1, help="side of a patch of such a ViT", unit="pixels")
    stages: tuple[Stage, ...] = option(help="one after the other, a list", min_length=1)
    warmup_samples: int | None = option(
        None, ge=0, help="samples over which the learning rate rises from 0; none: a sixth of each stage", off="0",
        unit="samples",
    )  # fmt: skip
    augmentation: Augmentation = option(PRESETS["age"], help="what may happen to a face")
    # A recipe for fine-tuning (docs/age.md, docs/survival_model.md); rate, batch and layer decay are each job's own
    betas: tuple[float, float] = option((0.9, 0.999), help="AdamW's memory of gradients and of their squares")
    drop_path: float = option(
        0.1, ge=0, lt=1, help="share of images that skip the last block's branches", off="0", unit="share"
    )
    min_lr: float = option(
        1e-6, ge=0, help="learning rate at the end, not scaled with the batch", off="0", unit="per step"
    )
    judge_epochs: float = option(1.0, gt=0, help="how often held-out people are looked at", unit="passes")
    flip: bool = option(True, help="score the mean over each face and its mirror image", off="false")
    held_out: tuple[str, ...] = option((), help="datasets that are tested on and never learned from")
    folds: int = option(0, ge=0, help="cross-validate by person instead, in so many folds", off="0", unit="folds")
    bootstraps: int = option(
        1000, ge=0, help="resamples of people behind each interval; 10,000 for a paper", off="0", unit="resamples"
    )

    @model_validator(mode="after")
    def _stages(self) -> "FinetuneOptions":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages {', '.join(names)}: each needs a name of its own, that of its folder")
        if self.folds == 1:
            raise ValueError("folds 1: give 0 for none, or at least 2")
        if self.folds and self.held_out:
            raise ValueError("held_out: with folds every dataset is learned from and tested on. Leave one of them out")
        return self


@dataclass(frozen=True)
class Aim:
    """What is learned, and when it is learned well."""

    what: str  # for people: "age"
    labels: tuple[str, ...]  # columns that the task reads
    task: Callable[[Predictor, Recipe, Augmentation], Task]
    judge: Callable[[FaceSet, NDArray[np.float64]], dict[str, Any]]  # held-out faces and scores -> a row with `score`
    # Of a stage that says balanced: the weight of each row. Or of all stages: the order of the rows. And what to tell.
    balance: Callable[[FaceSet], tuple[NDArray[np.float64], dict[str, Any]]] | None = None
    order: Callable[[FaceSet, Recipe], tuple[Order, dict[str, Any]]] | None = None


@dataclass(frozen=True)
class Cohort:
    """Which faces a run may look at, and for what; conditions on the columns."""

    train: pc.Expression
    tune: pc.Expression | None  # when a stage ends and which of its weights are kept; None: nobody
    calibrate: pc.Expression | None
    tests: Mapping[str, pc.Expression]  # looked at once, at the end


@dataclass(frozen=True)
class Outcome:
    model: Predictor  # whole, on the CPU of every worker
    stages: list[dict[str, Any]]  # what became of each
    bad: set[str]  # photos of the train split that did not decode


def finetune(options: Any, aim: Aim, cohort: Cohort, model: Predictor, folder: str, digest: str, team: Team) -> Outcome:
    """`options`: RunOptions with `stages`, `augmentation`, `judge_epochs` and `flip`. Changes `model`."""
    told: list[dict[str, Any]] = []
    for stage in options.stages:
        stage.check(model)  # of all of them, before the first takes its hours
    for number, stage in enumerate(options.stages, 1):
        place = store.join(folder, f"stage-{number}-{stage.name}")
        one = _Stage(options, aim, cohort, stage, place, digest, team)
        done = _run.same(partial(_result, place))
        if done is None:
            done = one.train(model)
        best = Keeper(store.join(place, "best"), digest, None)
        fill(model, _train.together(partial(best.at, done["best_position"])))
        told.append({"name": stage.name, **done})
    return Outcome(model, told, {photo for each in told for photo in each["unreadable"]})


def _result(place: str) -> dict[str, Any] | None:
    """Of a finished stage."""
    location = store.join(place, "stage.json")
    if not store.exists(location):
        return None
    found: dict[str, Any] = json.loads(store.read_bytes(location))
    return found


class _Stage:
    def __init__(
        self, options: Any, aim: Aim, cohort: Cohort, stage: Stage, place: str, digest: str, team: Team
    ) -> None:
        self.options, self.aim, self.cohort, self.stage = options, aim, cohort, stage
        self.place, self.digest, self.team = place, digest, team
        self.scored: Scored | None = None
        self.balance: dict[str, Any] | None = None

    def train(self, start: Predictor) -> dict[str, Any]:
        """What became of it, the same on all workers; it is in stage.json when this returns."""
        opening = time.monotonic()
        options, team, aim = self.options, self.team, self.aim
        faces, recipe, order = _train.together(self._opened)
        tune = _train.together(self._tune)
        plain = copy.deepcopy(start)
        task = placed(aim.task(self.stage.hold(copy.deepcopy(start)), recipe, options.augmentation), team.device)
        wrapped = wrap(task, options.strategy, team.device)
        state = fresh(task.model, recipe)
        with Background(lambda text: team.tell({"warning": text})) as background:
            keeper = self._keeper("states", background, options.keep)
            best = self._keeper("best", background, options.keep)
            _run.go_on(keeper, state)
            journal = _train.together(
                lambda: _run.open_journal(options, aim.what, self.place, self.digest, state, background)
            )
            desk = None
            if journal is not None:
                desk = self._desk(keeper, best, journal, background, tune, plain, recipe, faces)
                said = f"goes on from sample {state.position:,}" if state.position else "begins"
                said += f", {faces.num_rows:,} faces, workers {world_size()}, ready in "
                self._say(recipe, state, f"{said}{time.monotonic() - opening:.0f} s")
            loaders: list[Any] = []
            if not _run.same(lambda: desk is not None and self._enough(desk.journal)):
                run(
                    wrapped, _run.open_batches(options, faces, order, recipe, team, loaders), recipe, state,
                    plan=self._plan(recipe, faces.num_rows, tune), digest=self.digest, desk=desk, device=team.device,
                    noticed=team.noticed, stop=team.stop, report=team.report,
                    before_judgement=lambda taken: self._score(taken, plain, tune),
                    enough=lambda row: desk is not None and self._enough(desk.journal),
                    bad=lambda: loaders[0].skipped if loaders else {},
                )  # fmt: skip
            bad = state.bad | gathered(loaders[0].skipped if loaders else {})
            last = copied(wrapped, state, self.digest, first=desk is not None)
            return _run.same(
                lambda: self._finish(desk, best, last, [faces.table["photo_id"][row].as_py() for row in sorted(bad)])
            )

    # On every worker

    def _opened(self) -> tuple[FaceSet, Recipe, Order]:
        where, options = self.cohort.train, self.options
        if self.stage.datasets is not None:
            where = where & pc.field("dataset").isin(pa.array(self.stage.datasets, pa.string()))
        try:
            faces = self._open(where)
        except Refused as error:
            raise Refused(f"stage {self.stage.name!r}: {error}") from error
        recipe = self.stage.recipe(options, faces.num_rows)
        if recipe.global_batch > faces.num_rows:
            raise Refused(
                f"--global-batch {recipe.global_batch:,}: more than the {faces.num_rows:,} faces that stage "
                f"{self.stage.name!r} learns from. Give at most that, or more faces."
            )
        recipe.accumulation(world_size())  # refuses what can't be shared out
        weights = None
        if self.aim.order is not None:
            order, self.balance = self.aim.order(faces, recipe)
            return faces, recipe, order
        if self.stage.balanced and self.aim.balance is not None:
            weights, self.balance = self.aim.balance(faces)
        return faces, recipe, Order(faces.num_rows, recipe.seed, weights)

    def _tune(self) -> FaceSet | None:
        return None if self.cohort.tune is None else self._open(self.cohort.tune)

    def _open(self, where: pc.Expression) -> FaceSet:
        options = self.options
        return open_faces(
            options.faces, self.aim.labels, where, cache=options.cache_folder(), packed=options.packed
        )  # fmt: skip

    def _plan(self, recipe: Recipe, rows: int, tune: FaceSet | None) -> Plan:
        """Judged each `judge_epochs`, and at the end."""
        options = self.options
        times = max(1, math.floor(recipe.num_samples / (options.judge_epochs * rows))) if tune else 0
        return Plan.of(
            recipe, log_rows=options.log_rows, judgements=times, save_every_s=options.checkpoint_minutes * 60
        )

    def _score(self, taken: Snapshot | None, plain: Predictor, tune: FaceSet | None) -> None:
        """All workers score a share of the held-out faces, with the weights that the first one has."""
        assert tune is not None
        if taken is not None:
            fill(plain, taken)
        spread(plain, self.team.device)
        self.scored = score_all(
            plain, tune, device=self.team.device, flip=self.options.flip, precision=self.options.precision
        )

    # On the first worker

    def _keeper(self, name: str, background: Background, keep: int) -> Keeper:
        return Keeper(
            store.join(self.place, name), self.digest, background, keep=keep,
            say=lambda text: self.team.tell({"warning": text}),
        )  # fmt: skip

    def _desk(
        self, keeper: Keeper, best: Keeper, journal: Journal, background: Background, tune: FaceSet | None,
        plain: Predictor, recipe: Recipe, faces: FaceSet,
    ) -> Desk:  # fmt: skip
        def judge(taken: Snapshot, position: int) -> Mapping[str, Any]:
            assert tune is not None and self.scored is not None
            row = self.aim.judge(tune, self.scored.values)
            if row["score"] is None:  # there is nothing to choose by
                self.team.tell({"warning": f"{self.aim.what}: sample {position:,}: the held-out people give no score"})
            before = [each["score"] for each in _judgements(journal)]
            row["best"] = row["score"] is not None and not any(row["score"] >= each for each in before)
            if row["best"]:  # before the state: what a run that goes on believes to be there is there
                best.save(_lean(taken))
            return row

        task = self.aim.task(
            self.stage.hold(copy.deepcopy(plain)), recipe.model_copy(update={"compile": False}), Augmentation()
        )
        flops = count_flops(task, plain.architecture.size, faces.labels([0, 0]))
        peak = peak_flops(self.team.device, recipe.precision)
        return Desk(keeper, journal, background, judge if tune else None, self.team.tell, flops, peak)

    def _say(self, recipe: Recipe, state: State, text: str) -> None:
        self.team.tell({
            "total": recipe.num_steps * recipe.global_batch, "position": state.position,
            "what": f"{self.aim.what}: {self.stage.name}", "said": f"{self.aim.what}: stage {self.stage.name!r} {text}",
        })  # fmt: skip

    def _enough(self, journal: Journal) -> bool:
        """So many judgements in a row were not better than the best one."""
        judged = _judgements(journal)
        since = len(judged) - 1 - max((n for n, row in enumerate(judged) if row["best"]), default=-1)
        return self.stage.patience is not None and bool(judged) and since >= self.stage.patience

    def _finish(self, desk: Desk | None, best: Keeper, last: Snapshot | None, bad: list[str]) -> dict[str, Any]:
        assert desk is not None and last is not None
        judged = _judgements(desk.journal)
        position = max((row["position"] for row in judged if row["best"]), default=None)
        if position is None:  # nobody to judge by, or never a number: the last weights are what there is
            position = int(last.facts["position"])
            best.save(_lean(last))
        steps = [row for row in desk.journal.rows if row["kind"] == "step"]
        desk.journal.flush()
        desk.background.wait(_run.FINISH_S)
        desk.journal.close()
        chosen = next((row for row in judged if row["position"] == position), {})
        done = {
            "best_position": position, "samples": int(last.facts["position"]), "judgements": len(judged),
            "judged": {name: value for name, value in chosen.items() if name not in ("kind", "position", "best")},
            "loss": steps[-1]["loss"] if steps else None, "skipped_steps": int(last.facts["skipped"]),
            "unreadable": bad, "balance": self.balance,
        }  # fmt: skip
        store.write_bytes(store.join(self.place, "stage.json"), json.dumps(done, indent=1).encode())
        desk.keeper.clear()
        return done


def _judgements(journal: Journal) -> list[dict[str, Any]]:
    return [row for row in journal.rows if row["kind"] == "judged" and row.get("score") is not None]


def _lean(taken: Snapshot) -> Snapshot:
    """Without what only the optimizer needs."""
    kept = {name: each for name, each in taken.tensors.items() if name.startswith(("model/", "average/"))}
    return Snapshot(kept, taken.facts)


# Who is learned from, and who is held out


def cohorts(
    options: FinetuneOptions,
    everyone: pa.Table,
    label: str,
    known: pc.Expression | None = None,
    strata: Callable[[pa.Table], NDArray[np.float64]] | None = None,
    calibrated: bool = True,
) -> dict[str, Cohort]:
    """Folder -> the cohort of a model: one in the run's own folder, or one a fold. Refused: people on both sides.

    `everyone`: photo_id, subject_id, split, `label` and, where they are known, dataset and source_sha256 of all faces.
    `known`: which faces have what is learned, `label` by default. `strata`: what folds share evenly, `label` in tens.
    `calibrated`: whether folds keep people for that; otherwise they are learned from.
    """
    known = pc.field(label).is_valid() if known is None else known
    labelled = everyone.filter(known)
    if not labelled.num_rows:
        raise Refused(f"{options.faces}: no face has {label} to learn from. Put it into the manifest and align again.")
    if options.folds:
        cards = strata(labelled) if strata else np.asarray(labelled[label].to_numpy(), np.float64) // 10
        return _folds(options, labelled, cards, known, calibrated)
    held_out = pc.scalar(False)
    if options.held_out or any(stage.datasets for stage in options.stages):
        _check_datasets(options, everyone)
        held_out = pc.if_else(
            pc.field("dataset").is_valid(), pc.field("dataset").isin(pa.array(options.held_out, pa.string())), False
        )
    splits = {name: known & ~held_out & (pc.field("split") == name) for name in ("train", "tune", "calibrate", "test")}
    there = {name: where for name, where in splits.items() if labelled.filter(where).num_rows}
    if "train" not in there:
        outside = " outside the datasets held out" if options.held_out else ""
        raise Refused(
            f"{options.faces}: no face with {label} has split `train`{outside}. Give some people that split, or "
            "--folds."
        )
    tests: dict[str, pc.Expression] = {name: there[name] for name in ("tune", "test") if name in there}
    tests |= {name: known & (pc.field("dataset") == name) for name in options.held_out}
    for name in options.held_out:
        if not labelled.filter(tests[name]).num_rows:
            raise Refused(
                f"--held-out {name}: none of its faces has {label}, so there is nothing to test on. Leave it out, or "
                "put that into the manifest and align again."
            )
    _check_sides(options.faces, labelled, there["train"])
    return {"": Cohort(there["train"], there.get("tune"), there.get("calibrate"), tests)}


def _check_datasets(options: FinetuneOptions, everyone: pa.Table) -> None:
    if "dataset" not in everyone.column_names:
        raise Refused(f"{options.faces}: its faces have no column dataset, which --held-out and stages ask for. Put it "
                      "into the manifest and align again, or leave these options out.")  # fmt: skip
    there = sorted(set(everyone["dataset"].to_pylist()) - {None})
    for name in (*options.held_out, *(name for stage in options.stages for name in stage.datasets or ())):
        if name not in there:
            raise Refused(
                f"dataset {name!r}: no face is of it; there are {', '.join(there) or 'none'}.{nearest(name, there)}"
            )


def _folds(
    options: FinetuneOptions, labelled: pa.Table, strata: NDArray[np.float64], known: pc.Expression, calibrated: bool
) -> dict[str, Cohort]:
    """Of the people that a fold does not test, 80 % are learned from, a tenth tunes and a tenth calibrates."""
    subjects = labelled["subject_id"].to_pylist()
    fold = deal(subjects, strata, options.folds, seed=options.seed)
    tenth = np.array([drawn(subject, options.seed + 1) * 10 >> 64 for subject in subjects])
    names = np.array(subjects, object)
    found = {}
    for number in range(options.folds):
        rest, shares = fold != number, {"train": tenth < 8, "tune": tenth == 8, "calibrate": tenth == 9}
        if not calibrated:
            shares = {"train": tenth != 8, "tune": tenth == 8}
        where = {
            name: known & pc.field("subject_id").isin(pa.array(sorted(set(names[rest & share])), pa.string()))
            for name, share in shares.items() if (rest & share).any()
        }  # fmt: skip
        tested = known & pc.field("subject_id").isin(pa.array(sorted(set(names[~rest])), pa.string()))
        if "train" not in where:
            raise Refused(f"--folds {options.folds}: nobody of {len(set(subjects))} people is left to learn from.")
        _check_sides(options.faces, labelled, where["train"])
        found[f"fold-{number + 1}"] = Cohort(
            where["train"], where.get("tune"), where.get("calibrate"), {"test": tested}
        )
    return found


def _check_sides(place: str, labelled: pa.Table, train: pc.Expression) -> None:
    learned_from = pc.is_in(labelled["photo_id"], labelled.filter(train)["photo_id"])
    check_leaks(place, labelled, pc.invert(learned_from))
