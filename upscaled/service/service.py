"""The composition root: builds, starts and stops the parts in order, and gives access to them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled.config.settings import Config
from upscaled.engines.pool import EnginePool
from upscaled.engines.selection import EngineChoice
from upscaled.errors import ConfigError, NoArchivesError, UpscaledError
from upscaled.formats import INPUT_NAMES
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.order import Order
from upscaled.jobs.result_cache import ResultCache
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.outgoing.addresses import AddressRules
from upscaled.outgoing.client import OutgoingClient
from upscaled.service.admission import Admission
from upscaled.service.archives import Archives, make_archives
from upscaled.service.background import end_task, run_in_background
from upscaled.service.calibrator import make_calibrator
from upscaled.service.cleanup import Cleaner
from upscaled.service.health import Health, HealthState
from upscaled.service.idempotency import IdempotencyKeys
from upscaled.service.imaging_parts import make_imaging
from upscaled.service.job_access import JobAccess
from upscaled.service.job_storage import JobStorage, on_one_machine
from upscaled.service.job_views import JobViews
from upscaled.service.model_imports import ModelImports
from upscaled.service.positions import report_positions
from upscaled.service.previews import Previews
from upscaled.service.processing import Processing, make_dispatcher, open_processing
from upscaled.service.recovery import Recovery
from upscaled.service.reports import Reports
from upscaled.service.runner import JobRunner, StartupRecovery
from upscaled.service.sharing import SharedWork
from upscaled.service.submission import Submissions
from upscaled.service.uninterrupted import Uninterrupted
from upscaled.service.view_cache import ViewCache
from upscaled.timing.estimator import Estimate
from upscaled.timing.speeds import ModelSpeed, Speeds
from upscaled.timing.timing import JobTiming
from upscaled.webhooks.callbacks import Callbacks
from upscaled.webhooks.deliveries import Deliveries, make_deliveries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Started:
    """The parts that exist only after the engines are selected."""

    choice: EngineChoice
    submissions: Submissions
    runner: JobRunner
    recovery: StartupRecovery
    timing: JobTiming
    health: Health
    pool: EnginePool
    shared: SharedWork
    previews: Previews
    imports: ModelImports
    archives: Archives | None
    jobs: JobAccess
    reports: Reports
    deliveries: Deliveries | None


class Service:
    """Everything but the network: what the HTTP layer and the command line call.

    Args:
        config: the settings.
        models_cache: file with measurements of the models; None: the data folder's own.
        methods_file: measurements of the methods to run networks, to which none is added; None:
            the data folder's own, and more are measured while the service is idle.
        storage: where jobs are kept; None: on this machine.
        needs_default_model: False where every job names its model.
    """

    joins_identical = True
    """Whether a job may join an identical one where the settings allow it."""
    measures_methods = True
    """Whether methods to run networks are measured while the service is idle."""
    admission_type: type[Admission] = Admission

    def __init__(
        self,
        config: Config,
        *,
        models_cache: Path | None = None,
        methods_file: Path | None = None,
        storage: JobStorage | None = None,
        needs_default_model: bool = True,
    ) -> None:
        self.config = config
        self._needs_default_model = needs_default_model
        self._methods_file = methods_file
        self.models = ModelCatalog(
            config.models_dir,
            cache_file=models_cache or config.models_cache,
            commercial_only=config.upscaler.commercial_models_only,
        )
        kept = storage or on_one_machine(config)
        self._workspace, self._store, self._registry = kept.workspace, kept.store, kept.registry
        self._archive_store = kept.archives
        self.outgoing = OutgoingClient(AddressRules(config.outgoing.allow), config.outgoing.ports)
        self.result_cache = ResultCache(
            config.data_dir / "cache",
            config.storage.result_cache_mb << 20,
            config.storage.result_cache_hours * 3600,
        )
        limits = config.limits
        self._imaging = make_imaging(config)
        # Separate processes, so that viewing delays no jobs and uploads.
        self._looking = make_imaging(
            config, INPUT_NAMES, max(limits.max_input_megapixels, limits.max_output_megapixels)
        )
        self.views = ViewCache(
            self._looking,
            self._workspace,
            config.data_dir / "views",
            config.storage.view_cache_mb << 20,
        )
        self.job_views = self._make_job_views()
        self._cleaner = self._make_cleaner(
            store=self._store,
            registry=self._registry,
            workspace=self._workspace,
            cache=self.result_cache,
            result_ttl=config.storage.result_ttl_hours * 3600,
            record_ttl=config.storage.record_ttl_hours * 3600,
            grace=config.storage.grace_minutes * 60
            if config.storage.delete_after_download
            else None,
            views=self.views,
            job_views=self.job_views,
        )
        self._workspace.make_room = self._cleaner.make_room
        self._deletions = Uninterrupted()
        self._started: _Started | None = None
        self._closing = contextlib.AsyncExitStack()

    @property
    def _running(self) -> _Started:
        assert self._started is not None, "the service was not started"  # noqa: S101
        return self._started

    @property
    def choice(self) -> EngineChoice:
        """The selected engine and devices; available after `start`."""
        return self._running.choice

    @property
    def most_at_once(self) -> int:
        """How many jobs can be upscaled at the same time, all of them small."""
        return self._running.pool.most_at_once

    @property
    def submissions(self) -> Submissions:
        """Accepts pictures; available after `start`."""
        return self._running.submissions

    @property
    def previews(self) -> Previews:
        """Upscales parts of pictures; available after `start`."""
        return self._running.previews

    @property
    def imports(self) -> ModelImports:
        """Imports and deletes models; available after `start`."""
        return self._running.imports

    @property
    def archives(self) -> Archives:
        """Upscales the pages of archives; available after `start`.

        Raises:
            NoArchivesError: this server does not do so.
        """
        if self._running.archives is None:
            raise NoArchivesError(
                "This server does not take archives: it is one of a cluster; send the pages one by "
                "one to POST /upscale."
            )
        return self._running.archives

    @property
    def jobs(self) -> JobAccess:
        """Jobs as their callers use them; available after `start`."""
        return self._running.jobs

    @property
    def reports(self) -> Reports:
        """Health and figures; available after `start`."""
        return self._running.reports

    async def start(self) -> None:
        """Start everything, and queue the jobs that an earlier run left.

        Raises:
            ConfigError: something that the settings require is missing.
        """
        async with contextlib.AsyncExitStack() as closing:
            await self._open_storage(closing)
            parts = await open_processing(
                self.config,
                closing,
                models=self.models,
                imaging=self._imaging,
                workspace=self._workspace,
                registry=self._registry,
                rates=self._store,
                cache=self.result_cache,
                methods_file=self._methods_file,
                order=self._make_order(),
                joins=self.joins_identical and self.config.features.join_identical,
                needs_default_model=self._needs_default_model,
            )
            self._started = await self._build(parts)
            await self._begin(closing, self._started)
            await self._run_in_background(closing, parts, self._started)
            self._closing = closing.pop_all()

    async def _open_storage(self, closing: contextlib.AsyncExitStack) -> None:
        await self._workspace.open()
        closing.callback(self._workspace.close)
        await self._open_caches()
        closing.push_async_callback(self._looking.close)
        closing.push_async_callback(self.views.close)
        await self._store.open()
        closing.push_async_callback(self._store.close)
        closing.push_async_callback(self._deletions.done)
        closing.push_async_callback(self._imaging.close)

    async def _build(self, parts: Processing) -> _Started:
        """Return the parts around those that do jobs."""
        choice, pool, timing, shared = parts.choice, parts.pool, parts.timing, parts.shared
        runner, recovery = self._make_runner(parts)
        health = self._make_health(parts)
        admission = self._make_admission(choice)
        submissions = Submissions(
            self.config.limits,
            admission,
            self._workspace,
            self._registry,
            runner,
            timing,
            IdempotencyKeys(self._store),
            shared,
            upload_seconds=self.config.storage.upload_ttl_minutes * 60,
        )
        previews = Previews(
            self.config, self.models, self._looking, pool, self._workspace, parts.methods
        )
        imports = ModelImports(
            self.config,
            self.models,
            self._workspace,
            self._models_in_use,
        )
        await imports.open()
        jobs = self._make_jobs(
            registry=self._registry,
            store=self._store,
            workspace=self._workspace,
            cleaner=self._cleaner,
            dispatcher=runner,
            timing=timing,
            shared=shared,
            result_cache=self.result_cache,
            job_views=self.job_views,
            deletions=self._deletions,
        )
        archives = make_archives(
            self.config, self._archive_store, self._workspace, admission, submissions, jobs,
            self._registry, pool,
        )  # fmt: skip
        deliveries = make_deliveries(self.config, self._store, self.outgoing)
        reports = self._make_reports(
            gpu_ids=self.config.upscaler.gpu_ids,
            choice=choice,
            pool=pool,
            registry=self._registry,
            workspace=self._workspace,
            health=health,
            submissions=submissions,
            dispatcher=runner,
            cleaner=self._cleaner,
            shared=shared,
            result_cache=self.result_cache,
            verifications=parts.pipeline.verifications,
            webhooks=deliveries,
        )
        return _Started(
            choice, submissions, runner, recovery, timing, health, pool, shared,
            previews, imports, archives, jobs, reports, deliveries,
        )  # fmt: skip

    async def _begin(self, closing: contextlib.AsyncExitStack, started: _Started) -> None:
        """Continue what an earlier run left, then start jobs."""
        runner, archives, deliveries = started.runner, started.archives, started.deliveries
        if deliveries is not None:
            self._registry.on_messages = deliveries.notice
            if archives is not None:
                archives.tell_messages(deliveries.notice)
            self._run_deliveries(closing, deliveries)
        closing.push_async_callback(started.recovery.end)
        await started.recovery.begin()
        runner.start()
        closing.push_async_callback(self.drain)
        if archives is not None:
            closing.push_async_callback(archives.close)
            await archives.open()
            run_in_background(closing, archives.results.run, "archives")

    async def _run_in_background(
        self, closing: contextlib.AsyncExitStack, parts: Processing, started: _Started
    ) -> None:
        timing, shared, imports = parts.timing, parts.shared, started.imports
        submissions = started.submissions
        run_in_background(closing, timing.run, "timing")
        positions = functools.partial(
            report_positions,
            self._registry,
            parts.queue,
            lambda: shared.with_followers(timing.forecaster.positions()),
            timing.forecaster,
        )
        run_in_background(closing, positions, "positions")
        await self._log_speed(timing.speeds)
        await self._run_housework(closing)
        run_in_background(closing, submissions.resumable.run, "uploads")
        run_in_background(closing, imports.run, "model imports")
        if self.measures_methods and parts.methods.used and self._methods_file is None:
            calibrator = await make_calibrator(
                self.config, parts.choice, parts.methods, parts.pipeline, submissions,
                started.previews, imports, self._registry,
            )  # fmt: skip
            run_in_background(closing, calibrator.run, "calibration")

    def _models_in_use(self) -> set[str]:
        """Return the names of the models that unfinished work wants."""
        archives = self._running.archives
        wanted = set() if archives is None else archives.models_in_use
        return wanted | {job.request.model_name for job in self._registry.active()}

    # What differs between one machine and several; `upscaled.cluster.service` has the other way.

    def _make_order(self) -> Order | None:
        """Return the order of jobs; None: the one of the settings."""
        return None

    def _make_runner(self, parts: Processing) -> tuple[JobRunner, StartupRecovery]:
        """Return the runner of jobs, and what continues those of an earlier run."""
        dispatcher = make_dispatcher(self.config, parts, self._registry, self._workspace)
        recovery = Recovery(
            self._registry,
            self._store,
            self._workspace,
            self._cleaner,
            dispatcher,
            parts.shared,
            self.config.upscaler.max_crashes,
        )
        return dispatcher, recovery

    def _make_health(self, parts: Processing) -> Health:
        return parts.health

    def _make_admission(self, choice: EngineChoice) -> Admission:
        return self.admission_type(
            self.config,
            self.models,
            self._imaging,
            self._workspace,
            choice,
            Callbacks(self.config, self.outgoing, self._store),
        )

    def _make_job_views(self) -> JobViews:
        return JobViews(self._workspace, self.views)

    def _make_cleaner(self, **parts: Any) -> Cleaner:
        return Cleaner(**parts)

    def _make_jobs(self, **parts: Any) -> JobAccess:
        return JobAccess(**parts)

    def _make_reports(self, **parts: Any) -> Reports:
        return Reports(**parts)

    def _run_deliveries(self, closing: contextlib.AsyncExitStack, deliveries: Deliveries) -> None:
        run_in_background(closing, deliveries.run, "webhooks")

    async def _run_housework(self, closing: contextlib.AsyncExitStack) -> None:
        """Run what is done in the background until ``closing`` is closed."""
        run_in_background(closing, self._cleaner.run, "cleanup")

    async def _open_caches(self) -> None:
        for cache, what, folder in (
            (self.result_cache, "cached results", "cache"),
            (self.views, "views", "views"),
        ):
            try:
                await cache.open()
            except OSError as error:
                raise ConfigError(
                    f"The {what} in {self.config.data_dir / folder} can't be used "
                    f"({error.strerror}); delete that folder."
                ) from None

    @property
    def jobs_joined(self) -> int:
        """How many jobs joined an identical one since the start."""
        return self._running.shared.joined

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Accept nothing more; let running jobs finish for ``server.drain_seconds``.

        Args:
            hurry: ends that wait when it is set; the jobs resume at the next start.
        """
        running = self._running
        running.submissions.close()
        await running.recovery.end()  # first, so that no job ends while it is being put back
        await running.runner.stop(self.config.server.drain_seconds, hurry)

    @property
    def jobs_running(self) -> int:
        """Number of jobs being worked on."""
        return sum(job.state is JobState.PROCESSING for job in self._registry.active())

    async def stop(self) -> None:
        """Accept nothing more, let running jobs finish for ``server.drain_seconds``, end
        everything.
        """
        if self._started is not None:
            self._started.submissions.close()
        await self._closing.aclose()

    @property
    def alive(self) -> bool:
        """Whether jobs are being started, or are deliberately not started."""
        return self._running.runner.feeding or not self.submissions.open

    @property
    def waiting_for_disk(self) -> Mapping[str, int]:
        """The jobs that wait for room on the disk, with the bytes that each needs."""
        return self._running.runner.waiting_for_disk

    async def _log_speed(self, speeds: Speeds) -> None:
        """Say how quick the default model is here, and what is quicker."""
        name = self.config.upscaler.default_model
        model = next((model for model in self.models.models if model.name == name), None)
        advice = None if model is None else await speeds.advice(model)
        if advice is not None:
            log.info(advice)

    async def speed_of(self, model: Model) -> list[ModelSpeed]:
        """Return the speed of each network of a model on this machine.

        Raises:
            UnknownModelError: a file of it is gone.
        """
        return await self._running.timing.speeds.of(model)

    async def compare(self, job: Job) -> list[tuple[Model, Estimate]]:
        """Return what a planned job takes with each model that enlarges as far.

        Raises:
            UnknownModelError: its own model is gone.
        """
        return await self._running.timing.compare(job)

    def watch_health(self) -> None:
        """Start the self-tests; until the first has passed, `health` reports ``starting``."""
        watch = asyncio.create_task(self._watch(self._running.health), name="health")
        self._closing.push_async_callback(end_task, watch)

    async def _watch(self, health: Health) -> None:
        try:
            confinement = await self._imaging.warm()
        except UpscaledError as error:
            log.error("no decoder can be started", extra={"reason": error.message})
        except Exception:
            log.exception("the decoder's start ended unexpectedly")
        else:
            level = logging.WARNING if confinement.lacking else logging.INFO
            log.log(level, "Decoder's sandbox: %s.", confinement)
        await health.run()

    async def health_known(self) -> HealthState:
        """Wait for the end of the first self-test; return the state."""
        return await self._running.health.known()
