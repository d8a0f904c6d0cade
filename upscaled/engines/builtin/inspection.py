"""The dry run of a network inside the worker: what it really does, and what that takes."""

from __future__ import annotations

import numpy as np

from upscaled.engines import memory
from upscaled.engines.builtin.messages import Findings, NetworkFiles
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    LEAST_DB,
    Floats,
    InferenceError,
    Network,
    Pixels,
    decibels,
    to_bytes,
    without_margin,
)
from upscaled.engines.engine import PADDING

LARGEST_SCALE = 16

_SMALL = (33, 44)
"""Width and height of the first run: odd and even, and different, to tell the sides apart."""
_LARGE = (64, 64)
"""Of the second, which shows the appetite: enough for it, and quick."""
_MARGIN = 1.25
"""Larger tiles take up to an eighth more a pixel (docs/engines.md), and the heap frays."""


def inspect(files: NetworkFiles, *, threads: int) -> Findings:
    """Load a network on the CPU and run it: whole, and as tiles are run.

    Raises:
        InferenceError: kind ``bad_model`` with a sentence that says what is wrong.
    """
    whole = NcnnNetwork(files, device=None, threads=threads, padding=0)
    memory.reset_peak()
    before = memory.resident()
    name = files.param.name
    scale = _scale(_planes(whole, _SMALL, name), _SMALL, name)
    planes = _planes(whole, _LARGE, name)
    if _scale(planes, _LARGE, name) != scale:
        raise InferenceError("bad_model", f"{name} has no fixed scale.")
    width, height = _LARGE
    appetite = int((memory.peak() - before) * _MARGIN) // (width * height) + 1
    del whole  # both might be more than there is
    tiles = NcnnNetwork(files, device=None, threads=threads)
    expected, made = without_margin(planes, PADDING * scale), _planes(tiles, _LARGE, name)
    if made.shape != expected.shape or decibels(to_bytes(made), to_bytes(expected)) < LEAST_DB:
        raise InferenceError(
            "bad_model", f"{name} makes another picture of a tile where padding is left out."
        )
    return Findings(scale, appetite)


def _planes(network: Network, size: tuple[int, int], name: str) -> Floats:
    try:
        return network.run(slopes(*size))
    except InferenceError as error:
        raise InferenceError("bad_model", f"{name} can't be used: {error}") from None


def _scale(planes: Floats, size: tuple[int, int], name: str) -> int:
    width, height = size
    if planes.ndim != 3 or planes.shape[0] != 3:
        raise InferenceError(
            "bad_model", f"{name} returns {planes.shape} values for a colour picture, not RGB."
        )
    _, rows, columns = planes.shape
    scale = int(columns) // width
    if (columns, rows) != (width * scale, height * scale):
        raise InferenceError(
            "bad_model",
            f"{name} makes {columns}×{rows} of {width}×{height} pixels, not a whole multiple.",
        )
    if not 1 <= scale <= LARGEST_SCALE:
        raise InferenceError("bad_model", f"{name} has scale {scale}, not 1 to {LARGEST_SCALE}.")
    return scale


def slopes(width: int, height: int) -> Pixels:
    """Return a colourful slope, as plain as pictures can be."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
