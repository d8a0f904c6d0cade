"""Networks that leave out what would be cut off: the padding of a tile, as soon as it has served.

A tile comes with real pixels around it, so that the network sees what lies beyond its edge; what it
makes of them is thrown away. Of that padding each layer needs only as much as the layers behind it
look beyond the tile's edge: a convolution of 3×3 a pixel. So where what is left of it suffices, a
convolution adds no zeros around its input, and its result is so much smaller. Every pixel of the
tile is calculated from the same numbers as before. docs/engines.md has what it saves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from upscaled.engines.builtin.graph import Layer, UnknownGraphError

_CUBIC_REACH = 2
"""Pixels on each side that bicubic interpolation looks at."""
_SPARE = 2
"""Pixels too many that are worth a copy to be rid of before a layer that calculates much."""
_LARGEST_SCALE = 64
"""Of any layer; the whole network's is 16 at most (`inspection`)."""
_REST = -233
"""What ncnn's Crop takes for "all that is left" (crop.cpp)."""


@dataclass(frozen=True)
class Narrowed:
    """A network for tiles with padding."""

    layers: tuple[Layer, ...]
    """As they were, but for convolutions with less padding (key 4) and layers ``Crop`` between."""
    margin: int
    """Pixels on each side of the output that do not belong to the tile."""


def narrowed(layers: Sequence[Layer], data: str, output: str, padding: int) -> Narrowed:
    """Leave out what the tile's own pixels do not need.

    Args:
        layers: the network.
        data: name of its input.
        output: name of its output.
        padding: pixels around each tile.

    Raises:
        UnknownGraphError: the network makes parts of the tile's pixels, or its blobs are not
            connected as its input and its output want it.
    """
    _check_blobs(layers, data, output)
    needs = _needs(layers, output)
    margins = {data: padding}
    made: list[Layer] = []
    for layer in layers:
        kept = _kept(layer, [margins[name] for name in layer.inputs], needs[layer.inputs[0]])
        inputs = list(layer.inputs)
        for place, name in enumerate(layer.inputs):
            if margins[name] > kept:
                inputs[place] = f"<cropped{len(made)}>"  # short, and in no file
                made.append(_crop(name, inputs[place], margins[name] - kept))
        values = layer.values
        if layer.kind == "Convolution" and kept >= needs[layer.inputs[0]]:
            values = {**values, 4: (0,)}
            kept -= int(layer.value(4, 0))
        made.append(dataclasses.replace(layer, inputs=tuple(inputs), values=values))
        margins.update(dict.fromkeys(layer.outputs, int(kept * _factor(layer))))
    return Narrowed(tuple(made), margins[output])


def _check_blobs(layers: Sequence[Layer], data: str, output: str) -> None:
    """Refuse what can't be narrowed.

    Where a pixel of the tile is not a whole number of others, it depends on the padding where those
    lie.

    Raises:
        UnknownGraphError: it is such a network, has several inputs, not this output, or blobs of
            one name.
    """
    scales = {data: 1.0}
    for layer in layers:
        if not scales.keys() >= set(layer.inputs):
            raise UnknownGraphError("It has more than one input.")
        if scales.keys() & set(layer.outputs):
            raise UnknownGraphError("Two of its blobs have one name.")
        scale = scales[layer.inputs[0]] * _factor(layer)
        if scale % 1 or not 1 <= scale <= _LARGEST_SCALE:
            raise UnknownGraphError("It makes parts of pixels, or far too many.")
        scales.update(dict.fromkeys(layer.outputs, scale))
    if output not in scales:
        raise UnknownGraphError(f"It has no output {output}.")


def _needs(layers: Sequence[Layer], output: str) -> dict[str, int]:
    """Return how far each blob must reach beyond the tile, in its own pixels."""
    needs = {output: 0}
    for layer in reversed(layers):
        wanted = max(needs.setdefault(name, 0) for name in layer.outputs)
        for name in layer.inputs:
            needs[name] = max(needs.get(name, 0), _needed(layer, wanted))
    return needs


def _needed(layer: Layer, wanted: int) -> int:
    """Return how far a layer's inputs must reach, for its outputs to reach ``wanted``."""
    need = math.ceil(wanted / _factor(layer))
    if layer.kind == "Convolution":
        need += int(layer.value(4, 0))
    if layer.kind == "Interp" and layer.value(0, 0) != 1:
        need += _CUBIC_REACH
    while need * _factor(layer) % 1:  # soon whole, as `_check_blobs` has found
        need += 1
    return need


def _factor(layer: Layer) -> float:
    """Return how much larger a layer makes what it gets."""
    match layer.kind:
        case "Interp":
            return layer.value(1, 1)
        case "PixelShuffle":
            return layer.value(0, 1)
        case _:
            return 1


def _kept(layer: Layer, margins: Sequence[int], need: int) -> int:
    """Return how far the inputs of a layer are to reach: all of them equally, by whole pixels."""
    most, factor = min(margins), _factor(layer)
    while most * factor % 1:
        most -= 1
    costly = layer.kind == "Convolution" or factor > 1
    return need if costly and (most - need) * factor >= _SPARE else most


def _crop(name: str, made: str, by: int) -> Layer:
    values = {0: by, 1: by, 2: 0, 3: _REST, 4: _REST, 5: _REST, 6: by, 7: by, 8: 0}
    return Layer("Crop", (name,), (made,), {key: (value,) for key, value in values.items()})
