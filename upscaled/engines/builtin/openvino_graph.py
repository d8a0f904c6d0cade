"""Builds an OpenVINO network from the layers in ncnn's files, with little copying.

While the tile size is unknown, OpenVINO copies at every concatenation, and adds three channels
pixel by pixel. It also convolves a picture of repeated pixels as if all pixels differed. So a
layer's output is kept as its parts until another layer needs it whole; docs/engines.md says how
much this saves.

With ``bf16`` convolutions run in bfloat16, which processors with AMX do several times as fast as 32
bits. The layers that would lose most accuracy and are little of the work stay in 32 bits:
convolutions from and to pixels, and additions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from upscaled.engines.builtin.graph import ADD, MULTIPLY, SUBTRACT, Floats, Layer, read_graph
from upscaled.engines.builtin.openvino_library import openvino, ops
from upscaled.engines.builtin.padding_trim import trim_padding
from upscaled.engines.builtin.protocol import NetworkFiles

_CUBIC = -0.75
"""ncnn's coefficient of bicubic interpolation (interp.cpp)."""
_NEXT, _APART = "depth_first", "blocks_first"
"""OpenVINO's names for the position of the channels that become one picture."""
_FEW = 4
"""Convolutions with up to this many channels belong to a picture, with or without transparency."""
_CURVES = {"Sigmoid": ops.sigmoid, "Swish": ops.swish}
_F32, _BF16 = openvino.Type.f32, openvino.Type.bf16


def model_of(
    files: NetworkFiles, padding: int, *, bf16: bool = False
) -> tuple[openvino.Model, int]:
    """Return the network for tiles (1, height, width, 3) of bytes, of any size, with ``padding``.

    The output is planes (1, 3, height, width), nominally 0 to 1, of the enlarged tile. The second
    result is the margin in pixels on each side that does not belong to the tile.

    Raises:
        UnknownGraphError: `graph` does not support the network.
        RuntimeError: OpenVINO refuses a layer.
        OSError: the files can't be read.
    """
    pixels = ops.parameter([1, -1, -1, 3], np.uint8, name="pixels")
    planes = ops.transpose(ops.convert(pixels, np.float32), np.array([0, 3, 1, 2]))
    blobs = {files.input_blob: _Whole(ops.multiply(planes, np.float32(1 / 255)))}
    layers = read_graph(files.param, files.bin)
    network = trim_padding(layers, files.input_blob, files.output_blob, padding)
    for layer in network.layers:
        made = _made(layer, [blobs[name] for name in layer.inputs], bf16=bf16)
        blobs.update(dict.fromkeys(layer.outputs, made))
    output = blobs[files.output_blob].f32
    return openvino.Model([output], [pixels], files.param.stem), network.margin


@dataclass(frozen=True)
class _Whole:
    """The output of a layer, (1, channels, height, width)."""

    value: openvino.Node

    @property
    def node(self) -> openvino.Node:
        """The output in its own precision: 32 bits or bfloat16."""
        return self.value

    @cached_property
    def f32(self) -> openvino.Node:
        """The output in 32 bits."""
        return _as(_F32, self.node)

    @cached_property
    def bf16(self) -> openvino.Node:
        """The output in bfloat16."""
        return _as(_BF16, self.node)

    @property
    def parts(self) -> Sequence[_Whole]:
        """The parts it was concatenated from, by channels."""
        return (self,)


@dataclass(frozen=True)
class _Concatenated(_Whole):
    """Several concatenated outputs; ``value`` is the first."""

    pieces: tuple[_Whole, ...]

    @property
    def node(self) -> openvino.Node:
        return self.f32

    @cached_property
    def f32(self) -> openvino.Node:
        return ops.concat([piece.f32 for piece in self.pieces], 1)

    @cached_property
    def bf16(self) -> openvino.Node:
        return ops.concat([piece.bf16 for piece in self.pieces], 1)

    @property
    def parts(self) -> Sequence[_Whole]:
        return self.pieces


