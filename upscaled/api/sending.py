"""`Sending`: bounds how many pictures are in memory while they are sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from upscaled.errors import ViewPendingError

_MOST = 64
"""With tiles of at most 2 MiB, 128 MiB wait for callers who read slowly."""


class Sending:
    """Counts the responses that are being sent."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._count = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count a response for the length of the block.

        Raises:
            ViewPendingError: as many are being sent as may be.
        """
        if self._count >= self._most:
            raise ViewPendingError(
                "Too many tiles are being sent; try again in 1 s.", headers={"Retry-After": "1"}
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
