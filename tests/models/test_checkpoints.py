"""A checkpoint comes back bit by bit, says what it is, and may begin another model."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fahr import store
from fahr.errors import Refused
from fahr.models import MaeOptions, MaskedAutoencoder, Predictor, create, load, save
from fahr.version import code_version
from models.small_models import KNOWN, images, outputs, same_bits, small, timm_names

# --- round trip ---


@pytest.mark.parametrize("task", ["mae", "age", "survival"])
def test_a_checkpoint_comes_back_bit_by_bit(folder: str, task: str) -> None:
    model = small(task)
    config = save(model, folder, config=KNOWN)
    back = load(folder, task=task, size=32)
    assert same_bits(model, back) and torch.equal(outputs(model), outputs(back))
    assert type(back) is type(model) and back.architecture == model.architecture and not back.training
    assert back.config == config and back.digest == config.digest
    data = store.read_bytes(store.join(folder, "model.safetensors"))
    assert back.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("task", ["mae", "age", "survival"])
def test_what_was_loaded_and_saved_again_is_the_same_checkpoint(tmp_path: Path, task: str) -> None:
    save(small(task), str(tmp_path / "a"), config=KNOWN)
    first = load(tmp_path / "a")
    assert save(first, str(tmp_path / "b"), config=first.config) == first.config
    for name in ("model.safetensors", "config.json", "MODEL_CARD.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_named_models_come_back_too(tmp_path: Path) -> None:
    for task in ("mae", "age"):
        model = create("vit_tiny", patch=16, size=64, task=task, seed=3)
        save(model, str(tmp_path / task))
        assert same_bits(model, load(tmp_path / task))


def test_masking_options_come_back(tmp_path: Path) -> None:
    save(small("mae"), str(tmp_path))
    back = load(tmp_path)
    assert isinstance(back, MaskedAutoencoder) and back.options == MaeOptions(mask_ratio=0.5, norm_pix=False)


def test_a_layer_norm_of_transformers_keeps_its_eps(tmp_path: Path) -> None:
    model = small("age")
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-2
    save(model, str(tmp_path))
    assert torch.equal(outputs(load(tmp_path)), outputs(model))
    assert not torch.equal(outputs(small("age")), outputs(model))


def test_half_precision_is_saved_in_full(tmp_path: Path) -> None:
    model = small("age").to(torch.bfloat16)
    save(model, str(tmp_path))
    back = load(tmp_path)
    assert same_bits(model.float(), back) and {tensor.dtype for tensor in back.parameters()} == {torch.float32}


def test_the_weights_file_of_a_checkpoint_stands_for_its_folder(tmp_path: Path) -> None:
    config = save(small("age"), str(tmp_path), config={"detector": "mtcnn"})
    assert load(tmp_path / "model.safetensors").config == config


def test_loading_leaves_torch_s_random_numbers_alone(tmp_path: Path) -> None:
    save(small("age"), str(tmp_path))
    before = torch.get_rng_state()
    load(tmp_path)
    load(tmp_path, task="survival", fresh_head=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


# --- what a checkpoint says ---

PROMISED = [
    "architecture",
    "task",
    "input_size",
    "convention",
    "normalization",
    "colour_order",
    "label_stats",
    "data_digest",
    "parent_checkpoint",
    "code_version",
    "metrics",
    "detector",
    "bias_correction",
    "conformal",
    "risk_mean",
    "risk_sd",
    "risk_percentiles",
    "quartile_cuts",
    "hazard_edges",
    "repeatability_sd_years",
    "aging_rate_prior",
    "ood",
    "digest",
]


def test_config_has_every_promised_key_and_null_where_nothing_is_known(tmp_path: Path) -> None:
    save(small("age"), str(tmp_path))
    found = json.loads((tmp_path / "config.json").read_text())
    assert set(PROMISED) <= set(found)
    assert found["code_version"] == code_version() and found["convention"] == "arcface112"
    assert found["normalization"] == {"kind": "fixed", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for key in KNOWN:
        assert found[key] is None, key
    save(small("age"), str(tmp_path / "known"), config=KNOWN)
    found = json.loads((tmp_path / "known" / "config.json").read_text())
    assert {key: found[key] for key in KNOWN} == KNOWN


MUST_SAY = [
    "For research only",
    "no medical device",
    "diagnosis",
    "the prognosis of an individual",
    "hiring",
    "insurance",
    "who somebody is",
    "people under 18",
    "averages over a cohort",
    "ask for consent",
    "processed locally",
    "not stored unless",
    "makeup",
    "lighting",
    "pose",
    "smile",
    "over 90",
    "edited photos",
    "27 to 38",
    "the interval",
    "several photos",
    "median",
    "quality gate",
]


@pytest.mark.parametrize("task", ["mae", "age", "survival"])
def test_the_card_says_what_it_must_and_the_facts(tmp_path: Path, task: str) -> None:
    config = save(small(task), str(tmp_path), config=KNOWN, card="Trained on *synthetic* people.")
    card = " ".join((tmp_path / "MODEL_CARD.md").read_text().split())
    for phrase in MUST_SAY:
        assert phrase in card, phrase
    for fact in ("Trained on *synthetic* people.", "mtcnn", "arcface112", "5.25", config.digest, config.code_version):
        assert fact is not None and fact in card, fact
    assert ("higher = worse" in card) == (task == "survival")


def test_a_card_tells_somebody_else_s_weights_and_what_was_assumed(tmp_path: Path) -> None:
    torch.save(timm_names(small("age")), tmp_path / "theirs.pth")
    foreign = load(tmp_path / "theirs.pth", num_heads=4)
    save(foreign, str(tmp_path / "ours"), config=foreign.config)
    card = (tmp_path / "ours" / "MODEL_CARD.md").read_text()
    assert "theirs.pth): check their licence and terms" in card and "Assumed" in card and "convention" in card
    again = load(tmp_path / "ours")
    assert again.config.assumed == foreign.config.assumed and torch.equal(outputs(again), outputs(foreign))


# --- made from another ---


def test_a_fresh_head_stands_on_the_same_encoder_and_starts_from_its_seed(tmp_path: Path) -> None:
    model = small("mae")
    parent = save(model, str(tmp_path), config=KNOWN)
    one, same, other = (load(tmp_path, task="age", fresh_head=True, seed=seed) for seed in (1, 1, 2))
    assert isinstance(one, Predictor) and same_bits(one.encoder, model.encoder) and same_bits(one, same)
    assert same_bits(other.encoder, model.encoder) and not same_bits(one, other)
    assert float(one.head.weight.detach().std()) == pytest.approx(0.02, rel=0.3) and not one.head.bias.any()
    config = one.config
    assert config.parent_checkpoint == parent.digest and config.digest is None and one.digest is None
    assert config.detector == "mtcnn" and config.task == "age"
    for key in KNOWN.keys() - {"detector", "parent_checkpoint"}:
        assert getattr(config, key) is None, f"{key} was measured on another model"


def test_a_survival_model_starts_from_an_age_model_only_when_asked(tmp_path: Path) -> None:
    model = small("age")
    save(model, str(tmp_path))
    with pytest.raises(Refused, match=r"is a model of task age, not survival.*fresh_head=True"):
        load(tmp_path, task="survival")
    start = load(tmp_path, task="survival", fresh_head=True, seed=0)
    assert isinstance(start, Predictor) and same_bits(start.encoder, model.encoder)
    assert not torch.equal(start.head.weight, model.head.weight)  # type: ignore[union-attr,arg-type]


def test_another_size_forgets_what_was_measured(tmp_path: Path) -> None:
    model = small("age")
    parent = save(model, str(tmp_path), config=KNOWN)
    larger = load(tmp_path, size=64, interpolate=True)
    assert larger(images(64)).shape == (4,) and larger.digest is None
    assert larger.config.parent_checkpoint == parent.digest and larger.config.conformal is None
    head = {name: tensor for name, tensor in larger.state_dict().items() if name != "encoder.pos_embed"}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in head.items())
    again = save(larger, str(tmp_path / "larger"), config=larger.config)
    assert again.parent_checkpoint == parent.digest and load(tmp_path / "larger").digest == again.digest


def test_the_code_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks[0], names)  # the others want files that do not ship with the project
    assert float(names["years"].detach()) == pytest.approx(51.5, abs=5)
    assert names["start"].config.parent_checkpoint == names["model"].digest
