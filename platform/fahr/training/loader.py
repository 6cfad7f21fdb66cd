"""Batches of faces from any position on, decoded ahead by threads.

    order = Order(faces.num_rows, seed)
    with Loader(faces, order, global_batch=4096, rank=rank, world=world, start=position) as batches:
        for batch in batches:      # without end: the recipe says when enough samples were seen
            ...

What a batch holds follows from (data, seed, position): not from `threads`, `ahead`, restarts or the number of workers,
each of which takes its slice of the same global batch. Decoding releases Python's lock, so threads do: a batch is
written once, in place, and never crosses a process.
"""

import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fahr.errors import Refused
from fahr.training.facesets import BadFace, FaceSet
from fahr.training.sampling import Ints, Order, split

_TRIES = 1000  # positions looked at for a face that decodes; among 1 % of bad ones the second is nearly always enough


@dataclass(frozen=True, eq=False)
class Batch:
    """A rank's part of a global batch. b = global batch / world, S = side in pixels."""

    images: Tensor  # (b, S, S, 3) uint8 RGB
    rows: Ints  # (b,) of the face set
    positions: Tensor  # (b,) long, on the device of the images: the key of every random number about the sample
    labels: dict[str, NDArray[Any]]  # (b,) of each column that the face set was opened with


Piece = tuple[Ints, dict[int, str]]  # rows, and those that were passed over with the reason


class Loader:
    """An endless iterator of `Batch`. `position` is where the next batch starts: store it to go on from there."""

    def __init__(
        self,
        faces: FaceSet,
        order: Order,
        *,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        threads: int = 2,
        ahead: int = 2,
        device: torch.device | str = "cpu",
        bad_limit: float = 0.01,
    ) -> None:
        """`ahead`: batches decoded before they are asked for. `bad_limit`: share of faces that may fail to decode."""
        if order.num_rows != faces.num_rows:
            raise Refused(f"an order of {order.num_rows:,} rows for {faces.num_rows:,} faces: make it for these faces.")
        if not 1 <= global_batch <= faces.num_rows:
            raise Refused(
                f"a global batch of {global_batch:,} from {faces.num_rows:,} faces: it must be from 1 to their number. "
                "Give a smaller one, or align more faces."
            )
        if start < 0 or threads < 1 or ahead < 0 or not 0 <= bad_limit < 1:
            raise Refused(
                f"start {start}, threads {threads}, ahead {ahead}, bad_limit {bad_limit}: at least 0, 1 and 0, and a "
                "share from 0 to below 1."
            )
        split(np.arange(global_batch), rank, world)  # refused now rather than at the first batch
        self.faces, self.order, self.position = faces, order, start
        self.global_batch, self.rank, self.world = global_batch, rank, world
        self.skipped: dict[int, str] = {}  # row -> why it does not decode
        self.waited = 0.0  # seconds that the consumer waited for faces
        self._allowed = min(math.ceil(bad_limit * faces.num_rows), faces.num_rows - 1)
        self._threads, self._ahead, self._device = threads, ahead, torch.device(device)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="faces")
        self._waiting: deque[tuple[Tensor, list[Future[Piece]]]] = deque()
        self._asked = start
        self._began: float | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The batch at `position`, or the reason why the data cannot be trusted; then the loader is closed."""
        now = time.perf_counter()
        self._began = now if self._began is None else self._began
        try:
            self._ask(1)
            images, pieces = self._waiting.popleft()
            self._ask(self._ahead)
            done = [piece.result() for piece in pieces]
            for _, bad in done:
                self.skipped.update(bad)
            self._check(self.skipped)
        except BaseException:
            self.close()
            raise
        self.waited += time.perf_counter() - now
        rows = np.concatenate([rows for rows, _ in done])
        positions = torch.from_numpy(self._mine(self.position))
        self.position += self.global_batch
        return Batch(self._sent(images), rows, self._sent(positions), self.faces.labels(rows))

    @property
    def waited_share(self) -> float:
        """Of the time since the first batch was asked for, the share in which the consumer waited."""
        return 0.0 if self._began is None else self.waited / max(time.perf_counter() - self._began, 1e-9)

    def close(self) -> None:
        """End the threads. What they were decoding is thrown away."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mine(self, start: int) -> Ints:
        """The positions of this rank in the global batch that begins at `start`."""
        return split(np.arange(start, start + self.global_batch), self.rank, self.world)

    def _ask(self, batches: int) -> None:
        """Have `batches` on their way."""
        while len(self._waiting) < batches:
            mine = self._mine(self._asked)
            self._asked += self.global_batch
            side = self.faces.size
            images = torch.empty((len(mine), side, side, 3), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            parts = zip(np.array_split(mine, self._threads), np.array_split(images.numpy(), self._threads), strict=True)
            pieces = [self._pool.submit(self._decode, part, out) for part, out in parts if len(part)]
            self._waiting.append((images, pieces))

    def _decode(self, positions: Ints, out: NDArray[np.uint8]) -> Piece:
        """Fill `out` with the faces at consecutive `positions`.

        A face that does not decode gives way to that of the next position whose face does: one that would be drawn
        anyway, so a row of weight 0 never slips in, and whoever computes it finds the same.
        """
        rows = self.order.rows(int(positions[0]), int(positions[-1]) + 1)
        bad: dict[int, str] = {}
        while True:
            try:
                self.faces.pixels(rows, out)
                return rows, bad
            except BadFace as face:
                bad[face.row] = str(face)
                self._check(bad)
                for at in np.flatnonzero(rows == face.row):
                    rows[at] = self._next_row(int(positions[at]), bad)

    def _next_row(self, position: int, bad: dict[int, str]) -> int:
        for row in self.order.rows(position + 1, position + 1 + _TRIES):
            if int(row) not in bad:
                return int(row)
        raise Refused(f"none of {_TRIES:,} faces drawn after position {position:,} decodes: align them anew.")

    def _check(self, bad: dict[int, str]) -> None:
        if len(bad) > self._allowed:
            raise Refused(
                f"{len(bad):,} of {self.faces.num_rows:,} faces do not decode, {self._allowed:,} are allowed. First: "
                f"{next(iter(bad.values()))} Align these photos anew."
            )

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)
