"""The trials of a sweep as arrays, and which of their settings mattered.

trials = read_trials(table, higher_is_better=True, scales={"tau": "log"})   # table: a row a trial, see `COLUMNS`
importance(table, higher_is_better=True)                                    # {"tau": 0.71, "kind": 0.22, ...}

N = trials, in the order of their numbers.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
import pyarrow as pa
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from fahr.biomarkers.deviation import Floats
from fahr.errors import Refused

Scale = Literal["linear", "log"]
COLUMNS = ("trial", "state", "error", "seed", "metric", "metric_se", "seconds", "started", "curve")  # and `p_NAME`s
STATES = ("done", "stopped", "failed")
SHARE = 0.1  # of the trials with a metric: the best decile
GOOD = 0.25  # for importances: a tenth of so few trials as people run ranks settings by luck
FEWEST_TRIALS, FEWEST_BEST = 20, 5  # for importances: PED-ANOVA wants five trials or more among the best
SHUFFLES = 19  # an importance above that of all of them has p <= 1 / 20


@dataclass(frozen=True)
class Parameter:
    """One setting that was searched."""

    name: str
    values: tuple[Any, ...]  # (N,) numbers or text; None where it does not apply
    kind: Literal["number", "integer", "category"]
    log: bool  # its space is logarithmic; never where a value is 0 or less

    @property
    def told(self) -> list[Any]:
        """Its different values, in order."""
        return sorted({each for each in self.values if each is not None})


@dataclass(frozen=True, eq=False)
class Trials:
    number: NDArray[np.int64]  # (N,)
    state: NDArray[np.str_]  # (N,) of STATES
    error: tuple[str, ...]  # (N,) "" where there is none
    metric: Floats  # (N,) on the tune folds; nan = none. Of a stopped trial: where it was stopped
    metric_se: Floats  # (N,)
    seconds: Floats  # (N,)
    curve: tuple[Floats, ...]  # (N,) of (K, 2): step, metric
    parameters: tuple[Parameter, ...]
    higher_is_better: bool

    def ranked(self) -> NDArray[np.int64]:
        """Places of the trials that are done and have a metric, the best first; of equals, the earlier."""
        there = np.flatnonzero((self.state == "done") & np.isfinite(self.metric))
        return there[np.argsort(self._loss()[there], kind="stable")]

    def best(self) -> NDArray[np.int64]:
        """Places of the best decile of those: at least one of them."""
        order = self.ranked()
        return order[: math.ceil(SHARE * len(order))]

    def place(self, number: int | None) -> int | None:
        """Where trial `number` stands."""
        found = [] if number is None else np.flatnonzero(self.number == number).tolist()
        return found[0] if found else None

    def _loss(self) -> Floats:
        """A new array: lower is better."""
        return self.metric * (-1.0 if self.higher_is_better else 1.0)


@dataclass(frozen=True)
class Weights:
    """What PED-ANOVA says. In units of the sum over the parameters; the most important first."""

    share: dict[str, float]
    chance: dict[str, float]  # the largest that came out when the metrics were shuffled among the trials
    best: int  # trials that are called good
    trials: int
    constant: tuple[str, ...]  # parameters of one value: nothing can be said about them


def read_trials(table: pa.Table, *, higher_is_better: bool, scales: Mapping[str, Scale] | None = None) -> Trials:
    """Scales by parameter's name (without `p_`); one that is not named is linear."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise Refused(f"trials: no column {missing[0]!r}. A table of trials has {', '.join(COLUMNS)} and p_NAME.")
    table = table.sort_by("trial") if table.num_rows else table
    number = np.array(table["trial"].to_pylist(), np.int64)
    state = np.array(table["state"].to_pylist(), np.str_)
    if len(np.unique(number)) < len(number):
        twice = number[np.flatnonzero(np.diff(number) == 0)[0]]
        raise Refused(f"trials: trial {twice} is there twice. Keep one row a trial.")
    strange = set(state.tolist()) - set(STATES)
    if strange:
        raise Refused(f"trials: state {min(strange)!r} is not known. Give one of {STATES}.")
    names = [name for name in table.column_names if name.startswith("p_")]
    return Trials(
        number,
        state,
        tuple(str(each or "") for each in table["error"].to_pylist()),
        _numbers(table["metric"]),
        _numbers(table["metric_se"]),
        _numbers(table["seconds"]),
        tuple(_read_curve(*each) for each in zip(number.tolist(), table["curve"].to_pylist(), strict=True)),
        tuple(_read_parameter(name[2:], table[name], (scales or {}).get(name[2:], "linear")) for name in names),
        higher_is_better,
    )


