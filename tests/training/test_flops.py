"""What a sample costs, against a count by hand; and a device's own best, against another stopwatch."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fahr.models import Architecture, Decoder, MaeOptions, MaskedAutoencoder, build
from fahr.training import flops
from fahr.training.flops import count_flops, peak_flops
from fahr.training.recipe import Recipe
from fahr.training.step import step
from fahr.training.tasks import Prediction, Pretraining, absolute_error
from training import small

CPU = torch.device("cpu")


def block(tokens: int, width: int) -> int:
    """FLOP of one block forward: qkv and proj, scores and their sum of values, the two layers of the MLP."""
    return 2 * tokens * (4 * width**2 + 8 * width**2) + 4 * tokens**2 * width


def mae_by_hand(shape: Architecture, kept: int, painted: int) -> int:
    """Forward once, backward twice: for the weights and for what comes in. Pixels need no gradient."""
    decoder, values = shape.decoder, 3 * shape.patch**2
    assert decoder is not None
    embed = 2 * kept * values * shape.width
    encoder = shape.depth * block(1 + kept, shape.width)
    between = 2 * (1 + kept) * shape.width * decoder.width
    decoded = decoder.depth * block(1 + kept + painted, decoder.width)
    return 3 * (embed + encoder + between + decoded + 2 * painted * decoder.width * values) - embed


@pytest.mark.parametrize(
    ("decoded", "ratio", "kept", "painted"), [(1.0, 0.75, 4, 12), (0.5, 0.75, 4, 6), (1.0, 0.5, 8, 8)]
)
def test_a_masked_autoencoder_costs_what_its_matrices_cost(
    decoded: float, ratio: float, kept: int, painted: int
) -> None:
    model = small.autoencoder(MaeOptions(decoded=decoded, mask_ratio=ratio))
    found = count_flops(Pretraining(model, small.recipe()), small.SIZE)
    assert found == mae_by_hand(model.architecture, kept, painted)


def test_a_model_that_people_train_costs_what_its_matrices_cost() -> None:
    """ViT-Tiny/8 at 112 px: 196 patches, 49 of them seen."""
    shape = Architecture.named("vit_tiny", patch=8, size=112, task="mae", decoder=Decoder(128, 2, 4))
    model = build(shape, seed=0)
    assert isinstance(model, MaskedAutoencoder)
    assert count_flops(Pretraining(model, small.recipe()), 112) == mae_by_hand(shape, 49, 147)


def test_a_predictor_costs_what_its_matrices_cost() -> None:
    chosen = small.recipe(drop_path=0.3)
    task = Prediction(small.predictor(), chosen, absolute_error("age"))
    shape, values = task.model.architecture, 3 * 8 * 8
    embed = 2 * 16 * values * shape.width
    head = 2 * shape.width
    expected = 3 * (embed + shape.depth * block(17, shape.width) + head) - embed
    labels = {"age": small.LABELS["age"][:2]}
    assert count_flops(task, small.SIZE, labels) == expected


class Dropping(Pretraining):
    """It draws from torch's own generator, as foreign models do."""

    def __init__(self, chosen: Recipe) -> None:
        super().__init__(small.autoencoder(), chosen)
        self.dropout = nn.Dropout(0.5)

    def values(self, images: Tensor, positions: Tensor, labels: Any) -> Tensor:
        return self.dropout(super().values(images, positions, labels))


def test_counting_leaves_no_trace() -> None:
    task = Dropping(small.recipe(drop_path=0.2))
    task.model.decoder.eval()  # modes too
    modes = [module.training for module in task.modules()]
    before, generator = small.weights(task), torch.get_rng_state()
    assert count_flops(task, small.SIZE) > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(each.grad is None for each in task.parameters())
    small.assert_equal(small.weights(task), before)
    assert [module.training for module in task.modules()] == modes


def test_a_step_after_counting_is_the_step_without_it() -> None:
    chosen, found = small.recipe(drop_path=0.3), []
    for counts in (False, True):
        task = small.pretraining(chosen)
        if counts:
            count_flops(task, small.SIZE)
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        outcome = step(task, small.batch_at(0, 16), optimizer, chosen)
        found.append((outcome.loss, outcome.grad_norm))
    assert found[0] == found[1]


def timed(side: int = 1024, seconds: float = 0.3) -> float:
    """FLOP/s of another product: of random matrices, into a buffer that is there."""
    left, right = (torch.rand(side, side) for _ in range(2))
    out = torch.empty(side, side)
    torch.mm(left, right, out=out)
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(left, right, out=out)
        rounds += 1
    return 2 * side**3 * rounds / (time.perf_counter() - began)


def test_the_peak_of_this_device_is_what_another_stopwatch_finds() -> None:
    """Measured before and after, since a machine may be busy with something else for a while."""
    flops._measured.cache_clear()  # whatever another test has measured
    before = timed()
    found = peak_flops(CPU, "fp32")
    after = timed()
    assert min(before, after) / 3 < found < 3 * max(before, after)


def test_the_peak_is_measured_once_for_as_many_threads() -> None:
    """The folds, arms and trials of a process are judged by one peak; with fewer threads there is another."""
    found = peak_flops(CPU, "fp32")
    assert peak_flops(CPU, "fp32") == found
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert peak_flops(CPU, "fp32") != found
    finally:
        torch.set_num_threads(threads)


def test_the_peak_in_bf16_is_a_rate_and_leaves_precision_as_it_was() -> None:
    assert peak_flops(CPU, "bf16") > 1e8
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
