"""A loaded network, independent of the library: a padded tile in, the enlarged tile out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.engine import TTA_RUNS

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

MIN_PSNR_DB = 50.0
"""Least peak signal-to-noise ratio between two ways of running the same network; the parity test
asks the same of this engine and the native program. The two libraries reach 92 dB or more with the
official networks (docs/engines.md)."""

_BLOCK = 64 * 1024
"""Floats that `to_bytes` converts at a time; they fit into the second-level cache."""


class InferenceError(Exception):
    """The network can't be loaded or run.

    Attributes:
        kind: ``bad_model``, ``failed`` or ``not_finite``; the message is a sentence.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Network(ABC):
    """A loaded network. `run` may be called by several threads at once."""

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
    def release_memory(self) -> bool:
        """Free the memory cached for tiles that are done.

        It is cached between tiles, since getting and clearing new pages costs up to a fifth of the
        time.

        Returns:
            True when nothing is cached except for running tiles.
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
        total /= TTA_RUNS
        return total


def crop_margin(planes: Floats, margin: int) -> Floats:
    """Return a view of planes (…, height, width) without ``margin`` pixels on each side."""
    if not margin:
        return planes
    height, width = planes.shape[-2:]
    return planes[..., margin : height - margin, margin : width - margin]


def check_finite(planes: Floats) -> None:
    """Raise an error for values that are not finite: they would become black or white pixels.

    Raises:
        InferenceError: a value is infinite or NaN (kind ``not_finite``), or there is no value
            (``failed``).
    """
    if not planes.size:
        raise InferenceError("failed", f"The network returned {planes.shape} values.")
    # An infinity or a NaN always shows in the minimum or the maximum.
    if not (np.isfinite(planes.min()) and np.isfinite(planes.max())):
        raise InferenceError("not_finite", "The network returned values that are not numbers.")


def psnr_db(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two pictures of one size; inf if they are equal."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else math.inf


def to_bytes(planes: Floats) -> Pixels:
    """Convert planes (channels, height, width) of 0…1 to (height, width, channels) bytes.

    Rounds half up, as the native programs do. Works in blocks of rows that stay in the cache: 8 ns
    a pixel, where whole planes take 70 ns.
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
