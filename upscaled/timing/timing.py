"""JobTiming: what is known of jobs before they are done, learned from those that are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Collection
from dataclasses import dataclass, replace

from upscaled.engines import memory
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.pool import EnginePool, Place
from upscaled.errors import UnknownModelError
from upscaled.jobs.arrivals import Arrivals
from upscaled.jobs.job import Job
from upscaled.jobs.order import Waiting
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry
from upscaled.models.catalog import ModelCatalog
from upscaled.pipeline.footprint import disk_bytes, memory_bytes
from upscaled.pipeline.result import RunResult
from upscaled.timing.estimator import Estimate, Estimator, RateStore, Work
from upscaled.timing.forecast import Forecaster, Outlook


@dataclass(frozen=True)
class Quote:
    """What a job would take."""

    estimate: Estimate
    wait_seconds: float
    """Until it would get a slot if it came now and were the last."""
    memory_bytes: int
    """Of the hungriest process: the engine's or the encoder's."""
    disk_bytes: int


class JobTiming:
    """Estimates jobs, tells how those under way will go on, and learns from those that are done.

    Args:
        models: where the networks of jobs are found.
        estimator: tells how long work takes.
        forecaster: plays the queue through.
        places: where jobs run of themselves; elsewhere they hold none of the slots.
        arrivals: when active jobs arrived, which the queue's order goes by.
    """

    def __init__(
        self,
        models: ModelCatalog,
        estimator: Estimator,
        forecaster: Forecaster,
        places: Collection[Place],
        arrivals: Arrivals,
    ) -> None:
        self._arrivals = arrivals
        self._models = models
        self._places = places
        self._estimator = estimator
        self.forecaster = forecaster

    def work_of(self, job: Job) -> Work:
        """Return what decides how long the job takes.

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
        )

    async def waiting(self, job: Job) -> tuple[Waiting, Estimate]:
        """Return a job as the queue takes it, and what to expect of it.

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

    def begun(self, job_id: str, place: Place) -> None:
        """Take note that a job works at ``place``."""
        self.forecaster.begun(job_id, in_slot=place in self._places)

    async def learn(self, job: Job, result: RunResult) -> None:
        """Learn from a job's time, if its first attempt was the only one."""
        if len(job.attempts) != 1 or result.resumed:
            return
        with contextlib.suppress(UnknownModelError):  # taken away just now: nothing to learn
            # The registry may have found other networks for its scale meanwhile.
            work = replace(self.work_of(job), model=result.model.files)
            await self._estimator.meet(work)
            # Those that share an engine take longer by the clock, but not of its time.
            seconds = {**result.seconds.stages, "upscale": result.engine_seconds}
            self._estimator.observe(work, result.place, seconds, result.tile_size)

    async def quote(self, job: Job) -> Quote:
        """Return what ``job`` would take, which is not queued.

        Raises:
            UnknownModelError: its model is gone.
        """
        work = self.work_of(job)
        await self._estimator.meet(work)
        return Quote(
            estimate=self._estimator.estimate(work),
            wait_seconds=self.forecaster.last_start(),
            memory_bytes=max(
                self._estimator.inference_bytes(work),
                memory_bytes(work.source, work.output, work.format),
            ),
            disk_bytes=self.disk_bytes(job),
        )

    def disk_bytes(self, job: Job) -> int:
        """Return the bytes that the job takes on the disk.

        Raises:
            UnknownModelError: its model is gone.
        """
        model = self._models.get(job.request.model_name).files_for(job.factor)
        return disk_bytes(job.input_size, job.request.output_size, model.native_scale)

    def outlook(self, job_id: str) -> Outlook | None:
        """Return when a job is to be ready; None for one that is not under way."""
        return self.forecaster.outlook(job_id)

    def retry_after(self) -> int:
        """Return the seconds after which the queue has a place again; an hour at most."""
        return max(1, min(3600, math.ceil(self.forecaster.next_start())))

    async def run(self) -> None:
        """Keep what is learned, for good."""
        await self._estimator.keep()

    async def close(self) -> None:
        """Keep what was learned last."""
        await self._estimator.save()


async def make_job_timing(
    models: ModelCatalog, pool: EnginePool, queue: JobQueue, registry: JobRegistry,
    store: RateStore, *,
    threads: int, engine_memory_mb: int | None, library: CpuLibrary,
) -> JobTiming:  # fmt: skip
    """Build the timing of a service, with what earlier runs have learned.

    Args:
        models: the networks.
        pool: where jobs run.
        queue: those that wait.
        registry: knows how far they are, and when they arrived.
        store: where rates are kept.
        threads: CPU threads of the engine; 0: one a core.
        engine_memory_mb: MiB that a process of the builtin engine may hold; None: half of the
            machine's.
        library: what runs networks on the CPU.
    """
    shares = pool.shares(pool.places[0])
    estimator = Estimator(
        pool.places[0],
        threads or len(os.sched_getaffinity(0)),
        await asyncio.to_thread(memory.ceiling, engine_memory_mb),
        store,
        shares=shares,
        library=library,
    )
    await estimator.load()
    forecaster = Forecaster(
        queue, pool.slots, registry.progress, shares=pool.shares(pool.places[0])
    )
    return JobTiming(models, estimator, forecaster, pool.places, registry.arrivals)
