"""The trials of a sweep, kept as they are given out and as they end: what a killed sweep goes on from.

    notes = Notes("out/tune/trials")
    notes.given(7, {"tau": 0.3})            # before it starts: after a kill it is begun with the same settings
    notes.ended(trial)                      # done, stopped or failed
    notes.read()                            # number -> Trial, and what was given out and has not ended

One small file each, local or s3://, whole or not there.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from fahr import store
from fahr.search.spaces import Settings

State = Literal["done", "stopped", "failed"]
_READERS = 16


@dataclass(frozen=True)
class Trial:
    """`metric` in its own unit, of the best step; `score` is the same as a loss: lower is better."""

    number: int  # 0 is the default
    settings: Settings
    seed: int
    state: State
    metric: float | None = None
    metric_se: float | None = None
    score: float | None = None
    best_step: int | None = None  # in passes over the people learned from
    curve: tuple[tuple[float, float], ...] = ()  # step, metric
    seconds: float = 0.0
    started: str = ""  # UTC
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Trial":
        return replace(cls(**told), curve=tuple((step, value) for step, value in told["curve"]))


class Notes:
    """Of one sweep; `folder` may be s3://."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def given(self, number: int, settings: Settings) -> None:
        self._write(f"{number:05d}.given.json", settings)

    def ended(self, trial: Trial) -> None:
        self._write(f"{trial.number:05d}.json", trial.to_json())

    def read(self) -> tuple[dict[int, Trial], dict[int, Settings]]:
        """Those that ended by number, and the settings of those that were running when the sweep was killed."""
        try:
            names = [store.name(entry.location) for entry in store.list_files(self._folder)]
        except store.Missing:
            return {}, {}
        with ThreadPoolExecutor(_READERS) as pool:
            told = dict(zip(names, pool.map(self._read, names), strict=True))
        ended = {each["number"]: Trial.of(each) for name, each in told.items() if not name.endswith(".given.json")}
        given = {int(name.partition(".")[0]): each for name, each in told.items() if name.endswith(".given.json")}
        return dict(sorted(ended.items())), {
            number: each for number, each in sorted(given.items()) if number not in ended
        }

    def _write(self, name: str, told: dict[str, Any]) -> None:
        store.write_bytes(store.join(self._folder, name), json.dumps(told).encode())

    def _read(self, name: str) -> Any:
        return json.loads(store.read_bytes(store.join(self._folder, name)))


def table(trials: Sequence[Trial], parameters: Sequence[str]) -> pa.Table:
    """A row a trial, as `fahr.report.search_trials` reads it: `p_NAME` is null where a parameter does not apply."""
    rows = sorted(trials, key=lambda each: each.number)
    columns: dict[str, Any] = {
        "trial": pa.array([each.number for each in rows], pa.int64()),
        "state": pa.array([each.state for each in rows], pa.string()),
        "error": pa.array([each.error for each in rows], pa.string()),
        "seed": pa.array([each.seed for each in rows], pa.int64()),
    }
    for name in parameters:
        values = [each.settings.get(name) for each in rows]
        mixed = any(isinstance(each, str) for each in values)
        columns[f"p_{name}"] = pa.array([None if each is None else str(each) for each in values] if mixed else values)
    columns |= {
        "metric": pa.array([each.metric for each in rows], pa.float64()),
        "metric_se": pa.array([each.metric_se for each in rows], pa.float64()),
        "seconds": pa.array([each.seconds for each in rows], pa.float64()),
        "started": pa.array([each.started for each in rows], pa.string()),
        "curve": pa.array([json.dumps(each.curve) for each in rows], pa.string()),
    }
    return pa.table(columns)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Those that are done and have a score, the best first; of equals, the earlier."""
    there = [each for each in trials if each.state == "done" and each.score is not None]
    return sorted(there, key=lambda each: (each.score, each.number))


def commonest_error(trials: Sequence[Trial]) -> tuple[str, int]:
    """The first of its kind, and how often that came, whatever the numbers in it; "" where none failed."""
    failed = [each.error for each in trials if each.state == "failed"]
    kinds = Counter(_kind(each) for each in failed)
    if not kinds:
        return "", 0
    kind, often = kinds.most_common(1)[0]
    return next(each for each in failed if _kind(each) == kind), often


def _kind(error: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", error)
