"""Learning risk from faces: whose outcome is known, what is minimised, and what is watched.

    task = Comparison(model, recipe, pair_losses("logistic"), augmentation)
    task = Prediction(model, recipe, hazard_losses(edges), augmentation)
    row = judged(tune.table, scored.values)             # "score": 1 - C, lower is better

A table has subject_id, follow_up_days, event and, where they are known, entry_days and age of each photo; all times are
days. Risks have no unit, higher = worse. N = photos.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, as_tensor, where

from fahr.cohorts.folds import drawn
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused
from fahr.objectives import cox_loss, ranking_loss
from fahr.objectives.hazard import discrete_time_losses, event_edges, first_hazard_biases
from fahr.objectives.ranking import KINDS
from fahr.objectives.weights import Censoring
from fahr.survival import censoring_survival, concordance
from fahr.survival.cox import NoEstimate, fit_cox
from fahr.survival.patients import Patients, read_patients
from fahr.training.tasks import Labels

Floats = NDArray[np.float64]
NEEDED = ("follow_up_days", "event")
ENTRY = "entry_days"
LOSSES = (*KINDS, "cox")


def known_outcome(*, age: bool = False) -> pc.Expression:
    """Photos to learn from or to judge by: followed for some time, to a known end; with `age`, of known age."""
    held = pc.field("event").is_valid() & pc.field("follow_up_days").is_valid() & (pc.field("follow_up_days") != 0)
    return held & pc.field("age").is_valid() if age else held


def label_columns(names: list[str], *, age: bool = False) -> tuple[str, ...]:
    """What a batch must carry, of the columns that are there."""
    return (*NEEDED, "subject_id", *([ENTRY] if ENTRY in names else []), *(["age"] if age else []))


def entries(labels: Mapping[str, Any]) -> Floats | None:
    """(N,) days; who has none is watched from the photo on. None: all are."""
    if ENTRY not in labels:
        return None
    return np.nan_to_num(np.asarray(labels[ENTRY], np.float64))


@dataclass(frozen=True, eq=False)
class Followed:
    """Columns of a table as arrays (N,)."""

    time: Floats
    event: Floats
    entry: Floats | None
    subject: NDArray[np.object_]

    @classmethod
    def of(cls, table: pa.Table, fold: ArrayLike | None = None) -> "Followed":
        """`fold`: (N,) numbers from 0. People of different folds then become no pair, in whatever is made of these
        arrays: each fold has its clock moved beyond the one before it, and its people enter only then."""
        time, event = (np.asarray(table[name].to_numpy(), np.float64) for name in NEEDED)
        entry = entries({ENTRY: table[ENTRY].to_numpy()}) if ENTRY in table.column_names else None
        subject = np.array(table["subject_id"].to_pylist(), object)
        if fold is None:
            return cls(time, event, entry, subject)
        moved = np.asarray(fold, np.float64) * (float(time.max(initial=0.0)) + 1)
        return cls(time + moved, event, moved if entry is None else entry + moved, subject)

    def patients(self) -> Patients:
        return read_patients(self.time, self.event, entry=self.entry, subject=self.subject)


def one_photo(table: pa.Table, seed: int) -> NDArray[np.int64]:
    """Rows: of each person the photo whose draw is the lowest; in the order of the table."""
    subjects = np.array(table["subject_id"].to_pylist(), object)
    draws = np.array([drawn(photo, seed) for photo in table["photo_id"].to_pylist()], np.uint64)
    order = np.argsort(draws, kind="stable")
    return np.sort(order[np.unique(subjects[order].astype(str), return_index=True)[1]])


def strata(table: pa.Table) -> Floats:
    """(N,) what every fold should have as much of: the event, within it decades of age (docs/survival_model.md)."""
    event = np.asarray(table["event"].to_numpy(), np.float64)
    if "age" not in table.column_names:
        return event
    return event * 1000 + np.nan_to_num(np.asarray(table["age"].to_numpy(), np.float64) // 10, nan=99.0)


# What is minimised


@dataclass(frozen=True)
class AgeOffset:
    """What age alone says, added to the score while it learns and never shown."""

    beta: float  # log hazard a year
    mean: float  # years; where the offset is 0

    def of(self, ages: ArrayLike) -> Floats:
        """(N,) years -> (N,) log hazard ratio against somebody of the mean age."""
        return self.beta * (np.asarray(ages, np.float64) - self.mean)


def fit_age_offset(place: str, table: pa.Table) -> AgeOffset:
    """A Cox model of age alone (Efron, delayed entry), one row a person."""
    some = Followed.of(table).patients()
    age = some.median(np.asarray(table["age"].to_numpy(), np.float64))
    try:
        fit = fit_cox(some.time, some.event, {"age": age}, entry=some.entry)
    except NoEstimate as error:
        raise Refused(f"{place}: --age-offset has no Cox model of age to begin with: {error}. Leave it out.") from error
    return AgeOffset(float(fit.coefficients[0]), float(age.mean()))


def censoring_of(table: pa.Table) -> Censoring:
    """The share not yet censored at a time, of people: each counts once, whatever the number of photos."""
    some = Followed.of(table).patients()
    curve = censoring_survival(some.time, some.event, entry=some.entry)
    return lambda times: curve(times)  # a function is remembered, so that its floor is told of once


def pair_losses(
    kind: str,
    *,
    weight: str = "none",
    tau: float = 1.0,
    margin: float = 1.0,
    censoring: Censoring | None = None,
    offset: AgeOffset | None = None,
) -> Callable[[Tensor, Labels], Tensor]:
    """Scores (n,) of a global batch and its labels -> (). `kind`: one of LOSSES; the rest is as `ranking_loss` has it,
    in days. Scores that are not finite give a loss that is not: the step then moves nothing and names them."""

    def loss(scores: Tensor, labels: Labels) -> Tensor:
        if not bool(scores.isfinite().all()):
            return scores.sum() * float("nan")
        if offset is not None:  # in units of the score, of which tau make one of log hazard
            scores = scores + as_tensor(tau * offset.of(labels["age"]), dtype=scores.dtype, device=scores.device)
        time, event = (np.asarray(labels[name], np.float64) for name in NEEDED)
        if kind == "cox":
            return cox_loss(scores, time, event, entry=entries(labels))
        more: dict[str, Any] = {"margin": margin} if "hinge" in kind else {}
        if weight == "ipcw":
            more["censoring"] = censoring
        if weight == "gap":
            more["gap_unit"] = DAYS_PER_YEAR
        return ranking_loss(
            scores, time, event, labels["subject_id"], entry=entries(labels), kind=kind, tau=tau, weight=weight, **more
        )

    return loss


@dataclass(frozen=True, eq=False)
class Intervals:
    """Of a head `hazard`, which has an output for each: where they end, and everybody's hazards, to begin with."""

    edges: Floats  # (K + 1,) days, the first 0
    biases: Tensor  # (K,) logits


