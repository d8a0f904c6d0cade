"""Progress of the native program from the percentages that it prints."""

from __future__ import annotations

import time
from collections.abc import Callable

from upscaled.engines.tile_progress import TileProgress

_LAST_SHARE = 0.99
"""Progress when the program says 100 %; then its file is read."""


class LineProgress:
    """Progress of the program, which prints a percentage before each tile.

    Args:
        report: is called with the share that is done.
        tiles: how many there are; the program may choose others.
        seconds: how long the whole task is expected to take.
    """

    def __init__(
        self,
        report: Callable[[float], None],
        tiles: int,
        seconds: float,
    ) -> None:
        self._progress = TileProgress(report)
        self._part = 1 / tiles
        self._seconds = seconds
        self._began = time.monotonic()
        self._share = 0.0
        self.reached(0.0)

    def reached(self, share: float) -> None:
        """Take in the highest percentage that was printed, 0.0 to 1.0."""
        if share > self._share:
            self._part = share - self._share  # the program reports part of a tile
            self._seconds = (time.monotonic() - self._began) / share
            self._share = share
        done = min(self._share, _LAST_SHARE)
        part = min(self._part, _LAST_SHARE - done)
        self._progress.step(done, part, self._part * self._seconds)

    def stop(self) -> None:
        """End the estimates."""
        self._progress.stop()
