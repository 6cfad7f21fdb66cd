"""What a report says in words: the summary, and what the numbers do not say. All of it of what was done, or refused.

summary(sections)                  # rows of the table `summary`: what a reader looks for first
limitations(cohort, protocol, sections)
"""

from collections.abc import Sequence

from fahr.evaluation.cohort import Cohort
from fahr.evaluation.protocol import Protocol
from fahr.evaluation.tables import COUNT, OWN, P_VALUE, Column, Row, Section, Table, rows_of

# Of the table that holds them: which rows, by the values of which keys, and what they are called.
_HAZARDS = (
    ("FAD", "face_age_deviation", "FAD, 10 years more: hazard ratio"),
    ("risk", "survival_risk", "risk, a standard deviation more: hazard ratio"),
    ("risk quartiles", "survival_percentile quartile 4", "risk, quartile 4 against 1: hazard ratio"),
    ("risk quartiles", "survival_risk quartile 4", "risk, quartile 4 against 1: hazard ratio"),
    ("FAR short", "high_rate high", "FAR high, short band: hazard ratio"),
    ("FAR mid", "high_rate high", "FAR high, mid band: hazard ratio"),
    ("FAR long", "high_rate high", "FAR high, long band: hazard ratio"),
)
_STEPS = ("base -> base + FAD", "base -> base + risk", "base -> base + FAD + risk")


def summary(sections: Sequence[Section]) -> Table:
    """The numbers that are asked for first, as other tables have them."""
    tables = [table for section in sections for table in section.tables]
    rows: list[Row] = []
    for model, term, words in _HAZARDS:
        for row in rows_of(tables, "hazard_ratios"):
            if (row["model"], row["term"]) == (model, term) and row["ratio"] is not None:
                rows.append(_row(words, row, ".2f", "ratio", ("low", "high"), row["p_value"]))
    for row in rows_of(tables, "c_index"):
        if row["marker"] in ("age", "risk"):
            rows.append(_row(f"C of {row['marker']} alone", row, ".3f", "harrell", ("harrell_low", "harrell_high")))
    for row in rows_of(tables, "c_differences"):
        if row["less"] == "model base":
            words = row["marker"].removeprefix("model base + ")
            rows.append(_row(f"C that {words} adds to age and covariates", row, "+.4f", "difference", ("low", "high")))
    for row in rows_of(tables, "nested_tests"):
        if row["at"] == "first photo" and row["step"] in _STEPS:
            words = row["step"].rpartition("base + ")[2]
            rows.append({"words": f"{words} adds to age and covariates: chi-squared ({row['freedom']} df)",
                         "form": ".2f", "value": row["statistic"], "low": None, "high": None,
                         "p_value": row["p_value"]})  # fmt: skip
    for row in rows_of(tables, "calibration"):
        if row["number"] in ("observed / expected", "slope"):
            rows.append(_row(f"chances at {row['days']:g} days: {row['number']}", row, ".3f", "value",
                             ("value_low", "value_high")))  # fmt: skip
    return Table("summary", "In short", (
        Column("", ("words",)), Column("", ("value", "low", "high"), OWN), Column("p", ("p_value",), P_VALUE),
    ), tuple(rows))  # fmt: skip


def _row(words: str, row: Row, form: str, value: str, ends: tuple[str, str], p_value: float | None = None) -> Row:
    return {"words": words, "form": form, "value": row[value], "low": row[ends[0]], "high": row[ends[1]],
            "p_value": p_value}  # fmt: skip


def flow_table(cohort: Cohort) -> Table:
    """Photos and people, reason by reason. Counts of one to nine stay: they tell of the data, not of an outcome."""
    rows: list[Row] = []
    for step in cohort.flow:
        if step.photos or step.reason in ("scored", "judged"):
            people = step.people if step.reason not in ("photos", "later_visit") else None
            if step.reason.startswith("rejected"):
                people = None
            rows.append({"step": step.reason, "words": step.words, "photos": step.photos, "people": people})
    return Table("flow", "Photos and people", (
        Column("", ("words",)), Column("photos", ("photos",), COUNT), Column("people", ("people",), ","),
    ), tuple(rows))  # fmt: skip


def limitations(cohort: Cohort, protocol: Protocol, sections: Sequence[Section]) -> list[str]:
    told = [
        "Ratios and concordances are averages over people like these. They say nothing certain about one person.",
        "Whoever differs in what was not adjusted for differs in the outcome too: associations, not causes.",
        "Another camera, detector, hospital or country may give other numbers.",
    ]
    if set(protocol.splits) - {"test"}:
        told.append(
            f"People of the splits {', '.join(protocol.splits)} are judged. If a model has learned from any of them, "
            "its numbers here are too good."
        )
    if cohort.unrated or len(cohort.rated["event"]):
        told.append(
            "Who has an aging rate lived until the second photo, and came back for it: these people are not all people."
        )
    if any("folds of these same people" in line for section in sections for line in section.methods):
        told.append("Chances were learned within this cohort: their calibration elsewhere is not known.")
    if any(section.warnings for section in sections):
        told.append("The warnings beside the tables are part of the result.")
    return [*told, "Several questions are asked of the same people; only the p values named so are adjusted for that.",
            "Research use only: not a medical device, not a diagnosis, not for decisions about a person."]  # fmt: skip