def _numbers(column: pa.ChunkedArray) -> Floats:
    """nan for what is null or not finite."""
    found = np.array([np.nan if each is None else float(each) for each in column.to_pylist()], np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _read_curve(number: int, text: str | None) -> Floats:
    try:
        rows = json.loads(text or "[]")
        points = [(float(step), np.nan if value is None else float(value)) for step, value in rows]
    except (ValueError, TypeError) as error:
        raise Refused(f"trials: the curve of trial {number} is no JSON list of [step, metric]: {error}.") from error
    found = np.array(points, np.float64).reshape(-1, 2)
    return found[np.isfinite(found).all(1)]


def _read_parameter(name: str, column: pa.ChunkedArray, scale: Scale) -> Parameter:
    values = [_plain(each) for each in column.to_pylist()]
    there = [each for each in values if each is not None]
    if any(isinstance(each, str) for each in there):
        return Parameter(name, tuple(None if each is None else str(each) for each in values), "category", False)
    whole = all(isinstance(each, int) for each in there)
    log = scale == "log" and bool(there) and min(there) > 0
    return Parameter(name, tuple(values), "integer" if whole else "number", log)


def _plain(value: Any) -> Any:
    """A number, a text, or None; true and false are texts."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else str(value)


def importance(
    trials: pa.Table, *, higher_is_better: bool, scales: Mapping[str, Scale] | None = None
) -> dict[str, float]:
    """How much each parameter decided which trials are among the best, by PED-ANOVA (arXiv 2304.10255); sums to 1,
    largest first. Arguments as of `read_trials`. `Refused`, with the reason, where that cannot be said.

    It is about the trials that were made: what the sampler had settled early looks unimportant.
    """
    return weigh(read_trials(trials, higher_is_better=higher_is_better, scales=scales), shuffles=0).share


def weigh(trials: Trials, shuffles: int = SHUFFLES) -> Weights:
    """Importances, and what shuffled metrics give.

    A stopped trial counts as none of the best: it was stopped for being worse than others at the same step, and its
    metric is of that step.
    """
    told = np.flatnonzero(np.isfinite(trials.metric) & (trials.state != "failed"))
    done = trials.ranked()
    if len(told) < FEWEST_TRIALS or len(done) < FEWEST_BEST:
        raise Refused(
            f"importance: {len(told)} trials have a metric, {len(done)} of them to the end; it takes {FEWEST_TRIALS}, "
            f"of which {FEWEST_BEST} to the end. Make more trials."
        )
    loss = trials._loss()
    loss = np.where(trials.state == "stopped", loss[done].max() + 1, loss)[told]
    if np.ptp(loss) == 0:
        raise Refused("importance: all trials have the same metric, so no setting mattered.")
    varied = [each for each in trials.parameters if len({each.values[at] for at in told} - {None}) > 1]
    constant = tuple(each.name for each in trials.parameters if each not in varied)
    if not varied:
        raise Refused("importance: every parameter had one value in all trials. Search more than one.")
    best = min(max(FEWEST_BEST, math.ceil(GOOD * len(told))), len(done))
    study, share = _study(varied, told), (best - 0.5) / len(told)  # Optuna rounds up
    tried = [each.name for each in varied]
    real = _ped_anova(study, tried, loss, share)
    total = sum(real.values())
    if not total > 0:
        raise Refused("importance: the best trials have the same settings as the others, so no setting mattered.")
    rng = np.random.default_rng(0)
    shuffled = [_ped_anova(study, tried, rng.permutation(loss), share) for _ in range(shuffles)]
    names = sorted(real, key=lambda name: (-real[name], name))
    return Weights(
        {name: real[name] / total for name in names},
        {name: max((each[name] for each in shuffled), default=0.0) / total for name in names},
        int((loss <= np.sort(loss)[best - 1]).sum()),
        len(told),
        constant,
    )


def _study(parameters: list[Parameter], told: NDArray[np.int64]) -> optuna.Study:
    """As Optuna would hold these trials; trial k of it is `told[k]`."""
    space = {each.name: _distribution(each) for each in parameters}
    rows = [{each.name: each.values[at] for each in parameters if each.values[at] is not None} for at in told]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials(
        [
            optuna.trial.create_trial(params=row, distributions={name: space[name] for name in row}, value=0.0)
            for row in rows
        ]
    )
    return study


def _distribution(parameter: Parameter) -> BaseDistribution:
    told = parameter.told
    if parameter.kind == "category":
        return CategoricalDistribution(told)
    if parameter.kind == "integer":
        return IntDistribution(told[0], told[-1], log=parameter.log)
    return FloatDistribution(told[0], told[-1], log=parameter.log)


def _ped_anova(study: optuna.Study, names: list[str], loss: Floats, share: float) -> dict[str, float]:
    """By name, not scaled; loss (trials of the study,): lower is better."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a target is to be low; that few trials have some conditional parameter
        return get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
            params=names,
            target=lambda trial: float(loss[trial.number]),
            normalize=False,
        )
