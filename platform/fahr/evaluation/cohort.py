"""The people whose outcome is to be judged: scores of photos, what happened, and why some do not count.

cohort = read_cohort("out/scores", Protocol(), outcomes)
cohort.people["survival_risk"]      # columns (P,), a row a person: the earliest visit, the median of its photos
cohort.rated                        # the same at the last photo, of people with a face aging rate: its time zero
cohort.flow                         # no photo and no person is lost in silence

N = photos, P = people.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fahr import store
from fahr.days import DAYS_PER_YEAR
from fahr.errors import Refused, nearest
from fahr.evaluation.outcomes import Joined, Outcomes
from fahr.evaluation.protocol import Protocol
from fahr.progress import progress
from fahr.scores.columns import SCORE_FIELDS
from fahr.scores.rates import FIELDS as RATE_FIELDS
from fahr.scores.rates import NAME as RATES
from fahr.scores.tables import read_scores
from fahr.survival.patients import Patients, read_patients
from fahr.survival.people import Flags, Ints

Table = dict[str, NDArray[Any]]
# Why a photo does not count, in the order in which it is asked; a person is told by the last that any photo came to.
REASONS = ("other_split", "no_outcome", "no_follow_up", "entered_at_the_end", "no_score")
WORDS = {
    "other_split": "in another split than those judged",
    "no_outcome": "event or follow-up unknown",
    "no_follow_up": "no follow-up after the photo",
    "entered_at_the_end": "came under observation only when follow-up ended",
    "no_score": "neither a face age nor a risk",
}
NUMBERS = ("face_age", "face_age_deviation", "face_age_deviation_adjusted", "survival_risk", "survival_percentile")
_TAKEN = {
    "photo_id": pa.string(), "subject_id": pa.string(), "taken_on": pa.date32(), "split": pa.string(),
    "age": pa.float64(), "follow_up_days": pa.float64(), "event": pa.float64(), "entry_days": pa.float64(),
    **{name: SCORE_FIELDS.field(name).type for name in (*NUMBERS, "age_model_digest", "survival_model_digest")},
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A line of the flow of people and photos."""

    reason: str
    words: str
    photos: int
    people: int


@dataclass(frozen=True, eq=False)
class Cohort:
    place: str
    people: Table  # (P,) at the earliest visit
    rated: Table  # (R,) at the last photo; no rows where there is no rate
    learned: Table  # people of the baseline splits, as `people`
    unrated: Mapping[str, int]  # people of `people` without a rate, by reason
    covariates: tuple[str, ...]  # beside age
    flow: tuple[Step, ...]
    photos: int  # scored
    used: int  # of them that count
    joined: Joined | None
    ledger: store.Ledger  # of the scoring
    digests: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.people["event"])

    def has(self, name: str) -> bool:
        return name in self.people

    def rejects(self) -> dict[str, int]:
        """Photos that do not count, by reason: with `used` they are `photos`."""
        return {step.reason: step.photos for step in self.flow if step.reason in REASONS and step.photos}


def read_cohort(place: str, protocol: Protocol, outcomes: Outcomes | None = None) -> Cohort:
    """`place`: the output of jobs/score.py. Refused: no scores, nobody left, covariates that are not there."""
    location = store.join(place, "ledger.json")
    if not store.exists(location):
        raise Refused(
            f"{place}: has no ledger.json, so no scoring has ended there. Give the --output of jobs/score.py."
        )
    ledger = store.Ledger.read(location)
    asked = tuple(dict.fromkeys((*(protocol.covariates or ("sex",)), *protocol.strata)))
    photos, known = _read(place, asked)
    joined = None
    if outcomes is not None:
        photos, joined = outcomes.beside(photos)
        known |= set(outcomes.table.column_names)
    _refuse_absent(photos, known, asked, protocol)
    asked = tuple(name for name in asked if name in photos.column_names)
    subjects = photos["subject_id"].combine_chunks().dictionary_encode()
    person, names = subjects.indices.to_numpy(), np.array(subjects.dictionary.to_pylist(), object)
    why = _reasons(photos, protocol.splits)
    kept = why == len(REASONS)
    flow = _flow(ledger, person, why)
    if not kept.any():
        raise Refused(_nobody(place, protocol, flow, photos))
    _refuse_two_endings(photos, person, kept, names)
    people, first = _people(photos.filter(pa.array(kept)), asked)
    covariates, notes = _usable(people, protocol, asked)
    others = _reasons(photos, [each for each in protocol.baseline_splits if each not in protocol.splits])
    learned = _people(photos.filter(pa.array(others == len(REASONS))), asked)[0]
    rated, unrated, more = _rated(place, photos.filter(pa.array(kept)), people, asked)
    notes += more
    return Cohort(
        place=place,
        people=people,
        rated=rated,
        learned=learned,
        unrated=unrated,
        covariates=covariates,
        flow=(*flow, Step("later_visit", "photos of later visits", int(kept.sum()) - first, 0),
              Step("judged", "judged", first, len(people["event"]))),
        photos=photos.num_rows,
        used=int(kept.sum()),
        joined=joined,
        ledger=ledger,
        digests=_digests(photos.filter(pa.array(kept)), ledger),
        notes=tuple(notes),
    )  # fmt: skip


