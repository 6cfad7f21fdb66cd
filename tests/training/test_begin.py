"""What a run starts from: weights by seed, one of our checkpoints, or ImageNet's, and nothing that does not fit."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from fahr.errors import Refused
from fahr.models import Architecture, Decoder, MaeOptions, build, load, save
from fahr.models.normalization import normalise
from fahr.training.begin import Begun, BegunPredictor, begin, begin_predictor
from training import small

OWN, OTHER = Decoder(32, 2, 2), Decoder(64, 1, 4)
OPTIONS = MaeOptions(mask_ratio=0.6, norm_pix=False)


def begun(init: str = "random", model: str = "vit_tiny", patch: int = 16, **changes: object) -> Begun:
    settings = {"size": 32, "decoder": OWN, "options": OPTIONS, "convention": "arcface112", "seed": 0} | changes
    return begin(model, patch, init=init, **settings)  # type: ignore[arg-type]


def scrambled(model: nn.Module) -> dict[str, Tensor]:
    """Every weight random, of norms and biases too, so that nothing is equal by chance."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return small.weights(model)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Tensor], str]:
    """A checkpoint of vit_tiny/16 at 32 px, its weights and its digest."""
    model = build(Architecture.named("vit_tiny", patch=16, size=32, decoder=OWN), seed=7)
    weights = scrambled(model)
    folder = str(tmp_path_factory.mktemp("pretrained") / "checkpoint")
    known = {"detector": "mtcnn", "data_digest": "sha256:aa"}
    return folder, weights, str(save(model, folder, config=known).digest)


Pretrained = tuple[str, dict[str, Tensor], str]


