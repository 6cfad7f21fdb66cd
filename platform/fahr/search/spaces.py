"""What is searched: each parameter with the values it may have, typed, and checked before hours are spent.

    space = read_space("survival", {"loss": ["logistic", "cox"], "tau": {"low": 0.1, "high": 10, "log": True}})
    space.parameters(speed="features")      # name -> Range or Choice, in a fixed order
    space.applies("tau", {"loss": "cox"})   # False: what has no effect is not tried

A list is a choice of values, `low` and `high` are a range. A parameter that is not named stays as the job's
configuration has it. Speeds: `features` (a head on frozen features) and `full` (the job itself).
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from fahr.config import Options, option
from fahr.errors import Refused, nearest
from fahr.objectives.ranking import KINDS

Value = float | int | str
Settings = dict[str, Value]
ALL = "all"  # of `blocks`: the whole encoder learns
EITHER, HEAD, FULL = "either", "head", "full"  # what a parameter is about: the last two only where that learns


class Range(Options):
    """Numbers from `low` to `high`, both included."""

    low: float = option(help="least value")
    high: float = option(help="greatest value")
    log: bool = option(False, help="as many values from 1 to 10 as from 10 to 100", off="false")
    whole: bool = option(False, help="whole numbers alone", off="false")
    points: int | None = option(None, ge=2, help="values of a grid, evenly spaced", off="none", unit="values")

    @model_validator(mode="after")
    def _possible(self) -> "Range":
        if not (isfinite(self.low) and isfinite(self.high)):
            raise ValueError(f"from {self.low:g} to {self.high:g}: give finite numbers")
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}. Give a range, or leave it out")
        if self.log and self.low <= 0:
            raise ValueError(f"log with low {self.low:g}: a logarithmic range begins above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"whole numbers from {self.low:g} to {self.high:g}: give whole ends")
        return self

    def at(self, share: float) -> Value:
        """0..1 -> a value of the range, even in its scale; whole ones have a width of 1 each."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole and not self.log else (self.low, self.high)
        found = low * (high / low) ** share if self.log else low + (high - low) * share
        found = min(max(found, self.low), self.high)
        return round(found) if self.whole else float(found)

    def grid(self) -> tuple[Value, ...]:
        assert self.points is not None
        shares = [number / (self.points - 1) for number in range(self.points)]
        plain = self.model_copy(update={"whole": False})
        found = [plain.at(share) for share in shares]
        return tuple(dict.fromkeys(round(float(each)) for each in found)) if self.whole else tuple(found)


class Choice(Options):
    """One of a few values."""

    values: tuple[Value, ...] = option(help="what may be tried", min_length=1)

    @model_validator(mode="after")
    def _different(self) -> "Choice":
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"{', '.join(map(str, self.values))}: each value once")
        if strange := [each for each in self.values if not isinstance(each, str) and not isfinite(each)]:
            raise ValueError(f"{strange[0]}: give finite numbers, or names")
        return self

    def at(self, share: float) -> Value:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def grid(self) -> tuple[Value, ...]:
        return self.values


Parameter = Range | Choice


class Space(Options):
    """Parameters of both jobs; those of one are in its subclass. The loss comes first: it decides about others."""

    loss: Choice | None = option(None, help="what is minimised")
    weight_decay: Range | Choice | None = option(None, help="AdamW's")
    global_batch: Range | Choice | None = option(None, help="how many decide one step", unit="people or samples")
    head_lr: Range | Choice | None = option(None, help="rate of the head, alone on frozen features", unit="per step")
    head_epochs: Range | Choice | None = option(None, help="length of that", unit="passes")
    base_lr: Range | Choice | None = option(None, help="rate of the stages that move the encoder", unit="per step")
    layer_decay: Range | Choice | None = option(None, help="how much slower each block learns than the next")
    drop_path: Range | Choice | None = option(None, help="share of images that skip the last block", unit="share")
    blocks: Choice | None = option(None, help="last blocks that learn in the main stage, the rest frozen; or all")
    epochs: Range | Choice | None = option(None, help="length of the main stage", unit="passes")

    @classmethod
    def about(cls, name: str) -> str:
        """EITHER, HEAD or FULL."""
        return str(_ABOUT.get(name, EITHER))

    def applies(self, name: str, settings: Mapping[str, Value]) -> bool:
        """Whether it has an effect beside these."""
        return True

    def needs(self, name: str) -> tuple[str, str] | None:
        """The parameter that decides whether it has an effect, and with which values; None: it always has."""
        return None

    def parameters(self, speed: Literal["features", "full"]) -> dict[str, Parameter]:
        """Those that a trial of this speed can judge, which decide about others first."""
        given = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        return {name: each for name, each in given.items() if speed == "full" or self.about(name) != FULL}

    def left_out(self, speed: Literal["features", "full"]) -> list[str]:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        return [name for name in given if name not in self.parameters(speed)]

    def possible(self, name: str) -> tuple[Value, ...]:
        """The values of a choice; of what is not searched nothing."""
        found = getattr(self, name)
        return found.values if isinstance(found, Choice) else ()


_ABOUT = {
    "head_lr": HEAD, "head_epochs": HEAD, "base_lr": FULL, "layer_decay": FULL, "drop_path": FULL, "blocks": FULL,
    "epochs": FULL,
}  # fmt: skip


