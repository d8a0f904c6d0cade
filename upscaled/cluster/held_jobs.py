"""The jobs that a worker holds: it begins them, and lets go of those that end or are taken away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from upscaled.blobs.blobs import Blobs
from upscaled.cluster import keys, work_queue
from upscaled.cluster.job_files import bring_upload
from upscaled.cluster.kept_bands import KeptBands
from upscaled.cluster.records import TAKEN, HeldJob, WorkerJobStore
from upscaled.cluster.work_queue import Lease
from upscaled.errors import (
    NoSpaceError,
    StoreUnavailableError,
    UnknownJobError,
    UpscaledError,
    WrongStateError,
)
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.updates import LaggedError
from upscaled.jobs.workspace import Workspace
from upscaled.service.background import Tasks
from upscaled.service.dispatcher import INTERNAL_ERROR, Dispatcher

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


class HeldJobs:
    """Begins the jobs that a worker takes, and lets go of them.

    Args:
        database: where the records are.
        blobs: where uploads are.
        workspace: the worker's own.
        store: has the jobs that are held.
        registry: knows their states.
        bands: what is kept of unfinished jobs.
        keeps_uploads: an upload stays when its job ends, for the page.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        workspace: Workspace,
        store: WorkerJobStore,
        registry: JobRegistry,
        bands: KeptBands,
        *,
        keeps_uploads: bool,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workspace = workspace
        self._store = store
        self._registry = registry
        self._bands = bands
        self._keeps_uploads = keeps_uploads
        self.dispatcher: Dispatcher | None = None
        """Does the jobs; to be set before one is begun."""
        self.freed = asyncio.Event()
        """Set when a job is held no longer."""
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._store.held)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._store.held

    def lease_of(self, job_id: str) -> Lease | None:
        """Return the lease of a job; None if the worker does not have it."""
        held_job = self._store.held.get(job_id)
        return None if held_job is None or held_job.lost else held_job.lease

    def begin(self, lease: Lease) -> None:
        """Hold a job that was taken, and start it."""
        self._store.held[lease.job.id] = HeldJob(lease)
        self._tasks.start(self._begin_or_fail(lease), f"begin-{lease.job.id}")

    async def _begin_or_fail(self, lease: Lease) -> None:
        job = lease.job
        try:
            await self._begin(lease)
        except Exception:
            # Otherwise the job would be held, and be queued, as long as this worker lives.
            log.exception("job can't be begun", extra={"job": job.id})
            assert self.dispatcher is not None  # noqa: S101 - the worker was started
            if self._registry.peek(job.id) is None:
                self._registry.take_up(job)
            await self.dispatcher.fail(job.id, INTERNAL_ERROR)

    async def _begin(self, lease: Lease) -> None:
        """Fetch a job's upload, and start the job."""
        job = lease.job
        assert self.dispatcher is not None  # noqa: S101 - the worker was started
        try:
            problem = await bring_upload(self._blobs, self._workspace, job)
            job = await self._with_bands(lease) if problem is None else job
        except (StoreUnavailableError, NoSpaceError, OSError) as error:
            log.warning("job's files can't be read", extra={"job": job.id, "reason": str(error)})
            await asyncio.sleep(_AGAIN_SECONDS)
            await self._give_back(job.id)
            return
        if self._store.held[job.id].lost:
            await self._give_back(job.id)
            return
        self._registry.take_up(job)
        if problem is None:
            await self.dispatcher.enqueue(job)
        else:
            await self.dispatcher.fail(job.id, problem)

    async def _with_bands(self, lease: Lease) -> Job:
        """Bring the bands of earlier leases; return the job, to go on with it."""
        advanced = await self._bands.begin(lease)
        if advanced == lease.before and lease.job.crashes:
            # As on one machine: the picture did not end the last worker, which finished bands.
            await self._store.forgive(lease)
            return replace(lease.job, crashes=0)
        return lease.job

    async def listen(self) -> None:
        """Let go of jobs that have ended; runs until cancelled."""
        after: int | None = None
        while True:
            subscribed = self._registry.subscribe_all(states_only=True, after=after)
            with contextlib.suppress(LaggedError):
                async with subscribed as updates:
                    async for update in updates:
                        after = update.sequence
                        if update.job.state in TERMINAL:
                            await self._let_go(update.job.id, update.job.state)

    async def _let_go(self, job_id: str, state: JobState) -> None:
        # What one job leaves behind must not keep the worker from taking others.
        try:
            await self._forget(job_id, state)
        except Exception:
            log.exception("what a job left can't be deleted", extra={"job": job_id})
        self.freed.set()

    async def _forget(self, job_id: str, state: JobState) -> None:
        held_job = self._store.held.pop(job_id, None)
        await self._workspace.remove(job_id)
        if held_job is not None:
            ending = self._bands.end(held_job.lease, delete=not held_job.lost)
            self._tasks.start(ending, f"end-bands-{job_id}")
            if not held_job.lost and not self._keeps_uploads and state in TERMINAL:
                with contextlib.suppress(UpscaledError):
                    await self._blobs.delete(keys.upload(job_id))

    def lose(self, job_id: str) -> None:
        """End the work on a job that was cancelled or taken away."""
        self._tasks.start(self._end_work(job_id), f"lose-{job_id}")

    async def _end_work(self, job_id: str) -> None:
        assert self.dispatcher is not None  # noqa: S101 - the worker was started
        held_job = self._store.held.get(job_id)
        try:
            with contextlib.suppress(UnknownJobError, WrongStateError):
                await self.dispatcher.cancel(job_id)
        finally:
            self._store.held.pop(job_id, None)
            self.freed.set()
        if held_job is not None:
            # The server that cancelled it does not see a band that is being stored.
            with contextlib.suppress(StoreUnavailableError):
                job = await self._store.get(job_id)
                await self._bands.end(held_job.lease, delete=job is None or job.state in TERMINAL)
                await self._store.survived(held_job.lease)

    async def check(self, worker: int, is_taking: Callable[[], bool]) -> None:
        """Find out which jobs were taken away, and which the worker has without knowing.

        Args:
            worker: its number.
            is_taking: tells whether it takes a job at the moment.
        """
        mine = {
            job_id: held_job.lease.number
            for job_id, held_job in self._store.held.items()
            if not held_job.lost
        }
        taking = is_taking()
        held, others, recorded = await self._database.run(
            lambda c: work_queue.compare(c, worker, mine), patience=1.0
        )
        for job_id in mine.keys() - held:
            held_job = self._store.held.get(job_id)
            job = self._registry.peek(job_id)
            # If this worker is ending one, that transaction decides.
            if held_job is not None and not self._registry.is_ending(job_id):
                held_job.lost = True
                if job_id in others:
                    log.warning(TAKEN, extra={"job": job_id})
                if job is not None:
                    self.lose(job_id)
        if not taking and not is_taking():
            for job_id, number in recorded:
                if job_id not in self._store.held:
                    await self._release(job_id, number)

    async def _give_back(self, job_id: str) -> None:
        """Let another worker do a job that this one has not begun or can't do."""
        held_job = self._store.held.pop(job_id, None)
        if held_job is not None:
            await self._bands.end(held_job.lease, flush=True)
        await self._workspace.remove(job_id)
        self.freed.set()
        if held_job is None:
            return
        if not held_job.lost:
            await self._release(job_id, held_job.lease.number)
        else:
            with contextlib.suppress(StoreUnavailableError):
                await self._store.survived(held_job.lease)

    async def _release(self, job_id: str, number: int) -> None:
        try:
            await self._database.run(
                lambda c: work_queue.end_lease(c, job_id, number), patience=2.0
            )
        except StoreUnavailableError:
            log.warning("job can't be given back; others notice", extra={"job": job_id})

    async def settled(self) -> None:
        """Wait until no job is being begun or given up."""
        await self._tasks.ended()

    async def give_all_back(self) -> None:
        """Let other workers do all jobs that are still held."""
        for job_id in list(self._store.held):
            await self._give_back(job_id)
