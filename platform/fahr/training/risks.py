"""How good risks are, of people whom the model has not seen: how well they rank, what they say beside age, quarters.

    found = evaluated(table, risk, percentiles, bootstraps=1000)
    found.lines(published)

A table as in `fahr.training.outcomes`; one row a person is judged, the earliest visit with the median of its photos. Of
cross-validation `fold` says whose model each risk is from: then people of one fold alone are compared, and quarters are
those of each model's own training people. N = photos.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from fahr.config import Options, option
from fahr.survival import bootstrap_concordance, compare_concordance, concordance
from fahr.survival.quartiles import QuartileHazards, quartile_hazards
from fahr.survival.redundancy import Redundancy, redundancy
from fahr.training.outcomes import Floats, Followed, number

QUARTERS = (25.0, 50.0, 75.0)  # percentiles of the people learned from


class Published(Options):
    """Numbers of others, told beside ours and used for nothing."""

    c_index: float | None = option(
        None, gt=0, lt=1, help="C-index that others published", off="none", result=False, unit="share"
    )
    quartile_hazard_ratio: float | None = option(
        None,
        gt=0,
        help="hazard ratio of quartile 4 against 1 that others published",
        off="none",
        result=False,
        unit="ratio",
    )


@dataclass(frozen=True)
class Ranked:
    """Harrell's C of one row a person: the earliest visit, the median of its photos; 95 % bootstrap interval. None
    where nobody can be compared, or no interval was asked for."""

    photos: int
    people: int
    events: int
    comparable: float  # pairs
    c_index: float | None
    low: float | None
    high: float | None

    def lines(self) -> list[str]:
        return [
            f"{self.photos:,} photos of {self.people:,} people, {self.events:,} with the event, "
            f"{self.comparable:,.0f} comparable pairs",
            f"{'C-index of the risk':36s}{interval(self.c_index, self.low, self.high)}",
        ]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    """`0.712 [0.655, 0.770]`"""
    if value is None:
        return "undefined"
    return f"{value:{form}}" + ("" if low is None or high is None else f" [{low:{form}}, {high:{form}}]")


@dataclass(frozen=True)
class Evaluation:
    """What cannot be told is None."""

    ranked: Ranked
    beside_age: Redundancy | None  # None: no age is known
    quartiles: QuartileHazards | None  # None: no face decodes

    def lines(self, published: Published) -> list[str]:
        lines = self.ranked.lines()
        if published.c_index is not None:
            lines.append(f"{'C-index that was published':36s}{published.c_index:.3f}")
        if self.beside_age is not None:
            lines += self.beside_age.lines()
        if self.quartiles is not None:
            lines += self.quartiles.lines()
        if published.quartile_hazard_ratio is not None:
            words = "4 against 1, as it was published"
            lines.append(f"{words:52s}{published.quartile_hazard_ratio:.2f}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "ranked": self.ranked.to_json(),
            "beside_age": None if self.beside_age is None else self.beside_age.to_json(),
            "quartiles": None if self.quartiles is None else self.quartiles.to_json(),
        }


def evaluated(
    table: pa.Table,
    risk: Floats,
    percentiles: Floats,
    *,
    bootstraps: int = 1000,
    seed: int = 0,
    fold: ArrayLike | None = None,
) -> Evaluation:
    """(N,) risks as they are shown and their percentiles among the people learned from, none missing. `table` may have
    age and sex. With folds Uno's concordance is not told: each fold's clock and curve of censoring are its own."""
    first = ranked(table, risk, bootstraps=bootstraps, seed=seed, fold=fold)
    if not table.num_rows:
        return Evaluation(first, None, None)
    age, beside = column(table, "age"), None
    if age is not None:
        who = Followed.of(table, fold)
        beside = redundancy(
            who.time, who.event, risk, age, sex=column(table, "sex"), entry=who.entry, subject=who.subject,
            bootstraps=bootstraps, seed=seed, uno=fold is None,
        )  # fmt: skip
    who = Followed.of(table)
    quarters = quartile_hazards(
        who.time, who.event, percentiles, QUARTERS, age=age, sex=column(table, "sex"), entry=who.entry,
        subject=who.subject,
    )  # fmt: skip
    return Evaluation(first, beside, quarters)


def column(table: pa.Table, name: str) -> Any:
    """(N,) numbers, NaN where unknown, or words; None where nothing is known."""
    if name not in table.column_names or table[name].null_count == table.num_rows:
        return None
    if pa.types.is_string(table[name].type):
        return np.array(table[name].to_pylist(), object)
    return np.asarray(table[name].to_numpy(), np.float64)


def ranked(
    table: pa.Table, values: Floats, *, bootstraps: int = 1000, seed: int = 0, fold: ArrayLike | None = None
) -> Ranked:
    """`fold` (N,): only people of the same fold are compared, since each fold's risks come from another network."""
    who = Followed.of(table, fold)
    some = who.patients()
    risk = some.median(values)
    plain = concordance(some.time, some.event, risk, entry=some.entry)
    low = high = None
    if bootstraps and np.isfinite(plain.value):
        spread = bootstrap_concordance(
            some.time, some.event, risk, entry=some.entry, samples=bootstraps, seed=seed, threads=1
        )
        low, high = number(spread.low), number(spread.high)
    return Ranked(
        some.photos, len(some), int(some.event.sum()), plain.comparable, number(plain.value), low, high
    )  # fmt: skip


def paired(
    table: pa.Table, values: Floats, others: Floats, *, bootstraps: int, seed: int = 0, fold: ArrayLike | None = None
) -> dict[str, float | None]:
    """C of `values` less C of `others`, of the same photos: difference, 95 % interval and p, on the same resamples."""
    some = Followed.of(table, fold).patients()
    risks = some.median(values), some.median(others)
    if not bootstraps:
        one, two = (concordance(some.time, some.event, risk, entry=some.entry).value for risk in risks)
        return {"difference": number(one - two), "low": None, "high": None, "p_value": None}
    found = compare_concordance(
        some.time, some.event, *risks, entry=some.entry, samples=bootstraps, seed=seed, threads=1
    )  # fmt: skip
    return {name: number(getattr(found, name)) for name in ("difference", "low", "high", "p_value")}
