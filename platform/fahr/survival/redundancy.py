"""What a risk says beside age: how far the two go together, how well each ranks people, and whether either adds.

found = redundancy(time, event, risk, age, sex=sex, entry=entry, subject=subject, face_age=face_age)
print("\\n".join(found.lines()))
found.gain.difference, found.gain.p_value           # C of age and risk together, less that of age alone
found.beside_sex.gain.difference                    # C of age, sex and risk together, less that of age and sex

One row a person: the earliest visit, with the median of its photos. P = people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.bootstrap import bootstrap_concordance
from fahr.survival.cindex import concordance
from fahr.survival.compare import compare_concordance
from fahr.survival.cox import CoxFit, NoEstimate, fit_cox, likelihood_ratio
from fahr.survival.curves import Z
from fahr.survival.patients import Patients, as_column, indicators, read_patients
from fahr.survival.people import Flags, Floats, Ints, mean_ranks, read_risk
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
    """A concordance (Harrell) and its 95 % interval; None where it is not defined or may not be told. And Uno's, of the
    events before `Redundancy.uno_before`, in which censoring that hangs on time alone has no say."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    uno: float | None = None
    uno_low: float | None = None
    uno_high: float | None = None


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
class BesideSex:
    """Of people of whom age and sex are known; the same models as beside age alone."""

    people: int
    events: int
    without_sex: int  # people left out for want of it
    known: Ranking  # age + sex
    both: Ranking  # age + sex + risk
    gain: Gain  # both - known
    nested: tuple[Nested, ...]


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
    uno_before: float | None  # in the unit of `time`; None: Uno's are not told
    beside_sex: BesideSex | None  # None: no sex was given, or there is nothing to compare, which a note says
    nested: tuple[Nested, ...]
    effects: tuple[Effect, ...]
    notes: tuple[str, ...]  # warnings, and why something is missing

    def lines(self) -> list[str]:
        """A table for a terminal."""
        return as_lines(self)

    def to_json(self) -> dict[str, Any]:
        """Without NaN: null is what is not defined or not shown."""
        return asdict(self)


@dataclass(frozen=True)
class _How:
    samples: int  # resamples of people, 0: values alone
    seed: int
    folds: int
    uno: bool


def redundancy(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    age: ArrayLike,
    *,
    entry: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    face_age: ArrayLike | None = None,
    sex: ArrayLike | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
    folds: int = 0,
    uno: bool = True,
) -> Redundancy:
    """Arrays (N,), a row a photo; risk: higher = worse; age and face_age in years, nan where unknown; sex in words,
    None where unknown. `uno`: False where no one curve of censoring is that of all rows.

    People whose age is unknown are left out of everything, and counted; of whom sex alone is, of what has sex in it.
    With fewer than 10 events no interval and no test is told. `both` is the linear predictor of a Cox model of age and
    risk (Efron, delayed entry). It is fitted on the people it is judged on, which flatters it by the little that two
    coefficients can; with `folds` of 2 or more, each person's comes from the others.
    """
    _check(folds, bootstraps)
    some, columns, kept = _read(time, event, risk, age, entry, subject, face_age)
    events = int(some.event.sum())
    notes = _first_notes(some, columns, events)
    tell = _enough(some)
    how = _How(bootstraps if tell else 0, seed, folds, uno)
    fits, both, whys = _fitted(some, columns, (("age",), ("risk",), ("age", "risk")), how)
    notes += whys
    markers: dict[str, Floats | None] = {"age": columns["age"], "risk": columns["risk"], "age + risk": both}
    rankings = {name: _ranked(some, name, values, how) for name, values in markers.items()}
    gains = [_gained(some, name, "age", markers, how) for name in ("age + risk", "risk")]
    correlations = _correlations(columns, tell)
    notes += _last_notes(some, columns, correlations)
    beside_sex, whys = (None, []) if sex is None else _beside_sex(some, columns, sex, how)
    notes += whys
    return Redundancy(
        photos=some.photos,
        people=len(some),
        events=events,
        without_age=int((~kept).sum()),
        risk_sd=float(columns["risk"].std(ddof=1)) if len(some) > 1 else 0.0,
        folds=folds,
        bootstraps=how.samples,
        seed=seed,
        correlations=correlations,
        age=rankings["age"],
        risk=rankings["risk"],
        both=rankings["age + risk"],
        gain=gains[0],
        lead=gains[1],
        uno_before=_uno_before(some, columns["risk"]) if uno else None,
        beside_sex=beside_sex,
        nested=_nested(fits, ("age", "age + risk"), ("risk", "age + risk")) if tell else (),
        effects=_effects(fits, columns, tell),
        notes=tuple(dict.fromkeys(notes)),
    )


