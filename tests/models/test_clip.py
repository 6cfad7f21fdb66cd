"""CLIP's image encoder computes in ours what it computes at home, where it is written out here with torch's own layers.

Every weight is random, and what comes in is small before the first LayerNorm, so that its eps shows.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from fahr.errors import Refused
from fahr.models import Architecture, MaskedAutoencoder, Predictor, build, load, save
from fahr.models.masking import random_mask
from fahr.models.normalization import normalise

WIDTH, DEPTH, PATCH, SIZE, SPACE = 128, 2, 8, 32, 24
HEADS = 2  # a head has 64 channels in every CLIP
N = (SIZE // PATCH) ** 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the public CLIP
State = dict[str, Tensor]
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


class Quick(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-1.702 * x))


class ClipBlock(nn.Module):
    def __init__(self, width: int, heads: int, activation: type[nn.Module] = Quick) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)  # torch's eps is CLIP's, 1e-5
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", activation())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipBlocks(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, activation: type[nn.Module] = Quick) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(ClipBlock(width, heads, activation) for _ in range(depth)))


class ClipVisual(nn.Module):
    def __init__(self, size: int = SIZE, activation: type[nn.Module] = Quick) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros((size // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = ClipBlocks(WIDTH, DEPTH, HEADS, activation)
        self.proj = nn.Parameter(torch.zeros(WIDTH, SPACE))

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Every token after the last norm, CLS first; CLIP itself goes on with CLS @ proj."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, WIDTH), x], 1) + self.positional_embedding
        if keep is not None:
            x = torch.stack([torch.cat([row[:1], row[1:][which]]) for row, which in zip(x, keep, strict=True)])
        return self.ln_post(self.transformer.resblocks(self.ln_pre(x)))


def randomised(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + ("ln_" in name))
            if name.endswith(("conv1.weight", "class_embedding", "positional_embedding")):
                parameter.mul_(0.01)
    return model.eval()


def visual(size: int = SIZE, activation: type[nn.Module] = Quick) -> Any:
    return randomised(ClipVisual(size, activation))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def text_tower() -> State:
    """The names of CLIP's other half, where the blocks are called as those of an image encoder on its own."""
    state = prefixed(randomised(ClipBlocks(64, 3, 1)).state_dict(), "transformer.")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (50, 64),
        "positional_embedding": (77, 64),
        "ln_final.weight": (64,),
        "ln_final.bias": (64,),
        "text_projection": (64, SPACE),
        "logit_scale": (),
    }
    return state | {name: torch.ones(shape) for name, shape in shapes.items()}


def masked_task() -> State:
    """What FaRL has behind the encoder for the second of its tasks."""
    state = prefixed(randomised(ClipBlocks(WIDTH, 1, HEADS)).state_dict(), "visual.lm_transformer.")
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (WIDTH,),
        "ln_lm.weight": (WIDTH,),
        "ln_lm.bias": (WIDTH,),
        "lm_head.weight": (90, WIDTH),
        "lm_head.bias": (90,),
    }
    return state | {f"visual.{name}": torch.ones(shape) for name, shape in shapes.items()}


def farl() -> State:
    return text_tower() | prefixed(visual().state_dict(), "visual.") | masked_task()


