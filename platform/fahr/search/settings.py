"""Settings of a trial and options of the fine-tune job: one from the other.

    now = current(options, "survival")                      # what the job's configuration says of each parameter
    configured(options, "survival", {"tau": 0.3, "head_lr": 0.05})["tau"]       # the job's options with these instead
    changes(base, before, after)                            # what best.yaml holds

Options are the job's as plain values (`Options.resolved()`). The head stage is the first that freezes the encoder and
thaws no block; the main stage the last that is neither that nor balanced. Rates of stages with a rate of their own keep
their ratio to that of the main stage.
"""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from fahr.objectives.ranking import KINDS
from fahr.search.spaces import ALL, Settings, Value

Plain = dict[str, Any]
PART = "head_lr_"  # head_lr_1, head_lr_2, ...: a schedule, the head stage in `head_parts` parts with rates of their own
PARTS = "head_parts"
PLAIN = {  # parameters that are options of the same name
    "survival": ("loss", "tau", "margin", "weight", "events", "weight_decay", "global_batch", "layer_decay",
                 "drop_path"),
    "age": ("loss", "weight_decay", "global_batch", "layer_decay", "drop_path"),
}  # fmt: skip
HEAD_RATE = {"survival": 1e-2, "age": 3e-2}  # of a head stage that the job's configuration does not have
HEAD_EPOCHS = 10.0


def current(options: Mapping[str, Any], task: str, *, speed: str = "features") -> Settings:
    """Values that the configuration does not say in these terms (a length in samples) are left out. With `features`
    the head has a rate and a length whether the configuration has a stage for it or not."""
    found: dict[str, Value | None] = {name: options[name] for name in PLAIN[task]}
    stages = options["stages"]
    head, main = _with_head(options, task)[0], _main(stages)
    if speed == "features" or _is_head(stages[0]):
        found |= {"head_lr": _rate(head, options), "head_epochs": _epochs(head, options)}
    if main is not None:
        frozen = main["freeze"] != "none"
        found |= {"base_lr": _rate(main, options), "epochs": _epochs(main, options)}
        found["blocks"] = main["blocks"] if frozen else ALL
    if task == "age":
        balance = options["balance"]
        found |= {"cap": balance["cap"], "width": balance["width"], "target": balance["target"]}
        found["smooth"] = balance["smooth"] // balance["width"]
        for before, stage in pairwise(stages):
            if stage["balanced"]:
                found["stage_b_rate"] = _rate(stage, options) / _rate(before, options)
                found["stage_b_epochs"] = _epochs(stage, options)
    return {name: value for name, value in found.items() if value is not None}


def configured(options: Mapping[str, Any], task: str, settings: Mapping[str, Value]) -> Plain:
    """The options with these settings; what has no effect beside them is put back to its off-value."""
    made = copy.deepcopy(dict(options))
    made |= {name: value for name, value in settings.items() if name in PLAIN[task]}
    if task == "survival":
        if made["loss"] not in KINDS:
            made |= {"weight": "none", "tau": 1.0}
        if "hinge" not in made["loss"]:
            made["margin"] = 1.0
    _set_stages(made, task, settings)
    if task == "age":
        _set_balance(made, settings)
    return made


def head_stages(options: Mapping[str, Any], task: str) -> list[Plain]:
    """What a head alone is taught, on features that are kept: the head stages in front, then the balanced ones at their
    share of the rate of the first."""
    stages = _with_head(options, task)
    chosen = [stage for at, stage in enumerate(stages) if all(_is_head(each) for each in stages[: at + 1])]
    for before, stage in pairwise(stages):
        if stage["balanced"]:
            share = _rate(stage, options) / _rate(before, options)
            alone = {"freeze": "encoder", "blocks": 0, "base_lr": share * _rate(stages[0], options)}
            chosen.append({**stage, **alone})
    return chosen


def with_head(options: Mapping[str, Any], task: str) -> Plain:
    """The options with a head stage in front, if there is none."""
    return {**copy.deepcopy(dict(options)), "stages": _with_head(options, task)}