@dataclass(frozen=True)
class _Shuffled(_Whole):
    """``value``, of which each group of ``factor``² channels is to become one channel of a larger
    picture.

    The channels of a group are adjacent (`_NEXT`), or as far apart as possible (`_APART`).
    """

    factor: int
    order: str = _NEXT

    @cached_property
    def node(self) -> openvino.Node:
        return ops.depth_to_space(self.value, self.order, self.factor)


@dataclass(frozen=True)
class _Repeated(_Whole):
    """``value``, of which each pixel is to be repeated ``factor`` × ``factor`` times."""

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


def _made(layer: Layer, ins: Sequence[_Whole], *, bf16: bool) -> _Whole:
    """Return a layer's output for its inputs."""
    made = ins[0] if ins else None  # Split's
    match layer.kind:
        case "Convolution" if _makes_phases(layer, ins[0]):
            once = _Whole(ins[0].value)
            made = _Shuffled(_convolution(_phases(layer), once, bf16=bf16), 2, _APART)
        case "Convolution":
            made = _Whole(_convolution(layer, ins[0], bf16=bf16))
        case "Crop":
            made = _Whole(_cropped(ins[0].node, int(layer.value(0, 0))))
        case "PReLU":
            made = _Whole(_prelu(ins[0].node, layer.weights[0]))
        case "Concat":
            pieces = tuple(part for one in ins for part in one.parts)
            made = _Concatenated(pieces[0].value, pieces)
        case "Eltwise":
            first, second = layer.values.get(1, (1.0, 1.0))
            made = _Whole(ops.add(_times(ins[0].f32, first), _times(ins[1].f32, second)))
        case "BinaryOp":
            made = _binary(layer, ins)
        case "MemoryData":
            made = _Whole(_constant(layer.weights[0].reshape(1, -1, 1, 1)))
        case "Sigmoid" | "Swish" as kind:
            made = _Whole(_CURVES[kind](ins[0].f32))
        case "Interp" if layer.value(0, 0) == 1:
            made = _Repeated(ins[0].node, layer.value(1, 1))
        case "Interp":
            made = _Whole(_cubic(ins[0].f32, layer.value(1, 1)))
        case "PixelShuffle":
            made = _Shuffled(ins[0].node, int(layer.value(0, 1)))
    assert made is not None  # noqa: S101 - only MemoryData has no input
    return made


def _convolution(layer: Layer, data: _Whole, *, bf16: bool) -> openvino.Node:
    """Return a convolution; in 32 bits, as the sum of the convolutions of the parts of ``data``.

    In bfloat16 it is one convolution of the copied, joined parts, since each part of a sum would be
    rounded.
    """
    kernel, bias = layer.weights
    pad = int(layer.value(4, 0))
    if bf16 and min(kernel.shape[:2]) > _FEW:
        made = _convolved(data.bf16, _constant(kernel, _BF16), pad)
        return _activated(layer, ops.add(made, _constant(bias.reshape(1, -1, 1, 1), _BF16)))
    parts = [part.f32 for part in data.parts]
    ends = np.cumsum([_channels(part) for part in parts])
    made = ops.constant(bias.reshape(1, -1, 1, 1))
    for part, share in zip(parts, np.split(kernel, ends[:-1], axis=1), strict=True):
        made = ops.add(_convolved(part, _constant(share, _F32), pad), made)
    return _activated(layer, made)


def _makes_phases(layer: Layer, data: _Whole) -> bool:
    """Tell whether a layer convolves a picture that was enlarged twice by repeating pixels."""
    return (
        isinstance(data, _Repeated)
        and data.factor == 2
        and layer.weights[0].shape[2:] == (3, 3)
        and layer.value(4, 0) == 0
    )


