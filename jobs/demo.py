"""The whole story on synthetic people, from nothing to a judged score, endpoints, and a table against the truth.

Laptop:   make demo                    (the same as: python jobs/demo.py)
          make demo PHOTOS=my/photos   scores a folder of your own with the demo's models, made first if need be

It is jobs/pipeline.py with configs/laptop_pipeline.yaml, shortened, and around it: people whose truth is known before,
a small sweep, the endpoints and the table after. Every stage leaves its result under --output and is skipped when it is
there, so a second run takes seconds and a stopped one goes on. The table compares with the planted truth, and the demo
fails loudly when it disagrees.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import ray

from fahr import images, store
from fahr.cohorts import read_manifest
from fahr.cohorts.synthetic import CohortOptions, make_cohort
from fahr.config import JobOptions, Location, option, read_yaml
from fahr.errors import Refused
from fahr.scores.tables import NAME as SCORES_CSV
from fahr.training.journal import read_rows
from jobs import _demo_serve, _demo_truth, index, pipeline, score, tune
from jobs._pipeline import Clock, spell

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
SIZE_PX = 192  # of a photo: a face of it fills 112 px
# What each stage takes on two quiet cores, seconds: for the time left, which then goes by what the stages took.
BUDGET_S = {"people": 15, "manifest": 2, "pipeline": 375, "settings": 45, "endpoints": 27, "table": 2}
MINUTES = {"align": 1.8, "pretrain": 1.0, "age": 1.1, "survival": 1.4, "score": 0.7, "evaluate": 0.1}
MODELS = {"mae": "pretrain", "age": "age", "survival": "survival/arm-mae"}  # under models/, and what they are

# Two passes over the faces are too few to learn what does not matter, and an autoencoder of a minute has nothing that
# its first blocks should keep: small batches, hardly any augmentation, one rate for all blocks (docs/log.md: figures).
SHORT: dict[str, Any] = {
    "global_batch": 32, "micro_batch": 32, "layer_decay": 1.0, "drop_path": 0.0,
    "augmentation": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1},
}  # fmt: skip


class Options(JobOptions):
    """The whole story on synthetic people, from nothing to a judged score, endpoints, and a table against the truth.

    make demo
    """

    output: Location = option("out/demo", help="folder for everything the demo makes; local", result=False)
    photos: Location | None = option(
        None, help="a folder of your own photos, to be scored with the demo's models", off="none", result=False
    )
    subjects: int = option(2000, help="how many people to invent", unit="people", ge=200)
    photos_per_subject: int = option(2, help="photos of each at most", unit="photos", ge=1, le=16)
    samples: int = option(7_000, help="faces shown to the model, again and again", unit="faces", ge=640)
    age_samples: int = option(4_500, help="faces shown to it to learn age", unit="faces", ge=640)
    risk_samples: int = option(
        2_500, help="faces shown to it to learn who dies first, and as many from a random start", unit="faces", ge=320
    )
    trials: int = option(8, help="settings of the ranking loss that are tried", unit="trials", ge=2)
    seed: int = option(0, help="another seed, other people", unit="any whole number", ge=0)


def main(options: Options) -> None:
    """All stages in order."""
    if store.is_s3(options.output):
        raise Refused(f"--output = {options.output}: the demo works in a local folder. Give a path.")
    if options.dry_run:
        print("resources: 2 workers in a Ray of this machine's own, 8 GB of memory, about 600 MB of disk")
        return
    _own_folder(options, store.join(options.output, "demo.json"))
    models = {name: store.join(options.output, "models", name) for name in MODELS}
    if options.photos is None or not os.path.isdir(models["survival"]):
        _story(options, models)
    if options.photos is not None:
        _score_own(options.photos, models, options.output)


def _story(options: Options, models: dict[str, str]) -> None:
    """From people to the table."""
    stages = Stages(options)
    people = stages.make("people", _make_people)
    stages.make("manifest", lambda options, place: _index(options, people, place))
    manifest = store.join(options.output, "manifest", "people.parquet")
    chain = stages.run("pipeline", lambda options: _chain(options, manifest))
    for name, made in MODELS.items():
        stage, _, arm = made.partition("/")
        _copy(
            store.join(chain[stage], arm, "checkpoint") if arm else store.join(chain[stage], "checkpoint"), models[name]
        )
    _sheet(read_manifest(manifest), chain["align"], store.join(options.output, "by_age.png"))
    _painted(chain["pretrain"])
    stages.make("settings", lambda options, place: _tune(chain["align"], models["mae"], options, place))
    if ray.is_initialized():
        ray.shutdown()  # the service starts one of its own
    stages.make("endpoints", lambda options, place: _endpoints(people, models, place))
    table = stages.run("table", lambda options: _judged(people, chain, options.output))
    print(table.told())
    print(f"demo: the report is {store.join(chain['evaluate'], 'report.html')}")
    print(f"demo: everything lies in {options.output} | {spell(time.monotonic() - stages.clock.started)}")
    if not table.agrees:
        raise RuntimeError("the table misses what must hold (see MISSED): the science is broken")


def _own_folder(options: Options, purpose: str) -> None:
    """One folder, one set of options: stages found there must be ours."""
    if not store.create_bytes(purpose, json.dumps(options.deciding()).encode()):
        before = json.loads(store.read_bytes(purpose))
        if before != options.deciding():
            raise Refused(f"{options.output}: holds a demo with other options ({before}). Delete it, or give --output.")


class Stages:
    """One after the other, each with its budget and the time left."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock = Clock({name: float(seconds) for name, seconds in BUDGET_S.items()})

    def make(self, name: str, work: Callable[[Options, str], None]) -> str:
        """A folder under a working name, then its own: a folder of that name is a finished stage."""
        place = store.join(self.options.output, name)
        if os.path.isdir(place):
            print(f"{name}: here already")
            return place

        def whole(options: Options) -> None:
            working = f"{place}.unfinished"
            shutil.rmtree(working, ignore_errors=True)
            work(options, working)
            os.rename(working, place)

        self.run(name, whole)
        return place

    def run(self, name: str, work: Callable[[Options], T]) -> T:
        """What goes on by itself."""
        todo = list(BUDGET_S)[list(BUDGET_S).index(name) :]
        left = self.clock.left(todo)
        assert left is not None
        print(f"demo: {name}: budget {BUDGET_S[name]} s, at most about {spell(left)} left in all", flush=True)
        began = time.monotonic()
        found = work(self.options)
        took = time.monotonic() - began
        self.clock.ended(name, took)
        print(f"{name}: {took:.1f} s", flush=True)
        return found