def faces(size: int = SIZE) -> Tensor:
    """(B, S, S, 3) bytes, so that each side normalises for itself."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, size, size, 3), generator=generator, dtype=torch.uint8)


def for_clip(images: Tensor) -> Tensor:
    values = images.numpy().astype(np.float64) / 255
    return torch.from_numpy((values - np.array(MEAN)) / np.array(STD)).permute(0, 3, 1, 2).float()


def tokens_of(model: MaskedAutoencoder | Predictor, size: int = SIZE) -> Tensor:
    with torch.no_grad():
        tokens: Tensor = model.encoder(normalise(faces(size)))
    return tokens


def wanted(theirs: Any, size: int = SIZE) -> Tensor:
    with torch.no_grad():
        tokens: Tensor = theirs(for_clip(faces(size)))
    return tokens


def write(tmp_path: Path, state: Any, name: str = "weights.pth") -> str:
    place = tmp_path / name
    if place.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, place)
    else:
        torch.save(state, place)
    return str(place)


def opened(place: str, task: str = "age", **options: Any) -> Any:
    return load(place, task=task, fresh_head=True, seed=3, **options)


# --- the same outputs ---


@pytest.mark.parametrize("prefix", ["", "visual.", "module.", "module.visual.", "model.visual."])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_clip_s_encoder_gives_clip_s_tokens(tmp_path: Path, prefix: str, name: str) -> None:
    theirs = visual()
    ours = opened(write(tmp_path, prefixed(theirs.state_dict(), prefix), name))
    torch.testing.assert_close(tokens_of(ours), wanted(theirs), **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(ours.features(normalise(faces())), wanted(theirs)[:, 0], **CLOSE)
    shape = ours.architecture
    assert (shape.width, shape.depth, shape.num_heads) == (WIDTH, DEPTH, HEADS)
    assert (shape.patch, shape.size, shape.pre_norm, shape.activation) == (PATCH, SIZE, True, "quick_gelu")


@pytest.mark.parametrize("task", ["age", "survival", "mae"])
def test_farl_s_file_gives_the_tokens_of_its_image_encoder(tmp_path: Path, task: str) -> None:
    place = write(tmp_path, {"state_dict": farl()}, "FaRL-Base-Patch16-LAIONFace20M-ep64.pth")
    ours = opened(place, task)
    torch.testing.assert_close(tokens_of(ours), wanted(visual()), **CLOSE)
    assert ours.architecture.task == task and ours.config.origin == place


def test_the_oracle_would_see_each_piece_that_is_clip_s() -> None:
    """eps, activation, first norm and normalisation move the tokens by far more than the tolerance."""
    exact = wanted(visual())

    def eps() -> Tensor:
        model = visual()
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
        return wanted(model)

    def no_first_norm() -> Tensor:
        model = visual()
        model.ln_pre = nn.Identity()
        return wanted(model)

    with torch.no_grad():
        as_ours = visual()(normalise(faces()))
    for other in (eps(), no_first_norm(), wanted(visual(activation=nn.GELU)), as_ours):
        assert (other - exact).abs().max() > 1e-3


def pillow(table: Tensor, grid: int) -> Tensor:
    """(1 + N, D): CLS kept, the square stretched by Pillow, bicubic with antialias, one channel at a time."""
    before = math.isqrt(len(table) - 1)
    done = torch.zeros(1 + grid * grid, table.shape[1])
    done[0] = table[0]
    for channel in range(table.shape[1]):
        square = Image.fromarray(table[1:, channel].reshape(before, before).numpy(), mode="F")
        stretched = square.resize((grid, grid), Image.Resampling.BICUBIC)
        done[1:, channel] = torch.from_numpy(np.asarray(stretched).copy()).flatten()
    return done


@pytest.mark.parametrize("size", [16, 48])
def test_at_another_size_its_positions_are_stretched(tmp_path: Path, size: int) -> None:
    state = visual().state_dict()
    place = write(tmp_path, {"state_dict": farl()})
    with pytest.raises(Refused, match=r"reads faces of 32 px, not .*interpolate=True"):
        opened(place, size=size)
    theirs = ClipVisual(size).eval()
    table = pillow(state["positional_embedding"], size // PATCH)
    theirs.load_state_dict(state | {"positional_embedding": table})
    ours = opened(place, size=size, interpolate=True)
    torch.testing.assert_close(tokens_of(ours, size), wanted(theirs, size), **CLOSE)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_fp32_before_anything_is_folded(tmp_path: Path, kind: torch.dtype) -> None:
    theirs = visual().to(kind)
    ours = opened(write(tmp_path, prefixed(theirs.state_dict(), "visual.")))
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(tokens_of(ours), wanted(theirs.float()), **CLOSE)


def test_the_start_of_an_autoencoder_sees_what_clip_sees_of_the_visible_patches(tmp_path: Path) -> None:
    theirs = visual()
    ours = opened(write(tmp_path, theirs.state_dict()), "mae")
    keep = random_mask(3, N, 0.75, torch.Generator().manual_seed(2)).keep
    with torch.no_grad():
        seen = ours.encoder(normalise(faces()), keep)
        torch.testing.assert_close(seen, theirs(for_clip(faces()), keep), **CLOSE)
    ours.train()(normalise(faces()), generator=torch.Generator().manual_seed(4)).loss.backward()
    first = ours.encoder.norm_pre.weight.grad
    assert bool(first.isfinite().all()) and bool((first != 0).any())
    assert isinstance(ours.decoder.blocks[0].mlp.act, nn.GELU)


def test_an_age_head_on_cls_gives_its_ages_and_one_on_the_projection_is_refused(tmp_path: Path) -> None:
    theirs, linear = visual(), nn.Linear(WIDTH, 1)
    state = prefixed(theirs.state_dict(), "visual.") | prefixed(linear.state_dict(), "head.")
    with pytest.raises(Refused, match="its head 'head' seems to stand on visual.proj, ours on CLS"):
        load(write(tmp_path, state))
    torch.testing.assert_close(tokens_of(opened(write(tmp_path, state))), wanted(theirs), **CLOSE)
    del state["visual.proj"]
    ours = load(write(tmp_path, state))
    with torch.no_grad():
        torch.testing.assert_close(ours(normalise(faces())), linear(wanted(theirs)[:, 0])[:, 0], **CLOSE)


# --- what the names do not tell ---


def test_what_was_taken_for_granted_is_told(tmp_path: Path) -> None:
    config = opened(write(tmp_path, {"state_dict": farl()})).config
    assert config.assumed == ("convention", "normalization", "colour_order", "layer_norm_eps", "activation")
    assert config.layer_norm_eps == 1e-5 and config.normalization.mean == (0.485, 0.456, 0.406)


def test_another_activation_can_be_told(tmp_path: Path) -> None:
    """OpenCLIP's names are the same, and most of its encoders have GELU."""
    theirs = visual(activation=nn.GELU)
    place = write(tmp_path, prefixed(theirs.state_dict(), "visual."))
    ours = opened(place, activation="gelu")
    torch.testing.assert_close(tokens_of(ours), wanted(theirs), **CLOSE)
    assert "activation" not in ours.config.assumed
    for unknown in ("quickgelu", ""):
        with pytest.raises(Refused, match=rf"activation '{unknown}': not one of gelu, quick_gelu\. Give gelu for"):
            opened(place, activation=unknown)


