"""SPAN networks: recognised, converted, run.

Definition: Wan et al. 2023, "Swift Parameter-free Attention Network". While it is trained, each
convolution is a chain of three beside a shortcut; for use the four are one kernel, which is
calculated here from the chain, as the stored one may be older than the chain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.builtin.graph import Layer
from upscaled.models.conversion import numerics
from upscaled.models.conversion.convolutions import Convolution, ConvolutionReader
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import INPUT, Floats, NetworkBuilder
from upscaled.models.conversion.tensors import Weights

_RANGE = 255.0
_MEAN = (0.4488, 0.4371, 0.4040)
"""What is subtracted from red, green and blue before they are multiplied by the range."""
_BLOCKS = 6


@dataclass(frozen=True)
class SpanNetwork:
    """Six blocks with parameter-free attention."""

    first: Convolution
    """Normalising the picture is part of it; see `mean`."""
    blocks: tuple[tuple[Convolution, Convolution, Convolution], ...]
    second: Convolution
    joined: Convolution
    last: Convolution
    scale: int
    mean: Floats
    factor: float

    architecture = "SPAN"
    multiple = 1

    @property
    def size(self) -> str:
        """Features."""
        return f"{self.first.kernel.shape[0]} features"

    def layers(self) -> tuple[Layer, ...]:
        """Return it as ncnn layers."""
        net = NetworkBuilder()

        def convolved(blob: str, by: Convolution) -> str:
            return net.convolution(blob, by.kernel, by.bias)

        def silu(blob: str) -> str:
            return net.multiply(blob, net.sigmoid(blob))

        blob = INPUT
        if self.factor != 1.0:
            # (x - mean) * range as a convolution of 1x1: zeros around it stay zeros.
            scaled = (np.eye(3, dtype=np.float32) * self.factor).reshape(3, 3, 1, 1)
            blob = net.convolution(INPUT, scaled, -self.mean * self.factor)
        first = convolved(blob, self.first)
        blob, outs, middle = first, [], ""
        for one, two, three in self.blocks:
            # After its activation: the original calculates that in place.
            middle = silu(convolved(blob, one))
            made = convolved(silu(convolved(middle, two)), three)
            attention = net.plus(net.sigmoid(made), -0.5)
            blob = net.multiply(net.add(made, blob), attention)
            outs.append(blob)
        last = convolved(blob, self.second)
        joined = convolved(net.concat([first, last, outs[0], middle]), self.joined)
        return net.finished(net.shuffle(convolved(joined, self.last), self.scale))

    def run(self, picture: Floats) -> Floats:
        """Return its output by the definition; see `SourceNetwork.run`."""

        def silu(planes: Floats) -> Floats:
            return planes * numerics.sigmoid(planes)

        first = self.first.run((picture - self.mean[:, None, None]) * np.float32(self.factor))
        planes, outs, middle = first, [], first
        for one, two, three in self.blocks:
            middle = silu(one.run(planes))
            made = three.run(silu(two.run(middle)))
            planes = (made + planes) * (numerics.sigmoid(made) - np.float32(0.5))
            outs.append(planes)
        joined = np.concatenate([first, self.second.run(planes), outs[0], middle])
        return numerics.shuffle(self.last.run(self.joined.run(joined)), self.scale)


def recognise(weights: Weights) -> SpanNetwork | None:
    """Return the network that the weights are of; None where they are of another family.

    Raises:
        ConversionError: it is a SPAN that cannot be converted.
    """
    if "block_1.c1_r.sk.weight" not in weights or "conv_cat.weight" not in weights:
        return None
    read = ConvolutionReader(weights, "SPAN")
    first = _merged(weights, read, "conv_1")
    blocks = tuple(
        tuple(_merged(weights, read, f"block_{number}.c{part}_r") for part in (1, 2, 3))
        for number in range(1, _BLOCKS + 1)
    )
    second = _merged(weights, read, "conv_2")
    joined, last = read.convolution("conv_cat"), read.convolution("upsampler.0")
    plain = "no_norm" in weights
    read.taken(["no_norm"])
    read.end()
    channels, out = first.kernel.shape[1], last.kernel.shape[0]
    scale = math.isqrt(out // 3)
    if channels != 3 or 3 * scale**2 != out or not 1 <= scale <= 8:
        raise ConversionError(
            f"The network takes {channels} channels and makes {out}; only networks for colour "
            "pictures (RGB) can be used."
        )
    mean = np.zeros(3, np.float32) if plain else np.array(_MEAN, np.float32)
    rows: Any = blocks
    return SpanNetwork(first, rows, second, joined, last, scale, mean, 1.0 if plain else _RANGE)


def _merged(weights: Weights, read: ConvolutionReader, name: str) -> Convolution:
    """Return the one convolution that a chain of three and its shortcut amount to."""
    chain = [read.convolution(f"{name}.conv.{number}") for number in range(3)]
    shortcut = read.convolution(f"{name}.sk")
    read.taken([f"{name}.eval_conv.weight", f"{name}.eval_conv.bias"])
    one, two, three = (part.kernel.astype(np.float64) for part in chain)
    if one.shape[2] != 1 or two.shape[2] != 3 or three.shape[2] != 1:
        raise ConversionError(f"The layer {name} is not one of a SPAN network.")
    try:
        kernel = np.einsum("om,mkyx,ki->oiyx", three[:, :, 0, 0], two, one[:, :, 0, 0])
        kernel[:, :, 1, 1] += shortcut.kernel[:, :, 0, 0]
        inner = np.einsum("mkyx,k->m", two, _bias(chain[0])) + _bias(chain[1])
        bias = three[:, :, 0, 0] @ inner + _bias(chain[2]) + _bias(shortcut)
    except ValueError:
        raise ConversionError(f"The sizes within the layer {name} do not fit.") from None
    return Convolution(kernel.astype(np.float32), bias.astype(np.float32))


def _bias(part: Convolution) -> NDArray[np.float64]:
    if part.bias is None:
        return np.zeros(part.kernel.shape[0])
    return part.bias.astype(np.float64)
