"""The queue: jobs that wait, and waiting for one of them."""

from __future__ import annotations

import asyncio

from upscaled.jobs.order import Order, Waiting


class JobQueue:
    """Jobs that wait, given out in an `Order`. Their states are the registry's."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._filled = asyncio.Event()
        self.version = 0
        """Counts changes of the queue and of what has left it, so that a forecast knows whether it
        is out of date."""
        self.changed = asyncio.Event()
        """Set by every change; whoever waits for it clears it."""

    def __len__(self) -> int:
        return len(self._order)

    def put(self, job: Waiting) -> None:
        """Add a job."""
        self._order.put(job)
        self.touch()
        self._filled.set()

    def remove(self, job_id: str) -> bool:
        """Take a job out; False when it is not waiting here."""
        self.touch()
        return self._order.remove(job_id)

    async def take(self) -> Waiting:
        """Wait for a job, take out the one that is next and return it."""
        while not len(self._order):
            self._filled.clear()
            await self._filled.wait()
        self.touch()
        return self._order.pop()

    def touch(self) -> None:
        """Count a change: of this queue, or of the jobs that were taken out of it."""
        self.version += 1
        self.changed.set()

    def head(self) -> Waiting | None:
        """Return the job that is next; None where none waits."""
        return self._order.head()

    def ahead(self) -> list[Waiting]:
        """Return the jobs that wait, in the order they would be taken."""
        return self._order.ahead()
