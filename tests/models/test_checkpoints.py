"""A checkpoint comes back bit by bit or not at all, and a model is used for nothing else than it was made for."""

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from fahr import store
from fahr.errors import Refused
from fahr.models import (
    Architecture,
    CheckpointConfig,
    Decoder,
    MaeOptions,
    MaskedAutoencoder,
    Predictor,
    build,
    create,
    load,
    save,
)
from fahr.version import code_version

KNOWN: dict[str, Any] = {
    "detector": "mtcnn",
    "data_digest": "sha256:aa",
    "parent_checkpoint": "sha256:bb",
    "label_stats": {"n": 1000, "mean": 51.5, "sd": 17.0, "min": 18, "max": 99},
    "metrics": {"mae": 5.25, "by_decade": {"20-29": 4.0, "90-99": None}},
    "bias_correction": {"slope": 0.9, "intercept": 5.0},
    "conformal": {"all": {"n": 500, "half_width": 9.5}},
    "risk_mean": -0.1,
    "risk_sd": 1.1,
    "risk_percentiles": [-2.0, -0.5, 0.0, 0.0, 1.5],
    "quartile_cuts": [-0.5, 0.0, 0.7],
    "repeatability_sd_years": {"value": 1.8, "low": 1.5, "high": 2.1},
    "aging_rate_prior": {"short": {"mean": 1.0, "sd": 0.4}},
    "ood": {"threshold": 3.5},
}


def small(task: str, seed: int = 0, size: int = 32) -> MaskedAutoencoder | Predictor:
    """Every weight random, norms, biases and positions too."""
    decoder = Decoder(32, 2, 4) if task == "mae" else None
    options = MaeOptions(mask_ratio=0.5, norm_pix=False) if task == "mae" else None
    model = build(Architecture("vit_64x2x4", 64, 2, 4, 8, size, task, decoder=decoder), options=options)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model.eval()


def images(size: int = 32) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        if isinstance(model, Predictor):
            return model(images())
        made = model(images(), generator=torch.Generator().manual_seed(5))
        return torch.cat([made.prediction.flatten(), made.loss[None]])


def same_bits(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    torch.save(_timm_names(small("age")), tmp_path / "theirs.pth")
    foreign = load(tmp_path / "theirs.pth", num_heads=4)
    save(foreign, str(tmp_path / "ours"), config=foreign.config)
    card = (tmp_path / "ours" / "MODEL_CARD.md").read_text()
    assert "theirs.pth): check their licence and terms" in card and "Assumed" in card and "convention" in card
    again = load(tmp_path / "ours")
    assert again.config.assumed == foreign.config.assumed and torch.equal(outputs(again), outputs(foreign))


def _timm_names(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("encoder."): tensor for name, tensor in model.state_dict().items()}


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


# --- refused ---


def saved(place: Path) -> Path:
    save(small("age"), str(place), config=KNOWN)
    return place


def edit(place: Path, **changes: Any) -> Path:
    found = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(found | changes))
    return place


def overwrite(place: Path, tensors: dict[str, Tensor]) -> Path:
    """Other weights with the right digest, as somebody might make them by hand."""
    data = safetensors.torch.save(tensors)
    (place / "model.safetensors").write_bytes(data)
    return edit(place, digest=f"sha256:{hashlib.sha256(data).hexdigest()}")


def tensors_of(place: Path, **changes: Tensor) -> dict[str, Tensor]:
    return safetensors.torch.load_file(place / "model.safetensors") | changes


