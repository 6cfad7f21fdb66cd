"""FaceAge's network computes what two others do, written apart: facenet-pytorch's, and NumPy on Keras' arrays."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from torch import nn
from torch.nn import functional

from fahr.errors import Refused
from fahr.models import Backbone, Predictor, build, create, load, save
from fahr.models.faceage import ConvNorm, FaceAgeTrunk, Reduction, Residual, freeze_like_the_paper
from fahr.models.normalization import unit
from fahr.models.precision import autocast, for_inference
from fahr.scoring import Scorer
from models.keras_faceage import Keras, standardised, write

FIXED = ("encoder.stem", "encoder.block35", "encoder.mixed_6a")


def mini(task: str = "age", seed: int = 0) -> Predictor:
    model = build(Backbone("faceage-8", "faceage", 160, task, 8, channels=1 / 16), seed=seed)
    assert isinstance(model, Predictor)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():  # batch norms as after training
        if name.endswith(("running_mean", "norm.bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def faces(count: int = 3) -> np.ndarray:
    """Coarse noise made large, some of it dark, some with little contrast."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 10, 10, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    return (coarse // np.arange(1, count + 1)[:, None, None, None]).astype(np.uint8)


def test_the_network_is_facenet_pytorchs_with_the_same_weights() -> None:
    """All 111 convolutions at full width; its layers in the order in which they are defined, and so are ours."""
    torch.manual_seed(0)
    theirs = InceptionResnetV1(pretrained=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    ours = create("faceage-512", task="age", seed=1).eval()
    trunk = ours.encoder
    assert isinstance(trunk, FaceAgeTrunk)
    pairs = list(zip(convolutions(trunk), convolutions(theirs), strict=True))
    assert len(pairs) == 111 + 21
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    norms = [[m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (trunk, theirs)]
    for mine, other in [*zip(*norms, strict=True), (trunk.bottleneck_norm, theirs.last_bn)]:
        mine.load_state_dict(other.state_dict())
    trunk.bottleneck.load_state_dict(theirs.last_linear.state_dict())
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        wanted = theirs(images)
        embedding = trunk.bottleneck_norm(trunk.bottleneck(trunk(images)))
    torch.testing.assert_close(functional.normalize(embedding), wanted, atol=1e-5, rtol=1e-4)


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_a_keras_file_gives_the_ages_that_numpy_computes_from_it(tmp_path: Path) -> None:
    keras, some = Keras(), faces()
    wanted = keras.ages(standardised(some))
    assert wanted.std() > 0.05
    model = load(write(tmp_path / "faceage_model.h5", keras.arrays))
    assert isinstance(model, Predictor)
    with torch.no_grad():
        made = model(model.prepare(unit(torch.from_numpy(some))))
    np.testing.assert_allclose(made.numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(Scorer(model, precision="fp32", batch=2).predict(some), wanted, atol=1e-4)


def test_it_has_the_426_layers_of_keras_and_the_paper_learns_the_last_282() -> None:
    """Counted as Keras counts: convolution, norm and ReLU apart; input, pools, joins, sums and the end as well. The
    authors set layers 0 to 143 fixed and 145 on free; 144 keeps its default, which is free."""
    model = mini()
    trunk = model.encoder
    assert isinstance(trunk, FaceAgeTrunk)

    def layers(*parts: nn.Module) -> int:
        found = [module for part in parts for module in part.modules()]
        cells = sum(isinstance(each, ConvNorm) for each in found)
        residuals = [each for each in found if isinstance(each, Residual)]
        last = sum(each.linear for each in residuals)  # without a ReLU
        reductions = sum(isinstance(each, Reduction) for each in found)  # a pool and a join
        pools = sum(isinstance(each, nn.MaxPool2d) for each in found)
        return 3 * cells + 4 * len(residuals) - last + 2 * reductions + pools

    the_end = 4  # average, dropout, Bottleneck, its norm
    assert 1 + layers(trunk) + the_end == 426
    freeze_like_the_paper(trunk)
    fixed = [trunk.stem, trunk.block35, trunk.mixed_6a]
    assert 1 + layers(*fixed) == 144
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name.split(".")[1] for name in learning if name.startswith("encoder.")} == {
        "block17", "mixed_7a", "block8", "bottleneck", "bottleneck_norm", "hidden", "hidden_norm",
    }  # fmt: skip
    assert {"head.weight", "head.bias"} <= learning


@pytest.mark.parametrize("frozen", [False, True])
def test_training_moves_what_is_free_and_nothing_else(frozen: bool) -> None:
    model = mini()
    trunk = model.encoder
    assert isinstance(trunk, FaceAgeTrunk)
    if frozen:
        freeze_like_the_paper(trunk)
    model.eval().train()  # as a run does after each judgement
    before = copy.deepcopy(model.state_dict())
    images = model.prepare(unit(torch.from_numpy(faces(4))))
    (model(images) - 50).abs().mean().backward()
    torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 1e-2).step()
    moved = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    norms = {f"{n}." for n, each in model.named_modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)}
    gammas = {f"{name}weight" for name in norms}
    assert len(gammas) == 111 + 2 and all(bool((before[name] == 1).all()) for name in gammas)
    still = gammas | {name for name in before if name.startswith(FIXED) and frozen}
    assert {name for name, each in model.named_parameters() if each.grad is not None} == {
        name for name, _ in model.named_parameters() if name not in still
    }
    assert not moved & still
    assert {f"{name}running_var" for name in norms} - still <= moved
    assert model.training and trunk.block17[0].training and trunk.stem[0].norm.training != frozen  # type: ignore[union-attr]


