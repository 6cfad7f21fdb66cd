"""A client of nothing but sockets, so that the servers have the cores: a window of requests, and what came of them.

window = asyncio.run(closed_loop(port, [posted(jpeg, port, "/v1/face-age")], clients=32, seconds=8))
window.rate, window.told()
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IDLE_S = 2.0  # uvicorn closes a connection after five seconds without a request, perhaps while one is on its way


def posted(file: bytes, port: int, path: str) -> bytes:
    """A request, as curl -F photo=@FILE sends it."""
    edge = "--------------------------fahr"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    body = head.encode() + file + f"\r\n--{edge}--\r\n".encode()
    lines = (
        f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Type: multipart/form-data; boundary={edge}",
        f"Content-Length: {len(body)}", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + body


@dataclass
class Window:
    """What one server did in one window."""

    seconds: float
    latencies: list[float] = field(default_factory=list)  # of answers 200
    statuses: list[int] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # latencies of 503
    cpu_s: float = 0.0  # of the server
    first: float = np.inf  # when the first answer 200 came, and the last one that is counted
    last: float = -np.inf

    @property
    def rate(self) -> float:
        """From answer to answer: a window ends within a batch, and 16 answers of 80 come a moment too late."""
        between = self.last - self.first
        return (len(self.latencies) - 1) / between if between > 0 else len(self.latencies) / self.seconds

    def told(self) -> str:
        p50, p99 = np.percentile(self.latencies or [np.nan], [50, 99]) * 1000
        other = len(self.statuses) - len(self.latencies)
        cpu = self.cpu_s / max(1, len(self.latencies)) * 1000
        return f"p50 {p50:5.0f} ms  p99 {p99:5.0f} ms  {cpu:4.0f} ms CPU" + (f"  {other} not 200" if other else "")


async def ask(port: int, request: bytes, kept: list[Any]) -> int:
    """The status; the connection stays in `kept`, with the time, and is used again while no server would close it."""
    if kept and time.perf_counter() - kept.pop() > IDLE_S:
        kept[1].close()
        kept.clear()
    if not kept:
        kept += await asyncio.open_connection("127.0.0.1", port)
    reader, writer = kept
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), None)
    if length is None:  # chunked
        await reader.readuntil(b"0\r\n\r\n")
    else:
        await reader.readexactly(length)
    kept.append(time.perf_counter())
    if b"connection: close" in lines:
        writer.close()
        kept.clear()
    return int(head.split()[1])


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float, rest: float = 0) -> Window:
    """Each client sends its next request when it has its answer, or `rest` seconds after it was turned away. What is on
    its way at the end is not counted."""
    window, end = Window(seconds), time.perf_counter() + seconds

    async def client(number: int) -> None:
        kept: list[Any] = []
        turn = number
        while (began := time.perf_counter()) < end:
            status = await ask(port, requests[turn % len(requests)], kept)
            _note(window, status, time.perf_counter() - began, time.perf_counter() <= end)
            if status == 503:
                await asyncio.sleep(rest)
            turn += clients
        if kept:
            kept[1].close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return window


async def offered(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Window:
    """`rate` requests a second, whatever becomes of them: latencies count from when each was due."""
    window, began = Window(seconds), time.perf_counter()
    idle: list[list[Any]] = []

    async def one(number: int) -> None:
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        kept = idle.pop() if idle else []
        status = await ask(port, requests[number % len(requests)], kept)
        _note(window, status, time.perf_counter() - due, True)
        if kept:
            idle.append(kept)

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    for kept in idle:
        kept[1].close()
    return window


def _note(window: Window, status: int, seconds: float, within: bool) -> None:
    if within:
        window.statuses.append(status)
    if status == 200 and within:
        window.latencies.append(seconds)
        now = time.perf_counter()
        window.first, window.last = min(window.first, now), max(window.last, now)
    elif status == 503:
        window.refused.append(seconds)
