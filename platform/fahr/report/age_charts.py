"""Pictures of how good an age model is, as PNG bytes.

predicted_chart(age, face_age, found)       # found: AgeAccuracy of the same photos
agreement_chart(age, face_age, found)       # Bland-Altman
ages_chart(found)    groups_chart(found)

No photo is a point. People are counted in squares: a square that fewer than ten share is drawn only as part of a pale
one, ten years wide and high, without a number. Nobody is shown more closely than by decades, except among nine others.
N = photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from fahr.biomarkers.accuracy_results import AgeAccuracy, Cell, Estimate
from fahr.biomarkers.accuracy_tables import join, show
from fahr.biomarkers.bias import read_people
from fahr.biomarkers.deviation import Floats
from fahr.report.charts import BLUE, GREY, RED, png

FEWEST = 10  # people in a square that is drawn by itself
SIDES = (1, 2, 5, 10)  # years: the smallest is taken in which half of the photos have a square of their own
PALE = "#e9ecf0"
BLUES = LinearSegmentedColormap.from_list("people", ["#bcd3e8", BLUE, "#12304d"])


@dataclass(frozen=True, eq=False)
class Squares:
    """Where people are, as finely as may be shown."""

    side: int  # years
    corner: NDArray[np.int64]  # (M, 2) lower left corners of squares with enough people, years
    people: NDArray[np.int64]  # (M,) in them
    pale: NDArray[np.int64]  # (P, 2) lower left corners of the squares of ten years that hold the others


def squares(x: Floats, y: Floats, person: NDArray[np.int64]) -> Squares:
    """Only squares of a side that divides ten: each lies in one pale square."""
    found: list[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]] = []
    for side in SIDES:
        places = (np.floor(np.column_stack([x, y]) / side)).astype(np.int64) * side
        corner, code = np.unique(places, axis=0, return_inverse=True)
        code = code.reshape(-1)
        who = np.unique(np.column_stack([code, person]), axis=0)[:, 0]  # once each, however many photos
        people = np.bincount(who, minlength=len(corner))
        full = people >= FEWEST
        found.append((side, corner[full], people[full], full[code]))
        if full[code].mean() >= 0.5:
            break
    side, corner, people, told = found[-1]
    others = np.column_stack([x, y])[~told]
    pale = np.unique(np.floor(others / 10).astype(np.int64) * 10, axis=0)
    return Squares(side, corner, people, pale)


def predicted_chart(
    age: ArrayLike, face_age: ArrayLike, found: AgeAccuracy, subjects: ArrayLike | None = None
) -> bytes:
    """Face age over age, with the line of no error and the least-squares line."""
    ages, shown = np.asarray(age, np.float64), np.asarray(face_age, np.float64)
    figure, axes = _square_figure()
    _draw_squares(figure, axes, squares(ages, shown, read_people(subjects, len(ages))))
    ends = _decades(ages)  # a line that ended at the oldest would tell an age
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="face age = age")
    errors = found.errors
    if errors.slope.value is not None:
        line = shown.mean() + errors.slope.value * (ends - ages.mean())
        axes.plot(ends, line, color=RED, linewidth=1.6, label=f"least squares, slope {show(errors.slope)}")
    axes.set_xlabel("age, years")
    axes.set_ylabel("face age, years")
    limits = _decades(np.concatenate([ages, shown, [0.0]]))
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    told = [f"MAE {show(errors.mae)} y", f"bias {show(errors.bias)} y", f"r {show(errors.pearson, 'pearson')}"]
    axes.set_title(_title(found, "\n" + "   ".join(told)), loc="left", fontsize="medium")
    return png(figure)


def agreement_chart(
    age: ArrayLike, face_age: ArrayLike, found: AgeAccuracy, subjects: ArrayLike | None = None
) -> bytes:
    """Bland-Altman: face age less age, over the mean of both, with the limits of agreement and their intervals."""
    ages, shown = np.asarray(age, np.float64), np.asarray(face_age, np.float64)
    figure, axes = _square_figure()
    _draw_squares(figure, axes, squares((ages + shown) / 2, shown - ages, read_people(subjects, len(ages))))
    errors = found.errors
    lines = (
        ("mean + 1.96 SD", errors.limit_high, RED),
        ("mean difference", errors.bias, BLUE),
        ("mean - 1.96 SD", errors.limit_low, RED),
    )
    for words, told, colour in lines:
        if told.value is None:
            continue
        axes.axhline(told.value, color=colour, linewidth=1.4)
        if told.low is not None and told.high is not None:
            axes.axhspan(told.low, told.high, color=colour, alpha=0.18, linewidth=0)
        axes.annotate(
            f"{words}\n{show(told)}", (1.0, told.value), xycoords=("axes fraction", "data"), xytext=(-4, 3),
            textcoords="offset points", ha="right", va="bottom", fontsize="small", color=colour,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--")
    axes.set_xlabel("mean of face age and age, years")
    axes.set_ylabel("face age - age, years")
    axes.set_title(
        _title(found, f"\nslope of the difference on the mean {show(errors.difference_slope)}"),
        loc="left",
        fontsize="medium",
    )
    return png(figure)


def ages_chart(found: AgeAccuracy) -> bytes:
    """MAE and bias of each band of ages, raw and corrected."""
    bands = found.bands
    figure = Figure(figsize=(max(7.0, min(14.0, 2 + 0.62 * len(bands))), 5.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    place = np.arange(len(bands), dtype=np.float64)
    mended = found.corrected is not None
    for axes, name in ((above, "mae"), (below, "bias")):
        ways = [("raw", name, BLUE, -0.12 if mended else 0.0)]
        ways += [("bias-corrected", f"corrected_{name}", RED, 0.12)] if mended else []
        for words, field, colour, shift in ways:
            _whiskers(axes, place + shift, [getattr(band, field) for band in bands], colour, words)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=PALE)
        axes.set_axisbelow(True)
    if found.errors.mae.value is not None:
        above.axhline(found.errors.mae.value, color=GREY, linewidth=1, linestyle="--", label="all ages, raw")
    above.set_ylim(0, 1.2 * above.get_ylim()[1])  # room for the legend
    above.set_ylabel("MAE, years")
    above.legend(frameon=False, ncols=3, fontsize="small", loc="upper left")
    below.axhline(0, color=GREY, linewidth=1, linestyle="--")
    below.set_ylabel("face age - age, years")
    few = len(bands) <= 20
    step = 1 if few else -(-len(bands) // 20)
    labels = [f"{band.label}\n{band.n:,}" if few else band.label for band in bands]
    below.set_xticks(place[::step], labels[::step])
    below.set_xlabel("age, years" + ("; below, photos" if few else ""))
    above.set_title(_title(found, ", by age"), loc="left", fontsize="medium")
    return png(figure)


def groups_chart(found: AgeAccuracy) -> bytes:
    """MAE and bias of each group with their intervals; a hidden group has its name and nothing else."""
    rows: list[Cell | str] = []
    for cell in found.groups:
        head = " & ".join(cell.names)
        if head not in rows:
            rows.append(head)
        rows.append(cell)
    figure = Figure(figsize=(9, 1.5 + 0.28 * max(1, len(rows))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    place = -np.arange(len(rows), dtype=np.float64)
    told = [(y, row) for y, row in zip(place, rows, strict=True) if isinstance(row, Cell) and not row.hidden]
    for axes, name in ((left, "mae"), (right, "bias")):
        _whiskers(axes, [y for y, _ in told], [getattr(row, name) for _, row in told], BLUE, None, lying=True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
        axes.grid(axis="x", color=PALE)
        axes.set_axisbelow(True)
    for y, row in zip(place, rows, strict=True):
        if isinstance(row, Cell) and row.hidden:
            words = f"{row.hidden} people" if row.hidden.startswith("<") else row.hidden
            left.text(0.02, y, words, color=GREY, va="center", fontsize="small", transform=left.get_yaxis_transform())
    labels = [row if isinstance(row, str) else f"{join(row.labels)}{_people(row)}" for row in rows]
    left.set_yticks(place, labels)
    for label, row in zip(left.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if isinstance(row, str) else "normal")
    left.set_ylim(-len(rows) + 0.4, 0.6)
    if found.errors.mae.value is not None:
        left.axvline(found.errors.mae.value, color=GREY, linewidth=1, linestyle="--")
    right.axvline(0, color=GREY, linewidth=1, linestyle="--")
    left.set_xlabel("MAE, years (dashed: everybody)")
    right.set_xlabel("face age - age, years")
    figure.suptitle(_title(found, ", by group"), x=0.01, ha="left", fontsize="medium")
    return png(figure)


def _people(cell: Cell) -> str:
    return "" if cell.people is None else f"  ({cell.people:,})"


def _title(found: AgeAccuracy, more: str) -> str:
    return f"{found.n:,} photos of {found.people:,} people{more}"


def _decades(ages: Floats) -> Floats:
    """(2,) the borders of the decades around all of them, years."""
    return np.array([np.floor(ages.min() / 10), np.floor(ages.max() / 10) + 1]) * 10


def _square_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_squares(figure: Figure, axes: Axes, found: Squares) -> None:
    pale = PatchCollection([Rectangle((x, y), 10, 10) for x, y in found.pale.tolist()], color=PALE, linewidth=0)
    axes.add_collection(pale)
    if len(found.corner):
        most = max(int(found.people.max()), FEWEST + 1)
        patches = [Rectangle((x, y), found.side, found.side) for x, y in found.corner.tolist()]
        full = PatchCollection(patches, cmap=BLUES, norm=LogNorm(FEWEST, most), linewidth=0)
        full.set_array(found.people)
        axes.add_collection(full)
        bar = figure.colorbar(full, ax=axes, shrink=0.7, pad=0.01, ticks=_round_numbers(most), format="{x:,.0f}")
        bar.minorticks_off()
        bar.set_label(f"people in a square of {found.side} x {found.side} years; pale: fewer than {FEWEST}")
        bar.outline.set_visible(False)
    axes.autoscale_view()


def _round_numbers(most: int) -> list[int]:
    """From 10: 1, 2 and 5 of each power of ten while they are few, else the powers."""
    powers = [10**power for power in range(1, len(str(most)))]
    if len(powers) > 2:
        return powers
    return [step * power for power in powers for step in (1, 2, 5) if step * power <= most]


def _whiskers(
    axes: Axes,
    place: Sequence[float] | Floats,
    told: Sequence[Estimate],
    colour: str,
    words: str | None,
    lying: bool = False,
) -> None:
    """A dot for each value, and a line from low to high where there is an interval."""
    value = np.array([np.nan if each.value is None else each.value for each in told])
    low = np.array([each.low if each.low is not None else now for each, now in zip(told, value, strict=True)])
    high = np.array([each.high if each.high is not None else now for each, now in zip(told, value, strict=True)])
    reach = np.maximum([value - low, high - value], 0)  # a percentile interval need not hold the value
    style: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 4, "elinewidth": 1.4, "label": words}
    if lying:
        axes.errorbar(value, place, xerr=reach, **style)
    else:
        axes.errorbar(place, value, yerr=reach, **style)
