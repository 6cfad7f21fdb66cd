"""Charts, as PNG bytes."""

from io import BytesIO

from matplotlib.figure import Figure

from fahr.store import Ledger

BLUE, GREY = "#2b6ca3", "#8a8f98"


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
