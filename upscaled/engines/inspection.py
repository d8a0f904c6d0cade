"""The dry run of a network inside the worker: what it really does, and what that takes."""

from __future__ import annotations

import numpy as np

from upscaled.engines import memory
from upscaled.engines.inference import InferenceError, Network, Pixels
from upscaled.engines.messages import Findings, NetworkFiles
from upscaled.engines.ncnn_network import NcnnNetwork

LARGEST_SCALE = 16

_SMALL = (33, 44)
"""Width and height of the first run: odd and even, and different, to tell the sides apart."""
_LARGE = (64, 64)
"""Of the second, which shows the appetite: enough for it, and quick."""
_MARGIN = 1.25
"""Larger tiles take up to an eighth more a pixel (docs/engines.md), and the heap frays."""


def inspect(files: NetworkFiles, *, threads: int) -> Findings:
    """Load a network on the CPU and run it twice.

    Raises:
        InferenceError: kind ``bad_model`` with a sentence that says what is wrong.
    """
    network = NcnnNetwork(files, device=None, threads=threads, padding=0)
    memory.reset_peak()
    before = memory.resident()
    scale = _scale(network, *_SMALL, files.param.name)
    if _scale(network, *_LARGE, files.param.name) != scale:
        raise InferenceError("bad_model", f"{files.param.name} has no fixed scale.")
    width, height = _LARGE
    return Findings(scale, int((memory.peak() - before) * _MARGIN) // (width * height) + 1)


def _scale(network: Network, width: int, height: int, name: str) -> int:
    try:
        planes = network.run(slopes(width, height))
    except InferenceError as error:
        raise InferenceError("bad_model", f"{name} can't be used: {error}") from None
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
