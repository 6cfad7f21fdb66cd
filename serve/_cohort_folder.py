"""A cohort's folder: all that is known of it, so that nothing is lost with a process. Local or s3://.

RESULTS/keys/DIGEST.json        the cohort that an Idempotency-Key made, and of which request
RESULTS/ID/request.json         what is scored, by what, with which resources: made once
RESULTS/ID/manifest.csv         the table, where one was uploaded
RESULTS/ID/out/                 the output folder of jobs/score.py: its units, scores and ledger.json
RESULTS/ID/log.txt              what the job said: for the operator, since it may name photos
RESULTS/ID/ended.json           how the job failed, and why
RESULTS/ID/erasing              from here on there is no such cohort, and what is left goes
"""

import errno
import functools
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from fahr import store

_ID = re.compile(r"[0-9a-f]{32}")
_READERS = 16
_QUIET_S = 1.0  # nothing may appear for so long: a worker that dies can still finish the write it is in
_LONGEST_S = 30.0


def new_id() -> str:
    """128 random bits: whoever has no id finds none."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Progress:
    rows_done: int
    rows_total: int | None  # None: the manifest has not been read yet


class Cohort:
    """One of them, by its id. Only ids of our form have a folder, so none leads elsewhere."""

    def __init__(self, results: str, id: str) -> None:
        if not _ID.fullmatch(id):
            raise store.Missing("no such cohort")
        self.results, self.id = results, id
        self.folder = store.join(results, id)
        self.output = store.join(self.folder, "out")
        self.manifest = store.join(self.folder, "manifest.csv")

    def exists(self) -> bool:
        return store.exists(self._at("request.json")) and not self.erasing()

    def erasing(self) -> bool:
        return store.exists(self._at("erasing"))

    def create(self, request: Mapping[str, Any]) -> None:
        """`request`: `options` of jobs/score.py, `roots` that photos may be under, `key` if it was made by one."""
        store.create_bytes(self._at("request.json"), json.dumps(request, indent=1).encode())

    def request(self) -> dict[str, Any]:
        return dict(json.loads(store.read_bytes(self._at("request.json"))))

    def _at(self, name: str) -> str:
        return store.join(self.folder, name)

    # --- how far it is ---

    def ledger(self) -> dict[str, Any] | None:
        """The account of a finished job, without the server's own paths."""
        try:
            found: dict[str, Any] = json.loads(store.read_bytes(store.join(self.output, "ledger.json")))
        except store.Missing:
            return None
        models = {
            task: {name: value for name, value in model.items() if name != "checkpoint"}
            for task, model in found["models"].items()
        }
        return {name: value for name, value in found.items() if name not in ("manifest", "faces")} | {"models": models}

    def failure(self) -> str | None:
        """Why it failed, in a sentence; None: it did not, as far as the job could tell."""
        try:
            told = json.loads(store.read_bytes(self._at("ended.json")))["detail"]
        except store.Missing:
            return None
        return str(told).replace(self.manifest, "the uploaded table")

    def fail(self, status: int, detail: str) -> None:
        store.write_bytes(self._at("ended.json"), json.dumps({"status": status, "detail": detail}).encode())

    def begin_again(self) -> None:
        store.delete(self._at("ended.json"))

    def log(self, text: str) -> None:
        """What the job said: for the operator, and erased with the rest."""
        store.write_bytes(self._at("log.txt"), text.encode())

    def progress(self) -> Progress:
        """From the plans and markers of the job's work units."""
        sizes, done = self._units()
        return Progress(sum(sizes[unit] for unit in done), sum(sizes.values()) if sizes else None)

    def _units(self) -> tuple[dict[str, int], set[str]]:
        """Rows of each planned unit, in the order of the plan, which is that of photo_id; and those that are done."""
        units = store.join(self.output, "units")
        try:
            listed = [store.relative(entry.location, units) for entry in store.list_files(units)]
        except store.Missing:
            return {}, set()
        sizes: dict[str, int] = {}
        for plan in sorted(name for name in listed if name.startswith("plan-")):
            sizes |= _plan(store.join(units, plan))
        marked = {name.removeprefix("done/").removesuffix(".json") for name in listed if name.startswith("done/")}
        return sizes, marked & sizes.keys()

    # --- what comes out ---

    def scores(self) -> Iterator[pa.Table]:
        """A table a unit, every file's digest checked, by photo_id: the rows of scores.csv, of any number."""
        order = {unit: place for place, unit in enumerate(self._units()[0])}
        units = sorted(store.committed(self.output), key=lambda unit: order[unit.name])
        files = [unit.files["scores"] for unit in units if unit.files["scores"]["rows"]] or [units[0].files["scores"]]
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(files), _READERS):
                yield from pool.map(
                    lambda file: store.read_unit(self.output, "scores", file["name"], file["sha256"]),
                    files[start : start + _READERS],
                )

    # --- the end ---

    def begin_erasing(self) -> None:
        """From now on nobody finds it. What is interrupted after this is taken up by the next one who erases."""
        store.create_bytes(self._at("erasing"), b"")

    def erase(self) -> None:
        """All that is left, until nothing comes any more; its job must have ended. The marker goes last."""
        try:
            key = self.request()["key"]
        except store.Missing:
            key = None
        quiet_since = started = time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_S:
            if _emptied(self.folder, keep="erasing"):
                quiet_since = time.monotonic()
            if quiet_since - started > _LONGEST_S:
                raise store.Unavailable(f"{self.folder}: what is deleted there comes again. Erase it once more.")
            time.sleep(0.1)
        if key is not None:
            store.delete(_key_file(self.results, key))
        _emptied(self.folder)


def _emptied(folder: str, keep: str = "") -> bool:
    """Delete what is there, but for the file `keep`. Whether there was anything."""
    if not store.is_s3(folder):
        return _emptied_local(folder, keep)
    found = [entry.location for entry in store.list_files(folder) if store.relative(entry.location, folder) != keep]
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(store.delete, found))
    return bool(found)


def _emptied_local(folder: str, keep: str) -> bool:
    """Unfinished writes and empty folders go too."""
    try:
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if entry.name != keep]
    except FileNotFoundError:
        return False
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)  # a dying worker may write beside us: looked at again
        else:
            store.delete(entry.path)
    if not keep:
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # somebody else erases it too, and goes on
                raise
    return bool(found)


@functools.lru_cache(maxsize=64)
def _plan(location: str) -> Mapping[str, int]:
    """Rows of each unit. A plan is written once and never changed."""
    counts: Counter[str] = Counter()
    for table in store.read_parquet(location, ["unit"]):
        counts.update(table["unit"].to_pylist())
    return counts


# --- idempotency keys ---


class Claim(NamedTuple):
    id: str  # of the cohort
    digest: str  # of the request that it was made from


def claimed(results: str, key: str) -> Claim | None:
    """What this key stands for, if for anything."""
    try:
        return Claim(**json.loads(store.read_bytes(_key_file(results, key))))
    except store.Missing:
        return None


def claim(results: str, key: str, digest: str) -> Claim:
    """What it stands for from now on: the first who asks decides."""
    wanted = Claim(new_id(), digest)
    if store.create_bytes(_key_file(results, key), json.dumps(wanted._asdict()).encode()):
        return wanted
    return claimed(results, key) or claim(results, key, digest)  # erased in between


def _key_file(results: str, key: str) -> str:
    """`key`: hexadecimal, a digest."""
    return store.join(results, "keys", f"{key}.json")
