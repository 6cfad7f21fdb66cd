"""From sums, of the sample and of its resamples, to estimates with their intervals.

Sums.of(layer, names, drawn)                            # drawn: (R, C, K) of `resample`, or None
R = resamples, C = cells, K = columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fahr.biomarkers.accuracy_results import Band, Cell, Errors, Estimate, Gap
from fahr.biomarkers.bands import Bins, merge_bins, union
from fahr.biomarkers.deviation import Floats
from fahr.biomarkers.groups import Factor, hide
from fahr.biomarkers.measures import CORRECTED, error_measures, group_measures, mean_of_bins
from fahr.biomarkers.resample import Layer

FEWEST = 10  # people of whom something is shown, people for an interval, images of a counted bin
CONFIDENCE = 0.95
DEFINED = 0.9  # share of the resamples in which a measure must be defined, for an interval
Members = Sequence[NDArray[np.uint32]]  # who is in each cell


@dataclass(frozen=True, eq=False)
class Sums:
    """By name: (C,) of the sample, and (R, C) of its resamples if there are any."""

    sample: dict[str, Floats]
    drawn: dict[str, Floats] | None

    @staticmethod
    def of(layer: Layer, names: Sequence[str], drawn: Floats | None) -> "Sums":
        totals = layer.totals()
        return Sums(
            {name: totals[:, place] for place, name in enumerate(names)},
            None if drawn is None else {name: drawn[:, :, place] for place, name in enumerate(names)},
        )

    def added(self, cells: Sequence[int] | None = None) -> "Sums":
        """The sums of some cells, or of all, as of one: () and (R,)."""
        which = slice(None) if cells is None else list(cells)
        return Sums(
            {name: values[which].sum(0) for name, values in self.sample.items()},
            None if self.drawn is None else {name: values[:, which].sum(1) for name, values in self.drawn.items()},
        )


def estimate(value: Floats | float, drawn: Floats | None, people: int) -> Estimate:
    """drawn (R,): nan in resamples that do not define it."""
    told = float(value) if np.isfinite(value) else None
    if drawn is None or told is None or people < FEWEST:
        return Estimate(told)
    there = drawn[np.isfinite(drawn)]
    if len(there) < DEFINED * len(drawn):
        return Estimate(told)
    low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Estimate(told, low, high)


def judge_mean(total: Sums, name: str, people: int) -> Estimate | None:
    """The mean over photos of a column; None when there is no such column."""
    if name not in total.sample:
        return None
    drawn = None if total.drawn is None else total.drawn[name] / total.drawn["n"]
    return estimate(total.sample[name] / total.sample["n"], drawn, people)


def judge_errors(total: Sums, binned: Sums, people: int, of: str = "") -> Errors:
    measured = error_measures(total.sample, of)
    resampled = {} if total.drawn is None else error_measures(total.drawn, of)
    counted, absolute = _counted(binned), of + "absolute"
    value = mean_of_bins(binned.sample[absolute], binned.sample["n"], counted)
    drawn = None if binned.drawn is None else mean_of_bins(binned.drawn[absolute], binned.drawn["n"], counted)
    return Errors(
        **{name: estimate(each, resampled.get(name), people) for name, each in measured.items()},
        binwise_mae=estimate(value, drawn, people),
    )


def judge_bands(binned: Sums, bins: Bins, members: Members, fewest: int) -> tuple[Band, ...]:
    bands = []
    for band in merge_bins(members, _counted(binned).tolist(), fewest):
        people, sums = union(members, band), binned.added(band)
        raw = _judge_group(sums, people)
        mended = _judge_group(sums, people, CORRECTED) if CORRECTED + "error" in sums.sample else {}
        first, last = band[0], band[-1]
        bands.append(
            Band(
                label=bins.label(first, last),
                first_year=int(bins.first[first]),
                last_year=int(bins.first[last]) + bins.years - 1,
                n=int(sums.sample["n"]),
                people=people,
                mae=raw["mae"],
                bias=raw["bias"],
                corrected_mae=mended.get("mae"),
                corrected_bias=mended.get("bias"),
            )
        )
    return tuple(bands)


def name_bins(binned: Sums, bins: Bins) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that count in the bin-wise MAE, and those of too few images."""
    counted = _counted(binned)
    labels = [bins.label(number) for number in range(len(counted))]
    return (
        tuple(label for label, each in zip(labels, counted, strict=True) if each),
        tuple(label for label, each in zip(labels, counted, strict=True) if not each),
    )


