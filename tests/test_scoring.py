"""The one scorer: a face has the same score in any company, heads stay exact, and wrong faces are refused."""

import numpy as np
import pytest
import torch

from fahr.errors import Refused
from fahr.models import Predictor, create, load, save
from fahr.models.normalization import normalise
from fahr.scoring import Scorer

BATCHES = (1, 2, 3, 7, 16, 40)


def faces(count: int, size: int = 112) -> np.ndarray:
    """Soft blobs: coarse noise made large."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, size // 8, size // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def planted(name: str, some: np.ndarray, task: str = "age") -> Predictor:
    """A model whose predictions for these faces spread as ages do: mean 60, SD 15 (for risk mean 0, SD 1)."""
    model = create(name, task=task, seed=0)
    assert isinstance(model, Predictor)
    features = torch.from_numpy(Scorer(create(name, task=task, seed=0), precision="fp32").features(some))
    weight = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0))
    raw = features @ weight
    mean, sd = (60.0, 15.0) if task == "age" else (0.0, 1.0)
    with torch.no_grad():
        model.head.weight.copy_((weight * sd / raw.std())[None])
        model.head.bias.fill_(mean - float(raw.mean() * sd / raw.std()))
    return model


@pytest.mark.parametrize(
    ("name", "precision", "task", "most"),
    [
        ("vit_tiny", "bf16", "age", 0.01),
        ("vit_tiny", "fp32", "age", 0.01),
        ("vit_tiny", "bf16", "survival", 0.001),
        pytest.param("vit_base", "bf16", "age", 0.01, marks=pytest.mark.evidence),
    ],
)
def test_a_face_has_the_same_score_in_any_batch(name, precision, task, most):
    some = faces(19)
    reference = Scorer(planted(name, some, task), precision=precision, batch=16).predict(some)
    assert reference.std() > (10 if task == "age" else 0.7)
    for batch in BATCHES:
        scorer = Scorer(planted(name, some, task), precision=precision, batch=batch)
        assert abs(scorer.predict(some) - reference).max() <= most
        if batch == 7:
            shuffled = np.random.default_rng(1).permutation(len(some))
            assert abs(scorer.predict(some[shuffled]) - reference[shuffled]).max() <= most
            alone = np.concatenate([scorer.predict(some[n : n + 1]) for n in range(5)])
            assert abs(alone - reference[:5]).max() <= most


def test_predictions_are_the_models_own():
    """An independent way: the model called by hand, in fp32, a face at a time."""
    some = faces(5)
    by_hand = planted("vit_tiny", some).eval()
    with torch.inference_mode():
        expected = [float(by_hand(normalise(torch.from_numpy(face[None])))[0]) for face in some]
    scorer = Scorer(planted("vit_tiny", some), precision="fp32", batch=2)
    np.testing.assert_allclose(scorer.predict(some), expected, atol=1e-4)
    np.testing.assert_allclose(scorer.from_features(scorer.features(some)), expected, atol=1e-4)


def test_the_head_is_not_rounded_by_a_bf16_backbone():
    model = create("vit_tiny", task="age", seed=0)
    assert isinstance(model, Predictor)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(61.3)  # bf16 makes it 61.25
    assert Scorer(model, precision="bf16").predict(faces(1))[0] == pytest.approx(61.3, abs=1e-5)


def test_risk_is_told_in_standard_deviations_of_the_training_people_and_keeps_its_sign(tmp_path):
    some = faces(6)
    model = planted("vit_tiny", some, "survival")
    raw = Scorer(planted("vit_tiny", some, "survival"), precision="fp32").predict(some)
    save(model, str(tmp_path / "c"), config={"risk_mean": 0.5, "risk_sd": 2.0})
    loaded = load(str(tmp_path / "c"))
    assert isinstance(loaded, Predictor)
    scorer = Scorer(loaded, precision="fp32")
    np.testing.assert_allclose(scorer.predict(some), (raw - 0.5) / 2, atol=1e-5)
    assert scorer.digest is not None and scorer.digest.startswith("sha256:")


def test_no_faces_give_no_scores():
    scorer = Scorer(create("vit_tiny", task="age", seed=0))
    assert scorer.predict([]).shape == (0,) and scorer.features([]).shape == (0, 192)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.zeros((1, 160, 160, 3), np.uint8), r"face 0: is uint8 of shape \(160, 160, 3\).*--size 112"),
        (np.zeros((1, 112, 112, 3), np.float32), "face 0: is float32"),
        ([np.zeros((112, 112, 3), np.uint8), np.zeros((112, 112), np.uint8)], r"face 1: .*shape \(112, 112\)"),
    ],
)
def test_faces_of_another_kind_are_refused(wrong, told):
    with pytest.raises(Refused, match=told):
        Scorer(create("vit_tiny", task="age", seed=0)).predict(wrong)


def test_a_model_without_a_head_and_an_empty_batch_are_refused():
    with pytest.raises(Refused, match="task 'mae': has no head"):
        Scorer(create("vit_tiny", task="mae", seed=0))
    with pytest.raises(Refused, match="batch 0"):
        Scorer(create("vit_tiny", task="age", seed=0), batch=0)
