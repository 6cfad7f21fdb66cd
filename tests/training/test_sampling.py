"""Which row stands where, and a sample's own random numbers: the same for everybody, and as random as they claim."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fahr.errors import Refused
from fahr.training import randomness
from fahr.training.randomness import normal, uniform
from fahr.training.sampling import Order, permuted, split

BELIEF = 1e-6  # a fair generator fails a test at this level once in a million; seeds are fixed, so it is decided once


def chi_square(counts: np.ndarray) -> float:
    """The probability of counts this uneven, were all cells equally likely."""
    return float(stats.chisquare(counts.ravel()).pvalue)


# Numbers that belong to a sample

WORD = 1 << 64


def mixed(x: int) -> int:
    """SplitMix64's finaliser in Python's own whole numbers."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) % WORD
    return x ^ x >> 31


def test_the_hash_is_splitmix64():
    """The first outputs of the published generator, started at 0."""
    golden = 0x9E3779B97F4A7C15
    assert [mixed(golden * n % WORD) for n in (1, 2, 3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    ours = randomness._mixed(randomness.GOLDEN * torch.tensor([1, 2, 3]))
    assert [int(each) % WORD for each in ours] == [mixed(golden * n % WORD) for n in (1, 2, 3)]


@given(st.integers(0, 2**63), st.lists(st.integers(0, 2**62), min_size=1, max_size=5), st.text(max_size=9))
def test_uniform_numbers_are_those_of_the_definition(seed, positions, stream):
    golden, key = 0x9E3779B97F4A7C15, randomness.key(seed, stream)
    got = uniform(seed, torch.tensor(positions), stream, 3)
    for row, position in zip(got.tolist(), positions, strict=True):
        state = mixed((key + golden * (position + 1)) % WORD)
        assert row == [(mixed((state + golden * place) % WORD) >> 40) / 2**24 for place in (1, 2, 3)]


def test_a_sample_alone_has_the_numbers_that_it_has_in_a_batch():
    positions = torch.tensor([5, 0, 2**40, 17, 5])
    for draw in (uniform, normal):
        together = draw(3, positions, "any", 7)
        alone = torch.cat([draw(3, positions[n : n + 1], "any", 7) for n in range(5)])
        assert torch.equal(together, alone)
        assert torch.equal(together[0], together[4])
        assert torch.equal(draw(3, positions, "any", 4), together[:, :4])  # asking for fewer changes none


def test_uniform_numbers_fill_the_unit_interval_evenly():
    numbers = uniform(0, torch.arange(50_000), "evenly", 4).numpy()
    assert numbers.dtype == np.float32 and numbers.min() >= 0 and numbers.max() < 1
    cells = (numbers * 16).astype(int)
    for column in cells.T:
        assert chi_square(np.bincount(column, minlength=16)) > BELIEF
    # Beside each other in a row, below each other in a column.
    assert chi_square(np.bincount(cells[:, 0] * 16 + cells[:, 1], minlength=256)) > BELIEF
    assert chi_square(np.bincount(cells[:-1, 0] * 16 + cells[1:, 0], minlength=256)) > BELIEF
    # The last bits count too: whatever is drawn from a number must not see a pattern.
    assert chi_square(np.bincount((numbers[:, 0] * 2**24).astype(int) % 16, minlength=16)) > BELIEF


def test_other_seeds_and_streams_give_unrelated_numbers():
    positions = torch.arange(50_000)
    first = (uniform(0, positions, "one", 1).numpy().ravel() * 16).astype(int)
    for other in (
        uniform(1, positions, "one", 1),
        uniform(0, positions, "two", 1),
        uniform(0, positions + 1, "one", 1),
    ):
        second = (other.numpy().ravel() * 16).astype(int)
        assert chi_square(np.bincount(first * 16 + second, minlength=256)) > BELIEF


def test_normal_numbers_are_normal():
    numbers = normal(0, torch.arange(50_000), "bell", 2).numpy()
    assert np.isfinite(numbers).all()
    for column in numbers.T:
        assert stats.kstest(column, "norm").pvalue > BELIEF
    assert stats.pearsonr(numbers[:, 0], numbers[:, 1]).pvalue > BELIEF
    assert abs(numbers).max() > 4  # tails are there: 6 of 100,000 lie beyond


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_bits():
    positions = torch.arange(100_000)
    assert torch.equal(uniform(9, positions, "x", 5), uniform(9, positions.cuda(), "x", 5).cpu())
    apart = (normal(9, positions, "x", 5) - normal(9, positions.cuda(), "x", 5).cpu()).abs().max()
    assert apart < 1e-6


# Epochs


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_every_epoch_has_every_row_once(num_rows, seed):
    rows = Order(num_rows, seed).rows(0, 3 * num_rows).reshape(3, num_rows)
    assert (np.sort(rows) == np.arange(num_rows)).all()
    assert num_rows < 10 or len({tuple(epoch) for epoch in rows}) == 3


@given(st.integers(1, 50), st.booleans(), st.data())
def test_any_stretch_is_that_stretch_of_the_whole(num_rows, weighted, data):
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=num_rows, max_size=num_rows)) if weighted else None
    order = Order(num_rows, 5, weights)
    start = data.draw(st.integers(0, 4 * num_rows))
    stop = data.draw(st.integers(start, 5 * num_rows))
    assert (order.rows(start, stop) == order.rows(0, 5 * num_rows)[start:stop]).all()


