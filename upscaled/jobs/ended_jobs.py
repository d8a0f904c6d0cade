"""Ended jobs: those kept in memory, their files to delete, and the deletion of their results."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from weakref import WeakValueDictionary

from upscaled.errors import UnknownJobError
from upscaled.jobs.job import Job
from upscaled.jobs.store import JobStore
from upscaled.jobs.updates import Updates

log = logging.getLogger(__name__)

NO_SUCH_JOB = "There is no job of this id; it may have been forgotten by now."
_REMEMBERED = 512
"""Ended jobs kept in memory; older ones are read from the store when they are requested. Reading
one takes two thread switches, more time than the rest of a status request."""
_UNTIDY = 1024
"""Ended jobs whose files must still be deleted. Any beyond this number are left to the next
start."""

Tidy = Callable[[], Awaitable[object]]
"""Deletes files that an ended job does not need."""


class EndedJobs:
    """The ended jobs of a registry.

    Args:
        store: has all of them.
        updates: tells that a result is gone.
        put: records a job, with the messages that its state calls for.
        deleted: called with each job whose record was deleted.
    """

    def __init__(
        self,
        store: JobStore,
        updates: Updates,
        put: Callable[[Job], Awaitable[None]],
        deleted: Callable[[Job], None],
    ) -> None:
        self._store = store
        self._updates = updates
        self._put = put
        self._deleted = deleted
        self._unrecorded: dict[str, Job] = {}
        self._untidy: OrderedDict[str, Tidy] = OrderedDict()
        self._ended: OrderedDict[str, Job] = OrderedDict()
        self._rewritten: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def peek(self, job_id: str) -> Job | None:
        """Return an ended job if it is in memory."""
        return self._unrecorded.get(job_id) or self._ended.get(job_id)

    def remember(self, job: Job) -> None:
        """Keep an ended job in memory, since its caller will ask for it soon."""
        self._ended[job.id] = job
        self._ended.move_to_end(job.id)
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    async def tidy(self, job_id: str, tidy: Tidy) -> None:
        """Delete files of an ended job; if that fails, `tidy_again` repeats it."""
        if not await _succeeds(tidy, job_id):
            self._untidy[job_id] = tidy
            if len(self._untidy) > _UNTIDY:
                self._untidy.popitem(last=False)

    async def tidy_again(self) -> None:
        """Retry deleting files of ended jobs."""
        for job_id, tidy in list(self._untidy.items()):
            if await _succeeds(tidy, job_id):
                self._untidy.pop(job_id, None)

    async def mark_result_gone(self, job: Job, why: str) -> Job:
        """Record that the result of a completed job was deleted, and why.

        Callers see it at once, even while the disk is too full to record it. The first reason is
        kept.

        Raises:
            UnknownJobError: the job was deleted meanwhile.
            NoSpaceError: the disk is full; `unrecorded` has the job until this is repeated.
        """
        async with self._rewriting(job.id):
            why = (
                self._unrecorded.setdefault(job.id, replace(job, result_gone=why)).result_gone
                or why
            )
            recorded = self._ended.get(job.id) or await self._store.get(job.id)
            if recorded is None or recorded.result_gone is not None:
                # Deleted, or marked by another caller, since it was looked up.
                del self._unrecorded[job.id]
                if recorded is None:
                    raise UnknownJobError(NO_SUCH_JOB)
                return recorded
            job = self._unrecorded[job.id] = replace(recorded, result_gone=why)
            await self._put(job)
            self.remember(job)
            self._unrecorded.pop(job.id, None)
            self._updates.tell(job)
            self._updates.forget(job.id)
        return job

    async def mark_delivered(self, job_id: str, moment: float) -> None:
        """Record when a proxy had received the whole result of a completed job.

        Raises:
            UnknownJobError: there is none of this id.
            NoSpaceError: it can't be recorded.
        """
        async with self._rewriting(job_id):
            found = self.peek(job_id) or await self._store.get(job_id)
            if found is None:
                raise UnknownJobError(NO_SUCH_JOB)
            job = replace(found, delivered=moment)
            if job.result_gone is None:
                await self._store.put(job)
                self.remember(job)

    async def forget(self, job: Job) -> None:
        """Delete an ended job's record."""
        async with self._rewriting(job.id):
            await self._store.delete(job.id)
            self._ended.pop(job.id, None)
            self._unrecorded.pop(job.id, None)
            self._untidy.pop(job.id, None)
        self._deleted(job)

    def drop(self, job_id: str) -> None:
        """Forget an ended job whose record was deleted."""
        self._ended.pop(job_id, None)

    def unrecorded(self, job_id: str) -> Job | None:
        """Return a job whose result is gone, if that could not be recorded yet."""
        return self._unrecorded.get(job_id)

    def all_unrecorded(self) -> list[Job]:
        """Return the jobs whose results are gone, but could not be recorded yet."""
        return list(self._unrecorded.values())

    def _rewriting(self, job_id: str) -> asyncio.Lock:
        """Return the lock for changes of an ended job's record. Without it, marking a result as
        gone would write a record again that is being deleted.
        """
        lock = self._rewritten.get(job_id)
        if lock is None:
            lock = self._rewritten[job_id] = asyncio.Lock()
        return lock


async def _succeeds(tidy: Tidy, job_id: str) -> bool:
    try:
        await tidy()
    except Exception as error:
        log.warning("job's files can't be tidied yet", extra={"job": job_id, "reason": str(error)})
        return False
    return True