def flipped(place: Path) -> Path:
    data = bytearray((place / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (place / "model.safetensors").write_bytes(data)
    return place


def cut(file: str, share: float) -> Callable[[Path], Path]:
    def change(place: Path) -> Path:
        data = (place / file).read_bytes()
        (place / file).write_bytes(data[: int(len(data) * share)])
        return place

    return change


def lost(file: str) -> Callable[[Path], Path]:
    def change(place: Path) -> Path:
        (place / file).unlink()
        return place

    return change


def other(data: bytes, name: str = "file.pth") -> Callable[[Path], Path]:
    def change(place: Path) -> Path:
        (place / name).write_bytes(data)
        return place / name

    return change


def theirs(place: Path) -> Path:
    (place / "config.json").write_text('{"model_type": "vit_mae", "hidden_size": 768}')
    return place


def empty(place: Path) -> Path:
    (place / "empty").mkdir()
    return place / "empty"


def nan_bias() -> Tensor:
    return torch.tensor([float("nan")])


Case = tuple[Callable[[Path], Path], dict[str, Any], str]
REFUSED: dict[str, Case] = {
    "another task": (lambda p: p, {"task": "survival"}, "task age, not survival. Name a checkpoint of task survival"),
    "an unknown task": (lambda p: p, {"task": "surival"}, "task 'surival': .* Did you mean 'survival'"),
    "a fresh head for nothing": (lambda p: p, {"fresh_head": True}, "fresh_head: needs the task"),
    "another size": (lambda p: p, {"size": 112}, "faces of 32 px, not 112. Align to 32"),
    "no size": (lambda p: p, {"size": 0, "interpolate": True}, "size 0: must be"),
    "a size that the patch does not divide": (
        lambda p: p,
        {"size": 50, "interpolate": True},
        "patch 8: does not divide the size of 50 px",
    ),
    "another convention": (
        lambda p: p,
        {"expect_convention": "faceage160"},
        "cut as arcface112, not as faceage160.*--convention arcface112",
    ),
    "another normalization": (
        lambda p: p,
        {"expect_normalization": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}},
        r"normalized with mean=\(0.485.* not mean=\(0.5.*Normalize as it says",
    ),
    "heads that it tells itself": (lambda p: p, {"num_heads": 8}, "says that itself. Leave num_heads out"),
    "one bit flipped": (flipped, {}, "bytes with digest sha256:.*config.json says sha256:"),
    "weights cut": (cut("model.safetensors", 0.9), {}, "cut short, changed, or a save that was killed"),
    "weights emptied": (cut("model.safetensors", 0), {}, " 0 bytes with digest"),
    "weights lost": (lost("model.safetensors"), {}, "model.safetensors: no such file"),
    "configuration lost": (lost("config.json"), {}, "has no config.json: .* a save that was killed"),
    "configuration cut": (cut("config.json", 0.5), {}, "config.json: is not JSON.*Restore it"),
    "a wrong digest": (lambda p: edit(p, digest="sha256:00"), {}, "config.json says sha256:00"),
    "no digest": (lambda p: edit(p, digest=None), {}, "config.json says None"),
    "a later format": (lambda p: edit(p, format=2), {}, "in format 2; this version reads 1"),
    "somebody else's config.json": (theirs, {}, "has no key 'format'.*name their file"),
    "an unknown key": (lambda p: edit(p, convension="arcface112"), {}, "'convension'.*Did you mean 'convention'"),
    "a task that contradicts": (lambda p: edit(p, task="survival"), {}, "task 'survival' contradicts the architecture"),
    "a size that contradicts": (lambda p: edit(p, input_size=112), {}, "input_size 112 contradicts"),
    "BGR": (lambda p: edit(p, colour_order="BGR"), {}, "colour_order: Input should be 'RGB'"),
    "percentiles that do not ascend": (
        lambda p: edit(p, risk_percentiles=[1.0, 0.5]),
        {},
        "risk_percentiles: must ascend",
    ),
    "an interval beside its value": (
        lambda p: edit(p, repeatability_sd_years={"value": 1, "low": 2, "high": 3}),
        {},
        "repeatability_sd_years: .*low <= value <= high",
    ),
    "a stratum without its number": (
        lambda p: edit(p, conformal={"all": {"half_width": 9.0}}),
        {},
        "conformal: stratum 'all' does not say how many",
    ),
    "a standard deviation of 0": (lambda p: edit(p, risk_sd=0), {}, "risk_sd: .*greater than 0"),
    "a normalization by 0": (
        lambda p: edit(p, normalization={"mean": [0, 0, 0], "std": [1, 1, 0]}),
        {},
        "normalization: std .*must be above 0",
    ),
    "NaN": (lambda p: overwrite(p, tensors_of(p, **{"head.bias": nan_bias()})), {}, "head.bias holds 1 of 1 values"),
    "a tensor too many": (
        lambda p: overwrite(p, tensors_of(p, more=torch.zeros(1))),
        {},
        "config.json has no place for: more",
    ),
    "a tensor of another shape": (
        lambda p: overwrite(p, tensors_of(p, **{"head.weight": torch.zeros(1, 7)})),
        {},
        r"head.weight is \(1, 7\), \(1, 64\) is needed",
    ),
    "an empty folder": (empty, {}, "is no checkpoint, since it has no config.json: empty"),
    "an empty file": (other(b""), {}, " 0 bytes that are neither"),
    "a picture": (other(b"\x89PNG\r\n\x1a\n" + bytes(100)), {}, "neither safetensors nor of torch.save"),
    "a text": (other(b"version https://git-lfs.github.com/spec/v1\n"), {}, "neither safetensors nor of torch.save"),
    "an archive": (other(b"PK\x03\x04" + bytes(1000)), {}, "no whole file of torch.save"),
    "a table": (other(pickle.dumps({"a": [1, 2]})), {}, "file.pth"),
    "nothing there": (lambda p: p / "nothing", {}, "no such checkpoint: neither a folder, nor a file, nor one of"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_value_rule_and_remedy(tmp_path: Path, case: str) -> None:
    change, options, message = REFUSED[case]
    place = change(saved(tmp_path))
    with pytest.raises(Refused, match=message) as refusal:
        load(place, **options)
    text = str(refusal.value)
    assert text.isascii() and text.rstrip().endswith(("?", ".")), text


def test_what_is_wrong_with_a_name_is_said() -> None:
    with pytest.raises(Refused, match=r"Did you mean 'fahr-faceage'\?"):
        load("fahr-facage")
    with pytest.raises(Refused, match="have not released it|has not released|not released it"):
        load("fahr-facesurvival")


def test_another_detector_is_warned_of_and_the_same_is_not(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.warns(UserWarning, match=r"found by mtcnn; these were found by yunet.*--detector mtcnn"):
        load(tmp_path, expect_detector="yunet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, expect_detector="mtcnn", expect_convention="arcface112", expect_normalization={})


class Runs:
    """Unpickled, this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "beside the weights"])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, how: str) -> None:
    marker, file = tmp_path / "it ran", io.BytesIO()
    inside = Runs(marker)
    if how == "pickle":
        pickle.dump(inside, file, protocol=2)
    elif how == "beside the weights":
        torch.save({"model": _timm_names(small("age")), "args": inside}, file)
    else:
        torch.save({"model": inside}, file, _use_new_zipfile_serialization=how == "zip")
    (tmp_path / "evil.pth").write_bytes(file.getvalue())
    with pytest.raises(Refused, match="could run code when opened"):
        load(tmp_path / "evil.pth", num_heads=4)
    assert not marker.exists()
    if how in ("zip", "pickle"):
        torch.load(io.BytesIO(file.getvalue()), weights_only=False) if how == "zip" else pickle.loads(file.getvalue())
        assert marker.exists(), "the trap must work, or this test shows nothing"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    state, file = _timm_names(small("age")), io.BytesIO()
    if kind == "safetensors":
        file.write(safetensors.torch.save(state))
    else:
        torch.save({"model_state_dict": state}, file, _use_new_zipfile_serialization=kind == "zip")
    data, place = file.getvalue(), tmp_path / "weights.bin"
    place.write_bytes(data)
    load(place, num_heads=4)  # whole it loads
    shares = [0, 1, 2, 7, 8, 9, 50, 500, 5000, *(len(data) * k // 40 for k in range(1, 40)), len(data) - 1]
    for length in shares:
        place.write_bytes(data[:length])
        with pytest.raises(Refused):
            load(place, num_heads=4)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_refused_or_loads_never_more(tmp_path: Path, kind: str) -> None:
    """Headers scrambled at 150 places: nothing but Refused may come out."""
    state, file = _timm_names(small("age")), io.BytesIO()
    if kind == "safetensors":
        file.write(safetensors.torch.save(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    data, place, outcomes = file.getvalue(), tmp_path / "weights.bin", []
    generator = torch.Generator().manual_seed(7)
    for at in torch.randint(0, min(len(data), 6000), (150,), generator=generator).tolist():
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        place.write_bytes(damaged)
        try:
            load(place, num_heads=4)
        except Refused:
            outcomes.append("refused")
        else:
            outcomes.append("loaded")
    assert outcomes.count("refused") > 10


# --- saving ---


def test_a_folder_that_holds_a_checkpoint_is_not_overwritten_unless_told_so(folder: str) -> None:
    first = save(small("age", seed=1), folder)
    with pytest.raises(Refused, match="holds a checkpoint already.*overwrite=True"):
        save(small("age", seed=2), folder)
    assert load(folder).digest == first.digest
    second = save(small("age", seed=2), folder, overwrite=True)
    assert load(folder).digest == second.digest != first.digest


SAVE_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"metric": {}}, "unknown key 'metric'.*Did you mean 'metrics'"),
    "what save works out": ({"task": "age", "digest": "x"}, "task, digest can't be given"),
    "NaN among the metrics": ({"metrics": {"mae": float("nan")}}, "metrics.mae.float: .*finite"),
    "NaN in a number": ({"risk_mean": float("nan")}, "risk_mean: .*finite"),
    "a wrong type": ({"detector": 5}, "detector: Input should be a valid string"),
    "an object": ({"metrics": {"model": object()}}, "metrics"),
}


@pytest.mark.parametrize("case", SAVE_REFUSED)
def test_a_configuration_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    config, message = SAVE_REFUSED[case]
    with pytest.raises(Refused, match=message):
        save(small("age"), str(tmp_path / "c"), config=config)
    assert not (tmp_path / "c").exists()


def test_a_diverged_model_is_not_saved(tmp_path: Path) -> None:
    model = small("age")
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))  # type: ignore[union-attr,operator]
    with pytest.raises(Refused, match="head.bias holds values that are not finite: the training diverged"):
        save(model, str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_wrapped_model_is_our_mistake_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="out of any wrapper"):
        save(torch.nn.DataParallel(small("age")), str(tmp_path))  # type: ignore[arg-type]


def test_config_refuses_masking_options_of_a_predictor() -> None:
    shape = small("age").architecture
    with pytest.raises(ValueError, match="mae_options belong to task 'mae'"):
        CheckpointConfig(architecture=shape, task="age", input_size=32, mae_options=MaeOptions())


def test_the_code_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks[0], names)  # the others want files that do not ship with the project
    assert float(names["years"].detach()) == pytest.approx(51.5, abs=5)
    assert names["start"].config.parent_checkpoint == names["model"].digest


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)  # forked children must not wait for threads that they do not have
from fahr import store
from fahr.models import Architecture, build, save
from fahr.version import code_version

code_version()  # once, and not in every child
shape = Architecture("small", 64, 2, 4, 8, 32, "age")
old, new = build(shape, seed=1), build(shape, seed=2)
whole = store.write_bytes

def killed(number, half):
    count = 0
    def write(location, data):
        nonlocal count
        count += 1
        if count == number:
            if half:
                with store.atomic_writer(location) as file:
                    file.write(data[: len(data) // 2])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        whole(location, data)
    return write

for before in ("nothing", "old"):
    for number in (1, 2, 3):
        for half in (False, True):
            folder = f"{sys.argv[1]}/{before}-{number}-{half}"
            if before == "old":
                save(old, folder)
            if (pid := os.fork()) == 0:
                store.write_bytes = killed(number, half)
                save(new, folder, overwrite=True)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
"""


def test_a_save_killed_anywhere_leaves_no_checkpoint_that_is_neither_old_nor_new(tmp_path: Path) -> None:
    """Killed before and in the midst of each of the three writes, in a new folder and over an old checkpoint."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, timeout=120)
    places = sorted(path.name for path in tmp_path.iterdir())
    assert len(places) == 12 or len(places) == 11  # killed before the first write, there may be no folder
    shape = Architecture("small", 64, 2, 4, 8, 32, "age")
    old = build(shape, seed=1)
    survived = set()
    for before in ("nothing", "old"):
        for number in (1, 2, 3):
            for half in ("False", "True"):
                place = tmp_path / f"{before}-{number}-{half}"
                try:
                    found = load(place)
                except Refused as refusal:
                    assert "killed" in str(refusal) or "no such checkpoint" in str(refusal)
                else:
                    assert same_bits(found, old)
                    survived.add(place.name)
    assert survived == {"old-1-False", "old-1-True"}  # the old one, as long as its weights were not replaced
    for place in tmp_path.iterdir():  # and the same line again mends it
        config = save(old, str(place), overwrite=True)
        assert load(place).digest == config.digest
