"""How strong a confounder that nobody measured would have to be to explain an association away.

e_value(hazard.ratio, hazard.low, hazard.high, common=True)     # .value, .limit; risk ratios of both its associations
"""

import math
from dataclasses import dataclass

from fahr.errors import Refused


@dataclass(frozen=True)
class EValue:
    """1: nothing is needed, since the interval holds 1 already."""

    value: float  # of the estimate
    limit: float  # of the end of the interval that is nearer to 1
    risk_ratio: float  # that the ratio was taken for


def e_value(ratio: float, low: float, high: float, *, common: bool) -> EValue:
    """Of a hazard ratio and its interval: RR + sqrt(RR (RR - 1)), or of 1 / RR (VanderWeele and Ding 2017, Annals of
    Internal Medicine 167:268).

    common: whether more than 15 % have the event by the end of follow-up. If not, the hazard ratio stands for the risk
    ratio; if so, (1 - 0.5 ** sqrt(HR)) / (1 - 0.5 ** sqrt(1 / HR)) does.
    """
    for name, each in (("low", low), ("ratio", ratio), ("high", high)):
        if not (math.isfinite(each) and each > 0):
            raise Refused(f"{name}: {each} is no ratio of hazards. Give exp of the coefficient, above 0.")
    if not low <= ratio <= high:
        raise Refused(f"ratio: {ratio} does not lie in its interval, {low} to {high}. Give all three on one scale.")
    risk, below, above = (_risk_ratio(each, common) for each in (ratio, low, high))
    nearer = 1.0 if below <= 1 <= above else (below if below > 1 else above)
    return EValue(_needed(risk), _needed(nearer), risk)


def _risk_ratio(hazard: float, common: bool) -> float:
    return (1 - 0.5 ** math.sqrt(hazard)) / (1 - 0.5 ** math.sqrt(1 / hazard)) if common else hazard


def _needed(risk: float) -> float:
    away = max(risk, 1 / risk)
    return away + math.sqrt(away * (away - 1))
