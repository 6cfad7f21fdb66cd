"""What a risk says beside age: how far the two go together, how well each ranks people, and whether either adds.

found = redundancy(time, event, risk, age, entry=entry, subject=subject, face_age=face_age)
print("\\n".join(found.lines()))
found.gain.difference, found.gain.p_value           # C of age and risk together, less that of age alone

One row a person: the earliest visit, with the median of its photos. P = people.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.bootstrap import bootstrap_concordance
from fahr.survival.cindex import concordance
from fahr.survival.compare import compare_concordance
from fahr.survival.cox import CoxFit, NoEstimate, fit_cox, likelihood_ratio
from fahr.survival.patients import Patients, read_patients
from fahr.survival.people import Floats, Ints, read_risk
from fahr.survival.redundancy_lines import as_lines

FEWEST_EVENTS = 10  # for an interval or a test
REDUNDANT = 0.7  # |r| above which a marker says little that the other does not
DECADE = 10.0  # years


@dataclass(frozen=True)
class Correlation:
    """Of the risk with something in years; None where either is the same for everybody."""

    name: str
    pearson: float | None
    low: float | None  # 95 %, by Fisher's z
    high: float | None
    spearman: float | None
    people: int  # of whom both are known

    @property
    def redundant(self) -> bool:
        return max(abs(self.pearson or 0.0), abs(self.spearman or 0.0)) > REDUNDANT


@dataclass(frozen=True)
class Ranking:
    """A concordance (Harrell) and its 95 % interval; None where it is not defined or may not be told."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Gain:
    """One concordance less another, on the same resamples of people."""

    name: str
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Nested:
    """A likelihood-ratio test of a Cox model within another."""

    name: str
    statistic: float
    freedom: int
    p_value: float


@dataclass(frozen=True)
class Effect:
    """A hazard ratio of a Cox model."""

    name: str
    ratio: float
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True)
class Redundancy:
    photos: int
    people: int
    events: int
    without_age: int  # people left out for want of an age
    risk_sd: float  # over people: what a hazard ratio "a SD" is of
    folds: int  # 0: `both` was fitted on the people it is judged on
    bootstraps: int
    seed: int
    correlations: tuple[Correlation, ...]
    age: Ranking
    risk: Ranking
    both: Ranking
    gain: Gain  # both - age
    lead: Gain  # risk - age
    nested: tuple[Nested, ...]
    effects: tuple[Effect, ...]
    notes: tuple[str, ...]  # warnings, and why something is missing

    def lines(self) -> list[str]:
        """A table for a terminal."""
        return as_lines(self)

    def to_json(self) -> dict[str, Any]:
        """Without NaN: null is what is not defined or not shown."""
        return asdict(self)


def redundancy(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    age: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    face_age: ArrayLike | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
    folds: int = 0,
) -> Redundancy:
    """Arrays (N,), a row a photo; risk: higher = worse; age and face_age in years, nan where unknown.

    People whose age is unknown are left out of everything, and counted. With fewer than 10 events no interval and no
    test is told. `both` is the linear predictor of a Cox model of age and risk (Efron, delayed entry). It is fitted on
    the people it is judged on, which flatters it by the little that two coefficients can; with `folds` of 2 or more,
    each person's comes from the others.
    """
    if folds < 0 or folds == 1:
        raise Refused(
            f"folds: {folds} must be 0, or at least 2. With 0 both are fitted on the people they are judged on."
        )
    if bootstraps < 0:
        raise Refused(f"bootstraps: {bootstraps} must be 0 (no intervals) or more; 1,000 is usual.")
    some, columns, without_age = _read(time, event, risk, age, entry, subject, face_age)
    events = int(some.event.sum())
    notes = _first_notes(some, columns, events)
    both, fits, whys = _fitted(some, columns, folds, seed)
    notes += whys
    tell = events >= FEWEST_EVENTS and len(some) >= FEWEST_EVENTS
    samples = bootstraps if tell else 0
    markers: dict[str, Floats | None] = {"age": columns["age"], "risk": columns["risk"], "age + risk": both}
    rankings = {name: _ranked(some, name, values, samples, seed) for name, values in markers.items()}
    gains = [_gained(some, name, "age", markers, samples, seed) for name in ("age + risk", "risk")]
    correlations = _correlations(columns, tell)
    notes += _last_notes(some, columns, correlations)
    return Redundancy(
        photos=some.photos,
        people=len(some),
        events=events,
        without_age=without_age,
        risk_sd=float(columns["risk"].std(ddof=1)) if len(some) > 1 else 0.0,
        folds=folds,
        bootstraps=samples,
        seed=seed,
        correlations=correlations,
        age=rankings["age"],
        risk=rankings["risk"],
        both=rankings["age + risk"],
        gain=gains[0],
        lead=gains[1],
        nested=_nested(fits) if tell else (),
        effects=_effects(fits, columns, tell),
        notes=tuple(notes),
    )


