"""Progress between finished tiles, estimated by time, so that a person sees it move."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

TICK_SECONDS = 0.5
"""How often an estimate is reported."""
_LINEAR = 0.75
"""Part of a tile up to which its progress follows the clock; then it only approaches the end."""


class TileProgress:
    """Reports the share of a task that is done, also while a tile runs.

    Within a tile the share follows the expected time and never reaches the tile's end before the
    tile is done, however wrong the expectation is. It never decreases.

    Args:
        report: is called with the share, 0.0 to 1.0, in the event loop.
    """

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._shown = 0.0
        self._done = 0.0
        self._part = 0.0
        self._seconds = 0.0
        self._since = 0.0

    def step(self, done: float, part: float, seconds: float) -> None:
        """Report that ``done`` is finished, and estimate what follows from now on.

        Args:
            done: the share of the task that is finished.
            part: the share that the running tiles will add.
            seconds: how long they are expected to take.
        """
        self._done, self._part, self._seconds = done, part, max(seconds, 1e-3)
        self._since = self._loop.time()
        self._shown = max(self._shown, done)
        self._report(self._shown)
        if self._timer is None and part > 0:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def stop(self) -> None:
        """End the estimates; a later `step` starts again from 0."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shown = 0.0

    def _tick(self) -> None:
        elapsed = (self._loop.time() - self._since) / self._seconds
        self._shown = max(self._shown, self._done + self._part * eased(elapsed))
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._report(self._shown)


def eased(elapsed: float) -> float:
    """Return the estimated part of a tile that is done, below 1.

    Args:
        elapsed: time since the tile began, in units of the time that it is expected to take.
    """
    if elapsed <= _LINEAR:
        return elapsed
    rest = 1 - _LINEAR
    return min(1 - rest * math.exp(-(elapsed - _LINEAR) / rest), 0.999)
