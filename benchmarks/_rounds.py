"""A, B, A, B in one process: the only way here to say that something is faster than something else."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, list[float]]:
    """Seconds of each way, a list over rounds. One round of warming up is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_range(values: list[float], digits: int = 2) -> str:
    """`median [smallest-largest]`"""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def ratios(rival: list[float], ours: list[float]) -> list[float]:
    """How many times faster ours is, round by round."""
    return [slow / fast for slow, fast in zip(rival, ours, strict=True)]


def table(title: str, seconds: Mapping[str, list[float]], ours: str, count: int, unit: str) -> None:
    """Rates, and what each rival takes as a multiple of ours."""
    print(f"{title}: {count:,} {unit}, {len(seconds[ours])} interleaved rounds, median [range]")
    for name, values in seconds.items():
        rates = [count / value for value in values]
        versus = "" if name == ours else f"   ours is {median_range(ratios(values, seconds[ours]))}x"
        print(f"  {name:42s} {median_range(rates, 0):>28s} {unit}/s{versus}")
