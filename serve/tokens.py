"""Who may ask: a bearer token, which is needed unless nobody but this machine can ask.

tokens = for_host("0.0.0.0", file="/run/secrets/fahr-tokens")     # refused: no token, and others can ask
tokens.accept("Bearer 3q2-...")                                   # True or False, in the same time

A file holds a token a line; lines that begin with # are notes. Without a file the variable FAHR_TOKENS holds them,
separated by commas. `openssl rand -base64 32` makes a good one. Several let one
be replaced while another is in use.
"""

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fahr.errors import Refused

VARIABLE = "FAHR_TOKENS"
FEWEST_CHARACTERS = 24  # of base64: 144 bits, where each is drawn by chance
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:@/]+)(?::\d+)?")
_REMEDY = "Make one by: openssl rand -base64 32"


class Tokens:
    """Only their digests are kept, so that neither a log nor a pickle can tell one."""

    def __init__(self, tokens: Iterable[str]) -> None:
        given = list(tokens)
        for number, token in enumerate(given, 1):
            if len(token) < FEWEST_CHARACTERS:
                raise Refused(
                    f"token {number}: has {len(token)} characters, at least {FEWEST_CHARACTERS} are needed. {_REMEDY}"
                )
            if not _TOKEN.fullmatch(token):
                raise Refused(f"token {number}: may hold letters, digits and ._~+/- and end with =. {_REMEDY}")
        if not given:
            raise Refused(f"tokens: there is none. {_REMEDY}")
        self._digests = tuple(hashlib.sha256(token.encode()).digest() for token in given)

    def __repr__(self) -> str:
        return f"Tokens({len(self._digests)})"

    def accept(self, authorization: str | None) -> bool:
        """The header as it came. All tokens are compared, whichever fits, each in constant time."""
        scheme, _, token = (authorization or "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        fits = [hmac.compare_digest(digest, each) for each in self._digests]
        return any(fits) and scheme.lower() == "bearer"


def for_host(
    host: str, *, file: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Tokens | None:
    """Those of the file, else of the variable. None: there are none, and none are needed."""
    tokens = _read(file, environ)
    if tokens is None and required(host):
        raise Refused(
            f"host {host}: others than this machine can ask there, so a token is needed. Name a file of tokens, set "
            f"{VARIABLE}, or take 127.0.0.1 as host. {_REMEDY}"
        )
    return tokens


def required(host: str) -> bool:
    """Whether others than this machine can reach a server that is bound to `host`."""
    if host.lower().rstrip(".") == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name: who knows where it leads
        return True


def _read(file: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Tokens | None:
    if file is None:
        held = environ.get(VARIABLE, "")
        return Tokens(part.strip() for part in held.split(",") if part.strip()) if held.strip() else None
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(f"{file}: tokens cannot be read ({why}). Name a file with a token a line.") from error
    return Tokens(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def means_this_machine(authority: str) -> bool:
    """Whether a Host header, or what follows :// in an Origin, names this machine: "127.0.0.1:8000", "[::1]"."""
    found = _AUTHORITY.fullmatch(authority)
    return found is not None and not required(found[1])
