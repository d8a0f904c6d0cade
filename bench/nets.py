"""A network's ncnn files as a graph that other runtimes can be given: layers, weights, sums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_FP16 = 0x01306B47
"""The library's mark in front of weights that are stored in 16 bits."""


@dataclass(frozen=True)
class Layer:
    """One line of the ``.param``, with what the ``.bin`` holds for it."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: dict[int, list[float]]
    weights: tuple[Floats, ...]

    def value(self, key: int, default: float) -> float:
        """Return the only value of a key."""
        return self.values.get(key, [default])[0]


@dataclass(frozen=True)
class Net:
    """A network from blob ``data`` to blob ``output``."""

    name: str
    param: Path
    layers: tuple[Layer, ...]

    def operations(self) -> float:
        """Return the floating-point operations for a pixel, convolutions taken literally."""
        scales: dict[str, float] = {"data": 1.0}
        total = 0.0
        for layer in self.layers:
            scale = scales[layer.inputs[0]]
            if layer.kind == "Convolution":
                total += 2 * layer.weights[0].size * scale * scale
            elif layer.kind == "Interp":
                scale *= layer.value(1, 1)
            elif layer.kind == "PixelShuffle":
                scale *= layer.value(0, 1)
            scales.update(dict.fromkeys(layer.outputs, scale))
        return total


def read(param: Path) -> Net:
    """Read a pair of files; only the layers of the official x4 networks are known."""
    content = param.with_suffix(".bin").read_bytes()
    offset = 0

    def take(count: int, *, marked: bool = False) -> Floats:
        nonlocal offset
        kind: Any = np.float32
        if marked:
            if int.from_bytes(content[offset : offset + 4], "little") == _FP16:
                kind = np.float16
            offset += 4
        found = np.frombuffer(content, kind, count, offset)
        offset += (found.nbytes + 3) // 4 * 4
        return found.astype(np.float32)

    layers = []
    for line in param.read_text("ascii").splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        ins, outs = int(inputs), int(outputs)
        blobs, pairs = rest[: ins + outs], rest[ins + outs :]
        values = {}
        for key, _, value in (pair.partition("=") for pair in pairs):
            numbers = [float(number) for number in value.split(",")]
            values[abs(int(key) + 23300) if int(key) < 0 else int(key)] = (
                numbers[1:] if int(key) < 0 else numbers
            )
        weights: tuple[Floats, ...] = ()
        if kind == "Convolution":
            out, side, count = int(values[0][0]), int(values[1][0]), int(values[6][0])
            kernel = take(count, marked=True).reshape(out, -1, side, side)
            weights = (kernel, take(out))
        elif kind == "PReLU":
            weights = (take(int(values[0][0])),)
        if kind != "Input":
            layers.append(Layer(kind, tuple(blobs[:ins]), tuple(blobs[ins:]), values, weights))
    if offset != len(content):
        raise ValueError(f"{param.with_suffix('.bin').name} has {len(content) - offset} bytes over")
    return Net(param.stem, param, tuple(layers))


def torch_module(net: Net) -> Any:
    """Return the network as a module of PyTorch, with one input (1, 3, height, width)."""
    import torch  # noqa: PLC0415 - not everybody has it
    from torch.nn import functional  # noqa: PLC0415

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number, layer in enumerate(net.layers):
                for name, weights in zip(("a", "b"), layer.weights, strict=False):
                    parameter = torch.nn.Parameter(torch.from_numpy(weights), requires_grad=False)
                    self.register_parameter(f"{name}{number}", parameter)

        def forward(self, data: Any) -> Any:
            blobs = {"data": data}
            for number, layer in enumerate(net.layers):
                ins = [blobs[name] for name in layer.inputs]
                made = ins[0]
                match layer.kind:
                    case "Convolution":
                        kernel, bias = getattr(self, f"a{number}"), getattr(self, f"b{number}")
                        made = functional.conv2d(made, kernel, bias, padding=kernel.shape[-1] // 2)
                        if layer.value(9, 0) == 2:
                            made = functional.leaky_relu(made, layer.value(10, 0))
                    case "PReLU":
                        made = functional.prelu(made, getattr(self, f"a{number}"))
                    case "Concat":
                        made = torch.cat(ins, 1)
                    case "Eltwise":
                        made = ins[0] * layer.values[1][0] + ins[1] * layer.values[1][1]
                    case "BinaryOp":
                        made = ins[0] + ins[1]
                    case "Interp":
                        made = functional.interpolate(
                            made, scale_factor=layer.value(1, 1), mode="nearest"
                        )
                    case "PixelShuffle":
                        made = functional.pixel_shuffle(made, int(layer.value(0, 1)))
                    case "Split":
                        pass
                    case other:
                        raise ValueError(f"no layer {other} is known")
                blobs.update(dict.fromkeys(layer.outputs, made))
            return blobs["output"]

    return Module().eval()


def onnx_bytes(net: Net, height: int, width: int) -> bytes:
    """Return the network as an ONNX model for inputs (1, 3, ``height``, ``width``)."""
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415

    nodes, constants = [], []
    names: dict[str, str] = {"data": "data"}

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    for number, layer in enumerate(net.layers):
        ins = [names[name] for name in layer.inputs]
        made = f"blob{number}"

        def node(kind: str, inputs: list[str], output: str, **more: Any) -> None:
            nodes.append(helper.make_node(kind, inputs, [output], **more))

        match layer.kind:
            case "Convolution":
                pads = [layer.weights[0].shape[-1] // 2] * 4
                kernel = constant(f"a{number}", layer.weights[0])
                bias = constant(f"b{number}", layer.weights[1])
                leaky = layer.value(9, 0) == 2
                node("Conv", [ins[0], kernel, bias], f"{made}c" if leaky else made, pads=pads)
                if leaky:
                    node("LeakyRelu", [f"{made}c"], made, alpha=layer.value(10, 0))
            case "PReLU":
                slope = constant(f"a{number}", layer.weights[0].reshape(-1, 1, 1))
                node("PRelu", [ins[0], slope], made)
            case "Concat":
                node("Concat", ins, made, axis=1)
            case "Eltwise":
                factors = [constant(f"f{number}{i}", layer.values[1][i]) for i in (0, 1)]
                for i in (0, 1):
                    node("Mul", [ins[i], factors[i]], f"{made}m{i}")
                node("Add", [f"{made}m0", f"{made}m1"], made)
            case "BinaryOp":
                node("Add", ins, made)
            case "Interp":
                times = layer.value(1, 1)
                scales = constant(f"s{number}", [1, 1, times, times])
                how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                node("Resize", [ins[0], "", scales], made, mode="nearest", **how)
            case "PixelShuffle":
                node("DepthToSpace", ins, made, blocksize=int(layer.value(0, 1)), mode="CRD")
            case "Split":
                made = ins[0]
            case other:
                raise ValueError(f"no layer {other} is known")
        names.update(dict.fromkeys(layer.outputs, made))
    one = TensorProto.FLOAT
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [names["output"]], ["output"])],
        net.name,
        [helper.make_tensor_value_info("data", one, [1, 3, height, width])],
        [helper.make_tensor_value_info("output", one, [1, 3, None, None])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
