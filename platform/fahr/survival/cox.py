"""Cox's proportional hazards: Efron for ties, delayed entry, strata, robust errors; or why there is no estimate.

fit = fit_cox(time, event, {"age": age, "risk": risk}, entry=entry, strata=site, cluster=subject)
fit.hazard("risk", per=risk.std())                  # .ratio .low .high .p_value
fit.linear({"age": age, "risk": risk})              # (n,) higher = worse
fit.survival({"age": age, "risk": risk}, [365.0])   # (n, 1)
likelihood_ratio(fit_cox(time, event, {"age": age}), fit)

Not lifelines', against which it is tested: that stops in silence where the likelihood rises for ever, takes seconds to
import, and is slow with delayed entry (docs/survival_models.md). `fahr.survival.models` makes columns of a table.

n = people, K = columns, D = events.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fahr.errors import Refused
from fahr.survival.chi_squared import ChiSquared, beyond, quadratic_form, two_sided
from fahr.survival.curves import Z
from fahr.survival.partial_likelihood import Point
from fahr.survival.people import Flags, Floats, Ints
from fahr.survival.risk_sets import RiskSets

__all__ = ["CoxFit", "Hazard", "LikelihoodRatio", "NoEstimate", "beyond", "fit_cox", "likelihood_ratio", "wald"]

ALIKE = 1e-9  # least eigenvalue of the columns' correlations: below, one column is made of the others
STEPS, ENOUGH = 100, 1e-12  # of Newton's method; by how much, in log-likelihood, another step would gain
SHORTEST, LONGEST = 1e-12, 5.0  # steps
FARTHEST = 50.0  # of a coefficient a standard deviation: exp(50) is no ratio of hazards
LARGEST_ERROR = 50.0  # of such a coefficient: where the likelihood rises for ever, it is in the thousands
NOTHING = 1e-9  # information: of a column that is the same for all at risk, at every event


class NoEstimate(ValueError):
    """The data determine no coefficient. The message says why, and is told in place of a number."""


@dataclass(frozen=True)
class Hazard:
    """A hazard ratio with its 95 % Wald interval and two-sided p."""

    ratio: float
    low: float
    high: float
    p_value: float


class LikelihoodRatio(ChiSquared):
    """Of a model within another: 2 (log-likelihood of the larger - of the smaller)."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """The cumulative hazard of somebody whose columns are the means, stratum by stratum."""

    stratum: Ints  # (D,) rising
    time: Floats  # (D,) rising within a stratum
    hazard: Floats  # (D,) just after

    def at(self, time: ArrayLike, stratum: int = 0) -> Floats:
        mine = self.stratum == stratum
        place = np.searchsorted(self.time[mine], np.asarray(time, np.float64), "right")
        return np.concatenate(([0.0], self.hazard[mine]))[place]


@dataclass(frozen=True, eq=False)
class CoxFit:
    names: tuple[str, ...]
    coefficients: Floats  # (K,) log hazard ratio a unit
    covariance: Floats = field(repr=False)  # (K, K) of them: inverse of the observed information, or robust
    log_likelihood: float  # partial
    n: int
    events: int
    rows: str = field(repr=False)  # digest of who was watched, when, and in which stratum
    null_log_likelihood: float = math.nan  # with every coefficient 0
    clusters: int | None = None  # None: the errors are not robust; of robust ones, how many groups of rows
    naive: Floats = field(default_factory=lambda: np.zeros((0, 0)), repr=False)  # (K, K) were they not robust
    means: Floats = field(default_factory=lambda: np.zeros(0), repr=False)  # (K,) of the columns
    scale: Floats = field(default_factory=lambda: np.zeros(0), repr=False)  # (K,) their standard deviations
    point: Point | None = field(default=None, repr=False)  # the maximum, of columns with mean 0 and deviation 1

    def hazard(self, name: str, *, per: float = 1.0) -> Hazard:
        """For `per` units more."""
        place = self.names.index(name)
        log, error = float(self.coefficients[place]), math.sqrt(float(self.covariance[place, place]))
        return hazard_of(per * log, abs(per) * error)

    def linear(self, columns: Mapping[str, Floats]) -> Floats:
        """(n,) the log hazard ratio against somebody whose columns are all 0."""
        return np.asarray(
            sum(each * columns[name] for name, each in zip(self.names, self.coefficients.tolist(), strict=True))
        )

    def overall(self) -> LikelihoodRatio:
        """Of the whole model against one without columns."""
        return _ratio(self.null_log_likelihood, self.log_likelihood, len(self.names))

    def baseline(self) -> Baseline:
        """Efron's, of somebody whose columns are `means`."""
        assert self.point is not None
        sets = self.point.sets
        added = self.point.hazard()
        begins = np.searchsorted(sets.stratum, sets.stratum, "left")
        sums = np.concatenate(([0.0], np.cumsum(added)))
        return Baseline(sets.stratum, sets.time, sums[1:] - sums[begins])

    def survival(self, columns: Mapping[str, Floats], time: ArrayLike, *, stratum: int = 0) -> Floats:
        """(n, T) the chance to be without the event after each time. Past the last event it stays where it is."""
        score = self.linear(columns) - float(self.coefficients @ self.means)
        return np.exp(-np.exp(score)[:, None] * self.baseline().at(time, stratum)[None, :])


