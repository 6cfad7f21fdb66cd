"""Which code made a number: a digest of the files of fahr, jobs and serve, since workers have no git."""

import functools
import hashlib
import importlib.util
from pathlib import Path


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Twelve hexadecimal digits that change when any file of our three packages changes."""
    running = hashlib.sha256()
    for package in ("fahr", "jobs", "serve"):
        spec = importlib.util.find_spec(package)  # found, never imported: the library does not know its jobs
        for root in sorted(spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(root).rglob("*")):
                if file.is_file() and file.suffix in _CODE:
                    running.update(f"{package}/{file.relative_to(root).as_posix()}\0".encode())
                    running.update(file.read_bytes())
    return running.hexdigest()[:12]


_CODE = {".py", ".html", ".css", ".js", ".yaml", ".json"}
