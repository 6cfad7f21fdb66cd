"""What a face age means: deviation from the calendar, correction of its bias, intervals, visits, aging rate."""

from fahr.biomarkers.accuracy import age_accuracy
from fahr.biomarkers.accuracy_results import AgeAccuracy
from fahr.biomarkers.aging_rate import aging_rates, face_aging_rate
from fahr.biomarkers.aging_rate_prior import fit_aging_rate_prior
from fahr.biomarkers.aging_rate_results import BANDS, AgingRates, FaceAgingRate, RateBand
from fahr.biomarkers.bias import Corrected, correct, fit_bias, outside_fit
from fahr.biomarkers.conformal import fit_conformal, intervals, intervals_source
from fahr.biomarkers.deviation import face_age_deviation
from fahr.biomarkers.joint import JointGroups, joint_groups
from fahr.biomarkers.means import mean_of
from fahr.biomarkers.repeatability import Agreement, Repeatability, agreement, fit_repeatability
from fahr.biomarkers.visits import Visits, visit_medians

__all__ = [
    "BANDS",
    "AgeAccuracy",
    "AgingRates",
    "Agreement",
    "Corrected",
    "FaceAgingRate",
    "JointGroups",
    "RateBand",
    "Repeatability",
    "Visits",
    "age_accuracy",
    "aging_rates",
    "agreement",
    "correct",
    "face_age_deviation",
    "face_aging_rate",
    "fit_aging_rate_prior",
    "fit_bias",
    "fit_conformal",
    "fit_repeatability",
    "intervals",
    "intervals_source",
    "joint_groups",
    "mean_of",
    "outside_fit",
    "visit_medians",
]
