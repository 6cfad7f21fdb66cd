"""Covariates that are missing: leave those people out, or fill them in many times by chained equations, and say so.

some = complete_cases({"stage": stage, "ecog": ecog}); some.rows, some.line()
made = impute(time, event, {"stage": stage, "ecog": ecog}, imputations=20, seed=0); made.line()
fits = [fit_cox(time, event, each) for each in made.tables]     # of columns of numbers
pooled_hazard(fits, "ecog"); pool(estimates, errors)            # Rubin's rules

Missing is nan, None, or an empty text. n = people, m = imputations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused
from fahr.survival.chained import Column, fill
from fahr.survival.cox import CoxFit, Hazard
from fahr.survival.people import Flags, Floats, Ints, read_people
from fahr.survival.risk_sets import RiskSets

Table = dict[str, NDArray[Any]]
NEVER = frozenset({"race", "ethnicity", "skin_tone"})  # are asked, or unknown: not guessed


@dataclass(frozen=True, eq=False)
class CompleteCases:
    """`rows` (k,): the people of whom every column is known."""

    rows: Ints
    people: int
    missing: dict[str, int]  # people by column; one may count in several

    def line(self) -> str:
        lost = self.people - len(self.rows)
        return (
            f"complete cases: {len(self.rows):,} of {self.people:,} people, {lost:,} left out{_by_column(self.missing)}"
        )


def complete_cases(columns: Mapping[str, ArrayLike]) -> CompleteCases:
    """Columns (n,). Unbiased only where being complete has nothing to do with the outcome, given the columns."""
    table = _read_table(columns)
    gaps = {name: missing(each) for name, each in table.items()}
    whole = ~np.any(list(gaps.values()), axis=0)
    return CompleteCases(np.flatnonzero(whole), len(whole), {name: int(each.sum()) for name, each in gaps.items()})


@dataclass(frozen=True, eq=False)
class Imputed:
    tables: tuple[Table, ...]  # m, each with every column filled in; all else as it was
    people: int
    incomplete: int  # people with something missing
    missing: dict[str, int]
    iterations: int

    def line(self) -> str:
        return (
            f"imputed {len(self.tables)} times by chained equations (with the event and its cumulative hazard): "
            f"{self.incomplete:,} of {self.people:,} people had something missing{_by_column(self.missing)}"
        )


def impute(
    time: ArrayLike,
    event: ArrayLike,
    columns: Mapping[str, ArrayLike],
    *,
    entry: ArrayLike | None = None,
    imputations: int = 20,
    iterations: int = 10,
    seed: int = 0,
) -> Imputed:
    """Arrays (n,), a row a person; columns of numbers, or of words. Right where what is missing depends only on what
    is known. Each column is predicted from all others, the event, and the Nelson-Aalen estimate of the cumulative
    hazard while the person was watched (White and Royston 2009, Statistics in Medicine 28:1982).

    Numbers of three values or more: the value of one of five people whose prediction is nearest (predictive mean
    matching), so nothing that nobody has; two values, and words: a logistic or multinomial model. Both draw their
    coefficients too. Refused: a missing race, ethnicity or skin tone, which nobody should guess.
    """
    people, _ = read_people(time, event, entry=entry)
    table = _read_table(columns)
    if imputations < 2 or iterations < 1 or not 0 <= seed < 2**63:
        raise Refused(
            f"imputations {imputations}, iterations {iterations}, seed {seed}: at least 2 imputations (20 is usual), 1 "
            "iteration (10 is usual), and a seed from 0 on."
        )
    gaps = {name: missing(each) for name, each in table.items()}
    _check(table, gaps, len(people))
    hazard = nelson_aalen(people.time, people.event, entry=people.entry)
    outcome = np.column_stack([people.event.astype(np.float64), hazard])
    coded = {name: _coded(name, each, gaps[name]) for name, each in table.items()}
    made = []
    for number in range(imputations):
        filled = fill(coded, outcome, iterations, np.random.default_rng([seed, number]))
        made.append({name: each.copy() if each is table[name] else each for name, each in filled.items()})
    counts = {name: int(each.sum()) for name, each in gaps.items()}
    return Imputed(tuple(made), len(people), int(np.any(list(gaps.values()), axis=0).sum()), counts, iterations)


def nelson_aalen(time: Floats, event: Flags, *, entry: Floats | None = None) -> Floats:
    """(n,) the cumulative hazard of all, over the time in which each was watched; ties as Efron has them, and mice.
    Arrays checked by `read_people`."""
    sets = RiskSets.of(time, event, entry=entry)
    sums = np.concatenate(([0.0], np.cumsum(1 / sets.at_risk(np.ones(len(time))))))
    found = sums[np.searchsorted(sets.time, time, "right")]
    return found if entry is None else found - sums[np.searchsorted(sets.time, entry, "right")]


def missing(values: NDArray[Any]) -> Flags:
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "biu":
        return np.zeros(len(values), bool)
    return np.array([each is None or each == "" or each != each for each in values.tolist()], bool)


def _read_table(columns: Mapping[str, ArrayLike]) -> Table:
    if not columns:
        raise Refused("columns: there are none. Give the covariates of the model, by name.")
    table = {name: np.asarray(each) for name, each in columns.items()}
    rows = len(next(iter(table.values())))
    for name, each in table.items():
        if each.shape != (rows,):
            raise Refused(f"{name}: has shape {each.shape}; must be ({rows},), one value a person.")
    return table


def _check(table: Table, gaps: dict[str, Flags], rows: int) -> None:
    if not any(each.any() for each in gaps.values()):
        raise Refused("columns: nothing is missing, so there is nothing to impute. Fit the table as it is.")
    for name, gap in gaps.items():
        if len(gap) != rows:
            raise Refused(f"{name}: has {len(gap):,} values for {rows:,} rows of time. Give one value a person.")
        if not gap.any():
            continue
        if name.lower() in NEVER:
            raise Refused(
                f"{name}: is missing for {int(gap.sum()):,} people, and is never imputed. Make 'unknown' a value of it."
            )
        if len(set(table[name][~gap].tolist())) < 2:
            raise Refused(f"{name}: has fewer than two different values where it is known, so none can be predicted.")


def _coded(name: str, values: NDArray[Any], gap: Flags) -> Column:
    """Numbers as they are; two values, or words, as the place among the values."""
    known = values[~gap]
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers[~gap]).all():
            raise Refused(f"{name}: holds an infinite value. Remove the row, or make it nan to have it imputed.")
        if len(np.unique(known)) != 2 or not gap.any():
            return Column(values, gap, numbers, ())
    try:
        levels = tuple(sorted(set(known.tolist())))
        places = {level: float(place) for place, level in enumerate(levels)}
    except TypeError as error:
        raise Refused(f"{name}: mixes kinds of values ({error}). Make them all text, or all numbers.") from error
    numbers = np.array([places[each] if ok else np.nan for each, ok in zip(values.tolist(), ~gap, strict=True)])
    return Column(values, gap, numbers, levels)


def _by_column(counts: Mapping[str, int]) -> str:
    told = [f"{name} {number:,}" for name, number in counts.items() if number]
    return f" ({', '.join(told)})" if told else ""


@dataclass(frozen=True)
class Pooled:
    """One number out of m, by Rubin's rules; t distribution."""

    estimate: float
    standard_error: float
    low: float
    high: float
    p_value: float  # two-sided, of 0
    freedom: float
    within: float  # mean of the squared errors
    between: float  # variance of the estimates
    missing_information: float  # share of it that is missing
    imputations: int


