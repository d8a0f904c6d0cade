"""The dispatcher: which jobs are under way, and what becomes of them."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from upscaled.engines.engine import is_small
from upscaled.engines.pool import Place
from upscaled.errors import (
    EngineError,
    JobTimeoutError,
    NoMemoryError,
    NoSpaceError,
    UpscaledError,
    WrongStateError,
)
from upscaled.imaging import Prepared
from upscaled.jobs.job import Attempt, Job, JobState
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry, NotUnderWayError
from upscaled.jobs.updates import Stage
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline import checkpoint
from upscaled.pipeline.footprint import TimeLimit, disk_bytes
from upscaled.pipeline.pipeline import Pipeline, Watch
from upscaled.pipeline.receipt import write_receipt
from upscaled.pipeline.run import UPSCALED, Product, Timings
from upscaled.service import prefetch
from upscaled.service.health import Health
from upscaled.service.prefetch import Prefetcher
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)

_RECORD_RETRY_SECONDS = 1.0
_FEED_AGAIN_SECONDS = 1.0
_ROOM_SECONDS = 5.0
"""How often a job that waits for a full disk looks whether there is room again."""
_REFUSALS = 3
"""Times a job may meet a full disk that has the room it needs: a quota, or our mistake."""


class Dispatcher:
    """Feeds queued jobs to the pipeline and writes their fates into the book.

    A job shows as processing once it holds a slot. While others hold the slots, the next jobs
    are decoded already, and those before are encoded still. Both are bounded: what was taken from
    the queue can't be overtaken any more, and raw pixels take room on the disk.
    """

    def __init__(
        self,
        book: JobRegistry,
        queue: JobQueue,
        pipeline: Pipeline,
        workspace: Workspace,
        health: Health,
        *,
        foresight: JobTiming,
        slots: int,
        time_limit: TimeLimit,
    ) -> None:
        self._registry = book
        self._queue = queue
        self._pipeline = pipeline
        self._workspace = workspace
        self._health = health
        self._foresight = foresight
        self._forecaster = foresight.forecaster
        self._time_limit = time_limit
        self._room = asyncio.Semaphore(2 * slots + 2)
        self._lookahead = Prefetcher(slots, foresight.forecaster)
        self._feeder: asyncio.Task[None] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._prepared: dict[str, Prepared] = {}

    async def resume(self, job: Job, max_attempts: int) -> None:
        """Take up a job of an earlier run; one that was begun too often fails."""
        if job.state is JobState.PROCESSING or await self._workspace.is_begun(job.id):
            # A run that got on is no sign that the picture brings the server down.
            folder = self._workspace.folder(job.id)
            crashes = 0 if await checkpoint.has_advanced(folder) else job.crashes + 1
            if crashes >= max_attempts:
                times = "once" if crashes == 1 else f"{crashes} times"
                await self._fail(
                    job.id,
                    f"The server died {times} while it worked on this picture; it is not tried "
                    "again (upscaler.max_attempts).",
                )
                return
            await self._put_back(job.id, crashes=crashes)
            await self._workspace.end(job.id)
        await self.enqueue(job)

    async def enqueue(self, job: Job, prepared: Prepared | None = None) -> None:
        """Have a job wait for its turn; one whose model is gone fails.

        Args:
            job: the job.
            prepared: its picture, where that is decoded already.
        """
        try:
            waiting, estimate = await self._foresight.waiting(job)
        except UpscaledError as error:
            await self._fail(job.id, error.message)
            return
        if self._registry.peek(job.id) is not None:  # else cancelled meanwhile
            if prepared is not None:
                self._prepared[job.id] = prepared
            self._forecaster.expect(job.id, estimate, small=is_small(job.input_size))
            self._queue.put(waiting)

    @property
    def feeding(self) -> bool:
        """Whether jobs that are queued are brought on their way."""
        return self._feeder is not None and not self._feeder.done()

    def start(self) -> None:
        """Begin to feed."""
        self._feeder = asyncio.create_task(self._feed(), name="dispatcher")

    async def stop(self, drain_seconds: float = 0.0, hurry: asyncio.Event | None = None) -> None:
        """Begin nothing more; let jobs under way finish for a while, put the rest back.

        Those put back are queued again in the store, for the next start.

        Args:
            drain_seconds: how long jobs under way may take to finish.
            hurry: ends that wait when it is set.
        """
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
            self._feeder = None
        for job_id in list(self._tasks):
            job = self._registry.peek(job_id)
            if job is None or job.state is JobState.QUEUED:
                self._tasks[job_id].cancel()
        if self._tasks and drain_seconds > 0:
            ended: asyncio.Future[Any] = asyncio.gather(
                *self._tasks.values(), return_exceptions=True
            )
            hurried: asyncio.Future[Any] = asyncio.create_task(
                (hurry or asyncio.Event()).wait(), name="hurry"
            )
            try:
                await asyncio.wait(
                    [ended, hurried], timeout=drain_seconds, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                hurried.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._registry.ends_done()
        for job in self._registry.active():
            if job.state is JobState.PROCESSING:
                await self._put_back(job.id)

    async def _put_back(self, job_id: str, **changes: Any) -> None:
        """Bring a job back into the queue.

        Where the disk is full its record still says that it was being worked on. The next start
        comes to the same end, so that is no reason to fail.
        """
        job = self._registry.peek(job_id)
        if job is None:
            return
        try:
            if job.state is JobState.QUEUED:
                await self._registry.rewrite(job_id, **changes)
            else:
                await self._registry.advance(
                    job_id, JobState.QUEUED, progress=0, device=None, **changes
                )
        except NotUnderWayError:
            return  # being cancelled just now
        except NoSpaceError as error:
            log.error(
                "job's record can't be brought up to date",
                extra={"job": job_id, "reason": error.message},
            )

    async def _feed(self) -> None:
        while True:
            await self._room.acquire()
            try:
                await self._lookahead.wait()
                job_id = (await self._queue.take()).id
            except Exception:
                # Without its feeder the service would take jobs and do none.
                self._room.release()
                log.exception("The queue can't be read; it is tried again.")
                await asyncio.sleep(_FEED_AGAIN_SECONDS)
                continue
            ahead = self._lookahead.place()
            self._forecaster.taken(job_id)
            task = asyncio.create_task(self._work(job_id, ahead), name=f"job-{job_id}")
            self._tasks[job_id] = task
            task.add_done_callback(functools.partial(self._done, job_id, ahead))

    def _done(self, job_id: str, ahead: prefetch.Place, task: asyncio.Task[None]) -> None:
        del self._tasks[job_id]
        ahead.leave()
        self._forecaster.gone(job_id)
        self._lookahead.look()
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job's task broke", extra={"job": job_id}, exc_info=error)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; nothing of it runs any more and its files are gone when this returns.

        Raises:
            UnknownJobError: there is none of this id.
            WrongStateError: it has ended already.
        """
        job = await self._registry.get(job_id)
        try:
            job = await self._registry.advance(job_id, JobState.CANCELLED, finished=time.time())
        except NotUnderWayError:
            job = await self._registry.settled(job_id)
            raise WrongStateError(
                f"The job is {job.state.value} already and can't be cancelled."
            ) from None
        self._queue.remove(job_id)
        self._prepared.pop(job_id, None)
        self._forecaster.gone(job_id)
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._workspace.remove(job_id)
        log.info("job cancelled", extra={"job": job_id})
        return job

    async def _work(self, job_id: str, ahead: prefetch.Place) -> None:
        """Bring one job to its end, whatever that is."""
        refusals = 0
        while (job := self._registry.peek(job_id)) is not None:  # else cancelled meanwhile
            try:
                product = await self._through(job, ahead)
                self._registry.report_progress(job_id, 99)
                await self._complete(job, product)
            except NotUnderWayError:
                if await self._registry.still_under_way(job_id):
                    continue  # a cancellation could not be recorded
            except UpscaledError as error:
                if isinstance(error, NoSpaceError) and not isinstance(error, NoMemoryError):
                    ahead.leave()
                    log.warning(
                        "job waits for room on the disk",
                        extra={"job": job_id, "reason": error.message},
                    )
                    refusals = 0 if await self._room_was_made(job) else refusals + 1
                    if refusals < _REFUSALS:
                        continue
                await self._fail(job_id, error.message)
                if isinstance(error, EngineError | JobTimeoutError):
                    self._health.doubt()
            except Exception:
                log.exception("job met an unexpected error", extra={"job": job_id})
                await self._fail(
                    job_id, "An internal error ended the job; the server's log has more."
                )
            return

    async def _through(self, job: Job, ahead: prefetch.Place) -> Product:
        """Do all of a job's work once."""
        timings = Timings()
        prepared = self._prepared.pop(job.id, None) or await self._prepare(job, timings)
        await ahead.turn()
        try:
            async with asyncio.timeout(None) as deadline:
                return await self._pipeline.produce(
                    job,
                    prepared,
                    self._watch(job, deadline, ahead),
                    timings,
                    rank=ahead.rank,
                )
        except TimeoutError:
            if not deadline.expired():
                raise
            raise JobTimeoutError(self._time_limit.complaint(job)) from None

    async def _prepare(self, job: Job, timings: Timings) -> Prepared:
        self._registry.report_stage(job.id, Stage.PREPARING)
        await self._workspace.begin(job.id)
        try:
            return await self._pipeline.prepare(job, timings)
        finally:  # only a death of the server leaves the note
            await self._workspace.end(job.id)

    async def _room_was_made(self, job: Job) -> bool:
        """Wait until the disk has the room that the job needs; tell if there was any waiting.

        The job was accepted, so a full disk delays it; its intermediate files make room meanwhile.
        """
        await self._put_back(job.id)
        self._forecaster.set_aside(job.id)
        await self._workspace.keep_only(job.id, "upload")
        need = disk_bytes(job.input_size, job.request.output_size)
        waited = False
        while await self._workspace.free_bytes() < need:
            waited = True
            await asyncio.sleep(_ROOM_SECONDS)
        self._forecaster.taken(job.id)
        return waited

    def _watch(self, job: Job, deadline: asyncio.Timeout, ahead: prefetch.Place) -> Watch:
        def started(place: Place) -> None:
            ahead.leave()
            self._foresight.begun(job.id, place)
            self._registry.report_stage(job.id, Stage.UPSCALING)
            current = self._registry.peek(job.id)
            if current is not None and current.state is JobState.PROCESSING:
                self._registry.amend(job.id, device=place.device.id)
                return
            seconds = self._time_limit.seconds(job)
            deadline.reschedule(asyncio.get_running_loop().time() + seconds)
            self._registry.begin(
                job.id,
                started=time.time(),
                device=place.device.id,
                runs=(current or job).runs + 1,
            )
            waited = round(time.time() - job.created, 2)
            log.info(
                "job started",
                extra={
                    "job": job.id,
                    "device": place.device.id,
                    "engine": place.engine,
                    "run": job.runs + 1,
                    "waited": waited,
                },
            )

        def attempted(attempt: Attempt) -> None:
            current = self._registry.peek(job.id)
            if current is not None:
                self._registry.amend(job.id, attempts=(*current.attempts, attempt))

        def progressed(percent: int) -> None:
            self._registry.report_progress(job.id, percent)
            if percent >= UPSCALED:
                self._registry.report_stage(job.id, Stage.FINISHING)

        return Watch(started=started, progress=progressed, attempted=attempted)

    async def _complete(self, job: Job, product: Product) -> None:
        finished = product.finished
        receipt = await write_receipt(job, product, self._workspace.upload_of(job.id))
        if (current := self._registry.peek(job.id)) is not None:
            await self._foresight.learn(current, product)
        now = time.time()
        if await self._end(
            job.id,
            JobState.COMPLETED,
            lambda: self._workspace.keep_only(job.id, finished.path.name),
            progress=100,
            finished=now,
            file_size_bytes=finished.file_size_bytes,
            receipt=receipt,
        ):
            seconds = sum(product.timings.stages.values())
            self._health.worked(product.place)
            log.info(
                "job completed",
                extra={
                    "job": job.id,
                    "device": product.place.device.id,
                    "engine": product.place.engine,
                    "seconds": round(seconds, 2),
                    "bytes": finished.file_size_bytes,
                },
            )

    async def _fail(self, job_id: str, sentence: str) -> None:
        if await self._end(
            job_id,
            JobState.FAILED,
            lambda: self._workspace.remove(job_id),
            finished=time.time(),
            error=sentence,
        ):
            log.warning("job failed", extra={"job": job_id, "reason": sentence})

    async def _end(
        self,
        job_id: str,
        state: JobState,
        tidy: Callable[[], Awaitable[object]],
        **changes: object,
    ) -> bool:
        """Write down an end; False when a cancellation came first.

        While the disk is full it is tried again and again: the work is done, and must not be lost.
        """
        while True:
            try:
                await self._registry.advance(job_id, state, tidy=tidy, **changes)
            except NotUnderWayError:
                if not await self._registry.still_under_way(job_id):
                    return False
            except NoSpaceError as error:
                log.error(
                    "job's end can't be recorded yet",
                    extra={"job": job_id, "reason": error.message},
                )
                await asyncio.sleep(_RECORD_RETRY_SECONDS)
            else:
                return True