# --- saved and loaded again ---


def test_saved_and_loaded_again_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    first = opened(write(tmp_path, {"state_dict": farl()}))
    config = save(first, str(tmp_path / "ours"), config=first.config)
    again = load(tmp_path / "ours")
    assert torch.equal(tokens_of(again), tokens_of(first)) and again.architecture == first.architecture
    assert again.config == config and config.layer_norm_eps == 1e-5
    card = (tmp_path / "ours" / "MODEL_CARD.md").read_text()
    assert "A LayerNorm stands before its first block. Its activation is quick_gelu." in card
    assert "colour_order, layer_norm_eps, activation" in card
    with pytest.raises(Refused, match="a checkpoint of ours, which says that itself. Leave activation out"):
        load(tmp_path / "ours", activation="gelu")


def test_a_model_that_starts_from_it_in_turn_keeps_its_encoder_and_its_doubts(tmp_path: Path) -> None:
    first = opened(write(tmp_path, {"state_dict": farl()}), "age")
    save(first, str(tmp_path / "age"), config=first.config)
    later = opened(str(tmp_path / "age"), "survival", size=16, interpolate=True)
    direct = opened(write(tmp_path, {"state_dict": farl()}), "survival", size=16, interpolate=True)
    assert torch.equal(tokens_of(later, 16), tokens_of(direct, 16))
    assert later.config.assumed == first.config.assumed and "activation" in later.config.assumed


def without_the_keys(folder: Path) -> None:
    """As a version wrote it that knew the standard model only."""
    found = json.loads((folder / "config.json").read_text())
    for key in ("pre_norm", "activation"):
        del found["architecture"][key]
    (folder / "config.json").write_text(json.dumps(found))


def test_a_config_from_before_these_keys_opens_as_a_standard_model(tmp_path: Path) -> None:
    model = build(Architecture("small", 64, 2, 4, PATCH, SIZE, "age"), seed=1).eval()
    save(model, str(tmp_path))
    without_the_keys(tmp_path)
    old = load(tmp_path)
    assert torch.equal(tokens_of(old), tokens_of(model))
    assert old.architecture == model.architecture and not old.architecture.pre_norm
    assert old.architecture.activation == "gelu"


def test_such_a_config_beside_weights_of_clip_is_refused(tmp_path: Path) -> None:
    save(opened(write(tmp_path, visual().state_dict())), str(tmp_path / "ours"))
    without_the_keys(tmp_path / "ours")
    with pytest.raises(
        Refused, match=r"config.json has no place for: encoder\.norm_pre\.bias, encoder\.norm_pre\.weight"
    ):
        load(tmp_path / "ours")


