"""Deferred jobs: they wait outside the queue until the system has what they need."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from upscaled.errors import NoSpaceError
from upscaled.jobs.job import Job
from upscaled.jobs.workspace import UPLOAD, Workspace
from upscaled.service.disk_room import DiskRoom
from upscaled.service.outcomes import Outcomes

log = logging.getLogger(__name__)

_DISK_REFUSALS = 3
"""How often a job may meet a full disk although there is room: the cause is a quota, or a fault of
ours."""
_SYSTEM_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 60.0
"""Longest pause of a job between tries while the system is short of something."""


class DeferredJobs:
    """Jobs that wait for disk space or for the system, without turn and permit.

    An accepted job is delayed by a shortage and does not fail because of it.

    Args:
        workspace: the jobs' files.
        disk_room: tells when a job fits on the disk.
        outcomes: records that a job is queued again or has failed.
        queue_again: takes a job whose wait is over.
        gone: called with the id of a job that is not queued again.
    """

    def __init__(
        self,
        workspace: Workspace,
        disk_room: DiskRoom,
        outcomes: Outcomes,
        *,
        queue_again: Callable[[str], Awaitable[bool]],
        gone: Callable[[str], None],
    ) -> None:
        self._workspace = workspace
        self._disk_room = disk_room
        self._outcomes = outcomes
        self._queue_again = queue_again
        self._gone = gone
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refusals: dict[str, int] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, job_id: str) -> asyncio.Task[None] | None:
        """Return the task that waits for a job, if one does."""
        return self._tasks.get(job_id)

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._tasks.values())

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._refusals.pop(job_id, None)

    def until_room(self, job: Job, error: NoSpaceError) -> None:
        """Let a job that met a full disk wait until there is room for it."""
        self._start(job, functools.partial(self._wait_for_room, job, error))

    def until_retry(self, job: Job, reason: str) -> None:
        """Let a job wait while the system is short of something."""
        self._start(job, functools.partial(self._wait_for_system, job, reason))

    def _start(self, job: Job, wait: Callable[[], Awaitable[bool]]) -> None:
        task = asyncio.create_task(self._wait(job, wait), name=f"deferred-{job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id))

    async def _wait(self, job: Job, wait: Callable[[], Awaitable[bool]]) -> None:
        try:
            await self._outcomes.put_back(job.id)
            again = await wait()
        except Exception:
            log.exception("job met an unexpected error while it waited", extra={"job": job.id})
            await asyncio.sleep(_SYSTEM_RETRY_SECONDS)
            again = True
        if not (again and await self._queue_again(job.id)):
            self._gone(job.id)

    async def _wait_for_room(self, job: Job, error: NoSpaceError) -> bool:
        """Wait until the disk has room for a job that met a full one; False: it has failed."""
        log.warning(
            "job waits for room on the disk", extra={"job": job.id, "reason": error.message}
        )
        # Its files are deleted to make room.
        await self._workspace.keep_only(job.id, UPLOAD)
        if await self._disk_room.wait(job):
            self._refusals.pop(job.id, None)
            return True
        return await self._may_try_again(job, _DISK_REFUSALS, error.message)

    async def _wait_for_system(self, job: Job, reason: str) -> bool:
        """Wait while the system is short of something, longer each time; True: try again.

        However often that happens, it is not the picture's fault, and the job does not fail.
        """
        refusals = self._refusals[job.id] = self._refusals.get(job.id, 0) + 1
        pause = min(_LONGEST_RETRY_SECONDS, _SYSTEM_RETRY_SECONDS * 2 ** min(refusals - 1, 10))
        log.warning(
            "job waits for the system",
            extra={"job": job.id, "reason": reason, "seconds": pause},
        )
        await asyncio.sleep(pause)
        return True

    async def _may_try_again(self, job: Job, most: int, reason: str) -> bool:
        """Count a refusal without a visible cause; after too many the job fails."""
        self._refusals[job.id] = self._refusals.get(job.id, 0) + 1
        if self._refusals[job.id] < most:
            return True
        await self._outcomes.failed(job.id, reason)
        return False
