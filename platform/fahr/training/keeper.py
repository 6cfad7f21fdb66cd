"""The states of a run on disk or in a bucket: the newest few, each whole, to go on from.

keeper = Keeper("runs/mae/states", digest, background)
if taken := keeper.newest():
    restore(taken, state)
keeper.save(snapshot(state, digest))     # returns at once
"""

import re
from collections.abc import Callable

from fahr import store
from fahr.errors import Refused
from fahr.store.failures import MissingBucket
from fahr.training.background import Background
from fahr.training.state import Damaged, Snapshot, read, write

_NAME = re.compile(r"state-(\d{15})\.safetensors")


class Keeper:
    def __init__(
        self, folder: str, digest: str, background: Background | None, *, keep: int = 3,
        say: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        """`keep`: so many states stay, the newest. `digest`: of what decides the run; other states are refused.
        `background`: what writes them; None for one that only reads."""
        if keep < 1:
            raise Refused(f"keep {keep}: at least 1 state must stay, or a killed run has nothing to go on from.")
        self.folder, self.digest, self._background, self._keep, self._say = folder, digest, background, keep, say

    def positions(self) -> list[int]:
        """Of the states that are there, the newest last."""
        return sorted(self._there())

    def newest(self) -> Snapshot | None:
        """The newest state that can be read; None where there is none. Refused: states, and none that can be read.

        A damaged one is deleted once an older one was found sound: left there, it would pass for the newest for ever.
        """
        damaged: list[str] = []
        for _, location in sorted(self._there().items(), reverse=True):
            try:
                found = read(location, self.digest)
            except (Damaged, store.Corrupt) as error:  # a store may notice by itself that bytes have rotted
                self._say(f"{error} The one before it is tried.")
                damaged.append(location)
                continue
            for each in damaged:
                store.delete(each)
            return found
        if damaged:
            raise Refused(
                f"{self.folder}: none of its {len(damaged)} states can be read. Restore them from a copy, or delete "
                "the folder to begin from the first step."
            )
        return None

    def at(self, position: int) -> Snapshot:
        """The state that another worker found to be the newest."""
        return read(self._place(position), self.digest)

    def save(self, snapshot: Snapshot, before: Callable[[], None] = lambda: None) -> None:
        """Soon, and after `before`: what was told up to a state must be there when a run goes on from it."""

        def job() -> None:
            before()
            self._write(snapshot)

        assert self._background is not None, "a keeper that only reads"
        self._background.put(store.name(self.folder), job)  # "states", or whatever kind they are

    def clear(self) -> None:
        """Delete all states: of a run that has ended well nothing needs them."""
        for location in self._there().values():
            store.delete(location)

    def _write(self, snapshot: Snapshot) -> None:
        write(self._place(snapshot.facts["position"]), snapshot)
        there = self._there()
        for position in sorted(there)[: -self._keep]:
            store.delete(there[position])

    def _place(self, position: int) -> str:
        return store.join(self.folder, f"state-{position:015d}.safetensors")

    def _there(self) -> dict[int, str]:
        try:
            entries = list(store.list_files(self.folder))
        except MissingBucket:
            raise
        except store.Missing:
            return {}  # no state was written yet
        found = {}
        for entry in entries:
            match = _NAME.fullmatch(store.name(entry.location))
            if match and entry.location == self._place(int(match[1])):  # not a copy that somebody laid a folder below
                found[int(match[1])] = entry.location
        return found
