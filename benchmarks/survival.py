"""Survival: the exact ranking losses against the n x n matrix that everybody writes, and concordance with its bootstrap
against lifelines and scikit-survival. Equal outputs asserted, each bar told met or missed.

python benchmarks/survival.py [losses ranks] [--rounds 5]     # more of concordance: benchmarks/concordance.py

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
from fahr.survival import Concordance, bootstrap_concordance, concordance

BARS = {512: 2.5, 4096: 25.0, 8192: 25.0}  # how many times faster the exact logistic loss must be
EXPONENTIAL_BAR, MEMORY_BAR_MB = 500.0, 30.0
RANK_BARS = {False: 20.0, True: 10.0}  # by whether there are ties: concordance than lifelines
PLAIN_BAR, SKSURV_BAR, BOOTSTRAP_BARS = 5.0, 200.0, {1: 30.0, 2: 100.0}


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


# Concordance


def against(theirs: str, seconds: dict[str, list[float]], bars: dict[str, float]) -> None:
    for name, bar in bars.items():
        ratio = ratios(seconds[theirs], seconds[name])
        verdict = "met" if statistics.median(ratio) >= bar else "MISSED"
        milliseconds = statistics.median(seconds[name]) * 1e3
        print(f"    {name:24s} {milliseconds:9.2f} ms: {median_range(ratio, 1)}x {theirs}, bar {bar:g}x {verdict}")


def ranks(rounds: int) -> None:
    import concordance as other  # with lifelines and scikit-survival, which the losses do without

    print(f"concordance, {rounds} interleaved rounds")
    for count in (50_000, 200_000):
        for ties in (False, True):
            ranked(count, ties, rounds)
    for ties in (False, True):
        resampled(ties, rounds)
    with tempfile.TemporaryDirectory() as cache:
        for what in ("on a machine", "of a process"):
            print(f"  first call {what}: {other.child(other.COMPILE, NUMBA_CACHE_DIR=cache)}")
        rises = [
            int(other.child(other.MEMORY, str(count), NUMBA_CACHE_DIR=cache)) / count for count in (200_000, 800_000)
        ]
    verdict = "met" if rises[1] < 1.5 * rises[0] else "MISSED"
    print(f"  memory: {rises[0]:.0f} bytes a row at n 200,000, {rises[1]:.0f} at 800,000: O(n) {verdict}")


def ranked(count: int, ties: bool, rounds: int) -> None:
    from concordance import cohort, plainly
    from lifelines.utils import concordance_index
    from sksurv.metrics import concordance_index_censored

    days, died, risk = cohort(count, ties=ties)

    def ours() -> Concordance:
        return concordance(days, died, risk)

    found = ours()
    assert plainly(ours) == found and abs(found.value - concordance_index(days, -risk, died)) < 1e-12
    ways: dict[str, Callable[[], object]] = {
        "lifelines": lambda: concordance_index(days, -risk, died),
        "ours": ours,
        "ours without numba": lambda: plainly(ours),
    }
    print(f"  n {count:,}, {'ties' if ties else 'no ties'}")
    against("lifelines", interleave(ways, rounds), {"ours": RANK_BARS[ties], "ours without numba": PLAIN_BAR})
    if count > 50_000:  # seconds a call: only the smaller, and one round after the one that warms up
        return
    told: list[tuple[float, ...]] = []
    ways = {
        "scikit-survival": lambda: told.append(concordance_index_censored(died == 1, days, risk)),
        "ours": ours,
    }
    against("scikit-survival", interleave(ways, 1), {"ours": SKSURV_BAR})
    assert {each[1:4] for each in told} == {(found.concordant, found.discordant, found.tied_risk)}


def resampled(ties: bool, rounds: int) -> None:
    """Drawing of resamples is within our time, and outside theirs."""
    from concordance import BOOTSTRAP_ROWS, RESAMPLES, TIMED, cohort, draw
    from lifelines.utils import concordance_index

    days, died, risk = cohort(BOOTSTRAP_ROWS, ties=ties)
    every = np.arange(len(days))
    drawn = [np.repeat(every, draw(0, number, len(days)).astype(int)) for number in range(TIMED)]

    def ours(threads: int) -> NDArray[np.float64]:
        return bootstrap_concordance(days, died, risk, samples=RESAMPLES, threads=threads).values

    def loop() -> list[float]:
        return [concordance_index(days[rows], -risk[rows], died[rows]) for rows in drawn]

    np.testing.assert_allclose(ours(1)[:TIMED], loop(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours(1), ours(2))
    ways: dict[str, Callable[[], object]] = {
        "loop": loop, "one thread": lambda: ours(1), "two threads": lambda: ours(2),
    }  # fmt: skip
    seconds = interleave(ways, rounds)
    seconds["a lifelines loop"] = [each * RESAMPLES / TIMED for each in seconds.pop("loop")]
    print(f"  {RESAMPLES:,} bootstraps of {len(days):,} rows, {'ties' if ties else 'no ties'}")
    against("a lifelines loop", seconds, {"one thread": BOOTSTRAP_BARS[1], "two threads": BOOTSTRAP_BARS[2]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=["losses", "ranks", []], help="both, if none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", choices=["matrix", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=8192, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.count)
        return
    for part in options.part or ("losses", "ranks"):
        {"losses": losses, "ranks": ranks}[part](options.rounds)


if __name__ == "__main__":
    main()
