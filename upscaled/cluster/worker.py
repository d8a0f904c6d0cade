"""The worker of a cluster: takes jobs, does them in its own folder, and stores the results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from pathlib import Path

from upscaled.blobs.blobs import Blobs
from upscaled.cluster import keys, work_queue
from upscaled.cluster.band_sharing import BandSharing
from upscaled.cluster.hearing import Hearing
from upscaled.cluster.job_files import bring_upload
from upscaled.cluster.kept_bands import KeptBands
from upscaled.cluster.members import Member
from upscaled.cluster.membership import Membership
from upscaled.cluster.progress import report_progress
from upscaled.cluster.records import TAKEN, HeldJob, WorkerJobStore
from upscaled.cluster.rescue import Rescuer
from upscaled.cluster.work_queue import Lease
from upscaled.cluster.worker_facts import describe
from upscaled.config.settings import Config
from upscaled.engines.pixel_key import pixel_keys
from upscaled.errors import (
    NoSpaceError,
    StoreUnavailableError,
    UnknownJobError,
    UpscaledError,
    WrongStateError,
)
from upscaled.imaging import Imaging
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.results import result_name
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pipeline.result import IdentifiedModel
from upscaled.service.background import Tasks, run_in_background
from upscaled.service.dispatcher import Dispatcher
from upscaled.service.processing import Processing, make_dispatcher, open_processing
from upscaled.webhooks.events import messages_of

log = logging.getLogger(__name__)

_AHEAD = 1
"""Jobs that are fetched and decoded while the slots are taken; others could do them meanwhile."""
_IDLE_SECONDS = 5.0
"""Seconds after which the queue is checked without a notification."""
_AGAIN_SECONDS = 1.0


class ClusterWorker:
    """Does jobs of a cluster, as many at a time as its devices can.

    Its registry holds the jobs that it has; what changes there, `WorkerJobStore` records for the
    cluster.

    Args:
        config: the settings.
        data_dir: a folder of its own.
        name: its name among the members.
        database: opened.
        blobs: opened.
        imaging: decodes and encodes.
        models: the installed models.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        name: str,
        *,
        database: Database,
        blobs: Blobs,
        imaging: Imaging,
        models: ModelCatalog,
    ) -> None:
        self._config = config
        self._name = name
        self._database = database
        self._blobs = blobs
        self._imaging = imaging
        self._models = models
        self._parts: Processing | None = None
        self._dispatcher: Dispatcher | None = None
        self._workspace = Workspace(data_dir)
        self._bands = KeptBands(blobs, self._workspace, self._identify)
        self._store = WorkerJobStore(
            database,
            blobs,
            lambda job: self._workspace.folder(job.id) / result_name(job),
            messages_of,
            self._lose,
        )
        self._registry = JobRegistry(self._store)
        self._cache = ResultCache(data_dir / "cache", 0, 1.0)
        lease = config.cluster.lease_seconds
        self._news = asyncio.Event()
        self._sharing = BandSharing(
            database, blobs, self._workspace, imaging, models,
            worker=lambda: self.membership.worker, others=self._others, lease_of=self._lease_of,
            lease_seconds=lease, on_end=self._news.set,
        )  # fmt: skip
        self.membership = Membership(
            database,
            self._describe,
            lease,
            Rescuer(lease, config.upscaler.max_crashes, messages_of),
        )
        self.membership.on_beat = self._check_leases
        self._room = asyncio.Event()
        self._taking = False
        self._tasks = Tasks()
        self._closing = contextlib.AsyncExitStack()

    def _describe(self) -> Member:
        return describe(
            self._name, self._config, self._models, self._parts,
            jobs=tuple(self._store.held), helps=self._sharing.help.jobs,
            pixel_keys=self._sharing.pixel_keys, ended=dict(self._store.ended),
        )  # fmt: skip

    def _others(self) -> list[Member]:
        return [one for one in self.membership.workers() if one.id != self._name]

    def _lease_of(self, job_id: str) -> Lease | None:
        held_job = self._store.held.get(job_id)
        return None if held_job is None or held_job.lost else held_job.lease

    async def start(self) -> None:
        """Become a worker and take jobs.

        Raises:
            ConfigError: something that the settings require is missing, or contradicts others.
        """
        async with contextlib.AsyncExitStack() as closing:
            await self._workspace.open()
            closing.callback(self._workspace.close)
            await self._workspace.sweep(())  # others have the jobs of an earlier process by now
            await self._cache.open()
            self._parts = parts = await open_processing(
                self._config,
                closing,
                models=self._models,
                imaging=self._imaging,
                workspace=self._workspace,
                registry=self._registry,
                rates=self._store,
                cache=self._cache,
                on_checkpoint=self._bands.note,
                workers=self._sharing.lending,
            )
            self._bands.pixel_keys = await asyncio.to_thread(
                pixel_keys, parts.choice, parts.pool.places
            )
            self._sharing.open(parts, self._bands.pixel_keys)
            self._dispatcher = make_dispatcher(self._config, parts, self._registry, self._workspace)
            await self.membership.join()
            closing.push_async_callback(self.membership.leave)
            run_in_background(closing, self.membership.run(), "membership")
            hearing = Hearing(
                self._database.url,
                lambda: len(self.membership.workers()),
                work=self._hear_of_work,
                loss=self._hear_of_loss,
            )
            run_in_background(closing, hearing.run(), "hearing")
            run_in_background(closing, self._listen(), "ends")
            run_in_background(closing, report_progress(self._registry, self._database), "progress")
            run_in_background(closing, parts.timing.run(), "timing")
            run_in_background(closing, self.health_known(), "first health")
            closing.push_async_callback(self._give_all_back)
            self._dispatcher.start()
            closing.push_async_callback(self.drain)
            run_in_background(closing, self._take_jobs(), "work")
            self._closing = closing.pop_all()

    def watch_health(self) -> None:
        """Start the self-tests."""
        assert self._parts is not None  # noqa: S101 - it was started
        run_in_background(self._closing, self._parts.health.run(), "health")

    async def health_known(self) -> None:
        """Wait for the first self-test or picture, and until other members can know of it."""
        assert self._parts is not None  # noqa: S101 - it was started
        await self._parts.health.known()
        with contextlib.suppress(StoreUnavailableError):  # the next heartbeat reports it
            await self.membership.beat()

    async def stop(self) -> None:
        """Let running jobs finish for ``server.drain_seconds``, give the others back, and end."""
        await self._closing.aclose()

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Take no more jobs; let running ones finish for ``server.drain_seconds``."""
        self.membership.draining.set()
        self._news.set()
        self._room.set()
        await self._sharing.help.stop()
        assert self._dispatcher is not None  # noqa: S101 - it was started
        await self._dispatcher.stop(self._config.server.drain_seconds, hurry)

    async def drained(self) -> None:
        """Wait until the worker was asked to end and its jobs have ended."""
        await self.membership.draining.wait()
        self._news.set()
        self._room.set()
        while self._store.held or self._taking:
            self._room.clear()
            await self._room.wait()

    # --- taking jobs --------------------------------------------------------------------------

    def _hear_of_work(self, model: str | None) -> None:
        """Ask for a job if this worker has its model."""
        if model is None or any(known.name == model for known in self._models.models):
            self._news.set()

    def _hear_of_loss(self, job_id: str | None) -> None:
        """Look whether a job, or any, was cancelled or taken from this worker."""
        mine = {*self._store.held, *self._sharing.help.jobs}
        if mine if job_id is None else job_id in mine:
            self._tasks.start(self._check_leases(), "check")

    @property
    def _has_room(self) -> bool:
        assert self._parts is not None  # noqa: S101 - it was started
        pool = self._parts.pool
        # While others help with a large picture here, they can do the next job sooner.
        most = pool.slots if self._sharing.is_helped else pool.most_at_once + _AHEAD
        return len(self._store.held) < most

    async def _take_jobs(self) -> None:
        """Take jobs as long as there is room for them; runs until cancelled."""
        while True:
            while not self._has_room:
                self._room.clear()
                await self._room.wait()
            if self.membership.draining.is_set():
                return
            self._news.clear()
            self._taking = True
            try:
                taken = await self._take_one()
            except StoreUnavailableError:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except Exception:
                log.exception("No job can be taken; it is tried again.")
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            finally:
                self._taking = False
                self._room.set()
            if not taken:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_SECONDS):
                        await self._news.wait()
                        await asyncio.sleep(self.membership.turn())

    async def _take_one(self) -> bool:
        models = [model.name for model in self._models.models]
        worker = self.membership.worker
        lease = await self._database.run(lambda c: work_queue.take(c, worker, models))
        if lease is None:
            await self._sharing.help.look()
            return False
        self._store.held[lease.job.id] = HeldJob(lease)
        self._tasks.start(self._begin(lease), f"begin-{lease.job.id}")
        return True

    async def _begin(self, lease: Lease) -> None:
        """Fetch a job's upload, and start the job."""
        job = lease.job
        assert self._dispatcher is not None  # noqa: S101 - it was started
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
            await self._dispatcher.enqueue(job)
        else:
            await self._dispatcher.fail(job.id, problem)

    async def _with_bands(self, lease: Lease) -> Job:
        """Bring the bands of earlier leases; return the job, to go on with it."""
        advanced = await self._bands.begin(lease)
        if advanced == lease.before and lease.job.crashes:
            # As on one machine: the picture did not end the last worker, which finished bands.
            await self._store.forgive(lease)
            return replace(lease.job, crashes=0)
        return lease.job

    async def _identify(self, job: Job) -> IdentifiedModel:
        assert self._parts is not None  # noqa: S101 - it was started
        return await self._parts.pipeline.identify(job)

    # --- losing and ending them ---------------------------------------------------------------

    async def _listen(self) -> None:
        """Forget the jobs that have ended; runs until cancelled."""
        while True:
            async with self._registry.subscribe_all(states_only=True) as updates:
                async for update in updates:
                    if update.job.state in TERMINAL:
                        await self._forget(update.job.id, update.job.state)

    async def _forget(self, job_id: str, state: JobState) -> None:
        held_job = self._store.held.pop(job_id, None)
        await self._workspace.remove(job_id)
        if held_job is not None:
            ending = self._bands.end(held_job.lease, delete=not held_job.lost)
            self._tasks.start(ending, f"end-bands-{job_id}")
        keeps = self._config.features.web
        if held_job is not None and not held_job.lost and not keeps and state in TERMINAL:
            with contextlib.suppress(UpscaledError):
                await self._blobs.delete(keys.upload(job_id))
        self._room.set()

    def _lose(self, job_id: str) -> None:
        """End the work on a job that was cancelled or taken away."""
        self._tasks.start(self._end_work(job_id), f"lose-{job_id}")

    async def _end_work(self, job_id: str) -> None:
        assert self._dispatcher is not None  # noqa: S101 - it was started
        held_job = self._store.held.get(job_id)
        with contextlib.suppress(UnknownJobError, WrongStateError):
            await self._dispatcher.cancel(job_id)
        self._store.held.pop(job_id, None)
        self._room.set()
        if held_job is not None:
            # The server that cancelled it does not see a band that is being stored.
            with contextlib.suppress(StoreUnavailableError):
                job = await self._store.get(job_id)
                await self._bands.end(held_job.lease, delete=job is None or job.state in TERMINAL)

    async def _check_leases(self) -> None:
        """Find out which jobs were taken away, and which this worker has without knowing."""
        mine = {
            job_id: held_job.lease.number
            for job_id, held_job in self._store.held.items()
            if not held_job.lost
        }
        worker, taking = self.membership.worker, self._taking
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
                    self._lose(job_id)
        if not taking and not self._taking:
            for job_id, number in recorded:
                if job_id not in self._store.held:
                    await self._release(job_id, number)
        await self._sharing.help.check()

    async def _give_back(self, job_id: str) -> None:
        """Let another worker do a job that this one has not begun or can't do."""
        held_job = self._store.held.pop(job_id, None)
        if held_job is not None:
            await self._bands.end(held_job.lease, flush=True)
        await self._workspace.remove(job_id)
        self._room.set()
        if held_job is not None and not held_job.lost:
            await self._release(job_id, held_job.lease.number)

    async def _release(self, job_id: str, number: int) -> None:
        try:
            await self._database.run(
                lambda c: work_queue.end_lease(c, job_id, number), patience=2.0
            )
        except StoreUnavailableError:
            log.warning("job can't be given back; others notice", extra={"job": job_id})

    async def _give_all_back(self) -> None:
        await self._tasks.ended()
        await self._sharing.ended()
        for job_id in list(self._store.held):
            await self._give_back(job_id)
