"""Every file below a folder or prefix, in name order, streaming, in parallel where that helps."""

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import IO

from fahr.store import s3
from fahr.store.failures import Missing
from fahr.store.files import PART, told
from fahr.store.locations import bucket_and_key, is_s3
from fahr.store.s3 import Entry

WALKERS = 16  # listings in flight: they wait for the network, not for Python
_PAGES_ALONE = 10  # 10,000 keys: below that, finding the sub-prefixes costs more than it saves
_SPOOL_BYTES = 1 << 20  # of a finished listing kept in memory while earlier ones are handed out; the rest waits on disk
_LAST = chr(0x10FFFF)  # sorts after every character that a key can go on with


def list_files(folder: str, *, walkers: int = WALKERS) -> Iterator[Entry]:
    """Every file below `folder`, in the order of their full names; memory does not grow with their number.

    Unfinished local writes are left out. S3 gives 1,000 keys a request, one request after the other, so a large
    prefix is cut into sub-prefixes that are listed side by side.
    """
    return _list_s3(folder.rstrip("/") + "/", walkers) if is_s3(folder) else _list_local(folder)


def _list_local(folder: str) -> Iterator[Entry]:
    with told(folder):
        if not os.path.isdir(folder):
            os.stat(folder)  # missing or forbidden is said as such
            raise Missing(f"{folder}: is a file, not a folder. Name the folder that holds it.")
    yield from _walk(folder)


def _walk(root: str) -> Iterator[Entry]:
    """Depth first, names sorted as S3 sorts keys: a folder's name is compared with its slash.

    A stack of our own: folders can be nested deeper than Python calls. Linked folders are followed, but never into one
    of their own ancestors.
    """
    waiting: list[tuple[str, Entry | None, frozenset[tuple[int, int]]]] = [(root + "/", None, frozenset())]
    while waiting:
        path, entry, above = waiting.pop()
        if entry is not None:
            yield entry
            continue
        folder = path.rstrip("/") or "/"
        with told(folder):
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in above:
                continue
            found = sorted(_seen(folder), key=lambda each: each[0])
        inside = above | {(stat.st_dev, stat.st_ino)}
        waiting += [(name, each, inside) for name, each in reversed(found)]


def _seen(folder: str) -> Iterator[tuple[str, Entry | None]]:
    """What a folder holds: (path with a slash, None) for a folder, (path, entry) for a file."""
    with os.scandir(folder) as scan:
        for item in scan:
            if item.name.startswith(".") and item.name.endswith(PART):
                continue
            try:
                if item.is_dir():
                    yield item.path + "/", None
                    continue
                stat = item.stat()
            except OSError:  # a link to nothing or to itself, or deleted since: listed as empty, so that it is told of
                yield item.path, Entry(item.path, 0, datetime.fromtimestamp(0, UTC))
            else:
                yield item.path, Entry(item.path, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))


def _list_s3(prefix: str, walkers: int) -> Iterator[Entry]:
    """The first pages one after the other; what remains in sub-prefixes, listed by threads into spools."""
    token, last = "", ""
    for _ in range(_PAGES_ALONE):
        entries, token = s3.page(prefix, token)
        yield from _without_folder_marks(entries)
        if not token:
            return
        last = bucket_and_key(entries[-1].location)[1]
    with ThreadPoolExecutor(walkers, thread_name_prefix="list") as pool:
        waiting = [pool.submit(_spool, part, last) for part in _parts(prefix, walkers, last)]
        try:
            for future in waiting:
                with future.result() as spool:
                    yield from _without_folder_marks(_read_spool(spool))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _without_folder_marks(entries: "Iterator[Entry] | list[Entry]") -> Iterator[Entry]:
    """Web consoles make an empty object `folder/` for each folder: a mark, not a file."""
    return (entry for entry in entries if not entry.location.endswith("/"))


def _parts(prefix: str, wanted: int, after: str) -> list[str]:
    """Prefixes that together cover what follows key `after`, in order, `wanted` or more where the keys allow it."""
    parts = [prefix]
    while len(parts) < wanted:
        finer = [longer for part in parts for longer in _next_characters(part, after)]
        if finer == parts:
            break
        parts = finer
    return parts


def _next_characters(prefix: str, after: str) -> list[str]:
    """`prefix` with each character that a key after `after` goes on with, found by jumping from one to the next."""
    found: list[str] = []
    key = bucket_and_key(prefix)[1]
    entry = s3.first_after(prefix, after)
    while entry is not None:
        if entry.location == prefix:  # a key that is the prefix itself: it cannot be cut further
            return [prefix]
        longer = entry.location[: len(prefix) + 1]
        found.append(longer)
        entry = s3.first_after(prefix, key + longer[-1] + _LAST)
    return found


def _spool(prefix: str, after: str) -> IO[str]:
    spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, mode="w+", encoding="utf-8")  # noqa: SIM115 - the reader closes it
    for page in s3.pages(prefix, after):
        for entry in page:
            spool.write(json.dumps([entry.location, entry.size, entry.modified.timestamp()]) + "\n")
    spool.seek(0)
    return spool


def _read_spool(spool: IO[str]) -> Iterator[Entry]:
    for line in spool:
        location, size, modified = json.loads(line)
        yield Entry(location, size, datetime.fromtimestamp(modified, UTC))