def _read(place: str, asked: Sequence[str]) -> tuple[pa.Table, set[str]]:
    """All scores, of each only what is needed; and the names of all columns that there are."""
    known: set[str] = set()

    def narrowed(table: pa.Table) -> pa.Table:
        known.update(table.column_names)
        made = {
            name: table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
            for name, kind in _TAKEN.items()
        }
        if "subject_id" not in table.column_names:
            made["subject_id"] = made["photo_id"]
        return pa.table(made | {name: table[name] for name in asked if name in table.column_names})

    parts = []
    with progress(None, "photos", "evaluate: reading scores") as bar:
        for part in read_scores(place, narrowed):
            parts.append(part)
            bar.update(part.num_rows)
    if not sum(part.num_rows for part in parts):
        raise Refused(f"{place}: holds no scores: every photo was rejected. Look at its rejects/ and ledger.json.")
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks(), known


def _refuse_absent(photos: pa.Table, known: set[str], asked: Sequence[str], protocol: Protocol) -> None:
    usual = () if protocol.covariates is not None else ("sex",)
    absent = [name for name in asked if name not in photos.column_names and name not in usual]
    if absent:
        raise Refused(
            f"--covariates, --strata: neither the scores nor --outcomes have {', '.join(absent)}."
            f"{nearest(absent[0], known)} Put the column into the manifest before scoring, or into --outcomes."
        )


def _reasons(photos: pa.Table, splits: Sequence[str]) -> Ints:
    """(N,) the place in REASONS of why a photo does not count; their number where it does."""
    time, event, entry = (photos[name].to_numpy() for name in ("follow_up_days", "event", "entry_days"))
    late = np.nan_to_num(entry) >= time
    rules = (
        ~np.isin(np.array(photos["split"].to_pylist(), object).astype(str), list(splits)),
        np.isnan(time) | np.isnan(event),
        ~(time > 0),
        late,
        np.isnan(photos["face_age"].to_numpy()) & np.isnan(photos["survival_risk"].to_numpy()),
    )
    found = np.full(photos.num_rows, len(REASONS))
    for place in reversed(range(len(REASONS))):
        found[rules[place]] = place
    return found


def _flow(ledger: store.Ledger, person: Ints, why: Ints) -> tuple[Step, ...]:
    """What was rejected before there was a score, then each reason."""
    last = np.zeros(int(person.max()) + 1, np.int64)
    np.maximum.at(last, person, why)
    photos, people = (np.bincount(each, minlength=len(REASONS) + 1).tolist() for each in (why, last))
    told = [Step("photos", "photos given to scoring", ledger.rows_in, 0)]
    told += [Step(f"rejected_{name}", f"rejected: {name.replace('_', ' ')}", count, 0)
             for name, count in sorted(ledger.rejects.items())]  # fmt: skip
    told.append(Step("scored", "scored", len(why), len(last)))
    return (*told, *(Step(name, WORDS[name], photos[at], people[at]) for at, name in enumerate(REASONS)))


def _nobody(place: str, protocol: Protocol, flow: Sequence[Step], photos: pa.Table) -> str:
    told = ", ".join(f"{step.words}: {step.photos:,}" for step in flow if step.reason in REASONS and step.photos)
    splits = Counter(photos["split"].to_pylist())
    there = ", ".join(f"{name} {count:,}" for name, count in splits.most_common())
    return (
        f"{place}: of {photos.num_rows:,} photos none has an outcome that can be judged ({told}; splits: {there}). "
        f"Give --outcomes, or other --splits than {' '.join(protocol.splits)}: all four for a cohort that no model has "
        "learned from."
    )


def _refuse_two_endings(photos: pa.Table, person: Ints, kept: Flags, names: NDArray[Any]) -> None:
    """The same event is that of all photos of a person."""
    event = photos["event"].to_numpy()[kept].astype(np.int64)
    sums, all_of = np.bincount(person[kept], event), np.bincount(person[kept])
    wrong = np.flatnonzero((sums > 0) & (sums < all_of))
    if len(wrong):
        more = f", as {len(wrong) - 1:,} more people" if len(wrong) > 1 else ""
        raise Refused(
            f"event: {names[wrong[0]]} has it by some photos and not by others{more}. How "
            "follow-up ended is the same for all photos of a person: correct the outcomes."
        )


