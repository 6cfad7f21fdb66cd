"""What benchmarks/survival.py leaves out of concordance: its standard error, and bootstrap and memory without numba.

python benchmarks/concordance.py [--rounds 5]        # against rivals: benchmarks/survival.py ranks

Equal outputs asserted; compiling not counted. Risks are spread so that none lie within 1e-8 unless they are equal:
there we count half, and lifelines does not.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
from _rounds import interleave, table
from lifelines.utils import concordance_index

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


def with_error(n: int, *, ties: bool, rounds: int) -> None:
    time, event, risk = cohort(n, ties=ties)

    def ours() -> Concordance:
        return concordance(time, event, risk)

    ways: dict[str, Callable[[], object]] = {"fahr": ours, "with its standard error": lambda: ours().standard_error}
    title = f"concordance, {n:,} rows, {'ties' if ties else 'no ties'}"
    table(title, interleave(ways, rounds), "fahr", n, "rows")


def uncompiled(*, ties: bool, rounds: int) -> None:
    """Drawing of resamples is within our time, and outside theirs."""
    time, event, risk = cohort(BOOTSTRAP_ROWS, ties=ties)
    every = np.arange(BOOTSTRAP_ROWS)
    drawn = [np.repeat(every, draw(0, number, BOOTSTRAP_ROWS).astype(int)) for number in range(TIMED)]

    def loop() -> list[float]:
        return [concordance_index(time[rows], -risk[rows], event[rows]) for rows in drawn]

    def ours() -> np.ndarray:
        return bootstrap_concordance(time, event, risk, samples=RESAMPLES, threads=1).values

    np.testing.assert_array_equal(plainly(ours), ours())
    name, theirs = "fahr without numba, one thread", f"lifelines, {TIMED} timed and scaled"
    seconds = interleave({name: lambda: plainly(ours), theirs: loop}, rounds)
    seconds[theirs] = [each * RESAMPLES / TIMED for each in seconds[theirs]]
    title = f"{RESAMPLES:,} bootstraps of {BOOTSTRAP_ROWS:,} rows, {'ties' if ties else 'no ties'}"
    table(title, seconds, name, RESAMPLES, "resamples")


def child(code: str, *arguments: str, **variables: str) -> str:
    run = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        run, env={**os.environ, **variables}, check=True, capture_output=True, text=True
    ).stdout.strip()


def main(rounds: int) -> None:
    for n in (200_000, 800_000):
        extra = int(child(MEMORY, str(n), FAHR_NO_NUMBA="1"))
        print(f"memory, {n:,} rows, without numba: peak {extra / 2**20:.0f} MiB higher, {extra / n:.0f} bytes a row")
    for ties in (False, True):
        uncompiled(ties=ties, rounds=rounds)
        with_error(50_000, ties=ties, rounds=rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
