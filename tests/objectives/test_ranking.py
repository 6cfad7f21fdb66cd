"""Value and gradient of the ranking loss against a loop over pairs, for every kind, weight and way of computing it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fahr.objectives import fused, ranking, ranking_loss
from fahr.objectives.outcomes import checked_outcomes
from fahr.objectives.pairs import pairs_of
from fahr.objectives.tiles import Form
from objectives.oracle import KINDS, Case, all_at_once, loss_and_gradient

TIMES = [0.0, 1.0, 1.5, 2.0, 3.0, 7.25, 11.5, 12.0, 13.0]  # few, so that they tie; G is 0 from 12 on


def ours(case: Case, dtype: torch.dtype = torch.float64) -> tuple[float, Tensor]:
    risk = torch.tensor(case.risk, dtype=dtype, requires_grad=True)
    loss = ranking_loss(risk, case.time, case.event, **case.arguments)
    loss.backward()
    assert risk.grad is not None and loss.dtype == dtype and loss.shape == ()
    return float(loss.detach()), risk.grad


def assert_agrees(case: Case, tolerance: float = 1e-9) -> None:
    value, gradient = loss_and_gradient(case)
    found, slopes = ours(case)
    assert found == pytest.approx(value, rel=tolerance, abs=1e-300), case
    largest = max(map(abs, gradient), default=0.0)
    assert slopes.tolist() == pytest.approx(gradient, rel=tolerance, abs=tolerance * largest + 1e-300), case


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = draw(st.integers(0, 8))
    column = {"min_size": size, "max_size": size}
    time = draw(st.lists(st.sampled_from(TIMES), **column))
    entry = draw(st.none() | st.lists(st.sampled_from([0.0, 0.4, 0.9]), **column))
    whole = st.integers(-3, 3).map(float)  # differences that tie, and that hit the margin
    return Case(
        risk=draw(st.lists(whole | st.floats(-9, 9, allow_subnormal=False), **column)),
        time=time,
        event=draw(st.lists(st.integers(0, 1), **column)),
        subject=draw(st.none() | st.lists(st.integers(0, 3), **column)),
        entry=None if entry is None else [share * at for share, at in zip(entry, time, strict=True)],
        kind=draw(st.sampled_from(list(KINDS))),
        tau=draw(st.sampled_from([0.5, 1.0, 3.0])),
        margin=draw(st.sampled_from([0.0, 1.0, 2.5])),
        weight=draw(st.sampled_from(["none", "ipcw", "gap"])),
    )


@pytest.mark.filterwarnings("ignore:ipcw")
@settings(max_examples=300)
@given(cases())
def test_every_option_equals_the_loop_over_pairs(case: Case) -> None:
    assert_agrees(case)


def drawn(rng: np.random.Generator, size: int, kind: str, weight: str) -> Case:
    time = rng.choice([rng.integers(0, 14, size).astype(float), rng.uniform(0, 14, size), rng.choice(TIMES, size)])
    return Case(
        risk=rng.choice([1, 3, 9 if kind == "exponential" else 40]) * rng.normal(size=size) + rng.choice([0, 1000]),
        time=time,
        event=rng.integers(0, 2, size),
        subject=rng.integers(0, max(size // 2, 1), size).tolist() if rng.random() < 0.4 else None,
        entry=time * rng.choice([0, 0.3, 0.95], size) if rng.random() < 0.4 else None,
        kind=kind,
        tau=float(rng.choice([0.7, 1.0, 2.0])),
        margin=float(rng.choice([0.0, 1.0, 2.0])),
        weight=weight,
    )


WAYS = [("logistic", "tiles"), ("exponential", "any")] + [
    (kind, way) for kind in ("hinge", "squared_hinge") for way in ("tiles", "sorted")
]


def choose(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hinges go in tiles below a size and are sorted above; here both go every size."""
    monkeypatch.setattr(ranking, "SWEEP_FROM", 0 if way == "sorted" else 10**9)