def _phases(layer: Layer) -> Layer:
    """Return a layer that convolves before pixels are repeated, with 4 products instead of 9.

    A corner where four pixels meet becomes four pixels of the larger picture. The 3 × 3 repeated
    pixels around each of those contain only 2 × 2 different source pixels, the same four for all:
    those at the corner. So the weights that meet the same source pixel are added up, once for each
    of the four. The four results are channels, those of one picture `_APART`.
    """
    kernel, bias = layer.weights
    out, channels = kernel.shape[:2]
    # Index of the source pixel at the corner, first or second, that each of three weights in a row
    # meets: for the larger picture's pixel before the corner and for the one after it.
    before, behind = [[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]
    meets = np.array([before, behind], np.float32)
    added = np.einsum("pra,qsb,oiab->pqoirs", meets, meets, kernel)
    kernels = added.reshape(4 * out, channels, 2, 2)
    return dataclasses.replace(layer, weights=(kernels, np.tile(bias, 4)))


def _activated(layer: Layer, data: openvino.Node) -> openvino.Node:
    match layer.value(9, 0):
        case 1:
            return ops.relu(data)
        case 2:
            return _prelu(data, np.array([layer.value(10, 0)], np.float32))
        case _:
            return data


def _prelu(data: openvino.Node, slopes: Floats) -> openvino.Node:
    return ops.prelu(data, _constant(slopes, data.get_output_element_type(0)))


def _binary(layer: Layer, ins: Sequence[_Whole]) -> _Whole:
    """Return a sum, difference or product of two outputs, or of one and a number."""
    operation = layer.value(0, ADD)
    if layer.value(1, 0):
        second = _Whole(ops.constant(np.float32(layer.value(2, 0))))
    else:
        second = ins[1]
        if operation == ADD:
            return _sum(ins[0], second)
    calculate = {ADD: ops.add, SUBTRACT: ops.subtract, MULTIPLY: ops.multiply}[int(operation)]
    return _Whole(calculate(ins[0].f32, second.f32))


def _sum(one: _Whole, other: _Whole) -> _Whole:
    if isinstance(one, _Repeated):
        one, other = other, one
    if isinstance(one, _Shuffled) and isinstance(other, _Repeated) and one.order == _NEXT:
        factor = one.factor
        if factor == other.factor and _channels(one.value) == _channels(other.value) * factor**2:
            # Add before shuffling, which is no larger: the picture is added to each channel that
            # becomes its pixels. As a convolution, OpenVINO does both in one step. Each value is
            # multiplied by one and nothing else is added, so none changes.
            copies = np.repeat(np.eye(_channels(other.value), dtype=np.float32), factor**2, 0)
            copied = _convolved(_as(_F32, other.value), _constant(copies[:, :, None, None]), 0)
            return _Shuffled(ops.add(_as(_F32, one.value), copied), factor)
    return _Whole(ops.add(one.f32, other.f32))


def _convolved(data: openvino.Node, kernel: openvino.Node, pad: int) -> openvino.Node:
    pads, ones = [pad, pad], [1, 1]
    return ops.convolution(data, kernel, ones, pads, pads, ones)


def _as(kind: openvino.Type, data: openvino.Node) -> openvino.Node:
    return data if data.get_output_element_type(0) == kind else ops.convert(data, kind)


def _constant(values: Floats, kind: openvino.Type = _F32) -> openvino.Node:
    values = np.ascontiguousarray(values)
    if kind == _F32:
        return ops.constant(values)
    # OpenVINO's own conversion rounds half of the values down that should be rounded up: with
    # weights converted by it, pictures are 2 to 6 dB further from 32 bits.
    bits = values.view(np.uint32)
    nearest = bits + (0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return ops.constant(nearest.view(np.float32), dtype=_BF16)


def _cropped(data: openvino.Node, by: int) -> openvino.Node:
    both, steps, axes = np.array([by, by]), np.array([1, 1]), np.array([2, 3])
    return ops.slice(data, both, -both, steps, axes)


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
