"""Rows of faces, or of photos, and the models that score them -> rows of scores. What jobs/score.py does, without Ray.

plans = plan_models(["runs/age/checkpoint"])            # what they are, how they want a face cut out; no weights
team = Team(plans)                                      # the models at work in this process
score_faces(faces, team).scores                         # a unit of jobs/align.py -> a row of scores a face
"""

from fahr.scores.columns import ADDED_FIELDS, SCORE_FIELDS
from fahr.scores.faces import FacesPlan, plan_faces, read_faces
from fahr.scores.models import Cut, ModelPlan, Team, plan_models
from fahr.scores.rates import RatesWritten, write_aging_rates
from fahr.scores.rows import Scored, score_faces, score_photos
from fahr.scores.tables import write_csv
from fahr.scores.visits import write_visits

__all__ = [
    "ADDED_FIELDS",
    "SCORE_FIELDS",
    "Cut",
    "FacesPlan",
    "ModelPlan",
    "RatesWritten",
    "Scored",
    "Team",
    "plan_faces",
    "plan_models",
    "read_faces",
    "score_faces",
    "score_photos",
    "write_aging_rates",
    "write_csv",
    "write_visits",
]
