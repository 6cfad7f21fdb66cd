"""What a face age means: deviation from the calendar, correction of its bias, intervals, visits."""

from fahr.biomarkers.accuracy import age_accuracy
from fahr.biomarkers.accuracy_results import AgeAccuracy
from fahr.biomarkers.bias import Corrected, correct, fit_bias, outside_fit
from fahr.biomarkers.conformal import fit_conformal, intervals, intervals_source
from fahr.biomarkers.deviation import face_age_deviation
from fahr.biomarkers.means import mean_of
from fahr.biomarkers.visits import Visits, visit_medians

__all__ = [
    "AgeAccuracy",
    "Corrected",
    "Visits",
    "age_accuracy",
    "correct",
    "face_age_deviation",
    "fit_bias",
    "fit_conformal",
    "intervals",
    "intervals_source",
    "mean_of",
    "outside_fit",
    "visit_medians",
]
