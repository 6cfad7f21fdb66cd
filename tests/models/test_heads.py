"""Heads answer in fp32: an age is not rounded, whatever the encoder runs in."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from fahr.errors import Refused
from fahr.models import Predictor, create, load, save
from fahr.models.precision import autocast, for_inference
from fahr.objectives.age import HEADS


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


# --- kinds of heads ---


def by_hand(head: str, outputs: np.ndarray) -> np.ndarray:
    """(B, K) -> (B,) years, in NumPy."""
    if head == "distribution":
        weights = np.exp(outputs - outputs.max(1, keepdims=True))
        return (weights * np.arange(123)).sum(1) / weights.sum(1)
    return (1 / (1 + np.exp(-outputs))).sum(1) if head == "ordinal" else outputs[:, 0]


@pytest.mark.parametrize("head", HEADS)
def test_each_head_has_its_outputs_and_they_are_read_as_years(head: str) -> None:
    model = create("vit_tiny", task="age", head=head, seed=0)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        for context in (autocast("cpu", "fp32"), autocast("cpu", "bf16")):
            with context:
                features, outputs, answers = model.features(faces()), model.outputs(faces()), model(faces())
            assert outputs.shape == (3, HEADS[head]) and answers.shape == (3,)
            assert outputs.dtype == answers.dtype == torch.float32
            linear = features.double().numpy() @ model.head.weight.double().numpy().T + model.head.bias.numpy()
            np.testing.assert_allclose(outputs.numpy(), linear, atol=1e-4)
            np.testing.assert_allclose(answers.numpy(), by_hand(head, linear), atol=1e-3)
            assert torch.equal(answers, model.predict(features))


@pytest.mark.parametrize("head", HEADS)
def test_each_head_starts_at_the_mean_age_and_comes_back(head: str, tmp_path: Path) -> None:
    model = create("vit_tiny", size=32, task="age", head=head, seed=0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.start_at(58.5, 14.0)
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert model(images).numpy() == pytest.approx([58.5, 58.5], abs=0.5)
        model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        save(model, str(tmp_path))
        back = load(tmp_path, head=head)
        assert torch.equal(back(images), model.eval()(images)) and back.architecture.head == head
    other = "ordinal" if head != "ordinal" else "value"
    with pytest.raises(Refused, match=rf"has a head of kind '{head}', not '{other}'.*fresh_head=True"):
        load(tmp_path, head=other)
    fresh = load(tmp_path, task="age", fresh_head=True, head=other, seed=0)
    assert fresh.head.bias.shape == (HEADS[other],) and torch.equal(fresh.encoder.cls_token, model.encoder.cls_token)


def test_a_head_of_hazards_says_one_risk_and_comes_back(tmp_path: Path) -> None:
    model = create("vit_tiny", size=32, task="survival", head="hazard", seed=0)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.zero_()
        model.start_at(torch.linspace(-3, -1, 10))
        outputs = model.outputs(images)
        assert outputs.shape == (2, 10) and torch.equal(outputs[1], torch.linspace(-3, -1, 10))
        model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        edges = [0.0, *np.arange(1.0, 11) ** 2]
        save(model, str(tmp_path), config={"hazard_edges": edges})
        back = load(tmp_path)
        assert back.config.hazard_edges == tuple(edges) and back.architecture.head == "hazard"
        dead = 1 - np.cumprod(1 - model.eval().outputs(images).sigmoid().double().numpy(), 1)
        assert back(images).numpy() == pytest.approx(np.log(dead.mean(1)), abs=1e-5)
    with pytest.raises(Refused, match=r"has a head of kind 'hazard', not 'value'.*fresh_head=True"):
        load(tmp_path, task="survival", head="value")
    with pytest.raises(Refused, match="head 'hazard': is for task 'survival'; task 'age' has the head 'value'"):
        create("vit_tiny", task="age", head="hazard")
    with pytest.raises(Refused, match="hazard_edges are the 11 ends .* this one is 'hazard', with 3"):
        save(model, str(tmp_path / "b"), config={"hazard_edges": [0, 1, 2]})


def test_a_checkpoint_from_before_kinds_of_heads_and_normalizations_still_opens(tmp_path: Path) -> None:
    model = create("vit_tiny", size=32, task="age", seed=0)
    save(model, str(tmp_path))
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["architecture"].pop("head"), written["normalization"].pop("kind")) == ("value", "fixed")
    (tmp_path / "config.json").write_text(json.dumps(written))
    back = load(tmp_path)
    assert back.architecture == model.architecture and back.normalization == model.normalization


def test_heads_that_cannot_be_are_refused() -> None:
    with pytest.raises(Refused, match=r"head 'ordnal': not one of value, .*Did you mean 'ordinal'\?"):
        create("vit_tiny", task="age", head="ordnal")
    for task in ("survival", "mae"):
        with pytest.raises(Refused, match=f"head 'gaussian': is for task 'age'; task '{task}' has the head 'value'"):
            create("vit_tiny", task=task, head="gaussian")
