"""Synthetic people whose age, deviation, frailty, aging rate and fate are known.

python -c "from fahr.cohorts.synthetic import make_cohort; make_cohort(100, 2, seed=0, out='people')"
"""

from fahr.cohorts.synthetic.cohort import face_of, jpeg, make_cohort
from fahr.cohorts.synthetic.faces import Face, render_face
from fahr.cohorts.synthetic.junk import KINDS, render_junk
from fahr.cohorts.synthetic.looks import expected_age
from fahr.cohorts.synthetic.options import CohortOptions, CueStrengths
from fahr.cohorts.synthetic.sheets import contact_sheet, write_sheets
from fahr.cohorts.synthetic.truth import People, Truth, make_people, make_truth

__all__ = [
    "KINDS",
    "CohortOptions",
    "CueStrengths",
    "Face",
    "People",
    "Truth",
    "contact_sheet",
    "expected_age",
    "face_of",
    "jpeg",
    "make_cohort",
    "make_people",
    "make_truth",
    "render_face",
    "render_junk",
    "write_sheets",
]
