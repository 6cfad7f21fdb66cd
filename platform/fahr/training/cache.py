"""Files on the local disk made once of something that lies elsewhere: whole or not there, made by one process.

NAME        the data
NAME.json   its facts, written last: a file without them, or of another size than they say, is made anew
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from fahr import store
from fahr.errors import Refused

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, the user's quota, the process's limit


@dataclass(frozen=True)
class Cached:
    path: str
    facts: Mapping[str, Any]


def cached(folder: str, name: str, needed: int, make: Callable[[IO[bytes]], dict[str, Any]]) -> Cached:
    """The file `name` of the local `folder`; if it is not there, `make` writes it and tells its facts (JSON-able).

    `needed`: about how many bytes it will have. Processes that want the same file wait for the one that makes it.
    """
    if store.is_s3(folder):
        raise Refused(f"{folder}: a cache is a folder on a local disk. Name a local path.")
    path = store.join(folder, name)
    with _alone(folder, name):
        facts = _facts(path)
        if facts is None:
            for left in glob.glob(glob.escape(store.join(folder, f".{name}")) + ".*.part"):
                os.unlink(left)  # by a process that was killed: nobody else may write here now
            facts = _made(path, needed, make)
    return Cached(path, facts)


@contextlib.contextmanager
def _alone(folder: str, name: str) -> Iterator[None]:
    """Hold the name's lock, which the system lets go of when its holder dies."""
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(store.join(folder, f".{name}.lock"), "wb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Refused(f"{folder}: cannot hold a cache ({error.strerror}). Name a local folder to write in.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _facts(path: str) -> dict[str, Any] | None:
    if not os.path.isfile(path + ".json"):
        return None
    facts: dict[str, Any] = json.loads(store.read_bytes(path + ".json"))
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size == facts["bytes"]:
        return facts
    warnings.warn(f"{path}: has {size:,} bytes instead of {facts['bytes']:,}: it is made anew.", stacklevel=4)
    os.unlink(path + ".json")
    return None


def _made(path: str, needed: int, make: Callable[[IO[bytes]], dict[str, Any]]) -> dict[str, Any]:
    free = shutil.disk_usage(os.path.dirname(path)).free
    if needed > free:
        raise _full(path, needed, free)
    try:
        with store.atomic_writer(path) as file:
            facts = make(file)
            facts["bytes"] = file.seek(0, os.SEEK_END)
        store.write_bytes(path + ".json", json.dumps(facts).encode())
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(path, needed, shutil.disk_usage(os.path.dirname(path)).free) from error
    return facts


def _full(path: str, needed: int, free: int) -> Refused:
    return Refused(
        f"{path}: about {needed / 1e9:,.2f} GB are needed and {free / 1e9:,.2f} GB are free (a quota may leave less). "
        "Free some, or name a cache folder on another disk."
    )
