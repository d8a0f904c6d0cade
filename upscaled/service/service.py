"""The composition root: builds the parts in order, starts and stops them, and fronts for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.engines.pool import EnginePool
from upscaled.engines.selection import (
    EngineChoice,
    choose,
    make_pool,
    worker_memory_mb,
)
from upscaled.errors import (
    ConfigError,
    UnknownJobError,
    UnknownModelError,
    UpscaledError,
    WrongStateError,
)
from upscaled.formats import INPUT_NAMES
from upscaled.imaging import Imaging
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.messages import Message
from upscaled.jobs.order import make_order
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import NO_SUCH_JOB, JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.results import ResultFile, result_of
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.store import JobFilter
from upscaled.jobs.updates import Subscription
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.outgoing.addresses import AddressRules
from upscaled.outgoing.client import OutgoingClient
from upscaled.outgoing.signatures import keys_of
from upscaled.pipeline.footprint import TimeLimit
from upscaled.pipeline.pipeline import Pipeline
from upscaled.service.admission import Admission
from upscaled.service.cleanup import Cleaner
from upscaled.service.dispatcher import Dispatcher
from upscaled.service.figures import Figures
from upscaled.service.health import Health, HealthState
from upscaled.service.idempotency import IdempotencyKeys
from upscaled.service.job_views import JobViews
from upscaled.service.positions import report_positions
from upscaled.service.previews import Previews
from upscaled.service.recovery import Recovery
from upscaled.service.self_test import SelfTest
from upscaled.service.sharing import SharedWork
from upscaled.service.submission import Submissions
from upscaled.service.uninterrupted import Uninterrupted
from upscaled.service.views import Views
from upscaled.timing.forecast import Outlook
from upscaled.timing.speeds import ModelSpeed, Quicker, Speeds
from upscaled.timing.timing import JobTiming, make_job_timing
from upscaled.webhooks.callbacks import Callbacks
from upscaled.webhooks.deliveries import Deliveries
from upscaled.webhooks.events import messages_of
from upscaled.webhooks.retries import Retries

log = logging.getLogger(__name__)

_DISK_SECONDS = 1.0
_CPU_ID = -1  # in upscaler.gpu_ids


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
    verifications: Mapping[str, int]
    previews: Previews


class Service:
    """Everything but the network: what the HTTP layer and the command line call.

    Args:
        config: the settings.
        models_cache: file with measurements of the models; None: the data folder's own.
    """

    def __init__(self, config: Config, *, models_cache: Path | None = None) -> None:
        self.config = config
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
        self._imaging = Imaging(
            workers=2,
            formats=config.features.input_formats,
            memory_limit_mb=config.limits.imaging_memory_mb,
            max_pixels=int(config.limits.max_input_megapixels * 1_000_000),
        )
        # Their own processes, so that nobody's job or upload waits for someone's looking.
        self._looking = Imaging(
            workers=2,
            formats=frozenset(INPUT_NAMES),
            memory_limit_mb=config.limits.imaging_memory_mb,
            max_pixels=int(
                max(config.limits.max_input_megapixels, config.limits.max_output_megapixels)
                * 1_000_000
            ),
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
        self._free_disk = 0
        self._started: _Started | None = None
        self._webhooks: Deliveries | None = None
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

    async def start(self) -> None:
        """Start everything, and queue the jobs that an earlier run left.

        Raises:
            ConfigError: something that the settings require is missing.
        """
        async with contextlib.AsyncExitStack() as closing:
            await self._workspace.open()
            closing.callback(self._workspace.close)
            await self._open_cache()
            await self._open_views()
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
            pipeline = Pipeline(self._imaging, pool, self.models, self._workspace)
            queue = JobQueue(make_order(self.config.limits.scheduling, choice.traits.models_kept))
            timing = await make_job_timing(
                self.models, pool, queue, self._registry, self._store,
                threads=self.config.upscaler.threads,
                engine_memory_mb=worker_memory_mb(self.config, choice),
                library=choice.library,
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
            previews = Previews(self.config, self.models, self._looking, pool, self._workspace)
            self._started = _Started(
                choice, submissions, dispatcher, recovery, timing, health, pool, shared,
                pipeline.verifications, previews,
            )  # fmt: skip
            if self.config.features.webhooks:
                deliveries = self._webhooks = self._deliveries()
                self._registry.on_messages = deliveries.notice
                sending = asyncio.create_task(deliveries.run(), name="webhooks")
                closing.push_async_callback(_end_task, sending)
            closing.push_async_callback(recovery.end)
            await recovery.begin()
            dispatcher.start()
            closing.push_async_callback(self.drain)
            keeper = asyncio.create_task(timing.run(), name="timing")
            closing.push_async_callback(_end_task, keeper)
            positions = asyncio.create_task(
                report_positions(
                    self._registry,
                    queue,
                    lambda: shared.with_followers(timing.forecaster.positions()),
                    timing.forecaster,
                ),
                name="positions",
            )
            closing.push_async_callback(_end_task, positions)
            await self._log_speed(timing.speeds)
            cleaner = asyncio.create_task(self._cleaner.run(), name="cleanup")
            closing.push_async_callback(_end_task, cleaner)
            self._closing = closing.pop_all()

    def _deliveries(self) -> Deliveries:
        settings = self.config.webhooks
        keys = {name: keys_of(text) for name, text in settings.secrets}
        unnamed = keys_of(settings.secret)
        return Deliveries(
            self._store,
            self.outgoing,
            lambda owner: keys.get(owner, ()) if owner else unnamed,
            Retries(settings.retry_seconds),
            settings.timeout_seconds,
        )

    async def _open_cache(self) -> None:
        try:
            await self.result_cache.open()
        except OSError as error:
            raise ConfigError(
                f"The cached results in {self.config.data_dir / 'cache'} can't be used "
                f"({error.strerror}); delete that folder."
            ) from None

    async def _open_views(self) -> None:
        try:
            await self.views.open()
        except OSError as error:
            raise ConfigError(
                f"The views in {self.config.data_dir / 'views'} can't be used "
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

    # --- what callers use ---------------------------------------------------------------------

    async def job(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        job = await self._registry.get(job_id)
        if owner is not None and job.owner != owner:
            raise UnknownJobError(NO_SUCH_JOB)
        return job

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

    async def quicker(self, job: Job) -> Quicker | None:
        """Return a model that would take far less time for ``job``, if there is one."""
        with contextlib.suppress(UnknownModelError):
            return await self._running.timing.quicker(job)
        return None

    def outlook(self, job_id: str) -> Outlook | None:
        """Return when a job will be ready; None if it is not active."""
        return self._running.timing.outlook(self._running.shared.leader_of(job_id))

    @contextlib.asynccontextmanager
    async def subscribe(
        self, job_id: str, owner: str | None = None, *, after: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Listen to a job, see `JobRegistry.subscribe`; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        await self.job(job_id, owner)
        async with self._registry.subscribe(job_id, after=after) as updates:
            yield updates

    def subscribe_all(
        self, owner: str | None = None, *, after: int | None = None, states_only: bool = False
    ) -> AbstractAsyncContextManager[Subscription]:
        """Listen to all jobs of ``owner``, see `JobRegistry.subscribe_all`."""
        return self._registry.subscribe_all(owner, after=after, states_only=states_only)

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended and return it.

        Raises:
            UnknownJobError: there is none of this id.
        """
        return await self._registry.settled(job_id)

    async def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """Cancel a job; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: it has ended.
        """
        await self.job(job_id, owner)
        return await self._running.dispatcher.cancel(job_id)

    async def jobs(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return jobs, newest first, see `JobStore.page`."""
        return await self._registry.page(wanted, after, limit)

    async def delete(self, job_id: str, owner: str | None = None) -> None:
        """Delete an ended job's record and files; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: it has not ended.
        """
        job = await self.job(job_id, owner)
        if job.state not in TERMINAL:
            raise WrongStateError(f"The job is {job.state.value}; cancel it before you delete it.")
        await self._deletions.run(self._delete(job), f"delete-{job_id}")

    async def _delete(self, job: Job) -> None:
        await self._registry.forget(job.id)
        self._cleaner.grace.forget(job.id)
        await self._workspace.remove(job.id)
        await self.job_views.forget(job)
        await self.result_cache.drop(job.work)
        log.info("job deleted", extra={"job": job.id})

    async def messages(self, job_id: str, owner: str | None = None) -> tuple[Job, list[Message]]:
        """Return a job and its webhook messages; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        job = await self.job(job_id, owner)
        return job, await self._store.messages_of(job_id)

    async def result(self, job_id: str, owner: str | None = None) -> ResultFile:
        """Return the file of a job's result; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: the job is not completed.
            ResultGoneError: its result was downloaded or expired.
        """
        job = await self.job(job_id, owner)
        return result_of(job, self._workspace.folder(job.id))

    def downloading(self, job_id: str) -> AbstractContextManager[None]:
        """Return a block in which the end of a grace period does not delete the job's result."""
        return self._cleaner.grace.downloading(job_id)

    async def delivered(self, job_id: str, *, to_proxy: bool = False) -> None:
        """Delete a result after every byte of it has arrived, if the settings say so.

        Args:
            job_id: its job, which may have been deleted meanwhile.
            to_proxy: at a proxy, which may still be passing the result on.
        """
        with contextlib.suppress(UnknownJobError):
            job = await self._registry.get(job_id)
            if job.result_gone is None:
                delivered = self._cleaner.delivered(job, to_proxy=to_proxy)
                await self._deletions.run(delivered, f"delivered-{job_id}")

    def figures(self) -> Figures:
        """Return the state of the service in numbers."""
        running, webhooks, cache = self._running, self._webhooks, self.result_cache
        waiting = [job.created for job in self._registry.active() if job.state is JobState.QUEUED]
        return Figures(
            queued=len(waiting),
            processing=self._registry.count(JobState.PROCESSING),
            oldest_seconds=max(0.0, time.time() - min(waiting)) if waiting else 0.0,
            slots=running.pool.most_at_once,
            busy_seconds=running.pool.busy_seconds(),
            verifications=dict(running.verifications),
            uploads=running.submissions.uploading,
            received_bytes=running.submissions.received_bytes,
            cache_answers={
                "hit": cache.hits,
                "miss": cache.misses,
                "corrupted": cache.corrupted,
                "joined": running.shared.joined,
            },
            cache_bytes=cache.bytes,
            in_grace=len(self._cleaner.grace),
            webhook_jobs=len(webhooks) if webhooks is not None else 0,
            webhook_attempts=dict(webhooks.attempts) if webhooks is not None else {},
        )

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

    async def health(self) -> Mapping[str, object]:
        """Return the health of the service; ``status`` is a `HealthState`.

        Answers within a second even if the disk does not respond.
        """
        choice, health = self.choice, self._running.health
        with contextlib.suppress(TimeoutError):  # the last known value is good enough
            async with asyncio.timeout(_DISK_SECONDS):
                self._free_disk = await self._workspace.free_bytes()
        unusable = {place.device.id: why for place, why in self._running.pool.unusable.items()}
        place = health.place
        on_cpu = place.is_cpu if place else all(d.index is None for d in choice.devices)
        return {
            "status": health.state.value if self.submissions.open else "draining",
            **({"reason": health.reason} if health.reason else {}),
            "engine": choice.engine,
            "devices": [device.name for device in choice.devices],
            "gpu": any(device.is_gpu for device in choice.devices),
            **({"device": place.device.id} if place else {}),
            **({"unusable": unusable} if unusable else {}),
            "cpu_fallback": on_cpu and _CPU_ID not in self.config.upscaler.gpu_ids,
            "queue_length": self._registry.count(JobState.QUEUED),
            "processing": self._registry.count(JobState.PROCESSING),
            "free_disk_mb": self._free_disk >> 20,
            **self._disk_waiters(),
        }

    def _disk_waiters(self) -> Mapping[str, object]:
        """Return how many jobs wait for room on the disk, and what lets them go on; {} if none."""
        needs = self._running.dispatcher.waiting_for_disk.values()
        if not needs:
            return {}
        jobs = "1 job waits" if len(needs) == 1 else f"{len(needs)} jobs wait"
        return {
            "waiting_for_disk": {
                "jobs": len(needs),
                "reason": f"{jobs} for room on the disk of the data folder. The smallest needs "
                f"{_mib(min(needs))} MiB; {self._free_disk >> 20} MiB are free, of which running "
                "jobs may need a part. Make room there; the jobs go on by themselves.",
            }
        }


def _mib(count: int) -> int:
    """Return bytes as MiB, rounded up."""
    return -(-count >> 20)


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


__all__ = ["ResultFile", "Service"]