def _read(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    age: ArrayLike,
    entry: ArrayLike | None,
    subject: ArrayLike | None,
    face_age: ArrayLike | None,
) -> tuple[Patients, dict[str, Floats], int]:
    """People whose age is known; their risk, age and perhaps face age (P,); how many others there are."""
    some = read_patients(time, event, entry=entry, subject=subject)
    columns = {"risk": some.median(read_risk("risk", risk, some.photos))}
    columns["age"] = some.median(_years("age", age, some.photos))
    if face_age is not None:
        columns["face age"] = some.median(_years("face_age", face_age, some.photos))
    known = ~np.isnan(columns["age"])
    if not known.any():
        raise Refused(f"age: of none of {len(some):,} people. What a risk says beside age needs ages: give them.")
    return some.only(known), {name: values[known] for name, values in columns.items()}, int((~known).sum())


def _years(name: str, values: ArrayLike, rows: int) -> Floats:
    """(rows,) nan where unknown."""
    raw = np.asarray(values)
    if raw.shape != (rows,):
        raise Refused(f"{name}: has shape {raw.shape}, must be ({rows},): one value a photo.")
    try:
        years = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"{name}: not every value is a number of years ({error}). Convert it; nan is unknown.") from error
    read_risk(name, np.nan_to_num(years, nan=0.0, posinf=np.inf, neginf=-np.inf), rows)  # infinite: refused by its row
    return years


def _first_notes(some: Patients, columns: Mapping[str, Floats], events: int) -> list[str]:
    notes = []
    if events < FEWEST_EVENTS or len(some) < FEWEST_EVENTS:
        notes.append(
            f"{events} events of {len(some)} people: intervals and tests need {FEWEST_EVENTS} of both at least, so "
            "only the values are told"
        )
    for name in ("risk", "age"):
        if np.ptp(columns[name]) == 0:
            notes.append(f"{name} is the same for everybody, so it ranks nobody")
    return notes


# Cox


def _fitted(
    some: Patients, columns: Mapping[str, Floats], folds: int, seed: int
) -> tuple[Floats | None, dict[str, CoxFit], list[str]]:
    """The linear predictor of age and risk (P,); the models that could be fitted, by name; why others could not."""
    fits: dict[str, CoxFit] = {}
    whys: list[str] = []
    for names in (("age",), ("risk",), ("age", "risk")):
        try:
            fits[" + ".join(names)] = fit_cox(
                some.time, some.event, {name: columns[name] for name in names}, entry=some.entry
            )
        except NoEstimate as error:
            whys.append(f"no Cox model of {' + '.join(names)}: {error}")
    whole = fits.get("age + risk")
    if whole is None or not folds:
        return (None if whole is None else whole.linear(columns)), fits, whys
    both, drawn = np.empty(len(some)), _folds(some, folds, seed)
    for fold in range(folds):
        held = drawn == fold
        rest = some.only(~held)
        try:
            fit = fit_cox(
                rest.time, rest.event, {name: columns[name][~held] for name in ("age", "risk")}, entry=rest.entry
            )
        except NoEstimate as error:
            return None, fits, [*whys, f"age + risk by {folds} folds: without fold {fold + 1}, {error}"]
        both[held] = fit.linear({name: columns[name][held] for name in ("age", "risk")})
    return both, fits, whys


