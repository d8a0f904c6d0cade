"""Where pictures come in: bounds of queue and disk, uploads, and the jobs that are made of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from upscaled.clients import LOCAL, Client
from upscaled.config.settings import LimitSettings
from upscaled.errors import NoSpaceError, QueueFullError, ShuttingDownError
from upscaled.imaging import Prepared
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.workspace import Workspace
from upscaled.service.admission import DISK_RESERVE, Admission
from upscaled.service.dispatcher import Dispatcher
from upscaled.timing.timing import JobTiming, Quote

log = logging.getLogger(__name__)


class Submissions:
    """Takes uploads and makes queued jobs of them, until it is closed.

    Args:
        limits: how many jobs may wait, in all and of a client.
        admission: makes a job of fields and a file, or refuses.
        workspace: where uploads lie.
        book: where jobs are recorded.
        dispatcher: brings recorded jobs on their way.
        foresight: tells when it is worth trying again, and what a job would take.
    """

    def __init__(
        self,
        limits: LimitSettings,
        admission: Admission,
        workspace: Workspace,
        book: JobRegistry,
        dispatcher: Dispatcher,
        foresight: JobTiming,
    ) -> None:
        self._limits = limits
        self._admission = admission
        self._workspace = workspace
        self._registry = book
        self._dispatcher = dispatcher
        self._foresight = foresight
        self._admitting: Counter[str] = Counter()
        self._open = True

    @property
    def open(self) -> bool:
        """Whether anything is taken."""
        return self._open

    def close(self) -> None:
        """Take nothing more."""
        self._open = False

    def check(self, client: Client = LOCAL) -> None:
        """Refuse early, before an upload of ``client`` is read.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: the queue is full, or the client's share of it.
        """
        if not self._open:
            raise ShuttingDownError("The server is stopping; try again in a minute.",
                                    headers={"Retry-After": "60"})  # fmt: skip
        waiting = self._registry.count(JobState.QUEUED) + self._admitting.total()
        if waiting >= self._limits.max_queue_size:
            raise self._full(f"The queue is full ({waiting} jobs)")
        if self._limits.max_queue_per_client:
            own = self._registry.count_of(client.key) + self._admitting[client.key]
            if own >= self._limits.max_queue_per_client:
                raise self._full(f"You have {own} jobs in the queue, as many as one client may")

    def _full(self, why: str) -> QueueFullError:
        seconds = self._foresight.retry_after()
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
            UpscaledError: the refusal, see `Admission.admit` and `check`.
        """
        try:
            self.check(client)
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
        return job, await self._foresight.quote(job)

    async def _enter(self, job: Job, prepared: Prepared | None) -> None:
        try:
            await self._registry.add(job)
        except BaseException:
            await self._workspace.remove(job.id)
            raise
        await self._dispatcher.enqueue(job, prepared)
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
