"""What a chain of jobs needs: the settings of each stage, where it stands, what is noted when it has ended, time left.

    chain = Chain(steps, sections, output)
    for standing in chain.stand(): ...                # done, goes on, begins, or waits for another stage
    chain.note(standing, seconds)

    OUTPUT/age-1f0c22d1/   a stage: its job's own output; the job writes ledger.json last
    OUTPUT/pipeline.json   which folder is each stage's, and of every folder: settings, digests of inputs, seconds

A folder is named by what decides its content: the stage's settings, and the content of what it reads. So a changed
setting begins a new folder, what stands on it follows, and who goes back finds the old ones finished.
"""

import hashlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from fahr import store
from fahr.config import every_option, read_yaml
from fahr.errors import Refused, nearest
from fahr.models.checkpoints.hub import KNOWN, UNPUBLISHED
from fahr.training.begin import IMAGENET, RANDOM
from fahr.training.facesets import data_digest
from fahr.version import code_version

Section = Mapping[str, Any]
State = Literal["done", "goes on", "begins", "waits"]
OWN = ("output", "config", "dry_run")  # options of every job that the chain gives
_WORDS = (RANDOM, IMAGENET, *KNOWN, *UNPUBLISHED)  # weights that are named, not located


@dataclass(frozen=True)
class Step:
    """A stage: its job, what it draws from others, and what it gives to them."""

    name: str  # of its section, and of its folders
    job: Any  # a module with Options and main
    draws: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)  # option -> whose result fills it
    gives: Callable[[Any], str] = lambda options: str(options.output)  # options -> what others draw
    grows: tuple[str, ...] = ()  # inputs that may grow: the job then goes on in the same folder
    instead: Mapping[str, str] = field(default_factory=dict)  # option that is drawn -> the one that stands for it


@dataclass(frozen=True)
class Standing:
    """Where a stage stands."""

    step: Step
    state: State
    why: str  # for people
    options: Any  # of its job; while it waits, with places that are not the real ones
    folder: str = ""  # its name under OUTPUT; empty while it waits
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # option -> digest of what lies there


