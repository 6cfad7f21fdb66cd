"""What a search ends with: the winner measured on people kept aside, best.yaml, tables and the page.

ledger = told(found, trials, finalists)

OUTPUT/trials.csv, finalists.csv    a row a trial, and a row a finalist and seed
OUTPUT/best.yaml                    --config of the fine-tune job
OUTPUT/results.json, search.html    who won, by how much, and whether beyond noise
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import pyarrow as pa
import yaml
from pyarrow import csv

from fahr import store
from fahr.biomarkers.accuracy_results import Estimate
from fahr.report.search_page import SearchSummary, verdict, write
from fahr.search.metrics import METRICS, Compared, compared
from fahr.search.settings import Plain, changes, configured, with_head
from fahr.search.spaces import Range, Space
from fahr.search.trials import Trial, table
from fahr.search.winner import Finalist, choose, optimism
from fahr.training.facesets import data_digest
from fahr.version import code_version
from jobs import _tune_features
from jobs._tune_people import People


@dataclass
class Search:
    """What is searched, around what, on whom."""

    options: Any
    job: ModuleType
    space: Space
    plain: Plain  # the job's options around which is searched
    file: Plain  # and the file they are from
    people: People | None = None
    data: dict[str, Any] | None = None  # of the trainables, by speed

    @property
    def task(self) -> str:
        return str(self.options.task)

    @property
    def speed(self) -> Literal["features", "full"]:
        """Of the sweep."""
        return "full" if self.options.mode == "full" else "features"

    @property
    def final_speed(self) -> Literal["features", "full"]:
        return "features" if self.options.mode == "features" else "full"

    def place(self, *parts: str) -> str:
        return store.join(self.options.output, *parts)


def told(found: Search, trials: list[Trial], finalists: list[Finalist]) -> store.Ledger:
    """The winner by other seeds, measured once on the people kept aside, beside the default."""
    options, metric = found.options, METRICS[found.task]
    winner = choose(finalists)
    default = next((each for each in finalists if each.number == 0 and each.score is not None), None)
    rows = _aside_table(found)
    values = [[_tune_features.loaded(place) for place in each.held] for each in (winner, default or winner)]
    held = compared(metric, rows, values[0], values[1], samples=options.bootstraps, seed=options.seed)
    best = _best(found, winner, held)
    summary = _summary(found, winner, default, held, best)
    write_trials(found, trials)
    _write_finalists(found, finalists)
    said = [verdict(summary).words, *_lines(found, winner, default, held)]
    store.write_bytes(found.place("results.txt"), ("\n".join(said) + "\n").encode())
    store.write_bytes(
        found.place("results.json"), json.dumps(_results(winner, default, held, metric), indent=1).encode()
    )
    page = write(options.output, _table(found, trials), summary)
    print("\n".join([*said, f"tune: {found.place('best.yaml')}, {page}"]))
    rejects = {state: sum(each.state == state for each in trials) for state in ("failed", "stopped")}
    ledger = store.Ledger(
        "tune", len(trials), len(trials) - sum(rejects.values()), {name: n for name, n in rejects.items() if n},
        options.digest(), code_version(), {"faces": options.faces, "winner": winner.number},
    ).check()  # fmt: skip
    ledger.write(found.place("ledger.json"))
    print(ledger.line())
    return ledger


def _aside_table(found: Search) -> pa.Table:
    assert found.people is not None and found.data is not None
    if found.final_speed == "features":
        heads = found.data["features"]["heads"]
        return heads.kept.table.take(pa.array(heads.aside))
    return found.people.table.take(pa.array(found.people.parts.aside))


def _table(found: Search, trials: Sequence[Trial]) -> pa.Table:
    names = list(found.space.parameters(found.speed))
    more = {name for each in trials for name in each.settings} - set(names)  # the parts of a schedule
    return table(trials, [*names, *sorted(more)])


def write_trials(found: Search, trials: Sequence[Trial]) -> None:
    _write_csv(found.place("trials.csv"), _table(found, trials))


def _write_finalists(found: Search, finalists: Sequence[Finalist]) -> None:
    rows = [
        {"trial": each.number, "seed": run.seed, "state": run.state, "metric": run.metric, "metric_se": run.metric_se,
         "error": run.error}
        for each in finalists for run in each.runs
    ]  # fmt: skip
    _write_csv(found.place("finalists.csv"), pa.Table.from_pylist(rows))


def _write_csv(location: str, made: pa.Table) -> None:
    with pa.BufferOutputStream() as stream:
        csv.write_csv(made, stream)
        store.write_bytes(location, stream.getvalue().to_pybytes())


def _best(found: Search, winner: Finalist, held: Compared) -> str:
    """best.yaml: the file that was searched around, with the winner's settings; --config of the fine-tune job."""
    after = found.plain
    if winner.number:
        after = configured(found.plain, found.task, winner.settings)
        after = with_head(after, found.task) if found.speed == "features" else after
    told = changes({name: each for name, each in found.file.items() if name in found.plain}, found.plain, after)
    metric, options = METRICS[found.task], found.options
    value = f"{held.first.value:.4f}" + (
        "" if held.first.low is None else f" [{held.first.low:.4f}, {held.first.high:.4f}]"
    )
    head = [
        f"# Trial {winner.number} of {options.samples} of a search (jobs/tune.py, {options.mode}), "
        f"{metric.name} {value} of people kept aside.",
        "#",
        f"# Command   python jobs/finetune_{found.task}.py --config best.yaml --faces FACES --init INIT --output RUN",
    ]
    text = "\n".join(head) + "\n" + yaml.safe_dump(told, sort_keys=False)
    found.job.Options.model_validate({**told, "faces": "a", "init": options.init, "output": "b"})
    store.write_bytes(found.place("best.yaml"), text.encode())
    return text


