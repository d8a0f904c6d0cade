"""The queue of waiting jobs."""

from __future__ import annotations

import asyncio

from upscaled.jobs.order import Order, Waiting


class JobQueue:
    """Waiting jobs, taken in an `Order`. Their states are the registry's."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._filled = asyncio.Event()
        self.version = 0
        """Counts changes of the queue and of jobs taken from it, so that a forecast knows whether
        it is out of date."""
        self.changed = asyncio.Event()
        """Set by every change; the waiting task clears it."""

    def __len__(self) -> int:
        return len(self._order)

    def put(self, job: Waiting) -> None:
        self._order.put(job)
        self.touch()
        self._filled.set()

    def remove(self, job_id: str) -> bool:
        """Remove a job; return False if it is not in the queue."""
        self.touch()
        return self._order.remove(job_id)

    async def take(self) -> Waiting:
        """Wait for a job, then remove and return the next one."""
        while not len(self._order):
            self._filled.clear()
            await self._filled.wait()
        self.touch()
        return self._order.pop()

    def touch(self) -> None:
        """Count a change of this queue, or of the jobs taken from it."""
        self.version += 1
        self.changed.set()

    def head(self) -> Waiting | None:
        """Return the next job; None if no job is waiting."""
        return self._order.head()

    def ahead(self) -> list[Waiting]:
        """Return the waiting jobs in the order in which they would be taken."""
        return self._order.ahead()