def half(weights: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    return {name: each for name, each in weights.items() if name.startswith(which)}


def test_random_weights_are_those_of_their_seed() -> None:
    one, same, other = begun(), begun(), begun(seed=1)
    small.assert_equal(small.weights(one.model), small.weights(same.model))
    found, different = small.weights(one.model), small.weights(other.model)
    drawn = [name for name in found if name.endswith("weight") and "norm" not in name]
    assert len(drawn) > 50 and not any(torch.equal(found[name], different[name]) for name in drawn)
    assert (one.parent, one.origin) == (None, None) and one.model.options == OPTIONS


def test_of_a_checkpoint_with_the_same_decoder_both_halves_are_taken(pretrained: Pretrained) -> None:
    folder, weights, digest = pretrained
    torch.manual_seed(0)
    generator = torch.get_rng_state()
    found = begun(folder)
    small.assert_equal(small.weights(found.model), weights)
    assert (found.parent, found.origin) == (digest, None)
    assert found.model.options == OPTIONS and found.model.training
    assert all(each.requires_grad for each in found.model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_under_another_decoder_the_encoder_is_taken_and_the_decoder_is_fresh(pretrained: Pretrained) -> None:
    folder, weights, digest = pretrained
    found = begun(folder, decoder=OTHER)
    made = small.weights(found.model)
    small.assert_equal(half(made, "encoder."), half(weights, "encoder."))
    small.assert_equal(half(made, "decoder."), half(small.weights(begun(decoder=OTHER).model), "decoder."))
    assert found.model.architecture.decoder == OTHER and found.parent == digest


@pytest.mark.parametrize("decoder", [OWN, Decoder()])  # the last is what `load` puts on an encoder by itself
@pytest.mark.parametrize("task", ["age", "survival"])
def test_of_a_predictor_the_encoder_is_taken(tmp_path: Path, task: str, decoder: Decoder) -> None:
    model = build(Architecture.named("vit_tiny", patch=16, size=32, task=task), seed=7)
    weights = scrambled(model)
    saved = save(model, str(tmp_path / "age"), config={"detector": "mtcnn", "data_digest": "sha256:aa"})
    found, again = begun(str(tmp_path / "age"), decoder=decoder), begun(str(tmp_path / "age"), decoder=decoder)
    small.assert_equal(half(small.weights(found.model), "encoder."), half(weights, "encoder."))
    small.assert_equal(small.weights(found.model), small.weights(again.model))
    assert found.parent == saved.digest and found.model.architecture.decoder == decoder
    other = begun(str(tmp_path / "age"), decoder=decoder, seed=1)
    assert not torch.equal(other.model.decoder.embed.weight, found.model.decoder.embed.weight)


def test_at_another_size_everything_fits_but_the_places(pretrained: Pretrained) -> None:
    """Tables of sines are made anew, as a model born at that size has them."""
    folder, weights, digest = pretrained
    found = begun(folder, size=64)
    made, born = small.weights(found.model), small.weights(begun(size=64).model)
    for name, each in made.items():
        assert torch.equal(each, born[name] if name.endswith("pos_embed") else weights[name]), name
    assert found.parent == digest and found.model.architecture.size == 64


def test_a_run_learns_from_what_it_began_with(pretrained: Pretrained) -> None:
    """The model can be trained, and its mean square error is that of the checkpoint's own model."""
    folder, _, _ = pretrained
    images = normalise(torch.from_numpy(small.IMAGES[:4]))
    model, theirs = begun(folder, options=MaeOptions()).model, load(folder, task="mae")
    mask = model.draw_mask(4, torch.Generator().manual_seed(1), torch.device("cpu"))
    output = model(images, mask)
    assert torch.allclose(output.loss, theirs(images, mask).loss)
    output.loss.backward()
    assert all(each.grad is not None for each in model.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "vit_small"}, "its width is 192, that of vit_small with patch 16 is 384"),
        ({"model": "vit_large"}, "its width is 192"),
        ({"patch": 8}, "its patch is 16, that of vit_tiny with patch 8 is 8"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(
    pretrained: Pretrained, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(Refused, match=f"{said}.*Give the --model and --patch of the checkpoint"):
        begun(pretrained[0], **changes)  # type: ignore[arg-type]


def test_a_checkpoint_for_faces_cut_otherwise_is_refused(pretrained: Pretrained) -> None:
    with pytest.raises(Refused, match="reads faces cut as arcface112, not as mtcnn160"):
        begun(pretrained[0], convention="mtcnn160")


def test_what_is_no_checkpoint_is_refused_by_its_own_fault(tmp_path: Path, pretrained: Pretrained) -> None:
    with pytest.raises(Refused, match="no such checkpoint"):
        begun(str(tmp_path / "none"))
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in Path(pretrained[0]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(Refused, match="cut short, changed"):
        begun(str(folder))


# ImageNet's


def test_imagenet_gives_the_encoder_its_places_stretched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's own model at this size, with what timm makes of the table, gives the same features."""
    theirs = timm.create_model("deit_tiny_patch16_224", pretrained=False)
    scrambled(theirs)
    file = tmp_path / "deit_tiny_patch16_224.fb_in1k.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), file)
    monkeypatch.setenv("FAHR_WEIGHTS", str(tmp_path))
    found = begun("imagenet", size=64)
    small_one = timm.create_model("deit_tiny_patch16_224", pretrained=False, img_size=64).eval()
    table = resample_abs_pos_embed(theirs.pos_embed.detach(), [4, 4], num_prefix_tokens=1)
    small_one.load_state_dict(theirs.state_dict() | {"pos_embed": table})
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = small_one.forward_features(images)
        got = found.model.eval().encoder(images)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    for name, each in theirs.blocks.state_dict().items():
        assert torch.equal(found.model.encoder.blocks.state_dict()[name], each), name
    assert found.origin == str(file) and found.parent is not None and found.parent.startswith("sha256:")
    fresh = small.weights(begun(size=64).model)
    small.assert_equal(half(small.weights(found.model), "decoder."), half(fresh, "decoder."))


@pytest.mark.parametrize(("model", "patch"), [("vit_large", 8), ("vit_tiny", 8), ("vit_large", 16)])
def test_imagenet_for_a_shape_that_nobody_published_names_those_that_are(model: str, patch: int) -> None:
    known = "vit_tiny-16, vit_small-16, vit_base-16, vit_small-8, vit_base-8"
    with pytest.raises(Refused, match=f"no weights are known for {model} with patch {patch}; they are for {known}"):
        begun("imagenet", model, patch)


# A predictor


def begun_predictor(init: str, head: str = "value", **changes: Any) -> BegunPredictor:
    settings = {"task": "age", "size": 32, "convention": "arcface112", "seed": 0} | changes
    return begin_predictor("vit_tiny", 16, init=init, head=head, **settings)


def test_a_predictor_takes_the_encoder_of_an_autoencoder_under_a_head_of_its_own_seed(pretrained: Pretrained) -> None:
    folder, weights, digest = pretrained
    found, again, other = begun_predictor(folder), begun_predictor(folder), begun_predictor(folder, seed=1)
    for each in (found, again, other):
        small.assert_equal(half(small.weights(each.model), "encoder."), half(weights, "encoder."))
        assert each.fresh_head and each.parent == digest and each.model.training
    assert torch.equal(found.model.head.weight, again.model.head.weight)
    assert not torch.equal(found.model.head.weight, other.model.head.weight)


def test_an_age_model_goes_on_with_its_head_and_another_kind_of_head_begins_anew(tmp_path: Path) -> None:
    model = build(Architecture.named("vit_tiny", patch=16, size=32, task="age"), seed=7)
    weights = scrambled(model)
    save(model, str(tmp_path / "age"))
    found, other = begun_predictor(str(tmp_path / "age")), begun_predictor(str(tmp_path / "age"), "gaussian")
    small.assert_equal(small.weights(found.model), weights)
    assert not found.fresh_head and other.fresh_head and other.model.head.weight.shape == (2, 192)
    small.assert_equal(half(small.weights(other.model), "encoder."), half(weights, "encoder."))
    assert begun_predictor(str(tmp_path / "age"), task="survival").fresh_head, "a head of years ranks nobody"


@pytest.mark.parametrize("name", ["faceage", "faceage-512"])
def test_faceage_refuses_faces_cut_otherwise(name: str) -> None:
    with pytest.raises(Refused, match=f"--model {name}: reads faces cut as faceage160, these are arcface112"):
        begin_predictor(name, 16, task="age", head="value", size=112, init="random", convention="arcface112", seed=0)
