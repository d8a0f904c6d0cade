"""Who is next: first come, first served."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class JobQueue:
    """Ids of the jobs that wait, oldest first. Knows ids only; states are the book's."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job_id: str) -> None:
        """Add a job at the end."""
        self._waiting[job_id] = None
        self._filled.set()

    def remove(self, job_id: str) -> bool:
        """Take a job out; False when it is not waiting here."""
        if job_id not in self._waiting:
            return False
        del self._waiting[job_id]
        if not self._waiting:
            self._filled.clear()
        return True

    async def take(self) -> str:
        """Wait for a job, take the oldest out and return its id."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        job_id, _ = self._waiting.popitem(last=False)
        return job_id