def _summary(
    found: Search, winner: Finalist, default: Finalist | None, held: Compared, best: str
) -> SearchSummary:  # fmt: skip
    options, metric = found.options, METRICS[found.task]
    parameters = found.space.parameters(found.speed)
    kinds = {"features": "a head on frozen features", "full": "the job itself"}
    finalist = "so was each finalist" if found.speed == found.final_speed else f"each finalist {kinds['full']}"
    rows = _aside_table(found)
    people = len(set(rows["subject_id"].to_pylist()))
    notes = [
        f"Each trial of the sweep was {kinds[found.speed]}, {finalist}.",
        "People of the splits test and calibrate were never looked at.",
    ]
    if found.speed == "features":
        notes.append(
            f"Every person searched on was judged once, by a head that had not seen him or her ({options.tune_folds} "
            "folds); held out is a head that learned from all of them."
        )
    return SearchSummary(
        task=found.task, metric=metric.name, unit=metric.unit, higher_is_better=metric.higher_is_better,
        winner_trial=winner.number, default_trial=0, winner_value=held.first,
        default_value=held.second if default else Estimate(None),
        difference=held.difference if default else Estimate(None), optimism=optimism(metric, winner, held.first),
        seeds=tuple(run.seed for run in winner.runs), settings=best,
        digests={"faces": data_digest(options.faces), "options": options.digest()}, code_version=code_version(),
        command="python " + shlex.join(sys.argv),
        scales={name: "log" for name, each in parameters.items() if isinstance(each, Range) and each.log},
        held_out=f"{options.aside:.0%} of the people of train and tune, kept aside: {people:,} people, "
        f"{rows.num_rows:,} photos", notes=tuple(notes),
    )  # fmt: skip


def _results(winner: Finalist, default: Finalist | None, held: Compared, metric: Any) -> Plain:
    def ends(each: Any) -> list[Any]:
        return [each.value, each.low, each.high]

    return {
        "metric": metric.name, "winner": winner.number, "settings": winner.settings, "held_out": ends(held.first),
        "tune": winner.metric, "optimism": ends(optimism(metric, winner, held.first)),
        "default_held_out": ends(held.second) if default else None,
        "difference": ends(held.difference) if default else None,
        "tune_default": default.metric if default else None,
        "beats_default": held.first_is_better(metric) if default else None,
    }  # fmt: skip


def _lines(found: Search, winner: Finalist, default: Finalist | None, held: Compared) -> list[str]:
    metric = METRICS[found.task]
    lines = [f"{'':10s}{'tune folds':14s}people kept aside ({metric.name})"]
    for name, each, value in (("winner", winner, held.first), ("default", default, held.second)):
        if each is not None:
            between = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
            lines.append(f"{name:10s}{each.metric:<14.3f}{value.value:.3f}{between}")
    if default is None:
        lines.append("the default failed: see trials.csv")
    return lines
