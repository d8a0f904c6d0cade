"""Background work of a service, for as long as it is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from upscaled.errors import UpscaledError

log = logging.getLogger(__name__)


def run_in_background(
    closing: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str
) -> asyncio.Task[None]:
    """Run ``work`` until ``closing`` is closed."""
    task = asyncio.create_task(work, name=name)
    closing.push_async_callback(end_task, task)
    return task


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
