"""What can go wrong between us and the bytes, and how long we try again before saying so."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from fahr.errors import Refused

T = TypeVar("T")


class Missing(Refused):
    """No such file, key or bucket."""


class MissingBucket(Missing):
    """No such bucket."""


class Denied(Refused):
    """No credentials, wrong ones, or no permission."""


class TooLarge(Refused):
    """More bytes than the caller is willing to read."""


def too_large(location: str, size: int, at_most: int) -> TooLarge:
    return TooLarge(f"{location}: {size:,} bytes; at most {at_most:,} are read. Give a smaller copy.")


class Exists(Refused):
    """A conditional create found the name taken."""


class Corrupt(OSError):
    """The bytes that came back are not the bytes that were written."""


class Unavailable(OSError):
    """The store did not answer in the time that `bridging` gives it."""


class Transient(Exception):
    """Raised by one attempt: worth another one."""


BRIDGE_S = 90.0  # longer than the minute that a store's fail-over or a proxy's restart takes
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 8.0


def bridging(attempt: Callable[[], T], what: str, *, seconds: float | None = None) -> T:
    """Call `attempt` until it does not raise `Transient`, for at most about `seconds` (default: BRIDGE_S).

    Waits grow twofold from 0.2 s to 8 s, each drawn uniformly from zero to that bound ("full jitter"), so that a
    thousand workers that lost the store together do not come back together.
    """
    seconds = BRIDGE_S if seconds is None else seconds
    started = time.monotonic()
    bound = _FIRST_WAIT_S
    attempts = 0
    while True:
        attempts += 1
        try:
            return attempt()
        except Transient as error:
            left = seconds - (time.monotonic() - started)
            if left <= 0:
                raise Unavailable(
                    f"{what}: {error}; gave up after {attempts} attempts in {seconds:.0f} s. "
                    "Is the store up? Run the same line again once it is: finished work is kept."
                ) from error
            time.sleep(min(random.uniform(0, bound), left))
            bound = min(2 * bound, _LONGEST_WAIT_S)
