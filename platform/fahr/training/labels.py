"""Ages to learn from, looked at before hours are spent: are they years, are there several, is nobody on both sides?

check_ages("out/align", faces.labels(rows)["age"])
check_leaks("out/align", table, held_out)
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from fahr.errors import Refused

OLDEST = 122.0  # years


def check_ages(place: str, ages: ArrayLike) -> None:
    """(N,) years, none missing. Refused: none at all, outside 0 to 122, all the same."""
    values = np.asarray(ages, np.float64)
    if not len(values):
        raise Refused(f"{place}: no face has an age to learn from. Put ages into the manifest (age, or birth_date and "
                      "taken_on) and align again.")  # fmt: skip
    wrong = values[~((values >= 0) & (values <= OLDEST))]
    if len(wrong):
        hint = f" They look like days: {np.median(values):,.0f} days are {np.median(values) / 365.25:.1f} years." if (
            np.median(values) > 1000
        ) else ""  # fmt: skip
        raise Refused(
            f"{place}: {len(wrong):,} of {len(values):,} ages are not within 0 and {OLDEST:.0f} years, such as "
            f"{wrong[0]:g}.{hint} Correct them in the manifest."
        )
    if values.min() == values.max():
        raise Refused(
            f"{place}: all {len(values):,} faces are {values[0]:g} years old: nothing can be learned from one age. "
            "Add people of other ages."
        )


def check_leaks(place: str, table: pa.Table, held_out: pa.ChunkedArray) -> None:
    """Refused: a person, or the very same file, both learned from and held out.

    `table`: subject_id, photo_id and, where it is known, source_sha256 of all rows; `held_out`: (N,) true or false.
    """
    for column, what in (("subject_id", "the person"), ("source_sha256", "the file")):
        if column not in table.column_names:
            continue
        sides = [table.filter(mask) for mask in (pc.equal(held_out, False), held_out)]
        learned_from = pc.unique(pc.drop_null(sides[0][column]))
        both = sides[1].filter(pc.is_in(sides[1][column], learned_from))
        if both.num_rows:
            row = both.slice(0, 1)
            raise Refused(
                f"{place}: {both.num_rows:,} held-out photos show somebody whose photos are learned from: {what} of "
                f"photo {row['photo_id'][0].as_py()!r}. Results would be too good. Give all photos of a person one "
                "split, or leave one of the datasets out."
            )
