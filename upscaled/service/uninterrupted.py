"""Uninterrupted: work that continues when its caller is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Value = TypeVar("_Value")


class Uninterrupted:
    """Runs work that must not stop half-way, such as deleting the files of a cancelled job.

    The work must not wait for `done`.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, _Value], name: str) -> _Value:
        """Do ``work`` to its end, even if the caller is cancelled meanwhile; return its value."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone

    async def done(self) -> None:
        """Wait until all work that has begun is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)
