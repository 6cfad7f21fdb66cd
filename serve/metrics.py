"""What an operator watches: Prometheus metrics through Ray's own exporter, a JSON line of log a request. Never a pixel.

meter = Meter()
with meter.stage("align"): ...                  # seconds
meter.batch(size, waiting, waited, took)        # a Batcher tells these

Ray serves them at the metrics port of each node, as ray_fahr_..., with the deployment and the replica as tags.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

log = logging.getLogger("ray.serve")  # Serve's: to the replica's file, as JSON where the deployment says so

SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
ITEMS = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0]
DIFFERENCE = [0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]


class Meter:
    """Of one replica."""

    def __init__(self) -> None:
        self._requests = Histogram(
            "fahr_request_seconds",
            "From the first byte to the answer.",
            SECONDS,
            ("path", "status"),  # type: ignore[arg-type]  # Ray's hint means a tuple of any length, and says one
        )
        self._stages = Histogram("fahr_stage_seconds", "Of a request, by stage.", SECONDS, ("stage",))
        self._rejects = Counter("fahr_rejects", "Photos that cannot be scored.", ("reason",))
        self._flying = Gauge("fahr_in_flight", "Requests that are being answered.")
        self._batch = Histogram("fahr_batch_items", "Photos or faces done at once.", ITEMS)
        self._waiting = Gauge("fahr_waiting_items", "Photos or faces that wait for the next batch.")
        self._waited = Histogram("fahr_batch_wait_seconds", "Of the first item of a batch.", SECONDS)
        self._took = Histogram("fahr_batch_seconds", "Of the work on a batch.", SECONDS)
        self._shadow = Histogram(
            "fahr_shadow_difference",
            "Years or SDs between a shadow and the model that answered.",
            DIFFERENCE,
            ("model",),
        )

        self._shadow_failures = Counter("fahr_shadow_failures", "Requests that a shadow could not answer.", ("model",))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages.observe(time.perf_counter() - started, {"stage": name})

    def reject(self, reason: str) -> None:
        self._rejects.inc(1, {"reason": reason})

    def in_flight(self, requests: int) -> None:
        self._flying.set(requests)

    def shadow_failed(self, model: str) -> None:
        self._shadow_failures.inc(1, {"model": model})

    def shadow(self, model: str, difference: float) -> None:
        self._shadow.observe(difference, {"model": model})

    def batch(self, size: int, waiting: int, waited: float, took: float) -> None:
        self._batch.observe(size)
        self._waiting.set(waiting)
        self._waited.observe(waited)
        self._took.observe(took)

    def request(self, request_id: str, path: str, status: int, seconds: float, **more: Any) -> None:
        """Measured, and one line of log. `more`: counts, names and digests."""
        self._requests.observe(seconds, {"path": path, "status": str(status)})
        told = {"id": request_id, "path": path, "status": status, "seconds": round(seconds, 4), **more}
        log.info("request %s", " ".join(f"{key}={value}" for key, value in told.items()), extra={"fahr": told})
