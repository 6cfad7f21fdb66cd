"""How fast the faces of a cohort age: aging_rates.parquet, a row a person with two or more dated photos.

Made anew at the end of every run, from the scores and from the rejects: a photo that comes later moves the rate of a
person whose other photos are long committed, and a photo that was rejected is the reason why somebody has none.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fahr import store
from fahr.biomarkers import BANDS, AgingRates, aging_rates
from fahr.biomarkers.aging_rate_prior import Prior
from fahr.models import CheckpointConfig
from fahr.scores.people import PART_ROWS, Source, shares

NAME = "aging_rates.parquet"
FIELDS = pa.schema(
    [
        ("subject_id", pa.string()),
        ("first_taken_on", pa.date32()),
        ("last_taken_on", pa.date32()),  # time zero of any follow-up
        ("interval_days", pa.int32()),
        ("band", pa.string()),  # short, mid, long
        ("face_aging_rate", pa.float64()),  # years a year
        ("standard_error", pa.float64()),
        ("shrunken_rate", pa.float64()),
        ("high", pa.bool_()),  # above the cutoff of the band
        ("reason", pa.string()),  # why there is no rate; null: there is one
    ]
)
_READ = {
    "photo_id": pa.string(), "subject_id": pa.string(), "taken_on": pa.date32(), "age": pa.float64(),
    "face_age": pa.float64(), "age_model_digest": pa.string(), "source_sha256": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class RatesWritten:
    """How many people have a rate, and why the others have none."""

    people: int
    rates: int
    reasons: dict[str, int]
    notes: tuple[str, ...]  # what the user should know

    def lines(self) -> list[str]:
        counted = [f"rate {self.rates:,}", *(f"{name} {count:,}" for name, count in sorted(self.reasons.items()))]
        told = f"{NAME} holds {self.people:,} people with two or more dated photos = {' + '.join(counted)}"
        return [told, *self.notes]


def write_aging_rates(
    folder: str, rows: int, config: CheckpointConfig, *, aligned: str | None = None, part_rows: int = PART_ROWS
) -> RatesWritten:
    """Of the `rows` scores and rejects under `folder`. `config`: of the age model. `aligned`: the folder that the faces
    came from, whose rejects are photos of these people as well."""
    sources = [Source(folder, "scores"), Source(folder, "rejects")]
    if aligned is not None:
        sources.append(Source(aligned, "rejects"))
        rows += sources[-1].rows()
    reasons: Counter[str | None] = Counter()
    with store.atomic_writer(store.join(folder, NAME)) as file:
        tables = (_rates(photos, config) for photos in shares(sources, _READ, rows, part_rows=part_rows, lean=_lean))
        people = store.write_parquet(file, _counted(tables, reasons), FIELDS)
    rates = reasons.pop(None, 0)
    told = {str(reason): count for reason, count in reasons.items()}
    return RatesWritten(people, rates, told, _notes(config) if rates else ())


def _counted(tables: Iterator[pa.Table], reasons: "Counter[str | None]") -> Iterator[pa.Table]:
    for table in tables:
        reasons.update(table["reason"].to_pylist())
        yield table


def _lean(photos: pa.Table) -> pa.Table:
    """What has no day has no part in a rate. Of digests, the last 64 bits tell apart what one person has."""
    photos = photos.filter(pc.is_valid(photos["taken_on"])).drop_columns("photo_id")
    for number, name in ((photos.column_names.index(each), each) for each in ("age_model_digest", "source_sha256")):
        photos = photos.set_column(number, name, pc.utf8_slice_codeunits(photos[name], -16, None))
    return photos


def _rates(photos: pa.Table, config: CheckpointConfig) -> pa.Table:
    """By subject_id."""
    face_age = photos["face_age"].to_numpy(zero_copy_only=False)
    subjects = photos["subject_id"].combine_chunks()
    sd = config.repeatability_sd_years
    prior: Prior = {str(band): usual for band, usual in (config.aging_rate_prior or {}).items()}
    found = aging_rates(
        face_age,
        photos["taken_on"].to_numpy(zero_copy_only=False),
        subjects.dictionary_encode().indices.to_numpy(),
        age=photos["age"].to_numpy(zero_copy_only=False),
        model=photos["age_model_digest"],
        source=photos["source_sha256"],
        repeatability_sd=None if sd is None else sd.value,
        prior=None if sd is None else prior,
    )
    return pa.table(_columns(found, subjects)).cast(FIELDS).sort_by("subject_id")


def _columns(found: AgingRates, subjects: pa.Array) -> dict[str, Any]:
    columns: dict[str, Any] = {"subject_id": subjects.take(pa.array(found.first))}
    for field in list(FIELDS)[1:]:
        columns[field.name] = pa.array(getattr(found, field.name), from_pandas=True)
    return columns


def _notes(config: CheckpointConfig) -> tuple[str, ...]:
    if config.repeatability_sd_years is None:
        return (
            "the age model holds no repeatability_sd_years, so standard_error and shrunken_rate are null: nobody can "
            "tell how much of a rate is chance",
        )
    without = [band.name for band in BANDS if band.name not in (config.aging_rate_prior or {})]
    if not without:
        return ()
    return (f"the age model holds no aging_rate_prior of band {', '.join(without)}, so shrunken_rate is null there",)
