"""A network as OpenVINO's: the layers of ncnn's files, put so that little is copied.

OpenVINO copies at every concatenation, and does an addition of three channels pixel by pixel, as
long as it does not know the size of the tiles beforehand. What layers make is therefore kept as
what it is put together from, until a layer wants it whole; docs/engines.md has what that gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from upscaled.engines.graph import Floats, Layer, UnknownGraphError, read_graph
from upscaled.engines.messages import NetworkFiles
from upscaled.engines.openvino_library import openvino, ops

_CUBIC = -0.75
"""ncnn's coefficient of bicubic interpolation (interp.cpp)."""


def model_of(files: NetworkFiles) -> openvino.Model:
    """Return the network for pictures (1, height, width, 3) of bytes, any size.

    Its values are planes (1, 3, height × scale, width × scale), nominally 0 to 1.

    Raises:
        UnknownGraphError: the network is more than `graph` understands.
        RuntimeError: OpenVINO refuses a layer.
        OSError: the files can't be read.
    """
    pixels = ops.parameter([1, -1, -1, 3], np.uint8, name="pixels")
    planes = ops.transpose(ops.convert(pixels, np.float32), np.array([0, 3, 1, 2]))
    blobs = {files.input_blob: _Whole(ops.multiply(planes, np.float32(1 / 255)))}
    for layer in read_graph(files.param, files.bin):
        if not blobs.keys() >= set(layer.inputs):
            raise UnknownGraphError(f"{files.param.name} has more than one input.")
        made = _made(layer, [blobs[name] for name in layer.inputs])
        blobs.update(dict.fromkeys(layer.outputs, made))
    return openvino.Model([blobs[files.output_blob].node], [pixels], files.param.stem)


@dataclass(frozen=True)
class _Whole:
    """What a layer makes, (1, channels, height, width)."""

    value: openvino.Node

    @property
    def node(self) -> openvino.Node:
        return self.value

    @property
    def parts(self) -> Sequence[openvino.Node]:
        """What it has been concatenated from, by channels."""
        return (self.node,)


@dataclass(frozen=True)
class _Concatenated(_Whole):
    """Several, of which ``value`` is the first."""

    others: tuple[openvino.Node, ...]

    @cached_property
    def node(self) -> openvino.Node:
        return ops.concat(list(self.parts), 1)

    @property
    def parts(self) -> Sequence[openvino.Node]:
        return (self.value, *self.others)


@dataclass(frozen=True)
class _Shuffled(_Whole):
    """``value``, of which each ``factor``² channels are to become one of larger pictures."""

    factor: int

    @cached_property
    def node(self) -> openvino.Node:
        return ops.depth_to_space(self.value, "depth_first", self.factor)


@dataclass(frozen=True)
class _Repeated(_Whole):
    """``value``, of which each pixel is to become ``factor`` × ``factor``."""

    factor: float

    @cached_property
    def node(self) -> openvino.Node:
        return ops.interpolate(
            self.value,
            np.array([self.factor] * 2, np.float32),
            "nearest",
            "scales",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            axes=np.array([2, 3]),
        )


def _made(layer: Layer, ins: Sequence[_Whole]) -> _Whole:
    """Return what a layer makes of its inputs."""
    made = ins[0]  # Split's
    match layer.kind:
        case "Convolution":
            made = _Whole(_convolution(layer, ins[0].parts))
        case "PReLU":
            made = _Whole(ops.prelu(ins[0].node, layer.weights[0]))
        case "Concat":
            first, *others = (part for one in ins for part in one.parts)
            made = _Concatenated(first, tuple(others))
        case "Eltwise":
            first, second = layer.values.get(1, (1.0, 1.0))
            made = _Whole(ops.add(_times(ins[0].node, first), _times(ins[1].node, second)))
        case "BinaryOp":
            made = _sum(*ins)
        case "Interp" if layer.value(0, 0) == 1:
            made = _Repeated(ins[0].node, layer.value(1, 1))
        case "Interp":
            made = _Whole(_cubic(ins[0].node, layer.value(1, 1)))
        case "PixelShuffle":
            made = _Shuffled(ins[0].node, int(layer.value(0, 1)))
    return made


def _convolution(layer: Layer, parts: Sequence[openvino.Node]) -> openvino.Node:
    """Return a convolution of what ``parts`` concatenated are: the sum of theirs."""
    kernel, bias = layer.weights
    ends = np.cumsum([_channels(part) for part in parts])
    shares = np.split(kernel, ends[:-1], axis=1)
    made = ops.constant(bias.reshape(1, -1, 1, 1))
    for part, share in zip(parts, shares, strict=True):
        made = ops.add(_convolved(part, np.ascontiguousarray(share)), made)
    match layer.value(9, 0):
        case 1:
            return ops.relu(made)
        case 2:
            return ops.prelu(made, np.array([layer.value(10, 0)], np.float32))
        case _:
            return made


def _sum(one: _Whole, other: _Whole) -> _Whole:
    if isinstance(one, _Repeated):
        one, other = other, one
    if isinstance(one, _Shuffled) and isinstance(other, _Repeated):
        factor = one.factor
        if factor == other.factor and _channels(one.value) == _channels(other.value) * factor**2:
            # Before it is shuffled, which makes it no larger: to each of the channels that are
            # to be one picture's pixels that picture is added. As a convolution, OpenVINO does
            # both in one go; times one, and nothing else added, no value changes.
            copies = np.repeat(np.eye(_channels(other.value), dtype=np.float32), factor**2, 0)
            copied = _convolved(other.value, copies[:, :, None, None])
            return _Shuffled(ops.add(one.value, copied), factor)
    return _Whole(ops.add(one.node, other.node))


def _convolved(data: openvino.Node, kernel: Floats) -> openvino.Node:
    """Convolve so that the size is kept."""
    pads, ones = [kernel.shape[-1] // 2] * 2, [1, 1]
    return ops.convolution(data, kernel, ones, pads, pads, ones)


def _channels(data: openvino.Node) -> int:
    return int(data.get_output_partial_shape(0)[1].get_length())


def _times(data: openvino.Node, factor: float) -> openvino.Node:
    return data if factor == 1 else ops.multiply(data, np.float32(factor))


def _cubic(data: openvino.Node, factor: float) -> openvino.Node:
    return ops.interpolate(
        data,
        np.array([factor] * 2, np.float32),
        "cubic",
        "scales",
        coordinate_transformation_mode="half_pixel",
        cube_coeff=_CUBIC,
        axes=np.array([2, 3]),
    )
