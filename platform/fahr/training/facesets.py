"""The faces that jobs/align.py made, as rows to train on: labels in a table, pixels on demand.

    faces = open_faces("out/align", ["age"], where=pc.field("split") == "train", cache="out/run/cache")
    faces.pixels(np.array([0, 5]))      # (2, 112, 112, 3) uint8 RGB

Only units with their marker count. Their shards are read once, local or s3://, each checked against its marker's
digest, into one uncompressed Arrow file on the local disk, which is memory-mapped: what is resident is what is being
read. The file is named by the digest of the data, so another run, or another process on the machine, finds it there.
B = rows asked for, S = side in pixels.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from fahr import store
from fahr.errors import Refused, nearest
from fahr.faces.rows import decode
from fahr.training.cache import Cached, cached
from fahr.training.packed import Packed, Pixels
from fahr.training.sampling import Ints

_ALWAYS = ("photo_id", "subject_id", "split")
_NEEDED = (*_ALWAYS, "face", "convention", "detector")
_READERS = 16


class BadFace(Exception):
    """A face that does not decode. `row` is the face set's."""

    def __init__(self, row: int, photo_id: str, why: str) -> None:
        super().__init__(row, photo_id, why)
        self.row, self.photo_id, self.why = row, photo_id, why

    def __str__(self) -> str:
        return f"photo {self.photo_id!r} (row {self.row:,}): {self.why}"


def open_faces(
    folder: str,
    columns: Sequence[str] = (),
    where: pc.Expression | None = None,
    *,
    cache: str,
    optional: Sequence[str] = (),
    packed: bool = False,
) -> "FaceSet":
    """The faces under `folder`, the output of jobs/align.py: those for which `where` holds, in the order of the units.

    `columns`: what comes as labels; `optional` ones come where they are there. `cache`: a local folder; it takes about
    the bytes of the shards, and with `packed` 3 S^2 bytes a face beside them. Refused: no face, sizes or conventions
    mixed, columns that units disagree about.
    """
    units = _with_faces(folder)
    rows = sum(unit.files["faces"]["rows"] for unit in units if "faces" in unit.files)
    digest = _digest(units)
    size = sum(unit.files["faces"]["bytes"] for unit in units if "faces" in unit.files)
    made = cached(cache, f"faces-{digest}.arrow", size, lambda file: _copy(file, folder, units, rows))
    return FaceSet(folder, made, digest, columns, where, packed, optional)


def _with_faces(folder: str) -> list[store.Unit]:
    units = store.committed(folder)
    if not any(unit.files["faces"]["rows"] for unit in units if "faces" in unit.files):
        hint = f", or name {store.parent(folder)}" if store.name(folder) == "faces" else ""
        raise Refused(
            f"{folder}: holds no face ({len(units):,} finished units). Name the output of jobs/align.py{hint}; if it "
            "is that, its ledger.json says why every photo was rejected."
        )
    return units


def data_digest(folder: str) -> str:
    """Of the faces under `folder`, from their markers alone. Refused: no face."""
    return _digest(_with_faces(folder))


