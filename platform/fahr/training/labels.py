"""What is learned from, looked at before hours are spent: are ages years, did anybody die, is nobody on both sides?

check_ages("out/align", faces.labels(rows)["age"])
check_outcomes("out/align", table)
notes = check_events("out/align", train)
check_leaks("out/align", table, held_out)
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from fahr.days import DAYS_PER_YEAR
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
        middle = float(np.median(values))
        days = f" They look like days: {middle:,.0f} days are {middle / DAYS_PER_YEAR:.1f} years."
        hint = days if middle > 1000 else ""
        raise Refused(
            f"{place}: {len(wrong):,} of {len(values):,} ages are not within 0 and {OLDEST:.0f} years, such as "
            f"{wrong[0]:g}.{hint} Correct them in the manifest."
        )
    if values.min() == values.max():
        raise Refused(
            f"{place}: all {len(values):,} faces are {values[0]:g} years old: nothing can be learned from one age. "
            "Add people of other ages."
        )


FEW_EVENTS = 10  # people: a model of fewer is told to be one


def check_outcomes(place: str, table: pa.Table) -> None:
    """Refused, with the first photo: a time below 0, an event that is not 0 or 1, an entry below 0 or not before the
    end of follow-up, a person with the event in one photo and without it in another.

    `table`: photo_id, subject_id, follow_up_days, event and, where it is known, entry_days of photos whose outcome is
    known.
    """
    days, event = (np.asarray(table[name].to_numpy(), np.float64) for name in ("follow_up_days", "event"))
    rules = [
        ("follow_up_days", days, ~(np.isfinite(days) & (days >= 0)), "must be days, 0 or more",
         "They run from the photo to death or last contact."),
        ("event", event, (event != 0) & (event != 1), "must be 0 or 1", "1 is death, 0 last seen alive."),
    ]  # fmt: skip
    if "entry_days" in table.column_names:
        entry = np.nan_to_num(np.asarray(table["entry_days"].to_numpy(), np.float64))
        rules += [
            ("entry_days", entry, entry < 0, "must be 0 or more", "0 is the day of the photo."),
            ("entry_days", entry, (entry >= days) & (days > 0), "must lie before follow_up_days",
             "Who was never under observation adds nothing: leave the photo out."),
        ]  # fmt: skip
    for name, values, wrong, rule, remedy in rules:
        if wrong.any():
            first = int(np.argmax(wrong))
            more = f", and {wrong.sum() - 1:,} more" if wrong.sum() > 1 else ""
            raise Refused(
                f"{place}: {name} of photo {table['photo_id'][first].as_py()!r} is {values[first]:g}{more}: {rule}. "
                f"{remedy} Correct the manifest and align again."
            )
    died = pc.is_in(table["subject_id"], pc.unique(table.filter(pa.array(event == 1))["subject_id"]))
    both = table.filter(pc.and_(died, pa.array(event == 0)))
    if both.num_rows:
        raise Refused(
            f"{place}: event is 0 for {both.num_rows:,} photos and 1 for others of the same people, such as the person "
            f"of photo {both['photo_id'][0].as_py()!r}. Whether somebody had it is the same for all photos, whose "
            "follow-up ends on one day. Correct the manifest and align again."
        )


def check_events(place: str, train: pa.Table) -> list[str]:
    """What should be told of the people learned from. Refused: nobody had the event, nobody else was watched then.

    `train`: subject_id, follow_up_days, event of each photo.
    """
    died = train.filter(pc.equal(train["event"], 1))
    people = len(pc.unique(train["subject_id"]))
    if not died.num_rows:
        raise Refused(
            f"{place}: none of the {people:,} people to learn from had the event (event is 0 everywhere): risks cannot "
            "be ranked. Follow them longer, or give other people the split `train`."
        )
    latest = pc.max(train["follow_up_days"]).as_py()
    if pc.min(died["follow_up_days"]).as_py() == latest and died.num_rows == train.num_rows:
        raise Refused(
            f"{place}: all {people:,} people to learn from had the event after {latest:g} days: nobody outlived "
            "anybody. Give each the days to his or her own death."
        )
    events = len(pc.unique(died["subject_id"]))
    if events < FEW_EVENTS:
        return [
            f"only {events} of {people:,} people to learn from had the event: this shows that everything runs, and "
            "makes no model to rely on"
        ]
    return []


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
