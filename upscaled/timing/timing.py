"""JobTiming: estimates jobs, forecasts the active ones, and learns from completed ones."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Collection
from dataclasses import dataclass, replace

from upscaled.engines import memory
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.cpu_methods import CpuMethods
from upscaled.engines.pool import EnginePool, Place
from upscaled.errors import UnknownModelError
from upscaled.jobs.arrival_times import Arrivals
from upscaled.jobs.job import FAST, Job
from upscaled.jobs.order import Waiting
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.pipeline.footprint import disk_bytes, memory_bytes
from upscaled.pipeline.result import RunResult
from upscaled.timing.estimator import Estimate, Estimator, RateStore, Work
from upscaled.timing.forecast import Forecaster, Outlook
from upscaled.timing.speeds import Quicker, Speeds


@dataclass(frozen=True)
class Quote:
    """The expected time and memory of a job."""

    estimate: Estimate
    wait_seconds: float
    """Until a new job, queued last, would get a slot."""
    memory_bytes: int
    """Peak memory of the larger process: the engine's or the encoder's."""
    disk_bytes: int
    quicker: Quicker | None
    """A model that would take far less."""


class JobTiming:
    """Estimates jobs, forecasts the active ones, and learns from completed ones.

    Args:
        models: the catalog with the networks of jobs.
        estimator: estimates how long work takes.
        forecaster: simulates the queue.
        places: the preferred places; a job that runs elsewhere holds none of the slots.
        arrivals: when active jobs arrived, which the queue's order goes by.
        frees_parts: the disk can free parts of a file, see `Workspace`.
    """

    def __init__(
        self,
        models: ModelCatalog,
        estimator: Estimator,
        forecaster: Forecaster,
        places: Collection[Place],
        arrivals: Arrivals,
        *,
        frees_parts: bool = True,
    ) -> None:
        self._frees_parts = frees_parts
        self._arrivals = arrivals
        self._models = models
        self._places = places
        self._estimator = estimator
        self.forecaster = forecaster
        self.speeds = Speeds(models, estimator)

    def work_of(self, job: Job) -> Work:
        """Return the properties of a job that decide how long it takes.

        Raises:
            UnknownModelError: its model is gone.
        """
        request = job.request
        return Work(
            model=self._models.get(request.model_name).files_for(job.factor),
            source=job.input_size,
            output=request.output_size,
            input_format=job.input_format,
            format=request.format,
            tile_size=request.tile_size,
            tta=request.tta,
            fast=request.precision == FAST,
        )

    async def waiting(self, job: Job) -> tuple[Waiting, Estimate]:
        """Return a job as the queue stores it, and its estimate.

        Raises:
            UnknownModelError: its model is gone.
        """
        work = self.work_of(job)
        await self._estimator.meet(work)
        estimate = self._estimator.estimate(work)
        waiting = Waiting(
            job.id,
            self._arrivals.of(job),
            seconds=estimate.upscale,
            client=job.client,
            model=work.model.stem,
            load_seconds=estimate.load,
        )
        return waiting, estimate

    async def load_seconds(self, model: Model) -> dict[str, float]:
        """Return how long it takes to load each network of a model, by the network's name.

        Raises:
            UnknownModelError: a file of it is gone.
        """
        return {
            files.stem: await self._estimator.load_seconds(files) for files in model.files.values()
        }

    def begun(self, job_id: str, place: Place) -> None:
        """Record that a job works at ``place``."""
        self.forecaster.begun(job_id, in_slot=place in self._places)

    async def learn(self, job: Job, result: RunResult) -> None:
        """Learn from a job's time, if it needed only one attempt."""
        if len(job.attempts) != 1 or result.resumed:
            return
        with contextlib.suppress(UnknownModelError):  # just removed: nothing to learn
            # The registry may have found other networks for its scale meanwhile.
            work = replace(self.work_of(job), model=result.model.files)
            await self._estimator.meet(work)
            # Jobs that share an engine take longer by the clock, but not in engine time.
            seconds = {**result.seconds.stages, "upscale": result.engine_seconds}
            self._estimator.observe(work, result.place, seconds, result.tile_size)
            method = result.execution.method
            if method is not None and method.measured:
                await self._estimator.compare(
                    work, result.place, result.engine_seconds, result.tile_size
                )

    async def quote(self, job: Job) -> Quote:
        """Return what ``job``, which is not queued, would take.

        Raises:
            UnknownModelError: its model is gone.
        """
        work = self.work_of(job)
        await self._estimator.meet(work)
        estimate = self._estimator.estimate(work)
        return Quote(
            estimate=estimate,
            wait_seconds=self.forecaster.last_start(),
            memory_bytes=max(
                self._estimator.inference_bytes(work),
                memory_bytes(work.source, work.output, work.format),
            ),
            disk_bytes=self.disk_bytes(job),
            quicker=await self.speeds.quicker(job.request.model_name, work, estimate),
        )

    async def quicker(self, job: Job) -> Quicker | None:
        """Return a model that would take far less time for ``job``, if there is one.

        Raises:
            UnknownModelError: its own model is gone.
        """
        work = self.work_of(job)
        await self._estimator.meet(work)
        return await self.speeds.quicker(
            job.request.model_name, work, self._estimator.estimate(work)
        )

    async def compare(self, job: Job) -> list[tuple[Model, Estimate]]:
        """Return what ``job`` takes with each model that enlarges as far.

        Raises:
            UnknownModelError: its own model is gone.
        """
        return await self.speeds.compare(self.work_of(job))

    def disk_bytes(self, job: Job) -> int:
        """Return the bytes that the job needs on disk.

        Raises:
            UnknownModelError: its model is gone.
        """
        model = self._models.get(job.request.model_name).files_for(job.factor)
        request = job.request
        return disk_bytes(
            job.input_size, request.output_size, model.native_scale, request.format,
            frees_parts=self._frees_parts,
        )  # fmt: skip

    def outlook(self, job_id: str) -> Outlook | None:
        """Return when a job will be ready; None if it is not active."""
        return self.forecaster.outlook(job_id)

    def retry_after(self) -> int:
        """Return after how many seconds the queue has room again; an hour at most."""
        return max(1, min(3600, math.ceil(self.forecaster.next_start())))

    async def run(self) -> None:
        """Save what was learned, periodically; runs until cancelled."""
        await self._estimator.keep()

    async def refresh(self) -> None:
        """Take over what others have learned.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        await self._estimator.load()

    async def close(self) -> None:
        """Save what was learned since the last time."""
        await self._estimator.save()


async def make_job_timing(
    models: ModelCatalog, pool: EnginePool, queue: JobQueue, registry: JobRegistry,
    store: RateStore, *,
    threads: int, engine_memory_mb: int | None, library: CpuLibrary,
    methods: CpuMethods | None = None, frees_parts: bool = True,
) -> JobTiming:  # fmt: skip
    """Build the timing of a service, with what earlier runs have learned.

    Args:
        models: the networks.
        pool: where jobs run.
        queue: the waiting jobs.
        registry: knows how far they are, and when they arrived.
        store: where rates are kept.
        threads: CPU threads of the engine; 0: one a core.
        engine_memory_mb: MiB that a process of the builtin engine may hold; None: half of the
            machine's.
        library: what runs networks on the CPU, where nothing was measured.
        methods: what was measured.
        frees_parts: the disk can free parts of a file, see `Workspace`.
    """
    shares = pool.shares(pool.places[0])
    estimator = Estimator(
        pool.places[0],
        threads or len(os.sched_getaffinity(0)),
        await asyncio.to_thread(memory.ceiling, engine_memory_mb),
        store,
        shares=shares,
        library=library,
        methods=methods,
    )
    await estimator.load()
    forecaster = Forecaster(
        queue, pool.slots, registry.progress, shares=pool.shares(pool.places[0])
    )
    return JobTiming(
        models, estimator, forecaster, pool.places, registry.arrivals, frees_parts=frees_parts
    )
