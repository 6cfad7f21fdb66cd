"""A search from its first question to its page: the sweep, the finalists, the people kept aside, what is written.

ledger = search(options, job)           # jobs.tune.Options, and the fine-tune job whose settings are searched

OUTPUT/trials/NNNNN.json        a trial each: what a killed search goes on from
OUTPUT/finalists/               likewise, with what they say of the people kept aside
OUTPUT/trials.csv, best.yaml, results.json, search.html, figures/, ledger.json
"""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import numpy as np

from fahr import store
from fahr.errors import Refused
from fahr.search.choice import Chooser
from fahr.search.live import Live
from fahr.search.metrics import METRICS
from fahr.search.settings import Plain, current
from fahr.search.spaces import Range, Settings, Space, read_space
from fahr.search.trials import Notes, Trial, commonest_error, ranked
from fahr.search.winner import Finalist
from fahr.training.facesets import data_digest
from jobs import _cluster, _tune, _tune_features, _tune_full, _tune_pbt
from jobs._tune import Desk, Planned, SweepPlan
from jobs._tune_people import base_options, check_space, check_stages, read_people
from jobs._tune_results import Search, told, write_trials

QUIET_S = 30.0  # between two tables in a log file
LIVE_S = 2.0  # on a terminal


def search(options: Any, job: ModuleType) -> store.Ledger:
    plain, file = base_options(options, job)
    space = read_space(options.task, options.searched())
    check_space(space, plain, options.task, job)
    check_stages(space.parameters("full" if options.mode == "full" else "features"), plain, options.task)
    if options.scheduler == "pbt":
        _check_population(space)
    found = Search(options, job, space, plain, file)
    default = current(plain, options.task, speed=found.speed)
    chooser = Chooser(space, found.speed, options.search, seed=options.seed, default=default)
    total = min(options.samples, chooser.most or options.samples)
    if left := space.left_out(found.speed):
        print(f"tune: not searched, since only full trials (--mode full) can judge it: {', '.join(left)}")
    if options.scheduler == "asha" and {"head_epochs", "epochs"} & set(chooser.parameters):
        print("tune: asha compares trials after as many passes, when a short one has ended: it favours short ones")
    concurrent = _resources(found)
    if options.dry_run:
        return store.Ledger("tune", 0, 0)
    _own_folder(found, total)
    notes = Notes(found.place("trials"))
    ended, given = notes.read()
    if options.scheduler == "pbt" and len(ended) < total:
        ended, given = {}, {}
    done = found.place("ledger.json")
    if store.exists(done) and len(ended) >= total:
        print(f"tune: {options.output} is finished")
        print(store.read_bytes(found.place("results.txt")).decode(), end="")
        return store.Ledger.read(done).check()
    found.people = read_people(options, plain)
    _prepare(found, {found.speed, found.final_speed})
    trials = _sweep(found, chooser, total, concurrent[found.speed], notes, ended, given)
    finalists = _finals(found, trials, concurrent[found.final_speed])
    return told(found, trials, finalists)


# Before


def _resources(found: Search) -> dict[str, int]:
    """Speed -> trials at a time. Refused: more than the cluster has."""
    options = found.options
    _cluster.connect()
    made = {}
    if "features" in (found.speed, found.final_speed):
        made["features"] = _tune.most_concurrent(
            options.concurrent, {"CPU": options.cpus_per_trial}, f"--cpus-per-trial (now {options.cpus_per_trial:g})"
        )
        print(_cluster.check([_embed_pool(options)], "Lower --embed-workers or --gpus-per-worker."))
    if "full" in (found.speed, found.final_speed):
        workers = max(1, options.workers)
        each = {
            "CPU": workers * options.cpus_per_worker + (DRIVER_CPU if options.workers else 0.0),
            "GPU": workers * options.gpus_per_worker,
            "memory": workers * options.memory_per_worker * 2**30,
        }
        each = {name: amount for name, amount in each.items() if amount}
        flag = f"--workers (now {options.workers}), --cpus-per-worker, --gpus-per-worker or --memory-per-worker"
        made["full"] = _tune.most_concurrent(options.concurrent, each, flag)
    for speed, number in made.items():
        print(f"tune: {number} {speed} trials at a time")
    return made