def _folds(some: Patients, folds: int, seed: int) -> Ints:
    """(P,) 0 to folds - 1, drawn anew for each seed; those with the event are spread evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(some))
    made = np.empty(len(some), np.int64)
    made[np.lexsort((shuffled, some.event))] = np.arange(len(some)) % folds
    return made


def _nested(fits: Mapping[str, CoxFit]) -> tuple[Nested, ...]:
    whole = fits.get("age + risk")
    tests = []
    for name in ("age", "risk"):
        if whole is not None and name in fits:
            told = likelihood_ratio(fits[name], whole)
            tests.append(Nested(f"{name} -> age + risk", told.statistic, told.freedom, told.p_value))
    return tuple(tests)


def _effects(fits: Mapping[str, CoxFit], columns: Mapping[str, Floats], tell: bool) -> tuple[Effect, ...]:
    sd = float(columns["risk"].std(ddof=1)) if len(columns["risk"]) > 1 else 0.0
    asked = (
        ("risk, a SD, adjusted for age", "age + risk", "risk", sd),
        ("risk, a SD, alone", "risk", "risk", sd),
        ("age, 10 years, adjusted for risk", "age + risk", "age", DECADE),
        ("age, 10 years, alone", "age", "age", DECADE),
    )
    effects = []
    for words, model, name, unit in asked:
        if model in fits:
            told = fits[model].hazard(name, per=unit)
            effects.append(
                Effect(words, told.ratio, told.low, told.high, told.p_value)
                if tell
                else Effect(words, told.ratio, None, None, None)
            )
    return tuple(effects)


# Ranks and correlations


def _ranked(some: Patients, name: str, values: Floats | None, samples: int, seed: int) -> Ranking:
    if values is None:
        return Ranking(name, None)
    if not samples:
        return Ranking(name, _known(concordance(some.time, some.event, values, entry=some.entry).value))
    told = bootstrap_concordance(some.time, some.event, values, entry=some.entry, samples=samples, seed=seed)
    return Ranking(name, _known(told.value), _known(told.low), _known(told.high))


def _gained(
    some: Patients, name: str, other: str, markers: Mapping[str, Floats | None], samples: int, seed: int
) -> Gain:
    words, one, two = f"{name} - {other}", markers[name], markers[other]
    if one is None or two is None:
        return Gain(words, None)
    if not samples:
        values = [concordance(some.time, some.event, each, entry=some.entry).value for each in (one, two)]
        return Gain(words, _known(values[0] - values[1]))
    told = compare_concordance(some.time, some.event, one, two, entry=some.entry, samples=samples, seed=seed)
    return Gain(words, *map(_known, (told.difference, told.low, told.high, told.p_value)))


def _correlations(columns: Mapping[str, Floats], tell: bool) -> tuple[Correlation, ...]:
    others = {name: columns[name] for name in ("age", "face age") if name in columns}
    if "face age" in columns:
        others["face age - age"] = columns["face age"] - columns["age"]
    return tuple(_correlated(name, columns["risk"], values, tell) for name, values in others.items())


def _correlated(name: str, risk: Floats, values: Floats, tell: bool) -> Correlation:
    known = ~np.isnan(values)
    one, two = risk[known], values[known]
    number = int(known.sum())
    if number < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return Correlation(name, None, None, None, None, number)
    pearson = float(np.clip(np.corrcoef(one, two)[0, 1], -1, 1))
    spearman = float(np.clip(np.corrcoef(_ranks(one), _ranks(two))[0, 1], -1, 1))
    low = high = None
    if tell and number > 3:
        if abs(pearson) < 1:
            reach = 1.959963984540054 / np.sqrt(number - 3)
            low, high = (float(np.tanh(np.arctanh(pearson) + sign * reach)) for sign in (-1, 1))
        else:
            low = high = pearson
    return Correlation(name, pearson, low, high, spearman, number)


def _ranks(values: Floats) -> Floats:
    """(n,) from 1; equal values share the mean of their ranks."""
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(number) - (number - 1) / 2)[place])


def _last_notes(some: Patients, columns: Mapping[str, Floats], correlations: tuple[Correlation, ...]) -> list[str]:
    notes = [
        f"warning: the risk goes with {each.name}, |r| above {REDUNDANT}: it may say little that {each.name} does not"
        for each in correlations
        if each.redundant
    ]
    found = concordance(some.time, some.event, columns["risk"], entry=some.entry)
    if found.comparable == 0:
        notes.append("nobody had the event while somebody else was watched, so no concordance is defined")
    if found.looks_reversed:
        notes.append(
            f"warning: concordance of the risk {found.value:.3f}: its sign is probably wrong. Higher must mean an "
            "earlier event"
        )
        found.warn_if_reversed("risk")
    return notes


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