def _digest(units: Sequence[store.Unit]) -> str:
    """Of what the units hold, as their markers tell it: sixteen hexadecimal digits."""
    told = [[unit.name, unit.files["faces"]["sha256"]] for unit in units if "faces" in unit.files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


# The local copy


def _copy(file: IO[bytes], folder: str, units: Sequence[store.Unit], rows: int) -> dict[str, Any]:
    """All columns of all faces as one Arrow file. Returns what is true of all of them."""
    schema = _schema(folder, units)
    conventions: dict[str, str] = {}  # value -> a photo that has it
    sizes: dict[str, str] = {}
    detectors: set[str] = set()
    written = 0
    with pa.ipc.new_file(file, schema) as writer:
        for table in store.read_units(folder, "faces"):
            if not table.num_rows:
                continue
            table = pa.concat_tables([schema.empty_table(), table], promote_options="default")
            table = table.select(schema.names).cast(schema)
            writer.write_table(table)
            written += table.num_rows
            detectors.update(table["detector"].unique().to_pylist())
            first = table["photo_id"][0].as_py()
            for each in table["convention"].unique().to_pylist():
                conventions.setdefault(str(each), first)
            sizes = _sizes(table) | sizes
    if written != rows:
        raise Refused(f"{folder}: {written:,} faces came, {rows:,} were counted: is it being written to? Try again.")
    convention = _only(folder, "conventions", conventions)
    if not sizes:
        raise Refused(f"{folder}: none of its {rows:,} faces decodes. Align these photos anew.")
    side = int(_only(folder, "sizes (side in pixels)", sizes))
    return {"convention": convention, "size": side, "detectors": sorted(detectors)}


def _schema(folder: str, units: Sequence[store.Unit]) -> pa.Schema:
    """All columns of all units: one that is null or missing in some has the type that it has in the others."""
    places = [store.join(folder, "faces", unit.files["faces"]["name"]) for unit in units if "faces" in unit.files]
    with ThreadPoolExecutor(_READERS) as pool:
        found = {schema.to_string(): schema for schema in pool.map(_read_schema, places)}
    try:
        schema = pa.unify_schemas(list(found.values()), promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Refused(
            f"{folder}: its units disagree about a column ({str(error).splitlines()[0]}). Align all photos in one run."
        ) from error
    missing = [name for name in _NEEDED if name not in schema.names]
    if missing:
        raise Refused(f"{folder}: its faces have no column {', '.join(missing)}. Make them by jobs/align.py.")
    return schema


def _read_schema(location: str) -> pa.Schema:
    with store.open_input(location) as file:
        return pq.read_schema(file).remove_metadata()


def _sizes(table: pa.Table) -> dict[str, str]:
    """The side of the first face that decodes -> its photo. All would take minutes; `pixels` checks each."""
    for photo, data in zip(table["photo_id"].to_pylist(), table["face"], strict=True):
        pixels, _ = decode(np.frombuffer(data.as_buffer() or b"", np.uint8))
        if pixels is not None:
            return {str(pixels.shape[0]): photo}
    return {}


def _only(folder: str, what: str, found: dict[str, str]) -> str:
    if len(found) > 1:
        told = ", ".join(f"{value} (photo {photo!r})" for value, photo in sorted(found.items()))
        raise Refused(f"{folder}: its faces have several {what}: {told}. Align all photos with the same settings.")
    return next(iter(found))


# The faces


class FaceSet:
    """Rows 0 to `num_rows` - 1. Threads may share it."""

    def __init__(
        self,
        folder: str,
        copy: Cached,
        digest: str,
        columns: Sequence[str],
        where: pc.Expression | None,
        packed: bool,
        optional: Sequence[str] = (),
    ) -> None:
        """Made by `open_faces`."""
        table = pa.ipc.open_file(pa.memory_map(copy.path)).read_all()
        columns = [*columns, *(name for name in optional if name in table.column_names and name not in columns)]
        mask = _mask(folder, table, where)
        self._kept = None if mask is None else np.flatnonzero(mask)  # rows of the copy
        self.num_rows: int = table.num_rows if self._kept is None else len(self._kept)
        self.size: int = copy.facts["size"]  # side in pixels
        self.convention: str = copy.facts["convention"]
        self.detectors: tuple[str, ...] = tuple(copy.facts["detectors"])
        self.digest = digest  # of the data, and of which rows of it were asked for
        if mask is not None:
            self.digest = hashlib.sha256(digest.encode() + np.packbits(mask).tobytes()).hexdigest()[:16]
        self.table = _labels(folder, table, columns, mask)  # photo_id, subject_id, split and the columns asked for
        self._columns = {name: _column(folder, name, self.table[name]) for name in columns}
        self._faces = _Bytes(table["face"])
        self._packed = None
        if packed:
            self._packed = Packed(
                store.parent(copy.path), f"faces-{digest}", table.num_rows, self.size, self._decode_into
            )

    def encoded(self, rows: ArrayLike) -> list[bytes]:
        """The faces of `rows` as they were written: JPEG or PNG."""
        return [data.tobytes() for data in self._faces.of(self._in_copy(rows))]

    def pixels(self, rows: ArrayLike, out: Pixels | None = None) -> Pixels:
        """(B,) -> (B, S, S, 3) uint8 RGB, written to `out` if it is given. Raises `BadFace` for the first bad one."""
        there = self._in_copy(rows)
        out = np.empty((len(there), self.size, self.size, 3), np.uint8) if out is None else out
        if self._packed is None:
            for number, data in enumerate(self._faces.of(there)):
                why = self._fill(data, out[number])
                if why:
                    raise self._bad(np.asarray(rows)[number], why)
            return out
        for number, row in enumerate(there.tolist()) if self._packed.bad else ():
            if row in self._packed.bad:
                raise self._bad(np.asarray(rows)[number], self._packed.bad[row])
        return np.take(self._packed.faces, there, axis=0, out=out, mode="clip")  # "raise" would copy once more

    def labels(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """The columns asked for, (B,) each: numbers (NaN where there is none), dates, or text (None)."""
        picked = np.asarray(rows, np.int64)
        return {
            name: values[picked if codes is None else codes[picked]] for name, (values, codes) in self._columns.items()
        }

    def _in_copy(self, rows: ArrayLike) -> Ints:
        asked = np.asarray(rows, np.int64).reshape(-1)
        if len(asked) and (asked.min() < 0 or asked.max() >= self.num_rows):
            raise IndexError(f"rows {asked.min():,} to {asked.max():,} of a set of {self.num_rows:,} faces")
        return asked if self._kept is None else self._kept[asked]

    def _bad(self, row: Any, why: str) -> BadFace:
        return BadFace(int(row), self.table["photo_id"][int(row)].as_py(), why)

    def _decode_into(self, row: int, out: Pixels) -> str:
        return self._fill(next(self._faces.of(np.array([row]))), out)

    def _fill(self, data: NDArray[np.uint8], out: Pixels) -> str:
        pixels, why = decode(data)
        if pixels is None:
            return why
        if pixels.shape != out.shape:
            return f"it has {pixels.shape[1]} x {pixels.shape[0]} pixels, the others {self.size} x {self.size}."
        out[:] = pixels
        return ""


class _Bytes:
    """A binary column by row, nothing copied: each chunk's offsets and bytes, as they lie in the mapped file."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
        self._chunks = [_buffers(chunk) for chunk in column.chunks]

    def of(self, rows: Ints) -> Iterator[NDArray[np.uint8]]:
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        for at, chunk in zip((rows - self._starts[chunks]).tolist(), chunks.tolist(), strict=True):
            offsets, data = self._chunks[chunk]
            yield data[offsets[at] : offsets[at + 1]]


def _buffers(chunk: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    _, offsets, data = chunk.buffers()
    places = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return places, np.frombuffer(data or b"", np.uint8)


# Labels


def _mask(folder: str, table: pa.Table, where: pc.Expression | None) -> NDArray[np.bool_] | None:
    """(N,) the rows for which `where` holds. Reads only the columns that it names."""
    if where is None:
        return None
    try:
        found = ds.dataset(table).to_table(columns={"holds": where})["holds"].combine_chunks()
        mask: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy(zero_copy_only=False).astype(bool)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(
            f"{folder}: cannot choose faces by {where} ({str(error).splitlines()[0]}). Columns: {_names(table)}."
        ) from error
    if not mask.any():
        raise Refused(f"{folder}: of {table.num_rows:,} faces, none where {where}. Loosen the condition.")
    return mask


def _labels(folder: str, table: pa.Table, columns: Sequence[str], mask: NDArray[np.bool_] | None) -> pa.Table:
    for name in columns:
        if name not in table.column_names or name == "face":
            close = nearest(name, table.column_names)
            raise Refused(f"{folder}: no column {name!r} to learn from.{close} Columns: {_names(table)}.")
    chosen = table.select(list(dict.fromkeys([*_ALWAYS, *columns])))
    return chosen if mask is None else chosen.filter(pa.array(mask))


def _names(table: pa.Table) -> str:
    return ", ".join(name for name in table.column_names if name != "face")


def _column(folder: str, name: str, column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int32] | None]:
    """Values by row; of text, the different ones and which of them each row has, 4 bytes a row."""
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise Refused(f"{folder}: column {name!r} holds {kind}; labels are numbers, truth values, dates or text.")
    if not pa.types.is_string(kind):
        return column.to_numpy(), None
    encoded = column.dictionary_encode().unify_dictionaries()
    words = encoded.chunk(0).dictionary.to_pylist()
    codes = pa.chunked_array([chunk.indices for chunk in encoded.chunks], pa.int32())
    return np.array([*words, None], object), pc.fill_null(codes, -1).to_numpy().astype(np.int32)
