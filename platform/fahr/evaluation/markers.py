"""How what a face says is spread over people: deviations, rates band by band, and how far they go with the risk.

section = distributions(cohort)       # tables `distributions`, `fad_bins`, `far_bins`, `rates`, `correlations`

A bin of fewer than ten people is joined with its neighbour towards the middle, and the outermost are open: nobody's own
value can be read off.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fahr.biomarkers import BANDS
from fahr.evaluation.cohort import Cohort
from fahr.evaluation.tables import COUNT, Column, Row, Section
from fahr.evaluation.tables import Table as Printed
from fahr.survival.curves import FEWEST, counted
from fahr.survival.people import Flags, Floats
from fahr.survival.redundancy import redundancy

WIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
MOST_BINS = 40
# Of the papers: looks older than the calendar, ten years and more, five years and more younger.
CUTS = ((">", 0.0), (">=", 10.0), ("<=", -5.0))
BEYOND: dict[str, tuple[str, Callable[[Floats, float], Flags]]] = {
    ">": ("above", np.greater), ">=": ("from", np.greater_equal), "<=": ("to", np.less_equal)
}  # fmt: skip


def distributions(cohort: Cohort) -> Section:
    section = Section("distributions", "Deviations and aging rates")
    rows: list[Row] = []
    if cohort.has("face_age_deviation"):
        rows += _spread("FAD, years", cohort.people["face_age_deviation"], CUTS)
        if cohort.has("face_age_deviation_adjusted"):
            rows += _spread("FAD less its usual bias, years", cohort.people["face_age_deviation_adjusted"], CUTS)
        bins = _bins(cohort.people["face_age_deviation"])
        section.tables.append(_printed("fad_bins", "Deviations", [{"measure": "FAD", **each} for each in bins]))
        section.drawn["fad"] = bins
        section.words.append(
            "FAD: face age less age at the photo, in years; above 0 a face looks older than the calendar. Hatched bins "
            "are open: everybody beyond."
        )
    else:
        section.refused.append("FAD: the scores hold no face age.")
    rates: list[Row] = []
    for band in BANDS if "band" in cohort.rated else ():
        mine = cohort.rated["face_aging_rate"][cohort.rated["band"] == band.name]
        if len(mine):
            words = f"FAR {band.name}, {band.first_day:,}-{band.last_day:,} days"
            rows += _spread(words, mine, ((">", band.cutoff),))
            rates += [{"measure": band.name, **each} for each in _bins(mine)]
    if rates:
        section.tables.append(_printed("far_bins", "Aging rates", rates))
        section.drawn["far"] = rates
        section.words.append(
            "FAR: years of face age for each year between two photos; 1 keeps step with the calendar. It scatters the "
            "more the shorter the time: bands are not compared."
        )
    else:
        section.refused.append("FAR: nobody of these people has a rate.")
    section.tables.insert(0, Printed("distributions", "How they are spread", (
        Column("measure", ("measure",)), Column("people", ("people",), COUNT), Column("mean", ("mean",), ".2f"),
        Column("SD", ("sd",), ".2f"), Column("quartile 1", ("q1",), ".2f"), Column("median", ("median",), ".2f"),
        Column("quartile 3", ("q3",), ".2f"), Column("shares", ("shares",))), tuple(rows)))  # fmt: skip
    section.tables.append(_rates(cohort))
    with section.attempt("correlations"):
        section.tables.append(_correlations(cohort, section))
    return section


def _spread(measure: str, values: Floats, cuts: Sequence[tuple[str, float]]) -> list[Row]:
    """A row; nothing of fewer than ten people. `cuts`: the share of those beyond each."""
    known = values[~np.isnan(values)]
    row: Row = {"measure": measure, "people": counted(len(known))}
    names = ("mean", "sd", "q1", "median", "q3")
    if len(known) < FEWEST:
        return [row | dict.fromkeys((*names, "shares"))]
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    found = (float(known.mean()), float(known.std(ddof=1)), low, middle, high)
    shares, told = {}, []
    for sign, cut in cuts:
        name, beyond = BEYOND[sign]
        number = int(beyond(known, cut).sum())
        hidden = 0 < number < FEWEST or 0 < len(known) - number < FEWEST
        share = None if hidden else number / len(known)
        shares[f"share_{name}_{cut:g}"] = share
        told.append(f"{sign} {cut:g}: {'not told' if share is None else f'{share:.1%}'}")
    return [row | dict(zip(names, found, strict=True)) | shares | {"shares": ", ".join(told)}]


def _bins(values: Floats) -> list[Row]:
    """Equally wide, but joined towards the middle until each has ten people; None is an open end."""
    known = np.sort(values[~np.isnan(values)])
    if len(known) < 2 * FEWEST:
        return []
    low, high = np.quantile(known, (0.02, 0.98)).tolist()
    wanted = max((high - low) / min(MOST_BINS, max(5, len(known) // (2 * FEWEST))), 1e-9)
    width = next((each for each in WIDTHS if each >= wanted), WIDTHS[-1])
    edges = np.arange(np.floor(low / width) * width, np.ceil(high / width) * width + width / 2, width)
    counts = np.bincount(np.searchsorted(edges, known, "right"), minlength=len(edges) + 1).tolist()
    borders: list[float | None] = [None, *edges.tolist(), None]
    middle = int(np.searchsorted(edges, float(np.median(known)), "right"))
    while True:
        few = [at for at, number in enumerate(counts) if number < FEWEST]
        if not few or len(counts) == 1:
            break
        at = max(few, key=lambda each: abs(each - middle))  # from the ends inwards
        other = at + 1 if at < middle or at == 0 else at - 1
        other = min(max(other, 0), len(counts) - 1)
        first = min(at, other)
        counts[first : first + 2] = [counts[at] + counts[other]]
        del borders[first + 1]
        middle -= first < middle
    return [{"low": borders[at], "high": borders[at + 1], "people": number, "width": width}
            for at, number in enumerate(counts)]  # fmt: skip


def _printed(name: str, title: str, rows: list[Row]) -> Printed:
    columns = (Column("measure", ("measure",)), Column("from", ("low",), "g"), Column("below", ("high",), "g"),
               Column("people", ("people",), COUNT))  # fmt: skip
    return Printed(name, title, columns, tuple(rows), printed=False)


def _rates(cohort: Cohort) -> Printed:
    """Who has a rate, and why the others have none."""
    bands = cohort.rated["band"].tolist() if "band" in cohort.rated else []
    rows: list[Row] = [{"people_with": f"a rate, band {band.name}", "people": counted(bands.count(band.name))}
                       for band in BANDS if band.name in bands]  # fmt: skip
    rows += [{"people_with": f"none: {name.replace('_', ' ')}", "people": counted(number)}
             for name, number in cohort.unrated.items()]  # fmt: skip
    columns = (Column("people with", ("people_with",)), Column("people", ("people",), COUNT))
    return Printed("rates", "Who has an aging rate", columns, tuple(rows))


def _correlations(cohort: Cohort, section: Section) -> Printed:
    """Of the risk with age, face age and FAD."""
    columns = (Column("risk with", ("name",)), Column("people", ("people",), COUNT),
               Column("Pearson", ("pearson", "low", "high"), ".2f"),
               Column("Spearman", ("spearman",), ".2f"))  # fmt: skip
    people, rows = cohort.people, []
    if cohort.has("survival_risk"):
        known = ~np.isnan(people["survival_risk"])
        some = {name: values[known] for name, values in people.items()}
        found = redundancy(
            some["follow_up_days"], some["event"], some["survival_risk"], some["age"], entry=some.get("entry_days"),
            face_age=some.get("face_age"), bootstraps=0, uno=False,
        )  # fmt: skip
        for each in found.correlations:
            name = "FAD" if each.name == "face age - age" else each.name
            rows.append({"name": name, "people": counted(each.people), "pearson": each.pearson, "low": each.low,
                         "high": each.high, "spearman": each.spearman})  # fmt: skip
            if each.redundant:
                section.warnings.append(f"the risk goes with {name}, |r| above 0.7: it may say little else")
    return Printed("correlations", "Does the risk say the same?", columns, tuple(rows))