@pytest.mark.filterwarnings("ignore:ipcw")
@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_thousands_of_random_cases_equal_the_loop_over_pairs(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(way, monkeypatch)
    rng = np.random.default_rng(7)
    for number in range(400):
        assert_agrees(drawn(rng, int(rng.integers(0, 14)), kind, ("none", "none", "ipcw", "gap")[number % 4]), 2e-9)


@pytest.mark.filterwarnings("ignore:ipcw")
@pytest.mark.parametrize(("kind", "way"), WAYS)
@pytest.mark.parametrize(("weight", "late"), [("none", False), ("ipcw", False), ("gap", False), ("ipcw", True)])
def test_people_that_fill_many_tiles_equal_the_whole_matrix(
    kind: str, way: str, weight: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(way, monkeypatch)
    rng, size = np.random.default_rng(3), 1301  # three tiles across, six down, none of them full at the end
    time = np.concatenate([rng.uniform(0.1, 11, size - 400), rng.integers(1, 9, 400)])
    case = Case(
        risk=2 * rng.normal(size=size),
        time=time.tolist(),
        event=(rng.random(size) < 0.55).astype(int).tolist(),
        subject=rng.integers(0, size // 2, size).tolist() if late else None,
        entry=(time * rng.uniform(0, 0.99, size)).tolist() if late else None,
        kind=kind,
        tau=0.8,
        weight=weight,
    )
    value, gradient = all_at_once(case)
    found, slopes = ours(case)
    assert found == pytest.approx(value, rel=1e-11)
    assert float((slopes - gradient).abs().max()) < 1e-11 * float(gradient.abs().max())
    if kind != "exponential":  # where fp32 is told apart by the spread
        found, slopes = ours(case, torch.float32)
        assert found == pytest.approx(value, rel=1e-6)
        assert float((slopes - gradient).abs().max()) < 2e-6 * float(gradient.abs().max())


COMPILED = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "tiles"])


def compile_or_not(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 pairs on a CPU go through numba's kernel; without numba's compiler they go through tiles."""
    monkeypatch.setattr(fused, "_uncompiled", lambda: not compiled)


@COMPILED
def test_a_thousand_random_cases_in_fp32_equal_the_loop_over_pairs(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_or_not(compiled, monkeypatch)
    rng = np.random.default_rng(8)
    for _ in range(500):
        case = drawn(rng, int(rng.integers(2, 14)), "logistic", "none")
        case = replace(case, risk=np.float32(case.risk).tolist(), subject=None, entry=None)
        value, gradient = loss_and_gradient(case)
        found, slopes = ours(case, torch.float32)
        assert found == pytest.approx(value, rel=3e-6, abs=1e-37)
        assert slopes.tolist() == pytest.approx(gradient, abs=3e-6 * max(map(abs, gradient)) + 1e-37)


def test_the_kernel_takes_what_it_is_right_for_and_nothing_else() -> None:
    labels = checked_outcomes(4, [1, 2, 3, 4], [1, 1, 0, 0], [0, 0, 0.5, 0.5])
    late = checked_outcomes(4, [1, 2, 3, 4], [1, 1, 0, 0], [0, 0, 1.5, 0.5])
    near, wide, form = torch.linspace(0, 40, 4), torch.linspace(0, 40.5, 4), Form("logistic", 0.5, 1.0)
    pairs = pairs_of(labels, None)
    assert fused.fits(near, pairs, form)
    assert not fused.fits(wide, pairs, form)
    assert not fused.fits(near.double(), pairs, form)
    assert not fused.fits(near, pairs, form._replace(kind="hinge"))
    assert not fused.fits(near, pairs_of(late, None), form)
    assert not fused.fits(near, pairs_of(labels, np.array([0, 0, 1, 2])), form)
    assert not fused.fits(near, replace(pairs, row_weight=np.ones(2)), form)
    assert not fused.fits(near, replace(pairs, gap=pairs.time), form)


def test_the_kernel_on_two_threads_gives_what_one_gives() -> None:
    rng, size = np.random.default_rng(9), 2600
    case = Case(
        np.float32(rng.normal(size=size)).tolist(),
        rng.integers(1, 2000, size).astype(float).tolist(),
        rng.integers(0, 2, size).tolist(),
    )
    alone, slopes = ours(case, torch.float32)
    torch.set_num_threads(2)
    both, slopes_of_both = ours(case, torch.float32)
    assert both == alone and float((slopes - slopes_of_both).abs().max()) <= 1e-7 * float(slopes.abs().max())
    value, gradient = all_at_once(case)
    assert both == pytest.approx(value, rel=1e-6)
    assert float((slopes_of_both - gradient).abs().max()) < 2e-6 * float(gradient.abs().max())


@COMPILED
@pytest.mark.parametrize("deviation", [0.01, 1, 3, 10, 40, 3000])
def test_fp32_is_right_at_every_spread_of_scores(
    deviation: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where exp(r_i) exp(-r_j) would overflow or lose its digits."""
    compile_or_not(compiled, monkeypatch)
    rng, size = np.random.default_rng(11), 700
    case = Case(
        risk=np.float32(deviation * rng.normal(size=size) + 5).tolist(),
        time=rng.uniform(0, 9, size).tolist(),
        event=rng.integers(0, 2, size).tolist(),
    )
    # also people in the right order already, where what remains of the loss is tiny
    for each in (case, replace(case, risk=np.sort(case.risk)[::-1][np.argsort(np.argsort(case.time))].tolist())):
        value, gradient = all_at_once(each)
        found, slopes = ours(each, torch.float32)
        assert found == pytest.approx(value, rel=1e-6, abs=1e-37)
        assert float((slopes - gradient).abs().max()) < 2e-6 * float(gradient.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["none", "gap"])
def test_gradients_equal_finite_differences(kind: str, weight: str) -> None:
    rng = np.random.default_rng(5)
    time, event = rng.integers(1, 6, 9), rng.integers(0, 2, 9)
    risk = torch.tensor(rng.normal(size=9), requires_grad=True)
    options = {"kind": kind, "weight": weight, "gap_unit": 2.0 if weight == "gap" else None, "tau": 0.6}
    assert torch.autograd.gradcheck(
        lambda r: ranking_loss(r, time, event, [0, 0, 1, 2, 3, 4, 5, 6, 7], **options), risk
    )


def test_the_hinges_in_sorted_order_keep_their_digits_where_sums_of_squares_would_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two clouds of scores, 20,000 apart, each nearly in the right order: what is left of the loss is small."""
    rng, size = np.random.default_rng(2), 3000
    time = np.sort(rng.uniform(0, 10, size))
    monkeypatch.setattr(ranking, "SWEEP_FROM", size)
    risk = np.where(np.arange(size) < size // 2, 1e4, -1e4) - 5e-3 * np.arange(size) + 0.5 * rng.normal(size=size)
    case = Case(risk.tolist(), time.tolist(), rng.integers(0, 2, size).tolist(), kind="squared_hinge")
    value, gradient = all_at_once(case)
    found, slopes = ours(case)
    assert found == pytest.approx(value, rel=1e-10)
    assert float((slopes - gradient).abs().max()) < 1e-10 * float(gradient.abs().max())


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that anything gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return result


@pytest.mark.parametrize(
    "options", [{}, {"weight": "gap", "gap_unit": 1.0}, {"kind": "hinge"}, {"kind": "exponential"}]
)
def test_no_tensor_grows_with_the_square_of_the_people(options: dict[str, object]) -> None:
    size, rng = 5000, np.random.default_rng(0)
    risk = torch.randn(size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with Largest() as largest:
        ranking_loss(risk, rng.uniform(0, 9, size), rng.random(size) < 0.1, np.arange(size) // 2, **options).backward()
        ranking_loss(risk, rng.uniform(0, 9, size), rng.random(size) < 0.1, **options).backward()
    assert 0 < largest.elements <= 128 * 1024 < size**2 / 100
