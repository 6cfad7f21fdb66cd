"""Trials on frozen features: the encoder looks at each face once, by Ray Data; a trial is a head and takes seconds.

    kept, folder = embed(embedding, photos, place, pool)    # done before, wholly or in part: read, not done again
    sweep(head_trial, plan, ..., data={"kept": kept, ...})

The features lie under --features in a folder named by the digest of what made them: encoder, faces, people, precision.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from ray import tune

from fahr import store
from fahr.config import Options as Group
from fahr.faces.rows import decode
from fahr.scores import plan_faces, read_faces
from fahr.scoring import Scorer
from fahr.search.heads import Kept, Setup, cross_validated, refitted
from fahr.search.metrics import METRICS
from fahr.search.people import folds
from fahr.search.settings import configured, head_stages
from fahr.training.begin import begin_predictor
from fahr.training.facesets import data_digest
from fahr.training.head_trials import AgeLesson, HazardLesson, HeadStage, Lesson, RiskLesson
from fahr.training.recipe import Recipe
from fahr.training.sampling import Ints
from jobs import _cluster, _tune
from jobs._finetune import Stage
from jobs._photos import work_off

ROWS_PER_UNIT = 500


@dataclass(frozen=True)
class Embedding:
    """What decides the features of a face."""

    faces: str
    task: str
    init: str
    name: str  # of the network, where init does not say
    patch: int
    size: int
    convention: str
    seed: int  # of random weights
    flip: bool
    precision: str
    device: str

    def predictor(self) -> Any:
        return begin_predictor(
            self.name, self.patch, task=self.task, head="value", size=self.size, init=self.init,
            convention=self.convention, seed=self.seed,
        )  # fmt: skip


class EmbedUnit:
    """An actor: the encoder, one work unit a call."""

    def __init__(self, embedding: Embedding, folder: str, purpose: Mapping[str, Any]) -> None:
        cv2.setNumThreads(1)
        self._embedding = embedding
        begun = embedding.predictor()
        threads = 1 if embedding.device == "cpu" else 0
        self._scorer = Scorer(
            begun.model.eval(), device=embedding.device, precision=embedding.precision, threads=threads
        )
        self._units = store.WorkUnits(folder, purpose, stage="embed")

    def __call__(self, block: pa.Table) -> pa.Table:
        unit, rows = _cluster.unit_of(block)
        started = time.time()
        found = read_faces(self._embedding.faces, rows)
        pixels, why = [], []
        for data in found["face"]:
            face, reason = decode(np.frombuffer(data.as_buffer() or b"", np.uint8))
            if face is not None and not self._scorer.reads(face):
                face, reason = None, "it is all of one colour"
            why.append(reason if face is None else "")
            if face is not None:
                pixels.append(face)
        good = pa.array([not each for each in why])
        faces = np.stack(pixels) if pixels else np.zeros((0, self._embedding.size, self._embedding.size, 3), np.uint8)
        made = self._scorer.features(faces)
        if self._embedding.flip:  # a linear head on the mean is the mean over both
            mirrored = self._scorer.features(np.ascontiguousarray(faces[:, :, ::-1]))
            made = (made + mirrored) * np.float32(0.5)
        table = pa.table({"photo_id": found["photo_id"].filter(good), "features": _lists(made)})
        bad = pa.table(
            {"photo_id": found["photo_id"].filter(pc.invert(good)), "detail": [each for each in why if each]}
        )
        ledger = store.Ledger(
            "embed", rows.num_rows, table.num_rows, {"unreadable": bad.num_rows} if bad.num_rows else {}
        )
        self._units.commit(unit, rows, {"features": table, "rejects": bad}, ledger)
        return _cluster.counts(ledger, started, time.time())


def _lists(features: np.ndarray) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, features.shape[1])


def embed(embedding: Embedding, photos: pa.Table, place: str, pool: _cluster.Pool) -> tuple[Kept, str]:
    """Features of the rows of `photos` (photo_id and labels) that decode, and the folder they lie in."""
    parent = embedding.predictor().parent
    own = {} if parent else {"name": embedding.name, "patch": embedding.patch, "seed": embedding.seed}
    purpose = {
        "encoder": parent or embedding.init, **own, "faces": data_digest(embedding.faces), "flip": embedding.flip,
        "precision": embedding.precision, "size": embedding.size,
        "photos": hashlib.sha256("\n".join(sorted(photos["photo_id"].to_pylist())).encode()).hexdigest()[:16],
    }  # fmt: skip
    folder = store.join(place, hashlib.sha256(json.dumps(purpose, sort_keys=True).encode()).hexdigest()[:16])
    units = store.WorkUnits(folder, purpose, stage="embed")
    rows = plan_faces(embedding.faces).rows
    rows = rows.filter(pc.is_in(rows["photo_id"], photos["photo_id"].combine_chunks()))
    work_off(
        pool, EmbedUnit, (embedding, folder, purpose), rows, units, ROWS_PER_UNIT, started=time.time(),
        groups=rows["file"].combine_chunks(), noun="faces",
    )  # fmt: skip
    found = pa.concat_tables(list(store.read_units(folder, "features"))).sort_by("photo_id").combine_chunks()
    column = found["features"].chunk(0)
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    at = pc.index_in(photos["photo_id"].combine_chunks(), found["photo_id"].combine_chunks())
    table = photos.filter(pc.is_valid(at))
    return Kept(np.ascontiguousarray(features[at.drop_null().to_numpy()], np.float32), table), folder


# A trial


@dataclass(frozen=True, eq=False)
class Heads:
    """What every head trial knows; goes to each process once."""

    task: str
    options: type[Group]  # of the fine-tune job
    base: Mapping[str, Any]  # the job's options as plain values, around which is searched
    kept: Kept
    pool: Ints
    aside: Ints
    tune_folds: int

    def setup(self, settings: Mapping[str, Any]) -> Setup:
        """The job's configuration with these settings, as far as a head needs it. Refused: what the job refuses."""
        plain = configured(self.base, self.task, settings)
        chosen: Any = self.options.model_validate(plain)
        stages = [Stage.model_validate(each) for each in head_stages(plain, self.task)]

        def lesson(table: pa.Table) -> Lesson:
            if self.task == "age":
                return AgeLesson(table, loss=chosen.loss, balance=chosen.balance)
            if chosen.loss == "hazard":
                return HazardLesson(table, events=chosen.events)
            return RiskLesson(
                table, loss=chosen.loss, weight=chosen.weight, tau=chosen.tau, margin=chosen.margin,
                events=chosen.events, age_offset=chosen.age_offset,
            )  # fmt: skip

        def steps(rows: int, seed: int) -> tuple[HeadStage, ...]:
            found: list[HeadStage] = []
            for stage in stages:
                recipe: Recipe = stage.recipe(chosen, rows)
                found.append(HeadStage(recipe.model_copy(update={"seed": seed, "compile": False}), stage.balanced))
            return tuple(found)

        return Setup(lesson, steps)


