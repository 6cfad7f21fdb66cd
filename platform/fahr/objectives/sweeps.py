"""Exponential and hinge losses in sorted order: O(n log n) time and O(n) memory, where all who come after count alike.

n = people in sorted order (`Pairs`), D = events with a partner, N = the next power of two. z = score / tau, float64.
Only sums of what is not negative are made, never a difference of two large sums: the digits hold for every score.
"""

import numpy as np
import torch
from torch import Tensor

from fahr.objectives.pairs import Pairs
from fahr.objectives.tiles import Form, Sums


def exponential(risk: Tensor, pairs: Pairs, form: Form) -> Sums:
    """sum of v_i exp(z_j - z_i) = sum over i of v_i exp(-z_i) times the sum of exp(z_j) from a place on.

    The spread of z must be such that both factors are finite: 80 is.
    """
    # on the host, where the pairs are: there is less to compute than it takes to start the threads of a device
    z, rows, first = risk.double().cpu().numpy() / form.tau, pairs.rows, pairs.first
    assert pairs.is_suffix
    if len(z):
        z = z - (z.min() + z.max()) / 2
    rising, falling = np.exp(z), np.exp(-z[rows])
    if pairs.row_weight is not None:
        falling *= pairs.row_weight
    losses = falling * rising[::-1].cumsum()[::-1][first]
    before = np.bincount(first, falling, len(z)).cumsum()  # of all events whose partner one is
    gradient = rising * before
    gradient[rows] -= losses
    return Sums(_number(losses.sum(), risk), _total(pairs, risk), torch.from_numpy(gradient / form.tau).to(risk.device))


def hinges(risk: Tensor, pairs: Pairs, form: Form) -> Sums:
    """sum of v_i (m - z_i + z_j)_+ to the power 1 or 2: partners of an event whose z is above z_i - m; and seen from
    the partner, events whose -z is above -z_j - m."""
    z, rows, first, weight = _prepared(risk, pairs, form)
    if not len(rows):
        return Sums(z.sum() * 0, _total(pairs, z), torch.zeros_like(z))
    degree = 1 if form.kind == "hinge" else 2
    partners = _moments_above(z, torch.ones_like(z), first, z[rows] - form.margin, degree)
    # events that start at or before a place: the last ones, when they are counted from the end
    started = torch.searchsorted(first, torch.arange(len(z), device=z.device), right=True)
    events = _moments_above(-z[rows].flip(0), weight.flip(0), len(rows) - started, -z - form.margin, degree - 1)
    gradient = (degree * events[-1]).index_add_(0, rows, degree * weight * partners[-2], alpha=-1)
    return Sums((weight * partners[-1]).sum(), _total(pairs, z), gradient / form.tau)


def _prepared(risk: Tensor, pairs: Pairs, form: Form) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert pairs.is_suffix
    z = risk.double() / form.tau
    rows, first = (torch.from_numpy(each).to(z.device) for each in (pairs.rows, pairs.first))
    weight = torch.ones_like(rows, dtype=z.dtype)
    if pairs.row_weight is not None:
        weight = torch.from_numpy(pairs.row_weight).to(z.device)
    return z, rows, first, weight


def _total(pairs: Pairs, like: Tensor) -> Tensor:
    return _number(pairs.suffix_weight(), like)


def _number(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=like.device)


def _moments_above(values: Tensor, weights: Tensor, start: Tensor, bound: Tensor, degree: int) -> list[Tensor]:
    """For each query, sums over the places from `start` on whose value is above `bound`: weight * (value - bound)^k,
    k = 0 ... degree (at most 2).

    Places are cut into blocks of 1, 2, 4 ...; a query needs one block at most of each size. In a block, sorted by
    value, the sums over the upper part are known relative to the part's least value v: moving their origin down to the
    bound adds (v - bound) times the lower moments, never subtracts.
    """
    queries, device = len(start), values.device
    size = 1 << len(values).bit_length()  # above the number of values: one place of weight 0 comes first
    padded = torch.full((size,), float(values.min()), dtype=values.dtype, device=device)
    padded[1 : len(values) + 1] = values
    weigh = torch.zeros_like(padded)
    weigh[1 : len(values) + 1] = weights
    ordered, places = padded.sort(stable=True)
    weigh = weigh[places]
    ranks = torch.arange(size, device=device)
    least = torch.searchsorted(ordered, bound, right=True)  # rank of the first value above
    totals = [torch.zeros(queries, dtype=values.dtype, device=device) for _ in range(degree + 1)]
    block = size
    while block > 1:
        block //= 2
        ranks = _halved(ranks, places, block)
        mine = ((start & block) == 0).nonzero()[:, 0]  # the block right of the one in which the last place before is
        number = torch.div(start[mine], block, rounding_mode="floor") + 1
        table = ranks.view(-1, block)
        keys = table + torch.arange(len(table), device=device)[:, None] * (size + 1)
        found = torch.searchsorted(keys.view(-1), number * (size + 1) + least[mine]) + number  # rows end in a zero
        above, moments = _suffix_moments(ordered[table], weigh[table], degree)
        shift = above.view(-1)[found] - bound[mine]
        parts = [each.view(-1)[found] for each in moments]
        totals[0].index_add_(0, mine, parts[0])
        if degree >= 1:
            totals[1].index_add_(0, mine, parts[1] + shift * parts[0])
        if degree == 2:
            totals[2].index_add_(0, mine, parts[2] + shift * (2 * parts[1] + shift * parts[0]))
    return totals


def _halved(ranks: Tensor, places: Tensor, block: int) -> Tensor:
    """Ranks ascending within blocks of 2 * block places -> ascending within blocks of `block`: a stable partition."""
    right = ((places[ranks] & block) != 0).view(-1, 2 * block)
    to_right, to_left = right.cumsum(1) - 1 + block, (~right).cumsum(1) - 1
    offset = torch.arange(len(right), device=ranks.device)[:, None] * (2 * block)
    target = (torch.where(right, to_right, to_left) + offset).view(-1)
    return torch.empty_like(ranks).index_copy_(0, target, ranks)


def _suffix_moments(values: Tensor, weights: Tensor, degree: int) -> tuple[Tensor, list[Tensor]]:
    """(B, S) ascending values and their weights -> (B, S + 1) values, and for each k sums from a column on of weight *
    (value - that column's value)^k. The last column is the empty sum."""
    values = torch.cat([values, values[:, -1:]], 1)
    step = values.diff(dim=1)
    moments = [_from_the_right(weights)]
    if degree >= 1:
        moments.append(_from_the_right(step * moments[0][:, 1:]))
    if degree == 2:
        moments.append(_from_the_right(step * (2 * moments[1][:, 1:] + step * moments[0][:, 1:])))
    return values, moments


def _from_the_right(terms: Tensor) -> Tensor:
    """(B, S) -> (B, S + 1): sums from a column to the end."""
    return torch.nn.functional.pad(terms.flip(1).cumsum(1).flip(1), (0, 1))
