"""FaceAge a second time, in NumPy and as Keras writes it: the network straight from its definition, and files of it.

Arrays are in Keras' order: images (B, H, W, C), kernels (height, width, in, out). C = channels.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]  # `Block35_1_Conv2d_1x1/kernel` -> array
Made = Callable[[str, int, tuple[int, ...]], NDArray[Any]]


class Keras:
    """Walks through the network's layers in order. Without weights it makes them up, and notes their shapes."""

    def __init__(self, arrays: Arrays | None = None, *, share: float = 1 / 16, width: int = 8, seed: int = 0) -> None:
        self.arrays: Arrays = {} if arrays is None else arrays
        self.made, self.share, self.width = arrays is None, share, width
        self.random = np.random.default_rng(seed)
        self.lambdas: dict[str, float] = {}

    def weight(self, name: str, *shape: int) -> NDArray[np.float64]:
        if self.made:
            kind = name.rpartition("/")[2]
            values = self.random.normal(0, 1, shape)
            if kind == "kernel":
                values *= (2 / np.prod(shape[:-1])) ** 0.5
            elif kind == "moving_variance":
                values = np.exp(values / 2)
            else:
                values *= 0.3
            self.arrays[name] = values.astype(np.float32)
        return self.arrays[name].astype(np.float64)

    def count(self, filters: int) -> int:
        return max(1, round(filters * self.share))

    def norm(self, x: NDArray[Any], layer: str) -> NDArray[Any]:
        width = x.shape[-1]
        beta, mean = self.weight(f"{layer}/beta", width), self.weight(f"{layer}/moving_mean", width)
        variance = self.weight(f"{layer}/moving_variance", width)
        gamma = self.arrays.get(f"{layer}/gamma", np.ones(width))
        return (x - mean) / np.sqrt(variance + 0.001) * gamma + beta

    def conv(self, x: NDArray[Any], layer: str, out: int, stride: int = 1, same: bool = True) -> NDArray[Any]:
        high, wide = (int(side) for side in layer.rpartition("_")[2].split("x"))
        kernel = self.weight(f"{layer}/kernel", high, wide, x.shape[-1], out)
        if same:
            x = np.pad(x, ((0, 0), (high // 2, high // 2), (wide // 2, wide // 2), (0, 0)))
        windows = sliding_window_view(x, (high, wide), (1, 2))[:, ::stride, ::stride]  # (B, H, W, C, height, width)
        return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True)

    def cell(self, x: NDArray[Any], layer: str, out: int, stride: int = 1, same: bool = True) -> NDArray[Any]:
        made = self.conv(x, layer, self.count(out), stride, same)
        return np.maximum(self.norm(made, f"{layer}_BatchNorm"), 0)

    def pool(self, x: NDArray[Any]) -> NDArray[Any]:
        return sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))

    def block(self, x: NDArray[Any], name: str, out: int, second: str, third: str | None, scale: float) -> NDArray[Any]:
        ends = [self.cell(x, f"{name}_Branch_0_Conv2d_1x1", out)]
        if name.startswith("Block35"):
            y = self.cell(x, f"{name}_Branch_1_Conv2d_0a_1x1", out)
            ends.append(self.cell(y, f"{name}_Branch_1_Conv2d_0b_3x3", out))
        last = len(ends)
        y = self.cell(x, f"{name}_Branch_{last}_Conv2d_0a_1x1", out)
        y = self.cell(y, f"{name}_Branch_{last}_Conv2d_0b_{second}", out)
        ends.append(self.cell(y, f"{name}_Branch_{last}_Conv2d_0c_{third}", out))
        up = self.conv(np.concatenate(ends, -1), f"{name}_Conv2d_1x1", x.shape[-1])
        up = up + self.weight(f"{name}_Conv2d_1x1/bias", x.shape[-1])
        self.lambdas[f"{name}_ScaleSum"] = scale
        mixed = x + scale * up
        return mixed if name == "Block8_6" else np.maximum(mixed, 0)

    def reduced(self, x: NDArray[Any], name: str, branches: list[list[tuple[str, int]]]) -> NDArray[Any]:
        ends = []
        for number, layers in enumerate(branches):
            y = x
            for leaf, out in layers:
                strided = leaf == "1a_3x3"
                y = self.cell(y, f"{name}_Branch_{number}_Conv2d_{leaf}", out, 2 if strided else 1, not strided)
            ends.append(y)
        return np.concatenate([*ends, self.pool(x)], -1)

    def embedding(self, x: NDArray[Any]) -> NDArray[Any]:
        """(B, 160, 160, 3) standardised -> (B, E)"""
        x = self.cell(x, "Conv2d_1a_3x3", 32, 2, same=False)
        x = self.cell(self.cell(x, "Conv2d_2a_3x3", 32, same=False), "Conv2d_2b_3x3", 64)
        x = self.cell(self.pool(x), "Conv2d_3b_1x1", 80)
        x = self.cell(self.cell(x, "Conv2d_4a_3x3", 192, same=False), "Conv2d_4b_3x3", 256, 2, same=False)
        assert x.shape[1:3] == (17, 17)
        for number in range(1, 6):
            x = self.block(x, f"Block35_{number}", 32, "3x3", "3x3", 0.17)
        x = self.reduced(x, "Mixed_6a", [[("1a_3x3", 384)], [("0a_1x1", 192), ("0b_3x3", 192), ("1a_3x3", 256)]])
        for number in range(1, 11):
            x = self.block(x, f"Block17_{number}", 128, "1x7", "7x1", 0.10)
        long = [("0a_1x1", 256), ("0b_3x3", 256), ("1a_3x3", 256)]
        x = self.reduced(x, "Mixed_7a", [[("0a_1x1", 256), ("1a_3x3", 384)], [("0a_1x1", 256), ("1a_3x3", 256)], long])
        for number in range(1, 7):
            x = self.block(x, f"Block8_{number}", 192, "1x3", "3x1", 0.20 if number < 6 else 1.0)
        x = x.mean((1, 2)) @ self.weight("Bottleneck/kernel", x.shape[-1], self.width)
        return self.norm(x, "Bottleneck_BatchNorm")

    def ages(self, x: NDArray[Any]) -> NDArray[Any]:
        """(B, 160, 160, 3) standardised -> (B,) years"""
        x = self.embedding(x)
        x = x @ self.weight("dense_1/kernel", self.width, self.width) + self.weight("dense_1/bias", self.width)
        x = self.norm(np.maximum(x, 0), "dense_1_BatchNorm")
        return (x @ self.weight("dense_2/kernel", self.width, 1) + self.weight("dense_2/bias", 1))[:, 0]


