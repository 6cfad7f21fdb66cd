"""How well a risk tells who has the event first: concordance, its errors, and the difference between two markers.

concordance(time, event, risk)                       # .value, .standard_error; risk: higher = worse
bootstrap_concordance(time, event, risk, samples=1000)
compare_concordance(time, event, risk, other_risk)
time_dependent_concordance(time, event, survival)    # survival: each person's curve, at the event times

Of tables of people (docs/survival_models.md): check_table, cox_model, nested_models, interaction, subgroup_forest.
Of arrays: kaplan_meier, at_risk_table, restricted_mean, log_rank, log_rank_trend, fit_cox, proportional_hazards,
cumulative_incidence

Predicted chances, at horizons (docs/prediction.md):
time_dependent_auc, brier_score, judge_calibration, d_calibration, decision_curve, net_reclassification,
discrimination_improvement; complete_cases, impute, pool, pooled_hazard; e_value, holm, false_discovery_rate;
leave_one_site_out, temporal_split
"""

from fahr.survival.bootstrap import Bootstrap, bootstrap_concordance
from fahr.survival.brier import Brier, brier_score
from fahr.survival.calibration import Calibration, judge_calibration
from fahr.survival.censoring import censoring_survival
from fahr.survival.cindex import Concordance, ReversedSign, concordance
from fahr.survival.compare import Comparison, compare_concordance
from fahr.survival.competing import Incidence, cumulative_incidence
from fahr.survival.cox import CoxFit, Hazard, NoEstimate, fit_cox, likelihood_ratio
from fahr.survival.curves import Curve, at_risk_table, kaplan_meier
from fahr.survival.design import Interaction, Term
from fahr.survival.dynamic_auc import DynamicAuc, time_dependent_auc
from fahr.survival.e_values import EValue, e_value
from fahr.survival.guards import Dates, check_table
from fahr.survival.imputation import CompleteCases, Imputed, Pooled, complete_cases, impute, pool, pooled_hazard
from fahr.survival.models import CoxModel, cox_model
from fahr.survival.multiplicity import false_discovery_rate, holm
from fahr.survival.nested import Ladder, interaction, nested_models
from fahr.survival.net_benefit import DecisionCurve, decision_curve
from fahr.survival.proportionality import Proportionality, proportional_hazards
from fahr.survival.rank_tests import LogRank, log_rank, log_rank_trend
from fahr.survival.reclassification import (
    DiscriminationImprovement,
    NetReclassification,
    discrimination_improvement,
    net_reclassification,
)
from fahr.survival.resampling import Estimate
from fahr.survival.rmst import RestrictedMean, restricted_mean, restricted_mean_difference
from fahr.survival.splits import SiteSplit, TemporalSplit, leave_one_site_out, temporal_split
from fahr.survival.study import Endpoint
from fahr.survival.subgroups import Forest, Subgroup, subgroup_forest
from fahr.survival.time_dependent import time_dependent_concordance
from fahr.survival.whole_curves import DCalibration, d_calibration

__all__ = [
    "Bootstrap",
    "Brier",
    "Calibration",
    "Comparison",
    "CompleteCases",
    "Concordance",
    "CoxFit",
    "CoxModel",
    "Curve",
    "DCalibration",
    "Dates",
    "DecisionCurve",
    "DiscriminationImprovement",
    "DynamicAuc",
    "EValue",
    "Endpoint",
    "Estimate",
    "Forest",
    "Hazard",
    "Imputed",
    "Incidence",
    "Interaction",
    "Ladder",
    "LogRank",
    "NetReclassification",
    "NoEstimate",
    "Pooled",
    "Proportionality",
    "RestrictedMean",
    "ReversedSign",
    "SiteSplit",
    "Subgroup",
    "TemporalSplit",
    "Term",
    "at_risk_table",
    "bootstrap_concordance",
    "brier_score",
    "censoring_survival",
    "check_table",
    "compare_concordance",
    "complete_cases",
    "concordance",
    "cox_model",
    "cumulative_incidence",
    "d_calibration",
    "decision_curve",
    "discrimination_improvement",
    "e_value",
    "false_discovery_rate",
    "fit_cox",
    "holm",
    "impute",
    "interaction",
    "judge_calibration",
    "kaplan_meier",
    "leave_one_site_out",
    "likelihood_ratio",
    "log_rank",
    "log_rank_trend",
    "nested_models",
    "net_reclassification",
    "pool",
    "pooled_hazard",
    "proportional_hazards",
    "restricted_mean",
    "restricted_mean_difference",
    "subgroup_forest",
    "temporal_split",
    "time_dependent_auc",
    "time_dependent_concordance",
]
