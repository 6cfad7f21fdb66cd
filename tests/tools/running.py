"""`python -m serve` as a process, with all that it starts: how it answers from the start on, where it listens."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tools.head import ROOT, free_port

LISTENING = "0A"  # of /proc/net/tcp


@dataclass
class Running:
    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    def processes(self) -> dict[int, str]:
        """All of its session that are alive: number -> command line."""
        found = {}
        for place in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                stat = (place / "stat").read_text().rpartition(")")[2].split()
                if int(stat[3]) == self.process.pid and stat[0] != "Z":
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def listening(self, title: str) -> set[str]:
        """Addresses, in hexadecimal, at which its processes with `title` in their command lines take connections."""
        found = set()
        for number in (number for number, line in self.processes().items() if title in line):
            ends = {os.readlink(end) for end in Path(f"/proc/{number}/fd").iterdir()}
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{number}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == LISTENING and f"socket:[{fields[9]}]" in ends:
                        found.add(fields[1].partition(":")[0])
        return found


@contextmanager
def running(models: Sequence[str], folder: Path, *options: str) -> Iterator[Running]:
    """From the moment it is started; whatever happens, nothing of it is left."""
    port, log = free_port(), folder / "serve.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", "--port", str(port), "--models", *models, *options],
            cwd=ROOT, env=environment, stdout=words, stderr=words, start_new_session=True,
        )  # fmt: skip
    made = Running(process, f"http://127.0.0.1:{port}", log)
    try:
        yield made
    finally:
        for number in [process.pid, *made.processes()]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()
