"""The composition root: builds the parts in order, starts and stops them, and fronts for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from upscaled.admission import DISK_RESERVE, Admission
from upscaled.allowance import TimeLimit
from upscaled.book import NO_SUCH_JOB, JobBook
from upscaled.clients import LOCAL, Client
from upscaled.config import Config
from upscaled.dispatcher import Dispatcher
from upscaled.engines.choice import EngineChoice, choose, make_pool, models_kept, worker_memory_mb
from upscaled.errors import (
    ConfigError,
    NoSpaceError,
    QueueFullError,
    ShuttingDownError,
    UnknownJobError,
    UpscaledError,
)
from upscaled.forecast import Outlook
from upscaled.foresight import Foresight, Quote, make_foresight
from upscaled.health import Health, HealthState
from upscaled.imaging import Imaging, Prepared
from upscaled.janitor import Janitor
from upscaled.jobs import Job, JobState
from upscaled.models import ModelRegistry
from upscaled.pipeline import Pipeline
from upscaled.queue import JobQueue
from upscaled.recovery import Recovery
from upscaled.results import ResultFile, result_of
from upscaled.scheduling import make_order
from upscaled.self_test import SelfTest
from upscaled.store.sqlite import SqliteJobStore
from upscaled.store.workspace import Workspace

log = logging.getLogger(__name__)

_DISK_SECONDS = 1.0
_CPU_ID = -1  # in upscaler.gpu_ids


class Service:
    """Everything but the network: what the HTTP layer and the command line call.

    Args:
        config: the settings.
        models_cache: keeps what was measured of the models; None: the data folder's own file.
    """

    def __init__(self, config: Config, *, models_cache: Path | None = None) -> None:
        self.config = config
        self.models = ModelRegistry(
            config.models_dir, cache_file=models_cache or config.models_cache
        )
        self._workspace = Workspace(config.data_dir)
        self._store = SqliteJobStore(config.data_dir / "jobs.sqlite3")
        self._book = JobBook(self._store)
        self._imaging = Imaging(
            workers=2,
            formats=config.features.input_formats,
            memory_limit_mb=config.limits.imaging_memory_mb,
            max_pixels=int(config.limits.max_input_megapixels * 1_000_000),
        )
        self._admission = Admission(config, self.models, self._imaging, self._workspace)
        self._janitor = Janitor(
            self._store,
            self._book,
            self._workspace,
            result_ttl=config.storage.result_ttl_hours * 3600,
            record_ttl=config.storage.record_ttl_hours * 3600,
        )
        self._accepting = False
        self._parts = contextlib.AsyncExitStack()
        self._choice: EngineChoice | None = None
        self._dispatcher: Dispatcher | None = None
        self._recovery: Recovery | None = None
        self._foresight: Foresight | None = None
        self._health: Health | None = None
        self._free_disk = 0
        self._admitting: Counter[str] = Counter()

    @property
    def choice(self) -> EngineChoice:
        """Which engine works on which devices; there once the service was started."""
        assert self._choice is not None, "the service was not started"  # noqa: S101
        return self._choice

    @property
    def _dispatching(self) -> Dispatcher:
        assert self._dispatcher is not None, "the service was not started"  # noqa: S101
        return self._dispatcher

    @property
    def _foreseeing(self) -> Foresight:
        assert self._foresight is not None, "the service was not started"  # noqa: S101
        return self._foresight

    async def start(self) -> None:
        """Bring everything up, taking up the jobs an earlier run left.

        Raises:
            ConfigError: something the settings demand is not there.
        """
        async with contextlib.AsyncExitStack() as parts:
            await self._workspace.open()
            parts.callback(self._workspace.close)
            await self._store.open()
            parts.push_async_callback(self._store.close)
            parts.push_async_callback(self._imaging.close)
            self._choice = await choose(self.config)
            log.info("Engine: %s (%s).", self._choice.engine, self._choice.reason)
            await self.models.rescan()
            self._check_default_model()
            pool = make_pool(self.config, self._choice)
            parts.push_async_callback(pool.close)
            trial = SelfTest(
                pool,
                self.models,
                self._imaging,
                self._workspace,
                self.config.upscaler.default_model,
            )
            self._health = Health(trial.run, lambda: not self._book.active())
            pipeline = Pipeline(self._imaging, pool, self.models, self._workspace)
            queue = JobQueue(make_order(self.config.limits.scheduling, models_kept(self._choice)))
            self._foresight = await make_foresight(
                self.models, pool, queue, self._book, self._store,
                threads=self.config.upscaler.threads,
                engine_memory_mb=worker_memory_mb(self.config, self._choice),
                library=self._choice.library,
            )  # fmt: skip
            parts.push_async_callback(self._foresight.close)
            self._dispatcher = Dispatcher(
                self._book,
                queue,
                pipeline,
                self._workspace,
                self._health,
                foresight=self._foresight,
                slots=pool.most_at_once,
                time_limit=TimeLimit(
                    self.config.upscaler.job_timeout_seconds,
                    self.config.upscaler.job_seconds_per_megapixel,
                ),
            )
            self._recovery = Recovery(
                self._book,
                self._store,
                self._workspace,
                self._janitor,
                self._dispatcher,
                self.config.upscaler.max_attempts,
            )
            parts.push_async_callback(self._recovery.end)
            await self._recovery.begin()
            self._dispatcher.start()
            parts.push_async_callback(self.drain)
            keeper = asyncio.create_task(self._foresight.run(), name="foresight")
            parts.push_async_callback(_end_task, keeper)
            janitor = asyncio.create_task(self._janitor.run(), name="janitor")
            parts.push_async_callback(_end_task, janitor)
            self._accepting = True
            self._parts = parts.pop_all()

    async def drain(self) -> None:
        """Take nothing more; let running jobs finish for ``server.drain_seconds``."""
        self._accepting = False
        if self._recovery is not None:  # first, or it would end jobs that are being put back
            await self._recovery.end()
        await self._dispatching.stop(self.config.server.drain_seconds)

    async def stop(self) -> None:
        """Take nothing more, let running jobs finish for ``server.drain_seconds``, end all."""
        self._accepting = False
        await self._parts.aclose()

    @property
    def alive(self) -> bool:
        """Whether jobs are brought on their way, or it is meant that they are not."""
        return self._dispatching.feeding or not self._accepting

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

    def check_admission(self, client: Client = LOCAL) -> None:
        """Refuse early, before an upload of ``client`` is read.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: the queue is full, or the client's share of it.
        """
        if not self._accepting:
            raise ShuttingDownError("The server is stopping; try again in a minute.",
                                    headers={"Retry-After": "60"})  # fmt: skip
        limits = self.config.limits
        waiting = self._book.count(JobState.QUEUED) + self._admitting.total()
        if waiting >= limits.max_queue_size:
            raise self._full(f"The queue is full ({waiting} jobs)")
        if limits.max_queue_per_client:
            own = self._book.count_of(client.key) + self._admitting[client.key]
            if own >= limits.max_queue_per_client:
                raise self._full(f"You have {own} jobs in the queue, as many as one client may")

    def _full(self, why: str) -> QueueFullError:
        seconds = self._foreseeing.retry_after()
        return QueueFullError(
            f"{why}; try again in {seconds} s.", headers={"Retry-After": str(seconds)}
        )

    async def check_room(self, count: int) -> None:
        """Refuse an upload of ``count`` bytes that the disk would not hold.

        Raises:
            NoSpaceError: it would not.
        """
        free = await self._workspace.free_bytes() - DISK_RESERVE
        if count > free:
            raise NoSpaceError(
                f"The server's disk has {max(0, free) >> 20} MiB free for uploads, this one needs "
                f"{-(-count >> 20)} MiB; make room in storage.data_dir.",
                headers={"Retry-After": "60"},
            )

    def reserve_upload(self) -> Path:
        """Return a fresh path to stream an upload to."""
        return self._workspace.new_upload()

    async def discard_upload(self, path: Path) -> None:
        """Delete an upload that was given up."""
        await self._workspace.discard(path)

    async def submit(
        self, fields: Mapping[str, str], upload: Path, filename: str, client: Client = LOCAL
    ) -> Job:
        """Make a job of an upload and queue it; durable when this returns.

        The file is moved or, on refusal, deleted.

        Raises:
            UpscaledError: the refusal, see `Admission.admit` and `check_admission`.
        """
        try:
            self.check_admission(client)
            self._admitting[client.key] += 1
            try:
                job, prepared = await self._admission.admit(fields, upload, filename, client)
                await self._enter(job, prepared)
            finally:
                self._admitting[client.key] -= 1
                self._admitting += Counter()  # drops the zeros
        except BaseException:
            await self.discard_upload(upload)
            raise
        return job

    async def quote(self, fields: Mapping[str, str], upload: Path | None) -> tuple[Job, Quote]:
        """Return the job that a submission would make, and what it would take.

        Raises:
            UpscaledError: the refusal, see `Admission.plan`.
        """
        job = await self._admission.plan(fields, upload)
        return job, await self._foreseeing.quote(job)

    async def _enter(self, job: Job, prepared: Prepared | None) -> None:
        try:
            await self._book.add(job)
        except BaseException:
            await self._workspace.remove(job.id)
            raise
        await self._dispatching.enqueue(job, prepared)
        log.info(
            "job submitted",
            extra={
                "job": job.id,
                "file": job.input_name,
                "input": f"{job.input_format} {job.input_size}",
                "output": f"{job.request.format} {job.request.output_size}",
                "model": job.request.model_name,
            },
        )

    async def job(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        job = await self._book.get(job_id)
        if owner is not None and job.owner != owner:
            raise UnknownJobError(NO_SUCH_JOB)
        return job

    def outlook(self, job_id: str) -> Outlook | None:
        """Return when a job is to be ready; None for one that is not under way."""
        return self._foreseeing.outlook(job_id)

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended and return it.

        Raises:
            UnknownJobError: there is none of this id.
        """
        return await self._book.settled(job_id)

    async def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """Cancel a job; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: it has ended.
        """
        await self.job(job_id, owner)
        return await self._dispatching.cancel(job_id)

    async def result(self, job_id: str, owner: str | None = None) -> ResultFile:
        """Return where a job's result lies; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: the job is not completed.
            ResultGoneError: its result was downloaded or expired.
        """
        job = await self.job(job_id, owner)
        return result_of(job, self._workspace.folder(job.id))

    async def delivered(self, job_id: str) -> None:
        """Note that every byte of a result was sent; deletes it where the settings say so."""
        if not self.config.storage.delete_after_download:
            return
        job = await self._book.get(job_id)
        if job.result_gone is None:
            await self._janitor.let_go(job, "downloaded")
            log.info("job's result downloaded and deleted", extra={"job": job_id})

    def watch_health(self) -> None:
        """Begin the self-tests; until the first has passed `health` says ``starting``."""
        assert self._health is not None, "the service was not started"  # noqa: S101
        watch = asyncio.create_task(self._watch(self._health), name="health")
        self._parts.push_async_callback(_end_task, watch)

    async def _watch(self, health: Health) -> None:
        try:
            cell = await self._imaging.warm()
        except UpscaledError as error:
            log.error("no decoder can be started", extra={"reason": error.message})
        except Exception:
            log.exception("the decoder's start ended unexpectedly")
        else:
            log.log(logging.WARNING if cell.lacking else logging.INFO, "Decoder's cell: %s.", cell)
        await health.run()

    async def health_known(self) -> HealthState:
        """Wait for the end of the first self-test; return what came of it."""
        assert self._health is not None, "the service was not started"  # noqa: S101
        return await self._health.known()

    async def health(self) -> Mapping[str, object]:
        """Return how the service is doing; ``status`` is a `HealthState`.

        Answers within a second even where the disk does not.
        """
        choice, health = self.choice, self._health
        assert health is not None, "the service was not started"  # noqa: S101
        with contextlib.suppress(TimeoutError):  # the last known figure will do
            async with asyncio.timeout(_DISK_SECONDS):
                self._free_disk = await self._workspace.free_bytes()
        place = health.place
        on_cpu = place.is_cpu if place else all(d.index is None for d in choice.devices)
        return {
            "status": health.state.value,
            **({"reason": health.reason} if health.reason else {}),
            "engine": choice.engine,
            "devices": [device.name for device in choice.devices],
            "gpu": any(device.is_gpu for device in choice.devices),
            **({"device": place.device.id} if place else {}),
            "cpu_fallback": on_cpu and _CPU_ID not in self.config.upscaler.gpu_ids,
            "queue_length": self._book.count(JobState.QUEUED),
            "processing": self._book.count(JobState.PROCESSING),
            "free_disk_mb": self._free_disk >> 20,
        }


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


__all__ = ["ResultFile", "Service"]