def head_trial(config: dict[str, Any], heads: Heads) -> None:
    """A trainable: `number`, `settings`, `seed`; `held`, where what it says of the people kept aside is written."""
    torch.set_num_threads(1)
    _tune.trial(lambda config: _head_trial(config, heads), config)


def _head_trial(config: Mapping[str, Any], heads: Heads) -> None:
    metric, seed = METRICS[heads.task], config["seed"]
    began = time.perf_counter()
    setup = heads.setup(config["settings"])
    pool = heads.kept.take(heads.pool)
    fold = folds(pool.table, heads.task, heads.tune_folds, seed=seed)
    curve: list[tuple[int, float]] = []
    best = None
    for step, found in cross_validated(pool, setup, metric, fold, seed=seed):
        curve.append((step, found.value))
        if best is None or found.score < best[1].score:
            best = step, found
        tune.report({"step": step, "metric": found.value, "score": best[1].score})
    assert best is not None
    if "held" in config:
        values = refitted(heads.kept, heads.pool, heads.aside, setup, seed=seed, until=best[0])
        store.write_bytes(store.join(config["held"], f"{config['number']:05d}.npy"), saved(values))
    tune.report({
        "step": curve[-1][0], "metric": best[1].value, "score": best[1].score, "se": best[1].standard_error,
        "best_step": best[0], "curve": curve, "ended": True,
        "seconds": time.perf_counter() - began,
    })  # fmt: skip


def saved(values: np.ndarray) -> bytes:
    with BytesIO() as file:
        np.save(file, values, allow_pickle=False)
        return file.getvalue()


def loaded(location: str) -> np.ndarray:
    found: np.ndarray = np.load(BytesIO(store.read_bytes(location)), allow_pickle=False)
    return found
