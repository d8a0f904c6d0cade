"""The composition root: builds the parts in order, starts and stops them, and fronts for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled.config.settings import Config
from upscaled.engines.pool import EnginePool
from upscaled.engines.selection import (
    EngineChoice,
    choose,
    make_pool,
    open_ways,
    worker_memory_mb,
)
from upscaled.errors import (
    ConfigError,
    UpscaledError,
)
from upscaled.formats import INPUT_NAMES
from upscaled.imaging import Imaging
from upscaled.jobs.job import JobState
from upscaled.jobs.order import make_order
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.outgoing.addresses import AddressRules
from upscaled.outgoing.client import OutgoingClient
from upscaled.pipeline.footprint import TimeLimit
from upscaled.pipeline.pipeline import Pipeline
from upscaled.service.admission import Admission
from upscaled.service.calibrator import make_calibrator
from upscaled.service.cleanup import Cleaner
from upscaled.service.dispatcher import Dispatcher
from upscaled.service.health import Health, HealthState
from upscaled.service.idempotency import IdempotencyKeys
from upscaled.service.job_access import JobAccess
from upscaled.service.job_views import JobViews
from upscaled.service.model_imports import ModelImports
from upscaled.service.positions import report_positions
from upscaled.service.previews import Previews
from upscaled.service.recovery import Recovery
from upscaled.service.reports import Reports
from upscaled.service.self_test import SelfTest
from upscaled.service.sharing import SharedWork
from upscaled.service.submission import Submissions
from upscaled.service.uninterrupted import Uninterrupted
from upscaled.service.views import Views
from upscaled.timing.speeds import ModelSpeed, Speeds
from upscaled.timing.timing import JobTiming, make_job_timing
from upscaled.webhooks.callbacks import Callbacks
from upscaled.webhooks.deliveries import make_deliveries
from upscaled.webhooks.events import messages_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Started:
    """The parts that exist only after the engines are selected."""

    choice: EngineChoice
    submissions: Submissions
    dispatcher: Dispatcher
    recovery: Recovery
    timing: JobTiming
    health: Health
    pool: EnginePool
    shared: SharedWork
    previews: Previews
    imports: ModelImports
    jobs: JobAccess
    reports: Reports


class Service:
    """Everything but the network: what the HTTP layer and the command line call.

    Args:
        config: the settings.
        models_cache: file with measurements of the models; None: the data folder's own.
        ways_file: file with measurements of ways to run networks, to which none is added; None: the
            data folder's own, and more are measured while the service is idle.
    """

    def __init__(
        self, config: Config, *, models_cache: Path | None = None, ways_file: Path | None = None
    ) -> None:
        self.config = config
        self._ways_file = ways_file
        self.models = ModelCatalog(
            config.models_dir,
            cache_file=models_cache or config.models_cache,
            commercial_only=config.upscaler.commercial_models_only,
        )
        self._workspace = Workspace(config.data_dir, keeps_uploads=config.features.web)
        self._store = SqliteJobStore(config.data_dir / "jobs.sqlite3")
        self._registry = JobRegistry(self._store, messages_of)
        self.outgoing = OutgoingClient(AddressRules(config.outgoing.allow), config.outgoing.ports)
        self.result_cache = ResultCache(
            config.data_dir / "cache",
            config.storage.result_cache_mb << 20,
            config.storage.result_cache_hours * 3600,
        )
        limits = config.limits
        self._imaging = _imaging(config, config.features.input_formats, limits.max_input_megapixels)
        # Their own processes, so that nobody's job or upload waits for someone's looking.
        self._looking = _imaging(
            config, INPUT_NAMES, max(limits.max_input_megapixels, limits.max_output_megapixels)
        )
        self.views = Views(
            self._looking,
            self._workspace,
            config.data_dir / "views",
            config.storage.view_cache_mb << 20,
        )
        self.job_views = JobViews(self._workspace, self.views)
        self._cleaner = Cleaner(
            self._store,
            self._registry,
            self._workspace,
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
            await self._workspace.open()
            closing.callback(self._workspace.close)
            await self._open_caches()
            closing.push_async_callback(self._looking.close)
            closing.push_async_callback(self.views.close)
            await self._store.open()
            closing.push_async_callback(self._store.close)
            closing.push_async_callback(self._deletions.done)
            closing.push_async_callback(self._imaging.close)
            choice = await choose(self.config)
            log.info("Engine: %s (%s).", choice.engine, choice.reason)
            await self.models.rescan()
            self._check_default_model()
            pool = make_pool(self.config, choice)
            closing.push_async_callback(pool.close)
            trial = SelfTest(
                pool,
                self.models,
                self._imaging,
                self._workspace,
                self.config.upscaler.default_model,
            )
            health = Health(trial.run, lambda: not self._registry.active())
            ways = await open_ways(self.config, choice, self._ways_file or self.config.ways_file)
            pipeline = Pipeline(self._imaging, pool, self.models, self._workspace, ways)
            queue = JobQueue(make_order(self.config.limits.scheduling, choice.traits.models_kept))
            timing = await make_job_timing(
                self.models, pool, queue, self._registry, self._store,
                threads=self.config.upscaler.threads,
                engine_memory_mb=worker_memory_mb(self.config, choice),
                library=choice.library, ways=ways,
            )  # fmt: skip
            closing.push_async_callback(timing.close)
            shared = SharedWork(
                self.result_cache,
                self._workspace,
                pipeline,
                choice,
                joins=self.config.features.join_identical,
            )
            dispatcher = Dispatcher(
                self._registry,
                queue,
                pipeline,
                self._workspace,
                health,
                timing=timing,
                shared=shared,
                slots=pool.most_at_once,
                time_limit=TimeLimit(
                    self.config.upscaler.job_timeout_seconds,
                    self.config.upscaler.job_seconds_per_megapixel,
                ),
            )
            recovery = Recovery(
                self._registry,
                self._store,
                self._workspace,
                self._cleaner,
                dispatcher,
                shared,
                self.config.upscaler.max_attempts,
            )
            submissions = Submissions(
                self.config.limits,
                Admission(
                    self.config,
                    self.models,
                    self._imaging,
                    self._workspace,
                    choice,
                    Callbacks(self.config, self.outgoing, self._store),
                ),
                self._workspace,
                self._registry,
                dispatcher,
                timing,
                IdempotencyKeys(self._store),
                shared,
            )
            previews = Previews(
                self.config, self.models, self._looking, pool, self._workspace, ways
            )
            imports = ModelImports(
                self.config,
                self.models,
                self._workspace,
                lambda: {job.request.model_name for job in self._registry.active()},
            )
            jobs = JobAccess(
                self._registry,
                self._store,
                self._workspace,
                self._cleaner,
                dispatcher,
                timing=timing,
                shared=shared,
                result_cache=self.result_cache,
                job_views=self.job_views,
                deletions=self._deletions,
            )
            deliveries = make_deliveries(self.config, self._store, self.outgoing)
            reports = Reports(
                self.config.upscaler.gpu_ids,
                choice,
                pool,
                self._registry,
                self._workspace,
                health,
                submissions=submissions,
                dispatcher=dispatcher,
                cleaner=self._cleaner,
                shared=shared,
                result_cache=self.result_cache,
                verifications=pipeline.verifications,
                webhooks=deliveries,
            )
            self._started = _Started(
                choice, submissions, dispatcher, recovery, timing, health, pool, shared,
                previews, imports, jobs, reports,
            )  # fmt: skip
            if deliveries is not None:
                self._registry.on_messages = deliveries.notice
                _run_beside(closing, deliveries.run(), "webhooks")
            closing.push_async_callback(recovery.end)
            await recovery.begin()
            dispatcher.start()
            closing.push_async_callback(self.drain)
            _run_beside(closing, timing.run(), "timing")
            positions = report_positions(
                self._registry,
                queue,
                lambda: shared.with_followers(timing.forecaster.positions()),
                timing.forecaster,
            )
            _run_beside(closing, positions, "positions")
            await self._log_speed(timing.speeds)
            for work, name in ((self._cleaner.run(), "cleanup"), (imports.run(), "model imports")):
                _run_beside(closing, work, name)
            if ways.used and self._ways_file is None:
                calibrator = await make_calibrator(
                    self.config,
                    choice,
                    ways,
                    pipeline,
                    submissions,
                    previews,
                    imports,
                    self._registry,
                )
                _run_beside(closing, calibrator.run(), "calibration")
            self._closing = closing.pop_all()

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
        await running.dispatcher.stop(self.config.server.drain_seconds, hurry)

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
        return self._running.dispatcher.feeding or not self.submissions.open

    def _check_default_model(self) -> None:
        names = [model.name for model in self.models.models]
        if not names:
            log.warning(
                "There is no model in %s; `upscaled models install` puts them there.",
                self.config.models_dir,
            )
        elif self.config.upscaler.default_model not in names:
            raise ConfigError(
                f"upscaler.default_model is {self.config.upscaler.default_model!r}; allowed is "
                f"an installed model: {', '.join(names)}."
            )

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

    def watch_health(self) -> None:
        """Start the self-tests; until the first has passed, `health` reports ``starting``."""
        watch = asyncio.create_task(self._watch(self._running.health), name="health")
        self._closing.push_async_callback(_end_task, watch)

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


def _run_beside(
    closing: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str
) -> None:
    """Run ``work`` until ``closing`` is closed."""
    closing.push_async_callback(_end_task, asyncio.create_task(work, name=name))


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _imaging(config: Config, formats: Collection[str], max_megapixels: float) -> Imaging:
    return Imaging(
        workers=2,
        formats=frozenset(formats),
        memory_limit_mb=config.limits.imaging_memory_mb,
        max_pixels=int(max_megapixels * 1_000_000),
    )
