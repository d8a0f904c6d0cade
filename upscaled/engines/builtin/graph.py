"""Reads a network's two ncnn files as a graph: layers and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.param_file import MAGIC
from upscaled.pictures import Size

Floats = NDArray[np.float32]

_FP16 = 0x01306B47
"""ncnn's marker before weights stored in 16 bits; 0 marks 32 bits (modelbin.cpp)."""
_ARRAY_KEYS = -23300
"""Keys of arrays are written as this minus the key (paramdict.cpp)."""

_KEYS: dict[str, frozenset[int]] = {
    "Input": frozenset(),
    "Split": frozenset(),
    "Convolution": frozenset({0, 1, 4, 5, 6, 9, 10}),
    "PReLU": frozenset({0}),
    "Concat": frozenset(),
    "Eltwise": frozenset({0, 1}),
    "BinaryOp": frozenset({0, 1, 2}),
    "MemoryData": frozenset({0, 1, 2}),
    "Sigmoid": frozenset(),
    "Swish": frozenset(),
    "Interp": frozenset({0, 1, 2}),
    "PixelShuffle": frozenset({0}),
}
"""The layers that Real-ESRGAN and SPAN networks use, and the supported keys of each. Absent keys
have ncnn's defaults, so a layer with any other key could be something else."""

ADD, SUBTRACT, MULTIPLY = 0, 1, 2
"""What a BinaryOp does (key 0); with key 1 its second operand is the number of key 2."""
_ARRAYS = {("Convolution", 10), ("Eltwise", 1)}
"""The keys whose values are arrays: the numbers of an activation, the factors of addends."""


class UnknownGraphError(Exception):
    """A network holds something that is not supported here; the message is a sentence."""


@dataclass(frozen=True)
class Layer:
    """One line of the ``.param``, with its weights from the ``.bin``."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: dict[int, tuple[float, ...]]
    """Whole numbers are `int`; ncnn distinguishes them by their notation."""
    weights: tuple[Floats, ...] = ()
    """A convolution's kernel (out, in, height, width) and bias (out), or a PReLU's slopes
    (channels), or the numbers of MemoryData (channels); empty if only the ``.param`` was read."""

    def value(self, key: int, default: float) -> float:
        return self.values[key][0] if key in self.values else default


def read_graph(param: Path, weights: Path | None) -> tuple[Layer, ...]:
    """Read a pair of files, or the ``.param`` alone.

    Supports convolutions with stride 1, padding that keeps the size, and no activation or a (leaky)
    ReLU; sums, differences and products of two, or of one and a number.

    Raises:
        UnknownGraphError: a layer, or a variant of one, is not supported.
        OSError: they can't be read.
    """
    stored = None if weights is None else _Stored(weights.read_bytes(), weights.name)
    layers = []
    for line in param.read_text("utf-8", "replace").splitlines()[2:]:
        if not line.strip():
            continue
        try:
            layer = _layer(line, stored)
        except (ValueError, LookupError):
            raise UnknownGraphError(f"This line is invalid: {line.strip()!r}.") from None
        if layer.kind != "Input":
            layers.append(layer)
    if stored is not None:
        stored.end()
    return tuple(layers)


def param_text(layers: Sequence[Layer], data: str) -> str:
    """Return layers as the content of a ``.param``, with ``data`` as the input's name."""
    lines = [f"Input in 0 1 {data}"]
    for number, layer in enumerate(layers):
        blobs = [*layer.inputs, *layer.outputs]
        pairs = (_written(layer.kind, key, numbers) for key, numbers in layer.values.items())
        counts = f"{len(layer.inputs)} {len(layer.outputs)}"
        lines.append(" ".join([layer.kind, f"layer{number}", counts, *blobs, *pairs]))
    blobs_made = 1 + sum(len(layer.outputs) for layer in layers)
    return "\n".join([MAGIC, f"{len(lines)} {blobs_made}", *lines, ""])


def operations(layers: Sequence[Layer], data: str, size: Size) -> float:
    """Return the floating-point operations for a tile, without any convolution shortcuts.

    Args:
        layers: with their weights.
        data: name of the input.
        size: of the tile, with its padding.
    """
    sizes: dict[str, tuple[float, float]] = {data: (size.width, size.height)}
    total = 0.0
    for layer in layers:
        if not layer.inputs:  # a constant
            continue
        lost, factor = 0.0, 1.0
        match layer.kind:
            case "Convolution":
                lost = layer.value(1, 1) - 1 - 2 * layer.value(4, 0)
            case "Crop":
                lost = 2 * layer.value(0, 0)
            case "Interp":
                factor = layer.value(1, 1)
            case "PixelShuffle":
                factor = layer.value(0, 1)
        width, height = ((side - lost) * factor for side in sizes[layer.inputs[0]])
        if layer.kind == "Convolution":
            total += 2 * layer.weights[0].size * width * height
        sizes.update(dict.fromkeys(layer.outputs, (width, height)))
    return total


