"""Groups by hand, and AdamW against its formula."""

from typing import Any

import pytest
import torch

from fahr.models import Architecture, MaskedAutoencoder, Predictor, build, create
from fahr.training.optimizer import decays, layer_id, layer_scale, make_optimizer, parameters_of, set_rate
from training.small import autoencoder, predictor, recipe

DEPTH = 12
TABLE = [  # name, id, 0.75^(13 - id) to five digits, by hand
    ("encoder.cls_token", 0, 0.02376),
    ("encoder.patch_embed.proj.weight", 0, 0.02376),
    ("encoder.patch_embed.proj.bias", 0, 0.02376),
    ("encoder.blocks.0.attn.qkv.weight", 1, 0.03168),
    ("encoder.blocks.1.norm1.bias", 2, 0.04224),
    ("encoder.blocks.5.mlp.fc1.weight", 6, 0.13348),
    ("encoder.blocks.10.mlp.fc2.bias", 11, 0.56250),
    ("encoder.blocks.11.attn.proj.weight", 12, 0.75000),
    ("encoder.norm.weight", 13, 1.0),
    ("head.weight", 13, 1.0),
    ("head.bias", 13, 1.0),
    ("decoder.mask_token", 13, 1.0),
    ("decoder.blocks.0.attn.qkv.weight", 13, 1.0),  # not the encoder's block 0
]


@pytest.mark.parametrize(("name", "number", "scale"), TABLE)
def test_the_layer_decay_table(name: str, number: int, scale: float) -> None:
    assert layer_id(name, DEPTH) == number
    assert layer_scale(name, DEPTH, 0.75) == pytest.approx(scale, abs=5e-6)


def test_the_first_norm_of_an_encoder_of_clip_goes_with_the_embeddings() -> None:
    shape = Architecture("small", 48, 3, 3, 8, 32, "age", pre_norm=True, activation="quick_gelu")
    groups = named(build(shape, seed=1), layer_decay=0.5, weight_decay=0.1)
    for name in ("encoder.norm_pre.weight", "encoder.norm_pre.bias"):
        assert layer_id(name, DEPTH) == 0
        assert groups[name]["scale"] == groups["encoder.cls_token"]["scale"] == 0.5**4
        assert groups[name]["weight_decay"] == 0
    assert groups["encoder.norm.weight"]["scale"] == 1


def named(model: MaskedAutoencoder | Predictor, **changes: Any) -> dict[str, dict[str, Any]]:
    """name -> its group."""
    optimizer = make_optimizer(model, recipe(**changes))
    names = {id(each): name for name, each in model.named_parameters()}
    return {names[id(each)]: group for group in optimizer.param_groups for each in group["params"]}


def test_matrices_decay_and_nothing_else_does() -> None:
    groups = named(autoencoder())
    decayed = {name for name, group in groups.items() if group["weight_decay"] > 0}
    in_a_block = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    assert decayed == {
        "encoder.patch_embed.proj.weight",
        "decoder.embed.weight",
        "decoder.predict.weight",
        *(f"encoder.blocks.{block}.{part}" for block in range(3) for part in in_a_block),
        *(f"decoder.blocks.{block}.{part}" for block in range(2) for part in in_a_block),
    }
    free = groups.keys() - decayed
    assert {"encoder.cls_token", "decoder.mask_token", "encoder.norm.weight", "encoder.blocks.0.attn.qkv.bias"} <= free
    assert all(groups[name]["weight_decay"] == 0 for name in free)


def test_a_head_of_one_row_is_a_matrix() -> None:
    model = predictor()
    assert model.head.weight.shape == (1, 48)
    assert decays("head.weight", model.head.weight) and not decays("head.bias", model.head.bias)


@pytest.mark.parametrize("decay", [1.0, 0.65])
@pytest.mark.parametrize("task", ["mae", "age"])
def test_every_parameter_is_in_one_group_in_the_same_order_every_time(task: str, decay: float) -> None:
    orders = []
    for seed in (0, 1):
        model = create("vit_tiny", task=task, seed=seed)
        optimizer = make_optimizer(model, recipe(layer_decay=decay))
        names = {id(each): name for name, each in model.named_parameters()}
        orders.append([names[id(each)] for each in parameters_of(optimizer)])
        assert sorted(orders[-1]) == sorted(names.values())
        assert len(optimizer.param_groups) == (2 if decay == 1 else 2 * (DEPTH + 2))
    assert orders[0] == orders[1]


def test_frozen_weights_are_not_optimised() -> None:
    model = predictor()
    model.encoder.requires_grad_(False)
    assert set(named(model)) == {"head.weight", "head.bias"}


def test_three_steps_equal_the_formula_with_decay_by_depth() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in double precision."""
    torch.manual_seed(0)
    model, chosen = predictor(), recipe(layer_decay=0.5, weight_decay=0.1, betas=(0.8, 0.9))
    optimizer = make_optimizer(model, chosen)
    oracle = {name: each.detach().double().clone() for name, each in model.named_parameters()}
    first = {name: torch.zeros_like(each) for name, each in oracle.items()}
    second = {name: torch.zeros_like(each) for name, each in oracle.items()}
    for number, rate in ((1, 1e-2), (2, 3e-2), (3, 2e-2)):
        set_rate(optimizer, rate)
        for name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape)
            parameter.grad = gradient
            lr = rate * 0.5 ** (4 - layer_id(name, 3))
            if parameter.ndim > 1 and not name.endswith("token"):
                oracle[name] *= 1 - lr * 0.1
            first[name] = 0.8 * first[name] + 0.2 * gradient.double()
            second[name] = 0.9 * second[name] + 0.1 * gradient.double() ** 2
            away = (second[name] / (1 - 0.9**number)).sqrt() + 1e-8
            oracle[name] -= lr * first[name] / (1 - 0.8**number) / away
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.double(), oracle[name], rtol=0, atol=5e-7), name


def test_before_a_rate_is_set_a_step_moves_nothing() -> None:
    model = predictor()
    optimizer = make_optimizer(model, recipe())
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(before[name], each) for name, each in model.named_parameters())
