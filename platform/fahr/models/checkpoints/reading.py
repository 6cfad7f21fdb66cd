"""Bytes of a weights file -> named tensors, without running anything that the file may hold.

Safetensors, or what torch.save wrote: a state dict, or a training state with one in it.
"""

import argparse
import pickle
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fahr.errors import Refused

MAX_BYTES = 8 << 30  # a ViT-Large with decoder and optimizer state has about 4 GB
CONTAINERS = ("model_state_dict", "state_dict", "model")  # where a training state keeps its weights


def read_tensors(data: bytes, place: str) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, in fp32 and finite. Refused with `place`: anything that is not that."""
    if data[8:9] == b"{":  # a length of eight bytes, then JSON
        found: Any = _read_safetensors(data, place)
    elif data[:2] == b"PK" or data[:1] == b"\x80":  # torch.save writes a zip, before 1.6 a bare pickle
        found = _unpacked(_read_pickle(data, place), place)
    else:
        raise Refused(
            f"{place}: {len(data):,} bytes that are neither safetensors nor of torch.save nor HDF5, starting with "
            f"{data[:8]!r}. Name a .safetensors, .pth, .pt or .bin file, FaceAge's .h5, or a folder that `save` wrote."
        )
    return {str(name): checked(str(name), tensor, place) for name, tensor in found.items()}


def _read_safetensors(data: bytes, place: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise Refused(
            f"{place}: is damaged safetensors ({error}): cut short, or changed. Copy or download it again."
        ) from error


def _read_pickle(data: bytes, place: str) -> Any:
    # Reference MAE keeps its flags beside the weights, as a Namespace: an object that holds values and runs nothing.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise Refused(
                f"{place}: holds more than tensors and plain values, which could run code when opened, or is cut "
                f"short ({_first_line(error)}). Where you trust it, open it yourself and save its state dict alone: "
                "safetensors.torch.save_file(state_dict, 'weights.safetensors')."
            ) from error
        except Exception as error:  # broken bytes lead torch to a dozen kinds of it, AssertionError among them
            if "TorchScript" in str(error):  # refused by torch unread, as asked
                raise Refused(
                    f"{place}: is a TorchScript archive, a program with its weights, as CLIP's own downloads are; it "
                    "is not run. Where you trust it, save the weights alone: "
                    "torch.save(torch.jit.load(path, 'cpu').visual.state_dict(), 'visual.pth')."
                ) from error
            raise Refused(
                f"{place}: is no whole file of torch.save ({_first_line(error)}): cut short, or another kind of file. "
                "Copy or download it again."
            ) from error


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    return text.splitlines()[0][:200]


def _unpacked(found: Any, place: str) -> dict[Any, Any]:
    """The one state dict of a training state. Optimizer and scheduler hold no tensors at their top, so they pass."""
    if not isinstance(found, Mapping):
        raise Refused(f"{place}: holds a {type(found).__name__}, not a state dict. Save `model.state_dict()` instead.")
    if any(isinstance(value, Tensor) for value in found.values()):
        return dict(found)
    dicts = [
        str(key)
        for key, value in found.items()
        if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values())
    ]
    if len(dicts) != 1 or dicts[0] not in CONTAINERS:
        there = ", ".join(dicts) or "none"
        raise Refused(
            f"{place}: one state dict is needed, as the file itself or under {', '.join(CONTAINERS)}; under these keys "
            f"are state dicts: {there}. Save the one that you want alone."
        )
    return dict(found[dicts[0]])


def checked(name: str, tensor: Any, place: str) -> Tensor:
    """fp32 from any floating type: exact from fp16 and bf16, rounded from fp64."""
    if not isinstance(tensor, Tensor):
        raise Refused(f"{place}: {name} is a {type(tensor).__name__}, not a tensor. Save a state dict alone.")
    if tensor.layout is not torch.strided or tensor.is_quantized or not tensor.is_floating_point():
        kind = tensor.layout if tensor.layout is not torch.strided else tensor.dtype
        raise Refused(f"{place}: {name} is of {kind}; dense floating-point weights are needed. Convert it first.")
    converted = tensor.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(converted).all()):
        bad = int((~torch.isfinite(converted)).sum())
        raise Refused(
            f"{place}: {name} holds {bad:,} of {converted.numel():,} values that are NaN or infinite: its training "
            "diverged, or the file is damaged. Use an earlier checkpoint, or copy it again."
        )
    return converted
