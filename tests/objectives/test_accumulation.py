"""The ranking loss over a global batch: in micro-batches or on two workers it is the loss of one big batch."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from fahr.objectives import ranking_loss
from fahr.training.optimizer import make_optimizer
from fahr.training.step import pair_step
from fahr.training.tasks import Comparison, Labels
from tools.workers import forked
from training import small

SIZE = 64
OPTIONS = {"logistic": {}, "squared_hinge": {"weight": "gap", "gap_unit": 30.0, "tau": 0.5}}


def stepped(kind: str, micro_batch: int) -> dict[str, Tensor]:
    """Loss and gradients of one step over 64 photos of people with several photos, ties and delayed entry."""
    chosen = small.recipe(global_batch=SIZE, micro_batch=micro_batch, samples=320, drop_path=0.3)

    def pair_loss(scores: Tensor, labels: Labels) -> Tensor:
        time = np.ceil(labels["time"] / 3)
        late = np.where(labels["age"] > 45, 0.4 * time, 0.0)
        return ranking_loss(scores, time, labels["event"], labels["subject_id"], entry=late, kind=kind, **OPTIONS[kind])

    task = Comparison(small.predictor("survival"), chosen, pair_loss)
    optimizer = make_optimizer(task.model, chosen)
    start, stop, wrapped = 0, SIZE, task
    if distributed.is_initialized():
        start, stop = (0, 24) if distributed.get_rank() == 0 else (24, SIZE)  # uneven shares
        wrapped = DistributedDataParallel(task)
    outcome = pair_step(wrapped, small.batch_at(start, stop), optimizer, chosen)
    assert outcome.moved and outcome.samples == SIZE and outcome.loss > 0
    return {"loss": torch.tensor([outcome.loss], dtype=torch.float64)} | small.gradients(task.model)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert float(found.pop("loss")) == pytest.approx(float(expected["loss"]), rel=1e-6)
    small.assert_close(found, {name: each for name, each in expected.items() if name != "loss"}, 1e-6)


@pytest.mark.parametrize("kind", OPTIONS)
def test_one_batch_of_64_is_four_micro_batches_of_16(kind: str) -> None:
    assert_same(stepped(kind, 16), stepped(kind, 64))


def together(rank: int, folder: Path) -> dict[str, dict[str, Tensor]]:
    """What one of two workers finds for every kind."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        return {kind: stepped(kind, 8) for kind in OPTIONS}
    finally:
        distributed.destroy_process_group()


def test_two_workers_with_uneven_shares_are_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one of them, a second one of this file the other."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    second = forked(__file__, str(tmp_path), told=tmp_path / "told")
    try:
        found = together(0, tmp_path)
        second.join(120)
        assert second.exitcode == 0, (tmp_path / "told").read_text()
    finally:
        second.kill()
    for kind in OPTIONS:
        assert_same(found[kind], stepped(kind, 64))


if __name__ == "__main__":
    torch.set_num_threads(1)
    together(1, Path(sys.argv[1]))
