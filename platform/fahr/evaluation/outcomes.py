"""What happened to people, from a hospital's table, beside the scores of their photos.

found = read_outcomes("deaths.csv", mapping)         # a row a photo (photo_id) or a row a person (subject_id)
photos, joined = found.beside(photos)                # the scores with follow_up_days, event, entry_days, ...

Every rule of a manifest holds for it, and its names, codes, dates and units become a manifest's by a column mapping.
Time runs from the photo. In a row a person it runs from `taken_on`, where the table has that, and each photo then has
its own; without it, all photos of the person are of one day.
"""

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fahr.cohorts import ColumnMapping, iter_manifest, read_mapping
from fahr.cohorts.schema import CANONICAL
from fahr.cohorts.sources import open_source
from fahr.errors import Refused

KEYS = ("photo_id", "subject_id")
_OF_THE_PHOTO = ("uri", "birth_date", "age", "split", "landmarks")  # the scores know these


@dataclass(frozen=True)
class Joined:
    """How ids matched."""

    key: str
    rows: int  # of the table
    unmatched: int  # of them without a scored photo
    replaced: tuple[str, ...]  # columns of the scores that the table's take the place of


@dataclass(frozen=True, eq=False)
class Outcomes:
    place: str
    key: str
    table: pa.Table  # one row a key

    def beside(self, photos: pa.Table) -> tuple[pa.Table, Joined]:
        """Refused: a table that knows none of these photos, and a time of a person whose photos are of several days."""
        keys = photos[self.key].combine_chunks()
        at = pc.index_in(keys, self.table[self.key].combine_chunks())
        used = len(pc.unique(at.drop_null()))
        if not used:
            raise Refused(
                f"{self.place}: none of its {self.table.num_rows:,} values of {self.key} (the first: "
                f"{self.table[self.key][0].as_py()!r}) is one of the scores (the first: {keys[0].as_py()!r}). Name the "
                f"right column in --mapping, as `columns: {{{self.key}: NAME}}`, or write the ids alike."
            )
        made = self.table.drop_columns(self.key).take(at)
        if self.key == "subject_id":
            if "taken_on" in made.column_names:
                made = _moved(photos, made)
            else:
                self._refuse_several_days(photos, made)
        made = made.drop_columns([name for name in made.column_names if name == "taken_on"])
        replaced = tuple(name for name in made.column_names if _told(photos, name))
        for name in made.column_names:
            if name in photos.column_names:
                photos = photos.set_column(photos.column_names.index(name), name, made[name])
            else:
                photos = photos.append_column(name, made[name])
        return photos, Joined(self.key, self.table.num_rows, self.table.num_rows - used, replaced)

    def _refuse_several_days(self, photos: pa.Table, made: pa.Table) -> None:
        known = made["follow_up_days"].is_valid().to_numpy(zero_copy_only=False)
        days = photos["taken_on"].cast(pa.int32()).fill_null(-1).to_numpy()[known]
        person = photos["subject_id"].combine_chunks().dictionary_encode().indices.to_numpy()[known]
        pairs = np.unique(np.column_stack([person, days]), axis=0)
        several = np.unique(pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]])
        if len(several):
            name = photos["subject_id"].filter(pa.array(known))[int(np.flatnonzero(person == several[0])[0])].as_py()
            raise Refused(
                f"{self.place}: has a row a person, and {len(several):,} people (the first: {name}) have photos of "
                "several days, so from which of them follow_up_days runs nobody can tell. Give taken_on beside it, the "
                "day from which it runs, or a row a photo with photo_id."
            )


def _moved(photos: pa.Table, made: pa.Table) -> pa.Table:
    """Times of each photo, from those of the day that the table says. Who was last seen alive before a photo has none
    from then on, 0; who died before it is refused. Before the table's day nobody could be seen to die: a photo older
    than that has its person at risk from that day on."""
    begun, taken = (each["taken_on"].cast(pa.int32()).to_numpy().astype(np.float64) for each in (made, photos))
    later = taken - begun
    time, event = (made[name].to_numpy().astype(np.float64) for name in ("follow_up_days", "event"))
    wrong = np.flatnonzero((event == 1) & (later > time))
    if len(wrong):
        more = f", and {len(wrong) - 1:,} more were" if len(wrong) > 1 else ""
        raise Refused(
            f"follow_up_days: by them photo {photos['photo_id'][int(wrong[0])].as_py()} was taken after that person's "
            f"death{more}. Correct the dates."
        )
    if "entry_days" not in made.column_names and (later < 0).any():
        made = made.append_column("entry_days", pa.array(np.zeros(made.num_rows)))
    for name in ("follow_up_days", "entry_days"):
        if name in made.column_names:
            values = np.maximum(made[name].to_numpy().astype(np.float64) - later, 0.0)
            column = pa.chunked_array([pa.array(values, pa.float64(), from_pandas=True)])
            made = made.set_column(made.column_names.index(name), name, column)
    return made


def _told(photos: pa.Table, name: str) -> bool:
    return name in photos.column_names and photos[name].null_count < photos.num_rows


def read_outcomes(place: str | os.PathLike[str], mapping: ColumnMapping | str | None = None) -> Outcomes:
    """CSV, Parquet or a folder of Parquet; refused whole where a rule of a manifest is broken."""
    names_of = read_mapping(mapping) if isinstance(mapping, str) else mapping or ColumnMapping()
    there = open_source(place, names_of).names
    of = {name: names_of.columns.get(name, name) for name in (*KEYS, "event", "follow_up_days")}
    key = next((name for name in KEYS if of[name] in there), None)
    if key is None:
        raise Refused(
            f"{place}: has neither photo_id nor subject_id, by which its rows go with the scores. Name the column in "
            f"--mapping, as `columns: {{subject_id: NAME}}`. It has {', '.join(there)}."
        )
    missing = [name for name in ("event", "follow_up_days") if of[name] not in there]
    if missing:
        raise Refused(
            f"{place}: has no column {' and no '.join(missing)}. Add it, or name it in --mapping as "
            f"`columns: {{event: NAME}}`. It has {', '.join(there)}."
        )
    # the key stands in for the two columns of a manifest that only photos have, so that every rule is checked
    keyed = {**names_of.columns, "photo_id": of[key], "uri": of[key]}
    table = pa.concat_tables(iter_manifest(place, names_of.model_copy(update={"columns": keyed})))
    table = table.set_column(table.column_names.index(key), key, table["photo_id"])  # read as that, so there once
    given = [name for name in CANONICAL.names if names_of.columns.get(name, name) in there]
    dropped = {*_OF_THE_PHOTO, *(each for each in KEYS if each != key)}
    kept = [
        name
        for name in table.column_names
        if name not in dropped and (name not in CANONICAL.names or name in given or name == key)
    ]
    return Outcomes(str(place), key, table.select(kept))
