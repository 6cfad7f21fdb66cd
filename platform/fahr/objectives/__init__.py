"""What a survival model is asked to do: put people in the order in which they died. Higher score = worse, everywhere.

loss = ranking_loss(risk, time, event, subject)                          # over pairs: four kinds, three weights
loss = cox_loss(risk, time, event, ties="efron")                         # partial likelihood
loss = discrete_time_loss(logits, time, event, edges=[0, 365, 730])      # a probability of death for each interval

Tensors in, a scalar out; no file, no configuration. docs/survival.md tells which to take.
"""

from fahr.objectives.cox import cox_loss
from fahr.objectives.hazard import discrete_time_loss
from fahr.objectives.ranking import ranking_loss

__all__ = ["cox_loss", "discrete_time_loss", "ranking_loss"]
