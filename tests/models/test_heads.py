"""Heads answer in fp32: an age is not rounded, whatever the encoder runs in."""

from typing import Literal

import pytest
import torch

from fahr.models import Predictor, create
from fahr.models.precision import autocast, for_inference


def predictor(task: Literal["age", "survival"] = "age") -> Predictor:
    return create("vit_tiny", task=task, seed=0)


def faces(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def planted(years: float, where: str) -> Predictor:
    """A model that says `years` to every face, by its bias or by a feature that its head reads."""
    model = predictor()
    with torch.no_grad():
        model.head.weight.zero_()
        if where == "bias":
            model.start_at(years)
        else:
            model.encoder.norm.weight.zero_()
            model.encoder.norm.bias[5] = years
            model.head.weight[0, 5] = 1
    return model


@pytest.mark.parametrize("where", ["bias", "feature"])
@pytest.mark.parametrize("years", [61.3, 90.2, 23.4567])
def test_a_bf16_encoder_does_not_round_the_age(years: float, where: str) -> None:
    assert torch.tensor(years).bfloat16().item() != torch.tensor(years).item()  # bf16 would: 61.3 -> 61.25
    exact = torch.full((3,), years)
    with autocast("cpu", "bf16"):
        assert torch.equal(planted(years, where)(faces()), exact)
    model = for_inference(planted(years, where), "cpu", "bf16")
    assert torch.equal(model(faces()), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(faces()), exact)


def test_answers_are_the_head_of_the_features_and_both_are_fp32() -> None:
    model = predictor()
    model.start_at(47.5)
    for context in (autocast("cpu", "fp32"), autocast("cpu", "bf16")):
        with context, torch.no_grad():
            features, answers = model.features(faces()), model(faces())
            assert features.shape == (3, 192) and answers.shape == (3,)
            assert features.dtype == answers.dtype == torch.float32
            by_hand = (features.double() * model.head.weight[0].double()).sum(1) + model.head.bias.double()
            assert answers.double() == pytest.approx(by_hand, abs=1e-5)
            assert torch.equal(answers, model.predict(features))


def test_the_features_are_cls_after_the_last_norm() -> None:
    model = predictor()
    with torch.no_grad():
        assert torch.equal(model.features(faces()), model.encoder(faces())[:, 0])
        assert model.features(faces()).mean(1).abs().max() < 1e-5  # a fresh norm centres


def test_an_age_model_starts_at_the_mean_age() -> None:
    model = predictor()
    model.start_at(52.25)
    with torch.no_grad():
        assert (model(faces()) - 52.25).abs().max() < 2  # years; the head's weights have a spread of 0.02
    assert model.head.bias.requires_grad


def test_every_parameter_of_a_predictor_learns() -> None:
    model = predictor("survival")
    with autocast("cpu", "bf16"):
        model(faces()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.abs().max() > 0, name
