"""The stop of a process: what SIGTERM and Ctrl-C ask for."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The first signal asks to stop, the second to stop at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def listen(self) -> None:
        """Begin to take signals."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self.signal)

    def ignore(self) -> None:
        """Take no more signals."""
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def signal(self) -> None:
        """Record a signal."""
        (self.at_once if self.asked.is_set() else self.asked).set()

    async def unless_asked(self, start: Coroutine[Any, Any, None]) -> bool:
        """Do what ``start`` does; give up and return False if the stop is asked for meanwhile."""
        starting = asyncio.create_task(start, name="start")
        asked = asyncio.create_task(self.asked.wait(), name="stop asked")
        try:
            await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            if not starting.done():
                log.info("Stopping.")
                starting.cancel()
                await asyncio.wait([starting])
        if starting.cancelled():
            return False
        await starting
        return True
