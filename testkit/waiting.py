"""Waiting for what has no event: files, processes, tasks of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from testkit.running import Server

T = TypeVar("T")

SLOW = {"model_name": "realesrgan-x4plus", "scale": "4"}
"""Fields of a job that takes longer than a test waits."""


async def until(condition: Callable[[], T], seconds: float = 30) -> T:
    """Wait until ``condition()`` is true and return its value. Only for what has no event.

    Raises:
        TimeoutError: it is not true after ``seconds``.
    """
    async with asyncio.timeout(seconds):
        while not (value := condition()):  # noqa: ASYNC110 - the one poll of the tests
            await asyncio.sleep(0.01)
    return value


async def settled() -> None:
    """Let every task run until it waits for something from outside."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until_in(server: Server, condition: Callable[[], T]) -> T:
    """Do the same in the server's own loop."""
    return await asyncio.wrap_future(server.call(until(condition)))


def tasks_named(prefix: str) -> list[str]:
    """Return the names of the running loop's tasks that begin with ``prefix``."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in names if name.startswith(prefix)]


async def until_waited_for(server: Server, job_id: str, wanted: bool) -> None:
    """Wait until some request waits for the job in the server, or none does."""
    await until_in(server, lambda: (f"wait-{job_id}" in tasks_named("wait-")) is wanted)
