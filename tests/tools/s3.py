"""A real S3 store on loopback (tests/tools/s3-up), for tests that must see real answers and real outages."""

import os
import re
import subprocess
import tempfile
import threading
from pathlib import Path

SCRIPT = Path(__file__).with_name("s3-up")


class RealStore:
    """The store, its faults and its disk."""

    def __init__(self) -> None:
        # A store of our own beside a developer's: another root, another port. And one for each of pytest's processes:
        # what one kills or wipes is none of the other's outages.
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
        root = (os.environ.get("S3_ROOT") or os.path.join(tempfile.gettempdir(), "fahr-s3")) + f"-{worker}"
        port = int(os.environ.get("S3_PORT", "19200")) + 100 * int(worker.removeprefix("gw"))
        self._environment = {**os.environ, "S3_ROOT": root, "S3_PORT": str(port)}
        done = self._run("up")
        self.variables = dict(re.findall(r"^export (\w+)='?([^'\n]*)'?$", done.stdout, re.M))
        self.variables["NO_PROXY"] = "127.0.0.1,localhost"
        self.data = Path(root) / "data"

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([str(SCRIPT), *words], env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"s3-up {' '.join(words)}: {done.stderr}")
        return done

    def fault(self, action: str, who: str) -> None:
        """stop | cont | kill | term | start  of  proxy | account | container | object1 | objects."""
        self._run("fault", action, who)

    def outage(self, seconds: float, who: str = "proxy") -> threading.Timer:
        """Kill a server now; it starts again by itself after `seconds`. Join the timer."""
        self.fault("kill", who)
        timer = threading.Timer(seconds, self.fault, ("start", who))
        timer.start()
        return timer

    def wipe(self) -> None:
        self._run("wipe")
