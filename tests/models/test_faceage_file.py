"""FaceAge's .h5: taken whole by name or refused, whatever is in it, and nothing of it is run."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from fahr.errors import Refused
from fahr.models import CheckpointConfig, Predictor, load, save
from models.keras_faceage import Arrays, Keras, described, write

BLACK = np.zeros((1, 160, 160, 3))


@pytest.fixture(scope="module")
def keras() -> Keras:
    made = Keras()
    made.ages(BLACK)  # goes through all layers, and makes their weights
    return made


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_says_what_the_published_steps_are_and_goes_on_as_a_checkpoint_of_ours(tmp_path: Path, keras: Keras) -> None:
    place = write(tmp_path / "faceage_model.h5", keras.arrays, described(keras.lambdas))
    model = load(place, task="age", size=160, expect_convention="faceage160", expect_detector="mtcnn")
    config = model.config
    assert isinstance(model, Predictor) and isinstance(config, CheckpointConfig) and not model.training
    assert model.digest == f"sha256:{hashlib.sha256(Path(place).read_bytes()).hexdigest()}"
    assert (config.convention, config.detector, config.normalization.kind) == ("faceage160", "mtcnn", "per_image")
    assert config.assumed == ("convention", "detector", "normalization", "colour_order") and config.origin == place
    saved = save(model, str(tmp_path / "ours"), config=config)
    back = load(tmp_path / "ours")
    assert same(model, back) and (saved.convention, saved.assumed) == (config.convention, config.assumed)
    with pytest.raises(Refused, match="is a model of task age, not survival"):
        load(place, task="survival")
    start = load(place, task="survival", fresh_head=True, seed=1)
    assert same(start.encoder, model.encoder) and start.config.convention == "faceage160"


def moved(arrays: Arrays, **layers: str) -> Arrays:
    return {"/".join([layers.get(n.split("/")[0], n.split("/")[0]), n.split("/")[1]]): a for n, a in arrays.items()}


def test_other_ways_in_which_keras_writes_the_same_network_give_the_same_model(tmp_path: Path, keras: Keras) -> None:
    arrays, config = keras.arrays, described(keras.lambdas)
    reference = load(write(tmp_path / "a.h5", arrays, config))
    numbered = moved(arrays, dense_1="dense_3", dense_2="dense_4")
    scaled = arrays | {n.replace("/beta", "/gamma"): np.ones_like(a) for n, a in arrays.items() if n.endswith("/beta")}
    for other in (
        write(tmp_path / "b.h5", numbered, config),
        write(tmp_path / "c.h5", arrays, None, group=""),  # save_weights
        write(tmp_path / "d.h5", arrays, config, suffix=""),
        write(tmp_path / "e.h5", scaled, config),
        write(tmp_path / "f.h5", {name: each.astype(np.float64) for name, each in arrays.items()}, config),
    ):
        assert same(load(other), reference), other


def test_a_scale_of_a_batch_norm_is_used_where_there_is_one(tmp_path: Path, keras: Keras) -> None:
    layer = "Block17_4_Branch_1_Conv2d_0b_1x7_BatchNorm"
    gamma = np.full_like(keras.arrays[f"{layer}/beta"], 1.75)
    model = load(write(tmp_path / "a.h5", keras.arrays | {f"{layer}/gamma": gamma}))
    found = model.state_dict()
    assert torch.equal(found["encoder.block17.3.branches.1.1.norm.weight"], torch.from_numpy(gamma))
    assert bool((found["encoder.block17.3.branches.1.2.norm.weight"] == 1).all())


def test_arrays_of_the_file_are_needed_and_used_one_by_one(tmp_path: Path, keras: Keras) -> None:
    """Some of 500 in turn: another value gives another model in one tensor; without it the file is refused."""
    reference = load(write(tmp_path / "a.h5", keras.arrays)).state_dict()
    names = sorted(keras.arrays)
    assert len(names) == 111 * 4 + 21 * 2 + 1 + 3 + 2 + 3 + 2
    for name in names[::99]:
        found = load(write(tmp_path / "b.h5", keras.arrays | {name: keras.arrays[name] + 1})).state_dict()
        assert sum(not torch.equal(each, reference[key]) for key, each in found.items()) == 1, name
        rest = {key: each for key, each in keras.arrays.items() if key != name}
        with pytest.raises(Refused, match=rf"is not FaceAge's network: it lacks {name}"):
            load(write(tmp_path / "c.h5", rest))


def changed(**arrays: Any) -> Callable[[Keras], tuple[Arrays, Any]]:
    def change(keras: Keras) -> tuple[Arrays, Any]:
        made = {name.replace("__", "/"): each for name, each in arrays.items()}
        return keras.arrays | made, described(keras.lambdas)

    return change


def with_lambdas(changes: dict[str, float], num_inputs: int = 2) -> Callable[[Keras], tuple[Arrays, Any]]:
    return lambda keras: (keras.arrays, described(keras.lambdas | changes, num_inputs))


REFUSED: dict[str, tuple[Callable[[Keras], tuple[Arrays, Any]], str]] = {
    "a layer more": (changed(extra__kernel=np.zeros((3, 3), np.float32)), "it has extra/kernel besides"),
    "no embedding": (
        lambda keras: ({n: a for n, a in keras.arrays.items() if not n.startswith("Bott")}, None),
        r"lacks Bottleneck/kernel; it has \S+, \S+, \S+, \S+, \S+ and \d+ more",
    ),
    "another network": (
        lambda keras: ({"conv2d/kernel": np.zeros((3, 3, 3, 8), np.float32)}, None),
        "lacks Conv2d_1a_3x3/kernel, Bottleneck/kernel; it has conv2d/kernel",
    ),
    "nothing": (lambda keras: ({}, None), "it has nothing"),
    "a kernel of another shape": (
        changed(Block8_2_Conv2d_1x1__bias=np.zeros(5, np.float32)),
        r"Block8_2_Conv2d_1x1/bias is \(5,\), which does not fit",
    ),
    "whole numbers": (changed(dense_2__bias=np.zeros(1, np.int32)), "dense_2/bias:0 is no plain array of floating"),
    "NaN": (changed(dense_2__bias=np.full(1, np.nan, np.float32)), "dense_2/bias holds 1 of 1 values that are NaN"),
    "another scale": (with_lambdas({"Block17_3_ScaleSum": 0.17}), "'Block17_3_ScaleSum' joins 2 .* scale 0.17;.* 0.1"),
    "another function": (with_lambdas({"lambda_1": 0.5}), "'lambda_1' joins 2 layers with scale 0.5"),
    "a scaled branch alone": (with_lambdas({}, num_inputs=1), r"'Block35_1_ScaleSum' joins 1 layers"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "its model_config is no JSON of Keras"),
        ("[" * 200_000, "its model_config is no JSON of Keras"),
        ('{"class_name": "Lambda"}', "its function None joins 0 layers with scale None"),
        (
            '{"class_name": "Lambda", "config": {"name": 7, "arguments": [1]}, "inbound_nodes": [{}]}',
            "function 7 joins 0",
        ),
    ],
)
def test_a_configuration_that_is_not_of_keras_is_refused(
    tmp_path: Path, keras: Keras, config: str, message: str
) -> None:
    place = write(tmp_path / "x.h5", keras.arrays)
    with h5py.File(place, "a") as file:
        file.attrs["model_config"] = config
    with pytest.raises(Refused, match=message):
        load(place)


def test_a_scale_that_is_not_told_contradicts_nothing(tmp_path: Path, keras: Keras) -> None:
    config = described(keras.lambdas)
    for layer in config["config"][0]["config"]["layers"]:
        layer["config"]["arguments"] = {}
    assert load(write(tmp_path / "x.h5", keras.arrays, config)).architecture.task == "age"


def test_a_small_file_that_unpacks_to_many_values_is_refused_before(tmp_path: Path, keras: Keras) -> None:
    place = write(tmp_path / "x.h5", keras.arrays)
    with h5py.File(place, "a") as file:
        file.create_dataset(
            "model_weights/more/kernel:0", (1 << 20, 1 << 10), np.float32, chunks=True, compression="gzip"
        )
        file.create_dataset("model_weights/none/kernel:0", data=h5py.Empty("f"))
    assert Path(place).stat().st_size < 1 << 22
    with pytest.raises(Refused, match="none/kernel:0 is no plain array"):
        load(place)
    with h5py.File(place, "a") as file:
        del file["model_weights/none"]
    with pytest.raises(Refused, match=r"its arrays have 1,07\d,\d+,\d+ values; FaceAge's network has 23 million"):
        load(place)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_faceages_network_is_refused(tmp_path: Path, keras: Keras, case: str) -> None:
    made, message = REFUSED[case]
    place = write(tmp_path / "x.h5", *made(keras))
    with pytest.raises(Refused, match=message) as refusal:
        load(place)
    assert place in str(refusal.value)


def test_what_is_not_a_whole_hdf5_file_is_refused(tmp_path: Path, keras: Keras) -> None:
    whole = Path(write(tmp_path / "a.h5", keras.arrays)).read_bytes()
    cut = tmp_path / "cut.h5"
    for share in (0.0001, 0.1, 0.5, 0.9, 0.999):
        cut.write_bytes(whole[: max(9, int(len(whole) * share))])
        with pytest.raises(Refused, match="is damaged HDF5 .*cut short"):
            load(cut)
    for data in (b"", b"PNG", b"<html>not found</html>"):
        cut.write_bytes(data)
        with pytest.raises(Refused, match=r"neither safetensors nor of torch.save nor HDF5.*FaceAge's \.h5"):
            load(cut)


def test_no_other_file_is_read_through_it(tmp_path: Path, keras: Keras) -> None:
    """HDF5 may keep an array's bytes elsewhere, or point to another file's array."""
    secret = np.full(1, 12.5, np.float32)
    (tmp_path / "secret.raw").write_bytes(secret.tobytes())
    write(tmp_path / "other.h5", {"dense_2/bias": secret})
    rest = {name: each for name, each in keras.arrays.items() if name != "dense_2/bias"}
    where = "model_weights/dense_2/dense_2/bias:0"
    place = write(tmp_path / "a.h5", rest)
    with h5py.File(place, "a") as file:
        file.create_dataset(where, (1,), np.float32, external=[(str(tmp_path / "secret.raw"), 0, 4)])
    with pytest.raises(Refused, match="dense_2/bias:0 is no plain array"):
        load(place)
    place = write(tmp_path / "b.h5", rest)
    with h5py.File(place, "a") as file:
        file[where] = h5py.ExternalLink("other.h5", where)
    with pytest.raises(Refused, match="lacks dense_2/bias"):
        load(place)
    place = write(tmp_path / "c.h5", rest)
    with h5py.File(place, "a") as file:
        layout = h5py.VirtualLayout((1,), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), where, (1,))
        file.create_virtual_dataset(where, layout)
    with pytest.raises(Refused, match="dense_2/bias:0 is no plain array"):
        load(place)


def test_options_of_vision_transformers_and_a_missing_reader_are_told(
    tmp_path: Path, keras: Keras, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "a.h5", keras.arrays)
    with pytest.raises(Refused, match="is HDF5, as FaceAge's network is, which has none. Leave num_heads out"):
        load(place, num_heads=4)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(Refused, match="needs h5py, which is not installed. Do: pip install h5py"):
        load(place)
