"""Progress on the command line: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

_BAR_WIDTH = 30
_LINE_STEP = 10
"""Percent between two plain lines."""


class ProgressBar:
    """Shows the percentage of one job on ``stream``."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream = stream
        self._label = "".join(c if c.isprintable() else "?" for c in label)
        self._on_terminal = stream.isatty()
        self._started = time.monotonic()
        self._last_line = -_LINE_STEP

    def show(self, percent: int) -> None:
        """Show ``percent``, 0 to 100."""
        if self._on_terminal:
            done = _BAR_WIDTH * percent // 100
            bar = "█" * done + "·" * (_BAR_WIDTH - done)
            seconds = time.monotonic() - self._started
            self._stream.write(f"\r{self._label} {bar} {percent:3d} %  {seconds:.0f} s\x1b[K")
            self._stream.flush()
        elif percent >= self._last_line + _LINE_STEP:
            self._last_line = percent - percent % _LINE_STEP
            self._stream.write(f"{self._label}: {percent} %\n")
            self._stream.flush()

    def close(self) -> None:
        """End the line of the bar."""
        if self._on_terminal:
            self._stream.write("\n")
            self._stream.flush()
