"""Keeps the log readable when no connection can be accepted for lack of descriptors or memory."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from upscaled.errors import is_shortage

log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0


class AcceptErrors:
    """An exception handler for the event loop.

    asyncio reports each connection that it can't accept, hundreds in a second, and tries again
    after a second by itself. One line a minute says as much.
    """

    def __init__(self) -> None:
        self._quiet_until = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report errors that asyncio could not pass to a caller."""
        error = context.get("exception")
        if "accept" not in str(context.get("message")) or not is_shortage(error):
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.warning(
                "connections can't be accepted now; they wait", extra={"reason": str(error)}
            )
