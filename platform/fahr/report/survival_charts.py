"""Pictures of survival analyses, as PNG bytes.

curves_chart({"low": curve, "high": other}, test)   # Kaplan-Meier with those at risk; test: ChiSquared, or None
incidence_chart(found)                              # the share of people with each cause; found: Incidence
forest_chart(forest)                                # a hazard ratio in each subgroup; forest: Forest
effects_chart(model)                                # those of a model; model: CoxModel
schoenfeld_chart(found, "age")                      # a coefficient along the follow-up; found: Proportionality

Nobody is a point, and no step is at the day of an event: curves are read off at the ends of months, dotted where fewer
than ten are watched, and coefficients are means over ten events at least. D = events.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from fahr.biomarkers.deviation import Floats
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused
from fahr.report.age_charts import FEWEST, PALE
from fahr.report.charts import BLUE, GREY, RED, png
from fahr.report.risk_charts import COLOURS, MONTHS, _draw_curve, _ticks
from fahr.survival.chi_squared import ChiSquared
from fahr.survival.competing import Incidence
from fahr.survival.cox import Hazard
from fahr.survival.curves import Curve, Z, at_risk_table, few
from fahr.survival.models import CoxModel, shown_p
from fahr.survival.proportionality import Proportionality
from fahr.survival.subgroups import Forest

MOST_BINS = 12  # of the follow-up, in a picture of residuals
RATIOS = (0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10, 20)


def curves_chart(
    curves: Mapping[str, Curve], test: ChiSquared | None = None, *, per_year: float = DAYS_PER_YEAR
) -> bytes:
    """`per_year`: units of time in a year. Intervals are 95 %, log-log."""
    last = max((curve.last for curve in curves.values()), default=0.0) / per_year
    if not last > 0:
        raise Refused("curves: nobody was followed up for longer than 0, so there is no curve to draw.")
    figure = Figure(figsize=(7, 4.6 + 0.28 * len(curves)), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(4.2, 0.35 + 0.28 * len(curves)), sharex=True)
    colours = _colours(len(curves))
    for (name, curve), colour in zip(curves.items(), colours, strict=True):
        _draw_curve(above, curve, colour, name, per_year)
    _frame(above, last, "without the event")
    above.set_ylim(0, 1.02)
    above.legend(frameon=False, fontsize="small", loc="lower left")
    ticks = np.asarray(above.get_xticks())
    made = at_risk_table(curves, (ticks * per_year).tolist())
    below.set_ylim(len(curves) - 0.4, -1.6)
    below.axis("off")
    below.text(0, -1.1, "watched at that time", fontsize="small", color=GREY, va="center")
    for row, (cells, name) in enumerate(zip(made.cells(), made.groups, strict=True)):
        below.text(-0.05, row, name, color=colours[row], fontsize="small", ha="right", va="center",
                   transform=below.get_yaxis_transform())  # fmt: skip
        for tick, cell in zip(ticks.tolist(), cells, strict=True):
            below.text(tick, row, cell, fontsize="small", ha="center", va="center")
    people, events = (sum(getattr(curve, name) for curve in curves.values()) for name in ("people", "events"))
    words = f"{people:,} people, {few(events)} events"
    if test is not None:
        words += f"; log-rank p {shown_p(test.p_value)}"
    figure.suptitle(words, x=0.01, ha="left", fontsize="medium")
    return png(figure)


def _colours(number: int) -> list[str]:
    """Told apart by colour-blind readers; the coldest first."""
    known = [COLOURS[0], COLOURS[3]] if number == 2 else list(COLOURS)
    return [(known + ["#009e73", "#cc79a7", GREY])[place % 7] for place in range(number)]


def _frame(axes: Axes, last: float, words: str) -> None:
    axes.set(ylabel=words, xlabel="years")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=True)
    axes.set_xticks(_ticks(last))
    axes.set_xlim(0, last * 1.02)


def incidence_chart(found: Incidence, *, per_year: float = DAYS_PER_YEAR) -> bytes:
    """Causes with fewer than ten events are not drawn, and said."""
    last = found.last / per_year
    if not last > 0:
        raise Refused("incidence: nobody was followed up for longer than 0, so there is no curve to draw.")
    months = np.arange(np.floor(MONTHS * last) + 1) / MONTHS
    many = found.at_risk(months * per_year) >= FEWEST
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    hidden = []
    for place, (cause, events) in enumerate(zip(found.causes, found.events, strict=True)):
        if events < FEWEST:
            hidden.append(cause)
            continue
        colour = _colours(len(found.causes))[place]
        share, ends = found.at(cause, months * per_year), found.interval(cause, months * per_year)
        low, high = (np.where(many, end, np.nan) for end in ends)
        label = f"{cause} ({events:,})"
        axes.step(months, share, where="post", color=colour, linewidth=1.1, linestyle=(0, (1, 1.6)))
        axes.step(months, np.where(many, share, np.nan), where="post", color=colour, linewidth=1.9, label=label)
        axes.fill_between(months, low, high, step="post", color=colour, alpha=0.14, linewidth=0)
    _frame(axes, last, "had this first")
    axes.set_ylim(bottom=0)
    if len(hidden) < len(found.causes):
        axes.legend(frameon=False, fontsize="small", loc="upper left")
    less = f"; fewer than {FEWEST} events, not drawn: {', '.join(hidden)}" if hidden else ""
    axes.set_title(f"{found.people:,} people{less}", loc="left", fontsize="medium")
    return png(figure)


def forest_chart(forest: Forest) -> bytes:
    rows: list[tuple[str, str, Hazard | None]] = []
    counts = f"{forest.overall.people:,} / {few(forest.overall.events)}"
    rows.append(("all", counts, forest.overall.hazard))
    for name, group in forest.groups.items():
        p = "" if group.interaction is None else f"   p of interaction {shown_p(group.interaction.p_value)}"
        rows.append((f"{name}{p}", "", None))
        for row in group.rows:
            rows.append((f"    {row.level}", f"{few(row.people)} / {few(row.events)}", row.hazard))
    return _ratios(rows, f"hazard ratio of {forest.words}, 95 % interval")


def effects_chart(model: CoxModel) -> bytes:
    rows: list[tuple[str, str, Hazard | None]] = []
    for each in model.effects:
        found = None
        if each.ratio is not None and each.low is not None and each.high is not None and each.p_value is not None:
            found = Hazard(each.ratio, each.low, each.high, each.p_value)
        rows.append((each.words, f"{few(each.people)} / {few(each.events)}", found))
    return _ratios(rows, f"hazard ratios for {model.endpoint}, 95 % interval")


def _ratios(rows: Sequence[tuple[str, str, Hazard | None]], title: str) -> bytes:
    """A line each: words, people / events, a picture and the figures."""
    ends = [end for _, _, found in rows if found is not None for end in (found.low, found.high)]
    low, high = max(min([*ends, 0.8]) / 1.15, 0.02), min(max([*ends, 1.25]) * 1.15, 50.0)
    figure = Figure(figsize=(9, 1.1 + 0.3 * len(rows)), layout="constrained")
    left, axes, right = figure.subplots(1, 3, width_ratios=(3.4, 3.2, 1.7), sharey=True)
    for place, (words, counts, found) in enumerate(rows):
        heading = not counts
        left.text(0, place, words, va="center", fontsize="small", fontweight="bold" if heading else "normal")
        left.text(1, place, counts, va="center", ha="right", fontsize="small", color=GREY)
        if found is None:
            right.text(0, place, "" if heading else "not told", va="center", fontsize="small", color=GREY)
            continue
        shown = [min(max(end, low), high) for end in (found.low, found.high)]
        axes.plot(shown, [place, place], color=BLUE, linewidth=1.6)
        axes.plot(min(max(found.ratio, low), high), place, "s", color=BLUE, markersize=8 if words == "all" else 6)
        figures = f"{found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]"
        right.text(0, place, figures, va="center", fontsize="small")
    axes.axvline(1, color=GREY, linewidth=0.9)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([each for each in RATIOS if low <= each <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelleft=False)
    left.text(1, -1.0, "people / events", va="center", ha="right", fontsize="small", color=GREY)
    for each in (left, right):
        each.set_xlim(0, 1)
        each.axis("off")
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return png(figure)


def schoenfeld_chart(found: Proportionality, name: str, *, per_year: float = DAYS_PER_YEAR) -> bytes:
    """The log hazard ratio a unit of one column, mean by mean over equal numbers of events, with 95 % intervals of the
    spread within each. A level line is what proportional hazards would be."""
    if name not in found.names:
        raise Refused(f"schoenfeld: {name!r} is none of {', '.join(found.names)}.")
    order = np.argsort(found.time, kind="stable")
    time, values = found.time[order] / per_year, found.coefficients(name)[order]
    bins = min(MOST_BINS, len(time) // FEWEST)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    test = found.tests.get(name, found.overall)
    if bins < 2:
        few_events = f"fewer than {2 * FEWEST} events:\nthe coefficient along time is not told"
        axes.text(0.5, 0.5, few_events, ha="center", va="center", transform=axes.transAxes, color=GREY)
    else:
        middle, mean, reach = _means(time, values, bins)
        axes.errorbar(middle, mean, reach, fmt="o", color=BLUE, markersize=5, linewidth=1.3, label="mean and interval")
        axes.axhline(
            float(values.mean()), color=RED, linewidth=1.2, linestyle="--", label="if it were the same all along"
        )
        axes.legend(frameon=False, fontsize="small")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="years", ylabel=f"log hazard ratio of {name}, a unit")
    axes.spines[["top", "right"]].set_visible(False)
    p = f"p of a drift {shown_p(test.p_value)} ({found.transform})"
    axes.set_title(f"{len(time):,} events, {p}", loc="left", fontsize="medium")
    return png(figure)


def _means(time: Floats, values: Floats, bins: int) -> tuple[Floats, Floats, Floats]:
    """Of equal numbers of events: the mean time, the mean value, and how far its interval reaches."""
    parts = np.array_split(np.arange(len(time)), bins)
    middle = np.array([time[part].mean() for part in parts])
    mean = np.array([values[part].mean() for part in parts])
    reach = np.array([Z * values[part].std(ddof=1) / np.sqrt(len(part)) for part in parts])
    return middle, mean, reach
