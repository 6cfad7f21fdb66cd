"""Any loss over any pairs, value and gradient together, in tiles: O(n) memory, O(D n) time, on the scores' device.

n = people in sorted order (`Pairs`), D = events with a partner, R x C = a tile of R events and C partners.
ahead = (r_j - r_i) / tau, (R, C): by how much the partner's score is above the event's; -inf where there is no pair.
Every kind of loss rises with it, so its slope d loss / d ahead pulls r_i up and r_j down.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fahr.objectives.pairs import Pairs
from fahr.objectives.weights import GAP_CAP


class Form(NamedTuple):
    """Which function of the difference of two scores."""

    kind: str
    tau: float  # divides the difference
    margin: float  # of the hinges, in units of the divided difference


class Sums(NamedTuple):
    """Over all pairs, in float64."""

    loss: Tensor  # () sum of weight * loss
    weight: Tensor  # ()
    gradient: Tensor  # (n,) d loss / d score, sorted; zeros when it was not asked for


class _Columns(NamedTuple):
    """`Pairs` on the device."""

    first: Tensor  # (D, 1)
    place: Tensor  # (n,)
    time: Tensor | None  # (n,) with entry
    entry: Tensor | None
    subject: Tensor | None
    gap: Tensor | None
    row_weight: Tensor | None  # (D, 1)


class _Tile(NamedTuple):
    events: slice  # of the D
    partners: slice  # of the n
    ragged: bool  # some partners come too early for some of the events


def in_tiles(risk: Tensor, pairs: Pairs, form: Form, with_gradient: bool) -> Sums:
    """`risk`: (n,) sorted, fp32 or float64: a pair is computed in that precision, sums over tiles are float64."""
    columns, rows = _columns(pairs, risk), torch.from_numpy(pairs.rows).to(risk.device)
    pulls = torch.zeros_like(risk, dtype=torch.float64)
    losses, counts, pushes = (pulls.new_zeros(len(rows)) for _ in range(3))
    kernel = _Kernel(risk, rows, form)
    for tile in _tiles(pairs, risk.device):
        excluded = _excluded(columns, rows, tile)
        share = _shares(columns, rows, tile, excluded, risk.dtype)
        loss, slope = kernel(tile, excluded, share, with_gradient)
        losses[tile.events] += loss
        if share is not None:
            counts[tile.events] += share.sum(1)
        elif excluded is not None:
            counts[tile.events] += (~excluded).sum(1)
        else:
            counts[tile.events] += tile.partners.stop - tile.partners.start
        if slope is not None:
            pushes[tile.events] += slope.sum(1)
            if columns.row_weight is not None:
                slope *= columns.row_weight[tile.events]
            pulls[tile.partners] += slope.sum(0)
    if columns.row_weight is not None:
        losses, counts, pushes = (each * columns.row_weight[:, 0] for each in (losses, counts, pushes))
    return Sums(losses.sum(), counts.sum(), pulls.index_add_(0, rows, pushes, alpha=-1).div_(form.tau))


def _columns(pairs: Pairs, risk: Tensor) -> _Columns:
    def there(array: object) -> Tensor | None:
        return None if array is None else torch.as_tensor(array, device=risk.device)

    weight = there(pairs.row_weight)
    return _Columns(
        torch.from_numpy(pairs.first).to(risk.device)[:, None],
        torch.arange(len(risk), device=risk.device),
        None if pairs.entry is None else there(pairs.time),
        there(pairs.entry),
        there(pairs.subject),
        there(pairs.gap),
        None if weight is None else weight[:, None].to(risk.dtype),
    )


def _tiles(pairs: Pairs, device: torch.device) -> Iterator[_Tile]:
    """A core's cache holds a few tiles of 128 x 1,024; a card wants work for all its cores at once."""
    height, width = (128, 1024) if device.type == "cpu" else (1024, 8192)
    num_people, first = len(pairs.order), pairs.first.tolist()
    for top in range(0, len(first), height):
        bottom = min(top + height, len(first))
        for left in range(first[top], num_people, width):
            yield _Tile(slice(top, bottom), slice(left, min(left + width, num_people)), left < first[bottom - 1])


