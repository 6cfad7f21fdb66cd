"""The account that every stage ends with: rows in = rows out + rejects by reason."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fahr.store.files import read_bytes, write_bytes


class LedgerError(AssertionError):
    """Rows were lost or doubled: our own bug, never the user's."""


@dataclass(frozen=True)
class Ledger:
    """What came in, what went out, and why the rest did not."""

    stage: str
    rows_in: int
    rows_out: int
    rejects: Mapping[str, int] = field(default_factory=dict)
    config_digest: str = ""
    code_version: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)  # what a stage wants to tell beside the counts

    def check(self) -> "Ledger":
        """Itself, if it balances."""
        accounted = self.rows_out + sum(self.rejects.values())
        if accounted != self.rows_in:
            word = "missing" if accounted < self.rows_in else "too many"
            raise LedgerError(
                f"{self.stage}: rows_in {self.rows_in:,}, accounted for {accounted:,}, "
                f"{word} {abs(self.rows_in - accounted):,}. Please report this: a stage never loses or doubles a row."
            )
        return self

    def line(self, seconds: float | None = None, unit: str = "rows") -> str:
        """`align: rows_in 1,000 = rows_out 968 + no_face 21 + ... | 212 faces/s`"""
        parts = [f"rows_out {self.rows_out:,}"]
        parts += [
            f"{reason} {count:,}" for reason, count in sorted(self.rejects.items(), key=lambda kv: (-kv[1], kv[0]))
        ]
        text = f"{self.stage}: rows_in {self.rows_in:,} = {' + '.join(parts)}"
        return text if not seconds else f"{text} | {self.rows_in / seconds:,.0f} {unit}/s"

    def write(self, location: str) -> None:
        own = {
            "stage": self.stage,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rejects": dict(sorted(self.rejects.items())),
            "config_digest": self.config_digest,
            "code_version": self.code_version,
        }
        write_bytes(location, (json.dumps({**self.more, **own}, indent=2, default=str) + "\n").encode())

    @classmethod
    def read(cls, location: str) -> "Ledger":
        found = json.loads(read_bytes(location))
        own = {
            name: found.pop(name)
            for name in ("stage", "rows_in", "rows_out", "rejects", "config_digest", "code_version")
        }
        return cls(**own, more=found)


def added(stage: str, parts: "list[Ledger]") -> Ledger:
    """The sum of the ledgers of a stage's parts."""
    rejects: Counter[str] = Counter()
    for part in parts:
        rejects.update(part.rejects)
    return Ledger(stage, sum(part.rows_in for part in parts), sum(part.rows_out for part in parts), dict(rejects))
