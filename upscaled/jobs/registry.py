"""The book of jobs: those that are under way in memory, all of them in the store."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from upscaled.errors import UnknownJobError
from upscaled.jobs.job import ACTIVE, TERMINAL, Job, JobState, is_job_id
from upscaled.jobs.store import JobStore

log = logging.getLogger(__name__)

NO_SUCH_JOB = "There is no job of this id; it may have been forgotten by now."


_RECORD_AGAIN_SECONDS = 1.0
_REMEMBERED = 512
"""Ended jobs that are kept in memory; older ones are read from the store when they are asked for.
Reading one takes two changes of thread, more time than all else about a status request."""


class NotUnderWayError(Exception):
    """The job has ended, or is just being ended by somebody else."""


class JobRegistry:
    """The one place where a job's state changes.

    A change of state is decided in memory, at once and once (so that of a cancellation and a
    completion only one wins), and then written down. Progress is kept in memory only.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._active: dict[str, Job] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._recording: set[asyncio.Task[None]] = set()
        self._unrecorded: dict[str, Job] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._ended: OrderedDict[str, Job] = OrderedDict()

    async def load(self) -> list[Job]:
        """Take up the unfinished jobs of an earlier run; return them, oldest first."""
        jobs = await self._store.in_states(ACTIVE)
        self._active = {job.id: job for job in jobs}
        return jobs

    def count(self, state: JobState) -> int:
        """Return how many jobs under way are in ``state``."""
        return sum(job.state is state for job in self._active.values())

    def count_of(self, client: str) -> int:
        """Return how many jobs under way are ``client``'s."""
        return sum(job.client == client for job in self._active.values())

    def active(self) -> list[Job]:
        """Return the jobs under way, oldest first."""
        return sorted(self._active.values(), key=lambda job: job.created)

    async def add(self, job: Job) -> None:
        """Enter a new job; it is on the disk when this returns."""
        self._active[job.id] = job
        try:
            await self._store.put(job)
        except asyncio.CancelledError:
            # It may be written all the same, but nobody will be told of the job.
            self._active.pop(job.id, None)
            await asyncio.shield(self._store.delete(job.id))
            raise
        except BaseException:
            self._active.pop(job.id, None)
            raise

    async def get(self, job_id: str) -> Job:
        """Return the job.

        Raises:
            UnknownJobError: there is none of this id.
        """
        job = self._active.get(job_id) or self._unrecorded.get(job_id) or self._ended.get(job_id)
        if job is None and is_job_id(job_id):
            job = await self._store.get(job_id)
        if job is None:
            raise UnknownJobError(NO_SUCH_JOB)
        return job

    def peek(self, job_id: str) -> Job | None:
        """Return the job if it is under way, else None."""
        return self._active.get(job_id)

    async def advance(
        self,
        job_id: str,
        state: JobState,
        *,
        tidy: Callable[[], Awaitable[object]] | None = None,
        **changes: Any,
    ) -> Job:
        """Bring a job that is under way into its next state.

        An end is shown to callers only when it is on the disk; meanwhile nothing else may
        happen to the job. ``tidy`` cleans up after an end: when the end is on the disk, so that
        a crash loses nothing, and before it is shown. An end that was begun comes to its end even
        if the caller is cancelled.

        Raises:
            NotUnderWayError: it has ended, or is just being ended.
            ValueError: ``state`` cannot follow its present one.
        """
        before = self._active.get(job_id)
        if before is None or job_id in self._ending:
            raise NotUnderWayError(job_id)
        if state in TERMINAL:
            changes["client"] = ""  # counts no longer; an address is kept no longer than needed
        job = before.to(state, **changes)
        if state not in TERMINAL:
            self._active[job_id] = job
            await self._store.put(job)
            return job
        ending = asyncio.create_task(self._end(job, tidy), name=f"end-{job_id}")
        self._ending[job_id] = ending
        ending.add_done_callback(lambda _: self._ending.pop(job_id, None))
        await asyncio.shield(ending)
        return job

    def begin(self, job_id: str, **changes: Any) -> None:
        """Show a job that is under way as processing; its record follows by itself.

        Work does not wait for the disk here. Until the record is there, a moment later, a death of
        the server leaves a job that is queued and was never begun.

        Raises:
            NotUnderWayError: it has ended, or is just being ended.
            ValueError: it is not queued.
        """
        before = self._active.get(job_id)
        if before is None or job_id in self._ending:
            raise NotUnderWayError(job_id)
        self._active[job_id] = before.to(JobState.PROCESSING, **changes)
        recording = asyncio.create_task(self._record(job_id), name=f"record-{job_id}")
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)

    async def _record(self, job_id: str) -> None:
        """Write down that a job is processing, again and again until that is done or over."""
        while (
            (job := self._active.get(job_id)) is not None
            and job.state is JobState.PROCESSING
            and job_id not in self._ending
        ):
            try:
                await self._store.put(job)
            except Exception as error:  # most likely a full disk; whatever it is, work goes on
                log.error(
                    "job's beginning can't be recorded yet",
                    extra={"job": job_id, "reason": str(error)},
                )
                await asyncio.sleep(_RECORD_AGAIN_SECONDS)
            else:
                return

    async def _end(self, job: Job, tidy: Callable[[], Awaitable[object]] | None) -> None:
        await self._store.put(job)
        if tidy is not None:
            await tidy()
        del self._active[job.id]
        self._remember(job)
        if (end := self._ends.pop(job.id, None)) is not None:
            end.set()

    async def still_under_way(self, job_id: str) -> bool:
        """Wait for an end that somebody has begun; true when it failed, or there was none."""
        while (ending := self._ending.get(job_id)) is not None:
            await asyncio.wait([ending])
        return job_id in self._active

    async def ends_done(self) -> None:
        """Wait until all ends that were begun have come to their end; leave beginnings be."""
        for recording in self._recording:
            recording.cancel()
        while writing := {*self._ending.values(), *self._recording}:
            await asyncio.wait(writing)

    def amend(self, job_id: str, **changes: Any) -> None:
        """Change what a job under way shows beside its state; written with its next state."""
        if (job := self._active.get(job_id)) is not None:
            self._active[job_id] = replace(job, **changes)

    async def rewrite(self, job_id: str, **changes: Any) -> None:
        """Change what is recorded of a job under way beside its state; on the disk at once.

        Raises:
            NotUnderWayError: it has ended, or is just being ended.
        """
        if job_id not in self._active or job_id in self._ending:
            raise NotUnderWayError(job_id)
        self.amend(job_id, **changes)
        await self._store.put(self._active[job_id])

    def report_progress(self, job_id: str, percent: int) -> None:
        """Move a job's percentage up to ``percent``; it never goes back and stops at 99."""
        job = self._active.get(job_id)
        if job is not None and job.progress < percent:
            self._active[job_id] = replace(job, progress=min(percent, 99))

    def progress(self, job_id: str) -> int:
        """Return the percentage of a job under way; 0 for any other."""
        job = self._active.get(job_id)
        return job.progress if job is not None else 0

    async def settled(self, job_id: str) -> Job:
        """Wait until the job has ended and return it.

        Raises:
            UnknownJobError: there is none of this id.
        """
        while job_id in self._active:
            await self._ends.setdefault(job_id, asyncio.Event()).wait()
        return await self.get(job_id)

    async def mark_result_gone(self, job: Job, why: str) -> Job:
        """Record that the result of a completed job was deleted, and why.

        Callers are told so at once, even while the disk is too full to write it down.

        Raises:
            NoSpaceError: it is; `unrecorded` has the job until this is done again.
        """
        job = replace(job, result_gone=why)
        self._unrecorded[job.id] = job
        await self._store.put(job)
        self._remember(job)
        self._unrecorded.pop(job.id, None)
        return job

    async def forget(self, job_id: str) -> None:
        """Delete the record of a job that has ended."""
        self._ended.pop(job_id, None)
        await self._store.delete(job_id)

    def _remember(self, job: Job) -> None:
        """Keep what was just recorded of an ended job: its caller is about to ask for it."""
        self._ended[job.id] = job
        self._ended.move_to_end(job.id)
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def unrecorded(self) -> list[Job]:
        """Return jobs whose result is gone, which could not be recorded yet."""
        return list(self._unrecorded.values())
