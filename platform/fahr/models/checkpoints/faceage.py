"""FaceAge's public `faceage_model.h5` -> our tensors: weights by name, and nothing in the file is run.

A Keras file keeps pickled functions in its configuration (the Lambda layers that scale a block). Only arrays are read
here, and of the configuration, as JSON, the numbers of those layers, which must be the ones that we compute with.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fahr.errors import Refused
from fahr.models.architecture import FACEAGE_SIZE, Backbone
from fahr.models.checkpoints.reading import checked
from fahr.models.faceage import EMBEDDINGS, SCALES, FaceAgeTrunk, norm_names, scale_of

MAGIC = b"\x89HDF\r\n\x1a\n"
ASSUMED = ("convention", "detector", "normalization", "colour_order")  # the published steps; the file tells none
MOST = 1 << 27  # values that a file may unpack to
_SKIPPED = "optimizer_weights"
_REMEDY = "Download faceage_model.h5 of the release again, or name another checkpoint."
Arrays = Mapping[tuple[str, str], Tensor]  # (Keras' layer, weight) -> array in Keras' order


@dataclass(frozen=True)
class Contents:
    shape: Backbone
    tensors: dict[str, Tensor]


def read(data: bytes, place: str) -> Contents:
    """Refused with `place`: what is not FaceAge's network, whole and finite."""
    arrays, lambdas = _arrays(data, place)
    _check_lambdas(lambdas, place)
    shape = _shape(arrays, place)
    with torch.device("meta"):
        trunk = FaceAgeTrunk(shape)
    keys = {f"encoder.{name}": key for name, key in trunk.keras_names().items()}
    taken = set(keys.values())
    keys |= _behind({key: each for key, each in arrays.items() if key not in taken}, shape.width)
    wanted = {f"encoder.{name}": each.shape for name, each in trunk.state_dict().items()}
    wanted |= {"head.weight": torch.Size([1, shape.width]), "head.bias": torch.Size([1])}
    tensors = {name: torch.ones(wanted[name]) for name, key in keys.items() if key[1] == "gamma"}  # if there is none
    tensors |= {name: _turned(arrays[key]) for name, key in keys.items() if key in arrays}
    missing = ["/".join(key) for name, key in keys.items() if name not in tensors]
    taken = set(keys.values())
    left = ["/".join(key) for key in arrays if key not in taken]
    if missing or left:
        told = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(left)} besides"] * bool(left)
        raise Refused(f"{place}: is not FaceAge's network: it {' and '.join(told)}. {_REMEDY}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name]:
            raise Refused(
                f"{place}: {'/'.join(keys[name])} is {tuple(arrays[keys[name]].shape)}, which does not fit the rest of "
                f"the network. {_REMEDY}"
            )
    return Contents(shape, tensors)


def _arrays(data: bytes, place: str) -> tuple[Arrays, list[dict[str, Any]]]:
    """Every array of the file, and what its configuration, where it has one, says of the functions."""
    try:
        import h5py
    except ImportError as error:
        raise Refused(f"{place}: reading HDF5 needs h5py, which is not installed. Do: pip install h5py.") from error
    found: dict[tuple[str, str], Tensor] = {}
    try:
        with h5py.File(BytesIO(data), "r") as file:
            _collect(file, h5py.Dataset, found, place)
            text = file.attrs.get("model_config")
    except (OSError, RuntimeError, KeyError) as error:
        raise Refused(f"{place}: is damaged HDF5 ({error}): cut short, or changed. Download it again.") from error
    try:
        return found, [] if text is None else list(_lambdas(json.loads(text)))
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(f"{place}: its model_config is no JSON of Keras ({error}). Download it again.") from error


def _collect(file: Any, dataset: type, found: dict[tuple[str, str], Tensor], place: str) -> None:
    """visititems goes along hard links only: neither it nor what is kept leads to another file."""
    items: dict[str, Any] = {}
    file.visititems(lambda path, item: items.update({path: item}) if isinstance(item, dataset) else None)
    items = {path: item for path, item in items.items() if not path.startswith(_SKIPPED)}
    for path, item in items.items():
        if item.is_virtual or item.external or item.dtype.kind != "f" or not item.size:
            raise Refused(f"{place}: {path} is no plain array of floating numbers. {_REMEDY}")
    if (total := sum(item.size for item in items.values())) > MOST:
        raise Refused(f"{place}: its arrays have {total:,} values; FaceAge's network has 23 million. {_REMEDY}")
    for path, item in items.items():
        *_, layer, weight = ["", *path.split("/")]
        key = layer, weight.split(":")[0]
        if key in found:
            raise Refused(f"{place}: has {'/'.join(key)} twice: two networks in one file. Keep one.")
        found[key] = checked("/".join(key), torch.from_numpy(np.asarray(item[()], np.float32)), place)


def _check_lambdas(lambdas: list[dict[str, Any]], place: str) -> None:
    """Each of the network's pickled functions is x + scale * y, of two layers; its scale stands beside it."""
    for layer in lambdas:
        config = layer.get("config")
        name = config.get("name") if isinstance(config, dict) else None
        told = config.get("arguments") if isinstance(config, dict) else None
        nodes = layer.get("inbound_nodes")
        block = re.match(r"Block(35|17|8)_\d+", str(name))
        known = {scale_of(block[0])} if block else set(SCALES.values())
        scale = told.get("scale") if isinstance(told, dict) else None
        inputs = len(nodes[0]) if isinstance(nodes, list) and nodes and isinstance(nodes[0], list) else 0
        # Of a block whose scale is not told nothing contradicts ours, as in a file without a configuration.
        if inputs != 2 or ((scale is not None or not block) and scale not in known):
            raise Refused(
                f"{place}: its function {name!r} joins {inputs} layers with scale {scale}; FaceAge's joins two, with "
                f"{' or '.join(map(str, sorted(known)))}. It is another network. {_REMEDY}"
            )


def _lambdas(described: Any) -> Iterator[dict[str, Any]]:
    if isinstance(described, dict) and described.get("class_name") == "Lambda":
        yield described
    elif isinstance(described, dict | list):
        for each in described.values() if isinstance(described, dict) else described:
            yield from _lambdas(each)


def _shape(arrays: Arrays, place: str) -> Backbone:
    """Width and filters, read off the first and the last layer of the trunk."""
    first, last = ("Conv2d_1a_3x3", "kernel"), ("Bottleneck", "kernel")
    if missing := ["/".join(key) for key in (first, last) if key not in arrays or arrays[key].ndim < 2]:
        raise Refused(
            f"{place}: is not FaceAge's network: it lacks {_some(missing)}; it has "
            f"{_some(['/'.join(key) for key in arrays])}. {_REMEDY}"
        )
    width = arrays[last].shape[1]
    name = next((name for name, each in EMBEDDINGS.items() if each == width), f"faceage-{width}")
    return Backbone(name, "faceage", FACEAGE_SIZE, "age", width, channels=arrays[first].shape[-1] / 32)


def _behind(arrays: Arrays, width: int) -> dict[str, tuple[str, str]]:
    """The layers behind the embedding, which Keras numbered as it liked: told apart by their shapes."""
    shapes = {key: tuple(each.shape) for key, each in arrays.items()}
    hidden = next(
        (layer for (layer, kind), each in shapes.items() if (kind, each) == ("kernel", (width, width))), "dense_1"
    )
    last = next((layer for (layer, kind), each in shapes.items() if (kind, each) == ("kernel", (width, 1))), "dense_2")
    norm = next((layer for layer, kind in shapes if kind == "moving_mean"), "dense_1_BatchNorm")
    keys = {"encoder.hidden.weight": (hidden, "kernel"), "encoder.hidden.bias": (hidden, "bias")}
    keys |= {f"encoder.{name}": key for name, key in norm_names("hidden_norm", norm).items()}
    return keys | {"head.weight": (last, "kernel"), "head.bias": (last, "bias")}


def _turned(array: Tensor) -> Tensor:
    """Height, width, in, out -> out, in, height, width; in, out -> out, in."""
    return (
        array.permute(3, 2, 0, 1).contiguous()
        if array.ndim == 4
        else array.T.contiguous()
        if array.ndim == 2
        else array
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