def hazard_of(log: float, error: float) -> Hazard:
    """Of a log hazard ratio and its standard error."""
    ratio, low, high = (math.exp(min(log + sign * Z * error, 700.0)) for sign in (0, -1, 1))
    return Hazard(ratio, low, high, two_sided(log / error))


def fit_cox(
    time: Floats,
    event: Flags,
    columns: Mapping[str, Floats],
    *,
    entry: Floats | None = None,
    strata: Ints | None = None,
    cluster: Ints | None = None,
    robust: bool = False,
) -> CoxFit:
    """Arrays (n,), checked by `read_people`; at risk at t is who has entry < t <= time. Raises `NoEstimate`.

    strata, cluster: numbers from 0 (`read_groups`). Each stratum has a baseline hazard of its own. With `cluster`, or
    `robust` (each row a cluster), errors are those of the sandwich (Lin and Wei 1989, JASA 84:1074), as R's.
    """
    names, events = tuple(columns), int(event.sum())
    table = np.column_stack(list(columns.values())) if names else np.zeros((len(time), 0))
    if events == 0:
        raise NoEstimate("nobody had the event")
    centre, scale = table.mean(0), table.std(0)
    shown = _standardised(names, table, centre, scale)
    sets = RiskSets.of(time, event, entry=entry, strata=strata)
    null, point = _maximum(sets, shown)
    beta = point[0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # where there is no maximum: told below
        information = point[1].information()
    try:
        covariance = np.linalg.inv(information)
    except np.linalg.LinAlgError:
        covariance = np.full_like(information, np.inf)
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    if not (np.abs(beta) < FARTHEST).all() or not ((errors > 0) & (errors < LARGEST_ERROR)).all():
        raise NoEstimate(_why(names, beta, errors, np.diag(information)))
    naive = covariance / np.outer(scale, scale)
    clusters = None
    if robust or cluster is not None:
        who = np.arange(len(time)) if cluster is None else cluster
        clusters = len(np.unique(who))
        covariance = _sandwich(point[1], np.asarray(covariance, np.float64), who)
    parts = [time, event, *(each for each in (entry, strata) if each is not None)]
    return CoxFit(
        names=names,
        coefficients=beta / scale,
        covariance=covariance / np.outer(scale, scale),
        log_likelihood=point[1].value,
        n=len(time),
        events=events,
        rows="".join(hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for each in parts),
        null_log_likelihood=null,
        clusters=clusters,
        naive=naive,
        means=centre,
        scale=scale,
        point=point[1],
    )


def _why(names: Sequence[str], beta: Floats, errors: Floats, information: Floats) -> str:
    """Why there is no estimate. Columns have deviation 1, so information counts events."""
    silent = (information < NOTHING) & (np.abs(beta) < 1)  # farther out all information is gone, and means the opposite
    if silent.any():
        return f"{names[int(np.argmax(silent))]} is the same for all who are at risk together at an event"
    far = np.abs(beta) if not (np.abs(beta) < FARTHEST).all() else np.where(np.isfinite(errors), errors, np.inf)
    worst = names[int(np.argmax(far))]
    return f"the likelihood rises for ever with {worst}: it tells those with the event from all others"


def _standardised(names: Sequence[str], table: Floats, centre: Floats, scale: Floats) -> Floats:
    """(n, K) mean 0 and deviation 1; `NoEstimate` where a column says nothing, or nothing of its own."""
    if not names:
        return table
    for name, spread, size in zip(names, scale.tolist(), np.abs(table).max(0).tolist(), strict=True):
        if spread <= 1e-12 * size:
            raise NoEstimate(f"{name} is the same for everybody")
    shown = (table - centre) / scale
    if float(np.linalg.eigvalsh(shown.T @ shown / len(shown))[0]) < ALIKE:
        raise NoEstimate(f"{' and '.join(names)} say the same: one can be worked out from the others")
    return np.asarray(shown)


def _sandwich(point: Point, covariance: Floats, cluster: Ints) -> Floats:
    """(K, K) the spread of what leaving a cluster out does to the coefficients."""
    moves = point.score_residuals() @ covariance
    _, place = np.unique(cluster, return_inverse=True)
    sums = np.column_stack([np.bincount(place, moves[:, column]) for column in range(moves.shape[1])])
    return np.asarray(sums.T @ sums)


def _maximum(sets: RiskSets, shown: Floats) -> tuple[float, tuple[Floats, Point]]:
    """The log-likelihood of no effect; the coefficients (K,) of the best one, and all about it, by Newton's method with
    steps that are halved until they rise. `shown`: columns (n, K) with mean 0 and deviation 1."""
    beta = np.zeros(shown.shape[1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of steps that are too long, and halved
        point = Point.at(sets, shown, beta)
        null = point.value
        for _ in range(STEPS if len(beta) else 0):
            slope = point.slope()
            try:
                step = np.linalg.solve(point.information(), slope)
            except np.linalg.LinAlgError:
                break
            gain, far = float(step @ slope), float(np.abs(beta).max()) > FARTHEST
            if not gain > 0 or far:
                break
            if gain <= ENOUGH:  # errors are squared by a step: this one leaves those of rounding
                beta = beta + step
                point = Point.at(sets, shown, beta)
                break
            step *= min(1.0, LONGEST / float(np.abs(step).max()))
            found = Point.at(sets, shown, beta + step)
            while not point.value <= found.value < np.inf and float(np.abs(step).max()) > SHORTEST:
                step = step / 2
                found = Point.at(sets, shown, beta + step)
            beta, point = beta + step, found
    return null, (beta, point)


def likelihood_ratio(smaller: CoxFit, larger: CoxFit) -> LikelihoodRatio:
    """Refused: models of other people, and a model that is not within the other."""
    if smaller.rows != larger.rows:
        raise Refused(
            f"nested models: one of {smaller.n:,} people with {smaller.events:,} events, one of {larger.n:,} with "
            f"{larger.events:,}, and not the same ones. Fit both on identical rows."
        )
    if not set(smaller.names) < set(larger.names):
        raise Refused(
            f"nested models: {' + '.join(smaller.names)} is not a part of {' + '.join(larger.names)}. Fit the smaller "
            "one with some of the columns of the larger."
        )
    return _ratio(smaller.log_likelihood, larger.log_likelihood, len(larger.names) - len(smaller.names))


def _ratio(smaller: float, larger: float, freedom: int) -> LikelihoodRatio:
    statistic = max(0.0, 2 * (larger - smaller))
    return LikelihoodRatio(statistic, freedom, beyond(statistic, freedom) if freedom else 1.0)


def wald(fit: CoxFit, names: Sequence[str]) -> ChiSquared:
    """Of several coefficients at once; also with robust errors, for which likelihoods say nothing."""
    places = [fit.names.index(name) for name in names]
    scale = fit.scale[places]
    return quadratic_form(
        fit.coefficients[places] * scale, fit.covariance[np.ix_(places, places)] * np.outer(scale, scale)
    )
