"""What a model is asked to do. Survival: put people in the order in which they died; higher score = worse, everywhere.

loss = ranking_loss(risk, time, event, subject)                          # over pairs: four kinds, three weights
loss = cox_loss(risk, time, event, ties="efron")                         # partial likelihood
loss = discrete_time_loss(logits, time, event, edges=[0, 365, 730])      # a probability of death for each interval

Age: say how many years old a face looks.

losses = age_loss("l1", outputs, ages)                                   # one a face: five losses, four kinds of head

Tensors in, tensors out; no file, no configuration. docs/survival.md and docs/age.md tell which to take.
"""

from fahr.objectives.age import age_loss, years
from fahr.objectives.cox import cox_loss
from fahr.objectives.hazard import discrete_time_loss
from fahr.objectives.ranking import ranking_loss

__all__ = ["age_loss", "cox_loss", "discrete_time_loss", "ranking_loss", "years"]
