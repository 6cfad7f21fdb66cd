"""The table at the end of the demo: what was planted, what true scores say of it, what the model's scores say.

    table = judge(people, scores, control)     # two folders; C-index of the arm that began at random
    print(table.told()); table.agrees

True scores must hold the truth. A score with noise cannot: what it says of a hazard shrinks by as much as the truth
rises less than the score does, which is known here, and that is what the model's scores must hold. A clinic knows only
its reliability, from photos of one person and day; what a model gets wrong about a person every time is not in it, so
reliability times the truth is the most there can be, and the model's scores must not say more.
Each score of the model takes the place of its own truth alone, beside the true others: else what is left out would
shrink it too (docs/synthetic.md). The model is judged on people that it did not learn from. Logarithms are natural.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fahr import store
from fahr.biomarkers import mean_of
from fahr.biomarkers.repeatability import fit_repeatability
from fahr.cohorts.synthetic import CohortOptions, expected_age
from fahr.cohorts.synthetic.truth import (
    AGE_LOG_HAZARD_PER_YEAR,
    DEVIATION_LOG_HAZARD_PER_YEAR,
    FRAILTY_LOG_HAZARD,
)
from fahr.errors import Refused
from fahr.scores.rates import NAME as RATES
from fahr.scores.tables import read_scores
from fahr.survival import concordance
from fahr.survival.cox import fit_cox

SURE, USUAL = 2.576, 1.960  # of 99 and 95 %
WIDEST = 0.15  # half-width of the 95 % interval, log hazard a decade, with true scores of ENOUGH people
ENOUGH = 1500
GUESSED = 0.75  # of the error of guessing the mean age, which face age must stay below
RANKED = 0.55  # C-index of the risk; tossing a coin has 0.5
PLANTED = {
    "age": AGE_LOG_HAZARD_PER_YEAR * 10,
    "deviation": DEVIATION_LOG_HAZARD_PER_YEAR * 10,
    "frailty": FRAILTY_LOG_HAZARD,
    "rate": CohortOptions().rate_log_hazard,
}
NAMES = {
    "age": "age, a decade", "deviation": "deviation, a decade", "frailty": "frailty, a SD", "rate": "aging rate, 1",
}  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """An estimate; `low` to `high`: 99 % for what must hold something, 95 % for what is only told."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def told(self) -> str:
        between = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.3f}{between}" if abs(self.value) < 2 else f"{self.value:.1f}{between}"


@dataclass(frozen=True)
class Line:
    name: str
    truth: float
    true_scores: Cell | None
    model: Cell | None
    expected: float | None = None  # of the model's; None: nothing can be said
    most: float | None = None  # reliability times the truth
    wrong: str = ""  # what it misses


@dataclass(frozen=True)
class Table:
    people: int
    deaths: int
    unseen: int  # people whom the model did not learn from
    lines: tuple[Line, ...]

    @property
    def agrees(self) -> bool:
        return not any(line.wrong for line in self.lines)

    def told(self) -> str:
        """For a terminal."""
        rows: list[tuple[str, ...]] = [
            ("", "truth", "from true scores", "from the model's scores", "expected of it", "at most")
        ]
        for each in self.lines:
            cells = [f"{each.truth:.3f}" if abs(each.truth) < 2 else f"{each.truth:.1f}"]
            cells += ["" if cell is None else cell.told() for cell in (each.true_scores, each.model)]
            cells += ["" if number is None else f"{number:.3f}" for number in (each.expected, each.most)]
            rows.append((each.name, *cells))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        told = [f"{self.people:,} people, {self.deaths:,} deaths; the model's scores: {self.unseen:,} unseen people"]
        wrongs = ["", *(each.wrong for each in self.lines)]
        for row, wrong in zip(rows, wrongs, strict=True):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            told.append(("  " + "  ".join(cells) + (f"  MISSED: {wrong}" if wrong else "")).rstrip())
        return "\n".join(told)

    def write(self, place: str) -> None:
        store.write_bytes(place, (json.dumps(asdict(self), indent=1) + "\n").encode())


def judge(people: str, scores: str, control: float) -> Table:
    """`people`: the folder of the synthetic cohort. `scores`: the output of jobs/score.py on its faces."""
    photos = _photos(people, scores)
    first = photos.sort_values("taken_on", kind="stable").groupby("subject_id").head(1)
    unseen = first[first["split"] != "train"]
    lines = [*_errors_of_age(photos), *_hazards(first, photos, unseen), _aging_rate(photos, scores)]
    lines += _ranked(first, unseen, control)
    return Table(len(first), int(first["event"].sum()), len(unseen), tuple(lines))


