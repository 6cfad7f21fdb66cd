"""The whole story on synthetic people, from nothing to pictures and a table against the truth.

Laptop:   make demo        (the same as: python jobs/demo.py)

Every stage leaves its result under --output and is skipped when it is there, so a second run takes seconds and a
stopped one goes on. The table at the end compares with the planted truth, and the demo fails loudly when it disagrees.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lifelines import CoxPHFitter

from fahr import images, store
from fahr.cohorts import read_manifest
from fahr.cohorts.synthetic import CohortOptions, make_cohort
from fahr.cohorts.synthetic.truth import (
    AGE_LOG_HAZARD_PER_YEAR,
    DEVIATION_LOG_HAZARD_PER_YEAR,
    FRAILTY_LOG_HAZARD,
)
from fahr.config import JobOptions, Location, option
from fahr.errors import Refused
from fahr.training.journal import read_rows
from jobs import align, finetune_age, finetune_survival, index, pretrain, score, tune
from jobs._finetune import Stage


class Options(JobOptions):
    """The whole story on synthetic people, from nothing to pictures and a table against the truth.

    make demo
    """

    output: Location = option("out/demo", help="folder for everything the demo makes; local", result=False)
    subjects: int = option(1000, help="how many people to invent", unit="people", ge=200)
    photos_per_subject: int = option(2, help="photos of each at most", unit="photos", ge=1, le=16)
    samples: int = option(24_000, help="faces shown to the model, again and again", unit="faces", ge=640)
    age_samples: int = option(9_000, help="faces shown to it to learn age", unit="faces", ge=640)
    risk_samples: int = option(6_000, help="faces shown to it to learn who dies first", unit="faces", ge=320)
    trials: int = option(10, help="settings of the ranking loss that are tried", unit="trials", ge=2)
    seed: int = option(0, help="another seed, other people", unit="any whole number", ge=0)


def main(options: Options) -> None:
    """All stages in order."""
    if store.is_s3(options.output):
        raise Refused(f"--output = {options.output}: the demo works in a local folder. Give a path.")
    if options.dry_run:
        print("resources: 2 workers in a Ray of this machine's own, 6 GB of memory, about 400 MB of disk")
        return
    purpose = store.join(options.output, "demo.json")
    _own_folder(options, purpose)
    started = time.monotonic()
    people = _stage("people", options, _make_people)
    _stage("manifest", options, lambda options, place: _index(options, people, place))
    manifest = store.join(options.output, "manifest", "people.parquet")
    table = read_manifest(manifest)
    aligned = _stage("aligned", options, lambda options, place: _align(table, manifest, place))
    model = _stage("model", options, lambda options, place: _pretrain(aligned, options.samples, options.seed, place))
    age = _stage("age", options, lambda options, place: _learn_age(aligned, model, options, place))
    risk = _stage("survival", options, lambda options, place: _learn_risk(aligned, model, options, place))
    _stage("settings", options, lambda options, place: _tune(aligned, model, options, place))
    scores = _stage("scores", options, lambda options, place: _score(aligned, [age, risk], place))
    truth = pq.read_table(store.join(people, "truth.parquet"))
    _face_ages_against_the_truth(scores, truth)
    agrees = _against_the_truth(table, truth)
    print(f"demo: everything lies in {options.output} | {time.monotonic() - started:.0f} s")
    if not agrees:
        raise RuntimeError("an estimate misses the planted truth (see the table): the science is broken")


def _own_folder(options: Options, purpose: str) -> None:
    """One folder, one set of options: stages found there must be ours."""
    if not store.create_bytes(purpose, json.dumps(options.deciding()).encode()):
        before = json.loads(store.read_bytes(purpose))
        if before != options.deciding():
            raise Refused(f"{options.output}: holds a demo with other options ({before}). Delete it, or give --output.")


def _stage(name: str, options: Options, make: Callable[[Options, str], None]) -> str:
    """Make a folder under a working name, then give it its own: a folder of that name is a finished stage."""
    place = store.join(options.output, name)
    if os.path.isdir(place):
        print(f"{name}: here already")
        return place
    started = time.monotonic()
    working = f"{place}.unfinished"
    shutil.rmtree(working, ignore_errors=True)
    make(options, working)
    os.rename(working, place)
    print(f"{name}: {time.monotonic() - started:.1f} s")
    return place


def _make_people(options: Options, place: str) -> None:
    make_cohort(options.subjects, options.photos_per_subject, seed=options.seed, out=place)


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


SHEET_COLUMNS, SHEET_ROWS = 12, 6


def _align(table: pa.Table, manifest: str, place: str) -> None:
    """The photos become faces of 112 px, through Ray Data; a contact sheet from the youngest to the oldest."""
    ledger = align.main(align.Options(manifest=manifest, output=place, detector="mtcnn", rows_per_unit=250))
    if ledger.rows_out < 0.97 * ledger.rows_in:
        raise RuntimeError(f"only {ledger.rows_out:,} of {ledger.rows_in:,} rendered faces were found")
    by_age = table.sort_by([("age", "ascending"), ("photo_id", "ascending")])["photo_id"].to_pylist()
    shown = {by_age[i] for i in np.linspace(0, len(by_age) - 1, SHEET_COLUMNS * SHEET_ROWS).astype(int)}
    faces: dict[str, np.ndarray] = {}
    for part in store.read_units(place, "faces", ["photo_id", "face"]):
        for photo, data in zip(part["photo_id"].to_pylist(), part["face"].to_pylist(), strict=True):
            if photo in shown:
                faces[photo] = images.decode(data).pixels
    cells = [faces[photo] for photo in by_age if photo in faces]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % SHEET_COLUMNS)
    sheet = np.vstack([np.hstack(cells[i : i + SHEET_COLUMNS]) for i in range(0, len(cells), SHEET_COLUMNS)])
    done, png = cv2.imencode(".png", sheet[:, :, ::-1])
    assert done
    store.write_bytes(store.join(place, "figures", "by_age.png"), png.tobytes())


LEARNED = 0.95  # masked loss; one who paints each hidden patch in its mean colour has 1


def _pretrain(aligned: str, samples: int, seed: int, place: str) -> None:
    """A tiny masked autoencoder learns faces; what it paints into people it never saw is drawn and measured."""
    pretrain.main(
        pretrain.Options(
            faces=aligned, output=place, model="vit_tiny", patch=16, samples=samples, global_batch=64, micro_batch=64,
            base_lr=4e-3, decoder=pretrain.DecoderOptions(width=192, depth=4, num_heads=3), workers=0, seed=seed,
            judged_faces=500, checkpoint_minutes=1,
        )
    )  # fmt: skip
    judged = [row for row in read_rows(place) if row["kind"] == "judged"]
    gain = judged[-1]["psnr"] - judged[-1]["psnr_of_means"]
    print(f"model: hidden patches of unseen people are painted {gain:+.1f} dB against their mean colours")
    if judged[-1]["masked_loss"] > LEARNED:
        raise RuntimeError(
            f"masked loss {judged[-1]['masked_loss']:.3f} on unseen people, at most {LEARNED} is expected: the model "
            "did not learn"
        )


GUESSED = 0.75  # of the error of guessing the mean age, which the age model must stay below


def _learn_age(aligned: str, model: str, options: Options, place: str) -> None:
    """The encoder learns age in two stages, the second with rare ages drawn more often."""
    first, second = options.age_samples, options.age_samples // 3
    finetune_age.main(
        finetune_age.Options(
            faces=aligned, output=place, init=store.join(model, "checkpoint"), workers=0, seed=options.seed,
            stages=(
                Stage(name="all", samples=first),
                Stage(name="balanced", samples=second, balanced=True, base_lr=2.5e-3),
            ),
            global_batch=64, micro_batch=64, base_lr=5e-3, judge_epochs=2, checkpoint_minutes=1, bootstraps=200,
        )
    )  # fmt: skip
    told = json.loads(store.read_bytes(store.join(place, "evaluation", "test.json")))
    found = pq.read_table(store.join(place, "predictions.parquet")).filter(pc.field("part") == "test")
    ages = found["age"].to_numpy()
    mae, guess = told["errors"]["mae"]["value"], float(np.abs(ages - ages.mean()).mean())
    print(f"age: unseen people are misjudged by {mae:.1f} years; guessing their mean age misses by {guess:.1f}")
    if mae > GUESSED * guess:
        raise RuntimeError(f"error {mae:.1f} years, at most {GUESSED} of {guess:.1f} is expected: nothing was learned")


RANKED = 0.55  # C-index on unseen people; tossing a coin has 0.5


def _learn_risk(aligned: str, model: str, options: Options, place: str) -> None:
    """The encoder learns which of two people dies first."""
    finetune_survival.main(
        finetune_survival.Options(
            faces=aligned, output=place, init=store.join(model, "checkpoint"), workers=0, seed=options.seed,
            stages=(Stage(name="all", samples=options.risk_samples),), global_batch=64, micro_batch=64, base_lr=2e-3,
            judge_epochs=2, checkpoint_minutes=1, bootstraps=200,
        )
    )  # fmt: skip
    told = json.loads(store.read_bytes(store.join(place, "evaluation", "test.json")))["ranked"]
    print(
        f"survival: of two unseen people the one who died first had the higher risk in {told['c_index']:.0%} "
        f"({told['people']} people, {told['events']} deaths)"
    )
    if not told["c_index"] > RANKED:
        raise RuntimeError(f"C-index {told['c_index']:.2f}, more than {RANKED} is expected: nothing was learned")


def _tune(aligned: str, model: str, options: Options, place: str) -> None:
    """Settings of the ranking loss on frozen features: does the best beat the default on people kept aside?"""
    tune.main(
        tune.Options(
            task="survival", faces=aligned, init=store.join(model, "checkpoint"), output=place, samples=options.trials,
            base=str(Path(__file__).resolve().parents[1] / "configs" / "laptop_survival.yaml"), tune_folds=3,
            finalists=1, seeds=2, bootstraps=200, seed=options.seed,
            space={
                "loss": ["logistic", "hinge", "cox"], "tau": {"low": 0.1, "high": 10.0, "log": True},
                "events": {"low": 0.1, "high": 0.5},
            },
        )
    )  # fmt: skip


def _score(aligned: str, models: list[str], place: str) -> None:
    """Every aligned face gets a face age, its interval and its deviation, and a risk with its percentile."""
    checkpoints = [store.join(each, "checkpoint") for each in models]
    score.main(score.Options(faces=aligned, models=checkpoints, output=place, rows_per_unit=500))


def _face_ages_against_the_truth(scores: str, truth: pa.Table) -> None:
    """The deviation that was planted into a face, not its calendar age, is what the face age should tell."""
    parts = list(store.read_units(scores, "scores", ["photo_id", "split", "age", "face_age"]))
    found = pa.concat_tables(parts).filter(pc.field("split") == "test")
    names = pc.replace_substring_regex(found["photo_id"], r"\.jpg$", "")
    known = truth.select(["photo_id", "apparent_age"])
    joined = found.set_column(0, "photo_id", names).join(known, "photo_id", join_type="inner").to_pandas()
    joined = joined[joined["face_age"].notna()]
    drawn, calendar = joined["apparent_age"], joined["age"]
    misses = [float((joined["face_age"] - each).abs().mean()) for each in (drawn, calendar)]
    r = np.corrcoef(joined["face_age"] - calendar, drawn - calendar)[0, 1]
    print(
        f"{len(joined):,} photos of unseen people: face age misses the age that was drawn by {misses[0]:.1f} years, "
        f"the calendar's by {misses[1]:.1f}; deviation found and planted: r = {r:.2f}"
    )


def _against_the_truth(table: pa.Table, truth: pa.Table) -> bool:
    """Cox on the true covariates of the first photos must hold the planted coefficients, half-width said."""
    outcomes = table.select(["photo_id", "follow_up_days", "entry_days", "event"])
    names = pc.replace_substring_regex(outcomes["photo_id"], r"\.jpg$", "")  # the index names a photo by its file
    joined = outcomes.set_column(0, "photo_id", names).join(truth, "photo_id", join_type="inner").to_pandas()
    assert len(joined) == table.num_rows, "photos without a truth"
    first = joined.sort_values("photo_id").groupby("subject_id").head(1)
    frame = first[["age", "dev_ref", "frailty", "aging_rate", "follow_up_days", "entry_days", "event"]]
    frame = frame.rename(columns={"follow_up_days": "time", "entry_days": "entry"})
    cox = CoxPHFitter().fit(frame, "time", "event", entry_col="entry")
    planted = {
        "age": (AGE_LOG_HAZARD_PER_YEAR, 10, "age, per decade"),
        "dev_ref": (DEVIATION_LOG_HAZARD_PER_YEAR, 10, "deviation, per decade"),
        "frailty": (FRAILTY_LOG_HAZARD, 1, "frailty, per SD"),
        "aging_rate": (CohortOptions().rate_log_hazard, 1, "aging rate, per 1.0"),
    }
    print(f"{len(frame):,} people, {int(frame['event'].sum()):,} deaths   log hazard ratios")
    print(f"  {'':24s}{'truth':>8s}{'true scores':>14s}{'99 % interval':>20s}")
    agrees = True
    for name, (value, scale, label) in planted.items():
        estimate, error = cox.params_[name] * scale, cox.standard_errors_[name] * scale
        low, high = estimate - 2.576 * error, estimate + 2.576 * error
        inside = low <= value * scale <= high
        agrees &= inside
        mark = "" if inside else "   MISSED"
        print(f"  {label:24s}{value * scale:8.3f}{estimate:14.3f}{f'{low:.3f} to {high:.3f}':>20s}{mark}")
    return agrees


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.demo import Options, main

    sys.argv[0] = "demo"
    run_job(Options, main)
