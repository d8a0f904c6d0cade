"""The registry of an API server: every server of the cluster shows the same jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec

from upscaled import serial
from upscaled.cluster.progress import JobProgress
from upscaled.cluster.records import SupersededError
from upscaled.errors import UnknownJobError, UpscaledError
from upscaled.jobs.ended_jobs import NO_SUCH_JOB, Tidy
from upscaled.jobs.job import ACTIVE, TERMINAL, Job, JobState, is_job_id
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_store import PostgresJobStore
from upscaled.jobs.registry import JobRegistry, NotUnderWayError
from upscaled.jobs.store import JobFilter
from upscaled.jobs.updates import Subscription

log = logging.getLogger(__name__)

_BATCH = 500
"""Jobs that are read at a time."""
_BUSY_SECONDS = 0.02
"""Pause before a job is read again if this server is recording a change of it."""
_SKEW_MICROSECONDS = 5_000_000
"""How far the clocks of two servers may differ for a listener who changes between them."""


class SharedRegistry(JobRegistry):
    """Shows the active jobs of the whole cluster, as workers and other servers record them.

    Requests for one job are answered from the database, so that each answer is at least as new as
    any answer that another server gave before. Listeners are told when notifications arrive.

    Args:
        store: the records.
    """

    def __init__(self, store: PostgresJobStore) -> None:
        super().__init__(store)
        self._records = store
        self.watchers: list[Callable[[Job, float], None]] = []
        """Called with each job that has changed, and its tag."""
        self._changed: dict[str, None] = {}
        self._news = asyncio.Event()

    def heard(self, job_id: str) -> None:
        """Note that a job's record has changed."""
        self._changed[job_id] = None
        self._news.set()

    def heard_progress(self, payload: str) -> None:
        """Take over how far jobs are."""
        try:
            reports = serial.decode(payload, tuple[JobProgress, ...])
        except (ValueError, msgspec.ValidationError):
            return  # of a later version
        for report in reports:
            job = self.peek(report.job_id)
            if job is None or job.state is not JobState.PROCESSING:
                continue
            self.report_progress(report.job_id, report.percent)
            if report.stage is not None:
                self.report_stage(report.job_id, report.stage)

    async def catch_up(self, connection: Connection) -> None:
        """Read all active jobs, since notifications were missed."""
        found = await connection.execute(
            "SELECT id FROM jobs WHERE state IN ('queued', 'processing')"
        )
        for (job_id,) in await found.fetchall():
            self.heard(job_id)
        for job in self.active():
            self.heard(job.id)

    async def follow(self) -> None:
        """Take over what others record; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            changed = list(self._changed)[:_BATCH]
            for job_id in changed:
                del self._changed[job_id]
            if self._changed:
                self._news.set()
            try:
                busy = await self._take_over(changed)
            except UpscaledError:
                busy = changed
            if busy:
                await asyncio.sleep(_BUSY_SECONDS)
                for job_id in busy:
                    self.heard(job_id)

    async def _take_over(self, job_ids: list[str]) -> list[str]:
        """Read jobs and take them over; return those for which it is too early."""
        found = await self._records.with_tags(job_ids)
        busy = []
        for job_id in job_ids:
            if self._is_busy(job_id):
                busy.append(job_id)
            elif job_id in found:
                self._learn(*found[job_id])
            else:
                self._forget(job_id)
        return busy

    def _is_busy(self, job_id: str) -> bool:
        return job_id in self._ending or job_id in self._untold

    def _forget(self, job_id: str) -> None:
        """Drop a job whose record was deleted."""
        job = self._active.get(job_id)
        self._drop(job_id)
        self.ended.drop(job_id)
        if job is not None:
            self._updates.forget(job_id)
            self._tell_watchers(replace(job, state=JobState.CANCELLED), 0.0)

    def _learn(self, job: Job, tag: float) -> None:
        """Take over a job's record, unless a later one is known."""
        before, ended = self._active.get(job.id), self.ended.peek(job.id)
        if job.state in TERMINAL:
            if before is None and ended == job:
                return
            first = before is not None or (
                ended is None and job.result_gone is None and job.delivered is None
            )
            self._drop(job.id)
            self.ended.remember(job)
            self._updates.set_stage(job, None)
            self._updates.set_position(job, None)
            self._updates.tell(job, state=first)
            self._updates.forget(job.id)
        elif ended is not None or before == self._shown(job):
            return
        else:
            shown = self._shown(job)
            if before is None:
                self.arrivals.recover(job)
            self._active[job.id] = shown
            if before is None or before.state is not job.state:
                self._updates.set_stage(job, None)
                self._updates.set_position(job, None)
                self._updates.tell(shown, state=True)
            else:
                self._updates.tell(shown)
        self._tell_watchers(job, tag)

    def _tell_watchers(self, job: Job, tag: float) -> None:
        for watcher in self.watchers:
            watcher(job, tag)

    def _shown(self, job: Job) -> Job:
        """Return an active job with the progress that was reported."""
        known = self._active.get(job.id)
        if known is None or known.state is not job.state or job.state is JobState.QUEUED:
            return job
        return replace(job, progress=max(job.progress, known.progress))

    async def get(self, job_id: str) -> Job:
        if not is_job_id(job_id):
            raise UnknownJobError(NO_SUCH_JOB)
        found = (await self._records.with_tags([job_id])).get(job_id)
        if found is None:
            raise UnknownJobError(NO_SUCH_JOB)
        job, tag = found
        if self._is_busy(job_id):
            return self._active.get(job_id) or job
        self._learn(job, tag)
        return self._shown(job) if job.state in ACTIVE else job

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        found = await self._store.page(wanted, after, limit)
        return [self._shown(job) if job.state in ACTIVE else job for job in found]

    async def advance(
        self, job_id: str, state: JobState, *, tidy: Tidy | None = None, **changes: Any
    ) -> Job:
        """Bring a job into its next state, unless another member was first.

        Raises:
            NotUnderWayError: it has ended, or somebody else is ending it.
        """
        try:
            await super().advance(job_id, state, tidy=tidy, **changes)
        except SupersededError:
            self.heard(job_id)
            raise NotUnderWayError(job_id) from None
        return await self.get(job_id)

    @contextlib.asynccontextmanager
    async def subscribe_all(
        self, owner: str | None = None, *, states_only: bool = False, after: int | None = None
    ) -> AsyncIterator[Subscription]:
        # The number may be another server's: some changes are told again rather than left out.
        since = None if after is None else max(0, after - _SKEW_MICROSECONDS)
        async with super().subscribe_all(
            owner, states_only=states_only, after=since
        ) as subscription:
            yield subscription