class Chain:
    """`sections`: of the stages that take part. Refused: settings that a job refuses, all of them in one message."""

    def __init__(self, steps: Sequence[Step], sections: Mapping[str, Section], output: str) -> None:
        self.output = output
        self.steps = [step for step in steps if step.name in sections]
        self._place = store.join(output, "pipeline.json")
        self._settings: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, Any] = {}
        wrong: list[str] = []
        for step in self.steps:
            try:
                self._settings[step.name] = _settings(step, sections[step.name])
                places = {each.name: store.join(output, each.name) for each in self.steps}
                self._asked[step.name] = self._options(step, places, "")
            except Refused as error:
                wrong.append(str(error))
        if wrong:
            raise Refused("\n".join(wrong))

    def asked(self) -> dict[str, Any]:
        """Stage -> the options of its job, with places that are not the real ones."""
        return dict(self._asked)

    def stand(self) -> list[Standing]:
        """Where each stage stands now, in order."""
        found: dict[str, Standing] = {}
        for step in self.steps:
            found[step.name] = self.at(step, found)
        return list(found.values())

    def at(self, step: Step, found: Mapping[str, Standing]) -> Standing:
        """Where it stands. `found`: the stages before it."""
        notes, drawn = self.notes(), self._drawn(step)
        places = {name: _given(found[name]) for name in drawn}
        waits = [name for name in drawn if found[name].state != "done"]
        if not waits:
            return self._ready(step, places, notes["runs"])
        again = "again, " if step.name in notes["now"] else ""
        return Standing(step, "waits", f"{again}after {' and '.join(waits)}", self._options(step, places, ""))

    def _ready(self, step: Step, places: Mapping[str, str], runs: Mapping[str, Any]) -> Standing:
        """All that it draws on is there."""
        options = self._options(step, places, "")
        inputs = _inputs(step, options)
        settings = {name: value for name, value in options.deciding().items() if name not in _DIGESTS}
        fixed = {name: digest for name, digest in inputs.items() if name not in step.grows}
        text = json.dumps({"stage": step.name, "settings": settings, "inputs": fixed}, sort_keys=True)
        folder = f"{step.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        options = self._options(step, places, folder)
        state, why = self._state(options.output, folder, inputs, runs)
        if state == "begins":
            why = _changed(step.name, settings, inputs, runs)
        return Standing(step, state, why, options, folder, settings, inputs)

    def _state(self, place: str, folder: str, inputs: Mapping[str, str], runs: Mapping[str, Any]) -> tuple[State, str]:
        ledger = store.join(place, "ledger.json")
        if store.exists(ledger) and folder in runs:
            changed = [name for name, digest in inputs.items() if runs[folder]["inputs"].get(name) != digest]
            if not changed:
                return "done", store.Ledger.read(ledger).check().line().partition(": ")[2]
            return "goes on", f"the {' and '.join(changed)} changed"
        begun = any(store.exists(store.join(place, *each)) for each in (["run.json"], ["units", "purpose.json"]))
        return ("goes on", "") if begun or store.exists(ledger) else ("begins", "")

    # Options

    def _drawn(self, step: Step) -> list[str]:
        """Stages whose results it takes: not those whose place its section fills itself."""
        known = {each.name for each in self.steps}
        found: list[str] = []
        for option, source in step.draws.items():
            if option not in self._settings[step.name] and step.instead.get(option) not in self._settings[step.name]:
                found += [name for name in ([source] if isinstance(source, str) else source) if name in known]
        return list(dict.fromkeys(found))

    def _options(self, step: Step, places: Mapping[str, str], folder: str) -> Any:
        """`places`: stage -> what it gives."""
        values = dict(self._settings[step.name])
        for option, source in step.draws.items():
            if option in values or step.instead.get(option) in values:
                continue
            names = [source] if isinstance(source, str) else source
            there = [places[name] for name in names if name in places]
            if not there:
                raise Refused(
                    f"{step.name}: --{option.replace('_', '-')} would come from {' or '.join(names)}, which is left "
                    f"out. Say {option} in the section {step.name}, or leave {step.name} out of --stages too."
                )
            values[option] = there[0] if isinstance(source, str) else there
        values["output"] = store.join(self.output, folder or step.name)
        if "cache" in step.job.Options.model_fields and not store.is_s3(self.output):
            values.setdefault("cache", store.join(self.output, "cache"))  # one copy of the faces for all stages
        try:
            return step.job.Options.model_validate(values)
        except ValidationError as error:
            raise Refused("\n".join(_told(step, problem) for problem in error.errors())) from error

    # Notes

    def notes(self) -> dict[str, dict[str, Any]]:
        """`now`: stage -> folder. `runs`: folder -> what was noted when it ended."""
        if not store.exists(self._place):
            return {"now": {}, "runs": {}}
        found: dict[str, dict[str, Any]] = json.loads(store.read_bytes(self._place))
        return found

    def note(self, standing: Standing, seconds: float) -> None:
        """It has ended. What was begun by a call that was killed has no known time."""
        notes = self.notes()
        before = notes["runs"].get(standing.folder, {}).get("seconds", 0.0 if standing.state == "begins" else None)
        notes["runs"][standing.folder] = {
            "stage": standing.step.name, "settings": standing.settings, "inputs": standing.inputs,
            "seconds": None if before is None else round(before + seconds, 1), "ended": round(time.time()),
            "code_version": code_version(),
        }  # fmt: skip
        self._write(notes)

    def point(self, standings: Iterable[Standing]) -> None:
        """All are done: say which folder is each stage's."""
        notes = self.notes()
        now = {each.step.name: each.folder for each in standings}
        if now != notes["now"]:
            self._write({**notes, "now": now})

    def _write(self, notes: Mapping[str, Any]) -> None:
        store.write_bytes(self._place, (json.dumps(notes, indent=1) + "\n").encode())


def _given(standing: Standing) -> str:
    """What others draw from it."""
    try:
        return standing.step.gives(standing.options)
    except Refused as error:
        raise Refused(f"{standing.step.name}: {error}") from error


def _settings(step: Step, section: Section) -> dict[str, Any]:
    """Of a section: the recipe that its `config` names, under what else it says."""
    if "output" in section:
        raise Refused(f"{step.name}: output: is a folder under the pipeline's own --output. Leave it out.")
    values = read_yaml(store.absolute(section["config"])) if section.get("config") else {}
    over = {name: value for name, value in section.items() if name not in OWN}
    for name, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        values[name] = {**values[name], **value} if nested else value
    return values


