"""Pictures of what a risk says, as PNG bytes.

quartile_chart(time, event, risk, cuts, found)  # Kaplan-Meier by quartile; found: QuartileHazards of the same photos
risk_age_chart(age, risk, event)                # where people are, and how many of them had the event

Nobody is a point, and no step is at the day of an event: curves are read off at the ends of months. Where fewer than
ten are watched they are dotted, without an interval, and the table says so. Squares are those of `age_charts`: of ten
people at least, or pale. N = photos.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from fahr.biomarkers.deviation import Floats
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused
from fahr.report.age_charts import BLUES, FEWEST, PALE, Squares, squares
from fahr.report.charts import GREY, RED, png
from fahr.survival.curves import Curve, few
from fahr.survival.patients import read_patients
from fahr.survival.people import Flags, read_risk
from fahr.survival.quartiles import QUARTERS, QuartileHazards, quartile_curves

# Of Okabe and Ito (2008), told apart by colour-blind readers: from the lowest risk to the highest.
COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00")
NAMES = ("quartile 1, lowest risk", "2", "3", "4, highest")
REDS = LinearSegmentedColormap.from_list("events", ["#f6e3d9", RED, "#4a1c0b"])
MONTHS = 12  # a year: how finely a curve is drawn


def quartile_chart(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    cuts: Sequence[float],
    found: QuartileHazards | None = None,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    per_year: float = DAYS_PER_YEAR,
) -> bytes:
    """Arrays (N,) as of `quartile_hazards`; `per_year`: units of `time` in a year. Intervals are 95 %, log-log."""
    curves = quartile_curves(time, event, risk, cuts, entry=entry, subject=subject)
    last = max(curve.last for curve in curves) / per_year
    if not last > 0:
        raise Refused("time: nobody was followed up for longer than 0, so there is no curve to draw.")
    figure = Figure(figsize=(7, 5.8), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(4.2, 1), sharex=True)
    for curve, colour, name in zip(curves, COLOURS, NAMES, strict=True):
        _draw_curve(above, curve, colour, name, per_year)
    above.set(ylim=(0, 1.02), ylabel="without the event")
    above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    above.spines[["top", "right"]].set_visible(False)
    above.grid(axis="y", color=PALE)
    above.set_axisbelow(True)
    above.legend(
        frameon=False, fontsize="small", ncols=4, loc="lower left", bbox_to_anchor=(0, 0.99), borderaxespad=0.2
    )
    ticks = _ticks(last)
    above.set_xticks(ticks)
    above.set_xlim(0, last * 1.02)
    _write_table(below, curves, ticks, per_year)
    above.tick_params(labelbottom=True)
    above.set_xlabel("years")
    figure.suptitle(_title(curves, found), x=0.01, ha="left", fontsize="medium")
    return png(figure)


def _draw_curve(axes: Axes, curve: Curve, colour: str, name: str, per_year: float) -> None:
    months = np.arange(np.floor(MONTHS * curve.last / per_year) + 1) / MONTHS
    moments = months * per_year
    many = curve.at_risk(moments) >= FEWEST
    left = curve.at(moments)
    words = name if curve.people else f"{name}: nobody"
    axes.step(months, left, where="post", color=colour, linewidth=1.1, linestyle=(0, (1, 1.6)))
    axes.step(months, np.where(many, left, np.nan), where="post", color=colour, linewidth=1.9, label=words)
    low, high = (np.where(many, each, np.nan) for each in curve.interval(moments))
    axes.fill_between(months, low, high, step="post", color=colour, alpha=0.14, linewidth=0)


def _ticks(last: float) -> Floats:
    """Years, 0 first: ten at most."""
    step = next(each for each in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, last) if last / each < 10)
    return np.arange(0, last * 1.001, step)


def _write_table(axes: Axes, curves: Sequence[Curve], ticks: Floats, per_year: float) -> None:
    """How many are watched at each tick, a line a quartile."""
    axes.set_ylim(len(curves) - 0.4, -1.6)
    axes.axis("off")
    axes.text(0, -1.1, "watched at that time", fontsize="small", color=GREY, va="center")
    for row, (curve, colour) in enumerate(zip(curves, COLOURS, strict=True)):
        shown = axes.get_yaxis_transform()
        axes.text(-0.06, row, str(QUARTERS[row]), color=colour, fontweight="bold", fontsize="small", ha="right",
                  va="center", transform=shown)  # fmt: skip
        for tick, number in zip(ticks.tolist(), curve.at_risk(ticks * per_year).tolist(), strict=True):
            axes.text(tick, row, few(number), fontsize="small", ha="center", va="center")


def _title(curves: Sequence[Curve], found: QuartileHazards | None) -> str:
    people, events = (sum(getattr(curve, name) for curve in curves) for name in ("people", "events"))
    words = f"{few(people)} people, {few(events)} events"
    last = found.groups[3] if found is not None else None
    if found is None or last is None or last.unadjusted is None or not found.shown(last):
        return words
    told = [("", last.unadjusted)] + ([(" adjusted", last.adjusted)] if last.adjusted is not None else [])
    ratios = [f"{each.ratio:.2f} [{each.low:.2f}, {each.high:.2f}]{how}" for how, each in told]
    return f"{words}\nhazard ratio of quartile 4 against 1: {', '.join(ratios)}"


def risk_age_chart(age: ArrayLike, risk: ArrayLike, event: ArrayLike, subjects: ArrayLike | None = None) -> bytes:
    """Left, how many people are where; right, the share of them who had the event. Arrays (N,): age in years, risk
    as it is shown. Each person counts once, by the median of their ages and risks."""
    rows = len(np.asarray(age))
    some = read_patients(np.ones(rows), event, subject=subjects)
    if not len(some):
        raise Refused("risk: of nobody, so there is no picture of it. Give at least one row.")
    ages, risks = (some.median(read_risk(name, each, rows)) for name, each in (("age", age), ("risk", risk)))
    unit = float(10.0 ** np.round(np.log10(risks.std() or 1.0)))  # a pale square is ten years wide and one unit high
    heights = 10 * risks / unit
    found = squares(ages, heights, np.arange(len(some)))
    figure = Figure(figsize=(10, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    most = max(int(found.people.max(initial=0)), FEWEST + 1)
    people = _squares(left, found, unit, BLUES, LogNorm(FEWEST, most))
    died = _squares(right, found, unit, REDS, Normalize(0, 1))
    if len(found.corner):
        people.set_array(found.people)
        died.set_array(_shares(found, ages, heights, some.event))
        ticks = [each for each in (10, 20, 50, 100, 1_000, 10_000, 100_000, 1_000_000) if each <= most]
        bar = figure.colorbar(people, ax=left, shrink=0.75, pad=0.01, ticks=ticks, format="{x:,.0f}")
        bar.minorticks_off()
        bar.set_label(f"people in a square; pale: fewer than {FEWEST}")
        other = figure.colorbar(died, ax=right, shrink=0.75, pad=0.01, format=PercentFormatter(1, decimals=0))
        other.set_label("of them with the event")
        for each in (bar, other):
            each.outline.set_visible(False)
    else:
        told = f"fewer than {FEWEST} people in every square:\nthe share with the event is not told"
        right.text(0.5, 0.5, told, color="#4d525b", ha="center", va="center", transform=right.transAxes)
    words = _draw_line(left, ages, risks)
    ends = np.concatenate([found.corner, found.corner + found.side, found.pale, found.pale + 10])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("age, years")
    left.set(xlim=(ends[:, 0].min(), ends[:, 0].max()), ylabel="risk (higher = worse)")
    left.set_ylim(ends[:, 1].min() * unit / 10, ends[:, 1].max() * unit / 10)
    left.set_title(f"{len(some):,} people{words}", loc="left", fontsize="medium")
    right.set_title(f"{int(some.event.sum()):,} events", loc="left", fontsize="medium")
    return png(figure)


def _squares(
    axes: Axes, found: Squares, unit: float, colours: LinearSegmentedColormap, norm: Normalize
) -> PatchCollection:
    """The pale ones, and on them those of enough people; `found`: in years, and tenths of `unit`."""
    pale = [Rectangle((x, y * unit / 10), 10, unit) for x, y in found.pale.tolist()]
    axes.add_collection(PatchCollection(pale, color=PALE, linewidth=0))
    full = [Rectangle((x, y * unit / 10), found.side, found.side * unit / 10) for x, y in found.corner.tolist()]
    made = PatchCollection(full, cmap=colours, norm=norm, linewidth=0)
    axes.add_collection(made)
    return made


def _shares(found: Squares, ages: Floats, heights: Floats, event: Flags) -> Floats:
    """(M,) of the people in each square, those with the event."""
    inside = [
        (ages >= x) & (ages < x + found.side) & (heights >= y) & (heights < y + found.side)
        for x, y in found.corner.tolist()
    ]
    return np.array([event[each].mean() for each in inside])


def _draw_line(axes: Axes, ages: Floats, risks: Floats) -> str:
    """Least squares over whole decades, so that no end of it is somebody's age; words for the title."""
    if np.ptp(ages) == 0 or np.ptp(risks) == 0:
        return ""
    slope = float(np.cov(ages, risks)[0, 1] / ages.var(ddof=1))
    ends = np.array([np.floor(ages.min() / 10), np.floor(ages.max() / 10) + 1]) * 10
    axes.plot(ends, risks.mean() + slope * (ends - ages.mean()), color=GREY, linewidth=1.4, linestyle="--")
    return f"; r {np.corrcoef(ages, risks)[0, 1]:.2f}, dashed: least squares, {10 * slope:+.2f} a decade"
