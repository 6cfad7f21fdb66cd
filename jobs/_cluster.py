"""Where Ray runs: the cluster that a submitted job is in, or one started in this process. And what it can bear.

A laptop's Ray is started with as many logical CPUs as cores, four at least: Ray Data's own helpers want some too, and a
pool that takes the last one waits for ever, in silence.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.data import DataContext

from fahr.errors import Refused

LOCAL_STORE_BYTES = 512 << 20  # what passes through Ray is tables and encoded bytes, never pixels


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it set), or start one here. Twice is once."""
    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours tell photos, not blocks
    # Plans and versions of Ray's own pages are news to nobody here; what goes wrong still is told.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    context.max_errored_blocks = 0  # above 0 whole blocks vanish and the job says ok
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        print(f"ray: joined the cluster at {os.environ['RAY_ADDRESS']}")
    else:
        # address="local": without it ray.init joins whatever cluster was left running on the machine.
        ray.init(
            address="local",
            num_cpus=max(4, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=LOCAL_STORE_BYTES,
            log_to_driver=False,
            logging_level="ERROR",
        )


@dataclass(frozen=True)
class Pool:
    """A stage's actors."""

    stage: str
    actors: int
    cpus: float  # of each
    gpus: float  # of each
    memory: int  # bytes of heap of each

    def told(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.stage}: {self.actors} actors x ({self.cpus:g} CPU{gpus}, {self.memory / 2**30:.1f} GiB)"


def check(pools: Sequence[Pool], remedy: str) -> str:
    """The sum of what the pools ask for against what the cluster has. A sum that cannot run is refused.

    One CPU is left for Ray Data's own tasks (reading, splitting): without it the plan would wait for ever.
    """
    has = ray.cluster_resources()
    asked = {
        "CPU": sum(pool.actors * pool.cpus for pool in pools) + 1,
        "GPU": sum(pool.actors * pool.gpus for pool in pools),
        "memory": float(sum(pool.actors * pool.memory for pool in pools)),
    }
    lines = [pool.told() for pool in pools]
    lines.append(
        f"asked in all: {asked['CPU']:g} CPU (1 of them for reading), {asked['GPU']:g} GPU, "
        f"{asked['memory'] / 2**30:.1f} GiB heap; the cluster has {has.get('CPU', 0):g} CPU, "
        f"{has.get('GPU', 0):g} GPU, {has.get('memory', 0) / 2**30:.1f} GiB"
    )
    short = [name for name, amount in asked.items() if amount > has.get(name, 0) + 1e-9]
    if short:
        raise Refused("\n".join([f"the cluster has too little {' and '.join(short)}:", *lines, remedy]))
    return "\n".join(lines)
