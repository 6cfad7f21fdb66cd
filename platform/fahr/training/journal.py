"""What a run tells about itself: metrics.jsonl, a line for each event, and the same for TensorBoard.

    journal = Journal("runs/mae", state.position, background)
    journal.note("step", {"position": 6400, "loss": 0.71})
    journal.flush()                                             # returns at once

A run that goes on from a state drops what was told after it and tells it again: the file is that of a run which was
never killed. Values that are not finite are written as null, which every JSON reader understands. Both files are kept
in memory, a few megabytes, and written whole: tensorboardX's own writer loses its thread to a full disk, and the next
event then waits for ever.
"""

import functools
import json
import math
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from fahr import store
from fahr.errors import Refused
from fahr.training.background import Background

METRICS, BOARD = "metrics.jsonl", "tensorboard"
_LAST_ROWS_S = 60.0  # that a tracking server may take for the last rows

Track = Callable[[Sequence[Mapping[str, Any]]], None]


class Journal:
    def __init__(
        self, folder: str, position: int, background: Background, digest: str = "", track: Track | None = None
    ) -> None:
        """`position`: where the run stands. `digest`: of the run; a file of another one is refused. `track` gets every
        new row too, in the background."""
        self.location = store.join(folder, METRICS)
        self._background = background
        self.rows = [row for row in read_rows(folder) if row["position"] <= position]
        if self.rows and self.rows[0].get("digest") != digest:
            raise Refused(
                f"{self.location}: is of run {self.rows[0].get('digest')}, not {digest}. Give another output folder."
            )
        if not self.rows:
            self.rows.append({"kind": "begin", "position": 0, "digest": digest})
        self._track, self._tracked = track, len(self.rows)
        self._sender = Background() if track is not None else None  # its own: a server that hangs delays no state
        self._board = store.join(folder, BOARD, f"events.out.tfevents.{time.time_ns()}")
        self._events = bytearray()
        self._add(Event(file_version="brain.Event:2"))
        # What a killed run told after `position` is told again: TensorBoard then forgets the first time.
        self._add(Event(step=position + 1, session_log=SessionLog(status=SessionLog.START)))

    def note(self, kind: str, row: Mapping[str, Any]) -> None:
        """`row` must have its position. Numbers go to TensorBoard too, nested ones under joined names."""
        self.rows.append({"kind": kind, **_plain(row)})
        for name, value in numbers(kind, row):
            self._add(Event(step=row["position"], summary=Summary(value=[Summary.Value(tag=name, simple_value=value)])))

    def picture(self, name: str, pixels: Any, position: int) -> None:
        """(H, W, 3) uint8, for TensorBoard."""
        self._add(Event(step=position, summary=summary.image(name, pixels, dataformats="HWC")))

    def written(self) -> Callable[[], None]:
        """What writes all that was told until now; for a thread that does so later."""
        files = self._files()
        if self._sender is not None and self._track is not None:
            self._sender.put("tracking", functools.partial(self._send, self._track))

        def write() -> None:
            for location, data in files:
                store.write_bytes(location, data)

        return write

    def flush(self) -> None:
        self._background.put("metrics", self.written())

    def _send(self, track: Track) -> None:
        """All rows that were not sent yet: of several such jobs only the last is done."""
        rows = self.rows[self._tracked :]
        self._tracked += len(rows)
        if rows:
            track(rows)

    def close(self) -> None:
        """For the end of a run, after the last `flush` was waited for: all is written when it returns."""
        self.written()()
        if self._sender is not None:
            try:
                self._sender.wait(_LAST_ROWS_S)
            except store.Unavailable:  # a server that hangs costs lines, never the run: its checkpoint is saved after
                lost = f"the last rows were not sent within {_LAST_ROWS_S:.0f} s; {self.location} has all of them"
                print(f"tracking: {lost}", file=sys.stderr)
            finally:
                self._sender.close()

    def _files(self) -> list[tuple[str, bytes]]:
        text = "".join(f"{json.dumps(row)}\n" for row in self.rows)
        return [(self.location, text.encode()), (self._board, bytes(self._events))]

    def _add(self, event: Event) -> None:
        """As a TFRecord: length, its checksum, data, its checksum."""
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._events += length + struct.pack("<I", masked_crc32c(length)) + data
        self._events += struct.pack("<I", masked_crc32c(data))


def read_rows(folder: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where there is no file."""
    location = store.join(folder, METRICS)
    if not store.exists(location):
        return []
    try:
        rows = [json.loads(line) for line in store.read_bytes(location).decode().splitlines()]
        if strange := [row for row in rows if not isinstance(row, dict) or not isinstance(row.get("position"), int)]:
            raise ValueError(f"a line without a position: {str(strange[0])[:80]}")
    except ValueError as error:
        raise Refused(
            f"{location}: is damaged ({error}). Restore it, or delete it: it is told anew from there."
        ) from error
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(prefix: str, row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What can be plotted of a row: name -> value."""
    found = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            found += numbers(f"{prefix}/{name}", value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "position":
            found.append((f"{prefix}/{name}", float(value)))
    return found