def pool(
    estimates: ArrayLike,
    errors: ArrayLike,
    *,
    people: int | None = None,
    parameters: int = 1,
    confidence: float = 0.95,
) -> Pooled:
    """Estimates and standard errors (m,), on a scale where they are about normal: log hazard ratios, not ratios.
    Degrees of freedom of Barnard and Rubin (1999, Biometrika 86:948) if `people`, and the parameters of the model, are
    given; else of Rubin (1987), as if there were no end of people."""
    values, spread = (np.asarray(each, np.float64) for each in (estimates, errors))
    size = len(values) if values.ndim == 1 else 0
    if size < 2 or spread.shape != values.shape or not (np.isfinite(values).all() and (spread >= 0).all()):
        raise Refused("estimates: give two or more, finite, and the standard error of each, as (m,) and (m,).")
    if not 0 < confidence < 1:
        raise Refused(f"confidence: {confidence} must lie between 0 and 1; 0.95 is usual.")
    if people is not None and people <= parameters:
        raise Refused(f"people: {people} for {parameters} parameters leaves no degree of freedom.")
    mean, within, between = float(values.mean()), float((spread**2).mean()), float(values.var(ddof=1))
    extra = (1 + 1 / size) * between
    total = within + extra
    if total == 0:
        raise Refused("errors: are all 0, and so is the variance between imputations: nothing is uncertain.")
    freedom = _freedom(size, extra / total, None if people is None else people - parameters)
    increase = extra / within if within > 0 else math.inf
    gone = (increase + 2 / (freedom + 3)) / (increase + 1) if math.isfinite(increase) else 1.0
    error = math.sqrt(total)
    p_value, reach = _student(mean / error, freedom, confidence)
    ends = (mean - reach * error, mean + reach * error)
    return Pooled(mean, error, *ends, p_value, freedom, within, between, gone, size)


def _freedom(size: int, share: float, complete: int | None) -> float:
    """share: of the variance that is there because values are missing; complete: degrees of freedom if none were."""
    old = (size - 1) / share**2 if share > 0 else math.inf
    if complete is None:
        return old
    seen = (complete + 1) / (complete + 3) * complete * (1 - share)
    return seen if math.isinf(old) else old * seen / (old + seen)


def _student(statistic: float, freedom: float, confidence: float) -> tuple[float, float]:
    """Two-sided p, and the quantile of the interval."""
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # takes longer to import than all of this module to run

    most = min(freedom, 1e12)
    return float(2 * stdtr(most, -abs(statistic))), float(stdtrit(most, (1 + confidence) / 2))


def pooled_hazard(fits: Sequence[CoxFit], name: str, *, per: float = 1.0) -> Hazard:
    """The hazard ratio of `name` over models of the same people, each with another imputation."""
    places = [each.names.index(name) for each in fits]
    logs = [float(each.coefficients[place]) * per for each, place in zip(fits, places, strict=True)]
    errors = [
        math.sqrt(float(each.covariance[place, place])) * abs(per) for each, place in zip(fits, places, strict=True)
    ]
    found = pool(logs, errors, people=min(each.events for each in fits), parameters=len(fits[0].names))
    ratio, low, high = (math.exp(min(each, 700.0)) for each in (found.estimate, found.low, found.high))
    return Hazard(ratio, low, high, found.p_value)
