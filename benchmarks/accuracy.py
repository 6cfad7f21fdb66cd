"""Errors of an age model with intervals, against loops over resampled rows. Equal outputs asserted.

python benchmarks/accuracy.py [--rounds 5] [--rows 20000] [--large 1000000]

Two photos a person, drawn whole. The loops, in NumPy and in pandas, get their draws for nothing, give the same measures
(of the whole sample, and MAE and bias by decade; not the groups), and are timed over a few resamples and scaled to
1,000. Our time holds the reading of the input, the draws and everything else. On the large sample only we are timed;
`--large 0` leaves it out.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from _rounds import interleave, table

from fahr.biomarkers import AgeAccuracy, age_accuracy
from fahr.survival.plain import draw

RESAMPLES, TIMED, QUANTILES = 1_000, 20, [0.025, 0.975]
WHOLE = ("mae", "bias", "rmse", "pearson", "r2", "slope", "error_slope", "difference_sd", "difference_slope")
NEAR = (3, 5, 10)

COMPILE = """
import time, numpy as np
from fahr.biomarkers import age_accuracy
age = np.arange(20.0, 90.0)
started = time.perf_counter()
age_accuracy(age, age + 1, bootstraps=8)
print(f"{time.perf_counter() - started:.1f} s")
"""


def cohort(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages, face ages, and whose they are as numbers in the order of appearance."""
    rng = np.random.default_rng(seed)
    person = np.arange(n) // 2
    age = rng.uniform(0, 99, n // 2 + 1)[person]
    return age, 9 + 0.8 * age + rng.normal(0, 3, n // 2 + 1)[person] + rng.normal(0, 5, n), person


def of_rows(age: np.ndarray, face_age: np.ndarray) -> list[float]:
    """WHOLE, then NEAR, then the mean of decades, MAE and bias of each decade: each by its own formula, from rows."""
    error = face_age - age
    size, decade = np.abs(error), (age // 10).astype(np.int64)
    mean = (age + face_age) / 2
    slope, error_slope = (np.cov(age, each)[0, 1] / age.var(ddof=1) for each in (face_age, error))
    whole = [
        size.mean(), error.mean(), np.sqrt((error**2).mean()), np.corrcoef(age, face_age)[0, 1],
        1 - (error**2).sum() / ((age - age.mean()) ** 2).sum(), slope, error_slope, error.std(ddof=1),
        np.cov(mean, error)[0, 1] / mean.var(ddof=1), *((size <= k).mean() for k in NEAR),
    ]  # fmt: skip
    many = np.bincount(decade, minlength=10)
    mae, bias = (np.bincount(decade, each, minlength=10) / many for each in (size, error))
    return [float(each) for each in [*whole, mae.mean(), *mae, *bias]]


def of_frame(frame: pd.DataFrame) -> list[float]:
    """The same, as one would write it in pandas."""
    age, face_age, error, size = (frame[name] for name in ("age", "face_age", "error", "size"))
    mean = frame["mean"]
    whole = [
        size.mean(), error.mean(), np.sqrt((error**2).mean()), age.corr(face_age),
        1 - (error**2).sum() / ((age - age.mean()) ** 2).sum(), age.cov(face_age) / age.var(),
        age.cov(error) / age.var(), error.std(), mean.cov(error) / mean.var(), *((size <= k).mean() for k in NEAR),
    ]  # fmt: skip
    decades = frame.groupby("decade")[["size", "error"]].mean()
    return [float(each) for each in [*whole, decades["size"].mean(), *decades["size"], *decades["error"]]]


def ends(found: AgeAccuracy) -> np.ndarray:
    """(measures, 2) in the order of `of_rows`."""
    names = [*WHOLE, *(f"within_{k}" for k in NEAR), "binwise_mae"]
    told = [getattr(found.errors, name) for name in names]
    told += [getattr(band, name) for name in ("mae", "bias") for band in found.bands]
    return np.array([[each.low, each.high] for each in told])


def plainly(call: Callable[[], AgeAccuracy]) -> AgeAccuracy:
    """Without numba."""
    os.environ["FAHR_NO_NUMBA"] = "1"
    try:
        return call()
    finally:
        del os.environ["FAHR_NO_NUMBA"]


def against_loops(n: int, rounds: int) -> None:
    age, face_age, person = cohort(n)
    people = int(person.max()) + 1
    drawn = [np.repeat(np.arange(n), draw(0, number, people).astype(int)[person]) for number in range(TIMED)]
    frame = pd.DataFrame({"age": age, "face_age": face_age, "error": face_age - age})
    frame = frame.assign(size=frame.error.abs(), mean=(age + face_age) / 2, decade=age // 10)

    def ours(threads: int, bootstraps: int = RESAMPLES) -> AgeAccuracy:
        return age_accuracy(age, face_age, subjects=person, bootstraps=bootstraps, threads=threads)

    def in_numpy() -> list[list[float]]:
        return [of_rows(age[rows], face_age[rows]) for rows in drawn]

    def in_pandas() -> list[list[float]]:
        return [of_frame(frame.iloc[rows]) for rows in drawn]

    wanted = np.quantile(in_numpy(), QUANTILES, axis=0).T
    np.testing.assert_allclose(np.quantile(in_pandas(), QUANTILES, axis=0).T, wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ends(ours(2, TIMED)), wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ends(plainly(lambda: ours(2, TIMED))), wanted, rtol=0, atol=1e-9)
    assert ours(1) == ours(2)
    loops = {f"NumPy, {TIMED} timed and scaled": in_numpy, f"pandas, {TIMED} timed and scaled": in_pandas}
    ways: dict[str, Callable[[], object]] = {
        "fahr, two threads": lambda: ours(2),
        "fahr, one thread": lambda: ours(1),
        "fahr without numba, one thread": lambda: plainly(lambda: ours(1)),
        **loops,
    }
    seconds = interleave(ways, rounds)
    for name in loops:
        seconds[name] = [each * RESAMPLES / TIMED for each in seconds[name]]
    for name in [*ways][:3]:
        shown = {name: seconds[name], **{loop: seconds[loop] for loop in loops}}
        table(f"{RESAMPLES:,} bootstraps of {n:,} photos", shown, name, RESAMPLES, "resamples")


def early_stopping(rounds: int) -> None:
    age, face_age, person = cohort(10_000)
    ways = {"with subjects": person, "without": None}
    seconds = interleave(
        {name: lambda who=who: age_accuracy(age, face_age, subjects=who, bootstraps=0) for name, who in ways.items()},
        max(rounds, 5),
    )
    for name, taken in seconds.items():
        print(f"10,000 faces, no bootstraps, {name}: {1e3 * np.median(taken):.1f} ms")


def large(n: int) -> None:
    age, face_age, person = cohort(n)
    sex = np.array(["female", "male"])[person % 2]
    age_accuracy(age[:100], face_age[:100], bootstraps=8)  # compiles
    for what, groups in (("no groups", None), ("two groups of sex", {"sex": sex})):
        for threads in (1, 2):
            started, before = time.perf_counter(), time.process_time()
            age_accuracy(age, face_age, subjects=person, groups=groups, bootstraps=RESAMPLES, threads=threads)
            wall, cpu = time.perf_counter() - started, time.process_time() - before
            told = f"{n:,} photos, {RESAMPLES:,} bootstraps, {what}, {threads} threads"
            print(f"{told}: {wall:.1f} s ({cpu:.1f} s of cores)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB, everything included")


def main(rounds: int, rows: int, largest: int) -> None:
    with tempfile.TemporaryDirectory() as fresh:
        for what in ("first call on a machine", "first call of a process"):
            run = [sys.executable, "-c", COMPILE]
            done = subprocess.run(
                run, env={**os.environ, "NUMBA_CACHE_DIR": fresh}, check=True, capture_output=True, text=True
            )
            print(f"{what}: {done.stdout.strip()}")
    early_stopping(rounds)
    against_loops(rows, rounds)
    if largest:
        large(largest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000, help="photos, for the comparison with loops")
    parser.add_argument("--large", type=int, default=1_000_000, help="photos, for our time alone; 0 leaves it out")
    asked = parser.parse_args()
    main(asked.rounds, asked.rows, asked.large)
