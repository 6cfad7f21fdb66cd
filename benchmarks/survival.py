"""Survival: the exact ranking losses against the n x n matrix that everybody writes. Equal outputs asserted.

python benchmarks/survival.py [--rounds 5]

Value and gradient from scores that are there; 40 % of the people have the event, times are whole days, so many tie.
Both sides get the same threads. Ours takes NumPy labels, checks them and sorts them: that is timed. Memory is the rise
of VmHWM over one value and gradient, in a child for each, after a small call has loaded what there is to load.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from _rounds import interleave, median_range, ratios
from numpy.typing import NDArray
from torch import Tensor

from fahr.objectives import fused, ranking, ranking_loss

BARS = {512: 2.5, 4096: 25.0, 8192: 25.0}  # how many times faster the exact logistic loss must be
EXPONENTIAL_BAR, MEMORY_BAR_MB = 500.0, 30.0


class People(NamedTuple):
    risk: Tensor  # (n,) fp32, a leaf
    time: NDArray[np.float64]
    event: NDArray[np.bool_]
    days: Tensor  # time and event once more, as tensors
    died: Tensor


def people(count: int, deviation: float = 1.0) -> People:
    rng = np.random.default_rng(0)
    days, died = np.ceil(rng.exponential(1000, count)), rng.random(count) < 0.4
    risk = torch.tensor(deviation * rng.normal(size=count), dtype=torch.float32, requires_grad=True)
    return People(risk, days, died, torch.from_numpy(days), torch.from_numpy(died))


def matrix(some: People, kind: str) -> Tensor:
    """Every pair at once."""
    earlier = some.days[:, None] < some.days[None, :]
    pair = some.died[:, None] & (earlier | ((some.days[:, None] == some.days[None, :]) & ~some.died[None, :]))
    gap = some.risk[:, None] - some.risk[None, :]
    each = torch.nn.functional.softplus(-gap) if kind == "logistic" else torch.exp(-gap)
    return (each * pair).sum() / pair.sum().clamp(min=1)


def graded(loss_of: Callable[[], Tensor], some: People, repeats: int = 1) -> Callable[[], tuple[float, Tensor]]:
    def way() -> tuple[float, Tensor]:
        for _ in range(repeats):
            some.risk.grad = None
            loss = loss_of()
            loss.backward()
        assert some.risk.grad is not None
        return loss.item(), some.risk.grad

    return way


def assert_equal(ours: Callable[[], tuple[float, Tensor]], theirs: Callable[[], tuple[float, Tensor]]) -> str:
    (mine, slopes), (other, theirs_slopes) = ours(), theirs()
    value = abs(mine - other) / abs(other)
    slope = float((slopes - theirs_slopes).abs().max() / theirs_slopes.abs().max())
    assert value < 2e-6 and slope < 2e-5, f"losses {value:.1e} apart, gradients {slope:.1e}"
    return f"equal to {value:.0e}, gradients {slope:.0e}"


def against_the_matrix(
    count: int, kind: str, deviation: float, rounds: int, bar: float | None, *, tiles: bool = False
) -> None:
    """`tiles`: without numba's kernel, as on a card or where it is switched off."""
    some = people(count, deviation)

    def ours() -> Tensor:
        return ranking_loss(some.risk, some.time, some.event, kind=kind)

    def in_tiles() -> Tensor:
        with patch.object(fused, "_uncompiled", return_value=True):
            return ours()

    ways = {"matrix": lambda: matrix(some, kind), "ours": ours} | ({"ours, tiles": in_tiles} if tiles else {})
    # what takes a millisecond is done many times over, or one look of the machine elsewhere would be all that is seen
    repeats = {name: max(1, 8192 // count) * (1 if name == "matrix" else 10) for name in ways}
    graded_ways = {name: graded(way, some, repeats[name]) for name, way in ways.items()}
    equal = {name: assert_equal(way, graded_ways["matrix"]) for name, way in graded_ways.items() if name != "matrix"}
    took = interleave(graded_ways, rounds)
    seconds = {name: [each / repeats[name] for each in values] for name, values in took.items()}
    milliseconds = {name: statistics.median(each) * 1e3 for name, each in seconds.items()}
    print(f"  {kind}, n {count:,}, scores' deviation {deviation:g}: matrix {milliseconds['matrix']:.2f} ms")
    for name, agreement in equal.items():
        ratio = ratios(seconds["matrix"], seconds[name])
        bar = bar if name == "ours" else None  # what is promised is the default way
        verdict = f", bar {bar:g}x {'met' if statistics.median(ratio) >= bar else 'MISSED'}" if bar else ""
        print(f"    {name:12s} {milliseconds[name]:7.2f} ms: {median_range(ratio, 1)}x{verdict} ({agreement})")


def hinges(count: int, rounds: int) -> None:
    """Tiles or sorting: where one overtakes the other is `ranking.SWEEP_FROM`."""

    def forced(start: int, kind: str) -> Callable[[], tuple[float, Tensor]]:
        def loss() -> Tensor:
            with patch.object(ranking, "SWEEP_FROM", start):
                return ranking_loss(some.risk, some.time, some.event, kind=kind)

        return graded(loss, some)

    some = people(count)
    for kind in ("hinge", "squared_hinge"):
        ways = {"tiles": forced(count + 1, kind), "sorted": forced(0, kind)}
        equal = assert_equal(ways["sorted"], ways["tiles"])
        seconds = interleave(ways, rounds)
        tiles, ordered = (statistics.median(each) * 1e3 for each in seconds.values())
        ratio = median_range(ratios(seconds["tiles"], seconds["sorted"]), 2)
        print(f"  {kind}, n {count:,}: tiles {tiles:.1f} ms, sorted {ordered:.1f} ms: {ratio}x ({equal})")


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def child(which: str, count: int) -> None:
    """Prints the rise of the peak in MB, and the seconds of the first call."""

    def one(some: People) -> None:
        loss = matrix(some, "logistic") if which == "matrix" else ranking_loss(some.risk, some.time, some.event)
        loss.backward()

    few, some = people(64), people(count)
    began = time.perf_counter()
    one(few)
    first = time.perf_counter() - began
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = peak_mb()
    one(some)
    print(peak_mb() - before, first)


def memory(count: int) -> None:
    def started(which: str, cache: str) -> tuple[float, float]:
        command = [sys.executable, __file__, "--child", which, "--count", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NUMBA_CACHE_DIR": cache})
        assert done.returncode == 0, done.stderr
        rise, first = map(float, done.stdout.split())
        return rise, first

    with tempfile.TemporaryDirectory() as cache:
        _, cold = started("ours", cache)  # what compiling holds would hide what the loss needs
        rise, warm = started("ours", cache)
        theirs, _ = started("matrix", cache)
    verdict = "met" if rise <= MEMORY_BAR_MB else "MISSED"
    print(f"  memory, n {count:,}: matrix {theirs:,.0f} MB more, ours {rise:.1f}; bar {MEMORY_BAR_MB:g} MB {verdict}")
    print(f"  first call in a new process: {cold:.2f} s with the compiler, {warm:.2f} s from its cache on disk")


def losses(rounds: int) -> None:
    print(f"ranking losses, value and gradient, {torch.get_num_threads()} threads, {rounds} interleaved rounds")
    for count, bar in BARS.items():
        against_the_matrix(count, "logistic", 1, rounds, bar, tiles=count == 4096)
    against_the_matrix(4096, "logistic", 40, rounds, None)  # beyond what products of exponentials can hold
    against_the_matrix(8192, "exponential", 1, rounds, EXPONENTIAL_BAR)
    for count in (4096, 16384):
        hinges(count, rounds)
    memory(8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", choices=["matrix", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=8192, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.count)
        return
    losses(options.rounds)


if __name__ == "__main__":
    main()
