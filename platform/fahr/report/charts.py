"""Charts, as PNG bytes."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fahr.store import Ledger

BLUE, GREY, RED = "#2b6ca3", "#8a8f98", "#c0532b"
SMOOTHED = 25  # steps


def reject_chart(ledger: Ledger) -> bytes:
    """How many rows of a stage came out, and why the others did not."""
    rows = sorted(ledger.rejects.items(), key=lambda item: item[1])
    names = [reason.replace("_", " ") for reason, _ in rows] + ["aligned" if ledger.stage == "align" else "done"]
    counts = [count for _, count in rows] + [ledger.rows_out]
    figure = Figure(figsize=(7, 1.2 + 0.38 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(names, counts, color=[GREY] * len(rows) + [BLUE])
    total = max(1, ledger.rows_in)
    axes.bar_label(bars, [f"{count:,}  ({count / total:.1%})" for count in counts], padding=4)
    axes.set_xlim(0, max(counts) * 1.25 or 1)
    axes.set_title(f"{ledger.stage}: what became of {ledger.rows_in:,} photos", loc="left")
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
    return png(figure)


def png(figure: Figure) -> bytes:
    """A figure's bytes; matplotlib's global state is not touched, so threads may draw."""
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def loss_chart(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """The lines of a run's metrics.jsonl: loss and learning rate over the samples seen, skipped steps marked."""
    steps = [row for row in rows if row["kind"] == "step" and row["loss"] is not None]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    seen = np.array([row["position"] for row in steps], float)
    loss = np.array([row["loss"] for row in steps], float)
    above.plot(seen, loss, color=GREY, linewidth=0.7, alpha=0.6, label="of single steps")
    if len(loss) >= SMOOTHED:
        kernel = np.ones(SMOOTHED) / SMOOTHED
        middle = slice(SMOOTHED // 2, SMOOTHED // 2 + len(loss) - SMOOTHED + 1)
        above.plot(seen[middle], np.convolve(loss, kernel, "valid"), color=BLUE, label=f"mean of {SMOOTHED}")
    judged = [row for row in rows if row["kind"] == "judged"]
    if judged:
        held = [(row["position"], row["masked_loss"]) for row in judged]
        above.plot(*zip(*held, strict=True), "o", color=RED, markersize=4, label="held-out faces")
    for row in rows:
        if row["kind"] == "skipped":
            above.axvline(row["position"], color=RED, linewidth=0.8, linestyle=":")
    above.set_ylabel("loss")
    above.set_title(title, loc="left")
    above.legend(frameon=False)
    below.plot(seen, [row["learning_rate"] for row in steps], color=BLUE)
    below.set_ylabel("learning rate")
    below.set_xlabel("samples seen")
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)
