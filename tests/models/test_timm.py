"""Any network of timm under a head of ours: what timm computes, kept and scored like our own models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from fahr.errors import Refused
from fahr.models import Backbone, Predictor, create, load, save
from fahr.models.encoder import drop_paths
from fahr.models.normalization import unit
from fahr.models.precision import autocast, for_inference
from fahr.scoring import Scorer
from fahr.training.loader import Batch
from fahr.training.optimizer import make_optimizer
from fahr.training.recipe import Recipe
from fahr.training.step import step
from fahr.training.tasks import Prediction, absolute_error

# timm's own networks for tests: a second of work in all. One of each kind; the ViT has positions for 160 px.
NAMES = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_nfnet")
SIZE = 96


def randomised(name: str, task: str = "age", seed: int = 0) -> Predictor:
    """Norms and their statistics as after training."""
    model = create(f"timm:{name}", task=task, size=SIZE, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 1 and not key.endswith("running_var"):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif key.endswith("running_var"):
            tensor.add_(torch.rand(tensor.shape, generator=generator))
    return model


def faces(count: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (count, SIZE // 8, SIZE // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_timms_features_under_our_head(name: str) -> None:
    model = randomised(name).eval()
    options = {"img_size": SIZE} if name == "test_vit" else {}
    theirs = timm.create_model(name, num_classes=0, **options).eval()
    theirs.load_state_dict(model.encoder.net.state_dict())  # type: ignore[union-attr,operator]
    mean, std = (np.array(theirs.pretrained_cfg[key]) for key in ("mean", "std"))
    images = torch.from_numpy(((faces() / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        features = theirs(images)
        wanted = features.double() @ model.head.weight[0].double() + model.head.bias.double()
    assert features.shape == (3, model.architecture.width)
    scorer = Scorer(model, precision="fp32", batch=2)
    np.testing.assert_allclose(scorer.features(faces()), features.numpy(), atol=1e-5)
    np.testing.assert_allclose(scorer.predict(faces()), wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_comes_back_bit_by_bit(name: str, tmp_path: Path) -> None:
    model = randomised(name).eval()
    config = save(model, str(tmp_path), config={"detector": "yunet"})
    back = load(tmp_path, task="age", size=SIZE, expect_convention="arcface112")
    assert isinstance(back, Predictor) and (back.architecture, back.config) == (model.architecture, config)
    found = back.state_dict()
    for key, each in model.state_dict().items():
        assert torch.equal(each, found[key]), key
    assert back.normalization == model.normalization == config.normalization and config.layer_norm_eps is None
    images = model.prepare(unit(torch.from_numpy(faces())))
    with torch.no_grad():
        assert torch.equal(model(images), back(images))
    with pytest.raises(Refused, match="reads faces cut as arcface112, not as faceage160"):
        load(tmp_path, expect_convention="faceage160")
    with pytest.raises(Refused, match="reads faces of 96 px, not 112. Align to 96"):
        load(tmp_path, size=112, interpolate=True)
    kept = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {each.dtype for each in kept.values()} == {torch.float32}
    assert f"{name} of timm" in (tmp_path / "MODEL_CARD.md").read_text()


def test_a_survival_model_starts_from_an_age_model_of_timms(tmp_path: Path) -> None:
    model = randomised("test_resnet")
    parent = save(model, str(tmp_path))
    start = load(tmp_path, task="survival", fresh_head=True, seed=0)
    assert isinstance(start, Predictor) and start.config.parent_checkpoint == parent.digest
    theirs = start.encoder.state_dict()
    assert all(torch.equal(each, theirs[key]) for key, each in model.encoder.state_dict().items())
    with pytest.raises(Refused, match="is a model of task age, not survival"):
        load(tmp_path, task="survival")


@pytest.mark.parametrize("name", NAMES)
def test_bf16_rounds_matrices_and_filters_alone_and_is_what_training_computes(name: str) -> None:
    images = randomised(name).prepare(unit(torch.from_numpy(faces())))
    with torch.no_grad():
        exact = randomised(name).eval().features(images)
        with autocast("cpu", "bf16"):
            trained = randomised(name).eval().features(images)
    model = for_inference(randomised(name), "cpu", "bf16")
    small = {key for key, each in model.state_dict().items() if each.dtype == torch.bfloat16}
    layers = {
        f"encoder.{key}" for key, each in model.encoder.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)
    }
    assert {key.rpartition(".")[0] for key in small} <= layers and small
    made = model.features(images)
    assert made.dtype == torch.float32 and (made - exact).abs().max() < 0.1 * exact.abs().max()
    assert (made - trained).abs().max() <= 0.02 * exact.abs().max()


def test_the_same_seed_gives_the_same_weights_and_torchs_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        create("timm:test_convnext", task="age", size=SIZE, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(each, same[key]) for key, each in one.items())
    assert not all(torch.equal(each, other[key]) for key, each in one.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_widths_and_sizes_are_those_of_the_network() -> None:
    shapes = [create(f"timm:{name}", task="age", size=112).architecture for name in ("resnet18", "test_vit")]
    assert shapes[0] == Backbone("timm:resnet18", "timm", 112, "age", 512)
    assert create("timm:test_vit", task="age", size=64).encoder.net.pos_embed.shape[1] == 1 + (64 // 16) ** 2  # type: ignore[union-attr]
    assert create("timm:test_vit.r160_in1k", task="survival", size=160).architecture.name == "timm:test_vit.r160_in1k"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_network_of_timm_learns_the_ages_of_four_faces(name: str) -> None:
    recipe = Recipe(samples=16, global_batch=4, micro_batch=4, warmup_samples=0, precision="fp32")
    model = create(f"timm:{name}", task="age", size=SIZE, seed=0)
    model.start_at(50)
    task = Prediction(model, recipe, absolute_error("age")).train()
    optimizer = make_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    labels = {"age": np.array([44.0, 48.0, 52.0, 56.0])}
    batch = Batch(torch.from_numpy(faces(4)), np.arange(4), torch.arange(4), labels)
    losses = [step(task, batch, optimizer, recipe).loss for _ in range(60)]
    assert losses[0] == pytest.approx(4, abs=0.5) and losses[-1] < 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, r"'timm:resnet81': timm \S+ has none of this name\. Did you mean 'resnet18'\?"),
        ("hf-hub:timm/resnet18", {}, "has none of this name"),  # timm would ask the network
        ("resnet18.nope", {}, "Invalid pretrained tag"),
        ("", {}, "has none of this name"),
        ("resnet18", {"size": 0}, "size 0: must be a whole number"),
        ("inception_v3", {"size": 32}, "can't read images of 32 px .* Give a larger size"),
        ("resnet18", {"task": "mae"}, "only a Vision Transformer can leave out what is hidden"),
        ("resnet18", {"task": "ages"}, r"task 'ages': not one of .*Did you mean 'age'\?"),
        ("resnet18", {"head": "vlaue"}, r"head 'vlaue': .*Did you mean 'value'\?"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        create(f"timm:{name}", **({"task": "age"} | options))


def test_drop_path_is_refused_where_there_are_no_blocks_of_ours() -> None:
    trunk = create("timm:test_vit", task="age", size=SIZE).encoder
    with pytest.raises(Refused, match=r"drop path 0\.1: this network has no transformer blocks.*Give 0"):
        drop_paths(trunk, 0.1)
    drop_paths(trunk, 0.0)
    with pytest.raises(Refused, match=r"\(batch, 3, 96, 96\)"):
        trunk.pooled(torch.zeros(1, 3, 64, 64))


def test_a_checkpoint_of_another_family_or_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    save(create("timm:test_resnet", task="age", size=SIZE, seed=0), str(tmp_path))
    text = config.read_text()
    for change, message in (
        (('"family": "timm"', '"family": "tim"'), r"family 'tim': not one of faceage, timm\. Did you mean 'timm'\?"),
        (('"channels"', '"chanels"'), r"unknown key 'chanels'.*Did you mean 'channels'\?"),
        (('"timm:test_resnet"', '"timm:test_resnut"'), "has none of this name"),
        (('"width": ', '"width": 1'), r"head.weight is \(1, \d+\), \(1, 1\d+\) is needed"),
    ):
        assert change[0] in text
        config.write_text(text.replace(*change))
        with pytest.raises(Refused, match=message):
            load(tmp_path)
