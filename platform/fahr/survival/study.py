"""A table of people, read for one endpoint: who was watched, what happened, and the columns a model is made of.

study = read_study(table, Endpoint(time="follow_up_days", event="event"), ["age", "sex"], strata="site")
study.people.time, study.columns["age"], study.cases.line()

A table is anything that has columns by name: a dict of arrays, a pandas DataFrame, a pyarrow Table. Whoever lacks one
of the columns that are used is left out, and counted. m = rows of the table, n = rows kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fahr.errors import Refused, nearest
from fahr.survival.competing import of_cause
from fahr.survival.imputation import CompleteCases, complete_cases
from fahr.survival.people import Ints, People, read_groups, read_people

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Endpoint:
    """The names of columns. Any event will do: death, death of one cause, a heart attack."""

    time: str = "follow_up_days"  # from the photo to the event or the last contact
    event: str = "event"  # 1 or 0; with `cause`, what happened, and 0 or nothing if nothing did
    cause: str | None = None  # only this one counts: others are censored, which gives cause-specific hazards
    entry: str | None = "entry_days"  # delayed entry; the usual name may be absent, any other may not
    subject: str | None = "subject_id"  # the same

    def __str__(self) -> str:
        return self.event if self.cause is None else f"{self.event} {self.cause}"


@dataclass(frozen=True, eq=False)
class Study:
    endpoint: Endpoint
    people: People  # the rows kept
    rows: Ints  # (n,) their places in the table
    columns: Columns  # (n,) each
    strata: Ints | None  # (n,)
    cluster: Ints | None  # (n,)
    cases: CompleteCases

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, kept: NDArray[np.bool_]) -> "Study":
        """Of the rows that are `kept` (n,)."""
        people = People(
            self.people.time[kept],
            self.people.event[kept],
            None if self.people.entry is None else self.people.entry[kept],
            self.people.weights[kept],
            self.people.weighted,
            None if self.people.subject is None else self.people.subject[kept],
        )
        strata, cluster = (None if each is None else each[kept] for each in (self.strata, self.cluster))
        columns = {name: values[kept] for name, values in self.columns.items()}
        return Study(self.endpoint, people, self.rows[kept], columns, strata, cluster, self.cases)


def column_names(table: Any) -> list[str]:
    found = getattr(table, "column_names", None)
    return [str(name) for name in (list(table) if found is None else found)]


def read_columns(table: Any, names: Iterable[str]) -> Columns:
    """(m,) each. Refused, all at once: columns that the table does not have, with the nearest ones that it has."""
    wanted, there = list(dict.fromkeys(names)), column_names(table)
    absent = [f"{name!r}.{nearest(name, there)}" for name in wanted if name not in there]
    if absent:
        more = "" if len(there) > 40 else f" It has {', '.join(there)}."
        raise Refused(f"columns: the table lacks {' '.join(absent)}{more}")
    found = {name: _plain(np.asarray(table[name])) for name in wanted}
    sizes = {name: values.shape for name, values in found.items()}
    if len(set(sizes.values())) > 1 or any(len(shape) != 1 for shape in sizes.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
        raise Refused(f"columns: differ in shape ({told}). Each must be (n,), one value a person.")
    return found


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Missing values as nan or None, whatever the library that made them; numbers as numbers."""
    if values.dtype.kind != "O":
        return values
    known = [None if type(each).__name__ in ("NAType", "NaTType") else each for each in values.tolist()]
    if any(each is not None for each in known) and all(
        each is None or (isinstance(each, int | float) and not isinstance(each, bool)) for each in known
    ):
        return np.array([np.nan if each is None else each for each in known], np.float64)
    made = np.empty(len(known), object)
    made[:] = known
    return made


def read_study(
    table: Any,
    endpoint: Endpoint,
    columns: Sequence[str] = (),
    *,
    strata: str | Sequence[str] | None = None,
    cluster: str | None = None,
) -> Study:
    """Refused: wrong values, by their row in the table; a person in several rows, unless `cluster` is given."""
    there = column_names(table)
    entry = _unless_usual(endpoint.entry, "entry_days", there)
    subject = _unless_usual(endpoint.subject, "subject_id", there)
    layers = [strata] if isinstance(strata, str) else list(strata or ())
    needed = [endpoint.time, endpoint.event, *columns, *layers]
    needed += [each for each in (entry, subject, cluster) if each is not None]
    found = read_columns(table, needed)
    if endpoint.cause is not None:
        event = of_cause(found[endpoint.event], endpoint.cause).astype(np.float64)
        gaps = {name: values for name, values in found.items() if name != endpoint.event}
    else:
        event, gaps = found[endpoint.event], found
    cases = complete_cases(gaps)
    people = _read_all(endpoint, {**found, endpoint.event: event}, entry, cases.rows)
    kept = {name: values[cases.rows] for name, values in found.items()}
    if subject is not None and cluster is None:
        _refuse_repeats(kept[subject], cases.rows, subject)
    return Study(
        endpoint=endpoint,
        people=people,
        rows=cases.rows,
        columns={name: kept[name] for name in columns},
        strata=_layers([kept[name] for name in layers]),
        cluster=None if cluster is None else read_groups(cluster, kept[cluster], len(cases.rows)),
        cases=cases,
    )


def _unless_usual(name: str | None, usual: str, there: Sequence[str]) -> str | None:
    return None if name == usual and usual not in there else name


def _read_all(endpoint: Endpoint, found: Mapping[str, NDArray[Any]], entry: str | None, rows: Ints) -> People:
    """Of the rows that are whole; harmless numbers stand in for the others, so that errors name the table's row."""
    whole = np.zeros(len(found[endpoint.time]), bool)
    whole[rows] = True
    if not whole.any():
        raise Refused(f"columns: of {len(whole):,} rows none has them all ({', '.join(found)}). Leave some out.")
    time, event = (np.where(whole, found[name], other) for name, other in ((endpoint.time, 1), (endpoint.event, 0)))
    entries = None if entry is None else np.where(whole, found[entry], 0)
    people, _ = read_people(time, event, entry=entries)
    return People(
        people.time[rows],
        people.event[rows],
        None if people.entry is None else people.entry[rows],
        people.weights[rows],
        False,
        None,
    )


def _refuse_repeats(subject: NDArray[Any], rows: Ints, name: str) -> None:
    numbers = read_groups(name, subject, len(rows))
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(rows)))
    if len(again):
        row = int(again[0])
        other = int(first[inverse][row])
        more = f", and {len(again) - 1:,} more rows are of people seen before" if len(again) > 1 else ""
        raise Refused(
            f"{name}: row {int(rows[row])} is of {subject[row]!s}, and so is row {int(rows[other])}{more}."
            f" Keep one row a person, or give cluster={name!r} if several are meant."
        )


def _layers(columns: Sequence[NDArray[Any]]) -> Ints | None:
    """Numbers of the combinations that there are."""
    if not columns:
        return None
    coded = [read_groups("strata", values, len(values)) for values in columns]
    return np.asarray(np.unique(np.column_stack(coded), axis=0, return_inverse=True)[1].ravel(), np.int64)
