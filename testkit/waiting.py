"""Requests that wait for a job, seen from inside the server."""

from __future__ import annotations

import asyncio

from testkit.running import Server

SLOW = {"model_name": "realesrgan-x4plus", "scale": "4"}
"""Fields of a job that takes longer than a test waits."""


async def until_waited_for(server: Server, job_id: str, wanted: bool) -> None:
    """Wait until some request waits for the job in the server, or none does."""

    async def look() -> None:
        while (f"wait-{job_id}" in {task.get_name() for task in asyncio.all_tasks()}) is not wanted:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(asyncio.wrap_future(server.call(look())), 30)