def _check(folds: int, bootstraps: int) -> None:
    if folds < 0 or folds == 1:
        raise Refused(
            f"folds: {folds} must be 0, or at least 2. With 0 both are fitted on the people they are judged on."
        )
    if bootstraps < 0:
        raise Refused(f"bootstraps: {bootstraps} must be 0 (no intervals) or more; 1,000 is usual.")


def _read(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    age: ArrayLike,
    entry: ArrayLike | None,
    subject: ArrayLike | None,
    face_age: ArrayLike | None,
) -> tuple[Patients, dict[str, Floats], Flags]:
    """People whose age is known; their risk, age and perhaps face age (P,); of all people, whether they are."""
    some = read_patients(time, event, entry=entry, subject=subject)
    columns = {"risk": some.median(read_risk("risk", risk, some.photos))}
    columns["age"] = some.median(_years("age", age, some.photos))
    if face_age is not None:
        columns["face age"] = some.median(_years("face_age", face_age, some.photos))
    known = ~np.isnan(columns["age"])
    if not known.any():
        raise Refused(f"age: of none of {len(some):,} people. What a risk says beside age needs ages: give them.")
    return some.only(known), {name: values[known] for name, values in columns.items()}, known


def _years(name: str, values: ArrayLike, rows: int) -> Floats:
    """(rows,) nan where unknown."""
    raw = as_column(name, values, rows)
    try:
        years = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"{name}: not every value is a number of years ({error}). Convert it; nan is unknown.") from error
    read_risk(name, np.nan_to_num(years, nan=0.0, posinf=np.inf, neginf=-np.inf), rows)  # infinite: refused by its row
    return years


def _enough(some: Patients) -> bool:
    return int(some.event.sum()) >= FEWEST_EVENTS  # and so as many people


def _first_notes(some: Patients, columns: Mapping[str, Floats], events: int) -> list[str]:
    notes = []
    if not _enough(some):
        notes.append(
            f"{events} events of {len(some)} people: intervals and tests need {FEWEST_EVENTS} of both at least, so "
            "only the values are told"
        )
    for name in ("risk", "age"):
        if np.ptp(columns[name]) == 0:
            notes.append(f"{name} is the same for everybody, so it ranks nobody")
    return notes


def _beside_sex(
    some: Patients, columns: Mapping[str, Floats], sex: ArrayLike, how: _How
) -> tuple[BesideSex | None, list[str]]:
    """The same beside age and sex, and what has to be said of it."""
    words = some.words("sex", sex)
    made = indicators("sex", words)
    known = np.array([word is not None for word in words], bool)
    if not made:
        return None, ["sex is unknown of everybody" if not known.any() else "sex is the same for everybody"]
    notes = [] if known.all() else [f"sex is unknown of {(~known).sum():,} people: what has sex in it is without them"]
    part = some.only(known)
    how = how if _enough(part) else replace(how, samples=0)
    given = {name: values[known] for name, values in {**columns, **made}.items()}
    first, base = ("age",), ("age", *made)
    fits, both, whys = _fitted(part, given, (first, base, (*base, "risk")), how)
    plain, reasons = _linear(part, given, base, fits.get(_words(base)), how)
    markers = {"age + sex": plain, "age + sex + risk": both}
    alone, whole = (_ranked(part, name, values, how) for name, values in markers.items())
    tests = _nested(fits, ("age", "age + sex"), ("age + sex", "age + sex + risk")) if _enough(part) else ()
    return BesideSex(
        len(part), int(part.event.sum()), int((~known).sum()), alone, whole,
        _gained(part, "age + sex + risk", "age + sex", markers, how), tests,
    ), [*notes, *whys, *reasons]  # fmt: skip


# Cox


def _words(names: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(name.split()[0] for name in names))


