"""Convert ncnn networks into models of other runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np

from upscaled.engines.builtin.graph import Layer

Layers = tuple[Layer, ...]


def torch_module(layers: Layers) -> Any:
    """Return the network as a PyTorch module with one input (1, 3, height, width)."""
    import torch  # noqa: PLC0415 - optional
    from torch.nn import functional  # noqa: PLC0415

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number, layer in enumerate(layers):
                for name, weights in zip(("a", "b"), layer.weights, strict=False):
                    parameter = torch.nn.Parameter(torch.from_numpy(weights), requires_grad=False)
                    self.register_parameter(f"{name}{number}", parameter)

        def forward(self, data: Any) -> Any:
            blobs = {"data": data}
            for number, layer in enumerate(layers):
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


def onnx_bytes(layers: Layers, height: int, width: int) -> bytes:
    """Return the network as an ONNX model for inputs (1, 3, ``height``, ``width``)."""
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415

    nodes, constants = [], []
    names: dict[str, str] = {"data": "data"}

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    for number, layer in enumerate(layers):
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
        "network",
        [helper.make_tensor_value_info("data", one, [1, 3, height, width])],
        [helper.make_tensor_value_info("output", one, [1, 3, None, None])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
