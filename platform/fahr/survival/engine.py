"""Walks over sorted lists and sums over resamples: compiled where numba is there, else by NumPy, and divided among
threads. FAHR_NO_NUMBA=1 asks for NumPy. Both ways have the same functions and find the same.

engine().sort_by_time(time, event)    engine().rank_risks(risk)    engine().walk(...)    engine().resample(...)
either("fahr.survival.compiled", "fahr.survival.plain")                  # the same for another pair of modules
divided(part, samples, threads)                                          # part(range) of all resamples
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")
LANES = 8  # resamples that are never divided among threads: what is summed in one order stays so


def engine() -> ModuleType:
    return either("fahr.survival.compiled", "fahr.survival.plain")


def either(compiled: str, plain: str) -> ModuleType:
    wanted = os.environ.get("FAHR_NO_NUMBA") != "1"
    return (_if_it_loads(compiled) if wanted else None) or import_module(plain)


@cache
def _if_it_loads(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


def divided(part: Callable[[range], T], samples: int, threads: int | None) -> list[T]:
    """`part` of ranges that together are 0 to `samples`, in order; each begins at a multiple of LANES.

    threads: at most so many; None: as many as cores.
    """
    workers = max(1, min(threads or os.cpu_count() or 1, -(-samples // LANES)))
    step = max(1, -(-samples // (LANES * workers))) * LANES
    parts = [range(first, min(first + step, samples)) for first in range(0, samples, step)]
    if len(parts) < 2:
        return [part(each) for each in parts]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(part, parts))
