"""The page that a sweep of settings ends with: `search.html`, which holds its pictures and works offline, and
`figures/*.png`.

write("out/tune", table, summary)        # table: a row a trial, as of `search_trials`; gives the page's location
verdict(summary).words                   # does the winner beat the default beyond noise? In one sentence
"""

import base64
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from fahr import store
from fahr.biomarkers.accuracy_results import Estimate
from fahr.errors import Refused
from fahr.report import search_charts as charts
from fahr.report.page import rendered
from fahr.report.search_trials import SHUFFLES, Parameter, Scale, Trials, Weights, importance, read_trials, weigh

__all__ = ["Estimate", "SearchSummary", "Verdict", "importance", "verdict", "write"]

TOP = 20  # trials in the table
KINDS = 5  # errors told apart
AXES = 12  # settings in the parallel coordinates
ERROR_LETTERS = 600


@dataclass(frozen=True)
class SearchSummary:
    """What a sweep came to. Values are in the metric's unit; held out = on people whom no trial was judged on.

    The page says of every sweep that trials were judged on tune folds by subject, and that the test split was not
    read.
    """

    task: str  # "survival", "age"
    metric: str  # as it is read: "C-index", "average bin-wise MAE"
    unit: str  # "years"; "" of a pure number
    higher_is_better: bool
    winner_trial: int | None  # None: no trial was chosen
    default_trial: int
    winner_value: Estimate  # held out
    default_value: Estimate
    difference: Estimate  # winner - default, paired by subject: below 0 is better of an error
    optimism: Estimate  # by how much the tune folds flattered the winner: above 0, it did better there than held out
    seeds: tuple[int, ...]  # of the finalists
    settings: str  # best.yaml; "" if there is none
    digests: Mapping[str, str]  # what was read: {"faces": "sha256:...", "init": "sha256:..."}
    code_version: str
    command: str
    scales: Mapping[str, Scale] = field(default_factory=dict)  # "log" of a parameter (without `p_`); else linear
    held_out: str = ""  # who: "split calibrate: 412 subjects, 96 events"
    notes: tuple[str, ...] = ()  # sentences about how it was judged, added to those of the page

    @property
    def label(self) -> str:
        return f"{self.metric}, {self.unit}" if self.unit else self.metric

    def told(self, value: float) -> str:
        return f"{value:.{2 if self.unit else 3}f}"

    def show(self, each: Estimate) -> str:
        """`0.712 [0.690, 0.733]`"""
        if each.value is None:
            return "not known"
        ends = "" if each.low is None or each.high is None else f" [{self.told(each.low)}, {self.told(each.high)}]"
        return f"{self.told(each.value)}{ends}"


@dataclass(frozen=True)
class Verdict:
    tone: str  # "better", "same" (within noise, or not known), "worse"
    words: str


def verdict(summary: SearchSummary) -> Verdict:
    """Beyond noise: the interval of the paired difference leaves 0 out."""
    if summary.winner_trial is None:
        return Verdict("same", "No trial was chosen: none ended with a metric, so there are no settings to use.")
    if summary.winner_trial == summary.default_trial:
        return Verdict("same", "The default settings won: no other trial was chosen over them, so keep them.")
    gap = summary.difference
    unit = f" {summary.unit}" if summary.unit else ""
    told = (
        f"held-out {summary.metric} {summary.show(summary.winner_value)}{unit} against "
        f"{summary.show(summary.default_value)}{unit}, difference {summary.show(gap)}{unit}"
    )
    who = f"trial {summary.winner_trial}"
    if gap.value is None or gap.low is None or gap.high is None:
        return Verdict("same", f"Not known: the difference of {who} from the default has no interval ({told}).")
    sign = 1 if summary.higher_is_better else -1
    ends = sorted((sign * gap.low, sign * gap.high))
    if ends[0] > 0:
        return Verdict("better", f"Yes, beyond noise: {who} is better than the default settings ({told}).")
    if ends[1] < 0:
        return Verdict("worse", f"No: {who} is worse than the default settings, beyond noise ({told}). Keep those.")
    return Verdict("same", f"No: {who} is not better than the default settings beyond noise ({told}).")


