"""Which places a request may name: those under a root that the operator allowed, links resolved first. None by default.

roots = Roots(["/data/hospital", "s3://hospital/photos"])
roots.within("/data/hospital/people.csv")        # the place without its links, or None: outside
check_photos("/data/hospital/people.csv", roots)  # Refused if a row names a photo elsewhere

Nobody learns here whether a file outside exists: the answer for it is the same.
"""

import functools
import os
from collections.abc import Iterable

from fahr import store
from fahr.cohorts import iter_manifest
from fahr.errors import Refused

_DOTS = (".", "..")


class Outside(Refused):
    """A place that no root holds."""


class Roots:
    """Folders and prefixes, S3 or local, as they are when the question is asked: a root may itself be a link."""

    def __init__(self, places: Iterable[str]) -> None:
        self.places = tuple(store.absolute(place) for place in places)

    def within(self, location: str) -> str | None:
        """`location` without links and dots if a root holds it. A relative one is nobody's, so it is outside."""
        if not location.startswith("/") and "://" not in location:
            return None
        found = _resolved(store.absolute(location))
        return found if found is not None and self._hold(found) else None

    def _hold(self, resolved: str) -> bool:
        """The slash counts: s3://bucket-evil is not under s3://bucket, nor /data2 under /data."""
        roots = (_resolved(place) for place in self.places)
        return any(resolved == root or resolved.startswith(f"{root.rstrip('/')}/") for root in roots if root)

    def within_whole(self, folder: str) -> str | None:
        """As `within`; and the files directly in a local folder (a checkpoint, shards) are under a root too."""
        found = self.within(folder)
        if found is None or store.is_s3(found) or not os.path.isdir(found):
            return found
        with os.scandir(found) as files:
            return found if all(self.within(file.path) for file in files) else None


def _resolved(location: str) -> str | None:
    """None: a key with dots for a folder, which S3 takes literally and a store on a file system may not."""
    if not store.is_s3(location):
        return os.path.realpath(location)
    return None if any(part in _DOTS for part in location.split("/")) else location


def check_photos(manifest: str, roots: Roots) -> int:
    """How many rows there are, each with a photo under a root. Refused: a broken manifest, a photo elsewhere."""

    @functools.lru_cache(maxsize=4096)
    def folder_within(folder: str) -> bool:
        return roots.within(folder) is not None

    def allowed(uri: str) -> bool:
        if store.is_s3(uri):
            return roots.within(uri) is not None
        if os.path.islink(uri):
            return roots.within(uri) is not None
        return folder_within(os.path.dirname(uri))

    count = 0
    for table in iter_manifest(manifest):
        for row, uri in enumerate(table["uri"].to_pylist(), count + 1):
            if not allowed(uri):
                raise Outside(
                    f"photo {row:,} of the manifest ({uri}): is not under a root that this server may read. Give "
                    "absolute paths or s3:// URIs below one, or ask the operator to allow another."
                )
        count += table.num_rows
    return count
