"""A network under construction: ncnn layers with their weights, and the two files made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.builtin.graph import Layer, param_text

Floats = NDArray[np.float32]

INPUT, OUTPUT = "data", "output"
"""The names of the blobs that the native programs ask for."""
_FP16_MARK = 0x01306B47
"""Stands before weights that are stored in 16 bits; 0 stands before 32 (ncnn's modelbin.cpp)."""
FP16_LARGEST = 65504.0


class NetworkBuilder:
    """Collects layers. Blobs are named by number; each method returns the one that it makes.

    A blob that several layers read has to be copied by a layer ``Split``; `finished` puts those in.
    """

    def __init__(self) -> None:
        self._layers: list[Layer] = []

    def convolution(
        self, blob: str, kernel: Floats, bias: Floats | None, *, slope: float | None = None
    ) -> str:
        """Add a convolution of stride 1 that keeps the size.

        Args:
            blob: what it reads.
            kernel: (out, in, side, side), its side odd.
            bias: (out); None: zeros.
            slope: of a leaky ReLU that follows; None: none follows.
        """
        out, _, side, _ = kernel.shape
        values: dict[int, tuple[float, ...]] = {0: (out,), 1: (side,)}
        if side > 1:
            values[4] = (side // 2,)
        values |= {5: (1,), 6: (kernel.size,)}
        if slope is not None:
            values |= {9: (2,), 10: (float(slope),)} if slope else {9: (1,)}
        weights = (kernel, np.zeros(out, np.float32) if bias is None else bias)
        return self._add("Convolution", [blob], values, weights)

    def prelu(self, blob: str, slopes: Floats) -> str:
        """Add a ReLU with a slope (channels) for what is below zero."""
        return self._add("PReLU", [blob], {0: (slopes.size,)}, (slopes.reshape(-1),))

    def sigmoid(self, blob: str) -> str:
        """Add 1 / (1 + exp(-x))."""
        return self._add("Sigmoid", [blob], {})

    def concat(self, blobs: list[str]) -> str:
        """Add a concatenation of channels."""
        return self._add("Concat", blobs, {})

    def add(self, one: str, other: str) -> str:
        """Add a sum."""
        return self._add("BinaryOp", [one, other], {0: (0,)})

    def multiply(self, one: str, other: str) -> str:
        """Add a product, value by value."""
        return self._add("BinaryOp", [one, other], {0: (2,)})

    def plus(self, blob: str, number: float) -> str:
        """Add a sum with a constant."""
        return self._add("BinaryOp", [blob], {0: (0,), 1: (1,), 2: (float(number),)})

    def weighted_sum(self, one: str, factor: float, other: str) -> str:
        """Add ``factor * one + other``."""
        return self._add("Eltwise", [one, other], {0: (1,), 1: (float(factor), 1.0)})

    def nearest(self, blob: str, factor: int) -> str:
        """Add an enlargement that repeats each value."""
        return self._add("Interp", [blob], {0: (1,), 1: (float(factor),), 2: (float(factor),)})

    def shuffle(self, blob: str, factor: int) -> str:
        """Add a pixel shuffle: groups of ``factor``² channels become pixels."""
        return self._add("PixelShuffle", [blob], {0: (factor,)})

    def unshuffle(self, blob: str, factor: int) -> str:
        """Add its inverse: squares of ``factor`` pixels become channels.

        Sides that are no multiple are extended by reflection.
        """
        extended = self._add("Padding", [blob], {1: (factor - 1,), 3: (factor - 1,), 4: (2,)})
        return self._add("Reorg", [extended], {0: (factor,)})

    def cropped_to(self, blob: str, like: str) -> str:
        """Add a crop to the width and height of the blob ``like``, from the top left."""
        return self._add("Crop", [blob, like], {})

    def _add(
        self,
        kind: str,
        inputs: list[str],
        values: dict[int, tuple[float, ...]],
        weights: tuple[Floats, ...] = (),
    ) -> str:
        name = f"b{len(self._layers)}"
        self._layers.append(Layer(kind, tuple(inputs), (name,), values, weights))
        return name

    def finished(self, last: str) -> tuple[Layer, ...]:
        """Return the layers, the blob ``last`` being the network's output.

        Split layers are put where a blob is read more than once.
        """
        names = {last: OUTPUT}
        readers: dict[str, int] = {}
        for layer in self._layers:
            for blob in layer.inputs:
                readers[blob] = readers.get(blob, 0) + 1
        taken: dict[str, int] = {}
        made: list[Layer] = []

        def split(blob: str) -> None:
            if readers.get(blob, 0) > 1:
                copies = tuple(f"{blob}_{number}" for number in range(readers[blob]))
                made.append(Layer("Split", (blob,), copies, {}))

        def read(blob: str) -> str:
            if readers[blob] == 1:
                return blob
            taken[blob] = taken.get(blob, -1) + 1
            return f"{blob}_{taken[blob]}"

        split(INPUT)
        for layer in self._layers:
            outputs = tuple(names.get(blob, blob) for blob in layer.outputs)
            inputs = tuple(read(blob) for blob in layer.inputs)
            made.append(Layer(layer.kind, inputs, outputs, layer.values, layer.weights))
            for blob in outputs:
                split(blob)
        return tuple(made)


def write_pair(layers: tuple[Layer, ...], param: Path, weights: Path, *, half: bool) -> None:
    """Write a network's two files; blocking.

    Args:
        layers: as `NetworkBuilder.finished` returns them.
        param: the text.
        weights: the ``.bin``.
        half: kernels in 16 bits, biases and slopes in 32, as the official networks have them.

    Raises:
        OSError: they can't be written.
    """
    param.write_text(param_text(layers, INPUT), "utf-8")
    with weights.open("wb") as file:
        for layer in layers:
            if layer.kind == "Convolution":
                kernel, bias = layer.weights
                file.write((_FP16_MARK if half else 0).to_bytes(4, "little"))
                content = kernel.astype("<f2" if half else "<f4").tobytes()
                file.write(content + bytes(-len(content) % 4))
                file.write(bias.astype("<f4").tobytes())
            else:
                for values in layer.weights:
                    file.write(values.astype("<f4").tobytes())


def fits_half(layers: tuple[Layer, ...]) -> bool:
    """Tell whether all kernels are within the range of 16 bits."""
    return all(
        float(np.abs(layer.weights[0]).max(initial=0)) <= FP16_LARGEST
        for layer in layers
        if layer.kind == "Convolution"
    )
