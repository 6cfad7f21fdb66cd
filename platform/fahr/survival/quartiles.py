"""People in the quarters that a risk's frozen cuts make, and how much sooner the event comes in each.

found = quartile_hazards(time, event, risk, cuts, age=age, sex=sex, entry=entry, subject=subject)
found.groups[3].adjusted                            # hazard ratio of quartile 4 against quartile 1
print("\\n".join(found.lines()))

`cuts` are the training people's (a checkpoint's `quartile_cuts`), of the risk as it is shown; quartile 1 is the lowest
risk. One row a person: the earliest visit, with the median of its photos. P = people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fahr.biomarkers.risk import quartile
from fahr.errors import Refused
from fahr.survival.cox import Hazard, NoEstimate, fit_cox
from fahr.survival.curves import FEWEST, Curve, counted, few, kaplan_meier
from fahr.survival.patients import Patients, as_column, indicators, read_patients
from fahr.survival.people import Flags, Floats, Ints, read_risk

QUARTERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Quarter:
    """None: no such number, and a note of the whole says why. Times are in the unit of `time`."""

    quartile: int
    people: int
    events: int
    median: float | None  # Kaplan-Meier: the first time at which half or fewer are left; None: not reached
    median_low: float | None
    median_high: float | None
    unadjusted: Hazard | None  # against quartile 1; of quartile 1 itself None
    adjusted: Hazard | None  # for age and sex, as far as they were given


@dataclass(frozen=True)
class QuartileHazards:
    cuts: tuple[float, float, float]
    photos: int
    people: int
    events: int
    adjusted_for: tuple[str, ...]
    adjusted_people: int  # of whom age and sex are known; 0 where nothing is adjusted for
    groups: tuple[Quarter, ...]  # of quartiles 1 to 4
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """A table for a terminal."""
        left_out = self.people - self.adjusted_people
        how = f"adjusted for {' and '.join(self.adjusted_for)}" if self.adjusted_for else ""
        if self.adjusted_for and left_out:
            how += f" (without {left_out:,} of whom they are unknown)"
        cuts = ", ".join(f"{cut:.3g}" for cut in self.cuts)
        lines = [
            f"quartiles of the risk, cut at {cuts}: {few(self.people)} people, {few(self.events)} events",
            f"{'quartile':10s}{'people':>8s}{'events':>8s}  {'median time':24s}{'hazard ratio':22s}{how}".rstrip(),
        ]
        for each in self.groups:
            head = f"{each.quartile:<10d}{few(each.people):>8s}{few(each.events):>8s}  {_median(each):24s}"
            ratios = (each.unadjusted, each.adjusted) if self.shown(each) else (None, None)
            told = (_hazard(each, ratios[0]), _hazard(each, ratios[1]) if self.adjusted_for else "")
            lines.append(f"{head}{told[0]:22s}{told[1]}".rstrip())
        return lines + list(self.notes)

    def to_json(self) -> dict[str, Any]:
        """Without NaN: null is what is not defined, and a count of one to nine."""
        made = asdict(self)
        for each, group in zip(made["groups"], self.groups, strict=True):
            each |= {} if self.shown(group) else {"unadjusted": None, "adjusted": None}
        for each in (made, *made["groups"]):
            each |= {name: counted(each[name]) for name in ("people", "events")}
        return made

    def shown(self, group: Quarter) -> bool:
        """Whether anyone may see its ratio, which is against quartile 1: ten events or more in both."""
        return min(group.events, self.groups[0].events) >= FEWEST


def _median(each: Quarter) -> str:
    if each.median is None:
        return "not reached" if each.people else "nobody"
    ends = ["?" if end is None else f"{end:.4g}" for end in (each.median_low, each.median_high)]
    return f"{each.median:.4g} [{ends[0]}, {ends[1]}]"


def _hazard(each: Quarter, told: Hazard | None) -> str:
    if each.quartile == 1:
        return "1 (reference)"
    return "none" if told is None else f"{told.ratio:.2f} [{told.low:.2f}, {told.high:.2f}]"


def quartile_hazards(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    cuts: Sequence[float],
    *,
    age: ArrayLike | None = None,
    sex: ArrayLike | None = None,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
) -> QuartileHazards:
    """Arrays (N,), a row a photo; risk as it is shown, higher = worse; age in years, nan where unknown; sex in words,
    None where unknown. Hazard ratios are of Cox models (Efron, delayed entry); the adjusted one is of those people of
    whom age and sex are known."""
    some = read_patients(time, event, entry=entry, subject=subject)
    quarter = quartile(some.median(read_risk("risk", risk, some.photos)), cuts)
    one, two, three = (float(cut) for cut in cuts)
    columns, names = _adjustment(some, age, sex)
    known = np.all([~np.isnan(each) for each in columns.values()], axis=0) if names else np.zeros(len(some), bool)
    notes = _sizes(quarter, some.event)
    plain, why = _ratios(some, quarter, {}, np.ones(len(some), bool))
    notes += [f"unadjusted: {each}" for each in why]
    adjusted: dict[int, Hazard] = {}
    if names:
        adjusted, why = _ratios(some, quarter, columns, known)
        notes += [f"adjusted: {each}" for each in why]
    groups = []
    for number in QUARTERS:
        curve = _curve(some, quarter == number)
        found = (plain.get(number), adjusted.get(number))
        groups.append(Quarter(number, curve.people, curve.events, *curve.median(), *found))
    people, events = len(some), int(some.event.sum())
    return QuartileHazards(
        (one, two, three), some.photos, people, events, names, int(known.sum()), tuple(groups), tuple(notes)
    )


def quartile_curves(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    cuts: Sequence[float],
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
) -> tuple[Curve, ...]:
    """Kaplan-Meier of quartiles 1 to 4; arguments as of `quartile_hazards`."""
    some = read_patients(time, event, entry=entry, subject=subject)
    quarter = quartile(some.median(read_risk("risk", risk, some.photos)), cuts)
    return tuple(_curve(some, quarter == number) for number in QUARTERS)


def _curve(some: Patients, mine: Flags) -> Curve:
    return kaplan_meier(some.time[mine], some.event[mine], entry=None if some.entry is None else some.entry[mine])


def _sizes(quarter: Ints, event: Flags) -> list[str]:
    """What is missing of whole quarters."""
    notes = []
    for number in QUARTERS:
        mine = quarter == number
        if not mine.any():
            notes.append(f"quartile {number}: nobody")
        elif not event[mine].any():
            more = "no ratio can be against it" if number == 1 else "its ratio is 0 at the limit and has no interval"
            notes.append(f"quartile {number}: nobody had the event, so {more}")
    return notes


def _ratios(
    some: Patients, quarter: Ints, columns: Mapping[str, Floats], known: Flags
) -> tuple[dict[int, Hazard], list[str]]:
    """Of quartiles 2 to 4 against 1, as far as there are any; and why there are none.

    People of a quarter without an event are left out: with a ratio of 0, the limit of theirs, they weigh nothing among
    those at risk, and the other ratios stay as they are.
    """
    dead = {number for number in QUARTERS if not some.event[known & (quarter == number)].any()}
    if 1 in dead:
        return {}, ["quartile 1 has no event, so there is nothing to compare with"]
    kept = known & ~np.isin(quarter, list(dead))
    others = [number for number in QUARTERS if number not in dead and number != 1]
    if not others:
        return {}, ["no other quartile has an event"]
    rest, whose = some.only(kept), quarter[kept]
    table = {f"quartile {number}": (whose == number).astype(np.float64) for number in others}
    told = [
        f"quartile {number} has no event among the {int(known.sum()):,} of whom all is known"
        for number in sorted(dead - {1})
        if some.event[quarter == number].any()
    ]
    for name, values in columns.items():
        if np.ptp(values[kept]) == 0:
            told.append(f"{name} is the same for everybody and left out")
        else:
            table[name] = values[kept]
    try:
        fit = fit_cox(rest.time, rest.event, table, entry=rest.entry)
    except NoEstimate as error:
        return {}, [*told, str(error)]
    return {number: fit.hazard(f"quartile {number}") for number in others}, told


def _adjustment(
    some: Patients, age: ArrayLike | None, sex: ArrayLike | None
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Columns (P,), nan where unknown: age, and one for each sex but the first in the alphabet. What they stand for."""
    columns: dict[str, Floats] = {}
    if age is not None:
        years = as_column("age", age, some.photos)
        try:
            columns["age"] = some.median(years.astype(np.float64))
        except (TypeError, ValueError) as error:
            raise Refused(f"age: not every value is a number of years ({error}). nan is unknown.") from error
    if sex is not None:
        words = some.words("sex", sex)
        columns |= indicators("sex", words) or {"sex": np.where([word is None for word in words], np.nan, 0.0)}
    names = [name for name, given in (("age", age), ("sex", sex)) if given is not None]
    return columns, tuple(names)
