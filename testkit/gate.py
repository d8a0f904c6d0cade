"""A gate that a test opens for a waiting process: a named pipe with one byte in it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class Gate:
    """A named pipe; a process that calls `wait_at_gate` with its path waits until it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Open for both: neither end has to wait for the other, and the byte stays.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def open(self) -> None:
        """Let one waiting process continue; if none waits yet, the next one does not wait."""
        os.write(self._pipe, b".")

    def close(self) -> None:
        """Free the descriptor."""
        os.close(self._pipe)

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def wait_at_gate(path: str | Path) -> None:
    """Wait until the `Gate` at ``path`` is open."""
    with Path(path).open("rb", buffering=0) as pipe:
        pipe.read(1)
