"""How a job leaves the pipeline: completed, failed, or back in the queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from upscaled.errors import NoSpaceError
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.registry import JobRegistry, NotUnderWayError
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline.receipt import make_receipt
from upscaled.pipeline.result import RunResult
from upscaled.service.health import Health
from upscaled.service.sharing import SharedWork
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)

_RECORD_RETRY_SECONDS = 1.0


class Outcomes:
    """Records what became of a job's run: its result, its failure, or its return to the queue."""

    def __init__(
        self,
        registry: JobRegistry,
        workspace: Workspace,
        timing: JobTiming,
        health: Health,
        shared: SharedWork,
    ) -> None:
        self._shared = shared
        self._registry = registry
        self._workspace = workspace
        self._timing = timing
        self._health = health

    async def completed(self, job: Job, result: RunResult) -> None:
        """Record a job's result, with its receipt, and delete the files of its work."""
        receipt = await make_receipt(job, result, self._workspace.upload_of(job.id))
        if (current := self._registry.peek(job.id)) is not None:
            await self._learn(current, result)
        work = await self._shared.finished(job, result, receipt)
        if await self.end(
            job.id,
            JobState.COMPLETED,
            lambda: self._workspace.keep_result(job.id, result.path.name),
            work=work,
            progress=100,
            finished=time.time(),
            file_size_bytes=result.finished.file_size_bytes,
            receipt=receipt,
        ):
            self._health.worked(result.place)
            log.info(
                "job completed",
                extra={
                    "job": job.id,
                    "device": result.place.device.id,
                    "engine": result.place.engine,
                    "seconds": round(result.seconds.total, 2),
                    "bytes": result.finished.file_size_bytes,
                },
            )

    async def _learn(self, job: Job, result: RunResult) -> None:
        try:
            await self._timing.learn(job, result)
        except Exception:  # the result counts, later estimates do not
            log.exception("nothing was learned from a job", extra={"job": job.id})

    async def failed(self, job_id: str, sentence: str, *, server_fault: bool = True) -> None:
        """Record that a job has failed and why, and delete its files.

        Args:
            job_id: the job.
            sentence: why.
            server_fault: whether the server, not the picture, caused it.
        """
        now = time.time()
        if await self.end(
            job_id,
            JobState.FAILED,
            lambda: self._workspace.remove_work(job_id, now),
            finished=now,
            error=sentence,
            server_fault=server_fault,
        ):
            log.warning("job failed", extra={"job": job_id, "reason": sentence})

    async def end(
        self,
        job_id: str,
        state: JobState,
        tidy: Callable[[], Awaitable[object]],
        **changes: object,
    ) -> bool:
        """Record the end of a job; False if it was cancelled first.

        If that is impossible (a full disk, too many open files), it is retried until it succeeds:
        the work is done and must not be lost.
        """
        while True:
            try:
                await self._registry.advance(job_id, state, tidy=tidy, **changes)
            except NotUnderWayError:
                if not await self._registry.still_under_way(job_id):
                    return False
            except (NoSpaceError, OSError) as error:
                log.error(
                    "job's end can't be recorded yet", extra={"job": job_id, "reason": str(error)}
                )
                await asyncio.sleep(_RECORD_RETRY_SECONDS)
            else:
                self._shared.ended(job_id)
                return True

    async def put_back(self, job_id: str, **changes: Any) -> None:
        """Return a job to the queued state.

        If the disk is full, its record still says that it is processing. The next start queues it
        anyway, so that is no reason to fail.
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
            return  # it is being cancelled
        except NoSpaceError as error:
            log.error(
                "job's record can't be brought up to date",
                extra={"job": job_id, "reason": error.message},
            )