DRIVER_CPU = 0.1  # of a full trial whose workers are processes of their own


def _embed_pool(options: Any) -> _cluster.Pool:
    cpus = 0.0 if options.gpus_per_worker else 0.9
    return _cluster.Pool(
        "embed", options.embed_workers, cpus, options.gpus_per_worker, int(options.memory_per_worker * 2**30)
    )


def _own_folder(found: Search, total: int) -> None:
    """One search a folder. To go on with it is said: --resume. More trials may be asked for, nothing else."""
    options = found.options
    free = ("samples", "base")
    deciding = {name: value for name, value in options.deciding().items() if name not in free}
    deciding |= {"space": found.space.model_dump(mode="json", exclude_none=True), "base": _kept(found)}
    deciding |= {"faces": data_digest(options.faces)}
    place = found.place("search.json")
    if store.create_bytes(place, json.dumps(deciding, indent=2).encode()):
        options.write(found.place("options.yaml"))
        return
    before = json.loads(store.read_bytes(place))
    if changed := [name for name, value in deciding.items() if before.get(name) != json.loads(json.dumps(value))]:
        raise Refused(
            f"{options.output}: holds a search with another {', '.join(changed)}. Give what it had (search.json), or "
            "another --output."
        )
    ended, _ = Notes(found.place("trials")).read()
    finished = store.exists(found.place("ledger.json")) and len(ended) >= total
    if ended and not options.resume and not finished:
        raise Refused(
            f"{options.output}: holds a search of which {len(ended)} of {total} trials are made. Give --resume to go "
            "on with it, or another --output."
        )
    options.write(found.place("options.yaml"))


def _kept(found: Search) -> Plain:
    """Of the job's options, what decides what comes out of a trial."""
    deciding: Plain = found.job.Options.model_validate(found.plain).deciding()
    return deciding


def _prepare(found: Search, speeds: set[str]) -> None:
    options, people = found.options, found.people
    assert people is not None
    found.data = {}
    if "features" in speeds:
        plain = found.plain
        embedding = _tune_features.Embedding(
            faces=options.faces, task=options.task, init=options.init, size=people.faces.size,
            name=plain["encoder"] if plain["model"] == "fahr" else plain["model"], patch=plain["patch"],
            convention=people.faces.convention, seed=options.seed, flip=plain["flip"], precision=plain["precision"],
            device="cuda" if options.gpus_per_worker else "cpu",
        )  # fmt: skip
        kept, folder = _tune_features.embed(embedding, people.table, options.features_folder(), _embed_pool(options))
        _check_encoder(found, store.name(folder))
        print(f"tune: {len(kept.features):,} faces as {kept.features.shape[1]} numbers each lie in {folder}")
        there = np.isin(people.table["photo_id"].to_pylist(), kept.table["photo_id"].to_pylist())
        if not there.all():
            lost = f"{int((~there).sum()):,} of {len(there):,} faces do not decode and take no part"
            print(f"tune: {lost}: {store.join(folder, 'rejects')} says why")
        number = np.cumsum(there) - 1
        pool, aside = (number[rows[there[rows]]] for rows in (people.parts.pool, people.parts.aside))
        found.data["features"] = {"heads": _tune_features.Heads(
            options.task, found.job.Options, plain, kept, pool, aside, options.tune_folds
        )}  # fmt: skip
    if "full" in speeds:
        found.data["full"] = {
            "whole": _tune_full.Whole(options.task, found.job, found.plain, found.place("full"), people.ids())
        }


