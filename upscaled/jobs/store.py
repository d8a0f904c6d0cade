"""What keeps job records, whatever it is made of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from upscaled.jobs.job import Job, JobState


class JobStore(Protocol):
    """Durable job records. A call that returned has reached the disk."""

    async def open(self) -> None:
        """Make the store ready; called once, before everything else."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the files."""
        ...

    async def put(self, job: Job) -> None:
        """Insert the job, or replace the record with the same id."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return the job, None when there is no record of it."""
        ...

    async def in_states(self, states: Collection[JobState]) -> list[Job]:
        """Return all jobs in these states, oldest first."""
        ...

    async def finished_before(self, moment: float, *, with_result: bool) -> list[Job]:
        """Return jobs that ended before ``moment`` (seconds since the epoch), oldest first.

        ``with_result``: only those whose result is still there.
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Forget the job; nothing happens when there is no record of it."""
        ...
