"""The encoder is timm's Vision Transformer, and looks at no more than it is told to."""

import math

import pytest
import torch
from timm.layers.activations import QuickGELU
from timm.layers.drop import DropPath
from timm.models.vision_transformer import VisionTransformer

from fahr.errors import Refused
from fahr.models import Architecture, Decoder, build, create
from fahr.models.architecture import SIZES
from fahr.models.encoder import drop_paths
from fahr.models.initial import initialise
from fahr.models.positions import sincos_table


def timm_model(name: str, patch: int, size: int = 112) -> VisionTransformer:
    width, depth, heads = SIZES[name]
    return VisionTransformer(size, patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, global_pool="")


def images(batch: int, size: int = 112) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("name", SIZES)
def test_as_many_parameters_as_timm_has_under_the_same_names(name: str, patch: int) -> None:
    with torch.device("meta"):
        ours, theirs = create(name, patch=patch, task="age").encoder, timm_model(name, patch)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    count = sum(each.numel() for name, each in theirs.named_parameters() if name != "pos_embed")  # ours are fixed
    assert sum(each.numel() for each in ours.parameters()) == count


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("name", ["vit_tiny", "vit_small", "vit_base"])
def test_outputs_are_those_of_timm_with_the_same_weights(name: str, patch: int) -> None:
    ours, theirs = create(name, patch=patch, task="age", seed=0).encoder.eval(), timm_model(name, patch).eval()
    for learned in (False, True):
        if learned:  # positions from a foreign checkpoint, where CLS has one as well
            ours.pos_embed.normal_(generator=torch.Generator().manual_seed(1))
        theirs.load_state_dict(ours.state_dict())
        with torch.inference_mode():
            assert torch.allclose(ours(images(2)), theirs(images(2)), rtol=0, atol=1e-5)


def test_with_clip_s_options_it_is_timm_s_encoder_for_clip() -> None:
    shape = Architecture("small", 64, 2, 4, 8, 32, "age", pre_norm=True, activation="quick_gelu")
    ours = build(shape, seed=0).encoder.eval()
    theirs = VisionTransformer(
        32, 8, embed_dim=64, depth=2, num_heads=4, num_classes=0, global_pool="", pre_norm=True, act_layer=QuickGELU
    ).eval()
    state = dict(ours.state_dict())
    assert not state.pop("patch_embed.proj.bias").any()  # theirs has none
    for name in ("norm_pre.weight", "norm_pre.bias"):
        state[name].normal_(generator=torch.Generator().manual_seed(1))
    theirs.load_state_dict(state)
    with torch.inference_mode():
        assert torch.allclose(ours(images(2, 32)), theirs(images(2, 32)), rtol=0, atol=1e-5)


def test_outputs_of_the_large_one_too() -> None:
    ours = create("vit_large", task="age", seed=0).encoder.eval()
    with torch.device("meta"):
        theirs = timm_model("vit_large", 16).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    with torch.inference_mode():
        assert torch.allclose(ours(images(1)), theirs(images(1)), rtol=0, atol=1e-5)


# Positions


@pytest.mark.parametrize(("width", "grid"), [(768, 14), (768, 7), (512, 7), (192, 3), (4, 1)])
def test_positions_are_the_formula_column_first_and_zero_for_cls(width: int, grid: int) -> None:
    table = sincos_table(width, grid)
    assert table.shape == (1, 1 + grid * grid, width) and table.dtype == torch.float32
    assert not table[0, 0].any()
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            expected = [
                function(index / 10000 ** (k / quarter))
                for index in (column, row)
                for function in (math.sin, math.cos)
                for k in range(quarter)
            ]
            assert table[0, 1 + row * grid + column].tolist() == pytest.approx(expected, abs=1e-7)


def test_positions_are_saved_but_do_not_learn() -> None:
    model = create("vit_tiny")
    assert {"encoder.pos_embed", "decoder.pos_embed"} <= model.state_dict().keys()
    assert not any("pos_embed" in name for name, _ in model.named_parameters())
    assert torch.equal(model.encoder.pos_embed, sincos_table(192, 7))


# Visible patches only


