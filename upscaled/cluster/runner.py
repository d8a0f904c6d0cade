"""The runner of an API server: workers do the jobs; it cancels them and waits for their ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping

from upscaled.cluster.order import TagOrder
from upscaled.cluster.registry import SharedRegistry
from upscaled.cluster.workspace import SharedWorkspace
from upscaled.engines.engine import is_small
from upscaled.errors import UpscaledError, WrongStateError
from upscaled.imaging import Prepared
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.order import Waiting
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import NotUnderWayError
from upscaled.service.background import kept_running
from upscaled.service.sharing import SharedWork, WorkGroup
from upscaled.service.uninterrupted import Uninterrupted
from upscaled.timing.estimator import Estimate
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)


class RemoteRunner:
    """Leaves jobs to the workers of a cluster, and keeps the forecast of them up to date.

    Args:
        registry: the jobs.
        workspace: their files.
        queue: the waiting jobs, as the forecast sees them.
        order: their order.
        timing: the forecast.
        shared: informed of ends.
    """

    def __init__(
        self,
        registry: SharedRegistry,
        workspace: SharedWorkspace,
        queue: JobQueue,
        order: TagOrder,
        timing: JobTiming,
        shared: SharedWork,
    ) -> None:
        self._registry = registry
        self._workspace = workspace
        self._queue = queue
        self._order = order
        self._timing = timing
        self._shared = shared
        self._cancels = Uninterrupted()
        self._expected: dict[str, JobState] = {}
        self._changes: asyncio.Queue[tuple[Job, float]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        registry.watchers.append(self._note)

    def _note(self, job: Job, tag: float) -> None:
        self._changes.put_nowait((job, tag))

    async def _forecast(self) -> None:
        """Bring the forecast up to date with each change; runs until cancelled."""
        while True:
            job, tag = await self._changes.get()
            try:
                await self._expect(job, tag)
            except UpscaledError as error:  # its model is not installed here
                log.debug("job is not forecast", extra={"job": job.id, "reason": error.message})

    async def _expect(self, job: Job, tag: float) -> None:
        before = self._expected.get(job.id)
        if before is job.state:
            return
        forecaster = self._timing.forecaster
        if job.state in TERMINAL:
            self._expected.pop(job.id, None)
            self._queue.remove(job.id)
            forecaster.gone(job.id)
            self._shared.ended(job.id)
            return
        self._expected[job.id] = job.state
        if before is not JobState.QUEUED:
            waiting, estimate = await self._timing.waiting(job)
            forecaster.gone(job.id)
            self._put(job, waiting, estimate, tag)
        if job.state is JobState.PROCESSING:
            self._queue.remove(job.id)
            forecaster.taken(job.id)
            forecaster.begun(job.id)

    def _put(self, job: Job, waiting: Waiting, estimate: Estimate, tag: float) -> None:
        self._timing.forecaster.expect(job.id, estimate, small=is_small(job.input_size))
        self._order.tags[job.id] = tag
        self._queue.put(waiting)

    async def enqueue(self, job: Job, prepared: Prepared | None = None) -> None:
        """Delete a job's files on this machine: a worker takes it from the queue.

        Its caller may ask for its position before the database's notification arrives. Until then
        it counts as the last one.
        """
        del prepared
        await self._workspace.drop_local(job.id)
        with contextlib.suppress(UpscaledError):  # its model is not installed here
            waiting, estimate = await self._timing.waiting(job)
            now = self._registry.peek(job.id)
            if job.id not in self._expected and now is not None and now.state is JobState.QUEUED:
                self._put(job, waiting, estimate, math.inf)

    def follow(self, job: Job, group: WorkGroup) -> None:
        """Never called: jobs of a cluster join no other."""
        raise AssertionError(f"job {job.id} must not follow {group.leader}")

    @property
    def feeding(self) -> bool:
        """Whether changes are followed."""
        return self._task is not None and not self._task.done()

    @property
    def waiting_for_disk(self) -> Mapping[str, int]:
        """None: that is the workers' affair."""
        return {}

    def start(self) -> None:
        self._task = asyncio.create_task(kept_running(self._forecast, "forecast"), name="forecast")

    async def stop(self, drain_seconds: float = 0.0, hurry: asyncio.Event | None = None) -> None:
        """Stop following jobs; running ones continue without this server."""
        del drain_seconds, hurry
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self._cancels.done()
        await self._registry.ends_done()

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; its worker stops when it hears of that.

        Raises:
            UnknownJobError: there is none of this id.
            WrongStateError: it has ended already.
        """
        try:
            return await self._cancels.run(self._cancel(job_id), f"cancel-{job_id}")
        except NotUnderWayError:
            job = await self._registry.settled(job_id)
            raise WrongStateError(
                f"The job is {job.state.value} already and can't be cancelled."
            ) from None

    async def _cancel(self, job_id: str) -> Job:
        job = await self._registry.get(job_id)
        if job.state in TERMINAL:
            raise NotUnderWayError(job_id)
        job = await self._registry.advance(job_id, JobState.CANCELLED, finished=time.time())
        await self._workspace.remove_work(job_id, job.finished or time.time())
        log.info("job cancelled", extra={"job": job_id})
        return job