def _check_encoder(found: Search, features: str) -> None:
    """`features`: the digest of what made them. Options and faces have been compared: it tells of the weights."""
    place = found.place("encoder.json")
    if store.create_bytes(place, json.dumps({"features": features}).encode()):
        return
    if json.loads(store.read_bytes(place))["features"] != features:
        raise Refused(
            f"--init {found.options.init}: holds other weights than when the search in {found.options.output} began, "
            "so trials of then and now cannot be compared. Give the checkpoint of then, or another --output."
        )


# Trials


def _run(
    found: Search, speed: str, todo: Sequence[Planned], ask: Any, desk: Desk, concurrent: int, **more: Any
) -> None:
    options = found.options
    assert found.data is not None
    scheduler: Literal["asha", "none"] = "asha" if options.scheduler == "asha" and not more else "none"
    plan = SweepPlan(concurrent, _reserved(options, speed), scheduler, options.grace, options.seed, more)
    trainable = _tune_features.head_trial if speed == "features" else _tune_full.full_trial
    _tune.sweep(trainable, plan, todo, ask, desk, found.data[speed])


def _reserved(options: Any, speed: str) -> dict[str, float]:
    if speed == "features":
        return {"cpu": options.cpus_per_trial}
    if options.workers:
        return {"cpu": DRIVER_CPU}
    gpus = {"gpu": options.gpus_per_worker} if options.gpus_per_worker else {}
    return {"cpu": options.cpus_per_worker, "memory": options.memory_per_worker * 2**30, **gpus}


def _sweep(
    found: Search, chooser: Chooser, total: int, concurrent: int, notes: Notes, ended: dict[int, Trial],
    given: dict[int, Settings],
) -> list[Trial]:  # fmt: skip
    """All trials, those of before too. Failed if none has a metric."""
    trials = dict(ended)
    for each in ended.values():
        chooser.tell(each.number, each.settings, each.score)
    todo = [Planned(number, given.get(number), found.options.seed) for number in range(total) if number not in ended]
    if ended:
        print(f"tune: {len(ended)} of {total} trials were made before")
    shown = _Shown(found, total, list(chooser.parameters), trials)

    def ended_too(trial: Trial) -> None:
        trials[trial.number] = trial
        chooser.tell(trial.number, trial.settings, trial.score)

    if todo:
        desk = Desk(notes, ended_too, shown)
        try:
            if found.options.scheduler == "pbt":
                _population(found, chooser, total, desk, concurrent)
            else:
                _run(found, found.speed, todo, chooser.ask, desk, concurrent)
        except KeyboardInterrupt:
            print(f"tune: {len(trials)} of {total} trials are made. With --resume this search goes on", file=sys.stderr)
            raise
        finally:
            write_trials(found, list(trials.values()))
            shown(len(desk.running), True)
        print(f"tune: {len(desk.ended)} trials in {shown.elapsed:.1f} s, {concurrent} at a time")
    else:
        write_trials(found, list(trials.values()))
    return _judged(list(trials.values()), "trials")


def _population(found: Search, chooser: Chooser, total: int, desk: Desk, concurrent: int) -> None:
    """All members but the default, anew whatever a killed search had: they live off each other."""
    options = found.options
    assert found.data is not None
    rates = found.space.parameters("features")["head_lr"]
    assert isinstance(rates, Range)
    default = current(found.plain, found.task, speed="features")
    if 0 not in desk.ended:  # the default is compared with, and so is nobody's copy
        _run(found, "features", [Planned(0, None, options.seed)], chooser.ask, desk, concurrent)
    members = {number: {"head_lr": default["head_lr"], **chooser.ask(number)} for number in range(1, total)}
    plan = SweepPlan(concurrent, _reserved(options, "features"), "none", 1, options.seed)
    _tune_pbt.population(
        plan, members, desk, found.data["features"]["heads"], parts=options.parts, low=rates.low, high=rates.high,
        storage=found.place("population"),
    )  # fmt: skip


