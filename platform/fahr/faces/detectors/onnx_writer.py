"""A small torch network -> the bytes of an ONNX model, for ONNX Runtime. No `onnx` package, no file.

torch's own exporters need packages that nothing else here needs. An ONNX file is a protocol buffer of a few fields, and
a convolutional detector at rest has few kinds of layers: anything else is refused loudly.
"""

import operator
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

OPSET = 17
IR_VERSION = 8
FLOAT = 1  # TensorProto.DataType


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: "bytes | str | int | float") -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _attribute(name: str, value: "str | int | float | list[int]") -> bytes:
    number, kind = {float: (2, 1), int: (3, 2), str: (4, 3), list: (8, 7)}[type(value)]
    values = value if isinstance(value, list) else [value]
    return _field(1, name) + b"".join(_field(number, each) for each in values) + _field(20, kind)


def _node(kind: str, inputs: Iterable[str], output: str, **attributes: "str | int | float | list[int]") -> bytes:
    return (
        b"".join(_field(1, name) for name in inputs)
        + _field(2, output)
        + _field(3, output)
        + _field(4, kind)
        + b"".join(_field(5, _attribute(name, value)) for name, value in attributes.items())
    )


def _tensor(name: str, value: Tensor) -> bytes:
    array = np.ascontiguousarray(value.detach().cpu().numpy(), "<f4")
    dims = b"".join(_field(1, side) for side in array.shape)
    return dims + _field(2, FLOAT) + _field(8, name) + _field(9, array.tobytes())


def _value(name: str, dims: "tuple[str | int, ...]") -> bytes:
    shape = b"".join(_field(1, _field(2 if isinstance(dim, str) else 1, dim)) for dim in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, shape)))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


class _Writer:
    def __init__(self, network: nn.Module, upsample_like: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.modules = dict(network.named_modules())
        self.upsample_like = upsample_like
        self.nodes: list[bytes] = []
        self.tensors: list[bytes] = []

    def module(self, node: fx.Node, inputs: list[str]) -> None:
        layer = self.modules[str(node.target)]
        if isinstance(layer, nn.Conv2d):
            self.convolution(node.name, layer, inputs)
        elif isinstance(layer, nn.BatchNorm2d):
            self.norm(node.name, layer, inputs)
        elif isinstance(layer, nn.MaxPool2d):
            self.pool(node.name, layer, inputs)
        elif isinstance(layer, nn.LeakyReLU):
            self.nodes.append(_node("LeakyRelu", inputs, node.name, alpha=float(layer.negative_slope)))
        elif isinstance(layer, nn.Identity):
            self.nodes.append(_node("Identity", inputs, node.name))
        else:
            raise NotImplementedError(f"{node.target} is a {type(layer).__name__}, which is not written to ONNX")

    def convolution(self, name: str, layer: nn.Conv2d, inputs: list[str]) -> None:
        parameters = [(f"{name}.weight", layer.weight)]
        if layer.bias is not None:
            parameters.append((f"{name}.bias", layer.bias))
        self.tensors += [_tensor(each, value) for each, value in parameters]
        assert not isinstance(layer.padding, str)
        self.nodes.append(
            _node(
                "Conv", [*inputs, *(each for each, _ in parameters)], name,
                group=layer.groups, strides=list(layer.stride), pads=[*layer.padding, *layer.padding],
                dilations=list(layer.dilation), kernel_shape=list(layer.kernel_size),
            )
        )  # fmt: skip

    def norm(self, name: str, layer: nn.BatchNorm2d, inputs: list[str]) -> None:
        values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        names = [f"{name}.{each}" for each in ("weight", "bias", "mean", "variance")]
        for each, value in zip(names, values, strict=True):
            assert value is not None
            self.tensors.append(_tensor(each, value))
        self.nodes.append(_node("BatchNormalization", [*inputs, *names], name, epsilon=layer.eps))

    def pool(self, name: str, layer: nn.MaxPool2d, inputs: list[str]) -> None:
        side, stride, padding = layer.kernel_size, layer.stride, layer.padding
        assert isinstance(side, int) and isinstance(stride, int) and isinstance(padding, int)
        assert layer.dilation == 1 and not layer.ceil_mode
        sides = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        self.nodes.append(_node("MaxPool", inputs, name, **sides))

    def function(self, node: fx.Node, inputs: list[str]) -> None:
        if node.target is self.upsample_like:  # both have as many channels, so the whole shape can be taken over
            self.nodes.append(_node("Shape", inputs[1:], f"{node.name}.shape"))
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            self.nodes.append(_node("Resize", [inputs[0], "", "", f"{node.name}.shape"], node.name, **how))
        elif node.target is torch.cat:
            self.nodes.append(_node("Concat", inputs, node.name, axis=1))
        elif node.target in (F.relu, operator.add):
            self.nodes.append(_node("Relu" if node.target is F.relu else "Add", inputs, node.name))
        else:
            raise NotImplementedError(f"{node.target} is not written to ONNX")


def to_onnx(network: nn.Module, upsample_like: Callable[[Tensor, Tensor], Tensor]) -> bytes:
    """`network`: (B, 3, H, W) float32 -> a list of maps, any B, H and W, `upsample_like` as one node.

    The model's input is `photos`; its maps are (B, rows, columns, channels), the order in which they are read: ONNX
    Runtime, whose own order is another, writes either at the same cost.
    """
    writer = _Writer(network, upsample_like)
    inputs: list[str] = []
    outputs: list[str] = []
    for node in _Tracer(autowrap_functions=(upsample_like,)).trace(network).nodes:
        if node.op == "placeholder":
            inputs.append(node.name)
        elif node.op == "output":
            outputs = [f"{each.name}.read" for each in node.all_input_nodes]
            for each, name in zip(node.all_input_nodes, outputs, strict=True):
                writer.nodes.append(_node("Transpose", [each.name], name, perm=[0, 2, 3, 1]))
        elif node.op == "call_module":
            writer.module(node, [each.name for each in node.all_input_nodes])
        elif node.op == "call_function" and node.target is operator.getitem:
            raise NotImplementedError("indexing is not written to ONNX")
        else:
            writer.function(node, _arguments(node))
    graph = b"".join(_field(1, each) for each in writer.nodes) + _field(2, "network")
    graph += b"".join(_field(5, each) for each in writer.tensors)
    graph += b"".join(_field(11, _value(name, ("batch", 3, "height", "width"))) for name in inputs)
    graph += b"".join(_field(12, _value(name, ("batch", "rows", "columns", "channels"))) for name in outputs)
    opset = _field(1, "") + _field(2, OPSET)
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, opset)


def _arguments(node: fx.Node) -> list[str]:
    """Names of the inputs as often as they are given: `all_input_nodes` holds each only once."""
    given: list[Any] = []
    for argument in node.args:
        given += argument if isinstance(argument, (list, tuple)) else [argument]
    return [each.name for each in given if isinstance(each, fx.Node)]
