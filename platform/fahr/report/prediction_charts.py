"""Pictures of predicted chances, as PNG bytes: whether they come true, and what acting on them is worth.

calibration_chart(judge_calibration(time, event, predicted, 365))
decision_chart({"age + sex": decision_curve(...), "age + sex + face": decision_curve(...)})

Nobody is a point: curves run from the 1st to the 99th percentile, points are groups of ten people or more, and a chance
that fewer than ten people reach is not drawn.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fahr.errors import Refused
from fahr.report.age_charts import FEWEST, PALE
from fahr.report.charts import BLUE, GREY, RED, png
from fahr.survival.calibration import Calibration
from fahr.survival.curves import few
from fahr.survival.net_benefit import DecisionCurve
from fahr.survival.resampling import Estimate

# Of Okabe and Ito (2008), told apart by colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def calibration_chart(found: Calibration) -> bytes:
    """Observed against predicted: the smooth curve with its interval, groups with theirs, and the line of no error."""
    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    axes = figure.add_subplot()
    shown = [each for each in found.groups if each.people >= FEWEST and np.isfinite(each.observed)]
    middle = np.array([point.predicted for point in found.curve])
    seen, low, high = (
        np.array([getattr(point.observed, name) for point in found.curve]) for name in ("value", "low", "high")
    )
    axes.fill_between(middle, low, high, color=BLUE, alpha=0.15, linewidth=0)
    smooth = "smooth curve" if found.knots else "straight line (too few different chances)"
    axes.plot(middle, seen, color=BLUE, linewidth=1.9, label=smooth)
    places = [each.predicted for each in shown]
    for each in shown:
        ends = [end for end in (each.low, each.high) if np.isfinite(end)]
        if len(ends) == 2:
            axes.plot([each.predicted] * 2, ends, color=RED, linewidth=1.1)
    axes.plot(places, [each.observed for each in shown], "o", color=RED, markersize=5, label="groups, Kaplan-Meier")
    top = [*middle, *seen, *high, *places, *(each.high for each in shown)]
    most = min(1.0, 1.05 * max((each for each in top if np.isfinite(each)), default=1.0))
    axes.plot([0, most], [0, most], color=GREY, linewidth=1.2, linestyle="--", label="no error")
    axes.set(xlim=(0, most), ylim=(0, most), xlabel=f"predicted chance of the event within {found.horizon:g} days",
             ylabel="observed", aspect="equal")  # fmt: skip
    _tidy(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    words = [
        f"{found.people:,} people, {few(found.events)} events by then",
        f"observed / expected {_told(found.ratio)}, slope {_told(found.slope)}",
        f"mean distance (ICI) {_told(found.ici, 3)}",
    ]
    figure.suptitle("\n".join(words), x=0.01, ha="left", fontsize="medium")
    return png(figure)


def decision_chart(models: Mapping[str, DecisionCurve]) -> bytes:
    """Net benefit of each model over the thresholds at which it flags ten people or more; of all, and of nobody."""
    if not models:
        raise Refused("models: there is none to draw. Give at least one decision curve, by name.")
    if len(models) > len(COLOURS):
        raise Refused(f"models: {len(models)} are more than the {len(COLOURS)} that one picture can tell apart.")
    one = next(iter(models.values()))
    for name, each in models.items():
        if (each.horizon, each.people, each.events) != (one.horizon, one.people, one.events):
            raise Refused(
                f"{name}: is of {each.people:,} people with {each.events:,} events by {each.horizon:g}, others of "
                f"{one.people:,} with {one.events:,} by {one.horizon:g}. Draw curves of the same people."
            )
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    levels, everybody = _line(one.thresholds, one.all, np.ones(len(one.all), bool))[:2]
    axes.plot(levels, everybody, color=GREY, linewidth=1.4, linestyle="--", label="act on all")
    axes.axhline(0, color="black", linewidth=1.1, label="act on nobody")
    top, last = [float(np.nanmax(everybody, initial=0.0))], [0.05]
    for (name, each), colour in zip(models.items(), COLOURS, strict=False):
        many = np.array(each.flagged) >= FEWEST
        places, worth, low, high = _line(each.thresholds, each.model, many)
        axes.plot(places, worth, color=colour, linewidth=1.9, label=name)
        axes.fill_between(places, low, high, color=colour, alpha=0.14, linewidth=0)
        known = np.isfinite(worth)
        top += [*worth[known].tolist(), *high[np.isfinite(high)].tolist()]
        last += places[known].tolist()
    most = 1.08 * max(*top, 0.001)
    axes.set(xlim=(0, min(1.0, 1.05 * max(last))), ylim=(-0.2 * most, most), xlabel="act at or above this chance",
             ylabel="net benefit, true alarms a person")  # fmt: skip
    _tidy(axes)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, fontsize="small")
    title = f"{one.people:,} people, {few(one.events)} events by {one.horizon:g}"
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return png(figure)


def _line(thresholds: tuple[float, ...], worth: tuple[Estimate, ...], kept: np.ndarray) -> tuple[np.ndarray, ...]:
    """Thresholds, net benefit, low and high; nan where not kept."""
    columns = [np.array([getattr(each, name) for each in worth]) for name in ("value", "low", "high")]
    return np.array(thresholds), *(np.where(kept, each, np.nan) for each in columns)


def _told(found: Estimate, digits: int = 2) -> str:
    if not np.isfinite(found.value):
        return "unknown"
    ends = "" if np.isnan(found.low) else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.value:.{digits}f}{ends}"


def _tidy(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE)
    axes.set_axisbelow(True)
