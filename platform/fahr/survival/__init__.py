"""How well a risk tells who has the event first: concordance, its errors, and the difference between two markers.

concordance(time, event, risk)                       # .value, .standard_error; risk: higher = worse
bootstrap_concordance(time, event, risk, samples=1000)
compare_concordance(time, event, risk, other_risk)
time_dependent_concordance(time, event, survival)    # survival: each person's curve, at the event times
"""

from fahr.survival.bootstrap import Bootstrap, bootstrap_concordance
from fahr.survival.censoring import censoring_survival
from fahr.survival.cindex import Concordance, ReversedSign, concordance
from fahr.survival.compare import Comparison, compare_concordance
from fahr.survival.time_dependent import time_dependent_concordance

__all__ = [
    "Bootstrap",
    "Comparison",
    "Concordance",
    "ReversedSign",
    "bootstrap_concordance",
    "censoring_survival",
    "compare_concordance",
    "concordance",
    "time_dependent_concordance",
]
