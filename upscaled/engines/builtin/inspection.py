"""The dry run of a network inside the worker: it measures the real scale and the memory."""

from __future__ import annotations

import numpy as np

from upscaled.engines import memory
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    MIN_PSNR_DB,
    Floats,
    InferenceError,
    Network,
    Pixels,
    crop_margin,
    psnr_db,
    to_bytes,
)
from upscaled.engines.builtin.protocol import Findings, NetworkFiles
from upscaled.engines.engine import PADDING

LARGEST_SCALE = 16

_SMALL = (33, 44)
"""Width and height of the first run: odd and even, and different, to tell the sides apart."""
_LARGE = (64, 64)
"""Width and height of the second run, which measures the memory; large enough, and fast."""
_MARGIN = 1.25
"""Reserve: larger tiles take up to an eighth more a pixel (docs/engines.md), and heaps fragment."""


def inspect(files: NetworkFiles, *, threads: int) -> Findings:
    """Load a network on the CPU and run it, with and without padding trim.

    Raises:
        InferenceError: kind ``bad_model`` with a sentence that says what is wrong with the network.
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
    bytes_per_pixel = int((memory.peak() - before) * _MARGIN) // (width * height) + 1
    del whole  # memory may not suffice for both
    tiles = NcnnNetwork(files, device=None, threads=threads)
    expected, made = crop_margin(planes, PADDING * scale), _planes(tiles, _LARGE, name)
    if made.shape != expected.shape or psnr_db(to_bytes(made), to_bytes(expected)) < MIN_PSNR_DB:
        raise InferenceError(
            "bad_model", f"{name} gives a different picture when padding is trimmed."
        )
    return Findings(scale, bytes_per_pixel)


def _planes(network: Network, size: tuple[int, int], name: str) -> Floats:
    try:
        return network.run(gradient(*size))
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
            f"{name} turns {width}×{height} into {columns}×{rows} pixels, not a whole multiple.",
        )
    if not 1 <= scale <= LARGEST_SCALE:
        raise InferenceError("bad_model", f"{name} has scale {scale}, not 1 to {LARGEST_SCALE}.")
    return scale


def gradient(width: int, height: int) -> Pixels:
    """Return a smooth gradient in three colours, (height, width, 3)."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
