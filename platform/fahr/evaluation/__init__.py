"""Scores and what happened -> every number of a report. What jobs/evaluate.py does, without argv and without pages.

protocol = Protocol(covariates=("sex", "site"))
cohort = read_cohort("out/scores", protocol, read_outcomes("deaths.csv"))
found = evaluate(cohort, protocol)          # .sections, .tables, .to_json(); fahr.report.evaluation_page writes it

Statistics are those of fahr.survival and fahr.biomarkers; here is only who is asked what, and what is told.
"""

from fahr.evaluation.cohort import Cohort, read_cohort
from fahr.evaluation.evaluate import Evaluation, evaluate
from fahr.evaluation.outcomes import Outcomes, read_outcomes
from fahr.evaluation.protocol import PROTOCOLS, Protocol
from fahr.evaluation.tables import Column, Section, Table

__all__ = [
    "PROTOCOLS",
    "Cohort",
    "Column",
    "Evaluation",
    "Outcomes",
    "Protocol",
    "Section",
    "Table",
    "evaluate",
    "read_cohort",
    "read_outcomes",
]