def test_far_positions_cost_nothing_and_repeat_nothing():
    """Forty million rows, the fiftieth epoch: no table is made, and no row comes twice in a stretch of an epoch."""
    num_rows = 40_600_000
    rows = Order(num_rows, 1).rows(50 * num_rows - 100_000, 50 * num_rows)
    assert len(np.unique(rows)) == 100_000
    assert rows.min() >= 0 and rows.max() < num_rows
    assert chi_square(np.bincount(rows * 64 // num_rows, minlength=64)) > BELIEF


@pytest.mark.parametrize("num_rows", [2, 3, 4, 5])
def test_every_permutation_of_few_rows_is_equally_likely(num_rows):
    wanted = {each: n for n, each in enumerate(itertools.permutations(range(num_rows)))}
    counts = np.zeros(len(wanted), int)
    for seed in range(4000):
        counts[wanted[tuple(Order(num_rows, seed).rows(0, num_rows).tolist())]] += 1
    assert chi_square(counts) > BELIEF


@pytest.mark.parametrize("num_rows", [16, 37, 256])
def test_shuffles_look_like_numpys(num_rows):
    """Where a row lands, what follows it, how many stay in place, and how sorted the whole is."""
    epochs = np.stack([permuted(np.arange(num_rows), num_rows, f"shuffle.{n}") for n in range(2000)])
    landing = np.zeros((num_rows, num_rows), int)
    np.add.at(landing, (np.arange(num_rows)[None], epochs), 1)
    assert chi_square(landing) > BELIEF
    step = (epochs[:, 1:] - epochs[:, :-1]) % num_rows
    assert chi_square(np.bincount(step.ravel(), minlength=num_rows)[1:]) > BELIEF
    in_place = (epochs == np.arange(num_rows)).sum(1)
    cells = np.bincount(np.minimum(in_place, 4), minlength=5)
    expected = [math.exp(-1) / math.factorial(k) for k in range(4)]
    assert stats.chisquare(cells, np.array([*expected, 1 - sum(expected)]) * 2000).pvalue > BELIEF
    rank = 1 - 6 * ((epochs - np.arange(num_rows)) ** 2).sum(1) / (num_rows * (num_rows**2 - 1))  # Spearman's
    assert stats.kstest(rank * math.sqrt(num_rows - 1), "norm").pvalue > BELIEF or num_rows < 30


# Weights


@settings(max_examples=60)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=200), st.integers(0, 1000))
def test_each_row_comes_as_often_as_it_is_expected_rounded_up_or_down(weights, seed):
    if sum(weights) == 0:
        weights[0] = 1.0
    num_rows = len(weights)
    exact = [Fraction(each) for each in weights]
    total = sum(exact)
    for epoch in range(3):
        drawn = Order(num_rows, seed, weights).rows(epoch * num_rows, (epoch + 1) * num_rows)
        counts = np.bincount(drawn, minlength=num_rows)
        for count, weight in zip(counts.tolist(), exact, strict=True):
            expected = weight * num_rows / total
            near = round(expected)
            if abs(expected - near) < 1e-6:
                assert abs(count - near) <= 1  # an expectation of 3 that is 3 + 1e-12 in binary may give 4
            else:
                assert count in (math.floor(expected), math.ceil(expected))


def test_over_epochs_rows_come_in_proportion_to_their_weights():
    weights = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 4.4, 0.3, 0.7])
    drawn = Order(8, 0, weights).rows(0, 8 * 5000)
    counts = np.bincount(drawn, minlength=8)
    assert counts[0] == 0
    # Systematic draws vary less than independent ones, whose deviation would be about 200.
    assert abs(counts - 8 * 5000 * weights / weights.sum()).max() < 150


def test_equal_weights_draw_every_row_once_an_epoch():
    for value in (1.0, 0.1, 1e-300, 1e300):
        rows = Order(1000, 4, [value] * 1000).rows(0, 2000).reshape(2, 1000)
        assert (np.sort(rows) == np.arange(1000)).all()


def test_repeats_of_a_row_are_scattered_over_the_epoch():
    weights = np.ones(10_000)
    weights[:100] = 20
    drawn = Order(10_000, 2, weights).rows(0, 10_000)
    places = np.flatnonzero(drawn < 100)
    assert chi_square(np.bincount(places * 20 // 10_000, minlength=20)) > BELIEF


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ([1.0, 2.0], "one for each row"),
        ([1.0, -1.0, 2.0], "not below 0"),
        ([1.0, math.nan, 2.0], "finite"),
        ([1.0, math.inf, 2.0], "finite"),
        ([0.0, 0.0, 0.0], "all 3 weights are 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights, why):
    with pytest.raises(Refused, match=why):
        Order(3, 0, weights)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(Refused, match="at least 1"):
        Order(0, 0)
    with pytest.raises(Refused, match="backwards"):
        Order(3, 0).rows(2, 1)


# Workers


@given(st.integers(1, 8), st.integers(0, 150))
def test_the_parts_of_all_workers_in_order_are_the_whole_and_as_even_as_can_be(world, more):
    rows = np.arange(100, 100 + world + more)
    parts = [split(rows, rank, world) for rank in range(world)]
    assert (np.concatenate(parts) == rows).all()
    assert max(map(len, parts)) - min(map(len, parts)) == (len(rows) % world > 0)


def test_more_workers_than_faces_in_a_batch_are_refused():
    with pytest.raises(Refused, match="2 workers at most"):
        split(np.arange(2), 0, 3)
    with pytest.raises(Refused, match="0 to 1"):
        split(np.arange(10), 2, 2)
