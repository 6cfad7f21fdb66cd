"""One progress bar for everything that takes long: count, rate and time left, on standard error."""

import sys
from typing import Any

from tqdm import tqdm

QUIET_S = 1.0  # what ends within a second needs no bar


def progress(total: int | None, unit: str, what: str) -> Any:
    """A tqdm bar. In a log file (no terminal) a line every half minute at most, not ten a second."""
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=f" {unit}",
        desc=what,
        unit_scale=True,
        mininterval=0.2 if live else 30.0,
        delay=QUIET_S,
        ascii=not live,
    )
