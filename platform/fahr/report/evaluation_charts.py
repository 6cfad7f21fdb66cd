"""Pictures of an evaluation, as PNG bytes: narrow and with large letters, so that a phone shows them readably.

quarters_chart(curves, test)        # Kaplan-Meier by quartile of the risk with those at risk; curves: by name
ratios_chart(rows)                  # forest; rows of the table `hazard_ratios`
concordance_chart(rows)             # of the table `c_index`
bins_chart(rows, "FAD, years", {"looks its age": 0.0})      # of the tables `fad_bins`, `far_bins`

Nobody is a point; curves are read off at the ends of months, and open bins have no far end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused
from fahr.report.age_charts import PALE
from fahr.report.charts import BLUE, GREY, RED, png
from fahr.report.risk_charts import COLOURS, _draw_curve, _ticks
from fahr.report.survival_charts import RATIOS
from fahr.survival.chi_squared import ChiSquared
from fahr.survival.curves import Curve, at_risk_table, few
from fahr.survival.models import shown_p

DPI = 200  # a page shows pictures at half their size
WIDE = 4.8  # inches
DARK = "#4d525b"
Rows = Sequence[Mapping[str, Any]]


def quarters_chart(curves: Mapping[str, Curve], test: ChiSquared | None = None) -> bytes:
    """At most four curves, the lowest risk first; times in days. Intervals are 95 %, log-log."""
    last = max((curve.last for curve in curves.values()), default=0.0) / DAYS_PER_YEAR
    if not last > 0:
        raise Refused("curves: nobody was followed up for longer than 0, so there is no curve to draw.")
    figure = Figure(figsize=(WIDE, 4.9), layout="constrained", dpi=DPI)
    above, below = figure.subplots(2, height_ratios=(3.6, 1.25), sharex=True)
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        _draw_curve(above, curve, colour, name, DAYS_PER_YEAR)
    _plain(above)
    above.set(ylim=(0, 1.02), ylabel="without the event", xlabel="years")
    above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ticks = np.asarray(_ticks(last))
    ticks = ticks[:: -(-len(ticks) // 7)]  # as many as have room for a number below
    above.set_xticks(ticks)
    above.set_xlim(0, last * 1.02)
    above.tick_params(labelbottom=True)
    above.legend(frameon=False, fontsize="small", ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 0.99),
                 columnspacing=1.2, handlelength=1.4)  # fmt: skip
    made = at_risk_table(curves, (ticks * DAYS_PER_YEAR).tolist())
    below.set_ylim(len(curves) - 0.4, -1.5)
    below.axis("off")
    below.text(0, -1.0, "watched at that time", fontsize="small", color=DARK, va="center")
    for row, (cells, name) in enumerate(zip(made.cells(), made.groups, strict=True)):
        below.text(-0.09, row, name.split(",")[0], color=COLOURS[row], fontweight="bold", ha="right", va="center",
                   transform=below.get_yaxis_transform())  # fmt: skip
        for tick, cell in zip(ticks.tolist(), cells, strict=True):
            below.text(tick, row, cell, fontsize="small", ha="center", va="center")
    people, events = (sum(getattr(curve, name) for curve in curves.values()) for name in ("people", "events"))
    words = f"{people:,} people, {few(events)} events"
    words += "" if test is None else f"; log-rank p {shown_p(test.p_value)}"
    figure.suptitle(words, x=0.01, ha="left", fontsize="medium")
    return png(figure)


def ratios_chart(rows: Rows) -> bytes:
    """Two lines a row: what the ratio is of, and below it the picture and the figures."""
    ends = [row[end] for row in rows for end in ("low", "high") if row["ratio"] is not None]
    low, high = max(min([*ends, 0.8]) / 1.1, 0.02), min(max([*ends, 1.25]) * 1.1, 50.0)
    figure = Figure(figsize=(WIDE, 0.8 + 0.47 * len(rows)), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    across = axes.get_yaxis_transform()
    for place, row in enumerate(rows):
        counts = f"  ({_count(row['people'])} / {_count(row['events'])})"
        axes.text(0, place - 0.36, row["words"] + counts, va="center", fontsize="small", transform=across)
        if row["ratio"] is None:
            axes.text(1.02, place, "not told", va="center", fontsize="small", color=DARK, transform=across)
            continue
        shown = [min(max(row[end], low), high) for end in ("low", "high")]
        axes.plot(shown, [place, place], color=BLUE, linewidth=1.8, zorder=3)
        axes.plot(min(max(row["ratio"], low), high), place, "s", color=BLUE, markersize=6, zorder=3)
        told = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        axes.text(1.02, place, told, va="center", fontsize="small", transform=across)
        axes.plot([1, 1], [place - 0.16, place + 0.28], color=GREY, linewidth=1)  # not through the words
        axes.axhline(place + 0.34, color=PALE, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    within = [each for each in RATIOS if low <= each <= high]
    axes.xaxis.set_major_locator(FixedLocator(within if len(within) < 7 else within[:: -(-len(within) // 6)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_yticks([])
    axes.set_xlabel("hazard ratio, 95 % interval (people / events)")
    return png(figure)


def _count(number: int | None) -> str:
    return "<10" if number is None else f"{number:,}"


def concordance_chart(rows: Rows) -> bytes:
    """Harrell's with its interval, a line each."""
    shown = [row for row in rows if row["harrell"] is not None]
    figure = Figure(figsize=(WIDE, 0.8 + 0.34 * len(shown)), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        colour = RED if row["marker"].startswith("model") else BLUE
        if row["harrell_low"] is not None:
            axes.plot([row["harrell_low"], row["harrell_high"]], [place, place], color=colour, linewidth=1.8)
        axes.plot(row["harrell"], place, "s" if colour == BLUE else "o", color=colour, markersize=6)
    axes.axvline(0.5, color=GREY, linewidth=1)
    axes.set_yticks(range(len(shown)), [row["marker"] for row in shown], fontsize="small")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
    axes.set_xlabel("Harrell's C, 95 % interval")
    return png(figure)


def bins_chart(rows: Rows, words: str, lines: Mapping[str, float]) -> bytes:
    """People in each bin; the outermost, hatched, are open. `lines`: dashed, with what they are."""
    if not rows:
        raise Refused("bins: fewer than twenty people, so nothing is drawn.")
    width = float(rows[0]["width"])
    figure = Figure(figsize=(WIDE, 2.9), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    for row in rows:
        low, high = row["low"], row["high"]
        opened = low is None or high is None
        left = low if low is not None else (high if high is not None else 0.0) - width
        right = high if high is not None else left + width
        # an area a person, so that a joined bin is as high as its people are dense
        height = row["people"] * width / (right - left)
        colour, edge = (PALE, GREY) if opened else (BLUE, "white")
        axes.bar(left, height, right - left, align="edge", color=colour, edgecolor=edge, linewidth=0.6,
                 hatch="///" if opened else None)  # fmt: skip
    styles = ("--", ":")
    for (name, value), style in zip(lines.items(), styles, strict=False):
        axes.axvline(value, color=RED, linewidth=1.4, linestyle=style, label=f"{name}: {value:g}")
    _plain(axes)
    axes.set(xlabel=words, ylabel=f"people a bin of {width:g}")
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(frameon=False, fontsize="small", loc="lower right", ncols=2, bbox_to_anchor=(1.02, 0.98),
                columnspacing=1.2, handlelength=1.4)  # fmt: skip
    axes.set_title(f"{sum(row['people'] for row in rows):,} people", loc="left", fontsize="medium")
    return png(figure)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