def _excluded(columns: _Columns, rows: Tensor, tile: _Tile) -> Tensor | None:
    """(R, C) True where there is no pair; None where all are."""
    excluded = None
    if tile.ragged:
        excluded = columns.place[tile.partners] < columns.first[tile.events]
    if columns.entry is not None:
        assert columns.time is not None
        late = columns.entry[tile.partners] >= columns.time[rows[tile.events]][:, None]
        excluded = late if excluded is None else excluded.logical_or_(late)
    if columns.subject is not None:
        same = columns.subject[tile.partners] == columns.subject[rows[tile.events]][:, None]
        excluded = same if excluded is None else excluded.logical_or_(same)
    return excluded


def _shares(columns: _Columns, rows: Tensor, tile: _Tile, excluded: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(R, C) what pairs count for by their gap, 0 where there is none; None where all count the same."""
    if columns.gap is None:
        return None
    # subtracted in float64: days apart, twenty years after the start, are lost in fp32
    gap = columns.gap[tile.partners] - columns.gap[rows[tile.events]][:, None]
    share = gap.clamp_(max=GAP_CAP).to(dtype)
    return share if excluded is None else share.masked_fill_(excluded, 0)


class _Kernel:
    """A tile's losses (R,), summed over partners, and its slopes (R, C), both by weight."""

    def __init__(self, risk: Tensor, rows: Tensor, form: Form) -> None:
        self.risk, self.events, self.form = risk, risk.index_select(0, rows), form
        # The most that `ahead` may be: four factors 1 + exp(ahead) together still fit the type, and what softplus
        # lacks there is below its last bit.
        self.limit = 40.0 if risk.dtype == torch.float64 else 20.0
        spread = float(risk.max().double() - risk.min().double()) / form.tau if len(risk) else 0.0
        self.is_wide = spread > self.limit

    def __call__(
        self, tile: _Tile, excluded: Tensor | None, share: Tensor | None, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.form.kind == "logistic":
            return self._logistic(tile, excluded, share, with_gradient)
        ahead = self._ahead(tile, excluded)
        if self.form.kind == "exponential":
            loss = slope = ahead.exp_()
        elif self.form.kind == "hinge":
            loss = ahead.add_(self.form.margin).clamp_(min=0)
            slope = loss.sign() if with_gradient else loss
        else:
            slope = ahead.add_(self.form.margin).clamp_(min=0)
            loss = slope.square()
            slope = slope.mul_(2)
        if share is not None:
            loss, slope = loss * share, slope * share
        return loss.sum(1), slope if with_gradient else None

    def _ahead(self, tile: _Tile, excluded: Tensor | None) -> Tensor:
        # scores are subtracted first: far from zero, dividing first would cost the digits in which they differ
        ahead = self.risk[tile.partners] - self.events[tile.events, None]
        if self.form.tau != 1:
            ahead /= self.form.tau
        return ahead if excluded is None else ahead.masked_fill_(excluded, -math.inf)

    def _logistic(
        self, tile: _Tile, excluded: Tensor | None, share: Tensor | None, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """softplus(x) = log(1 + u), u = exp(x); beyond the limit, where it is x itself, u stays there."""
        beyond: Tensor | None = None
        odds = self._ahead(tile, excluded)
        if self.is_wide:
            beyond = (odds - self.limit).clamp_(min=0)
            odds.clamp_(max=self.limit)
        odds.exp_()
        if share is None:
            loss = _sum_log1p(odds)
            loss = loss if beyond is None else loss + beyond.sum(1)
        else:
            each = odds.log1p()
            loss = (each if beyond is None else each.add_(beyond)).mul_(share).sum(1)
        if not with_gradient:
            return loss, None
        slope = odds.div_(odds + 1)
        return loss, slope if share is None else slope.mul_(share)


def _sum_log1p(values: Tensor) -> Tensor:
    """(R, C) >= 0 -> (R,), one logarithm for four values: (1 + a)(1 + b) = 1 + (a + ab + b), with no digit of small a
    and b lost."""
    quarter = values.shape[1] // 4
    a, b, c, d = values[:, : 4 * quarter].view(len(values), 4, quarter).unbind(1)
    ab, cd = torch.addcmul(a, a, b).add_(b), torch.addcmul(c, c, d).add_(d)
    total = torch.addcmul(ab, ab, cd).add_(cd).log1p_().sum(1)
    rest = values[:, 4 * quarter :]
    return total + rest.log1p().sum(1) if rest.shape[1] else total
