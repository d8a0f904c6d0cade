"""Background work of a service, for as long as it is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from upscaled.errors import UpscaledError

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]
"""Begins what is to be done; it may be called again."""


_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


def run_in_background(
    closing: contextlib.AsyncExitStack, work: Work, name: str
) -> asyncio.Task[None]:
    """Keep ``work`` running until it returns or ``closing`` is closed."""
    task = asyncio.create_task(kept_running(work, name), name=name)
    closing.push_async_callback(end_task, task)
    return task


async def kept_running(work: Work, name: str) -> None:
    """Do ``work`` until it returns; if it fails, log that and begin it again.

    Nobody awaits such work, so nobody else would notice. The pauses in between grow while it fails
    soon after it began.
    """
    pause = _PAUSE_SECONDS
    while True:
        began = time.monotonic()
        try:
            return await work()
        except Exception:
            if time.monotonic() - began > _LONGEST_PAUSE_SECONDS:
                pause = _PAUSE_SECONDS
            log.exception("a task broke; it starts again", extra={"task": name, "in": pause})
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Tasks:
    """Tasks that nobody awaits one by one. The log tells of those that fail."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run ``work`` in a task of this name."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, UpscaledError):
            log.warning(error.message, extra={"task": task.get_name()})
        else:
            log.error("a task broke", extra={"task": task.get_name()}, exc_info=error)

    async def ended(self) -> None:
        """Wait until none runs."""
        while self._running:
            await asyncio.wait(self._running)
