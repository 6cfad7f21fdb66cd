"""Which row of the data stands at which position of a run: a function of (seed, position), not of workers or restarts.

    order = Order(num_rows, seed)
    rows = split(order.rows(start, start + global_batch), rank, world)

`position` counts samples over all epochs: epoch = position // N, place = position % N, N = rows of the data.

Nothing is shuffled in memory. A row is computed from its position by a keyed permutation, so that any position can be
started from at once. Memory for 40.6 million rows: none without weights, 325 MB with them (8 bytes a row).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fahr.errors import Refused
from fahr.training.randomness import key

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS = 12  # of the permutation; with 8 the shuffles of five rows were still told from fair ones, with 12 no longer
_WORD = 1 << 64


class Order:
    """The rows of a run, in order.

    Without weights each epoch is a permutation of all rows. With weights an epoch has N draws with replacement, each
    row about in proportion to its weight: expected e times, it comes floor(e) or ceil(e) times (systematic resampling,
    then shuffled).
    """

    def __init__(self, num_rows: int, seed: int, weights: ArrayLike | None = None) -> None:
        if num_rows < 1:
            raise Refused(f"{num_rows} rows: at least 1 is needed to draw from.")
        self.num_rows, self.seed = num_rows, seed
        self._last = None if weights is None else _shares(np.asarray(weights, np.float64), num_rows)

    def rows(self, start: int, stop: int) -> Ints:
        """(stop - start,) the rows at positions start to stop - 1, over the ends of epochs."""
        if not 0 <= start <= stop:
            raise Refused(f"positions {start:,} to {stop:,}: must be from 0 on, and not backwards.")
        made = []
        while start < stop:
            epoch, first = divmod(start, self.num_rows)
            count = min(stop - start, self.num_rows - first)
            made.append(self._in_epoch(epoch, np.arange(first, first + count)))
            start += count
        return np.concatenate(made) if made else np.empty(0, np.int64)

    def _in_epoch(self, epoch: int, places: Ints) -> Ints:
        slots = permuted(places, self.num_rows, f"order.{self.seed}.{epoch}")
        if self._last is None:
            return slots
        unit = int(self._last[-1]) // self.num_rows  # a row expected once an epoch holds this much
        offset = key(self.seed, f"order.offset.{epoch}") % _WORD * unit // _WORD  # of all draws of an epoch
        return np.searchsorted(self._last, slots * unit + offset, side="right")


def _shares(weights: NDArray[np.float64], num_rows: int) -> Ints:
    """(N,) where each row's share of a line of N units ends. In whole numbers: rounding adds and loses no draw.

    A unit is the largest power of two for which the line fits 62 bits: 2^36 for 40.6 million rows.
    """
    if weights.shape != (num_rows,):
        raise Refused(f"weights of shape {weights.shape} for {num_rows:,} rows: give one for each row.")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise Refused(f"weight {weights[wrong[0]]} of row {wrong[0]:,}: weights are finite and not below 0.")
    largest = float(weights.max())
    if largest == 0:
        raise Refused(f"all {num_rows:,} weights are 0: at least one row must be drawn from.")
    weights = weights / largest  # no sum overflows
    unit = 1 << 62 - num_rows.bit_length()
    shares = np.rint(weights * (num_rows / weights.sum() * unit)).astype(np.int64)
    shares[weights.argmax()] += num_rows * unit - shares.sum()  # what rounding left over: under 2^-10 of a draw
    return np.cumsum(shares)


def permuted(places: Ints, num: int, name: str) -> Ints:
    """Each place (0 to num - 1) -> its own other place: a permutation of `num`, drawn by `name`, computed pointwise.

    A place is a cell of a table just larger than `num`. In each round every row of the table is turned by an amount
    that hashes from the row's number, then every column likewise (the generalised Feistel network of Black and Rogaway
    2002, CT-RSA); a place that lands on a cell beyond `num` goes round again until it does not.
    """
    down = max(2, int(np.ceil(np.sqrt(num))))
    down += down % 2  # turning an even number of cells is an odd permutation: all are in reach, not only the even ones
    across = -(-num // down)
    keys = [np.uint64(key(each, name) % _WORD) for each in range(_ROUNDS)]
    landed = places.astype(np.uint64)
    beyond = np.arange(len(landed))
    while len(beyond):
        landed[beyond] = _through(landed[beyond], np.uint64(down), np.uint64(across), keys)
        beyond = beyond[landed[beyond] >= num]
    return landed.astype(np.int64)


def _through(cells: Words, down: np.uint64, across: np.uint64, keys: list[np.uint64]) -> Words:
    row, column = cells // across, cells % across
    for number, each in enumerate(keys):
        if number % 2:
            column = (column + _mixed(row + each) % across) % across
        else:
            row = (row + _mixed(column + each) % down) % down
    return row * across + column


def _mixed(x: Words) -> Words:
    """SplitMix64's finaliser (see randomness.py), in NumPy's unsigned numbers."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def split(rows: Ints, rank: int, world: int) -> Ints:
    """The part of a global batch that a rank takes: contiguous, so that ranks in order make the whole again.

    Parts differ by one row at most, so any number of workers may share a batch, a number that no one planned for
    included: an elastic run has three of four for an hour.
    """
    if not 0 <= rank < world:
        raise Refused(f"rank {rank} of {world}: ranks are 0 to {world - 1}.")
    if len(rows) < world:
        raise Refused(
            f"a global batch of {len(rows):,} over {world} workers leaves some without a face. Give a larger batch, or "
            f"{len(rows)} workers at most."
        )
    return rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]
