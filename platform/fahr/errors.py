"""What went wrong, sorted by who can mend it."""

from collections.abc import Iterable
from difflib import get_close_matches


class Refused(ValueError):
    """The user's input is at fault: the message names the value, the rule and the remedy. Jobs exit with status 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or nothing when none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
