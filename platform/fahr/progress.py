"""One progress bar for everything that takes long: count, rate and time left, on standard error."""

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

QUIET_S = 1.0  # what ends within a second needs no bar


class _Lines(tqdm):  # type: ignore[misc]
    """For a log file: whole lines, not one line that is written over."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def tell(text: str) -> None:
            if text.strip():
                file.write(f"{text}\n")
                file.flush()

        return tell


def progress(total: int | None, unit: str, what: str) -> Any:
    """A tqdm bar. In a log file (no terminal) a line every half minute at most, not ten a second.

    The rate is the mean since `start_t`, which a stage whose start takes long may move to when its work began.
    """
    live = sys.stderr.isatty()
    return (tqdm if live else _Lines)(
        total=total,
        unit=f" {unit}",
        desc=what,
        unit_scale=True,
        mininterval=0.2 if live else 30.0,
        delay=QUIET_S,
        smoothing=0,
        ascii=not live,
    )
