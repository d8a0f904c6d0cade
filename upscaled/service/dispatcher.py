"""The dispatcher: starts queued jobs and records how they end."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from upscaled.engines.engine import is_small
from upscaled.errors import (
    EngineError,
    JobTimeoutError,
    NoMemoryError,
    NoSpaceError,
    ShortageError,
    UpscaledError,
    WrongStateError,
    is_shortage,
)
from upscaled.imaging import Prepared
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry, NotUnderWayError
from upscaled.jobs.updates import Stage
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline import checkpoint
from upscaled.pipeline.footprint import TimeLimit
from upscaled.pipeline.pipeline import Pipeline
from upscaled.pipeline.result import RunResult
from upscaled.service.deferred import DeferredJobs
from upscaled.service.disk_room import DiskRoom
from upscaled.service.followers import Followers
from upscaled.service.health import Health
from upscaled.service.outcomes import Outcomes
from upscaled.service.prefetch import Prefetcher, Turn
from upscaled.service.run_reporter import RunReporter
from upscaled.service.sharing import SharedWork, WorkGroup
from upscaled.service.uninterrupted import Uninterrupted
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)

INTERNAL_ERROR = "An internal error ended the job; the server's log has more."

_FEED_AGAIN_SECONDS = 1.0
_CANCEL_SECONDS = 30.0
"""How long a cancellation waits for a job's processes to end; the kernel may keep them longer."""
_SERVER_ERROR = 500
"""HTTP status from which on an error is not the picture's."""


@dataclass(eq=False)
class _UnderWay:
    """A job that has left the queue: its task, its turn, and its permit."""

    task: asyncio.Task[None]
    turn: Turn
    _permits: asyncio.Semaphore
    _left: bool = False

    def leave(self) -> None:
        """Give turn and permit back; may be called more than once."""
        self.turn.leave()
        if not self._left:
            self._left = True
            self._permits.release()


