"""Contact sheets: the same people at growing age or frailty, to look at.

python -c "from fahr.cohorts.synthetic.sheets import write_sheets; write_sheets('sheets')"
"""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fahr import store
from fahr.cohorts.synthetic.cohort import jpeg
from fahr.cohorts.synthetic.covariates import RACES, SEXES
from fahr.cohorts.synthetic.faces import render_face
from fahr.cohorts.synthetic.junk import KINDS, render_junk
from fahr.cohorts.synthetic.options import CohortOptions
from fahr.errors import Refused

Photo = npt.NDArray[np.uint8]
AGES = (20, 30, 40, 50, 60, 70, 80, 90)  # years
FRAILTIES = (-2, -1, 0, 1, 2)  # SD


def contact_sheet(
    by: str,
    *,
    people: int = 6,
    values: Sequence[float] | None = None,
    seed: int = 0,
    same_photo: bool = False,
    options: CohortOptions | None = None,
) -> Photo:
    """RGB: a row a person, a column a value of `by` (`age` in years, `frailty` in SD); the other is held at 60 or 0.

    `same_photo` keeps pose, light and camera too, so that the cue is all that changes along a row.
    """
    if by not in ("age", "frailty"):
        raise Refused(f"by={by!r}: a contact sheet goes by 'age' or by 'frailty'. Choose one.")
    values = values or (AGES if by == "age" else FRAILTIES)
    rows = []
    for subject in range(people):
        sex, race = SEXES[subject % 2], RACES[(subject // 2) % len(RACES)]
        row = [
            render_face(
                seed=seed,
                subject=subject,
                photo=0 if same_photo else column,
                apparent_age=float(value) if by == "age" else 60.0,
                frailty=float(value) if by == "frailty" else 0.0,
                sex=sex,
                race=race,
                options=options,
            ).image
            for column, value in enumerate(values)
        ]
        rows.append(np.hstack(row))
    return np.vstack(rows)


def junk_sheet(*, each: int = 6, seed: int = 0, size_px: int = 192) -> Photo:
    """RGB: a row a kind of junk."""
    rows = []
    for kind in KINDS:
        photos = [render_junk(kind, seed=seed, number=number, size_px=size_px)[:, :size_px] for number in range(each)]
        rows.append(np.hstack(photos))
    return np.vstack(rows)


def write_sheets(folder: str | os.PathLike[str]) -> list[str]:
    """Write by_age, by_frailty, by_frailty_same_photo and junk as JPEG files; gives their paths."""
    sheets = {
        "by_age": contact_sheet("age"),
        "by_frailty": contact_sheet("frailty"),
        "by_frailty_same_photo": contact_sheet("frailty", same_photo=True),
        "junk": junk_sheet(),
    }
    paths = [store.join(store.absolute(folder), f"{name}.jpg") for name in sheets]
    for path, sheet in zip(paths, sheets.values(), strict=True):
        store.write_bytes(path, jpeg(sheet, 90))
    return paths