def _make_people(options: Options, place: str) -> None:
    small = CohortOptions(size_px=SIZE_PX)
    make_cohort(options.subjects, options.photos_per_subject, seed=options.seed, out=place, options=small)


def _index(options: Options, people: str, place: str) -> None:
    """The folder of photos and the hospital's table become one manifest, as they would from a bucket."""
    labels = read_manifest(store.join(people, "manifest.parquet")).drop_columns(["uri"])
    os.makedirs(place)
    pq.write_table(labels, store.join(place, "labels.parquet"))
    index.main(
        index.Options(
            photos=store.join(people, "photos"),
            output=store.join(place, "people.parquet"),
            labels=store.join(place, "labels.parquet"),
            match="stem",
        )
    )


def _chain(options: Options, manifest: str) -> dict[str, str]:
    """The laptop's pipeline, shorter; the folder of each stage."""
    place = store.join(options.output, "pipeline")
    risk = options.risk_samples
    shorter: dict[str, dict[str, Any]] = {
        "align": {"rows_per_unit": 250},
        "pretrain": {"samples": options.samples, "judgements": 3, "judged_faces": 500},
        "age": {
            "stages": [
                {"name": "all", "samples": options.age_samples},
                {"name": "balanced", "samples": options.age_samples // 4, "balanced": True, "base_lr": 5e-3},
            ],
            **SHORT, "base_lr": 1e-2, "judge_epochs": 1.5, "bootstraps": 200,
        },
        "survival": {
            "stages": [{"name": "all", "samples": risk}], "arms": ["mae", "random"],
            **SHORT, "base_lr": 4e-3, "judge_epochs": 1.0, "bootstraps": 200,
        },
        "score": {"rows_per_unit": 500},
        "evaluate": {},
    }  # fmt: skip
    recipe = read_yaml(str(ROOT / "configs" / "laptop_pipeline.yaml"))
    sections: dict[str, Any] = {}
    for name, more in shorter.items():
        section = dict(recipe.get(name, {}))
        if "config" in section:
            section["config"] = str(ROOT / section["config"])
        sections[name] = {**section, **more}
        if name in ("pretrain", "age", "survival"):
            sections[name]["seed"] = options.seed
    pipeline.main(pipeline.Options(manifest=manifest, output=place, minutes=MINUTES, **sections))
    return pipeline.places(place)


def _copy(checkpoint: str, place: str) -> None:
    """To a name that does not change with the settings."""
    if os.path.isdir(place) and store.digest(f"{place}/config.json") == store.digest(f"{checkpoint}/config.json"):
        return
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(checkpoint, f"{place}.unfinished", dirs_exist_ok=True)
    os.rename(f"{place}.unfinished", place)


SHEET_COLUMNS, SHEET_ROWS = 12, 6


def _sheet(table: pa.Table, aligned: str, place: str) -> None:
    """Aligned faces, from the youngest to the oldest."""
    if os.path.exists(place):
        return
    by_age = table.sort_by([("age", "ascending"), ("photo_id", "ascending")])["photo_id"].to_pylist()
    shown = {by_age[i] for i in np.linspace(0, len(by_age) - 1, SHEET_COLUMNS * SHEET_ROWS).astype(int)}
    faces: dict[str, np.ndarray] = {}
    for part in store.read_units(aligned, "faces", ["photo_id", "face"]):
        for photo, data in zip(part["photo_id"].to_pylist(), part["face"].to_pylist(), strict=True):
            if photo in shown:
                faces[photo] = images.decode(data).pixels
    cells = [faces[photo] for photo in by_age if photo in faces]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % SHEET_COLUMNS)
    sheet = np.vstack([np.hstack(cells[i : i + SHEET_COLUMNS]) for i in range(0, len(cells), SHEET_COLUMNS)])
    done, png = cv2.imencode(".png", sheet[:, :, ::-1])
    assert done
    store.write_bytes(place, png.tobytes())