def test_dropout_stands_before_the_embedding_while_training_alone() -> None:
    model = mini()
    images = model.prepare(unit(torch.from_numpy(faces(2))))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        model.encoder.dropout.p = 0.0  # type: ignore[union-attr,assignment]
        plain = model(images)
        model.encoder.dropout.p = 0.2  # type: ignore[union-attr,assignment]
        assert not torch.equal(model(images), plain)
        assert torch.allclose(model.eval()(images), plain, atol=1e-5)


@pytest.mark.parametrize("task", ["age", "survival"])
def test_a_checkpoint_of_it_comes_back_bit_by_bit(tmp_path: Path, task: str) -> None:
    model = mini(task).eval()
    config = save(model, str(tmp_path), card="Untrained.")
    back = load(tmp_path, task=task, expect_convention="faceage160", expect_detector="mtcnn")
    assert isinstance(back, Predictor) and back.architecture == model.architecture and back.config == config
    state = back.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    assert (config.convention, config.detector, config.layer_norm_eps) == ("faceage160", "mtcnn", None)
    assert config.normalization.kind == back.normalization.kind == "per_image"
    np.testing.assert_array_equal(*(Scorer(each, precision="fp32").predict(faces()) for each in (model, back)))
    assert "Inception-ResNet v1" in (tmp_path / "MODEL_CARD.md").read_text()
    with pytest.raises(Refused, match="reads faces cut as faceage160, not as arcface112"):
        load(tmp_path, expect_convention="arcface112")
    with pytest.raises(Refused, match="reads faces of 160 px, not 112"):
        load(tmp_path, size=112, interpolate=True)


def test_another_head_starts_on_the_same_trunk(tmp_path: Path) -> None:
    model = mini()
    parent = save(model, str(tmp_path))
    start = load(tmp_path, task="age", fresh_head=True, head="distribution", seed=3)
    assert isinstance(start, Predictor) and start.head.weight.shape == (123, 8)
    theirs = start.encoder.state_dict()
    assert all(torch.equal(each, theirs[name]) for name, each in model.encoder.state_dict().items())
    assert (start.config.parent_checkpoint, start.config.convention) == (parent.digest, "faceage160")
    with pytest.raises(Refused, match="only a Vision Transformer can leave out"):
        load(tmp_path, task="mae", fresh_head=True)


def test_in_bf16_norms_and_the_layers_behind_the_pool_stay_fp32() -> None:
    with autocast("cpu", "bf16"), torch.no_grad():
        images = mini().prepare(unit(torch.from_numpy(faces())))
        trained = mini().eval().features(images)
    model = for_inference(mini(), "cpu", "bf16")
    rounded = {name for name, each in model.state_dict().items() if each.dtype == torch.bfloat16}
    wanted = {f"encoder.{name}" for name, each in mini().encoder.named_modules() if isinstance(each, nn.Conv2d)}
    assert {name.rpartition(".")[0] for name in rounded} == wanted and len(wanted) == 132
    features = model.features(images)
    assert features.dtype == torch.float32 and torch.equal(features, trained)
    with torch.no_grad():
        exact = mini().eval().features(images)
    assert 0 < (features - exact).abs().max() < 0.1 * exact.std()


def test_a_flat_crop_is_refused_and_an_almost_flat_one_is_not() -> None:
    scorer, some = Scorer(mini(), precision="fp32"), faces(2)
    almost = np.full((1, 160, 160, 3), 77, np.uint8)
    almost[0, 5, 5, 1] = 78
    assert np.isfinite(scorer.predict(almost)).all() and scorer.reads(almost[0])
    for value in (0, 77, 255):  # 77 / 255 has no exact mean in fp32
        some[1] = value
        assert not scorer.reads(some[1])
        with pytest.raises(Refused, match=rf"face 1: is of one value, {value}, from edge to edge.*Leave the photo out"):
            scorer.predict(some)
    assert Scorer(create("vit_tiny", task="age", size=160, seed=0)).reads(some[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 112}, "faceage: reads faces of 160 px, not 112.*--convention faceage160 --size 160"),
        ({"task": "mae"}, "faceage: only a Vision Transformer"),
        ({"head": "valeu"}, r"head 'valeu': not one of value, .*Did you mean 'value'\?"),
        ({"task": "survival", "head": "ordinal"}, "head 'ordinal': is for task 'age'"),
    ],
)
def test_create_refuses_what_is_not_faceage(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        create("faceage", **({"task": "age"} | options))


def test_only_faceage_is_frozen_like_the_paper() -> None:
    with pytest.raises(Refused, match="Encoder: only FaceAge's network has these blocks"):
        freeze_like_the_paper(create("vit_tiny", task="age").encoder)
