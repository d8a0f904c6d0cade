"""Background work of a service, for as long as it is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


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