# --- refused ---


def changed(**more: Tensor) -> Callable[[], State]:
    return lambda: farl() | {name.replace("__", "."): tensor for name, tensor in more.items()}


def only_texts() -> State:
    return text_tower()


def with_a_resnet() -> State:
    return text_tower() | {"visual.conv1.weight": torch.ones(8, 3, 3, 3), "visual.bn1.weight": torch.ones(8)}


ROW = torch.zeros(WIDTH)
REFUSED: dict[str, tuple[Callable[[], State], str]] = {
    "a bias of the patches": (changed(visual__conv1__bias=ROW), r"no place for: visual\.conv1\.bias"),
    "layer scale": (
        lambda: farl() | {"visual.transformer.resblocks.0.ls_1.gamma": ROW},
        r"no place for: visual\.transformer\.resblocks\.0\.ls_1\.gamma",
    ),
    "pooling by a convolution": (changed(visual__conv_pool__weight=ROW), r"no place for: visual\.conv_pool\.weight"),
    "an unknown part of the texts": (changed(token_types__weight=ROW), r"no place for: token_types\.weight"),
    "image names with and without prefix": (changed(ln_pre__weight=ROW), r"no place for: ln_pre\.weight"),
    "timm's names too": (changed(cls_token=ROW), "no place for: cls_token"),
    "texts beside an image encoder without prefix": (
        lambda: visual().state_dict() | {"token_embedding.weight": ROW},
        r"no place for: token_embedding\.weight",
    ),
    "the texts alone": (only_texts, "no place for: token_embedding"),
    "a ResNet": (with_a_resnet, r"no place for: visual\.bn1\.weight"),
    "grey images": (
        changed(visual__conv1__weight=torch.zeros(WIDTH, 1, PATCH, PATCH)),
        r"patch embedding is \(128, 1, 8",
    ),
    "positions of an oblong": (
        changed(visual__positional_embedding=torch.zeros(12, WIDTH)),
        r"positions are \(1, 12, 128\)",
    ),
    "positions without width": (changed(visual__positional_embedding=torch.zeros(N)), r"positions are \(16,\)"),
    "a CLS token of another shape": (
        changed(visual__class_embedding=torch.zeros(2, WIDTH)),
        r"cls_token is \(2, 128\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clip_s_encoder_is_refused(tmp_path: Path, case: str) -> None:
    made, message = REFUSED[case]
    place = write(tmp_path, made())
    with pytest.raises(Refused, match=message) as refusal:
        opened(place)
    assert place in str(refusal.value) and str(refusal.value).endswith(".")


def test_no_tensor_of_the_encoder_may_be_missing_or_have_another_name(tmp_path: Path) -> None:
    state = prefixed(visual().state_dict(), "visual.")
    needed = [name for name in state if name != "visual.proj"]
    assert len(needed) == 7 + 12 * DEPTH
    for name in needed:
        rest = {each: tensor for each, tensor in state.items() if each != name}
        with pytest.raises(Refused, match="lacks|has the blocks"):
            opened(write(tmp_path, rest))
        with pytest.raises(Refused, match="no place for: |lacks"):
            opened(write(tmp_path, rest | {f"{name}_2": state[name]}))


class Whole(nn.Module):
    """CLIP's own download holds this as a program."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = visual()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual.conv1(pixels)


@pytest.mark.filterwarnings("ignore")  # torch: its own format is deprecated, and that it has recognised it
def test_a_program_is_refused_and_the_remedy_works(tmp_path: Path) -> None:
    place = str(tmp_path / "ViT-B-16.pt")
    torch.jit.trace(Whole(), torch.zeros(1, 3, SIZE, SIZE)).save(place)
    with pytest.raises(Refused, match=r"is a TorchScript archive.*\.visual\.state_dict\(\), 'visual\.pth'\)"):
        opened(place)
    ours = opened(write(tmp_path, torch.jit.load(place, "cpu").visual.state_dict()))
    torch.testing.assert_close(tokens_of(ours), wanted(visual()), **CLOSE)


def test_a_file_without_head_says_what_to_give(tmp_path: Path) -> None:
    place = write(tmp_path, {"state_dict": farl()})
    with pytest.raises(Refused, match="holds an encoder only. .* give task and fresh_head=True"):
        load(place)
