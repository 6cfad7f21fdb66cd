"""Where Ray runs: the cluster that a submitted job is in, or one started in this process. What it can bear. And how a
job's work units run on it: one unit is one block of a Ray Data plan, done by one call of an actor.

A laptop's Ray is started with as many logical CPUs as cores, four at least: Ray Data's own helpers want some too, and a
pool that takes the last one waits for ever, in silence.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import DataContext

from fahr import store
from fahr.errors import Refused
from fahr.progress import progress
from jobs._local_ray import start_ray

LOCAL_STORE_BYTES = 512 << 20  # what passes through Ray is tables and encoded bytes, never pixels


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it set), or start one here. Twice is once."""
    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours tell photos, not blocks
    # Plans and versions of Ray's own pages are news to nobody here; what goes wrong still is told.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # Ray ends a plan in which no block moves for half an hour; a unit of work is one block, and may take longer.
    context.execution_no_progress_timeout_s = -1
    context.max_errored_blocks = 0  # above 0 whole blocks vanish and the job says ok
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        print(f"ray: joined the cluster at {os.environ['RAY_ADDRESS']}")
    else:
        start_ray(num_cpus=max(4, os.cpu_count() or 1), include_dashboard=False, object_store_memory=LOCAL_STORE_BYTES)


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
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types for it
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


UNIT = "fahr:unit"  # the column of a block that names its unit; no manifest has a column of this name


def todo(table: pa.Table, units: store.WorkUnits, rows_per_unit: int, groups: pa.Array | None = None) -> list[pa.Table]:
    """The rows of each unit that has no marker: one table, which will be one block, a unit."""
    assigned = units.assign(table["photo_id"], store.row_digests(table), rows_per_unit, groups)
    left = table.append_column(UNIT, pa.array(assigned, pa.string()))
    done = units.done()
    if done:
        left = left.filter(pc.invert(pc.is_in(left[UNIT], pa.array(sorted(done), pa.string()))))
    left = left.sort_by([(UNIT, "ascending"), ("photo_id", "ascending")]).combine_chunks()
    if not left.num_rows:
        return []
    names = left[UNIT].to_numpy(zero_copy_only=False)
    edges = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)]
    return [left.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]


def unit_of(block: pa.Table) -> tuple[str, pa.Table]:
    """A block of `todo` -> the name of its unit, and the rows."""
    return block[UNIT][0].as_py(), block.drop_columns(UNIT)


def counts(ledger: store.Ledger, started: float, ended: float) -> pa.Table:
    """What an actor returns of a unit: counts and times, never rows."""
    return pa.table({"rows": [ledger.rows_in], "out": [ledger.rows_out], "started": [started], "ended": [ended]})


def run_units(
    blocks: list[pa.Table], actor: type, arguments: tuple[Any, ...], pool: Pool, noun: str
) -> tuple[float, float]:
    """Every block by a call of `actor(*arguments)`. When the first unit started and the last ended, seconds since 1970.

    The pool is fixed: a growing one starts at one actor and climbs for minutes.
    """
    plan = ray.data.from_arrow(blocks).map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(blocks))),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        memory=pool.memory,
    )
    rejects, first, last = 0, float("inf"), 0.0
    with progress(sum(block.num_rows for block in blocks), noun, pool.stage) as bar:
        for made in plan.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            first, last = min(first, pc.min(made["started"]).as_py()), max(last, pc.max(made["ended"]).as_py())
            bar.start_t = first  # its rate and time left are of the work, not of Ray and models starting
            rejects += pc.sum(made["rows"]).as_py() - pc.sum(made["out"]).as_py()
            bar.set_postfix_str(f"{rejects:,} rejects", refresh=False)
            bar.update(pc.sum(made["rows"]).as_py())
    return first, last
