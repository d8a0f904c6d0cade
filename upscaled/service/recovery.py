"""Recovery: continues or deletes what an earlier run of the service left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection

from upscaled.jobs.job import Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.results import result_name
from upscaled.jobs.store import JobStore
from upscaled.jobs.workspace import Workspace
from upscaled.service.cleanup import Cleaner
from upscaled.service.dispatcher import Dispatcher
from upscaled.service.sharing import SharedWork, WorkGroup

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 30.0
"""How long the start waits until all interrupted jobs are queued; a full disk can delay some."""


class Recovery:
    """Queues the jobs of an earlier run again.

    Args:
        registry: where unfinished jobs are entered.
        store: holds finished ones.
        workspace: holds the files of both.
        cleaner: records results whose files are missing.
        dispatcher: runs the jobs.
        shared: knows which jobs do the same work.
        max_crashes: how often a job is started if the server dies during it.
    """

    def __init__(
        self,
        registry: JobRegistry,
        store: JobStore,
        workspace: Workspace,
        cleaner: Cleaner,
        dispatcher: Dispatcher,
        shared: SharedWork,
        max_crashes: int,
    ) -> None:
        self._registry = registry
        self._store = store
        self._workspace = workspace
        self._cleaner = cleaner
        self._dispatcher = dispatcher
        self._shared = shared
        self._max_crashes = max_crashes
        self._resuming: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Queue the jobs; those that a full disk delays follow in the background."""
        unfinished = await self._left_behind()
        self._resuming = asyncio.create_task(self._resume_all(unfinished), name="resume")
        await asyncio.wait([self._resuming], timeout=_PATIENCE_SECONDS)

    async def end(self) -> None:
        """Stop queueing jobs."""
        if self._resuming is not None:
            self._resuming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._resuming

    async def _left_behind(self) -> list[Job]:
        """Return the jobs that an earlier run left unfinished; delete files without a job."""
        unfinished = await self._registry.load()
        with_result = await self._store.finished_before(float("inf"), with_result=True)
        for job in with_result:
            if not await self._workspace.keep_result(job.id, result_name(job)):
                log.error("job's result is no longer on the disk", extra={"job": job.id})
                await self._cleaner.let_go(job, "lost")
            else:
                self._cleaner.resume_grace(job)
        known = {job.id for job in [*unfinished, *with_result]}
        known |= await self._kept_uploads(known)
        orphans = await self._workspace.sweep(known)
        if unfinished or orphans:
            log.info(
                "jobs of an earlier run taken up",
                extra={"unfinished": len(unfinished), "folders_deleted": orphans},
            )
        return unfinished

    async def _kept_uploads(self, known: Collection[str]) -> set[str]:
        """Return the other jobs whose upload stays: those that failed or were cancelled."""
        ended = []
        if self._workspace.keeps_uploads:
            for job_id in await self._workspace.with_uploads(known):
                job = await self._store.get(job_id)
                if job is not None and job.state in {JobState.FAILED, JobState.CANCELLED}:
                    ended.append((job.finished or 0.0, job_id))
        for moment, job_id in sorted(ended):
            await self._workspace.remove_work(job_id, moment)
        return {job_id for _, job_id in ended}

    async def _resume_all(self, jobs: list[Job]) -> None:
        """Queue jobs in parallel, since recording an end may wait for the disk.

        Of jobs with the same work, the one that has got furthest does it.
        """
        async with asyncio.TaskGroup() as tasks:
            for job in sorted(jobs, key=lambda job: job.state is not JobState.PROCESSING):
                key = await self._shared.key_of(job)
                group = None if key is None else self._shared.join(key, job.id)
                self._shared.recorded(job.id)
                tasks.create_task(self._resume(job, group), name=f"resume-{job.id}")

    async def _resume(self, job: Job, group: WorkGroup | None) -> None:
        followers = self._dispatcher.followers
        try:
            if group is not None and group.leader != job.id:
                followers.add(job, group)
            elif group is None or not await followers.complete_from_cache(job, group.key):
                await self._dispatcher.resume(job, self._max_crashes)
        except Exception:
            log.exception("job can't be taken up", extra={"job": job.id})
