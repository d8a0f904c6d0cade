"""What a loaded network does, whichever library runs it: padded tile in, the tile's values out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LEAST_DB = 50.0
"""What two ways of running a network must agree to, as is asked of ours and the native program's.
With the official networks both libraries agree to 92 dB or more (docs/engines.md)."""

_BLOCK = 64 * 1024
"""Floats turned into bytes at a time: they and their bytes stay in the second-level cache."""


class InferenceError(Exception):
    """The network can't be loaded or run; ``kind`` is a name, the message a sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Network(ABC):
    """A loaded network. Several threads may run one at once."""

    @abstractmethod
    def run(self, pixels: Pixels) -> Floats:
        """Run the network on one padded tile, (height, width, 3) bytes of RGB.

        Returns:
            Planes of the tile without its padding, nominally 0 to 1: (3, (height - 2 × padding) ×
            scale, (width - 2 × padding) × scale).

        Raises:
            InferenceError: the network failed (kind ``failed``), or not all of its values are
                numbers (kind ``not_finite``).
        """

    @abstractmethod
    def rest(self) -> bool:
        """Let go of memory that tiles have taken; tell whether none is kept but for tiles in work.

        It is kept from tile to tile: to be handed and to clear pages anew costs up to a fifth of
        the time.
        """

    def run_averaged(self, pixels: Pixels) -> Floats:
        """Like `run`, averaged over the eight flips and rotations of the tile."""
        total: Floats | None = None
        for turns in range(4):
            for mirrored in (False, True):
                turned = np.rot90(pixels, turns)
                planes = self.run(turned[:, ::-1] if mirrored else turned)
                back = planes[:, :, ::-1] if mirrored else planes
                back = np.rot90(back, -turns, axes=(1, 2))
                if total is None:
                    total = back.copy()
                else:
                    total += back
        assert total is not None  # noqa: S101 - the loops run
        total /= 8
        return total


def without_margin(planes: Floats, margin: int) -> Floats:
    """Return a view of planes without ``margin`` pixels on each side."""
    if not margin:
        return planes
    height, width = planes.shape[-2:]
    return planes[..., margin : height - margin, margin : width - margin]


def check_finite(planes: Floats) -> None:
    """Refuse values that would become black or white pixels.

    Raises:
        InferenceError: not all are numbers (kind ``not_finite``), or there are none (``failed``).
    """
    if not planes.size:
        raise InferenceError("failed", f"The network returned {planes.shape} values.")
    # Infinities and NaN come through to the extremes.
    if not (np.isfinite(planes.min()) and np.isfinite(planes.max())):
        raise InferenceError("not_finite", "The network returned values that are not numbers.")


def decibels(one: Pixels, other: Pixels) -> float:
    """Return how alike two pictures of one size are: the peak signal-to-noise ratio."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else math.inf


def to_bytes(planes: Floats) -> Pixels:
    """Turn planes (channels, height, width) of 0…1 into interleaved bytes, rounding half up.

    That is the native programs' rounding. Done in blocks of rows that stay in the cache: 8 ns a
    pixel where whole planes take 70.
    """
    channels, height, width = planes.shape
    pixels = np.empty((height, width, channels), np.uint8)
    step = max(1, _BLOCK // width)
    block = np.empty((step, width), np.float32)
    for row in range(0, height, step):
        end = min(row + step, height)
        values = block[: end - row]
        for channel in range(channels):
            np.multiply(planes[channel, row:end], np.float32(255), out=values)
            values += np.float32(0.5)
            np.clip(values, 0, 255, out=values)
            pixels[row:end, :, channel] = values
    return pixels