def _photos(people: str, scores: str) -> pd.DataFrame:
    """A row a photo: outcome, truth, and what the models said; nan where they said nothing."""
    outcomes = pq.read_table(
        store.join(people, "manifest.parquet"),
        columns=["photo_id", "subject_id", "taken_on", "age", "follow_up_days", "entry_days", "event"],
    )
    truth = pq.read_table(store.join(people, "truth.parquet")).drop_columns(["subject_id", "age"])
    said = pd.concat(
        part.select(
            ["photo_id", "split", "face_age", "face_age_deviation", "face_age_deviation_adjusted", "survival_risk"]
        )
        .set_column(0, "photo_id", pc.replace_substring_regex(part["photo_id"], r"\.jpg$", ""))  # the index's, by file
        .to_pandas()
        for part in read_scores(scores)
    )
    whole = outcomes.join(truth, "photo_id", join_type="inner").to_pandas()
    assert len(whole) == outcomes.num_rows, "photos without a truth"
    return whole.merge(said, on="photo_id", how="left", validate="one_to_one")


def _errors_of_age(photos: pd.DataFrame) -> list[Line]:
    """Mean absolute errors against the calendar, years. The truth: of E[age | apparent age], the least there can be."""
    test = photos[(photos["split"] == "test") & photos["face_age"].notna()]
    age = test["age"].to_numpy()
    least = float(np.abs(expected_age(test["apparent_age"].to_numpy()) - age).mean())
    drawn = float(np.abs(test["apparent_age"] - age).mean())
    found = mean_of(np.abs(test["face_age"] - age), test["subject_id"].to_numpy(), bootstraps=200)
    mean, low, high = (math.nan if each is None else each for each in (found.value, found.low, found.high))
    guess = float(np.abs(age - age.mean()).mean())
    wrong = "" if mean <= GUESSED * guess else f"more than {GUESSED} of guessing the mean age ({guess:.1f})"
    return [Line("age, error in years", least, Cell(drawn), Cell(mean, low, high), wrong=wrong)]


