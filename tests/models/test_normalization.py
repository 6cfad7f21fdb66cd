"""What is done to pixels belongs to the model, and every way to a prediction asks the model for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from fahr.errors import Refused
from fahr.models import Backbone, CheckpointConfig, Predictor, build, create, load, save
from fahr.models.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization, normalise, unit
from fahr.scoring import Scorer
from fahr.training.augment import PRESETS, Augmentation
from fahr.training.recipe import Recipe
from fahr.training.tasks import Prediction, absolute_error

HALF = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
PER_IMAGE = Normalization(kind="per_image")


def faces(count: int = 4, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def by_hand(face: np.ndarray, normalization: Normalization) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float64, as the formulas say."""
    if normalization.kind == "per_image":
        return ((face - face.mean()) / face.std()).transpose(2, 0, 1)
    return ((face / 255 - np.array(normalization.mean)) / np.array(normalization.std)).transpose(2, 0, 1)


@pytest.mark.parametrize("normalization", [Normalization(), HALF, PER_IMAGE], ids=["imagenet", "half", "per_image"])
def test_pixels_are_normalised_as_the_formula_says(normalization: Normalization) -> None:
    some = faces()
    wanted = np.stack([by_hand(face, normalization) for face in some])
    made = normalization.apply(unit(torch.from_numpy(some)))
    assert made.dtype == torch.float32 and made.is_contiguous()
    np.testing.assert_allclose(made.numpy(), wanted, atol=2e-6)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, (2, 5, 4, 3), elements=st.integers(0, 255)))
def test_a_crop_is_normalised_by_itself_alone_and_only_a_flat_one_cannot_be(some: np.ndarray) -> None:
    made = PER_IMAGE.apply(unit(torch.from_numpy(some)))
    for face, values in zip(some, made.numpy(), strict=True):
        assert PER_IMAGE.reads(face) == (face.std() > 0) and HALF.reads(face)
        wanted = by_hand(face, PER_IMAGE) if face.std() > 0 else np.zeros((3, 5, 4))
        np.testing.assert_allclose(values, wanted, atol=1e-4)


def test_json_and_back_and_what_the_first_checkpoints_wrote() -> None:
    for each in (Normalization(), HALF, PER_IMAGE):
        assert Normalization.model_validate_json(each.model_dump_json()) == each
    assert Normalization.model_validate({"mean": IMAGENET_MEAN, "std": IMAGENET_STD}) == Normalization()
    assert Normalization.model_validate({}) == Normalization() != PER_IMAGE


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"kind": "per_image", "mean": (0, 0, 0)}, "takes mean and std from each image"),
        ({"kind": "per_batch"}, "'fixed' or 'per_image'"),
        ({"std": (1, 1, 0)}, "must be above 0"),
        ({"mean": None}, "needs a mean and a std"),
        ({"mean": (0, 0, float("nan"))}, "finite"),
        ({"average": 1}, "Extra inputs"),
    ],
)
def test_impossible_normalizations_are_refused(found: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Normalization.model_validate(found)


def test_a_checkpoint_is_scored_with_its_own_normalization(tmp_path: Path) -> None:
    """Not with ImageNet's in silence."""
    model = create("vit_tiny", size=32, task="age", seed=0)
    model.normalization = HALF
    config = save(model, str(tmp_path))
    assert config.normalization == HALF
    back = load(tmp_path, expect_normalization=HALF)
    assert isinstance(back, Predictor) and back.normalization == HALF
    with torch.no_grad():
        pixels = np.stack([by_hand(face, HALF) for face in faces()]).astype(np.float32)
        wanted = back(torch.from_numpy(pixels))
        imagenet = back(normalise(torch.from_numpy(faces())))
    scored = Scorer(back, precision="fp32").predict(faces())
    np.testing.assert_allclose(scored, wanted.numpy(), atol=1e-5)
    assert abs(scored - imagenet.numpy()).max() > 1e-3
    with pytest.raises(Refused, match="reads pixels normalized with mean=.0.5.*, not each crop's own mean and std"):
        load(tmp_path, expect_normalization=PER_IMAGE)
    start = load(tmp_path, task="survival", fresh_head=True)
    assert isinstance(start, Predictor) and start.normalization == HALF


def test_a_config_that_contradicts_the_model_is_refused(tmp_path: Path) -> None:
    model = create("vit_tiny", size=32, task="age", seed=0)
    with pytest.raises(Refused, match="normalization mean=.0.5.* is not what this model reads, mean=.0.485"):
        save(model, str(tmp_path), config={"normalization": HALF.model_dump()})
    assert not (tmp_path / "config.json").exists()
    kept = save(model, str(tmp_path), config={"normalization": {}})
    assert isinstance(kept, CheckpointConfig) and kept.normalization == Normalization()


@pytest.mark.parametrize("augmentation", [None, PRESETS["mae"]], ids=["plain", "augmented"])
def test_training_reads_what_scoring_reads(augmentation: Augmentation | None) -> None:
    recipe = Recipe(samples=16, global_batch=8, precision="fp32")
    shape = Backbone("faceage-8", "faceage", 160, "age", 8, channels=1 / 16)
    for model in (build(shape, seed=0), create("vit_tiny", size=160, task="age", seed=0)):
        assert isinstance(model, Predictor)
        task = Prediction(model, recipe, absolute_error("age"), augmentation)
        some, positions = torch.from_numpy(faces(3, 160)), torch.arange(3)
        scored = model.prepare(unit(some))
        assert torch.equal(task.eval().prepared(some, positions), scored)
        learned = task.train().prepared(some, positions)
        assert torch.equal(learned, scored) == (augmentation is None)
        if isinstance(model.architecture, Backbone):  # after the augmentation, not before
            assert learned.mean((1, 2, 3)).abs().max() < 1e-4
            assert learned.std((1, 2, 3), correction=0).numpy() == pytest.approx(1, abs=1e-4)