@pytest.mark.parametrize("patch", [8, 16])
def test_looking_at_some_patches_is_embedding_all_and_gathering(patch: int) -> None:
    encoder = create("vit_tiny", patch=patch, task="age", seed=0).encoder
    keep = torch.stack([torch.randperm(encoder.architecture.num_patches)[:9] for _ in range(3)])
    inputs: list[torch.Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    encoder(images(3), keep)
    encoder(images(3))
    some, everything = inputs
    for row in range(3):
        assert torch.allclose(some[row, 1:], everything[row, 1:][keep[row]], rtol=0, atol=1e-6)
        assert torch.equal(some[row, 0], everything[row, 0])


def test_all_patches_in_any_order_give_the_same_tokens_in_that_order() -> None:
    encoder = create("vit_tiny", task="age", seed=0).encoder.eval()
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shuffled, straight = encoder(images(2), order.expand(2, -1)), encoder(images(2))
    assert torch.allclose(shuffled[:, 1:], straight[:, 1 + order], atol=1e-5)
    assert torch.allclose(shuffled[:, 0], straight[:, 0], atol=1e-5)


def test_what_is_not_looked_at_does_not_matter() -> None:
    encoder = create("vit_tiny", task="age", seed=0).encoder
    keep = torch.tensor([[0, 8]])
    changed = images(1)
    changed[..., 32:, :] = float("nan")
    assert torch.equal(encoder(changed, keep), encoder(images(1), keep))


# Shapes


@pytest.mark.parametrize(
    ("size", "patch"), [(16, 16), (16, 8), (48, 16), (60, 12), (63, 7), (64, 8), (112, 14), (224, 16), (224, 112)]
)
def test_any_size_that_the_patch_divides(size: int, patch: int) -> None:
    patches = (size // patch) ** 2
    model = create("vit_tiny", patch=patch, size=size, task="age")
    assert model.encoder(images(2, size)).shape == (2, 1 + patches, 192)
    assert model(images(2, size)).shape == (2,)
    if patches > 1:
        made = create("vit_tiny", patch=patch, size=size, decoder=Decoder(32, 1, 2))(images(2, size))
        assert made.prediction.shape == (2, patches - int(patches * 0.25), patch * patch * 3)


@pytest.mark.parametrize("shape", [(2, 3, 96, 96), (2, 1, 112, 112), (2, 3, 112, 96), (3, 112, 112)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match=r"this model reads \(batch, 3, 112, 112\)\. Align the faces to 112 px"):
        create("vit_tiny", task="age")(torch.zeros(shape))


# Fresh weights


def test_every_parameter_is_initialised() -> None:
    shape = Architecture("small", 64, 2, 4, 8, 32, "mae", decoder=Decoder(32, 2, 4))
    of_clip = Architecture("small", 64, 2, 4, 8, 32, "age", pre_norm=True, activation="quick_gelu")
    for model in (build(shape), build(Architecture("small", 64, 2, 4, 8, 32, "age")), build(of_clip)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        initialise(model)
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_fresh_weights_have_the_spread_of_the_recipe() -> None:
    model = create("vit_base", patch=16, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif name.endswith(("cls_token", "mask_token")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        else:  # xavier-uniform, the patch embedding as a linear layer of 768 inputs
            outputs, inputs = parameter.flatten(1).shape
            bound = math.sqrt(6 / (inputs + outputs))
            assert 0.999 * bound < parameter.abs().max().item() <= bound * (1 + 1e-6), name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01), name
    head = create("vit_base", task="age", seed=0)
    assert head.head.weight.std().item() == pytest.approx(0.02, rel=0.15) and head.head.bias.item() == 0


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, again, other = (create("vit_tiny", task="age", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    unseeded = [create("vit_tiny", task="age").state_dict()["head.weight"] for _ in range(2)]
    assert not torch.equal(*unseeded)


# Drop path


def test_drop_path_skips_branches_in_training_only_and_less_in_early_blocks() -> None:
    encoder = create("vit_tiny", task="age", seed=0).encoder
    names = encoder.state_dict().keys()
    plain = encoder(images(2))
    drop_paths(encoder, 0.5)
    assert encoder.state_dict().keys() == names
    shares = [each.drop_prob for each in encoder.modules() if isinstance(each, DropPath)]
    assert shares == pytest.approx([n / 22 for n in range(12) for _ in range(2)])
    assert not torch.allclose(encoder(images(2)), plain)
    assert torch.equal(encoder.eval()(images(2)), plain)
    drop_paths(encoder.train(), 0)
    assert torch.equal(encoder(images(2)), plain)
    with pytest.raises(Refused, match=r"drop path 1: must be at least 0 and below 1"):
        drop_paths(encoder, 1)