def _fitted(
    some: Patients, columns: Mapping[str, Floats], models: Sequence[tuple[str, ...]], how: _How
) -> tuple[dict[str, CoxFit], Floats | None, list[str]]:
    """The models that could be fitted, by name; the linear predictor (P,) of the last; why others could not."""
    fits: dict[str, CoxFit] = {}
    whys: list[str] = []
    for names in models:
        try:
            fits[_words(names)] = fit_cox(
                some.time, some.event, {name: columns[name] for name in names}, entry=some.entry
            )
        except NoEstimate as error:
            whys.append(f"no Cox model of {_words(names)}: {error}")
    linear, why = _linear(some, columns, models[-1], fits.get(_words(models[-1])), how)
    return fits, linear, whys + why


def _linear(
    some: Patients, columns: Mapping[str, Floats], names: Sequence[str], whole: CoxFit | None, how: _How
) -> tuple[Floats | None, list[str]]:
    """(P,) the linear predictor of a model: its own, or with folds that of a fit on the others."""
    if whole is None or not how.folds:
        return (None if whole is None else whole.linear(columns)), []
    made, drawn = np.empty(len(some)), _folds(some, how.folds, how.seed)
    for fold in range(how.folds):
        held = drawn == fold
        rest = some.only(~held)
        try:
            fit = fit_cox(rest.time, rest.event, {name: columns[name][~held] for name in names}, entry=rest.entry)
        except NoEstimate as error:
            return None, [f"{_words(names)} by {how.folds} folds: without fold {fold + 1}, {error}"]
        made[held] = fit.linear({name: columns[name][held] for name in names})
    return made, []


def _folds(some: Patients, folds: int, seed: int) -> Ints:
    """(P,) 0 to folds - 1, drawn anew for each seed; those with the event are spread evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(some))
    made = np.empty(len(some), np.int64)
    made[np.lexsort((shuffled, some.event))] = np.arange(len(some)) % folds
    return made


def _nested(fits: Mapping[str, CoxFit], *pairs: tuple[str, str]) -> tuple[Nested, ...]:
    tests = []
    for small, large in pairs:
        if small in fits and large in fits:
            told = likelihood_ratio(fits[small], fits[large])
            tests.append(Nested(f"{small} -> {large}", told.statistic, told.freedom, told.p_value))
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


def _ranked(some: Patients, name: str, values: Floats | None, how: _How) -> Ranking:
    if values is None:
        return Ranking(name, None)
    ends: list[float | None] = []
    for kind in ("harrell", "uno") if how.uno else ("harrell",):
        if how.samples:
            told = bootstrap_concordance(
                some.time, some.event, values, entry=some.entry, samples=how.samples, seed=how.seed, kind=kind
            )
            ends += map(_known, (told.value, told.low, told.high))
        else:
            plain = concordance(some.time, some.event, values, entry=some.entry, kind=kind)
            ends += [_known(plain.value), None, None]
    return Ranking(name, *ends)


def _uno_before(some: Patients, risk: Floats) -> float | None:
    return concordance(some.time, some.event, risk, entry=some.entry, kind="uno").tau


def _gained(
    some: Patients, name: str, other: str, markers: Mapping[str, Floats | None], how: _How
) -> Gain:  # fmt: skip
    words, one, two = f"{name} - ({other})" if "+" in other else f"{name} - {other}", markers[name], markers[other]
    if one is None or two is None:
        return Gain(words, None)
    if not how.samples:
        values = [concordance(some.time, some.event, each, entry=some.entry).value for each in (one, two)]
        return Gain(words, _known(values[0] - values[1]))
    told = compare_concordance(
        some.time, some.event, one, two, entry=some.entry, samples=how.samples, seed=how.seed
    )  # fmt: skip
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
    spearman = float(np.clip(np.corrcoef(mean_ranks(one), mean_ranks(two))[0, 1], -1, 1))
    low = high = None
    if tell and number > 3:
        if abs(pearson) < 1:
            reach = Z / np.sqrt(number - 3)
            low, high = (float(np.tanh(np.arctanh(pearson) + sign * reach)) for sign in (-1, 1))
        else:
            low = high = pearson
    return Correlation(name, pearson, low, high, spearman, number)


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