def _told(step: Step, problem: Any) -> str:
    """One of pydantic's problems as: where, the value, the rule."""
    path = [str(part) for part in problem["loc"]]
    place = f"{step.name}.{'.'.join(path)}" if path else step.name
    if problem["type"] == "extra_forbidden":
        known = {names[-1] for names, _ in every_option(step.job.Options)}
        return f"{place}: no such option of that job.{nearest(path[-1], known)}"
    rule = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if problem["type"] == "missing":
        return f"{place}: required. Say it in the section {step.name}."
    return f"{place} = {problem['input']!r}: {rule}." if path else f"{place}: {rule}."


# What decides


def _file(place: str) -> str:
    """Of a file, or of all files of a folder."""
    if store.exists(place):
        return store.digest(place)
    running = hashlib.sha256()
    for entry in sorted(store.list_files(place), key=lambda each: each.location):
        running.update(f"{store.relative(entry.location, place)} {store.digest(entry.location)}\n".encode())
    return f"sha256:{running.hexdigest()}"


def _weights(place: str) -> str:
    """Of a checkpoint: its config.json names the digest of the weights, and holds all else that decides a score."""
    if place in _WORDS:
        return place
    described = store.join(place, "config.json")
    return store.digest(described if store.exists(described) else place)


def _units(place: str) -> str:
    """Of everything that the finished units of a folder hold."""
    told = [[unit.name, sorted(file["sha256"] for file in unit.files.values())] for unit in store.committed(place)]
    return f"sha256:{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


# Options that say where an input lies, of any job: not the place decides, but what lies there.
_DIGESTS: dict[str, Callable[[str], str]] = {
    "manifest": _file, "mapping": _file, "faces": data_digest, "init": _weights, "models": _weights,
    "scores": _units, "outcomes": _file,
}  # fmt: skip


def _inputs(step: Step, options: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, digest in _DIGESTS.items():
        value = getattr(options, name, None)
        try:
            if isinstance(value, str):
                found[name] = digest(value)
            elif value:
                found[name] = " ".join(digest(each) for each in value)
        except (Refused, store.Missing) as error:
            raise Refused(f"{step.name}: {name}: {error}") from error
    return found


def _changed(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str], runs: Mapping[str, Any]) -> str:
    """What is other than in the run of this stage that ended last."""
    earlier = [(run["ended"], folder) for folder, run in runs.items() if run["stage"] == stage]
    if not earlier:
        return ""
    folder = max(earlier)[1]
    was = runs[folder]
    names = [name for name in settings if was["settings"].get(name, ...) != settings[name]]
    names += [name for name in inputs if was["inputs"].get(name) != inputs[name]]
    return f"another {', '.join(names) or 'set of options'} than in {folder}"


# Time


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came. A job that is asked while it ends notes it and ends: who goes on has to know."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reader, writer = socket.socketpair()
    for each in (reader, writer):
        each.setblocking(False)
    # Python writes there the number of every signal that has a handler, whoever's handler that is just then.
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def asked() -> bool:
        try:
            return bool({signal.SIGINT, signal.SIGTERM} & set(reader.recv(4096)))
        except BlockingIOError:
            return False

    try:
        yield asked
    finally:
        signal.set_wakeup_fd(before)
        reader.close()
        writer.close()


def spell(seconds: float) -> str:
    """`45 s`, `12 min`, `3.2 h`"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Clock:
    """What is left, from what stages were expected to take and what those that ended took."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        """`expected`: stage -> seconds, of those about which something is known."""
        self._expected = expected
        self._took: dict[str, float] = {}
        self.started = time.monotonic()

    def ended(self, stage: str, seconds: float) -> None:
        self._took[stage] = seconds

    def left(self, stages: Iterable[str]) -> float | None:
        """Seconds; None where nothing is known of one of them. At the pace of the stages that have ended here."""
        told = [(took, self._expected[stage]) for stage, took in self._took.items() if stage in self._expected]
        pace = sum(took for took, _ in told) / max(1e-9, sum(each for _, each in told)) if told else 1.0
        each = [self._expected.get(stage) for stage in stages]
        return None if None in each else pace * sum(known for known in each if known is not None)
