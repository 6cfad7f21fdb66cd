"""Concordance and its bootstrap against lifelines and scikit-survival. Equal outputs asserted; compiling not counted.

python benchmarks/concordance.py [--rounds 5] [--quick]

Risks are spread so that none lie within 1e-8 unless they are equal: there we count half, and lifelines does not.
Concordances are timed without the standard error, which rivals do not give; with it is a row of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
from _rounds import interleave, table
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_censored

from fahr.survival import Concordance, bootstrap_concordance, concordance
from fahr.survival.plain import draw

BOOTSTRAP_ROWS, RESAMPLES, TIMED = 2_000, 1_000, 50

COMPILE = """
import time, numpy as np
from fahr.survival import bootstrap_concordance, concordance
rows = np.arange(1.0, 20.0)
started = time.perf_counter()
concordance(rows, np.ones(19), -rows).standard_error
done = time.perf_counter()
bootstrap_concordance(rows, np.ones(19), -rows, samples=8)
print(f"{done - started:.1f} s concordance, {time.perf_counter() - done:.1f} s bootstrap")
"""

MEMORY = """
import sys, numpy as np
from fahr.survival import concordance
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
rng, n = np.random.default_rng(0), int(sys.argv[1])
time, event, risk = rng.exponential(size=n), (rng.random(n) < 0.5) * 1.0, rng.normal(size=n)
concordance(time[:100], event[:100], risk[:100]).standard_error
before = peak()
concordance(time, event, risk).standard_error
print(peak() - before)
"""


def cohort(n: int, *, ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concordance of about 0.7, half censored. `ties`: about 100 different times and 80 different risks."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    died, left = rng.exponential(np.exp(-risk)), rng.exponential(1.5, n)
    time, event = np.minimum(died, left), (died <= left).astype(float)
    if ties:
        return np.ceil(time * 20) / 20, event, np.round(risk, 1)
    return time, event, np.argsort(np.argsort(risk)) * (6.0 / n)


def plainly(call: Callable[[], object]) -> object:
    """Without numba."""
    os.environ["FAHR_NO_NUMBA"] = "1"
    try:
        return call()
    finally:
        del os.environ["FAHR_NO_NUMBA"]


def single(n: int, *, ties: bool, rounds: int, against_sksurv: bool) -> None:
    time, event, risk = cohort(n, ties=ties)
    happened = event == 1

    def ours() -> Concordance:
        return concordance(time, event, risk)

    found, plain = ours(), plainly(ours)
    assert isinstance(plain, Concordance)
    assert abs(found.value - concordance_index(time, -risk, event)) < 1e-12 and found == plain
    ways: dict[str, Callable[[], object]] = {
        "fahr": ours,
        "fahr with standard error": lambda: ours().standard_error,
        "fahr without numba": lambda: plainly(ours),
        "lifelines": lambda: concordance_index(time, -risk, event),
    }
    title = f"concordance, {n:,} rows, {'ties' if ties else 'no ties'}"
    seconds = interleave(ways, rounds)
    table(title, seconds, "fahr", n, "rows")
    table(title, {name: seconds[name] for name in ("lifelines", "fahr without numba")}, "fahr without numba", n, "rows")
    if against_sksurv:  # ten seconds a call: one round, after the one that warms up
        answers = []
        ways = {
            "fahr": ours,
            "scikit-survival": lambda: answers.append(concordance_index_censored(happened, time, risk)),
        }
        table(title, interleave(ways, 1), "fahr", n, "rows")
        assert {each[1:4] for each in answers} == {(found.concordant, found.discordant, found.tied_risk)}


def many(*, ties: bool, rounds: int) -> None:
    """Drawing of resamples is within our time, and outside theirs."""
    time, event, risk = cohort(BOOTSTRAP_ROWS, ties=ties)
    every = np.arange(BOOTSTRAP_ROWS)
    drawn = [np.repeat(every, draw(0, number, BOOTSTRAP_ROWS).astype(int)) for number in range(TIMED)]

    def loop() -> list[float]:
        return [concordance_index(time[rows], -risk[rows], event[rows]) for rows in drawn]

    def ours(threads: int) -> np.ndarray:
        return bootstrap_concordance(time, event, risk, samples=RESAMPLES, threads=threads).values

    np.testing.assert_allclose(ours(1)[:TIMED], loop(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours(1), ours(2))
    np.testing.assert_array_equal(plainly(lambda: ours(1)), ours(1))
    ways: dict[str, Callable[[], object]] = {
        "fahr, two threads": lambda: ours(2),
        "fahr, one thread": lambda: ours(1),
        "fahr without numba, one thread": lambda: plainly(lambda: ours(1)),
        f"lifelines, {TIMED} timed and scaled": loop,
    }
    seconds = interleave(ways, rounds)
    theirs = f"lifelines, {TIMED} timed and scaled"
    seconds[theirs] = [each * RESAMPLES / TIMED for each in seconds[theirs]]
    title = f"{RESAMPLES:,} bootstraps of {BOOTSTRAP_ROWS:,} rows, {'ties' if ties else 'no ties'}"
    for name in list(seconds)[:3]:
        table(title, {name: seconds[name], theirs: seconds[theirs]}, name, RESAMPLES, "resamples")


def child(code: str, *arguments: str, **variables: str) -> str:
    run = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        run, env={**os.environ, **variables}, check=True, capture_output=True, text=True
    ).stdout.strip()


def main(rounds: int, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as fresh:
        for what in ("first call on a machine", "first call of a process"):
            print(f"{what}: {child(COMPILE, NUMBA_CACHE_DIR=fresh)}")
        for n in (200_000, 800_000):
            for engine, switch in (("fahr", "0"), ("fahr without numba", "1")):
                extra = int(child(MEMORY, str(n), NUMBA_CACHE_DIR=fresh, FAHR_NO_NUMBA=switch))
                print(f"memory, {n:,} rows, {engine}: peak {extra / 2**20:.0f} MiB higher, {extra / n:.0f} bytes a row")
    for ties in (False, True):
        many(ties=ties, rounds=rounds)
        single(50_000, ties=ties, rounds=rounds, against_sksurv=not quick)
        if not quick:
            single(200_000, ties=ties, rounds=rounds, against_sksurv=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without 200,000 rows and without scikit-survival")
    asked = parser.parse_args()
    main(asked.rounds, asked.quick)
