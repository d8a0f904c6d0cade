"""Compact networks (SRVGGNetCompact): recognised, converted, run.

Definition: Real-ESRGAN's ``srvgg_arch.py`` (2021): convolutions with an activation between each
two, a pixel shuffle, and the enlarged input added.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from upscaled.engines.builtin.graph import Layer
from upscaled.models.conversion import numerics
from upscaled.models.conversion.convolutions import Convolution, ConvolutionReader
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import INPUT, Floats, NetworkBuilder
from upscaled.models.conversion.tensors import Weights

_LEAKY_SLOPE = 0.1
"""Of the variant with a leaky ReLU."""
_MOST_CONVOLUTIONS = 256
_BODY = re.compile(r"body\.(\d+)\.(?:weight|bias)")


@dataclass(frozen=True)
class CompactNetwork:
    """Convolutions one after the other."""

    convolutions: tuple[Convolution, ...]
    slopes: tuple[Floats, ...]
    """Of the activation after each convolution but the last; one number or one a channel."""
    scale: int
    activation: str

    architecture = "Compact"
    multiple = 1

    @property
    def size(self) -> str:
        """Features and convolutions."""
        features = self.convolutions[0].kernel.shape[0]
        return f"{features} features, {len(self.convolutions)} convolutions, {self.activation}"

    def layers(self) -> tuple[Layer, ...]:
        """Return it as ncnn layers."""
        net = NetworkBuilder()
        blob = INPUT
        *inner, last = self.convolutions
        for one, slopes in zip(inner, self.slopes, strict=True):
            if self.activation == "prelu":
                blob = net.prelu(net.convolution(blob, one.kernel, one.bias), slopes)
            else:
                slope = float(slopes[0])
                blob = net.convolution(blob, one.kernel, one.bias, slope=slope)
        blob = net.convolution(blob, last.kernel, last.bias)
        if self.scale == 1:
            return net.finished(net.add(blob, INPUT))
        blob = net.shuffle(blob, self.scale)
        return net.finished(net.add(blob, net.nearest(INPUT, self.scale)))

    def run(self, picture: Floats) -> Floats:
        """Return its output by the definition; see `SourceNetwork.run`."""
        planes = picture
        *inner, last = self.convolutions
        for one, slopes in zip(inner, self.slopes, strict=True):
            planes = numerics.leaky(one.run(planes), slopes)
        planes = numerics.shuffle(last.run(planes), self.scale)
        return planes + numerics.nearest(picture, self.scale)


def recognise(weights: Weights, activation: str | None = None) -> CompactNetwork | None:
    """Return the network that the weights are of; None where they are of another family.

    Args:
        weights: of the file.
        activation: ``relu`` or ``leakyrelu``, where the weights do not tell.

    Raises:
        ConversionError: it is a Compact network that cannot be converted.
    """
    if "body.0.weight" not in weights or not all(_BODY.fullmatch(key) for key in weights):
        return None
    read = ConvolutionReader(weights, "Compact")
    numbers = sorted({int(match[1]) for key in weights if (match := _BODY.fullmatch(key))})
    if len(numbers) > 2 * _MOST_CONVOLUTIONS or numbers[-1] % 2:
        raise ConversionError("The layers of the network are not those of a Compact network.")
    count = numbers[-1] // 2 + 1
    convolutions = tuple(read.convolution(f"body.{2 * number}") for number in range(count))
    slopes = [weights.get(f"body.{2 * number + 1}.weight") for number in range(count - 1)]
    features = convolutions[0].kernel.shape[0]
    if all(slope is not None for slope in slopes):
        activation = "prelu"
        found = tuple(slope.reshape(-1) for slope in slopes if slope is not None)
        if any(slope.size not in {1, features} for slope in found):
            raise ConversionError("An activation of the network has an invalid shape.")
        found = tuple(np.broadcast_to(slope, (features,)).copy() for slope in found)
        read.taken(f"body.{2 * number + 1}.weight" for number in range(count - 1))
    elif all(slope is None for slope in slopes):
        if activation not in {"relu", "leakyrelu"}:
            raise ConversionError(
                "The file does not say which activation this Compact network has. Name it: "
                "--activation relu, or --activation leakyrelu; the API has the field activation."
            )
        slope = 0.0 if activation == "relu" else _LEAKY_SLOPE
        found = tuple(np.array([slope], np.float32) for _ in range(count - 1))
    else:
        raise ConversionError("Some activations of the network are missing.")
    read.end()
    out = convolutions[-1].kernel.shape[0]
    scale = math.isqrt(out // 3)
    if convolutions[0].kernel.shape[1] != 3 or 3 * scale**2 != out or not 1 <= scale <= 8:
        raise ConversionError(
            f"The network takes {convolutions[0].kernel.shape[1]} channels and makes {out}; only "
            "networks for colour pictures (RGB) can be used."
        )
    return CompactNetwork(convolutions, found, scale, activation)