class SurvivalSpace(Space):
    """Parameters of jobs/finetune_survival.py."""

    tau: Range | Choice | None = option(None, help="divides the difference of two scores", unit="score")
    margin: Range | Choice | None = option(None, help="of the hinges: by how much the worse should lead", unit="tau")
    weight: Choice | None = option(None, help="what a pair counts for: none, ipcw, gap")
    events: Range | Choice | None = option(None, help="least share of a batch that has the event", unit="share")

    def applies(self, name: str, settings: Mapping[str, Value]) -> bool:
        loss = str(settings.get("loss", "logistic"))
        if name in ("tau", "weight"):
            return loss in KINDS
        return "hinge" in loss if name == "margin" else True

    def needs(self, name: str) -> tuple[str, str] | None:
        if name in ("tau", "weight"):
            return "loss", f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
        return ("loss", "hinge or squared_hinge") if name == "margin" else None


class AgeSpace(Space):
    """Parameters of jobs/finetune_age.py."""

    cap: Range | Choice | None = option(None, help="no face is drawn more often than this, as a multiple", unit="times")
    width: Choice | None = option(None, help="bins in which ages are counted", unit="years")
    smooth: Range | Choice | None = option(None, help="bins to either side over which counts are averaged", unit="bins")
    target: Range | Choice | None = option(None, help="faces a bin that count as enough", unit="faces")
    stage_b_rate: Range | Choice | None = option(
        None, help="rate of the balanced stage, as a share of that of the stage before it", unit="share"
    )
    stage_b_epochs: Range | Choice | None = option(None, help="length of the balanced stage", unit="passes")

    def applies(self, name: str, settings: Mapping[str, Value]) -> bool:
        return self.needs(name) is None or settings.get("cap") != 1  # a cap of 1 balances nothing

    def needs(self, name: str) -> tuple[str, str] | None:
        return ("cap", "above 1") if name in ("width", "smooth", "target") else None


SPACES: dict[str, type[Space]] = {"survival": SurvivalSpace, "age": AgeSpace}
DEFAULTS: dict[str, dict[str, Any]] = {  # those of configs/tune_survival.yaml and configs/tune_age.yaml
    "survival": {
        "loss": ["logistic", "hinge", "squared_hinge", "exponential", "cox"],
        "tau": {"low": 0.1, "high": 10.0, "log": True},
        "margin": {"low": 0.0, "high": 2.0},
        "weight": ["none", "ipcw", "gap"],
        "events": {"low": 0.1, "high": 0.5},
        "head_lr": {"low": 1e-3, "high": 0.3, "log": True},
        "head_epochs": {"low": 3, "high": 40, "log": True, "whole": True},
        "base_lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "layer_decay": {"low": 0.5, "high": 1.0},
        "drop_path": [0.0, 0.1, 0.2],
        "blocks": [2, 4, "all"],
        "epochs": {"low": 5, "high": 40, "log": True, "whole": True},
    },
    "age": {
        "loss": ["l1", "huber", "distribution", "ordinal", "gaussian"],
        "cap": {"low": 1, "high": 50, "log": True, "whole": True},
        "width": [1, 2, 5],
        "smooth": {"low": 0, "high": 4, "whole": True},
        "stage_b_rate": {"low": 0.03, "high": 1.0, "log": True},
        "stage_b_epochs": {"low": 1, "high": 15, "log": True, "whole": True},
        "head_lr": {"low": 3e-3, "high": 3.0, "log": True},
        "head_epochs": {"low": 3, "high": 40, "log": True, "whole": True},
        "base_lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "layer_decay": {"low": 0.5, "high": 1.0},
        "drop_path": [0.0, 0.1, 0.2],
        "blocks": [2, 4, "all"],
        "epochs": {"low": 5, "high": 40, "log": True, "whole": True},
    },
}  # fmt: skip


def read_space(task: str, given: Mapping[str, Any]) -> Space:
    """Refused: an unknown name, an empty space, what contradicts itself; everything that is wrong in one message."""
    kind = SPACES[task]
    if not given:
        raise Refused("space: is empty: there is nothing to search. Name a parameter, or leave `space` out for all.")
    found: dict[str, Parameter] = {}
    wrong = [f"space.{name}: no such parameter.{nearest(str(name), kind.model_fields)}" for name in given
             if name not in kind.model_fields]  # fmt: skip
    if wrong:
        wrong.append(f"Those of {task}: {', '.join(kind.model_fields)}.")
    for name, value in given.items():
        if name not in kind.model_fields:
            continue
        listed = isinstance(value, list | tuple)
        try:
            found[name] = Choice(values=tuple(value)) if listed else Range.model_validate(value)
        except ValidationError as error:
            wrong += [_told(name, each) for each in error.errors()]
            continue
        if not listed and kind.model_fields[name].annotation == (Choice | None):
            wrong.append(f"space.{name}: is one of a few values. Give a list of them, such as [a, b].")
    if wrong:
        raise Refused("\n".join(dict.fromkeys(wrong)))
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise Refused("\n".join(_told("", each) for each in error.errors())) from error


def _told(name: str, problem: Any) -> str:
    where = ".".join(str(part) for part in ("space", name, *problem["loc"]) if part != "")
    rule = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if problem["type"] == "model_type":
        rule = f"{problem['input']!r} is neither a list of values nor a range such as {{low: 0.1, high: 10}}"
    if problem["type"] == "missing":
        rule = "is missing: a range is {low: 0.1, high: 10}, a choice a list such as [0.1, 1]"
    if problem["type"] == "extra_forbidden":
        rule = f"no such word of a range.{nearest(str(problem['loc'][-1]), Range.model_fields)}".rstrip(".")
    if problem["type"] == "too_short":
        rule = "an empty list: give at least one value, or leave it out"
    return f"{where}: {rule}."
