"""Padding trim: a network computes no more of a tile's padding than later layers still need.

A tile comes with context pixels around it, and the network's output for them is discarded. A layer
needs only as much of this padding as the layers after it look beyond the tile's edge: one pixel for
each 3×3 convolution. Where the remaining padding suffices, a convolution runs without zero padding
and its output shrinks. Every pixel of the tile itself is computed from the same numbers as before.
docs/engines.md says how much this saves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from upscaled.engines.builtin.graph import Layer, UnknownGraphError

_CUBIC_REACH = 2
"""Pixels on each side that bicubic interpolation reads."""
_MIN_SURPLUS = 2
"""Minimum surplus in pixels that justifies a crop before an expensive layer."""
_LARGEST_SCALE = 64
"""Of any layer; a whole network has at most 16 (`inspection`)."""
_REMAINDER = -233
"""ncnn's value for "the rest of the blob" in a Crop layer (crop.cpp)."""


@dataclass(frozen=True)
class TrimmedNetwork:
    """A network that trims the padding of its tiles."""

    layers: tuple[Layer, ...]
    """The original layers, some convolutions without zero padding (key 4), and added ``Crop``."""
    margin: int
    """Pixels on each side of the output that do not belong to the tile."""


def trim_padding(layers: Sequence[Layer], data: str, output: str, padding: int) -> TrimmedNetwork:
    """Return the network without the computations that the tile's own pixels do not need.

    Args:
        layers: the network.
        data: name of its input.
        output: name of its output.
        padding: pixels around each tile.

    Raises:
        UnknownGraphError: a layer has a fractional scale, or the blobs do not lead from the one
            input to the output.
    """
    _check_blobs(layers, data, output)
    reach = _reach(layers, output)
    margins = {data: padding}
    trimmed: list[Layer] = []
    constants = _constants(layers)
    for layer in layers:
        if not layer.inputs:
            trimmed.append(layer)
            continue
        margin = _input_margin(
            layer,
            [margins[name] for name in layer.inputs if name not in constants],
            reach[layer.inputs[0]],
        )
        inputs = list(layer.inputs)
        for place, name in enumerate(layer.inputs):
            if name not in constants and margins[name] > margin:
                inputs[place] = f"<cropped{len(trimmed)}>"  # a name that no file uses
                trimmed.append(_crop(name, inputs[place], margins[name] - margin))
        values = layer.values
        if layer.kind == "Convolution" and margin >= reach[layer.inputs[0]]:
            values = {**values, 4: (0,)}
            margin -= int(layer.value(4, 0))
        trimmed.append(dataclasses.replace(layer, inputs=tuple(inputs), values=values))
        margins.update(dict.fromkeys(layer.outputs, int(margin * _scale_factor(layer))))
    return TrimmedNetwork(tuple(trimmed), margins[output])


def _check_blobs(layers: Sequence[Layer], data: str, output: str) -> None:
    """Refuse networks that can't be trimmed.

    At a fractional scale the position of a tile's pixels would depend on the padding.

    Raises:
        UnknownGraphError: a blob has a fractional or huge scale, the network has several inputs or
            not this output, or two blobs have the same name.
    """
    scales = {data: 1.0}
    constants = _constants(layers)
    for layer in layers:
        if not layer.inputs:
            scales.update(dict.fromkeys(layer.outputs, 1.0))
            continue
        if layer.inputs[0] in constants:
            raise UnknownGraphError("It calculates with constants alone.")
        if not scales.keys() >= set(layer.inputs):
            raise UnknownGraphError("It has more than one input.")
        if scales.keys() & set(layer.outputs):
            raise UnknownGraphError("Two of its blobs have the same name.")
        scale = scales[layer.inputs[0]] * _scale_factor(layer)
        if scale % 1 or not 1 <= scale <= _LARGEST_SCALE:
            raise UnknownGraphError("It has a fractional or very large scale.")
        scales.update(dict.fromkeys(layer.outputs, scale))
    if output not in scales:
        raise UnknownGraphError(f"It has no output {output}.")


def _constants(layers: Sequence[Layer]) -> set[str]:
    """Return the blobs that do not depend on the picture; they have one pixel."""
    return {name for layer in layers if not layer.inputs for name in layer.outputs}


def _reach(layers: Sequence[Layer], output: str) -> dict[str, int]:
    """Return how many pixels each blob must extend beyond the tile, in its own resolution."""
    reach = {output: 0}
    for layer in reversed(layers):
        wanted = max(reach.setdefault(name, 0) for name in layer.outputs)
        for name in layer.inputs:
            reach[name] = max(reach.get(name, 0), _input_reach(layer, wanted))
    return reach


def _input_reach(layer: Layer, wanted: int) -> int:
    """Return how far a layer's inputs must extend so that its outputs extend by ``wanted``."""
    need = math.ceil(wanted / _scale_factor(layer))
    if layer.kind == "Convolution":
        need += int(layer.value(4, 0))
    if layer.kind == "Interp" and layer.value(0, 0) != 1:
        need += _CUBIC_REACH
    while need * _scale_factor(layer) % 1:  # ends, since `_check_blobs` allows whole scales only
        need += 1
    return need


def _scale_factor(layer: Layer) -> float:
    """Return by what factor a layer enlarges its input."""
    match layer.kind:
        case "Interp":
            return layer.value(1, 1)
        case "PixelShuffle":
            return layer.value(0, 1)
        case _:
            return 1


def _input_margin(layer: Layer, margins: Sequence[int], need: int) -> int:
    """Return the margin to which all inputs of a layer are cropped, in whole pixels."""
    most, factor = min(margins), _scale_factor(layer)
    while most * factor % 1:
        most -= 1
    expensive = layer.kind == "Convolution" or factor > 1
    return need if expensive and (most - need) * factor >= _MIN_SURPLUS else most


def _crop(name: str, output: str, by: int) -> Layer:
    values = {0: by, 1: by, 2: 0, 3: _REMAINDER, 4: _REMAINDER, 5: _REMAINDER, 6: by, 7: by, 8: 0}
    return Layer("Crop", (name,), (output,), {key: (value,) for key, value in values.items()})
