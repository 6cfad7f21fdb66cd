"""The accuracy of an age model as JSON, as a long table, and as lines for a terminal."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from fahr.biomarkers.accuracy_results import AgeAccuracy, Cell, Estimate

SCHEMA = pa.schema(
    [
        ("measure", pa.string()),
        ("group", pa.string()),  # null: the whole sample; "age"; or names such as "sex & race"
        ("value", pa.string()),  # null with the group; "60-69"; or labels such as "female & (unknown)"
        ("n", pa.int64()),  # photos; null where hidden
        ("people", pa.int64()),
        ("estimate", pa.float64()),  # null where hidden or not defined
        ("low", pa.float64()),  # 95 % interval; null where there is none
        ("high", pa.float64()),
    ]
)
Row = tuple[str, str | None, str | None, int | None, int | None, "Estimate | None"]

WORDS = {
    "mae": "MAE, years",
    "bias": "bias (face age - age), years",
    "rmse": "RMSE, years",
    "binwise_mae": "MAE, mean of bins, years",
    "within_3": "within 3 years",
    "within_5": "within 5 years",
    "within_10": "within 10 years",
    "pearson": "Pearson r",
    "r2": "R2",
    "slope": "slope of face age on age",
    "error_slope": "slope of error on age",
    "difference_sd": "SD of errors, years",
    "limit_low": "lower limit of agreement, years",
    "limit_high": "upper limit of agreement, years",
    "difference_slope": "slope of error on mean of both",
}


def as_json(found: "AgeAccuracy") -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(asdict(found), allow_nan=False))
    return made


def join(labels: tuple[str | None, ...]) -> str:
    return " & ".join("(unknown)" if label is None else label for label in labels)


def as_table(found: "AgeAccuracy") -> pa.Table:
    rows = []
    for measure, group, value, n, people, told in _rows(found):
        ends = (told.value, told.low, told.high) if told else (None, None, None)
        rows.append((measure, group, value, n, people, *ends))
    columns = list(zip(*rows, strict=True))
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _rows(found: "AgeAccuracy") -> Iterator[Row]:
    whole = None, None, found.n, found.people
    for prefix, errors in (("", found.errors), ("corrected_", found.corrected)):
        if errors is not None:
            yield from ((prefix + each.name, *whole, getattr(errors, each.name)) for each in fields(errors))
    for name in ("epsilon_error", "coverage", "width"):
        if getattr(found, name) is not None:
            yield (name, *whole, getattr(found, name))
    for band in found.bands:
        for name in ("mae", "bias", "corrected_mae", "corrected_bias"):
            if getattr(band, name) is not None:
                yield name, "age", band.label, band.n, band.people, getattr(band, name)
    for cell in found.groups:
        for name in ("mae", "bias", "slope"):
            yield name, " & ".join(cell.names), join(cell.labels), cell.n, cell.people, getattr(cell, name)
    for gap in found.gaps:
        yield "mae_gap", " & ".join(gap.names), f"{join(gap.worst)} - {join(gap.best)}", None, None, gap.gap


def as_lines(found: "AgeAccuracy") -> list[str]:
    how = f"95 % intervals from {found.bootstraps:,} resamples of the people" if found.bootstraps else "no intervals"
    lines = [f"{found.n:,} photos of {found.people:,} people; {how}"]
    heads = ["raw"] + (["bias-corrected"] if found.corrected else [])
    lines.append(f"{'':34s}" + "".join(f"{head:26s}" for head in heads).rstrip())
    for name, words in WORDS.items():
        told = [getattr(each, name) for each in (found.errors, found.corrected) if each is not None]
        lines.append(f"{words:34s}" + "".join(f"{show(each, name):26s}" for each in told).rstrip())
    if found.epsilon_error is not None:
        lines.append(f"{'epsilon-error (apparent age)':34s}{show(found.epsilon_error)}")
    if found.coverage is not None and found.width is not None:
        lines.append(f"{'ages inside their interval':34s}{show(found.coverage, 'within')}")
        lines.append(f"{'width of the interval, years':34s}{show(found.width)}")
    lines.append(f"{'age':34s}{'photos':>9s}{'people':>9s}  {'MAE':26s}bias")
    for band in found.bands:
        lines.append(f"{band.label:34s}{band.n:9,d}{band.people:9,d}  {show(band.mae):26s}{show(band.bias)}")
    if found.small_bins:
        lines.append(f"fewer than 10 images, not in the mean of bins: {', '.join(found.small_bins)}")
    return lines + _group_lines(found)


def _group_lines(found: "AgeAccuracy") -> list[str]:
    lines = []
    gaps = {gap.names: gap for gap in found.gaps}
    cells: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found.groups:
        cells.setdefault(cell.names, []).append(cell)
    for names, members in cells.items():
        lines.append(f"{' & '.join(names):34s}{'photos':>9s}{'people':>9s}  {'MAE':26s}{'bias':26s}slope")
        for cell in members:
            if cell.hidden or cell.mae is None or cell.bias is None or cell.slope is None:
                lines.append(f"{join(cell.labels):34s}{'':9s}{cell.hidden:>9s}")
                continue
            told = f"{show(cell.mae):26s}{show(cell.bias):26s}{show(cell.slope)}"
            lines.append(f"{join(cell.labels):34s}{cell.n:9,d}{cell.people:9,d}  {told}")
        if names in gaps:
            gap = gaps[names]
            lines.append(f"largest gap of MAE: {show(gap.gap)}, {join(gap.worst)} less {join(gap.best)}")
    return lines


def show(told: "Estimate", name: str = "") -> str:
    """`4.51 [4.32, 4.70]`"""
    if told.value is None:
        return "not defined"
    form = ".1%" if name.startswith("within") else ".3f" if name in ("pearson", "r2") else ".2f"
    ends = "" if told.low is None or told.high is None else f" [{told.low:{form}}, {told.high:{form}}]"
    return f"{told.value:{form}}{ends}"
