"""The room that a network has in a worker: what its weights take, and what is left for tiles."""

from __future__ import annotations

from upscaled.engines.crew import SMALLEST_TILE
from upscaled.engines.protocol import PADDING, ModelFiles

_MIB = 1 << 20
_BASE = 64 * _MIB
"""What a worker holds before its first network, with some air: measured 45."""
_WEIGHTS = 9.0
"""Bytes that a loaded network takes for each of its ``.bin``: 8.6 with x4plus, whose weights are
kept as Winograd transforms too."""
_LEAN_WEIGHTS = 2.5
"""The same without those: 2.2."""
_LEAN_APPETITE = 0.5
"""Of the memory a pixel, without the layers' workspaces: 0.38 with x4plus."""


class Room:
    """How a worker with a limit is furnished for a network: with all that is quick, or lean.

    Nothing in it depends on what is free at the moment, so a task done again is done alike.

    Args:
        model: the network.
        stored: bytes of its ``.bin``.
        limit: bytes that the process may hold.

    Raises:
        TooLittleError: the smallest tile does not fit.
    """

    def __init__(self, model: ModelFiles, stored: int, limit: int) -> None:
        self.lean = False
        self.weights = int(stored * _WEIGHTS)
        self.bytes_per_pixel = model.bytes_per_pixel
        smallest = (SMALLEST_TILE + 2 * PADDING) ** 2
        if _BASE + self.weights + smallest * self.bytes_per_pixel > limit:
            self.lean = True
            self.weights = int(stored * _LEAN_WEIGHTS)
            self.bytes_per_pixel = int(model.bytes_per_pixel * _LEAN_APPETITE)
        self.for_tiles = limit - _BASE - self.weights
        missing = smallest * self.bytes_per_pixel - self.for_tiles
        if missing > 0:
            raise TooLittleError(
                f"{model.stem} needs {(limit + missing) // _MIB + 1} MiB for its smallest tile; "
                f"the engine may hold {limit // _MIB}; raise upscaler.memory_limit_mb by "
                f"{missing // _MIB + 1} or more."
            )


class TooLittleError(Exception):
    """A network does not fit into the limit; the message is a sentence."""
