"""Pictures of a sweep, as PNG bytes.

marks = Marks("C-index", default=0, winner=17)
best_chart(trials, marks)                    # the metric of each trial, and the best so far
parallel_chart(trials, marks, names)         # all settings of all trials
importance_chart(weigh(trials))
parameter_chart(trials, trials.parameters[0], marks)
curves_chart(trials, marks)

In all of them: blue = the best decile, red = the winner, dashed = the default, grey = other trials, dotted or hollow =
stopped early. One trial that went astray does not flatten the others: it is put on the border.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from fahr.biomarkers.deviation import Floats
from fahr.report.age_charts import PALE
from fahr.report.charts import BLUE, GREY, RED, png
from fahr.report.search_trials import Parameter, Trials, Weights

INK, LIGHT = "#12304d", "#c3c8d0"
DPI = 200  # pages show them at half their size: sharp on a phone
ASTRAY = 3.0  # of the distance from the best to the median, below the median: beyond it is the border
LETTERS = 16  # of a category that are shown
ABSENT = -0.16  # where a setting that does not apply stands, below an axis from 0 to 1


@dataclass(frozen=True)
class Marks:
    """What is told apart in every picture."""

    metric: str  # with its unit, as the axis says it
    default: int | None  # trial
    winner: int | None


def best_chart(trials: Trials, marks: Marks) -> bytes:
    """The metric of each trial in the order of their numbers, the best so far, the default with 1.96 errors around."""
    figure, axes = _figure(4.8, 3.6)
    low, high = metric_limits(trials)
    done = np.flatnonzero((trials.state == "done") & np.isfinite(trials.metric))
    _points(axes, trials, marks, trials.number.astype(np.float64), (low, high))
    so_far = (np.maximum if trials.higher_is_better else np.minimum).accumulate(trials.metric[done])
    if len(done):
        ends = np.append(trials.number[done], trials.number[-1])
        axes.step(ends, np.append(so_far, so_far[-1]), where="post", color=BLUE, linewidth=1.6, label="best so far")
    failed = trials.number[(trials.state == "failed") | ~np.isfinite(trials.metric)]
    border = axes.get_xaxis_transform()
    if len(failed):
        worst = 0.015 if trials.higher_is_better else 0.985
        axes.plot(failed, np.full(len(failed), worst), "x", color=RED, markersize=4, transform=border, clip_on=False,
                  label=f"no metric ({len(failed):,})")  # fmt: skip
    place = trials.place(marks.default)
    if place is not None and np.isfinite(trials.metric[place]):
        value, error = trials.metric[place], 1.96 * trials.metric_se[place]
        axes.axhline(value, color=INK, linewidth=1, linestyle="--", label=f"default, trial {marks.default}")
        if np.isfinite(error) and error > 0:
            axes.axhspan(value - error, value + error, color=INK, alpha=0.08, linewidth=0)
    axes.set(xlabel="trial", ylabel=marks.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    _legend(figure)
    return png(figure)


def parameter_chart(trials: Trials, parameter: Parameter, marks: Marks) -> bytes:
    """The metric over one setting; trials it does not apply to are counted, not drawn."""
    figure, axes = _figure(3.5, 2.9)
    x, names = _positions(parameter)
    if names:
        x = x + _spread(x)
        axes.set_xticks(range(len(names)), [_short(each) for each in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        if sum(len(_short(each)) for each in names) > 26:
            axes.tick_params(axis="x", rotation=30)
    elif parameter.log:
        axes.set_xscale("log")
        _few_log_ticks(axes, x)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=parameter.kind == "integer"))
    _points(axes, trials, marks, x, metric_limits(trials))
    place = trials.place(marks.default)
    if place is not None and np.isfinite(trials.metric[place]):
        axes.axhline(trials.metric[place], color=INK, linewidth=1, linestyle="--")
    without = sum(each is None for each in parameter.values)
    more = f"  (not of {without:,})" if without else ""
    axes.set_title(f"{parameter.name}{more}", loc="left", fontsize="medium")
    axes.set_ylabel(marks.metric, fontsize="small")
    axes.tick_params(labelsize="small")
    return png(figure)


def curves_chart(trials: Trials, marks: Marks) -> bytes:
    """The metric over the steps of each trial that told it twice or more often."""
    figure, axes = _figure(4.8, 3.7)
    best, default, winner = _told_apart(trials, marks)
    longer = [at for at, curve in enumerate(trials.curve) if len(curve) > 1]
    ways: list[tuple[str, Sequence[int], dict[str, Any]]] = [
        ("stopped early", [at for at in longer if trials.state[at] == "stopped"],
         {"color": GREY, "linestyle": ":", "linewidth": 0.9}),
        ("failed", [at for at in longer if trials.state[at] == "failed"],
         {"color": RED, "linestyle": ":", "linewidth": 0.9}),
        ("other trials", [at for at in longer if trials.state[at] == "done" and at not in best],
         {"color": LIGHT, "linewidth": 0.9}),
        ("best decile", [at for at in longer if at in best], {"color": BLUE, "linewidth": 1.0}),
        (f"default, trial {marks.default}", [at for at in longer if at == default],
         {"color": INK, "linestyle": "--", "linewidth": 1.6}),
        (f"winner, trial {marks.winner}", [at for at in longer if at == winner], {"color": RED, "linewidth": 1.8}),
    ]  # fmt: skip
    for words, places, style in ways:
        for number, at in enumerate(places):
            axes.plot(*trials.curve[at].T, label=words if number == 0 else None, **style)
            if trials.state[at] != "done":
                mark = "x" if trials.state[at] == "failed" else "o"
                axes.plot(*trials.curve[at][-1], mark, color=style["color"], markersize=3, markerfacecolor="white")
    values = np.concatenate([trials.curve[at][:, 1] for at in longer] or [np.zeros(0)])
    axes.set_ylim(limits(values, trials.higher_is_better))
    axes.set(xlabel="step", ylabel=marks.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    _legend(figure)
    return png(figure)


def importance_chart(weights: Weights) -> bytes:
    """Bars, the most important above; a line for what shuffled metrics reached: bars that do not pass it are grey."""
    names = list(weights.share)[::-1]
    share = np.array([weights.share[name] for name in names])
    chance = np.array([weights.chance[name] for name in names])
    figure = Figure(figsize=(4.8, 1.0 + 0.34 * len(names)), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    place = np.arange(len(names), dtype=np.float64)
    bars = axes.barh(place, share, height=0.62, color=np.where(share > chance, BLUE, LIGHT).tolist())
    axes.vlines(chance, place - 0.42, place + 0.42, color=INK, linewidth=1.4, label="most by chance")
    reach = np.maximum(share, chance)
    for bar, words, end in zip(bars, [f"{each:.0%}" for each in share], reach, strict=True):
        middle = bar.get_y() + bar.get_height() / 2
        axes.annotate(words, (end, middle), xytext=(5, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(place, [_short(name, 28) for name in names])
    axes.set_xlim(0, 1.16 * reach.max())
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
    _legend(figure)
    return png(figure)


def parallel_chart(trials: Trials, marks: Marks, parameters: Sequence[Parameter]) -> bytes:
    """A line a trial through an axis for each setting and one for the metric, where up is better.

    On an axis of categories each has a place, and its trials are spread around it; one that does not apply is at the
    bottom. Trials without a metric are not drawn.
    """
    figure = Figure(figsize=(max(4.8, 1.15 * (len(parameters) + 1)), 4.4), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    drawn: list[int] = np.flatnonzero(np.isfinite(trials.metric)).tolist()
    columns = [_column(axes, at, parameter) for at, parameter in enumerate(parameters)]
    columns.append(_metric_column(axes, len(parameters), trials))
    lines = np.stack(columns, axis=1)  # (N, axes)
    best, default, winner = _told_apart(trials, marks)
    rest = [at for at in drawn if at not in best and at not in (default, winner)]
    ways: list[tuple[str, Sequence[int], dict[str, Any]]] = [
        ("stopped early", [at for at in rest if trials.state[at] == "stopped"],
         {"color": GREY, "linestyle": ":", "linewidth": 0.7}),
        ("other trials", [at for at in rest if trials.state[at] != "stopped"], {"color": LIGHT, "linewidth": 0.7}),
        ("best decile", [at for at in drawn if at in best], {"color": BLUE, "linewidth": 1.2}),
        (f"winner, trial {marks.winner}", [at for at in drawn if at == winner], {"color": RED, "linewidth": 2.0}),
        (f"default, trial {marks.default}", [at for at in drawn if at == default],
         {"color": INK, "linewidth": 1.6, "linestyle": "--"}),
    ]  # fmt: skip
    for words, places, style in ways:
        if places:
            paths = [np.column_stack([np.arange(lines.shape[1]), lines[at]]) for at in places]
            axes.add_collection(LineCollection(paths, **style))
            axes.plot([], [], label=words, **style)
    axes.set_xlim(-0.35, len(parameters) + 0.55)
    axes.set_ylim(ABSENT - 0.06 if any(None in each.values for each in parameters) else -0.06, 1.06)
    heads = [_short(each.name, 14) for each in parameters] + ["metric"]
    axes.set_xticks(range(len(heads)), heads, fontsize="small", fontweight="bold")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.vlines(range(len(heads)), 0, 1, color=INK, linewidth=0.9, zorder=3)
    _legend(figure)
    return png(figure)


def limits(values: Floats, higher_is_better: bool) -> tuple[float, float]:
    """Ends of an axis that hold the best value, and the others as far as they are not astray."""
    there = values[np.isfinite(values)]
    if not len(there):
        return 0.0, 1.0
    sign = 1.0 if higher_is_better else -1.0
    loss = -sign * there
    best, middle = float(loss.min()), float(np.median(loss))
    reach = max(middle - best, float(np.quantile(loss, 0.75)) - middle)
    worst = min(float(loss.max()), middle + ASTRAY * reach) if reach > 0 else float(loss.max())
    room = 0.06 * (worst - best) or 0.05 * abs(best) or 1.0
    ends = sorted((-sign * (best - room), -sign * (worst + room)))
    return ends[0], ends[1]


def metric_limits(trials: Trials) -> tuple[float, float]:
    return limits(trials.metric, trials.higher_is_better)


def _told_apart(trials: Trials, marks: Marks) -> tuple[set[int], int | None, int | None]:
    """Places of the best decile, the default and the winner."""
    return set(trials.best().tolist()), trials.place(marks.default), trials.place(marks.winner)


def _points(axes: Axes, trials: Trials, marks: Marks, x: Floats, ends: tuple[float, float]) -> None:
    """A dot a trial at (x, metric); those beyond the ends are triangles on the border."""
    best, default, winner = _told_apart(trials, marks)
    place = np.arange(len(x))
    there = np.isfinite(x) & np.isfinite(trials.metric)
    top = np.isin(place, list(best))
    stopped, done = there & (trials.state == "stopped"), there & (trials.state == "done")
    inside = (trials.metric >= ends[0]) & (trials.metric <= ends[1])
    near = np.clip(trials.metric, *ends)
    ways: list[tuple[str, NDArray[np.bool_], dict[str, Any]]] = [
        ("stopped early", stopped & inside, {"marker": "o", "markerfacecolor": "white", "color": GREY}),
        ("other trials", done & ~top & inside, {"marker": "o", "color": GREY}),
        ("best decile", done & top & inside, {"marker": "o", "color": BLUE}),
        ("beyond the picture", there & ~inside, {"marker": "v" if trials.higher_is_better else "^", "color": GREY}),
    ]
    for words, which, style in ways:
        if which.any():
            axes.plot(x[which], near[which], linestyle="", markersize=3.6, label=words, **style)
    above: dict[str, Any] = {"linestyle": "", "zorder": 4, "clip_on": False}
    if default is not None and there[default]:
        axes.plot(x[default], near[default], marker="D", color=INK, markersize=5, **above)
    if winner is not None and there[winner]:
        words = f"winner, trial {marks.winner}"
        axes.plot(x[winner], near[winner], marker="*", color=RED, markersize=10, label=words, **above)
    axes.set_ylim(ends)


def _positions(parameter: Parameter) -> tuple[Floats, list[str]]:
    """Where values stand on an axis, nan where there is none; and the names of the categories 0, 1, 2 ..."""
    if parameter.kind == "category":
        names = parameter.told
        found = [math.nan if each is None else float(names.index(each)) for each in parameter.values]
        return np.array(found), names
    return np.array([math.nan if each is None else float(each) for each in parameter.values]), []


def _spread(x: Floats) -> Floats:
    """Small steps aside for trials of one category, in their order: dots and lines lie beside each other."""
    aside = np.zeros(len(x))
    for each in np.unique(x[np.isfinite(x)]):
        which = np.flatnonzero(x == each)
        aside[which] = np.linspace(-0.22, 0.22, len(which)) if len(which) > 1 else 0.0
    return aside


def _column(axes: Axes, at: int, parameter: Parameter) -> Floats:
    """(N,) heights on one axis of parallel coordinates, of a parameter with two values or more; writes its ticks."""
    x, names = _positions(parameter)
    ticks: list[tuple[float, str]]
    if names:
        step, every = 1 / (len(names) - 1), -(-len(names) // 12)
        heights = x * step + min(0.2, 0.5 * step) * _spread(x)
        ticks = [(place * step, _short(each)) for place, each in enumerate(names)][::every]
    else:
        scaled = np.log(x) if parameter.log else x
        low, high = float(np.nanmin(scaled)), float(np.nanmax(scaled))
        heights = (scaled - low) / (high - low)
        ends = [(math.exp(each) if parameter.log else each) for each in (low, (low + high) / 2, high)]
        told = [round(each) for each in ends] if parameter.kind == "integer" else ends
        places = (np.log(told) if parameter.log else np.array(told, np.float64)) - low
        ticks = [(share, f"{each:.3g}") for share, each in zip((places / (high - low)).tolist(), told, strict=True)]
    if None in parameter.values:
        heights = np.where(np.isfinite(heights), heights, ABSENT)
        ticks.append((ABSENT, "none"))
    _write_ticks(axes, at, ticks)
    return heights


def _metric_column(axes: Axes, at: int, trials: Trials) -> Floats:
    low, high = metric_limits(trials)
    worst, best = (low, high) if trials.higher_is_better else (high, low)
    heights = np.clip((trials.metric - worst) / (best - worst), 0, 1)
    _write_ticks(axes, at, [(share, f"{worst + share * (best - worst):.4g}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)])
    return heights


def _write_ticks(axes: Axes, at: int, ticks: Sequence[tuple[float, str]]) -> None:
    for height, words in ticks:
        axes.annotate(words, (at, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize="x-small",
                      zorder=5, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.8})  # fmt: skip


def _few_log_ticks(axes: Axes, x: Floats) -> None:
    """Within one decade matplotlib would write every minor tick over the next."""
    there = x[np.isfinite(x)]
    if len(there) and there.max() / there.min() < 20:
        ticks = np.unique([float(f"{each:.2g}") for each in np.geomspace(there.min(), there.max(), 4)])
        axes.set_xticks(ticks, [f"{each:.2g}" for each in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(words: str, most: int = LETTERS) -> str:
    plain = " ".join(str(words).split()).replace("$", r"\$")  # a dollar would begin a formula
    return plain if len(plain) <= most else plain[: most - 2] + ".."


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure) -> None:
    """Above the picture, where it hides nothing."""
    handles: list[Artist] = [each for axes in figure.axes for each in axes.get_legend_handles_labels()[0]]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize="small")
