"""A run small enough for tests: faces that are made, a model that thinks fast, a loader in memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fahr.models import Architecture, Decoder, MaeOptions, MaskedAutoencoder, Predictor, build
from fahr.training.loader import Batch
from fahr.training.recipe import Recipe
from fahr.training.tasks import Comparison, Prediction, Pretraining, Task, absolute_error

NUM_ROWS, SIZE = 96, 32


def recipe(**changes: Any) -> Recipe:
    """Twenty steps of 16 faces: at a rate at which the loss falls."""
    values: dict[str, Any] = {
        "samples": 320,
        "global_batch": 16,
        "micro_batch": 16,
        "base_lr": 0.016,
        "warmup_samples": 64,
        "precision": "fp32",
    }
    return Recipe(**values | changes)


def autoencoder(options: MaeOptions | None = None) -> MaskedAutoencoder:
    shape = Architecture("small", 48, 3, 3, 8, SIZE, "mae", decoder=Decoder(width=32, depth=2, num_heads=2))
    model = build(shape, options=options, seed=1)
    assert isinstance(model, MaskedAutoencoder)
    return model


def predictor(task: str = "age") -> Predictor:
    model = build(Architecture("small", 48, 3, 3, 8, SIZE, task), seed=1)
    assert isinstance(model, Predictor)
    return model


def image(row: int) -> NDArray[np.uint8]:
    """(S, S, 3): a coarse pattern with a slope over it, whole numbers only, so the same on every machine."""
    coarse = np.random.default_rng(row).integers(0, 200, (4, 4, 3))
    slope = np.arange(SIZE)[:, None, None] + np.arange(SIZE)[None, :, None] // 2
    return (np.kron(coarse, np.ones((SIZE // 4, SIZE // 4, 1), int)) + slope).astype(np.uint8)


IMAGES = np.stack([image(row) for row in range(NUM_ROWS)])
LABELS = {
    "age": IMAGES[:, :8, :8, 0].mean((1, 2)) / 25 + 41,  # years, to be seen in the picture
    "time": np.argsort(np.argsort(IMAGES[:, -8:, :8].mean((1, 2, 3)))) + 1.0,  # to be seen too
    "event": np.random.default_rng(2).integers(0, 2, NUM_ROWS).astype(bool),
    "subject_id": np.array([f"p{row // 2}" for row in range(NUM_ROWS)]),
}


def batch_at(start: int, stop: int) -> Batch:
    """The samples of these positions: every epoch in its own order."""
    positions = np.arange(start, stop)
    rows = np.array(
        [np.random.default_rng((3, each // NUM_ROWS)).permutation(NUM_ROWS)[each % NUM_ROWS] for each in positions]
    )
    labels = {name: column[rows] for name, column in LABELS.items()}
    return Batch(torch.from_numpy(IMAGES[rows]), rows, torch.from_numpy(positions), labels)


class Memory:
    """A worker's shares, one after the other, from a position on; `num_batches` makes it end too early."""

    def __init__(
        self, start: int, *, global_batch: int = 16, rank: int = 0, world: int = 1, num_batches: int | None = None
    ) -> None:
        self.start, self.global_batch, self.rank, self.world = start, global_batch, rank, world
        self.num_batches, self.closed = num_batches, False

    def __iter__(self) -> Iterator[Batch]:
        share, made = self.global_batch // self.world, 0
        while self.num_batches is None or made < self.num_batches:
            first = self.start + made * self.global_batch + self.rank * share
            yield batch_at(first, first + share)
            made += 1

    def close(self) -> None:
        self.closed = True


def logistic_pairs(scores: Tensor, labels: Mapping[str, NDArray[Any]]) -> Tensor:
    """A loss over pairs, written for this test: the mean of softplus(-(r_i - r_j)), i had the event before j's time."""
    time, event, people = (labels[name] for name in ("time", "event", "subject_id"))
    pairs = (time[:, None] < time[None, :]) & event[:, None] & (people[:, None] != people[None, :])
    gaps = nn.functional.softplus(scores[None, :] - scores[:, None])
    return gaps[torch.from_numpy(pairs)].mean()


def pretraining(chosen: Recipe) -> Task:
    return Pretraining(autoencoder(), chosen)


def half_painted(chosen: Recipe) -> Task:
    return Pretraining(autoencoder(MaeOptions(decoded=0.5)), chosen)


def age(chosen: Recipe) -> Task:
    model = predictor()
    model.start_at(45.0)
    return Prediction(model, chosen, absolute_error("age"))


def survival(chosen: Recipe) -> Task:
    return Comparison(predictor("survival"), chosen, logistic_pairs)


TASKS: dict[str, Callable[[Recipe], Task]] = {
    "pretraining": pretraining,
    "half_painted": half_painted,
    "age": age,
    "survival": survival,
}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """To the bit."""
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.equal(found[name], each), name


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    """The distance between two sets of gradients, against the length of the expected one."""
    assert found.keys() == expected.keys()
    length = torch.stack([each.double().norm() for each in expected.values()]).norm()
    apart = torch.stack([(found[name] - each).double().norm() for name, each in expected.items()]).norm()
    assert length > 0 and apart / length < tolerance, (float(apart), float(length))
