"""The registry of an API server: every server of the cluster shows the same jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import msgspec

from upscaled import serial
from upscaled.cluster.changes import told_version
from upscaled.cluster.progress import JobProgress
from upscaled.cluster.records import SupersededError
from upscaled.errors import UnknownJobError, UpscaledError
from upscaled.jobs.ended_jobs import NO_SUCH_JOB, Tidy
from upscaled.jobs.job import ACTIVE, TERMINAL, Job, JobState, is_job_id
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_store import JobVersion, PostgresJobStore
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
_REVISIONS = 10_000
"""Jobs whose latest known revision is kept: a notification may be older than what was read."""


class _News(Enum):
    """What is known of a job's change where its record was not told."""

    CHANGED = 1
    DELETED = 2


class SharedRegistry(JobRegistry):
    """Shows the active jobs of the whole cluster, as workers and other servers record them.

    Requests for one job are answered from the database, so that each answer is at least as new as
    any answer that another server gave before. Listeners are told when notifications arrive;
    these carry the records, so that a change costs the database no read of any server.

    Args:
        store: the records.
    """

    def __init__(self, store: PostgresJobStore) -> None:
        super().__init__(store)
        self._records = store
        self.watchers: list[Callable[[Job, float], None]] = []
        """Called with each job that has changed, and its tag."""
        self._changed: dict[str, JobVersion | _News] = {}
        self._revisions: OrderedDict[str, int] = OrderedDict()
        self._news = asyncio.Event()

    def heard(self, payload: str) -> None:
        """Note a change of a job's record, as the database tells it."""
        try:
            job_id, version, deleted = told_version(payload)
        except ValueError:
            self._note(payload.partition(" ")[0], _News.CHANGED)  # of a later version
        else:
            self._note(job_id, version or (_News.DELETED if deleted else _News.CHANGED))

    def _note(self, job_id: str, news: JobVersion | _News) -> None:
        self._changed[job_id] = news
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

    def heard_deletion(self, payload: str) -> None:
        """Tell listeners of a job whose record a member deleted, perhaps this one."""
        try:
            job_id, owner = serial.decode(payload, tuple[str, str])
        except (ValueError, msgspec.ValidationError):
            return  # of a later version
        self._updates.tell_deleted(job_id, owner)

    def _deleted(self, job: Job) -> None:
        """Leave it to `heard_deletion`: the database tells all members, this one too."""

    async def catch_up(self, connection: Connection) -> None:
        """Read all active jobs, since notifications were missed."""
        found = await connection.execute(
            "SELECT id FROM jobs WHERE state IN ('queued', 'processing')"
        )
        for (job_id,) in await found.fetchall():
            self._note(job_id, _News.CHANGED)
        for job in self.active():
            self._note(job.id, _News.CHANGED)

    async def follow(self) -> None:
        """Take over what others record; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed, {}
            unread = [job_id for job_id, news in changed.items() if news is _News.CHANGED]
            for start in range(0, len(unread), _BATCH):
                some = unread[start : start + _BATCH]
                with contextlib.suppress(UpscaledError):  # they are read again
                    found = await self._records.versions(some)
                    changed.update((job_id, found.get(job_id, _News.DELETED)) for job_id in some)
            if early := self._take_over(changed):
                await asyncio.sleep(_BUSY_SECONDS)
                self._changed = early | self._changed  # what was heard meanwhile is newer
                self._news.set()

    def _take_over(
        self, changed: Mapping[str, JobVersion | _News]
    ) -> dict[str, JobVersion | _News]:
        """Take over what is known of changed jobs; return that for which it is too early."""
        early: dict[str, JobVersion | _News] = {}
        for job_id, news in changed.items():
            if self._is_busy(job_id) or news is _News.CHANGED:
                early[job_id] = news
            elif isinstance(news, JobVersion):
                self._learn(news)
            else:
                self._forget(job_id)
        return early

    def _is_busy(self, job_id: str) -> bool:
        return job_id in self._ending or job_id in self._untold

    def _forget(self, job_id: str) -> None:
        """Drop a job whose record was deleted."""
        job = self._active.get(job_id)
        self._drop(job_id)
        self.ended.drop(job_id)
        self._revisions.pop(job_id, None)
        if job is not None:
            self._updates.forget(job_id)
            self._tell_watchers(replace(job, state=JobState.CANCELLED), 0.0)

    def _learn(self, version: JobVersion) -> None:
        """Take over a job's record, unless a later one is known."""
        job = version.job
        if version.revision <= self._revisions.get(job.id, -1):
            return
        self._revisions[job.id] = version.revision
        self._revisions.move_to_end(job.id)
        if len(self._revisions) > _REVISIONS:
            self._revisions.popitem(last=False)
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
        self._tell_watchers(job, version.tag)

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
        found = (await self._records.versions([job_id])).get(job_id)
        if found is None:
            raise UnknownJobError(NO_SUCH_JOB)
        job = found.job
        if self._is_busy(job_id):
            return self._active.get(job_id) or job
        self._learn(found)
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
            self._note(job_id, _News.CHANGED)
            raise NotUnderWayError(job_id) from None
        return await self.get(job_id)

    @contextlib.asynccontextmanager
    async def subscribe_all(
        self,
        owner: str | None = None,
        *,
        states_only: bool = False,
        deletions: bool = False,
        after: int | None = None,
    ) -> AsyncIterator[Subscription]:
        # The number may be another server's: some changes are told again rather than left out.
        since = None if after is None else max(0, after - _SKEW_MICROSECONDS)
        async with super().subscribe_all(
            owner, states_only=states_only, deletions=deletions, after=since
        ) as subscription:
            yield subscription
