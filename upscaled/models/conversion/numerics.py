"""The few operations of these networks in numpy, by their definitions.

Conversions are compared with what they compute, so none of this is shared with the engines.
Planes are (channels, height, width).
"""

from __future__ import annotations

import numpy as np

from upscaled.models.conversion.layers import Floats


def convolution(planes: Floats, kernel: Floats, bias: Floats | None) -> Floats:
    """Return the planes convolved with (out, in, side, side), zeros around them, stride 1."""
    out, channels, side, _ = kernel.shape
    _, height, width = planes.shape
    pad = side // 2
    padded = np.pad(planes, ((0, 0), (pad, pad), (pad, pad)))
    result = np.zeros((out, height * width), np.float32)
    for row in range(side):
        for column in range(side):
            part = padded[:, row : row + height, column : column + width].reshape(channels, -1)
            result += kernel[:, :, row, column] @ part
    if bias is not None:
        result += bias[:, None]
    return result.reshape(out, height, width)


def leaky(planes: Floats, slope: float | Floats) -> Floats:
    """Return the planes with values below zero times ``slope``: one, or one a channel."""
    slopes = np.asarray(slope, np.float32).reshape(-1, 1, 1)
    return np.where(planes >= 0, planes, planes * slopes)


def sigmoid(planes: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return (1 / (1 + np.exp(-planes.astype(np.float64)))).astype(np.float32)


def nearest(planes: Floats, factor: int) -> Floats:
    """Return the planes with each value repeated ``factor`` times both ways."""
    return planes.repeat(factor, 1).repeat(factor, 2)


def shuffle(planes: Floats, factor: int) -> Floats:
    """Return channels c·f² + y·f + x as the pixels (y, x) of squares (PyTorch's PixelShuffle)."""
    channels, height, width = planes.shape
    groups = planes.reshape(channels // factor**2, factor, factor, height, width)
    moved = groups.transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(moved.reshape(-1, height * factor, width * factor))


def unshuffle(planes: Floats, factor: int) -> Floats:
    """Return the inverse of `shuffle`; both sides are multiples of ``factor``."""
    channels, height, width = planes.shape
    squares = planes.reshape(channels, height // factor, factor, width // factor, factor)
    moved = squares.transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(moved.reshape(-1, height // factor, width // factor))


def extended(planes: Floats, multiple: int) -> Floats:
    """Return the planes with sides that are multiples, extended by reflection."""
    _, height, width = planes.shape
    return np.pad(planes, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="reflect")
