"""Names of bytes: an absolute local path or `s3://bucket/key`. Keys are taken literally, never percent-decoded."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fahr.errors import Refused

S3 = "s3://"
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def is_s3(location: str) -> bool:
    return location.startswith(S3)


def absolute(location: str | os.PathLike[str], base: str | None = None) -> str:
    """An absolute path or s3:// URI. Relative ones are taken from `base` (default: the working directory).

    Jobs call this at their border: Ray workers change directory, so a relative path would point elsewhere there.
    """
    text = os.fspath(location)
    if not text:
        raise Refused("an empty location. Give a path or s3://bucket/key.")
    if "\0" in text:
        raise Refused(f"location {text!r} holds a NUL character. Give a path or s3://bucket/key.")
    scheme = _SCHEME.match(text)
    if scheme is None:
        if base is not None and is_s3(base) and not text.startswith("/"):
            return _resolved(join(base, text))
        path = text if text.startswith("/") else os.path.join(base or os.getcwd(), os.path.expanduser(text))
        return os.path.normpath(path)
    if scheme[1].lower() == "s3":
        return S3 + "/".join(bucket_and_key("s3://" + text[5:])).rstrip("/")
    if scheme[1].lower() == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
            raise Refused(
                f"{text}: not a file URI of this machine. Write file:///absolute/path, with ? as %3F, # as %23."
            )
        return os.path.normpath(unquote(parts.path))
    raise Refused(f"{text}: locations are paths or s3:// URIs, not {scheme[1]}://. Copy the data to one of these.")


def _resolved(location: str) -> str:
    """Without the ./ and ../ that a relative location was written with; // stays, a key may hold it."""
    bucket, key = bucket_and_key(location)
    kept: list[str] = []
    for part in key.split("/"):
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    return S3 + "/".join([bucket, *kept])


def bucket_and_key(location: str) -> tuple[str, str]:
    """The bucket and the key (which may be empty) of an s3:// URI."""
    bucket, _, key = location.removeprefix(S3).partition("/")
    if not is_s3(location) or not bucket:
        raise Refused(f"{location}: an S3 location is s3://bucket/key; the bucket is missing.")
    return bucket, key


def join(location: str, *parts: str) -> str:
    """`location` and what lies below it. Parts are taken literally: an S3 key may hold // or end in /."""
    return "/".join([location.rstrip("/"), *parts])


def parent(location: str) -> str:
    """The folder that holds `location`."""
    if is_s3(location):
        bucket, key = bucket_and_key(location)
        return (S3 + bucket + "/" + key.rpartition("/")[0]).rstrip("/")
    return str(Path(location).parent)


def name(location: str) -> str:
    return location.rstrip("/").rpartition("/")[2]


def relative(location: str, folder: str) -> str:
    """`location` as seen from `folder`, which must hold it."""
    prefix = folder.rstrip("/") + "/"
    if not location.startswith(prefix):
        raise ValueError(f"{location} is not inside {folder}")
    return location[len(prefix) :]
