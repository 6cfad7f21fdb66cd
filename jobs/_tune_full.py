"""Trials that are the fine-tune job itself: one model each, on workers of its own, by Ray Train inside the trial.

The function that Ray Tune calls holds no share of the training: it builds a TorchTrainer, whose workers lie outside the
trial's own reservation. So no more trials run at a time than the cluster has workers for (`most_concurrent`), or they
would starve each other. What the first worker reports reaches Tune by `TuneReportCallback`. With `workers` 0 the model
is learned in the trial's process.

A trial's states are the job's own: killed and begun again, it goes on from the newest.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from fahr import store
from fahr.search.metrics import METRICS
from fahr.search.settings import configured
from fahr.training.facesets import data_digest
from fahr.training.journal import read_rows
from fahr.training.keeper import Keeper
from fahr.training.workers import rank
from jobs import _run, _train, _tune
from jobs._finetune import Cohort
from jobs._train import Team
from jobs._tune_features import saved

TUNE, ASIDE = "tune", "aside"  # what is looked at: by every trial; by finalists, once


@dataclass(frozen=True, eq=False)
class Whole:
    """What every full trial knows."""

    task: str
    job: ModuleType  # jobs.finetune_survival or jobs.finetune_age
    base: Mapping[str, Any]  # the job's options as plain values, around which is searched
    folder: str  # of the trials' runs
    photos: Mapping[str, pa.Array]  # "train", "tune", "aside": ids

    def options(self, settings: Mapping[str, Any], seed: int, place: str) -> Any:
        plain = configured(self.base, self.task, settings)
        own = {"output": place, "seed": seed, "bootstraps": 0, "checkpoint_minutes": 1.0, "config": None}
        return self.job.Options.model_validate({**plain, **own})


@dataclass(frozen=True)
class Lesson:
    """What a trial's workers do, once Ray Train has brought them together. Sent to them, so it holds names alone."""

    whole: Whole
    parts: tuple[str, ...]
    place: str

    def __call__(self, options: Any, digest: str, team: Team) -> dict[str, Any]:
        number = itertools.count(1)

        def report(row: Mapping[str, Any]) -> None:
            score = {} if row.get("score") is None else {"score": row["score"], "metric": _metric(self.whole, row)}
            team.report({"step": next(number), **score})

        where = {name: pc.field("photo_id").isin(each) for name, each in self.whole.photos.items()}
        cohort = Cohort(where["train"], where[TUNE], None, {name: where[name] for name in self.parts})
        told = self.whole.job.learned(options, cohort, self.place, digest, replace(team, report=report))
        if rank() != 0:
            return {}
        faces, values = told[TUNE]
        known = np.isfinite(values)
        found = METRICS[self.whole.task].measured(faces.table.filter(pa.array(known)), values[known])
        if ASIDE in told:
            ids = told[ASIDE][0].table["photo_id"].combine_chunks()
            at = pc.index_in(self.whole.photos[ASIDE], ids)
            store.write_bytes(store.join(self.place, "aside.npy"), saved(told[ASIDE][1][at.to_numpy()]))
        return {"metric": found.value, "score": found.score, "se": found.standard_error}


def _metric(whole: Whole, row: Mapping[str, Any]) -> float:
    return float(1 - row["score"] if METRICS[whole.task].higher_is_better else row["score"])


def full_trial(config: dict[str, Any], whole: Whole) -> None:
    """A trainable: `number`, `settings`, `seed`; `held`, where what it says of the people kept aside is written."""
    _tune.trial(lambda config: _full_trial(config, whole), config)


def _full_trial(config: Mapping[str, Any], whole: Whole) -> None:
    """Begun again after it was killed: goes on; after it has ended, but was not noted: tells what it told."""
    held = config.get("held")
    name = f"trial-{config['number']:05d}" if held is None else f"finalist-{store.name(held)}-{config['number']:05d}"
    place = store.join(whole.folder, name)
    options = whole.options(config["settings"], config["seed"], place)
    digest = _run.own_folder(options, data_digest(options.faces))
    ended = store.join(place, "told.json")
    if not store.exists(ended):
        told = _learned(whole, options, digest, place, name, (TUNE, ASIDE) if held else (TUNE,))
        curve = _curve(whole, options, place)
        best = max(range(len(curve)), key=lambda at: (-abs(curve[at][1] - told["metric"]), -at), default=0)
        row = {**told, "step": max(1, len(curve)), "best_step": best + 1, "curve": curve, "ended": True}
        store.write_bytes(ended, json.dumps(row).encode())
    if held:
        values = store.read_bytes(store.join(place, "aside.npy"))
        store.write_bytes(store.join(held, f"{config['number']:05d}.npy"), values)
    for number, stage in enumerate(options.stages, 1):  # the checkpoint has the weights
        for kept in ("states", "best"):
            Keeper(store.join(place, f"stage-{number}-{stage.name}", kept), digest, None).clear()
    tune.report(json.loads(store.read_bytes(ended)))


def _learned(
    whole: Whole, options: Any, digest: str, place: str, name: str, parts: tuple[str, ...]
) -> dict[str, Any]:  # fmt: skip
    work = Lesson(whole, parts, place)
    if not options.workers:
        return _train.train(work, options, digest, report=lambda row: tune.report(dict(row)))
    heard = TuneReportCallback()  # type: ignore[no-untyped-call]  # can be made inside a trial alone
    return _train.train(work, options, digest, name=name, callbacks=[heard])


def _curve(whole: Whole, options: Any, place: str) -> list[tuple[int, float]]:
    """Every judgement of all stages, in order."""
    rows: list[Mapping[str, Any]] = []
    for number, stage in enumerate(options.stages, 1):
        rows += read_rows(store.join(place, f"stage-{number}-{stage.name}"))
    judged = [row for row in rows if row["kind"] == "judged" and row.get("score") is not None]
    return [(step, _metric(whole, row)) for step, row in enumerate(judged, 1)]
