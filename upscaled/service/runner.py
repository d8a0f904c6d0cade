"""`JobRunner`: the interface of what does accepted jobs, here or on other machines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from upscaled.imaging import Prepared
from upscaled.jobs.job import Job
from upscaled.service.sharing import WorkGroup


class JobRunner(Protocol):
    """Does the registry's jobs, or lets other machines do them."""

    async def enqueue(self, job: Job, prepared: Prepared | None = None) -> None:
        """Let a job be done.

        Args:
            job: the job.
            prepared: its picture, if it is decoded already.
        """
        ...

    def follow(self, job: Job, group: WorkGroup) -> None:
        """Give a job the result of its group's leader."""
        ...

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job.

        Raises:
            UnknownJobError: there is none of this id.
            WrongStateError: it has ended already.
        """
        ...

    @property
    def feeding(self) -> bool:
        """Whether queued jobs are being started."""
        ...

    @property
    def waiting_for_disk(self) -> Mapping[str, int]:
        """The jobs that wait for room on the disk, with the bytes that each needs."""
        ...

    def start(self) -> None:
        """Begin to do jobs."""
        ...

    async def stop(self, drain_seconds: float = 0.0, hurry: asyncio.Event | None = None) -> None:
        """Begin no more jobs; wait for those that run.

        Args:
            drain_seconds: how long they may take to finish.
            hurry: ends that wait when it is set.
        """
        ...


class StartupRecovery(Protocol):
    """Continues the jobs that an earlier run of the service left."""

    async def begin(self) -> None: ...

    async def end(self) -> None: ...