def standardised(faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """As the authors do, a crop at a time."""
    return np.stack([(face - face.mean()) / face.std() for face in faces])


def described(lambdas: dict[str, float], num_inputs: int = 2) -> dict[str, Any]:
    """The part of a Keras model's configuration that tells of its pickled functions."""
    nodes = [[[f"layer_{number}", 0, 0, {}] for number in range(num_inputs)]]
    layers = [
        {
            "class_name": "Lambda",
            "name": name,
            "config": {"name": name, "function": ["4wIAAA==", None, None], "arguments": {"scale": scale}},
            "inbound_nodes": nodes,
        }
        for name, scale in lambdas.items()
    ]
    inner = {"class_name": "Model", "config": {"name": "inception_resnet_v1", "layers": layers}}
    return {"class_name": "Sequential", "config": [inner, {"class_name": "Dense", "config": {"name": "dense_1"}}]}


def write(place: Path, arrays: Arrays, config: Any = None, *, group: str = "model_weights", suffix: str = ":0") -> str:
    """As Keras' save does: a group for each outer layer, in it a path for each weight."""
    with h5py.File(place, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        for name, array in arrays.items():
            layer = name.partition("/")[0]
            outer = layer if layer.startswith("dense_") else "inception_resnet_v1"
            file.create_dataset("/".join([*filter(None, [group, outer]), name + suffix]), data=array)
        file.create_dataset("optimizer_weights/Adam/dense_1/kernel/m:0", data=np.zeros((2, 2), np.float32))
    return str(place)
