"""The service of an API server: everything but the network, with the jobs of a whole cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from upscaled.cluster.admission import SharedAdmission
from upscaled.cluster.changes import JOBS, PROGRESS, Changes
from upscaled.cluster.cleanup import SharedCleaner
from upscaled.cluster.copies import Copies
from upscaled.cluster.health import WorkersHealth, WorkersReports
from upscaled.cluster.importing import check_no_records
from upscaled.cluster.job_access import SharedJobAccess
from upscaled.cluster.job_views import SharedJobViews
from upscaled.cluster.leadership import Leadership
from upscaled.cluster.link import Link
from upscaled.cluster.members import SERVER, Member, settings_of
from upscaled.cluster.membership import Membership
from upscaled.cluster.order import TagOrder
from upscaled.cluster.records import SharedJobStore
from upscaled.cluster.registry import SharedRegistry
from upscaled.cluster.rescue import Rescuer
from upscaled.cluster.runner import RemoteRunner
from upscaled.cluster.worker import ClusterWorker
from upscaled.cluster.workspace import SharedWorkspace
from upscaled.config.settings import Config
from upscaled.errors import StoreUnavailableError, UpscaledError
from upscaled.jobs.job import Job
from upscaled.jobs.order import Order
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_store import DELETIONS
from upscaled.service.background import Work, run_in_background
from upscaled.service.cleanup import Cleaner
from upscaled.service.health import Health, HealthState
from upscaled.service.job_access import JobAccess
from upscaled.service.job_storage import JobStorage
from upscaled.service.job_views import JobViews
from upscaled.service.processing import Processing
from upscaled.service.reports import Reports
from upscaled.service.runner import JobRunner, StartupRecovery
from upscaled.service.service import Service
from upscaled.webhooks.deliveries import Deliveries
from upscaled.webhooks.events import messages_of

_LISTENING_SECONDS = 15.0
_RATES_SECONDS = 30.0
"""As often as workers record them."""


class _NoRecovery:
    """Continues nothing at the start: workers do the jobs that earlier servers accepted."""

    async def begin(self) -> None: ...

    async def end(self) -> None: ...


class ClusterService(Service):
    """The service as an API server of a cluster.

    Args:
        config: the settings, with ``cluster.database_url`` and ``cluster.blobs``.
        works: the process does jobs too.
    """

    joins_identical = False
    measures_methods = False
    admission_type = SharedAdmission

    def __init__(self, config: Config, *, works: bool = False) -> None:
        self._link = link = Link(config)
        lease = config.cluster.lease_seconds
        self._files = SharedWorkspace(
            config.data_dir, link.blobs, keeps_uploads=config.features.web
        )
        self._records = SharedJobStore(
            link.database, messages_of, fair=config.limits.scheduling == "fair"
        )
        self._jobs = SharedRegistry(self._records)
        self._order = TagOrder()
        self._workers = WorkersHealth(link.database, link.blobs, lease)
        self._leadership = Leadership(link.database.url, self._duties, lease / 4)
        self._deliveries: Deliveries | None = None
        super().__init__(config, storage=JobStorage(self._files, self._records, self._jobs))
        self._membership = Membership(
            link.database,
            self._describe,
            lease,
            Rescuer(lease, config.upscaler.max_crashes, messages_of),
        )
        self._worker = self._make_worker() if works else None

    def _describe(self) -> Member:
        return Member.of_this_process(
            self._link.name, SERVER, settings=settings_of(self.config, SERVER)
        )

    def _make_worker(self) -> ClusterWorker:
        return ClusterWorker(
            self.config,
            self.config.data_dir / "work",
            f"{self._link.name}-worker",
            database=self._link.database,
            blobs=self._link.blobs,
            imaging=self._imaging,
            models=self.models,
        )

    async def start(self) -> None:
        """Join the cluster.

        Raises:
            ConfigError: something that the settings require is missing, or contradicts others.
            StoreUnavailableError: database or blobs don't answer.
        """
        await asyncio.to_thread(check_no_records, self.config.data_dir)
        await self._link.open()
        try:
            await super().start()
        except BaseException:
            await self._link.close()
            raise

    async def stop(self) -> None:
        await super().stop()
        await self._link.close()

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        await super().drain(hurry)
        if self._worker is not None:
            await self._worker.drain(hurry)

    def watch_health(self) -> None:
        super().watch_health()
        if self._worker is not None:
            self._worker.watch_health()

    async def health_known(self) -> HealthState:
        """Wait until the health of the workers is known, first that of this process's own."""
        if self._worker is not None:
            await self._worker.health_known()
            await self._workers.look()
        return await super().health_known()

    def _make_order(self) -> Order | None:
        return self._order

    def _make_runner(self, parts: Processing) -> tuple[JobRunner, StartupRecovery]:
        async def cost(job: Job) -> float:
            try:
                return (await parts.timing.waiting(job))[1].upscale
            except UpscaledError:
                return 1.0  # its model is gone, which a worker will report

        self._records.cost = cost
        self._slots = parts.timing.forecaster
        runner = RemoteRunner(
            self._jobs, self._files, parts.queue, self._order, parts.timing, parts.shared
        )
        return runner, _NoRecovery()

    def _make_health(self, parts: Processing) -> Health:
        return self._workers

    def _make_job_views(self) -> JobViews:
        copies = Copies(self._link.blobs, self.config.data_dir / "copies")
        return SharedJobViews(self._files, self.views, copies)

    def _make_cleaner(self, **parts: Any) -> Cleaner:
        return SharedCleaner(
            self._link.database, self._link.blobs, self.config.cluster.lease_seconds, **parts
        )

    def _make_jobs(self, **parts: Any) -> JobAccess:
        return SharedJobAccess(self._link.blobs, **parts)

    def _make_reports(self, **parts: Any) -> Reports:
        return WorkersReports(self._workers, **parts)

    def _run_deliveries(self, closing: contextlib.AsyncExitStack, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._jobs.watchers.append(self._note_messages)

    def _note_messages(self, job: Job, _tag: float) -> None:
        if self._deliveries is not None and self._leadership.leads:
            self._deliveries.notice(job)

    def _duties(self) -> list[tuple[str, Work]]:
        """Return the work that one server at a time does for all."""
        assert isinstance(self._cleaner, SharedCleaner)  # noqa: S101 - it made it
        duties: list[tuple[str, Work]] = [("shared cleanup", self._cleaner.lead)]
        if self._deliveries is not None:
            duties.append(("webhooks", self._deliveries.run))
        return duties

    async def _run_housework(self, closing: contextlib.AsyncExitStack) -> None:
        await self._files.sweep(())
        closing.push_async_callback(self._workers.close)
        await self._membership.join()
        closing.push_async_callback(self._membership.leave)
        self._membership.on_beat = self._count_slots
        run_in_background(closing, self._membership.run, "membership")
        listening = asyncio.Event()

        async def connected(connection: Connection) -> None:
            await self._jobs.catch_up(connection)
            listening.set()

        heard = {
            JOBS: self._jobs.heard,
            PROGRESS: self._jobs.heard_progress,
            DELETIONS: self._jobs.heard_deletion,
        }
        changes = Changes(self._link.database.url, heard, connected=connected)
        run_in_background(closing, changes.run, "changes")
        run_in_background(closing, self._jobs.follow, "followed jobs")
        try:
            async with asyncio.timeout(_LISTENING_SECONDS):
                await listening.wait()
        except TimeoutError:
            raise StoreUnavailableError(
                f"The server's database tells it nothing for {_LISTENING_SECONDS:.0f} s."
            ) from None
        run_in_background(closing, self._leadership.run, "leadership")
        run_in_background(closing, self._refresh_rates, "rates")
        run_in_background(closing, self._cleaner.run, "cleanup")
        if self._worker is not None:
            await self._worker.start()
            closing.push_async_callback(self._worker.stop)

    async def _refresh_rates(self) -> None:
        """Read the workers' measured times; runs until cancelled."""
        while True:
            await asyncio.sleep(_RATES_SECONDS)
            with contextlib.suppress(StoreUnavailableError):
                await self._running.timing.refresh()

    async def _count_slots(self) -> None:
        slots = sum(worker.slots for worker in self._membership.workers())
        self._slots.slots = max(1, slots)