def fit_intervals(place: str, table: pa.Table) -> Intervals:
    """As many deaths in each, one row a person (delayed entry). Refused: fewer days of death than intervals."""
    some = Followed.of(table).patients()
    try:
        edges = event_edges(some.time, some.event)
    except Refused as error:
        raise Refused(f"{place}: {error}") from error
    return Intervals(edges, first_hazard_biases(some.time, some.event, edges, entry=some.entry))


def hazard_losses(edges: Floats) -> Callable[[Tensor, Labels], Tensor]:
    """Outputs (n, K) of a head `hazard` and labels -> (n,), one a face; `edges`: K + 1 days. Each face is judged alone,
    so that neither micro-batches nor workers change it. Outputs that are not finite give losses that are not."""

    def losses(outputs: Tensor, labels: Labels) -> Tensor:
        sound = outputs.isfinite().all(1)
        time, event = (np.asarray(labels[name], np.float64) for name in NEEDED)
        known = where(sound[:, None], outputs, 0.0)
        return where(sound, discrete_time_losses(known, time, event, edges, entry=entries(labels)), float("nan"))

    return losses


# What is watched


def judged(table: pa.Table, values: Floats, offset: AgeOffset | None = None) -> dict[str, Any]:
    """A row with `score` = 1 - C, lower is better; None where nobody can be compared. N = photos, `values` raw risks.

    With an age offset the score is judged with it, as it learns: alone it need not rank anybody well.
    """
    table, values = readable(table, values)
    some = Followed.of(table).patients()
    plain = concordance(some.time, some.event, some.median(values), entry=some.entry)
    told = {"c_index": number(plain.value), "comparable": plain.comparable, "events": int(some.event.sum())}
    chosen = plain.value
    if offset is not None:
        both = some.median(values + offset.of(table["age"].to_numpy()))
        chosen = concordance(some.time, some.event, both, entry=some.entry).value
        told["c_index_with_age"] = number(chosen)
    return {"score": number(1 - chosen), **told}


def readable(table: pa.Table, values: Floats) -> tuple[pa.Table, Floats]:
    """Without the faces that did not decode."""
    known = np.isfinite(values)
    return table.filter(pa.array(known)), values[known]


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
