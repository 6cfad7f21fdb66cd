"""Checkpoints of other projects compute in our model what they computed at home. Their networks are written out here.

Every weight is random, norms and biases too, so that two that were exchanged would show.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from fahr.errors import Refused
from fahr.models import MaeOptions, MaskedAutoencoder, Predictor, load
from fahr.models.checkpoints.interpolate import is_sincos, resized
from fahr.models.masking import Mask, random_mask
from fahr.models.positions import sincos_table

WIDTH, DEPTH, HEADS, PATCH, SIZE = 64, 2, 4, 8, 32
NARROW, NARROW_HEADS = 32, 4
N = (SIZE // PATCH) ** 2
State = dict[str, Tensor]


def randomised(model: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + ("norm" in name))
    return model.eval()


def images(size: int = SIZE, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


# --- the networks of others ---


def timm_vit(**options: Any) -> Any:
    shape = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, global_pool="token")
    return randomised(VisionTransformer(**(shape | {"num_classes": 0} | options)))


class HfDense(nn.Module):
    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(wide, out)


class HfSelf(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)


class HfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.output = HfSelf(width), HfDense(width, width)


class HfLayer(nn.Module):
    """A pre-norm block as Transformers lays it out, with attention written head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = HfAttention(width)
        self.intermediate, self.output = HfDense(width, 4 * width), HfDense(4 * width, width)
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)  # Transformers' ViT; ours has 1e-6
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        normed, inner = self.layernorm_before(x), self.attention.attention
        q, k, v = inner.query(normed), inner.key(normed), inner.value(normed)
        step, mixed = q.shape[-1] // self.heads, []
        for start in range(0, q.shape[-1], step):
            part = slice(start, start + step)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(step)
            mixed.append(scores.softmax(-1) @ v[..., part])
        x = x + self.attention.output.dense(torch.cat(mixed, -1))
        hidden = functional.gelu(self.intermediate.dense(self.layernorm_after(x)))
        return x + self.output.dense(hidden)


class HfEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + N, WIDTH))
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, pixels: Tensor, keep: Tensor | None) -> Tensor:
        patches = self.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2) + self.position_embeddings[:, 1:]
        if keep is not None:
            patches = torch.stack([row[which] for row, which in zip(patches, keep, strict=True)])
        cls = self.cls_token + self.position_embeddings[:, :1]
        return torch.cat([cls.expand(len(pixels), 1, WIDTH), patches], 1)


class HfVit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = HfEmbeddings()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(HfLayer(WIDTH, HEADS) for _ in range(DEPTH))
        self.layernorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.embeddings(pixels, keep)
        for layer in self.encoder.layer:
            x = layer(x)
        return self.layernorm(x)


class HfDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(WIDTH, NARROW)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, NARROW))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + N, NARROW))
        self.decoder_layers = nn.ModuleList(HfLayer(NARROW, NARROW_HEADS) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(NARROW, eps=1e-12)
        self.decoder_pred = nn.Linear(NARROW, PATCH * PATCH * 3)


class HfVitMae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit, self.decoder = HfVit(), HfDecoder()

    def forward(self, pixels: Tensor, keep: Tensor) -> Tensor:
        d = self.decoder
        return decode(self.vit(pixels, keep), keep, d, d.decoder_layers)


class ReferenceMae(nn.Module):
    """The layout of the public MAE code: timm's names, and the decoder's beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit()
        for name, part in list(self.vit.named_children()):
            setattr(self, name, part)
        self.cls_token, self.pos_embed = self.vit.cls_token, self.vit.pos_embed
        del self.vit
        self.decoder_embed = nn.Linear(WIDTH, NARROW)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, NARROW))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + N, NARROW))
        self.decoder_blocks = nn.ModuleList(Block(NARROW, NARROW_HEADS, qkv_bias=True) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(NARROW, eps=1e-6)
        self.decoder_pred = nn.Linear(NARROW, PATCH * PATCH * 3)

    def forward(self, pixels: Tensor, keep: Tensor) -> Tensor:
        patches = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        patches = torch.stack([row[which] for row, which in zip(patches, keep, strict=True)])
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(pixels), 1, WIDTH)
        x = torch.cat([cls, patches], 1)
        for block in self.blocks:
            x = block(x)
        return decode(self.norm(x), keep, self, self.decoder_blocks)


def decode(encoded: Tensor, keep: Tensor, parts: Any, blocks: nn.ModuleList) -> Tensor:
    """Every patch in its place, mask tokens where nothing was seen -> (B, N, P * P * 3)."""
    embedded = parts.decoder_embed(encoded)
    full = parts.mask_token.expand(len(encoded), N, NARROW).clone()
    for row, which in enumerate(keep):
        full[row, which] = embedded[row, 1:]
    x = torch.cat([embedded[:, :1], full], 1) + parts.decoder_pos_embed
    for block in blocks:
        x = block(x)
    return parts.decoder_pred(parts.decoder_norm(x))[:, 1:]


def reconstruction_loss(prediction: Tensor, pixels: Tensor, masked: Tensor) -> float:
    """norm_pix, patch by patch: science.md 3.2."""
    errors = []
    for b, row in enumerate(masked.tolist()):
        for n in row:
            top, left = n // (SIZE // PATCH) * PATCH, n % (SIZE // PATCH) * PATCH
            patch = pixels[b, :, top : top + PATCH, left : left + PATCH].permute(1, 2, 0).flatten()
            target = (patch - patch.mean()) / (patch.var(correction=1) + 1e-6).sqrt()
            errors.append(((prediction[b, n] - target) ** 2).mean())
    return float(torch.stack(errors).mean())


def write(tmp_path: Path, state: Any, name: str = "weights.pth", **options: Any) -> str:
    place = tmp_path / name
    if place.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, place)
    else:
        torch.save(state, place, **options)
    return str(place)


def heads(**more: Any) -> dict[str, Any]:
    return {"num_heads": HEADS, **more}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def mask() -> Mask:
    return random_mask(3, N, 0.75, torch.Generator().manual_seed(2))


# --- the same outputs ---


def encoder_of(model: MaskedAutoencoder | Predictor, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        encoded: Tensor = model.encoder(pixels)
    return encoded


PREFIXES = ["", "module.", "model.", "backbone.", "encoder.", "module.model.encoder."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_timm_encoder_gives_timm_s_tokens(tmp_path: Path, prefix: str, name: str) -> None:
    theirs = timm_vit(num_classes=1000)
    place = write(tmp_path, prefixed(theirs.state_dict(), prefix), name)
    ours = load(place, task="age", fresh_head=True, seed=3, **heads())
    with torch.no_grad():
        torch.testing.assert_close(encoder_of(ours, images()), theirs.forward_features(images()), atol=1e-5, rtol=1e-5)
    assert (ours.architecture.patch, ours.architecture.size) == (PATCH, SIZE)


def test_a_named_size_is_recognised_with_its_heads(tmp_path: Path) -> None:
    theirs = timm_vit(img_size=64, patch_size=16, embed_dim=192, depth=12, num_heads=3)
    ours = load(write(tmp_path, theirs.state_dict()), task="survival", fresh_head=True)
    shape = ours.architecture
    assert (shape.name, shape.num_heads, shape.patch, shape.size, shape.mlp_ratio) == ("vit_tiny", 3, 16, 64, 4.0)
    with torch.no_grad():
        wanted = theirs.forward_features(images(64))
    torch.testing.assert_close(encoder_of(ours, images(64)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["head", "regressor", "fc", "classifier"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_age_head_beside_a_timm_encoder_gives_its_ages(tmp_path: Path, head: str, prefix: str) -> None:
    theirs = timm_vit(num_classes=1)
    state = {name.replace("head.", f"{head}."): tensor for name, tensor in theirs.state_dict().items()}
    ours = load(write(tmp_path, {"model_state_dict": prefixed(state, prefix)}), **heads())
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images())[:, 0], atol=1e-5, rtol=1e-5)
    assert ours.architecture.task == "age" and "task" in ours.config.assumed


class HfAge(nn.Module):
    """ViT + one linear layer on CLS: the authors' FAHR-FaceAge as they describe it."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.vit, self.name = HfVit(), head
        setattr(self, head, nn.Linear(WIDTH, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return getattr(self, self.name)(self.vit(pixels)[:, 0])[:, 0]


@pytest.mark.parametrize("head", ["head", "regressor", "fc", "classifier"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_the_authors_age_layout_gives_its_ages(tmp_path: Path, head: str, prefix: str) -> None:
    theirs = randomised(HfAge(head))
    optimizer = torch.optim.AdamW(theirs.parameters())
    theirs(images()).sum().backward()
    optimizer.step()
    state = {
        "model_state_dict": prefixed(theirs.state_dict(), prefix),
        "optimizer_state_dict": optimizer.state_dict(),
        "epoch": 12,
        "loss": 4.2,
    }
    ours = load(write(tmp_path, state, "fahr_faceage.pth"), **heads())
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-5, rtol=1e-5)


def assert_same_mae(ours: MaskedAutoencoder | Predictor, theirs: nn.Module) -> None:
    assert isinstance(ours, MaskedAutoencoder)
    chosen = mask()
    with torch.no_grad():
        made = ours(images(), mask=chosen)
        wanted = theirs(images(), chosen.keep)
    at = torch.stack([row[which] for row, which in zip(wanted, made.decoded, strict=True)])
    torch.testing.assert_close(made.prediction, at, atol=1e-5, rtol=1e-5)
    assert made.decoded.shape == (3, 12)
    assert float(made.loss) == pytest.approx(reconstruction_loss(wanted, images(), chosen.masked), rel=1e-5)


MAE: dict[str, Any] = {"num_heads": HEADS, "decoder_heads": NARROW_HEADS}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_the_authors_foundation_layout_gives_its_pixels(tmp_path: Path, prefix: str) -> None:
    theirs = randomised(HfVitMae())
    optimizer = torch.optim.AdamW(theirs.parameters()).state_dict()
    state = {"model_state_dict": prefixed(theirs.state_dict(), prefix), "optimizer_state_dict": optimizer}
    ours = load(write(tmp_path, state, "fahr_face.pth"), **MAE)
    assert_same_mae(ours, theirs)
    torch.testing.assert_close(encoder_of(ours, images()), theirs.vit(images()), atol=1e-5, rtol=1e-5)


def test_the_reference_mae_layout_gives_its_pixels(tmp_path: Path) -> None:
    theirs = randomised(ReferenceMae())
    state = {"model": theirs.state_dict(), "optimizer": {"state": {}, "param_groups": []}, "epoch": 799}
    assert_same_mae(load(write(tmp_path, state | {"args": argparse.Namespace(lr=1e-4)}), **MAE), theirs)


def test_the_encoder_alone_is_taken_from_a_file_with_a_decoder(tmp_path: Path) -> None:
    theirs = randomised(HfVitMae())
    ours = load(write(tmp_path, theirs.state_dict()), task="age", fresh_head=True, **heads())
    with torch.no_grad():
        torch.testing.assert_close(encoder_of(ours, images()), theirs.vit(images()), atol=1e-5, rtol=1e-5)


def test_a_file_with_head_and_decoder_serves_for_either(tmp_path: Path) -> None:
    theirs = randomised(HfVitMae())
    linear = randomised(nn.Linear(WIDTH, 1))
    place = write(tmp_path, theirs.state_dict() | prefixed(linear.state_dict(), "regressor."))
    ages, painter = load(place, **MAE), load(place, task="mae", **MAE)
    with torch.no_grad():
        wanted = linear(theirs.vit(images())[:, 0])[:, 0]
        torch.testing.assert_close(ages(images()), wanted, atol=1e-5, rtol=1e-5)
    assert_same_mae(painter, theirs)


def test_a_survival_head_is_taken_where_the_user_says_so(tmp_path: Path) -> None:
    theirs = randomised(HfAge("fc"))
    ours = load(write(tmp_path, theirs.state_dict()), task="survival", **heads())
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-5, rtol=1e-5)


def test_old_files_of_torch_are_read_too(tmp_path: Path) -> None:
    theirs = timm_vit(num_classes=1)
    ours = load(write(tmp_path, theirs.state_dict(), _use_new_zipfile_serialization=False), **heads())
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs(images())[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_other_floating_types_become_fp32(tmp_path: Path, kind: torch.dtype, name: str) -> None:
    theirs = timm_vit(num_classes=1).to(kind)
    ours = load(write(tmp_path, theirs.state_dict(), name), **heads())
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        wanted = theirs.float()(images())[:, 0]
        torch.testing.assert_close(ours(images()), wanted, atol=1e-5, rtol=1e-5)


def test_what_a_foreign_file_does_not_tell_is_marked_as_assumed(tmp_path: Path) -> None:
    config = load(write(tmp_path, randomised(HfVitMae()).state_dict()), **MAE).config
    assert config.assumed == ("convention", "normalization", "colour_order", "layer_norm_eps", "mae_options")
    assert (config.convention, config.colour_order, config.detector) == ("arcface112", "RGB", None)
    assert config.normalization.mean == (0.485, 0.456, 0.406) and config.mae_options == MaeOptions()
    assert config.origin == str(tmp_path / "weights.pth") and config.code_version is None


# --- what is not the same is refused ---


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


def test_no_tensor_may_be_missing_and_none_too_many(tmp_path: Path) -> None:
    """Each of the tensors in turn, of both layouts: left out, then renamed."""
    for theirs in (randomised(HfVitMae()), randomised(ReferenceMae())):
        state = theirs.state_dict()
        assert len(state) > 50
        for name in state:
            with pytest.raises(Refused, match="lacks|has the blocks"):
                load(write(tmp_path, without(state, name)), task="mae", **MAE)
            with pytest.raises(Refused, match="no place for: |holds no Vision|lacks"):
                load(write(tmp_path, without(state, name) | {f"{name}_2": state[name]}), task="mae", **MAE)


def extra(name: str, *shape: int, **options: Any) -> Callable[[], State]:
    return lambda: timm_vit(**options).state_dict() | {name: torch.zeros(*shape)}


def changed(name: str, value: Any, **options: Any) -> Callable[[], dict[str, Any]]:
    return lambda: timm_vit(num_classes=1, **options).state_dict() | {name: value}


def two_networks() -> State:
    state = timm_vit(num_classes=1).state_dict()
    return state | prefixed(state, "module.")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a norm of CLIP": (extra("ln_pre.weight", WIDTH), "no place for: cls_token, pos_embed"),
    "a norm before the blocks": (extra("norm_pre.weight", WIDTH), "no place for: norm_pre.weight"),
    "layer scale": (lambda: timm_vit(init_values=1e-5).state_dict(), r"no place for: blocks\.0\.ls1\.gamma"),
    "qk norm": (lambda: timm_vit(qk_norm=True).state_dict(), r"no place for: blocks\.0\.attn\.q_norm"),
    "registers": (lambda: timm_vit(reg_tokens=4).state_dict(), "no place for: reg_token"),
    "no bias in qkv": (lambda: timm_vit(qkv_bias=False, num_classes=1).state_dict(), r"lacks encoder.*qkv\.bias"),
    "mean pooling": (
        lambda: timm_vit(global_pool="avg", fc_norm=True, num_classes=1).state_dict(),
        "head 'head' seems to stand on fc_norm",
    ),
    "a pooler": (extra("pooler.dense.weight", WIDTH, WIDTH, num_classes=1), "stand on pooler.dense"),
    "no CLS": (lambda: timm_vit(class_token=False, global_pool="avg").state_dict(), r"positions are \(1, 16, 64\)"),
    "grey images": (lambda: timm_vit(in_chans=1).state_dict(), r"patch embedding is \(64, 1, 8, 8\)"),
    "oblong patches": (
        changed("patch_embed.proj.weight", torch.zeros(WIDTH, 3, 8, 16)),
        r"patch embedding is \(64, 3, 8, 16\)",
    ),
    "another kind of network": (lambda: nn.Conv2d(3, 8, 3).state_dict(), "holds no Vision Transformer.*weight, bias"),
    "two networks": (two_networks, "would both be cls_token: two networks"),
    "two heads": (
        lambda: timm_vit(num_classes=1).state_dict() | {"fc.weight": torch.zeros(1, WIDTH), "fc.bias": torch.zeros(1)},
        "several heads of one output: fc, head",
    ),
    "a head without bias": (lambda: without(timm_vit(num_classes=1).state_dict(), "head.bias"), "lacks head.bias"),
    "a head of another width": (
        changed("head.weight", torch.zeros(1, 7)),
        r"head.weight is \(1, 7\), \(1, 64\) is needed",
    ),
    "an unknown head": (extra("age.weight", 1, WIDTH), "no place for: age.weight.*head, regressor, fc, classifier"),
    "a thousand classes": (lambda: timm_vit(num_classes=1000).state_dict(), "holds an encoder only.*fresh_head=True"),
    "a block too far": (extra("blocks.7.norm1.weight", WIDTH), r"has the blocks \[0, 1, 7\]"),
    "a block beyond reason": (extra("blocks.999999999.norm1.weight", WIDTH), r"has the blocks \[0, 1, 999999999\]"),
    "a mixture of models": (changed("blocks.1.mlp.fc1.weight", torch.zeros(5, 5)), r"mlp\.fc1\.weight is \(5, 5\)"),
    "a scalar": (changed("blocks.0.mlp.fc1.weight", torch.tensor(1.0)), "lacks encoder.blocks.0.mlp.fc1.weight"),
    "NaN": (changed("norm.bias", torch.full((WIDTH,), float("nan"))), "norm.bias holds 64 of 64 values that are NaN"),
    "infinite": (changed("norm.bias", torch.tensor([math.inf] + [0.0] * 63)), "norm.bias holds 1 of 64 values"),
    "whole numbers": (changed("norm.bias", torch.zeros(WIDTH, dtype=torch.int8)), "norm.bias is of torch.int8"),
    "sparse": (changed("head.weight", torch.zeros(1, WIDTH).to_sparse()), "head.weight is of torch.sparse_coo"),
    "no tensor": (changed("norm.bias", "zeros"), "norm.bias is a str, not a tensor"),
    "a list": (lambda: [torch.zeros(3)], "holds a list, not a state dict"),
    "nothing": (dict, "one state dict is needed.*are state dicts: none"),
    "an average beside the weights": (
        lambda: {"model": timm_vit().state_dict(), "model_ema": timm_vit().state_dict()},
        "are state dicts: model, model_ema. Save the one",
    ),
    "weights under another key": (lambda: {"teacher": timm_vit().state_dict()}, "are state dicts: teacher"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("case", REFUSED)
def test_what_would_compute_something_else_is_refused(tmp_path: Path, case: str) -> None:
    made, message = REFUSED[case]
    place = write(tmp_path, made())
    with pytest.raises(Refused, match=message) as refusal:
        load(place, **heads())
    assert place in str(refusal.value) and str(refusal.value).rstrip().endswith(".")


def test_the_head_that_is_not_wanted_need_not_be_understood(tmp_path: Path) -> None:
    theirs = timm_vit(num_classes=1)
    state = theirs.state_dict() | {"pooler.dense.weight": torch.zeros(WIDTH, WIDTH), "fc_norm.bias": torch.zeros(WIDTH)}
    ours = load(write(tmp_path, state), task="age", fresh_head=True, **heads())
    with torch.no_grad():
        torch.testing.assert_close(encoder_of(ours, images()), theirs.forward_features(images()), atol=1e-5, rtol=1e-5)


def test_heads_that_the_width_does_not_tell_must_be_given(tmp_path: Path) -> None:
    place = write(tmp_path, timm_vit(embed_dim=80).state_dict())
    with pytest.raises(Refused, match=r"width of 80 does not tell .* Give num_heads"):
        load(place, task="age", fresh_head=True)
    with pytest.raises(Refused, match="width 80 must be a multiple of its 7 heads"):
        load(place, task="age", fresh_head=True, num_heads=7)
    narrow = randomised(HfVitMae()).state_dict()
    narrow = {name: t for name, t in narrow.items() if not name.startswith("decoder.decoder_embed")}
    place = write(tmp_path, narrow | prefixed(nn.Linear(WIDTH, 20).state_dict(), "decoder.decoder_embed."))
    with pytest.raises(Refused, match=r"width of 20 .* Give decoder_heads"):
        load(place, **heads())


# --- positions ---


def pillow(table: Tensor, grid: int) -> Tensor:
    """Bicubic with antialias by Pillow, one channel at a time."""
    before = math.isqrt(table.shape[1] - 1)
    done = torch.zeros(1, 1 + grid * grid, table.shape[2])
    done[:, 0] = table[:, 0]
    for channel in range(table.shape[2]):
        square = table[0, 1:, channel].reshape(before, before).numpy()
        image = Image.fromarray(square, mode="F").resize((grid, grid), Image.Resampling.BICUBIC)
        done[0, 1:, channel] = torch.from_numpy(np.asarray(image).copy()).flatten()
    return done


@pytest.mark.parametrize(("before", "after"), [(4, 7), (14, 7), (7, 14), (5, 4), (4, 1), (1, 3)])
def test_learned_positions_are_stretched_as_pillow_does(before: int, after: int) -> None:
    table = torch.randn(1, 1 + before**2, 12, generator=torch.Generator().manual_seed(before))
    torch.testing.assert_close(resized(table, after, "x"), pillow(table, after), atol=1e-5, rtol=1e-5)


def test_the_same_grid_changes_no_bit() -> None:
    for table in (torch.randn(1, 26, 8), sincos_table(8, 5) + 1e-7):
        assert torch.equal(resized(table, 5, "x"), table)


def test_fixed_positions_are_made_anew_rather_than_stretched() -> None:
    table = sincos_table(16, 4)
    assert is_sincos(table) and torch.equal(resized(table, 7, "x"), sincos_table(16, 7))
    rounded = (table.double() * (1 + 3e-7)).float()  # as another project computes it
    assert torch.equal(resized(rounded, 7, "x"), sincos_table(16, 7))
    for learned in (table + 1e-3, table[:, :, torch.arange(16).roll(8)]):  # moved; rows before columns
        assert not is_sincos(learned)
        torch.testing.assert_close(resized(learned, 7, "x"), pillow(learned, 7), atol=1e-5, rtol=1e-5)


def test_another_size_needs_permission_and_is_then_computed_with_stretched_positions(tmp_path: Path) -> None:
    theirs = timm_vit(num_classes=1)
    place = write(tmp_path, theirs.state_dict())
    with pytest.raises(Refused, match=r"reads faces of 32 px, not 48.*interpolate=True"):
        load(place, size=48, **heads())
    ours = load(place, size=48, interpolate=True, **heads())
    larger = timm_vit(num_classes=1, img_size=48)
    larger.load_state_dict(theirs.state_dict() | {"pos_embed": pillow(theirs.state_dict()["pos_embed"], 6)})
    with torch.no_grad():
        torch.testing.assert_close(ours(images(48)), larger(images(48))[:, 0], atol=1e-5, rtol=1e-5)
    config = ours.config
    assert (config.digest, ours.digest, config.input_size) == (None, None, 48)
    assert config.parent_checkpoint == load(place, **heads()).digest
    with pytest.raises(Refused, match="patch 8: does not divide the size of 50 px"):
        load(place, size=50, interpolate=True, **heads())


def test_decoder_positions_follow_the_size(tmp_path: Path) -> None:
    state = randomised(HfVitMae()).state_dict()
    state["decoder.decoder_pos_embed"] = sincos_table(NARROW, 4)
    ours = load(write(tmp_path, state), size=48, interpolate=True, **MAE)
    tables = ours.state_dict()
    assert torch.equal(tables["decoder.pos_embed"], sincos_table(NARROW, 6))
    wanted = pillow(state["vit.embeddings.position_embeddings"], 6)
    torch.testing.assert_close(tables["encoder.pos_embed"], wanted, atol=1e-5, rtol=1e-5)
    state["decoder.decoder_pos_embed"] = torch.zeros(1, 12, NARROW)
    for options in ({"size": 48, "interpolate": True}, {}):
        with pytest.raises(Refused, match=r"\(1, 12, 32\)"):
            load(write(tmp_path, state), **options, **MAE)
