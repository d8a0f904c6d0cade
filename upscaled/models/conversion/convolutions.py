"""Convolutions: what networks consist of, and taking them out of a file's weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upscaled.models.conversion import numerics
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import Floats
from upscaled.models.conversion.tensors import Weights


@dataclass(frozen=True)
class Convolution:
    """Stride 1, padded with zeros so that the size stays."""

    kernel: Floats
    """(out, in, side, side), the side odd."""
    bias: Floats | None
    """(out)."""

    def run(self, planes: Floats) -> Floats:
        """Return the planes (in, height, width) convolved."""
        return numerics.convolution(planes, self.kernel, self.bias)


class ConvolutionReader:
    """Takes convolutions out of the weights, and keeps track of the rest.

    Args:
        weights: of the whole network.
        family: name of the architecture, for error messages.
    """

    def __init__(self, weights: Weights, family: str) -> None:
        self._weights = weights
        self._family = family
        self._taken: set[str] = set()

    def convolution(self, name: str) -> Convolution:
        """Return the convolution of this name.

        Raises:
            ConversionError: it is not there, or has a shape that does not fit.
        """
        found = self.optional(name)
        if found is None:
            raise ConversionError(f"The network has no layer {name}; the file is incomplete.")
        return found

    def optional(self, name: str) -> Convolution | None:
        """Return the same, or None where there is none."""
        kernel, bias = self._weights.get(f"{name}.weight"), self._weights.get(f"{name}.bias")
        if kernel is None:
            return None
        square = kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3] in {1, 3, 5, 7}
        if not square or (bias is not None and bias.shape != (kernel.shape[0],)):
            raise ConversionError(
                f"The layer {name} has a shape that no {self._family} network has."
            )
        self._taken |= {f"{name}.weight", f"{name}.bias"}
        return Convolution(kernel, bias)

    def taken(self, keys: Iterable[str]) -> None:
        """Note that keys were used otherwise."""
        self._taken.update(keys)

    def end(self) -> None:
        """Refuse unused weights: the network does more than is understood.

        Raises:
            ConversionError: there are some.
        """
        left = sorted(self._weights.keys() - self._taken)
        if left:
            raise ConversionError(
                f"The network has {len(left)} more weights than a {self._family} network "
                f"has, {left[0]!s:.60} for one; it is a variant that cannot be converted."
            )
