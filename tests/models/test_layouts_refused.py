"""What would compute something else than at home is refused, and positions fit another size as they should."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fahr.errors import Refused
from fahr.models import load
from fahr.models.checkpoints.interpolate import is_sincos, resized
from fahr.models.positions import sincos_table
from models.other_networks import (
    MAE,
    NARROW,
    WIDTH,
    HfVitMae,
    ReferenceMae,
    State,
    encoder_of,
    heads,
    images,
    prefixed,
    randomised,
    timm_vit,
    write,
)

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
