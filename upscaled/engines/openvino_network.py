"""Inference on the OpenVINO library, inside the resident worker; on the CPU."""

# ruff: noqa: E402 - one line has to come before the library

from __future__ import annotations

import sys
import threading

import numpy as np

# OpenVINO's package reports its use to Google Analytics as soon as it is imported, and keeps a
# number for that in the home directory. Without this module it doesn't, and misses nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino
from openvino import opset13 as ops

from upscaled.engines.graph import Layer, UnknownGraphError, read_graph
from upscaled.engines.inference import Floats, InferenceError, Network, Pixels, check_finite
from upscaled.engines.messages import NetworkFiles

_CUBIC = -0.75
"""ncnn's coefficient of bicubic interpolation (interp.cpp)."""


class OpenvinoNetwork(Network):
    """A network loaded into OpenVINO, from ncnn's files.

    Args:
        files: the two files and the names of the blobs.
        cores: threads of the process's inference altogether.
        threads: of them for one tile; tiles beyond ``cores / threads`` at once wait.

    Raises:
        UnknownGraphError: the network is more than `graph` understands.
        InferenceError: OpenVINO refuses it (kind ``bad_model``).
    """

    def __init__(self, files: NetworkFiles, *, cores: int, threads: int) -> None:
        self._idle: list[openvino.InferRequest] = []
        self._in_work = 0
        self._lock = threading.Lock()
        settings = {
            # It would else calculate in 16 bits where the processor can: further from the native
            # program's picture than is allowed.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": max(1, cores // threads),
            # Decoding and encoding want the same cores.
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": True,
        }
        try:
            self._compiled = openvino.Core().compile_model(_model(files), "CPU", settings)
        except RuntimeError as error:
            raise InferenceError(
                "bad_model", f"OpenVINO can't use {files.param.name}: {_first_line(error)}"
            ) from None

    def run(self, pixels: Pixels) -> Floats:
        """See `Network.run`."""
        with self._lock:
            self._in_work += 1
            request = self._idle.pop() if self._idle else None
        try:
            request = request or self._compiled.create_infer_request()
            # Put to whichever stream is free; `infer` would bind this thread to one of them.
            request.start_async({0: np.ascontiguousarray(pixels)[None]})
            request.wait()
            planes: Floats = request.get_output_tensor().data[0].copy()
        except RuntimeError as error:
            request = None
            raise InferenceError("failed", f"The network failed: {_first_line(error)}") from None
        finally:
            with self._lock:
                self._in_work -= 1
                if request is not None:
                    self._idle.append(request)
        check_finite(planes)
        return planes

    def rest(self) -> bool:
        """See `Network.rest`: as long as a tile is in work, all is kept."""
        with self._lock:  # none begins meanwhile, for which the library would refuse
            if self._in_work:
                return False
            self._idle.clear()
            self._compiled.release_memory()
        return True


def _first_line(error: RuntimeError) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{lines[-1].rstrip('.')}."


def _model(files: NetworkFiles) -> openvino.Model:
    """Return the network for pictures (1, height, width, 3) of bytes, any size."""
    pixels = ops.parameter([1, -1, -1, 3], np.uint8, name="pixels")
    planes = ops.transpose(ops.convert(pixels, np.float32), np.array([0, 3, 1, 2]))
    blobs = {files.input_blob: ops.multiply(planes, np.float32(1 / 255))}
    for layer in read_graph(files.param, files.bin):
        if not blobs.keys() >= set(layer.inputs):
            raise UnknownGraphError(f"{files.param.name} has more than one input.")
        made = _node(layer, [blobs[name] for name in layer.inputs])
        blobs.update(dict.fromkeys(layer.outputs, made))
    return openvino.Model([blobs[files.output_blob]], [pixels], files.param.stem)


def _node(layer: Layer, ins: list[openvino.Node]) -> openvino.Node:
    """Return what a layer makes of its inputs."""
    made = ins[0]  # Split's
    match layer.kind:
        case "Convolution":
            made = _convolution(layer, ins[0])
        case "PReLU":
            made = ops.prelu(ins[0], layer.weights[0])
        case "Concat":
            made = ops.concat(ins, 1)
        case "Eltwise":
            first, second = layer.values.get(1, (1.0, 1.0))
            made = ops.add(_times(ins[0], first), _times(ins[1], second))
        case "BinaryOp":
            made = ops.add(*ins)
        case "Interp":
            made = _enlarged(layer, ins[0])
        case "PixelShuffle":
            made = ops.depth_to_space(ins[0], "depth_first", int(layer.value(0, 1)))
    return made


def _convolution(layer: Layer, data: openvino.Node) -> openvino.Node:
    kernel, bias = layer.weights
    pads, ones = [kernel.shape[-1] // 2] * 2, [1, 1]
    made = ops.add(ops.convolution(data, kernel, ones, pads, pads, ones), bias.reshape(1, -1, 1, 1))
    match layer.value(9, 0):
        case 1:
            return ops.relu(made)
        case 2:
            return ops.prelu(made, np.array([layer.value(10, 0)], np.float32))
        case _:
            return made


def _times(data: openvino.Node, factor: float) -> openvino.Node:
    return data if factor == 1 else ops.multiply(data, np.float32(factor))


def _enlarged(layer: Layer, data: openvino.Node) -> openvino.Node:
    factors = np.array([layer.value(1, 1)] * 2, np.float32)
    axes = np.array([2, 3])
    if layer.value(0, 0) == 1:
        return ops.interpolate(
            data,
            factors,
            "nearest",
            "scales",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            axes=axes,
        )
    return ops.interpolate(
        data,
        factors,
        "cubic",
        "scales",
        coordinate_transformation_mode="half_pixel",
        cube_coeff=_CUBIC,
        axes=axes,
    )