def _check_population(space: Space) -> None:
    searched = space.parameters("features")
    rates = searched.get("head_lr")
    if not isinstance(rates, Range) or not rates.log or "head_epochs" in searched:
        raise Refused(
            "--scheduler pbt: changes head_lr while a head learns, which takes a range of it with log: true, and no "
            "head_epochs: all members are of one length. Change the space, or take another scheduler."
        )


def _judged(trials: list[Trial], what: Literal["trials", "finalists"]) -> list[Trial]:
    """In order. A search in which none has a metric has failed, and says by what."""
    if not any(each.score is not None and each.state == "done" for each in trials):
        error, often = commonest_error(trials)
        why = f"{often} of {len(trials)} by: {error.rstrip('.')}" if often else "none of them ran to its end"
        again = "They are tried again with --resume."
        if what == "trials":
            again = "They are not tried again: mend that, or search other values, and give another --output."
        raise RuntimeError(f"none of {len(trials)} {what} gave a metric, {why}. {again}")
    return sorted(trials, key=lambda each: each.number)


class _Shown:
    """Prints the live table: over itself on a terminal, now and then in a log."""

    def __init__(self, found: Search, total: int, names: list[str], trials: dict[int, Trial]) -> None:
        self._live = Live(total, METRICS[found.task], names)
        self._trials, self._before, self._began = trials, len(trials), time.monotonic()
        self._at, self._height = self._began, 0
        self._terminal = sys.stderr.isatty()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, running: int, end: bool) -> None:
        now = time.monotonic()
        if not end and now - self._at < (LIVE_S if self._terminal else QUIET_S):
            return
        self._at = now
        fresh = len(self._trials) - self._before
        lines = self._live.lines(
            list(self._trials.values()), running=running, elapsed_s=now - self._began, fresh=fresh
        )  # fmt: skip
        up = f"\x1b[{self._height}F\x1b[J" if self._terminal and self._height else ""
        print(up + "\n".join(lines), file=sys.stderr, flush=True)
        self._height = len(lines)


def _finals(found: Search, trials: list[Trial], concurrent: int) -> list[Finalist]:
    """The default and the best others, each with seeds that the sweep had not."""
    options = found.options
    chosen = [each for each in ranked(trials) if each.number][: options.finalists]
    chosen += [each for each in trials if each.number == 0]
    seeds = [options.seed + 1 + number for number in range(options.seeds)]
    if found.final_speed != found.speed:  # the default in full is the job's configuration as it is
        chosen = [each if each.number else replace(each, settings={}) for each in chosen]
    planned = [Planned(at * len(seeds) + place, each.settings, seed)
               for at, each in enumerate(chosen) for place, seed in enumerate(seeds)]  # fmt: skip
    held = found.place("finalists", "held", _run_of(chosen, seeds))
    notes = Notes(found.place("finalists", _run_of(chosen, seeds)))
    ended, _ = notes.read()
    ended = {number: each for number, each in ended.items() if each.state == "done"}  # a failed one gets its chance
    todo = [each for each in planned if each.number not in ended]
    if todo:
        print(f"tune: {len(chosen)} finalists, the default among them, with {len(seeds)} other seeds each")
        desk = Desk(notes, lambda trial: ended.__setitem__(trial.number, trial))
        _run(found, found.final_speed, todo, None, desk, concurrent, held=held)
    _judged(list(ended.values()), "finalists")
    return [
        Finalist(each.number, each.settings, tuple(ended[at * len(seeds) + place] for place in range(len(seeds))),
                 tuple(store.join(held, f"{at * len(seeds) + place:05d}.npy") for place in range(len(seeds))))
        for at, each in enumerate(chosen)
    ]  # fmt: skip


def _run_of(chosen: Sequence[Trial], seeds: Sequence[int]) -> str:
    """A folder for these finalists: a search that was given more trials may have others."""
    names = json.dumps([[each.number for each in chosen], list(seeds)])
    return hashlib.sha256(names.encode()).hexdigest()[:8]