def _written(kind: str, key: int, numbers: tuple[float, ...]) -> str:
    if (kind, key) in _ARRAYS:
        return f"{_ARRAY_KEYS - key}={','.join([str(len(numbers)), *map(_text, numbers)])}"
    return f"{key}={_text(numbers[0])}"


def _text(number: float) -> str:
    # Nine digits represent all 32-bit floats. Older releases of ncnn can't read more than nine
    # decimals.
    return str(number) if isinstance(number, int) else f"{number:.8e}"


def _layer(line: str, stored: _Stored | None) -> Layer:
    """Read a line of the ``.param`` and take its weights."""
    kind, _, taken, given, *rest = line.split()
    if kind not in _KEYS:
        raise UnknownGraphError(f"{kind} is not a layer that is known.")
    ins, outs = int(taken), int(given)
    if min(ins, outs) < (kind not in {"Input", "MemoryData"}) or len(rest) < ins + outs:
        raise ValueError
    blobs, pairs = rest[: ins + outs], rest[ins + outs :]
    values = dict(_parse(pair) for pair in pairs)
    _check(kind, ins, values)
    weights = () if stored is None else stored.take(kind, values)
    return Layer(kind, tuple(blobs[:ins]), tuple(blobs[ins:]), values, weights)


def _parse(pair: str) -> tuple[int, tuple[float, ...]]:
    name, _, value = pair.partition("=")
    key, numbers = int(name), tuple(_number(text) for text in value.split(","))
    if key < 0:
        return _ARRAY_KEYS - key, numbers[1:]  # their count comes first
    return key, numbers


def _number(text: str) -> float:
    """Read a number as ncnn does: whole unless it has a point or an exponent."""
    return float(text) if set(text) & set(".eE") else int(text)


def _check(kind: str, inputs: int, values: dict[int, tuple[float, ...]]) -> None:
    """Refuse a layer that would have to be interpreted but is not supported."""

    def value(key: int, default: float) -> float:
        return values[key][0] if key in values else default

    match kind:
        case "Convolution":
            side = value(1, 0)
            usual = side % 2 == 1 and value(4, 0) == side // 2 and value(5, 0) == 1
            usual = usual and value(9, 0) in {0, 1, 2}
        case "Eltwise":
            usual = inputs == 2 and value(0, 0) == 1 and len(values.get(1, ())) in {0, 2}
        case "BinaryOp":
            usual = value(0, 0) in {ADD, SUBTRACT, MULTIPLY} and inputs == 2 - value(1, 0)
        case "MemoryData":
            usual = inputs == 0 and value(0, 0) == value(1, 0) == 1 <= value(2, 0)
        case "Interp":
            usual = value(0, 0) in {1, 3} and value(1, 1) == value(2, 1) > 0
        case "PixelShuffle":
            usual = value(0, 1) >= 1
        case _:
            usual = True
    if not usual or not values.keys() <= _KEYS[kind]:
        raise UnknownGraphError(f"A layer {kind} is of a kind that is not known: {values}.")


class _Stored:
    """The weights in a ``.bin``, taken layer by layer."""

    def __init__(self, content: bytes, name: str) -> None:
        self._content = content
        self._name = name
        self._offset = 0

    def take(self, kind: str, values: dict[int, tuple[float, ...]]) -> tuple[Floats, ...]:
        if kind == "Convolution":
            out, side, count = (int(values[key][0]) for key in (0, 1, 6))
            kernel = self._floats(count, self._mark()).reshape(out, -1, side, side)
            return kernel, self._floats(out)
        if kind == "PReLU":
            return (self._floats(int(values[0][0])),)
        if kind == "MemoryData":
            return (self._floats(int(values[2][0])),)
        return ()

    def end(self) -> None:
        """Refuse a file with data left over."""
        if self._offset != len(self._content):
            raise UnknownGraphError(
                f"{self._name} holds {len(self._content) - self._offset} bytes more than known."
            )

    def _mark(self) -> int:
        mark = int.from_bytes(self._content[self._offset : self._offset + 4], "little")
        self._offset += 4
        if mark not in {0, _FP16}:
            raise UnknownGraphError(f"{self._name} stores weights in a way that is not known.")
        return mark

    def _floats(self, count: int, mark: int = 0) -> Floats:
        kind = np.float16 if mark == _FP16 else np.float32
        length = count * np.dtype(kind).itemsize
        if self._offset + length > len(self._content):
            raise UnknownGraphError(f"{self._name} is too short.")
        found = np.frombuffer(self._content, kind, count, self._offset)
        self._offset += (length + 3) // 4 * 4  # each block fills whole words
        return found.astype(np.float32)
