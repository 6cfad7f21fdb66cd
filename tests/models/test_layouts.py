"""Checkpoints of other projects compute in our model what they computed at home."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from fahr.models import MaeOptions, MaskedAutoencoder, Predictor, load
from models.other_networks import (
    MAE,
    PATCH,
    SIZE,
    WIDTH,
    HfAge,
    HfVitMae,
    ReferenceMae,
    encoder_of,
    heads,
    images,
    mask,
    prefixed,
    randomised,
    reconstruction_loss,
    timm_vit,
    write,
)

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
