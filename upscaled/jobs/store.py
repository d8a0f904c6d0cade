"""`JobStore`: the interface of a store of job records."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from upscaled.jobs.job import Job, JobState


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are wanted; None: whatever it is. Times are seconds since the epoch."""

    owner: str
    state: JobState | None = None
    model: str | None = None
    client_ref: str | None = None
    created_after: float | None = None
    created_before: float | None = None


class JobStore(Protocol):
    """Durable job records. A change has reached the disk when the call returns."""

    async def open(self) -> None:
        """Prepare the store; called once, before anything else."""
        ...

    async def close(self) -> None:
        """Finish pending work and close the files."""
        ...

    async def put(self, job: Job) -> None:
        """Insert the job, or replace the record with the same id."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return the job; None if there is no record of it."""
        ...

    async def in_states(self, states: Collection[JobState]) -> list[Job]:
        """Return all jobs in these states, oldest first."""
        ...

    async def finished_before(self, moment: float, *, with_result: bool) -> list[Job]:
        """Return jobs that ended before ``moment`` (seconds since the epoch), oldest first.

        ``with_result``: only jobs whose result still exists.
        """
        ...

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return the jobs that ``wanted`` matches, newest first, ``limit`` at most.

        ``after``: only jobs that come after this creation time and id in that order.
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Delete the job's record, if there is one."""
        ...