class Dispatcher:
    """Feeds queued jobs to the pipeline and records how each of them ends.

    A job shows as processing once it holds a slot. While others hold the slots, the next jobs are
    decoded, and earlier ones are encoded. Both are bounded, since a job that has left the queue
    can't be overtaken, and raw pixels take disk space. A job that waits for disk space does not
    count towards either bound.
    """

    def __init__(
        self,
        registry: JobRegistry,
        queue: JobQueue,
        pipeline: Pipeline,
        workspace: Workspace,
        health: Health,
        *,
        timing: JobTiming,
        shared: SharedWork,
        slots: int,
        time_limit: TimeLimit,
    ) -> None:
        self._shared = shared
        self._registry = registry
        self._queue = queue
        self._pipeline = pipeline
        self._workspace = workspace
        self._health = health
        self._timing = timing
        self._forecaster = timing.forecaster
        self._time_limit = time_limit
        self._run_reporter = RunReporter(registry, timing, time_limit)
        self._permits = asyncio.Semaphore(2 * slots + 2)
        self._prefetcher = Prefetcher(slots, timing.forecaster)
        self._disk_room = DiskRoom(workspace, timing.disk_bytes, self._writing)
        self._feeder: asyncio.Task[None] | None = None
        self._under_way: dict[str, _UnderWay] = {}
        self._outcomes = Outcomes(registry, workspace, timing, health, shared)
        self.followers = Followers(registry, shared, workspace, self._outcomes, self.enqueue)
        self._deferred = DeferredJobs(
            workspace,
            self._disk_room,
            self._outcomes,
            queue_again=self._queue_again,
            gone=self._forget,
        )
        self._prepared: dict[str, Prepared] = {}
        self._cancels = Uninterrupted()

    async def resume(self, job: Job, max_crashes: int) -> None:
        """Queue a job of an earlier run again; one that was started too often fails."""
        if job.state is JobState.PROCESSING or await self._workspace.is_begun(job.id):
            # If the run made progress, the picture did not crash the server.
            folder = self._workspace.folder(job.id)
            crashes = 0 if await checkpoint.has_advanced(folder) else job.crashes + 1
            if crashes >= max_crashes:
                times = "once" if crashes == 1 else f"{crashes} times"
                sentence = (
                    f"The server died {times} while it worked on this picture; it is not tried "
                    "again (upscaler.max_crashes)."
                )
                self._shared.give_up(job.id, sentence)
                await self._outcomes.failed(job.id, sentence)
                return
            await self._outcomes.put_back(job.id, crashes=crashes)
            await self._workspace.end(job.id)
        await self.enqueue(job)

    async def enqueue(self, job: Job, prepared: Prepared | None = None) -> None:
        """Put a job into the queue; one whose model is missing fails.

        Args:
            job: the job.
            prepared: its picture, if it is decoded already.
        """
        try:
            waiting, estimate = await self._timing.waiting(job)
        except UpscaledError as error:
            await self._outcomes.failed(job.id, error.message)
            return
        if self._registry.peek(job.id) is not None:  # otherwise cancelled meanwhile
            if prepared is not None:
                self._prepared[job.id] = prepared
            self._forecaster.expect(job.id, estimate, small=is_small(job.input_size))
            self._queue.put(waiting)

    def follow(self, job: Job, group: WorkGroup) -> None:
        """Give a job the result of its group's leader."""
        self.followers.add(job, group)

    async def fail(self, job_id: str, sentence: str) -> None:
        """Let a job fail that can't be begun."""
        await self._outcomes.failed(job_id, sentence)

    async def _queue_again(self, job_id: str) -> bool:
        """Queue a job that was set aside; False if it has ended meanwhile."""
        job = self._registry.peek(job_id)
        if job is not None:
            await self.enqueue(job)
        return job is not None

    @property
    def feeding(self) -> bool:
        """Whether queued jobs are being started."""
        return self._feeder is not None and not self._feeder.done()

    @property
    def waiting_for_disk(self) -> Mapping[str, int]:
        """The jobs that wait for room on the disk, with the bytes that each needs."""
        return self._disk_room.waiting

    def start(self) -> None:
        self._feeder = asyncio.create_task(self._feed(), name="dispatcher")

    async def stop(self, drain_seconds: float = 0.0, hurry: asyncio.Event | None = None) -> None:
        """Start no more jobs; let active jobs finish for a while, and put the rest back.

        Jobs that are put back are queued in the store, for the next start.

        Args:
            drain_seconds: how long active jobs may take to finish.
            hurry: ends that wait when it is set.
        """
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
            self._feeder = None
        for job_id, entry in self._under_way.items():
            job = self._registry.peek(job_id)
            if job is None or job.state is JobState.QUEUED:
                entry.task.cancel()
        tasks = [entry.task for entry in self._under_way.values()]
        tasks += self.followers.served_soon()
        if tasks and drain_seconds > 0:
            await _ended(tasks, drain_seconds, hurry or asyncio.Event())
        await _cancelled([*tasks, *self._deferred.tasks(), *self.followers.tasks()])
        await self._cancels.done()
        await self._registry.ends_done()
        for job in self._registry.active():
            if job.state is JobState.PROCESSING:
                await self._outcomes.put_back(job.id)

    async def _feed(self) -> None:
        while True:
            await self._permits.acquire()
            turn: Turn | None = None
            try:
                turn = await self._prefetcher.next_turn()
                job_id = (await self._queue.take()).id
            except BaseException as error:
                self._permits.release()
                if turn is not None:
                    turn.leave()
                if not isinstance(error, Exception):
                    raise
                # Without its feeder the service would accept jobs but do none.
                log.exception("The queue can't be read; it is tried again.")
                await asyncio.sleep(_FEED_AGAIN_SECONDS)
                continue
            self._forecaster.taken(job_id)
            task = asyncio.create_task(self._work(job_id, turn), name=f"job-{job_id}")
            entry = _UnderWay(task, turn, self._permits)
            self._under_way[job_id] = entry
            task.add_done_callback(functools.partial(self._work_ended, job_id, entry))

    def _work_ended(self, job_id: str, entry: _UnderWay, task: asyncio.Task[None]) -> None:
        entry.leave()
        if self._under_way.get(job_id) is entry:
            del self._under_way[job_id]
        if job_id not in self._deferred:
            self._forget(job_id)
        self._disk_room.forget(job_id)
        self._prefetcher.job_ended()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job's task broke", extra={"job": job_id}, exc_info=error)

    def _forget(self, job_id: str) -> None:
        self._prepared.pop(job_id, None)
        self._deferred.forget(job_id)
        self._forecaster.gone(job_id)

    def _writing(self) -> list[Job]:
        """Return the jobs that are writing files."""
        jobs = (self._registry.peek(job_id) for job_id in self._under_way)
        return [job for job in jobs if job is not None]

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; when this returns, none of its work runs and its files are deleted.

        Only a process that the kernel does not end may remain; it has no job any more. A
        cancellation that has begun is completed, even if the caller is cancelled.

        Raises:
            UnknownJobError: there is none of this id.
            WrongStateError: it has ended already.
        """
        try:
            return await self._cancels.run(self._cancel(job_id), f"cancel-{job_id}")
        except NotUnderWayError:  # recording its end may take long; a stop does not wait for that
            job = await self._registry.settled(job_id)
            raise WrongStateError(
                f"The job has ended already ({job.state.value}) and can't be cancelled."
            ) from None

    async def _cancel(self, job_id: str) -> Job:
        """Cancel a job; see `cancel`.

        Raises:
            UnknownJobError: there is none of this id.
            NotUnderWayError: it has ended already, or is about to.
        """
        await self._registry.get(job_id)
        job = await self._registry.advance(job_id, JobState.CANCELLED, finished=time.time())
        try:
            await self._end_work(job_id, job.finished or time.time())
        finally:
            self._shared.ended(job_id)
        log.info("job cancelled", extra={"job": job_id})
        return job

    async def _end_work(self, job_id: str, ended: float) -> None:
        """End the work of a cancelled job; an identical one goes on from where it was."""
        self._queue.remove(job_id)
        entry, waiting = self._under_way.get(job_id), self._deferred.task(job_id)
        tasks = [*([entry.task] if entry else []), *([waiting] if waiting else [])]
        alive = await _cancelled([*tasks, *self.followers.tasks(job_id)])
        if alive and entry is not None:
            log.error("job's processes can't be ended", extra={"job": job_id})
            entry.leave()
            self._under_way.pop(job_id, None)
        self._forget(job_id)
        self._disk_room.forget(job_id)
        if not alive and (heir := self._shared.heir_of(job_id)) is not None:
            await self._workspace.hand_on(job_id, heir)
        await self._workspace.remove_work(job_id, ended)

    async def _work(self, job_id: str, turn: Turn) -> None:
        """Do one job until it ends or is set aside."""
        while (job := self._registry.peek(job_id)) is not None:  # otherwise cancelled meanwhile
            try:
                result = await self._run(job, turn)
                self._registry.report_progress(job_id, 99)
                await self._outcomes.completed(job, result)
            except NotUnderWayError:
                if await self._registry.still_under_way(job_id):
                    continue  # a cancellation could not be recorded
            except NoMemoryError as error:  # of what one picture may have
                await self._outcomes.failed(job_id, error.message, server_fault=False)
            except NoSpaceError as error:
                self._forecaster.defer(job.id)
                self._deferred.until_room(job, error)
            except ShortageError as error:
                self._forecaster.defer(job.id)
                self._deferred.until_retry(job, error.message)
            except UpscaledError as error:
                await self._outcomes.failed(
                    job_id, error.message, server_fault=error.status >= _SERVER_ERROR
                )
                if isinstance(error, EngineError | JobTimeoutError):
                    self._health.doubt()
            except Exception as error:
                if isinstance(error, OSError) and is_shortage(error):
                    reason = f"The server's system refused what the job needs: {error.strerror}."
                    self._forecaster.defer(job.id)
                    self._deferred.until_retry(job, reason)
                    return
                log.exception("job met an unexpected error", extra={"job": job_id})
                await self._outcomes.failed(job_id, INTERNAL_ERROR)
            return

    async def _run(self, job: Job, turn: Turn) -> RunResult:
        """Do all of a job's work once."""
        try:
            async with asyncio.timeout(None) as deadline:
                callbacks = self._run_reporter.of(job, deadline, turn)
                prepared = self._prepared.pop(job.id, None)
                run = self._pipeline.run(job, callbacks, prepared=prepared, rank=turn.rank)
                if prepared is None:
                    self._registry.report_stage(job.id, Stage.PREPARING)
                await run.prepare()
                await turn.come()
                return await run.produce()
        except TimeoutError:
            if not deadline.expired():
                raise
            raise JobTimeoutError(self._time_limit.complaint(job)) from None


async def _ended(
    tasks: Collection[asyncio.Task[None]], seconds: float, hurry: asyncio.Event
) -> None:
    """Wait until all tasks have ended, at most for ``seconds`` or until ``hurry`` is set."""
    ended = asyncio.create_task(asyncio.wait(tasks), name="drain")
    hurried = asyncio.create_task(hurry.wait(), name="hurry")
    try:
        await asyncio.wait([ended, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        hurried.cancel()


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Cancel tasks and wait for their end; return those that take too long."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return set()
    _, left = await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
    return left
