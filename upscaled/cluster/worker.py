"""The worker of a cluster: takes jobs, does them in its own folder, and stores the results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from upscaled.blobs.blobs import Blobs
from upscaled.cluster.band_sharing import BandSharing
from upscaled.cluster.hearing import Hearing
from upscaled.cluster.held_jobs import HeldJobs
from upscaled.cluster.intake import Intake
from upscaled.cluster.kept_bands import KeptBands
from upscaled.cluster.members import Member
from upscaled.cluster.membership import Membership
from upscaled.cluster.progress import report_progress
from upscaled.cluster.records import WorkerJobStore
from upscaled.cluster.rescue import Rescuer
from upscaled.cluster.worker_facts import describe
from upscaled.config.settings import Config
from upscaled.engines.pixel_key import pixel_keys
from upscaled.errors import StoreUnavailableError
from upscaled.imaging import Imaging
from upscaled.jobs.job import Job
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
        self._held = HeldJobs(
            database, blobs, self._workspace, self._store, self._registry, self._bands,
            keeps_uploads=config.features.web,
        )  # fmt: skip
        self._cache = ResultCache(data_dir / "cache", 0, 1.0)
        lease = config.cluster.lease_seconds
        self._sharing = BandSharing(
            database, blobs, self._workspace, imaging, models,
            worker=lambda: self.membership.worker, others=self._others,
            lease_of=self._held.lease_of, lease_seconds=lease, on_end=self._look,
        )  # fmt: skip
        self.membership = Membership(
            database,
            self._describe,
            lease,
            Rescuer(lease, config.upscaler.max_crashes, messages_of),
        )
        self.membership.on_beat = self._check_leases
        self._intake = Intake(
            database, models, self.membership, self._held, self._most_held,
            on_idle=self._sharing.help.look,
        )  # fmt: skip
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

    def _most_held(self) -> int:
        """Return how many jobs the worker may hold."""
        assert self._parts is not None  # noqa: S101 - it was started
        pool = self._parts.pool
        # While others help with a large picture here, they can do the next job sooner.
        return pool.slots if self._sharing.is_helped else pool.most_at_once + _AHEAD

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
            self._held.dispatcher = self._dispatcher
            if self._config.limits.scheduling == "fair":
                self._intake.prefer_loaded(parts.timing, parts.choice.traits.models_kept)
            await self.membership.join()
            closing.push_async_callback(self.membership.leave)
            run_in_background(closing, self.membership.run, "membership")
            hearing = Hearing(
                self._database.url,
                lambda: len(self.membership.workers()),
                work=self._intake.hear_of_work,
                loss=self._hear_of_loss,
            )
            run_in_background(closing, hearing.run, "hearing")
            run_in_background(closing, self._held.listen, "ends")
            run_in_background(closing, self._report_progress, "progress")
            run_in_background(closing, parts.timing.run, "timing")
            run_in_background(closing, self.health_known, "first health")
            closing.push_async_callback(self._give_all_back)
            self._dispatcher.start()
            closing.push_async_callback(self.drain)
            run_in_background(closing, self._intake.run, "work")
            self._closing = closing.pop_all()

    async def _report_progress(self) -> None:
        await report_progress(self._registry, self._database)

    def watch_health(self) -> None:
        """Start the self-tests."""
        assert self._parts is not None  # noqa: S101 - it was started
        run_in_background(self._closing, self._parts.health.run, "health")

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
        self._intake.wake()
        await self._sharing.help.stop()
        assert self._dispatcher is not None  # noqa: S101 - it was started
        await self._dispatcher.stop(self._config.server.drain_seconds, hurry)

    async def drained(self) -> None:
        """Wait until the worker was asked to end and its jobs have ended."""
        await self._intake.drained()

    def _look(self) -> None:
        """Look at the queue: a device is idle again."""
        self._intake.look()

    def _lose(self, job_id: str) -> None:
        """End the work on a job that was taken away."""
        self._held.lose(job_id)

    def _hear_of_loss(self, job_id: str | None) -> None:
        """Look whether a job, or any, was cancelled or taken from this worker."""
        mine = {*self._store.held, *self._sharing.help.jobs}
        if mine if job_id is None else job_id in mine:
            self._tasks.start(self._check_leases(), "check")

    async def _check_leases(self) -> None:
        """Find out which jobs and bands were taken away."""
        await self._held.check(self.membership.worker, lambda: self._intake.taking)
        await self._sharing.help.check()

    async def _identify(self, job: Job) -> IdentifiedModel:
        assert self._parts is not None  # noqa: S101 - it was started
        return await self._parts.pipeline.identify(job)

    async def _give_all_back(self) -> None:
        await self._tasks.ended()
        await self._held.settled()
        await self._sharing.ended()
        await self._held.give_all_back()
