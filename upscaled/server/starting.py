"""Starting a member of a cluster: while the stores do not answer it waits, for a bounded time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from upscaled.errors import StoreUnavailableError
from upscaled.server import sd_notify
from upscaled.server.stop import Stop

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 240.0
"""How long a start waits: less than TimeoutStartSec of the units, so that the error is told. Their
StartLimitBurst counts ends; a member that ended at once would not be started again after ten."""
_AGAIN_SECONDS = 2.0


class Starts(Protocol):
    """What can be started; after a failed start another one is made."""

    async def start(self) -> None: ...


S = TypeVar("S", bound=Starts)


async def started(make: Callable[[], S], stop: Stop) -> S | None:
    """Return what ``make`` returns once it is started; None if the stop is asked for meanwhile.

    Args:
        make: returns one that was not started yet; called again after a start that failed since
            database or blobs don't answer.
        stop: ends the wait.

    Raises:
        ConfigError: something the settings demand is not there, or contradicts others.
        StoreUnavailableError: database or blobs didn't answer for `_PATIENCE_SECONDS`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    while True:
        one = make()
        try:
            return one if await stop.unless_asked(one.start()) else None
        except StoreUnavailableError as error:
            left = deadline - loop.time()
            if left <= 0:
                raise
            log.warning(
                "The start waits for database and blobs, for up to %.0f s more: %s",
                left, error.message,
            )  # fmt: skip
            sd_notify.notify("STATUS=Waiting for database and blobs.")
        if not await stop.unless_asked(asyncio.sleep(_AGAIN_SECONDS)):
            return None
