"""The queue: jobs that wait, and waiting for one."""

from __future__ import annotations

import asyncio

from upscaled.jobs.order import Order, Waiting


class JobQueue:
    """Jobs that wait, given out in an `Order`. Knows no states; those are the book's."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._filled = asyncio.Event()
        self.version = 0
        """Counts the changes, so that a forecast knows whether it is still true."""

    def __len__(self) -> int:
        return len(self._order)

    def put(self, job: Waiting) -> None:
        """Add a job."""
        self._order.put(job)
        self.version += 1
        self._filled.set()

    def remove(self, job_id: str) -> bool:
        """Take a job out; False when it is not waiting here."""
        self.version += 1
        return self._order.remove(job_id)

    async def take(self) -> Waiting:
        """Wait for a job, take out the one that is next and return it."""
        while not len(self._order):
            self._filled.clear()
            await self._filled.wait()
        self.version += 1
        return self._order.pop()

    def head(self) -> Waiting | None:
        """Return the job that is next; None where none waits."""
        return self._order.head()

    def ahead(self) -> list[Waiting]:
        """Return the jobs that wait, in the order they would be taken."""
        return self._order.ahead()
