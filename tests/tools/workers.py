"""Two workers of a test file, processes that meet over loopback: what they find is compared with one process.

with joined(rank, folder) as found: ...      # in the file's own main, `python FILE RANK FOLDER`
found = two_workers(__file__, folder)        # in its tests

They are forked from a process that has loaded what takes long, and has done nothing yet: loaded once for all tests.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, distributed

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fahr.training.run", "fahr.training.outcomes", "fahr.training.tasks", "pytest"])


@contextmanager
def joined(rank: int, folder: Path) -> Iterator[dict[str, Tensor]]:
    """One of two workers while the block runs; what the first puts into the mapping is what is found."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    found: dict[str, Tensor] = {}
    yield found
    if rank == 0:
        safetensors.torch.save_file(found, folder / "found")
    distributed.barrier()
    distributed.destroy_process_group()


def forked(file: str, *words: str, told: Path) -> BaseProcess:
    """`python FILE WORDS`, begun. All that it prints goes to the file `told`."""
    started = FORKS.Process(target=_main, args=(file, words, str(told)))
    started.start()
    return started


def _main(file: str, words: tuple[str, ...], told: str) -> None:
    place = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(place, 1)
    os.dup2(place, 2)
    sys.argv = [file, *words]
    runpy.run_path(file, run_name="__main__")


def two_workers(file: str, folder: Path) -> dict[str, Tensor]:
    places = [folder / f"told-{rank}" for rank in range(2)]
    started = [forked(file, str(rank), str(folder), told=place) for rank, place in enumerate(places)]
    try:
        for each in started:
            each.join(300)
    finally:
        for each in started:
            each.kill()
    assert [each.exitcode for each in started] == [0, 0], "\n".join(place.read_text() for place in places)
    return safetensors.torch.load_file(folder / "found")