def _cox(people: pd.DataFrame, columns: Mapping[str, Floats], wanted: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Log hazard ratios and their standard errors."""
    fit = fit_cox(
        people["follow_up_days"].to_numpy(), people["event"].to_numpy(bool), dict(columns),
        entry=people["entry_days"].fillna(0).to_numpy(),
    )  # fmt: skip
    errors = np.sqrt(np.diag(fit.covariance))
    found = zip(fit.names, fit.coefficients.tolist(), errors.tolist(), strict=True)
    return {name: (value, error) for name, value, error in found if name in wanted}


def _true(people: pd.DataFrame) -> dict[str, Floats]:
    return {
        "age": people["age"].to_numpy() / 10, "deviation": people["dev_ref"].to_numpy() / 10,
        "frailty": people["frailty"].to_numpy(), "rate": people["aging_rate"].to_numpy(),
    }  # fmt: skip


def _cell(estimate: tuple[float, float]) -> Cell:
    value, error = estimate
    return Cell(value, value - SURE * error, value + SURE * error)


def _hazards(first: pd.DataFrame, photos: pd.DataFrame, unseen: pd.DataFrame) -> list[Line]:
    """All four planted terms from true scores; the deviation from the model's too."""
    lines = []
    for name, estimate in _cox(first, _true(first), tuple(PLANTED)).items():
        cell, truth, wrong = _cell(estimate), PLANTED[name], ""
        if not cell.holds(truth):
            wrong = "true scores do not hold the truth"
        elif len(first) >= ENOUGH and name in ("age", "deviation") and USUAL * estimate[1] > WIDEST:
            wrong = f"true scores are less sure than {WIDEST}"
        model, expected, most = None, None, None
        if name == "deviation" and not wrong:
            model, expected, most = _deviation(photos, unseen)
            if not model.holds(expected):
                wrong = "the model's scores do not hold what is expected of them"
            elif most is not None and model.low > most:
                wrong = "the model's scores say more than their reliability x the truth"
        lines.append(Line(f"log hazard: {NAMES[name]}", truth, cell, model, expected, most, wrong))
    return lines


def _deviation(photos: pd.DataFrame, unseen: pd.DataFrame) -> tuple[Cell, float, float | None]:
    """The deviation found in each one's first photo, beside the true others; what is expected of it; the most there can
    be by its repeats, None where too few people have any."""
    name = "face_age_deviation_adjusted"  # unadjusted, faces are drawn to the middle, and so is what they say
    if unseen[name].isna().all():
        name = "face_age_deviation"
    known = unseen[unseen[name].notna()]
    found = known[name].to_numpy()
    estimate, expected = _in_its_place(known, "deviation", found / 10)
    seen_again = photos[(photos["split"] != "train") & photos[name].notna()]
    try:
        repeats = fit_repeatability(
            seen_again[name].to_numpy(), seen_again["subject_id"].to_numpy(),
            seen_again["taken_on"].to_numpy("datetime64[D]"),
        )  # fmt: skip
    except Refused as error:
        print(f"demo: no reliability: {error}")
        return estimate, expected, None
    reliability = max(0.0, 1 - repeats.sd_years**2 / float(np.var(found)))
    return estimate, expected, reliability * PLANTED["deviation"]


def _in_its_place(people: pd.DataFrame, name: str, found: Floats) -> tuple[Cell, float]:
    """A score in the place of its truth, beside the true others: its log hazard, and what is expected of it by
    regression calibration (Prentice 1982, Biometrika 69:331): the planted one, times by how much the truth rises with
    the score among people whose other terms are the same."""
    columns = _true(people)
    truth = columns[name]
    estimate = _cox(people, {**columns, name: found}, (name,))[name]
    others = [values for other, values in columns.items() if other != name]
    rise = np.linalg.lstsq(np.column_stack([found, np.ones(len(found)), *others]), truth, rcond=None)[0][0]
    return _cell(estimate), float(rise) * PLANTED[name]


def _aging_rate(photos: pd.DataFrame, scores: str) -> Line:
    """Time zero is the last photo: before it nobody can know the rate."""
    truth, name = PLANTED["rate"], f"log hazard: {NAMES['rate']}, from two photos"
    rates = pq.read_table(store.join(scores, RATES)).to_pandas()
    rates = rates[rates["face_aging_rate"].notna()]
    last = photos.sort_values("taken_on", kind="stable").groupby("subject_id").tail(1)
    known = last[last["split"] != "train"].merge(rates, on="subject_id")
    known = known[known["follow_up_days"] > known["entry_days"].fillna(0)]
    if known["event"].sum() < 10:
        return Line(name, truth, None, None)
    true = _cell(_cox(known, _true(known), ("rate",))["rate"])
    cell, expected = _in_its_place(known, "rate", known["face_aging_rate"].to_numpy())
    wrong = "" if true.holds(truth) else "true scores do not hold the truth"
    if not wrong and not cell.holds(expected):
        wrong = "the model's scores do not hold what is expected of them"
    return Line(name, truth, true, cell, expected, wrong=wrong)


def _ranked(first: pd.DataFrame, unseen: pd.DataFrame, control: float) -> list[Line]:
    """C-indices on unseen people. The truth is the true log hazard's, true scores a Cox model's of the four terms."""
    known = unseen[unseen["survival_risk"].notna()]
    columns = _true(known)
    fitted = _cox(first, _true(first), tuple(PLANTED))
    linear = np.sum([columns[name] * fitted[name][0] for name in columns], axis=0)

    def rank(risk: Floats) -> Cell:
        found = concordance(
            known["follow_up_days"].to_numpy(), known["event"].to_numpy(), risk,
            entry=known["entry_days"].fillna(0).to_numpy(),
        )  # fmt: skip
        error = found.standard_error or math.nan
        return Cell(found.value, found.value - USUAL * error, found.value + USUAL * error)

    oracle, true, model = (
        rank(each) for each in (known["log_hazard"].to_numpy(), linear, known["survival_risk"].to_numpy())
    )
    wrong = "" if model.value > RANKED else f"at most {RANKED}: nothing was learned"
    if not wrong and model.low > oracle.high:
        wrong = "better than the truth itself"
    return [
        Line("risk, C-index", oracle.value, true, model, wrong=wrong),
        Line("risk learned from a random start", oracle.value, None, Cell(control)),
    ]
