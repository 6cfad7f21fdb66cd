"""Two workers of a test file, processes that meet over loopback: what they find is compared with one process.

with joined(rank, folder) as found: ...      # in the file's own main, `python FILE RANK FOLDER`
found = two_workers(__file__, folder)        # in its tests
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, distributed

from tools.runs import ROOT


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


def two_workers(file: str, folder: Path) -> dict[str, Tensor]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    started = [
        subprocess.Popen([sys.executable, file, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        errors = [each.communicate(timeout=300)[1].decode() for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0, 0], "\n".join(errors)
    return safetensors.torch.load_file(folder / "found")
