"""The few things we do with bytes, the same for a local path and for s3://bucket/key."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from fahr.store import s3
from fahr.store.failures import Denied, Exists, Missing, MissingBucket, too_large
from fahr.store.locations import S3, is_s3

PART = ".part"  # an unfinished local write: `.NAME.RANDOM.part`, never listed, never read
_CHUNK = 8 << 20


@contextlib.contextmanager
def told(location: str) -> Iterator[None]:
    """The operating system's refusals in our words."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing(f"{location}: no such file or folder. Check the path.") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise Missing(f"{location}: lies below a file, not a folder. Name a folder, or move that file.") from error
    except IsADirectoryError as error:
        raise Missing(f"{location}: is a folder, not a file. Name a file in it.") from error
    except PermissionError as error:
        raise Denied(f"{location}: no permission. Check the owner and the mode, or run as another user.") from error
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise Denied(f"{location}: the file system is read-only. Name a place that can be written.") from error


def read_bytes(location: str, at_most: int | None = None) -> bytes:
    """All bytes. More than `at_most` of them: `TooLarge`, before they are read."""
    if is_s3(location):
        return s3.read(location, at_most)
    with told(location), open(location, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if at_most is not None and size > at_most:
            raise too_large(location, size, at_most)
        return file.read()


def open_input(location: str) -> Any:
    """A seekable binary file for reading parts of something large: tables, shards. pyarrow and Python both take it.

    Ranges are not digest-checked by the store: Parquet pages carry their own checksums (shards.py).
    """
    if is_s3(location):
        s3.head(location)  # refuses in one line; pyarrow's own message is four lines of SDK
        return s3.filesystem().open_input_file(location.removeprefix(S3))
    with told(location):
        return open(location, "rb")


@contextlib.contextmanager
def atomic_writer(location: str, *, only_if_absent: bool = False) -> Iterator[IO[bytes]]:
    """A binary file whose content appears under `location` whole, or not at all.

    An exception inside the block, a kill at any moment or a full disk leaves what was there before. (pyarrow's own
    output streams complete the upload when an exception closes them: half an object under its final name.)
    `only_if_absent` raises `Exists` when somebody else holds the name.
    """
    if not is_s3(location):
        with _local_writer(location, only_if_absent) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:  # unlinked from the start: a kill leaves nothing on disk either
        yield file
        size = file.seek(0, os.SEEK_END)
        s3.put(location, file, size, _sha256(file), only_if_absent=only_if_absent)


@contextlib.contextmanager
def _local_writer(location: str, only_if_absent: bool) -> Iterator[IO[bytes]]:
    folder, name = os.path.split(location)
    with told(location):  # what the block itself raises is the caller's, and stays as it is
        os.makedirs(folder, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{name[:100]}.", suffix=PART, dir=folder)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with told(location):
            os.chmod(part, 0o666 & ~_umask())  # mkstemp makes files that only the owner reads
            if only_if_absent:
                try:
                    os.link(part, location)  # fails when the name is taken, and never shows half a file
                except FileExistsError as error:
                    raise Exists(f"{location}: exists already.") from error
            else:
                os.replace(part, location)
                part = ""
            _fsync_folder(folder)
    finally:
        if part:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)


def _umask() -> int:
    """The process's umask. Linux tells it without the set-and-restore race of os.umask between threads."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return 0o022


def _fsync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(location: str, data: bytes) -> None:
    """Replace what is there, whole or not at all."""
    with atomic_writer(location) as file:
        file.write(data)


def create_bytes(location: str, data: bytes) -> bool:
    """Write only if the name is free. False: somebody else holds it, and nothing was changed."""
    try:
        with atomic_writer(location, only_if_absent=True) as file:
            file.write(data)
    except Exists:
        return False
    return True


def exists(location: str) -> bool:
    """Whether a file or object of exactly this name is there (a folder is not)."""
    if not is_s3(location):
        return os.path.isfile(location)
    try:
        s3.head(location)
    except MissingBucket:
        raise  # a mistake, not an absence
    except Missing:
        return False
    return True


def delete(location: str) -> None:
    """Remove a file or object; one that is not there is no error."""
    if is_s3(location):
        s3.delete(location)
        return
    with contextlib.suppress(Missing), told(location):
        os.unlink(location)


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def digest(location: str) -> str:
    """`sha256:...` of the content, read in pieces."""
    with open_input(location) as file:
        running = hashlib.sha256()
        while piece := file.read(_CHUNK):
            running.update(piece)
    return f"sha256:{running.hexdigest()}"