@dataclass(frozen=True)
class Failure:
    count: int
    error: str  # of the first of them
    trials: str


def _failures(trials: Trials) -> list[Failure]:
    """By error, numbers in it left out; the commonest first."""
    places = np.flatnonzero(trials.state == "failed").tolist()
    lines = {at: _line(trials.error[at]) for at in places}
    kinds = {at: re.sub(r"0x[0-9a-fA-F]+|\d+(\.\d+)?", "#", lines[at]) for at in places}
    found = []
    for kind, count in Counter(kinds.values()).most_common():
        same = [at for at in places if kinds[at] == kind]
        numbers = ", ".join(str(trials.number[at]) for at in same[:12])
        found.append(Failure(count, lines[same[0]][:ERROR_LETTERS], numbers + (" ..." if count > 12 else "")))
    return found


def _line(error: str) -> str:
    """The line of an error that says most: of a traceback the last, else the first."""
    lines = [each.strip() for each in error.splitlines() if each.strip()] or ["no error was told"]
    return lines[-1] if any(each.startswith("Traceback") for each in lines) else lines[0]


@dataclass(frozen=True)
class Picture:
    file: str
    png: bytes
    words: str  # for who cannot see it

    @property
    def data(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:  # CSS pixels: half of what was drawn, so that a phone shows it sharp
        return int(struct.unpack(">I", self.png[16:20])[0]) // 2

    @property
    def height(self) -> int:
        return int(struct.unpack(">I", self.png[20:24])[0]) // 2


@dataclass(frozen=True)
class Section:
    name: str
    heading: str
    words: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    out: str = ""  # why something is left out
    wide: bool = False  # may be wider than the page: scrolls sideways


def write(folder: str, trials: pa.Table, summary: SearchSummary) -> str:
    """`figures/*.png` and then `search.html` under the folder (a path or s3://). The same input, the same bytes."""
    read = read_trials(trials, higher_is_better=summary.higher_is_better, scales=summary.scales)
    sections = _sections(read, summary)
    for section in sections:
        for picture in section.pictures:
            store.write_bytes(store.join(folder, "figures", picture.file), picture.png)
    page = rendered("search_page.html", **_facts(read, summary), sections=sections)
    place = store.join(folder, "search.html")
    store.write_bytes(place, page.encode())
    return place


def _facts(trials: Trials, summary: SearchSummary) -> dict[str, Any]:
    failures = _failures(trials)
    heads, rows = _table(trials, summary)
    return {
        "summary": summary,
        "label": summary.label,
        "verdict": verdict(summary),
        "counts": _counts(trials),
        "estimates": [
            (f"winner, trial {summary.winner_trial}", summary.show(summary.winner_value)),
            (f"default, trial {summary.default_trial}", summary.show(summary.default_value)),
            ("winner - default, paired", summary.show(summary.difference)),
            ("optimism of the tune folds", summary.show(summary.optimism)),
        ]
        if summary.winner_trial is not None
        else [],
        "direction": f"{'Higher' if summary.higher_is_better else 'Lower'} is better. Optimism above 0: the winner did "
        "better on the tune folds, where it was picked, than held out.",
        "failures": failures[:KINDS],
        "more_failures": len(failures[KINDS:]),
        "failed": f"{int((trials.state == 'failed').sum()):,}",
        "total": f"{len(trials.number):,}",
        "heads": heads,
        "rows": rows,
        "table_words": f"The best {min(TOP, len(trials.ranked()))} of {len(trials.ranked()):,} that ended with a "
        "metric, by the tune folds, and the default. The winner need not be the first: finalists are compared over "
        "several seeds.",
        "judged": _judged(summary),
        "limits": _limits(trials),
    }


def _counts(trials: Trials) -> str:
    total = {state: int((trials.state == state).sum()) for state in ("done", "stopped", "failed")}
    words = f"{len(trials.number):,} trials: {total['done']:,} done, {total['stopped']:,} stopped early, "
    words += f"{total['failed']:,} failed; {_hours(float(np.nansum(trials.seconds)))} of computing in all."
    silent = int(((trials.state != "failed") & ~np.isfinite(trials.metric)).sum())
    return words + (f" {silent:,} that did not fail told no metric: they are in no ranking." if silent else "")


def _hours(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _judged(summary: SearchSummary) -> list[str]:
    seeds = ", ".join(str(each) for each in summary.seeds)
    told = [
        f"Every trial has its {summary.label} on the tune folds, which are split by subject: nobody is both trained on "
        "and judged on. The test split was not read.",
        f"Trial {summary.default_trial} is the default configuration, run like any other.",
        f"The finalists were run with seeds {seeds}." if seeds else "There were no finalists with several seeds.",
    ]
    if summary.winner_trial is not None:
        told.append(
            "The winner and the default were then judged on people whom no trial was judged on"
            + (f" ({summary.held_out})" if summary.held_out else "")
            + "; their difference is paired by subject, and its 95 % interval is by resampling subjects."
        )
    return told + list(summary.notes)


def _limits(trials: Trials) -> list[str]:
    told = [
        "Among many trials the best is partly lucky: a metric on the tune folds flatters. Quote the held-out value.",
        "Intervals are over subjects like these. They do not say what another site, camera or detector would give.",
        "Importance and pictures describe the ranges that were searched. A best value at the border of its range says "
        "that the range was too small.",
        "A sampler that learns tries good settings more often: many dots at one place are no evidence by themselves.",
    ]
    if (trials.state == "stopped").any():
        told.append("The metric of a trial that was stopped early is that of its last step, so it may look worse.")
    return told + ["Research use only."]


def _sections(trials: Trials, summary: SearchSummary) -> list[Section]:
    marks = charts.Marks(summary.label, summary.default_trial, summary.winner_trial)
    weights, why = _weigh(trials)
    order = {name: place for place, name in enumerate(weights.share)} if weights else {}
    varied = [each for each in trials.parameters if len(each.told) > 1]
    varied.sort(key=lambda each: order.get(each.name, len(order)))
    scored = bool(np.isfinite(trials.metric).any())
    one_value = [each for each in trials.parameters if len(each.told) < 2]
    fixed = "Not drawn, of one value: " + ", ".join(_setting(each) for each in one_value) + "." if one_value else ""
    parts = [
        _best_so_far(trials, marks, scored),
        _parallel(trials, marks, varied if scored else [], fixed),
        _importances(weights, why),
        _parameters(trials, marks, varied if scored else [], fixed),
        _curves(trials, marks),
    ]
    return parts


def _setting(parameter: Parameter) -> str:
    return parameter.name + (f" = {_value(parameter.told[0])}" if parameter.told else "")


def _weigh(trials: Trials) -> tuple[Weights | None, str]:
    try:
        return weigh(trials), ""
    except Refused as error:
        return None, f"Left out: {str(error).removeprefix('importance: ')}"


def _best_so_far(trials: Trials, marks: charts.Marks, scored: bool) -> Section:
    heading = "Best so far"
    if not scored:
        return Section("best", heading, out="Left out: no trial has a metric.")
    words = "The metric of each trial on the tune folds. The band around the default is 1.96 of its standard errors."
    told = f"{marks.metric} of each trial and the best so far, over {len(trials.number)} trials"
    return Section("best", heading, (words,), (Picture("best.png", charts.best_chart(trials, marks), told),))


def _parallel(trials: Trials, marks: charts.Marks, varied: Sequence[Parameter], fixed: str) -> Section:
    heading = "All settings at once"
    if not varied:
        return Section("parallel", heading, out=f"Left out: no setting varied among trials with a metric. {fixed}")
    words = ["A line is a trial. On the metric's axis up is better. On a small screen, move the picture sideways."]
    if len(varied) > AXES:
        words.append(f"{AXES} of {len(varied)} settings are drawn, the most important ones.")
    drawn = varied[:AXES]
    told = f"Parallel coordinates of {', '.join(each.name for each in drawn)} and {marks.metric}"
    picture = Picture("parallel.png", charts.parallel_chart(trials, marks, drawn), told)
    return Section("parallel", heading, tuple(words), (picture,), fixed, wide=True)


def _importances(weights: Weights | None, why: str) -> Section:
    heading = "Which settings mattered"
    if weights is None:
        return Section("importance", heading, out=why)
    words = (
        f"PED-ANOVA: how much a setting decides whether a trial is among the best {weights.best} of {weights.trials}. "
        "Shares of their sum. A bar that stays behind its line is no more than chance gave when the metrics were "
        f"shuffled among the trials (the most of {SHUFFLES} shuffles)."
    )
    out = f"Nothing can be said of {', '.join(weights.constant)}: one value." if weights.constant else ""
    told = "Importances: " + ", ".join(f"{name} {share:.0%}" for name, share in weights.share.items())
    return Section(
        "importance", heading, (words,), (Picture("importance.png", charts.importance_chart(weights), told),), out
    )


def _parameters(trials: Trials, marks: charts.Marks, varied: Sequence[Parameter], fixed: str) -> Section:
    heading = "The metric against each setting"
    if not varied:
        return Section("parameters", heading, out=f"Left out: no setting varied among trials with a metric. {fixed}")
    words = "Blue: the best decile; star: the winner; diamond and dashed line: the default; hollow: stopped early."
    names = _file_names([each.name for each in varied])
    pictures = tuple(
        Picture(file, charts.parameter_chart(trials, each, marks), f"{marks.metric} against {each.name}")
        for file, each in zip(names, varied, strict=True)
    )
    return Section("parameters", heading, (words,), pictures, fixed)


def _file_names(names: Sequence[str]) -> list[str]:
    """One for each, of plain letters; two that would be the same get a number."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:80]
        found.append(
            f"parameter_{plain}.png" if f"parameter_{plain}.png" not in found else f"parameter_{plain}_{len(found)}.png"
        )
    return found


def _curves(trials: Trials, marks: charts.Marks) -> Section:
    heading = "Learning curves"
    if not any(len(curve) > 1 for curve in trials.curve):
        return Section("curves", heading, out="Left out: no trial told its metric at two steps or more.")
    told = f"{marks.metric} over steps, a line a trial"
    picture = Picture("curves.png", charts.curves_chart(trials, marks), told)
    return Section("curves", heading, ("Dotted lines end where a trial was stopped, or failed.",), (picture,))


@dataclass(frozen=True)
class Row:
    mark: str
    cells: tuple[str, ...]


def _table(trials: Trials, summary: SearchSummary) -> tuple[list[str], list[Row]]:
    order = trials.ranked()
    shown = order[:TOP].tolist()
    for number in (summary.winner_trial, summary.default_trial):
        place = trials.place(number)
        if place is not None and place not in shown and np.isfinite(trials.metric[place]):
            shown.append(place)
    heads = ["", "trial", summary.label, "se", "seconds", *(each.name for each in trials.parameters)]
    rows = []
    rank = {at: str(place) for place, at in enumerate(order.tolist(), 1)}
    for at in shown:
        number = int(trials.number[at])
        marks = {summary.default_trial: "default", summary.winner_trial: "winner"}
        mark = marks.get(number, "")
        cells = [
            rank.get(at, trials.state[at]),
            f"{number} ({mark})" if mark else str(number),
            f"{trials.metric[at]:.{3 if summary.unit else 4}f}",
            "" if np.isnan(trials.metric_se[at]) else f"{trials.metric_se[at]:.{3 if summary.unit else 4}f}",
            "" if np.isnan(trials.seconds[at]) else f"{trials.seconds[at]:.1f}",
            *(_value(each.values[at]) for each in trials.parameters),
        ]
        rows.append(Row(mark, tuple(str(each) for each in cells)))
    return heads, rows


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