def changes(base: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> Plain:
    """`base`: the file that `before` was read from. The same with what `after` has otherwise; stages without nones."""
    told = {**base, **{name: value for name, value in after.items() if value != before.get(name)}}
    if "stages" in told:
        told["stages"] = [
            {name: value for name, value in dict(stage).items() if value is not None} for stage in told["stages"]
        ]
    return told


def without_stage(options: Mapping[str, Any], task: str) -> dict[str, str]:
    """Parameters about stages that the configuration does not have -> what such a stage would do."""
    stages = options["stages"]
    found: dict[str, str] = {}
    if all(_is_head(stage) for stage in stages):
        found |= dict.fromkeys(("layer_decay", "drop_path"), "moves the encoder")
    if _main(stages) is None:
        found |= dict.fromkeys(("base_lr", "blocks", "epochs"), "moves the encoder")
    if task == "age" and not any(stage["balanced"] for stage in stages):
        names = ("cap", "width", "smooth", "target", "stage_b_rate", "stage_b_epochs")
        found |= dict.fromkeys(names, "is balanced")
    return found


def _is_head(stage: Mapping[str, Any]) -> bool:
    return bool(stage["freeze"] == "encoder" and not stage["blocks"])


def _main(stages: list[Plain]) -> Plain | None:
    return next((stage for stage in reversed(stages) if not stage["balanced"] and not _is_head(stage)), None)


def _rate(stage: Mapping[str, Any], options: Mapping[str, Any]) -> float:
    return float(options["base_lr"] if stage["base_lr"] is None else stage["base_lr"])


def _epochs(stage: Mapping[str, Any], options: Mapping[str, Any]) -> float | None:
    if stage["samples"] is not None:
        return None
    found = options["epochs"] if stage["epochs"] is None else stage["epochs"]
    if found is None:
        return None
    return int(found) if float(found).is_integer() else float(found)


def _with_head(options: Mapping[str, Any], task: str) -> list[Plain]:
    stages: list[Plain] = copy.deepcopy(list(options["stages"]))
    if _is_head(stages[0]) and not stages[0]["balanced"]:
        return stages
    fresh = {**stages[0], "name": "head", "datasets": None, "balanced": False, "freeze": "encoder", "blocks": 0,
             "epochs": HEAD_EPOCHS, "samples": None, "base_lr": HEAD_RATE[task], "patience": None}  # fmt: skip
    return [fresh, *stages]


def _set_stages(made: Plain, task: str, settings: Mapping[str, Value]) -> None:
    if "head_lr" in settings or "head_epochs" in settings:
        made["stages"] = _with_head(made, task)
        head = made["stages"][0]
        head["base_lr"] = settings.get("head_lr", _rate(head, made))
        if "head_epochs" in settings:
            head |= {"epochs": settings["head_epochs"], "samples": None}
    if PARTS in settings:
        made["stages"] = _in_parts(_with_head(made, task), settings)
    stages = made["stages"]
    main = _main(stages)
    if main is not None and "base_lr" in settings:
        ratio = float(settings["base_lr"]) / _rate(main, made)
        for stage in stages:
            own = _rate(stage, made)
            stage["base_lr"] = own if _is_head(stage) else own * ratio
        made["base_lr"] = made["base_lr"] * ratio
    if main is not None and "epochs" in settings:
        main |= {"epochs": settings["epochs"], "samples": None}
    if main is not None and "blocks" in settings:
        some = settings["blocks"] != ALL
        main |= {"freeze": "encoder" if some else "none", "blocks": settings["blocks"] if some else 0}
    for before, stage in pairwise(stages):
        if stage["balanced"] and "stage_b_rate" in settings:
            stage["base_lr"] = float(settings["stage_b_rate"]) * _rate(before, made)
        if stage["balanced"] and "stage_b_epochs" in settings:
            stage |= {"epochs": settings["stage_b_epochs"], "samples": None}
    peaks = [_rate(stage, made) * made["global_batch"] / 256 for stage in stages]
    made["min_lr"] = min([made["min_lr"], *peaks])  # a low rate ends no higher than it was


def _in_parts(stages: list[Plain], settings: Mapping[str, Value]) -> list[Plain]:
    """The head stage as so many of equal length as there are rates; fewer rates than parts: the rest is left out."""
    head, parts = stages[0], int(settings[PARTS])
    rates = [settings[f"{PART}{number}"] for number in range(1, parts + 1) if f"{PART}{number}" in settings]
    length = {"epochs": HEAD_EPOCHS / parts if head["epochs"] is None else head["epochs"] / parts}
    if head["samples"] is not None:
        length = {"samples": head["samples"] // parts, "epochs": None}
    made = [{**head, **length, "name": f"{head['name']}-{number}", "base_lr": rate}
            for number, rate in enumerate(rates, 1)]  # fmt: skip
    return [*made, *stages[1:]]


def _set_balance(made: Plain, settings: Mapping[str, Value]) -> None:
    balance = made["balance"]
    bins = int(settings.get("smooth", balance["smooth"] // balance["width"]))
    balance |= {name: settings[name] for name in ("cap", "width", "target") if name in settings}
    balance["smooth"] = bins * balance["width"]  # years: a multiple of the width