def judge_groups(
    factors: Sequence[Factor], sums: Sequence[Sums], members: Sequence[Members], fewest: int
) -> tuple[tuple[Cell, ...], tuple[Gap, ...]]:
    """Factors of one name come before their pairs."""
    single = {each.names[0]: each for each in factors if len(each.names) == 1}
    gone: dict[str, set[int]] = {}
    cells: list[Cell] = []
    gaps: list[Gap] = []
    for factor, own, who in zip(factors, sums, members, strict=True):
        if len(factor.names) == 1:
            hidden, _ = hide(who, [range(len(who))], fewest)
            gone[factor.names[0]] = hidden
            empty: list[tuple[str | None, ...]] = []
        else:
            hidden, empty = _hide_pair(factor, single, gone, who, fewest)
        shown = [number for number in range(len(who)) if number not in hidden]
        for number, labels in enumerate(factor.labels):
            cells.append(_judge_cell(factor.names, labels, own, number, len(who[number]), number in hidden, fewest))
        cells += [Cell(factor.names, labels, f"<{fewest}") for labels in empty]
        known = [number for number in shown if None not in factor.labels[number]]
        if len(known) > 1:
            gaps.append(_judge_gap(factor, own, known, min(len(who[each]) for each in known)))
    return tuple(cells), tuple(gaps)


def _hide_pair(
    pair: Factor, single: dict[str, Factor], gone: dict[str, set[int]], members: Members, fewest: int
) -> tuple[set[int], list[tuple[str | None, ...]]]:
    """Which cells, and the labels of empty ones that are to be listed as if somebody were there.

    The totals of labels that are shown by themselves are known; the cells of hidden labels are hidden. Where totals
    would tell in spite of that, it is because some cells are empty: then nobody is told which.
    """
    lines: list[Sequence[int]] = [range(len(members))]
    forced: set[int] = set()
    for side, name in enumerate(pair.names):
        for number, (label,) in enumerate(single[name].labels):
            line = [cell for cell, labels in enumerate(pair.labels) if labels[side] == label]
            if number in gone[name]:
                forced.update(line)
            else:
                lines.append(line)
    hidden, safe = hide(members, lines, fewest, sorted(forced))
    every = product(*(single[name].labels for name in pair.names))
    empty = [] if safe else [one + other for one, other in every if one + other not in pair.labels]
    return hidden, empty


def _judge_cell(
    names: tuple[str, ...],
    labels: tuple[str | None, ...],
    sums: Sums,
    number: int,
    people: int,
    hidden: bool,
    fewest: int,
) -> Cell:
    if hidden:
        return Cell(names, labels, f"<{fewest}" if people < fewest else "withheld")
    found = sums.added([number])
    return Cell(names, labels, None, int(found.sample["n"]), people, **_judge_group(found, people))


def _judge_group(sums: Sums, people: int, of: str = "") -> dict[str, Estimate]:
    """mae, bias, slope"""
    drawn = {} if sums.drawn is None else group_measures(sums.drawn, of)
    return {name: estimate(value, drawn.get(name), people) for name, value in group_measures(sums.sample, of).items()}


def _judge_gap(factor: Factor, sums: Sums, cells: list[int], people: int) -> Gap:
    """people: of the smallest cell."""
    errors = group_measures(sums.sample)["mae"][cells]
    worst, best = int(errors.argmax()), int(errors.argmin())
    gap = float(errors[worst] - errors[best])
    low = high = None
    if sums.drawn is not None and people >= FEWEST:
        moved = group_measures(sums.drawn)["mae"][:, cells] - errors
        reach = (moved.max(1) - moved.min(1))[np.isfinite(moved).all(1)]
        if len(reach) >= DEFINED * len(moved):
            most = float(np.quantile(reach, CONFIDENCE))
            low, high = gap - most, gap + most
    labels = factor.labels
    return Gap(factor.names, labels[cells[worst]], labels[cells[best]], Estimate(gap, low, high))


def _counted(binned: Sums) -> NDArray[np.bool_]:
    return np.asarray(binned.sample["n"] >= FEWEST)
