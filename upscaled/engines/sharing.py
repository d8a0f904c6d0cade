"""Tasks under way at once in one worker: what they take together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Sharing:
    """Keeps the tiles of several tasks within one room."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tasks = 0
        self._taken = 0

    @contextlib.contextmanager
    def taking(self, tiles: int, room: int) -> Iterator[bool]:
        """Take ``tiles`` bytes for the length of the block, as soon as ``room`` has them.

        A task alone gets them in any case. Yields whether it is.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks or self._taken + tiles <= room)
            alone = not self._tasks
            self._tasks += 1
            self._taken += tiles
        try:
            yield alone
        finally:
            with self._changed:
                self._tasks -= 1
                self._taken -= tiles
                self._changed.notify_all()
