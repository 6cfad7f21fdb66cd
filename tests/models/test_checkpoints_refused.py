"""A checkpoint that is not whole, or is asked for what it is not, is refused; what could run code does not run."""

import hashlib
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from fahr.errors import Refused
from fahr.models import load, save
from models.small_models import KNOWN, small, timm_names


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
        torch.save({"model": timm_names(small("age")), "args": inside}, file)
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
    state, file = timm_names(small("age")), io.BytesIO()
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
    state, file = timm_names(small("age")), io.BytesIO()
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