LEARNED = 0.95  # masked loss; one who paints each hidden patch in its mean colour has 1


def _painted(model: str) -> None:
    """What the autoencoder paints into people it never saw."""
    judged = [row for row in read_rows(model) if row["kind"] == "judged"]
    gain = judged[-1]["psnr"] - judged[-1]["psnr_of_means"]
    print(f"model: hidden patches of unseen people are painted {gain:+.1f} dB against their mean colours")
    if judged[-1]["masked_loss"] > LEARNED:
        raise RuntimeError(
            f"masked loss {judged[-1]['masked_loss']:.3f} on unseen people, at most {LEARNED} is expected: the model "
            "did not learn"
        )


def _tune(aligned: str, model: str, options: Options, place: str) -> None:
    """Settings of the ranking loss on frozen features: does the best beat the default on people kept aside?"""
    tune.main(
        tune.Options(
            task="survival", faces=aligned, init=model, output=place, samples=options.trials,
            base=str(ROOT / "configs" / "laptop_survival.yaml"), tune_folds=3,
            finalists=1, seeds=2, bootstraps=200, seed=options.seed,
            space={
                "loss": ["logistic", "hinge", "cox"], "tau": {"low": 0.1, "high": 10.0, "log": True},
                "events": {"low": 0.1, "high": 0.5},
            },
        )
    )  # fmt: skip


def _endpoints(people: str, models: dict[str, str], place: str) -> None:
    """The service with these models, asked about the first person with two photos a year or two apart."""
    table = read_manifest(store.join(people, "manifest.parquet")).sort_by(
        [("subject_id", "ascending"), ("taken_on", "ascending")]
    )
    rows = table.select(["subject_id", "taken_on", "uri"]).to_pylist()
    pairs = ((a, b) for a, b in pairwise(rows) if a["subject_id"] == b["subject_id"])
    first, second = next((a, b) for a, b in pairs if 366 <= (b["taken_on"] - a["taken_on"]).days <= 730)
    photos = [store.read_bytes(store.absolute(each["uri"], people)) for each in (first, second)]
    _demo_serve.ask_each([models["age"], models["survival"]], photos, [first["taken_on"], second["taken_on"]], place)


def _judged(people: str, chain: dict[str, str], output: str) -> _demo_truth.Table:
    told = json.loads(store.read_bytes(store.join(chain["survival"], "arm-random", "evaluation", "test.json")))
    table = _demo_truth.judge(people, chain["score"], told["ranked"]["c_index"])
    table.write(store.join(output, "truth.json"))
    return table


def _score_own(photos: str, models: dict[str, str], output: str) -> None:
    """A folder of the user's own: every photo a row of scores.csv, or a reject with its reason."""
    place = store.join(output, f"own-{hashlib.sha256(photos.encode()).hexdigest()[:8]}")
    manifest = store.join(place, "photos.parquet")
    index.main(index.Options(photos=photos, output=manifest))
    scores = store.join(place, "scores")
    ledger = score.main(score.Options(manifest=manifest, models=[models["age"], models["survival"]], output=scores))
    if ledger.rows_out:
        ages = pyarrow.csv.read_csv(store.join(scores, SCORES_CSV))["face_age"]
        low, middle, high = (pc.quantile(ages, q=each)[0].as_py() for each in (0, 0.5, 1))
        print(f"demo: face ages from {low:.0f} to {high:.0f} years, the middle one {middle:.0f}: {scores}/{SCORES_CSV}")
    print(
        "demo: these models have seen a few thousand drawn faces and not one photograph. The numbers show that "
        "everything runs on your photos, and nothing about the people in them."
    )


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.demo import Options, main

    sys.argv[0] = "demo"
    run_job(Options, main)
