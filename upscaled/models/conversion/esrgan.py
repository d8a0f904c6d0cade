"""ESRGAN networks (RRDB): recognised in each of their spellings, converted, run.

Definition: Wang et al. 2018, "ESRGAN", and Wang et al. 2021, "Real-ESRGAN" (pixel unshuffle).
Three spellings of the same weights are in use: ``model.1.sub.0.RDB1.conv1.0.weight`` (2018),
``RRDB_trunk.0.RDB1.conv1.weight`` (2019) and ``body.0.rdb1.conv1.weight`` (since 2021).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from upscaled.engines.builtin.graph import Layer
from upscaled.models.conversion import numerics
from upscaled.models.conversion.convolutions import Convolution, ConvolutionReader
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import INPUT, Floats, NetworkBuilder
from upscaled.models.conversion.tensors import Weights

_SLOPE = 0.2
_RESIDUAL = 0.2
"""Factor of both residuals: of a dense block, and of the block of three of them."""
_MOST_BLOCKS = 128
_BLOCK = re.compile(
    r"(?:model\.1\.sub|RRDB_trunk|body)\.(\d+)\.(?:RDB|rdb)([123])\.conv(\d|1x1)(?:\.0)?"
)

_NAMES = {"RRDB_trunk": ("conv_first", "trunk_conv", "upconv", "HRconv", "conv_last"),
          "body": ("conv_first", "conv_body", "conv_up", "conv_hr", "conv_last")}  # fmt: skip


@dataclass(frozen=True)
class _DenseBlock:
    """Five convolutions, each reading all before it; ESRGAN+ adds one of 1×1."""

    convolutions: tuple[Convolution, ...]
    shortcut: Convolution | None


@dataclass(frozen=True)
class EsrganNetwork:
    """A network of residual dense blocks."""

    first: Convolution
    blocks: tuple[tuple[_DenseBlock, ...], ...]
    trunk: Convolution
    ups: tuple[Convolution, ...]
    high: Convolution
    last: Convolution
    multiple: int

    architecture = "ESRGAN"

    @property
    def scale(self) -> int:
        """Each upsampling doubles, and the unshuffle halves."""
        return int(2 ** len(self.ups) // self.multiple)

    @property
    def size(self) -> str:
        """Features and blocks."""
        return f"{self.first.kernel.shape[0]} features, {len(self.blocks)} blocks"

    def layers(self) -> tuple[Layer, ...]:
        """Return it as ncnn layers."""
        net = NetworkBuilder()

        def convolved(blob: str, by: Convolution, slope: float | None = None) -> str:
            return net.convolution(blob, by.kernel, by.bias, slope=slope)

        start = INPUT if self.multiple == 1 else net.unshuffle(INPUT, self.multiple)
        first = convolved(start, self.first)
        blob = first
        for block in self.blocks:
            entry = blob
            for dense in block:
                blob = self._dense_layers(net, blob, dense)
            blob = net.weighted_sum(blob, _RESIDUAL, entry)
        blob = net.add(first, convolved(blob, self.trunk))
        for up in self.ups:
            blob = convolved(net.nearest(blob, 2), up, _SLOPE)
        blob = convolved(convolved(blob, self.high, _SLOPE), self.last)
        if self.multiple > 1:
            like = INPUT if self.scale == 1 else net.nearest(INPUT, self.scale)
            blob = net.cropped_to(blob, like)
        return net.finished(blob)

    def _dense_layers(self, net: NetworkBuilder, entry: str, dense: _DenseBlock) -> str:
        parts, shortcut = [entry], ""
        *inner, final = dense.convolutions
        for number, one in enumerate(inner, 1):
            blob = net.convolution(
                net.concat(parts) if len(parts) > 1 else entry, one.kernel, one.bias, slope=_SLOPE
            )
            if dense.shortcut is not None and number == 2:
                short = net.convolution(entry, dense.shortcut.kernel, dense.shortcut.bias)
                blob = shortcut = net.add(blob, short)
            elif dense.shortcut is not None and number == 4:
                blob = net.add(blob, shortcut)
            parts.append(blob)
        made = net.convolution(net.concat(parts), final.kernel, final.bias)
        return net.weighted_sum(made, _RESIDUAL, entry)

    def run(self, picture: Floats) -> Floats:
        """Return its output by the definition; see `SourceNetwork.run`."""
        _, height, width = picture.shape
        start = picture
        if self.multiple > 1:
            start = numerics.unshuffle(numerics.extended(picture, self.multiple), self.multiple)
        first = self.first.run(start)
        planes = first
        for block in self.blocks:
            entry = planes
            for dense in block:
                planes = _run_dense(planes, dense)
            planes = planes * _RESIDUAL + entry
        planes = first + self.trunk.run(planes)
        for up in self.ups:
            planes = numerics.leaky(up.run(numerics.nearest(planes, 2)), _SLOPE)
        planes = self.last.run(numerics.leaky(self.high.run(planes), _SLOPE))
        return planes[:, : height * self.scale, : width * self.scale]


def _run_dense(entry: Floats, dense: _DenseBlock) -> Floats:
    parts: list[Any] = [entry]
    *inner, final = dense.convolutions
    for number, one in enumerate(inner, 1):
        made = numerics.leaky(one.run(np.concatenate(parts)), _SLOPE)
        if dense.shortcut is not None and number == 2:
            made = made + dense.shortcut.run(entry)
        elif dense.shortcut is not None and number == 4:
            made = made + parts[2]
        parts.append(made)
    return final.run(np.concatenate(parts)) * _RESIDUAL + entry


def recognise(weights: Weights) -> EsrganNetwork | None:
    """Return the network that the weights are of; None where they are of another family.

    Raises:
        ConversionError: it is an ESRGAN that cannot be converted.
    """
    matches = [match for key in weights if (match := _BLOCK.match(key))]
    if not matches:
        return None
    read = ConvolutionReader(weights, "ESRGAN")
    style = matches[0].group().split(".")[0]
    if style == "model":
        first, trunk, ups, high, last = _sequential(weights, read)
    else:
        names = _NAMES[style]
        count = 0
        while f"{names[2]}{count + 1}.weight" in weights:
            count += 1
        first, trunk, high, last = (read.convolution(names[i]) for i in (0, 1, 3, 4))
        ups = tuple(read.convolution(f"{names[2]}{number + 1}") for number in range(count))
    blocks = _blocks(weights, read, style)
    read.end()
    channels, out = first.kernel.shape[1], last.kernel.shape[0]
    multiple = math.isqrt(channels // 3)
    if out != 3 or 3 * multiple**2 != channels or multiple not in {1, 2, 4}:
        raise ConversionError(
            f"The network takes {channels} channels and makes {out}; only networks for colour "
            "pictures (RGB) can be used."
        )
    if 2 ** len(ups) < multiple or len(ups) > 3:
        raise ConversionError(f"The network enlarges {2 ** len(ups)}/{multiple} times.")
    return EsrganNetwork(first, blocks, trunk, ups, high, last, multiple)


def _sequential(weights: Weights, read: ConvolutionReader) -> tuple[Any, ...]:
    """Return the parts of a network in the spelling of 2018, which numbers its layers."""
    numbers = sorted(
        int(match[1]) for key in weights if (match := re.fullmatch(r"model\.(\d+)\.weight", key))
    )
    trunks = [
        int(match[1])
        for key in weights
        if (match := re.fullmatch(r"model\.1\.sub\.(\d+)\.weight", key))
    ]
    if len(numbers) < 3 or numbers[0] != 0 or len(trunks) != 1:
        raise ConversionError("The network's layers are not those of an ESRGAN.")
    first, *ups, high, last = (read.convolution(f"model.{number}") for number in numbers)
    return first, read.convolution(f"model.1.sub.{trunks[0]}"), tuple(ups), high, last


def _blocks(
    weights: Weights, read: ConvolutionReader, style: str
) -> tuple[tuple[_DenseBlock, ...], ...]:
    root = {"model": "model.1.sub"}.get(style, style)
    dense, end = ("rdb", "") if style == "body" else ("RDB", ".0" if style == "model" else "")
    count = 0
    while f"{root}.{count}.{dense}1.conv1{end}.weight" in weights:
        count += 1
        if count > _MOST_BLOCKS:
            raise ConversionError(f"The network has more than {_MOST_BLOCKS} blocks.")
    return tuple(
        tuple(
            _DenseBlock(
                tuple(
                    read.convolution(f"{root}.{block}.{dense}{part}.conv{number}{end}")
                    for number in range(1, 6)
                ),
                read.optional(f"{root}.{block}.{dense}{part}.conv1x1"),
            )
            for part in (1, 2, 3)
        )
        for block in range(count)
    )
