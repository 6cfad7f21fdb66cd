"""Which settings the next trial has: the default first, then by Optuna's TPE, at random, or off a grid.

    chooser = Chooser(space, "features", "tpe", seed=0, default={"tau": 1.0, ...})
    settings = chooser.ask(7)               # a function of (seed, 7, what was told): a resumed run asks the same
    chooser.tell(7, settings, score)        # lower is better

What has no effect beside the others (a margin without a hinge) is not in the settings: the job keeps its own value.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from fahr.errors import Refused
from fahr.search.spaces import Choice, Parameter, Range, Settings, Space, Value

Method = Literal["tpe", "random", "grid"]
METHODS = get_args(Method)
STARTUP = 8  # random trials after the default, before TPE has anything to model


class Chooser:
    def __init__(
        self, space: Space, speed: Literal["features", "full"], method: Method, *, seed: int, default: Settings
    ) -> None:
        """`default`: what the job's configuration says of each parameter, searched or not. Refused: nothing to search,
        a parameter that never has an effect, a grid without its values."""
        self.parameters = space.parameters(speed)
        if not self.parameters:
            raise Refused(
                f"space: {', '.join(space.left_out(speed))}: only a full trial can judge it, and --mode {speed} makes "
                "none. Give --mode full, or a parameter of the loss or the head."
            )
        self._space, self._method, self._seed = space, method, seed
        self._fixed = {name: each for name, each in default.items() if name not in self.parameters}
        self._check_effects()
        own = {name: default[name] for name in self.parameters if name in default}
        self.default = {name: each for name, each in own.items() if self._applies(name, own)}
        self.grid = self._cells() if method == "grid" else []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="minimize")
        self._running: dict[int, optuna.Trial] = {}  # those that are running are not proposed again

    @property
    def most(self) -> int | None:
        """Trials that there can be; None: any number."""
        return len(self.grid) + 1 if self._method == "grid" else None

    def ask(self, number: int) -> Settings:
        if number == 0:
            return self.default
        if self._method == "grid":
            return self.grid[number - 1]
        if self._method == "random":
            return self._random(number)
        return self._tpe(number)

    def tell(self, number: int, settings: Mapping[str, Value], score: float | None) -> None:
        """None: it failed, and nothing is learned from it. Values outside the space (of the default) are left out."""
        if self._method != "tpe":
            return
        if (trial := self._running.pop(number, None)) is not None:
            self._study.tell(trial, score, state=TrialState.FAIL if score is None else TrialState.COMPLETE)
            return
        distributions = {name: distribution(self.parameters[name]) for name in settings if name in self.parameters}
        inside = {name: each for name, each in distributions.items() if holds(self.parameters[name], settings[name])}
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if score is None else TrialState.COMPLETE,
                value=score,
                params={name: settings[name] for name in inside},
                distributions=inside,
            )
        )

    def _tpe(self, number: int) -> Settings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Anew for each: a resumed run would draw its first draws once more.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=int(self._rng(number).integers(2**31)), n_startup_trials=STARTUP, multivariate=True, group=True,
                constant_liar=True,
            )  # fmt: skip
            trial = self._study.ask()
            chosen: Settings = {}
            for name, parameter in self.parameters.items():
                if self._applies(name, chosen):
                    chosen[name] = _suggested(trial, name, parameter)
        self._running[number] = trial
        return chosen

    def _random(self, number: int) -> Settings:
        shares = self._rng(number).random(len(self.parameters))
        chosen: Settings = {}
        for share, (name, parameter) in zip(shares.tolist(), self.parameters.items(), strict=True):
            if self._applies(name, chosen):
                chosen[name] = parameter.at(share)
        return chosen

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number])

    def _applies(self, name: str, beside: Mapping[str, Value]) -> bool:
        return self._space.applies(name, {**self._fixed, **beside})

    def _check_effects(self) -> None:
        """Refused: a parameter that has no effect beside any value of what decides about it."""
        wrong = []
        for name in self.parameters:
            if (needed := self._space.needs(name)) is None:
                continue
            other, wanted = needed
            values = ends(self.parameters[other]) if other in self.parameters else (self._fixed[other],)
            if not any(self._space.applies(name, {other: value}) for value in values):
                told = " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
                wrong.append(
                    f"space.{name}: has no effect with {other} {told}: it takes {other} {wanted}. Leave it out, or "
                    f"search such a {other}."
                )
        if wrong:
            raise Refused("\n".join(wrong))

    def _cells(self) -> list[Settings]:
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Range) and parameter.points is None:
                raise Refused(
                    f"space.{name}: a grid needs its values: give points: 5, or a list; or another --search "
                    f"({', '.join(each for each in METHODS if each != 'grid')})."
                )
        cells: list[Settings] = [{}]
        for name, parameter in self.parameters.items():
            beside = [(cell, self._applies(name, cell)) for cell in cells]
            cells = [
                {**cell, **made} for cell, applies in beside
                for made in ([{name: value} for value in parameter.grid()] if applies else [{}])
            ]  # fmt: skip
        return [cell for cell in cells if cell != self.default]


def ends(parameter: Parameter) -> tuple[Value, ...]:
    """All values of a choice, both ends of a range."""
    return parameter.values if isinstance(parameter, Choice) else (parameter.at(0), parameter.at(1))


def distribution(parameter: Parameter) -> BaseDistribution:
    """As Optuna calls it."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def holds(parameter: Parameter, value: Value) -> bool:
    """Whether it is a value of this parameter."""
    if isinstance(parameter, Choice):
        return value in parameter.values
    if isinstance(value, str):
        return False
    return parameter.low <= value <= parameter.high and (not parameter.whole or float(value).is_integer())


def _suggested(trial: optuna.Trial, name: str, parameter: Parameter) -> Value:
    if isinstance(parameter, Choice):
        drawn: Any = trial.suggest_categorical(name, parameter.values)
        return cast(Value, drawn)
    if parameter.whole:
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