def _people(photos: pa.Table, asked: Sequence[str]) -> tuple[Table, int]:
    """A row a person, and how many photos it is made of."""
    if not photos.num_rows:
        return {"event": np.zeros(0)}, 0
    subject = photos["subject_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    time, event, entry = (photos[name].to_numpy() for name in ("follow_up_days", "event", "entry_days"))
    some = read_patients(time, event, entry=np.nan_to_num(entry), subject=subject)
    return _columns(some, photos, asked), len(some.row)


def _columns(some: Patients, photos: pa.Table, asked: Sequence[str]) -> Table:
    """(P,) each; a number that is unknown of everybody is no column."""
    made: Table = {
        "subject_id": np.array(photos["subject_id"].take(pa.array(some.first)).to_pylist(), object),
        "taken_on": photos["taken_on"].take(pa.array(some.first)).to_numpy().astype("datetime64[D]"),
        "follow_up_days": some.time,
        "event": some.event.astype(np.float64),
    }
    if some.entry is not None and some.entry.any():
        made["entry_days"] = some.entry
    for name in ("age", *NUMBERS):
        values = some.median(photos[name].to_numpy())
        if not np.isnan(values).all():
            made[name] = values
    for name in asked:
        made[name] = _covariate(some, name, photos[name])
    return made


def _covariate(some: Patients, name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers by the median of the visit; of words those of the first photo, None where unknown."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return some.median(column.cast(pa.float64()).to_numpy())
    words = np.empty(len(some), object)
    words[:] = some.words(name, np.array(column.cast(pa.string()).to_pylist(), object))
    return words


def _usable(people: Table, protocol: Protocol, asked: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """What is adjusted for. Asked for by name: all of it, or refused. By default: sex where it tells people apart."""
    if "age" not in people:
        raise Refused(
            "age: unknown of everybody. Age is what a face tells first, so nothing is judged without it: put age, or "
            "taken_on and birth_date, into the manifest before scoring."
        )
    if protocol.covariates is not None:
        empty = [name for name in asked if _unknown(people[name]).all()]
        if empty:
            raise Refused(f"--covariates, --strata: {', '.join(empty)} is unknown of everybody. Leave it out.")
        return tuple(protocol.covariates), []
    if "sex" in protocol.strata:
        return (), ["sex has a baseline hazard of its own for each value, so it is no covariate"]
    if "sex" not in people or _unknown(people["sex"]).all():
        return (), ["sex is unknown of everybody, so nothing is adjusted for it"]
    if len({word for word in people["sex"].tolist() if word is not None}) < 2:
        return (), ["sex is the same for everybody, so nothing is adjusted for it"]
    return ("sex",), []


def _unknown(values: NDArray[Any]) -> Flags:
    return np.array([each is None or each != each for each in values.tolist()], bool)


def _rated(
    place: str, photos: pa.Table, people: Table, asked: Sequence[str]
) -> tuple[Table, dict[str, int], list[str]]:
    """People with a face aging rate, at their last photo; how many have none, by reason."""
    nobody: Table = {"event": np.zeros(0)}
    location = store.join(place, RATES)
    if not store.exists(location):
        return nobody, {}, ["there are no aging rates (aging_rates.parquet): no age model scored these photos"]
    rates = pa.concat_tables([RATE_FIELDS.empty_table(), *store.read_parquet(location)]).combine_chunks()
    mine = pc.is_in(rates["subject_id"], value_set=pa.array(people["subject_id"].tolist(), pa.string()))
    rates = rates.filter(mine)
    reasons = Counter(each for each in rates["reason"].to_pylist() if each is not None)
    reasons["one_dated_photo"] = len(people["event"]) - rates.num_rows
    rates = rates.filter(pc.is_null(rates["reason"]))
    at = pc.index_in(photos["subject_id"], value_set=rates["subject_id"].combine_chunks())
    last = rates["last_taken_on"].take(at)
    photos = photos.filter(pc.fill_null(pc.equal(photos["taken_on"], last), False))
    made, _ = _people(photos, asked)
    if not len(made["event"]):
        reasons["no_follow_up_after_the_last_photo"] = rates.num_rows
        return nobody, _counted(reasons), []
    row = pc.index_in(pa.array(made["subject_id"].tolist(), pa.string()), rates["subject_id"].combine_chunks())
    found = rates.take(row)
    reasons["no_follow_up_after_the_last_photo"] = rates.num_rows - found.num_rows
    for name in ("first_taken_on", "last_taken_on"):
        made[name] = found[name].to_numpy().astype("datetime64[D]")
    for name in ("face_aging_rate", "shrunken_rate", "standard_error"):
        made[name] = found[name].to_numpy().astype(np.float64)
    made["interval_years"] = found["interval_days"].to_numpy() / DAYS_PER_YEAR
    made["band"] = np.array(found["band"].to_pylist(), object)
    made["high_rate"] = np.where(found["high"].to_numpy(zero_copy_only=False).astype(bool), "high", "not high")
    return made, _counted(reasons), []


def _counted(reasons: "Counter[str]") -> dict[str, int]:
    return {name: count for name, count in sorted(reasons.items()) if count}


def _digests(photos: pa.Table, ledger: store.Ledger) -> dict[str, str]:
    """What the scores were made of. Refused: several models in one table."""
    told: dict[str, str] = {}
    for name in ("age_model_digest", "survival_model_digest"):
        found = [each for each in photos[name].unique().to_pylist() if each is not None]
        if len(found) > 1:
            raise Refused(
                f"{name}: these scores are of {len(found)} models ({', '.join(found)}), whose numbers are not alike. "
                "Score all photos with one."
            )
        if found:
            told[name] = found[0]
    told["photos"] = str(ledger.more.get("data_digest", ""))
    told["scoring"] = f"options {ledger.config_digest}, code {ledger.code_version}"
    return {name: each for name, each in told.items() if each}
