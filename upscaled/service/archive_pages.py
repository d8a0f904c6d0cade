"""`PageJobs`: the pages of one archive as jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from upscaled import files
from upscaled.archives.errors import UnusableArchiveError
from upscaled.archives.plan import Planned, page_fields
from upscaled.callers import Caller
from upscaled.errors import (
    OUT_OF_SPACE,
    NoMemoryError,
    NoSpaceError,
    QueueFullError,
    ResultGoneError,
    ShuttingDownError,
    StoreUnavailableError,
    UnknownJobError,
    UnknownModelError,
    UpscaledError,
    WrongStateError,
    is_shortage,
)
from upscaled.imaging import Probe
from upscaled.jobs.archive_records import ArchiveRecord, PageState, owner_of_pages
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.store import JobFilter
from upscaled.pictures import Size, SizeLimit
from upscaled.service.job_access import JobAccess
from upscaled.service.submission import Submissions

log = logging.getLogger(__name__)

_MOST_TRIES = 5
"""How often a page is submitted if its job fails and the page is not to blame."""
_PAUSE_SECONDS = 2.0
"""Pause before a page that had no room is submitted again, unless another one ends first."""
_MOST_JOBS = 1000
"""The most jobs of one archive that are looked up; there are a few at a time."""
_WAITS = (QueueFullError, NoSpaceError, ShuttingDownError, StoreUnavailableError)
"""Refusals for which neither the page nor a fault of the server is to blame."""
_SERVER_ERROR = 500

ProbePicture = Callable[[Path, Caller], Awaitable[Probe]]


@dataclass(frozen=True)
class PageOutcome:
    """What became of a page."""

    state: PageState
    path: Path | None = None
    """Its result."""
    job_id: str | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    device: str | None = None
    error: str | None = None
    code: str | None = None


class PageJobs:
    """Submits pages and waits for them.

    The owner of their jobs is the archive, and their label is the page's number. That is how a
    later run of the server finds them again. They count towards the share of the archive's client.

    Args:
        record: the archive.
        folder: for results that are not in the new archive yet.
        submissions: takes the pages in.
        jobs: has what becomes of them.
        probe: tells the size of a picture.
        places: in the queue, for pages of all archives.
    """

    def __init__(
        self,
        record: ArchiveRecord,
        folder: Path,
        submissions: Submissions,
        jobs: JobAccess,
        probe: ProbePicture,
        places: asyncio.Semaphore,
    ) -> None:
        self._owner = owner_of_pages(record.id)
        self._caller = Caller(self._owner, record.client)
        self._fields = record.fields
        self._only_below = (
            SizeLimit.parse(record.only_below, "only_below") if record.only_below else None
        )
        self._folder = folder
        self._submissions = submissions
        self._jobs = jobs
        self._probe = probe
        self._places = places
        self._earlier: dict[int, Job] = {}
        self._under_way: dict[int, str] = {}
        self._ended = asyncio.Event()

    async def take_up(self, done: int) -> None:
        """Find the jobs of an earlier run; delete those of the first ``done`` pages."""
        for job in await self._all():
            number = _number_of(job)
            if number > done and number not in self._earlier:
                self._earlier[number] = job
            else:
                await self.delete(job.id)

    async def _all(self) -> list[Job]:
        return await self._jobs.page(JobFilter(self._owner), None, _MOST_JOBS)

    async def drop_all(self) -> None:
        """Cancel and delete all jobs of the archive."""
        for job in await self._all():
            await self.delete(job.id)

    async def delete(self, job_id: str) -> None:
        """Delete a job; cancel it first if it has not ended."""
        try:
            job = await self._jobs.get(job_id)
            if job.state not in TERMINAL:
                with contextlib.suppress(WrongStateError):  # it has just ended
                    await self._jobs.cancel(job_id)
            await self._jobs.delete(job_id)
        except UnknownJobError:
            return
        except NoSpaceError as error:  # of the records; it is deleted when it is too old
            log.warning(
                "page's job can't be deleted", extra={"job": job_id, "reason": error.message}
            )

    async def stage_of(self, number: int) -> tuple[PageState, int]:
        """Return the state and the progress of a page that is not in the new archive yet."""
        job_id = self._under_way.get(number)
        if job_id is not None:
            with contextlib.suppress(UnknownJobError):
                job = await self._jobs.get(job_id)
                if job.state is not JobState.QUEUED:
                    return PageState.PROCESSING, min(job.progress, 99)
        return PageState.QUEUED, 0

    async def upscale(
        self, number: int, one: Planned, extract: Callable[[Path], None]
    ) -> PageOutcome:
        """Do one page.

        Args:
            number: of the page, from 1.
            one: its entry.
            extract: writes it to a file; blocking.

        Raises:
            UnusableArchiveError: it can't be read.
            UnknownModelError: the model is gone.
        """
        async with self._places:
            return await self._upscaled(number, one, extract)

    async def _upscaled(
        self, number: int, one: Planned, extract: Callable[[Path], None]
    ) -> PageOutcome:
        job, tries = self._earlier.pop(number, None), 0
        if job is not None:
            tries = _tries_of(job)
        try:
            while True:
                if job is None:
                    tries += 1
                    made = await self._submitted(f"{number}.{tries}", one, extract)
                    if isinstance(made, PageOutcome):
                        return made
                    job = made
                self._under_way[number] = job.id
                outcome = await self._outcome_of(job.id, number)
                if outcome is not None:
                    return outcome
                if tries >= _MOST_TRIES:
                    return await self._given_up(job.id)
                await self.delete(job.id)
                job = None
        finally:
            self._under_way.pop(number, None)
            self._ended.set()

    async def _submitted(
        self, label: str, one: Planned, extract: Callable[[Path], None]
    ) -> Job | PageOutcome:
        """Submit a page when there is room for it; return its outcome if it needs no job."""
        fields = {**page_fields(self._fields, one.result), "client_ref": label}
        faults = 0
        while True:
            upload = self._submissions.reserve_upload()
            try:
                await files.in_thread(extract, upload)
                if self._only_below is not None:
                    size = (await self._probe(upload, self._caller)).size
                    if not self._only_below.takes(size):
                        return PageOutcome(PageState.KEPT, input_size=size, output_size=size)
                name = PurePosixPath(one.entry.name).name
                return await self._submissions.submit(fields, upload, name, self._caller)
            except (UnusableArchiveError, UnknownModelError):
                raise
            except UpscaledError as error:
                faults += not isinstance(error, _WAITS)
                lasts = isinstance(error, NoMemoryError) or error.status < _SERVER_ERROR
                if lasts or faults >= _MOST_TRIES:
                    return PageOutcome(PageState.FAILED, error=error.message, code=error.code)
                reason = error.message
            except OSError as error:
                if not is_shortage(error) and error.errno not in OUT_OF_SPACE:
                    raise
                reason = str(error)
            finally:
                await self._submissions.discard_upload(upload)
            log.info("page waits", extra={"archive": self._owner, "page": label, "reason": reason})
            await self._pause()

    async def _pause(self) -> None:
        """Wait until another page of the archive has ended, or for a while."""
        self._ended.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE_SECONDS):
                await self._ended.wait()

    async def _outcome_of(self, job_id: str, number: int) -> PageOutcome | None:
        """Wait for a job; return what became of the page, None if it must be done again."""
        try:
            job = await self._jobs.wait(job_id)
            if job.state is JobState.COMPLETED:
                result = await self._jobs.result(job_id)
                kept = self._folder / f"{number}.page"
                await files.in_thread(_link, result.path, kept)
                return PageOutcome(
                    PageState.UPSCALED, kept, job_id, job.input_size, job.request.output_size,
                    job.device,
                )  # fmt: skip
        except (UnknownJobError, ResultGoneError, FileNotFoundError):
            return None
        if job.state is JobState.CANCELLED or job.crashes or job.server_fault:
            return None
        return _failed(job)

    async def _given_up(self, job_id: str) -> PageOutcome:
        with contextlib.suppress(UnknownJobError):
            return _failed(await self._jobs.get(job_id))
        return PageOutcome(
            PageState.FAILED, error="The page's result was lost again and again.", code="job_failed"
        )


def _failed(job: Job) -> PageOutcome:
    return PageOutcome(
        PageState.FAILED, None, job.id, job.input_size,
        error=job.error or f"The page's job is {job.state.value}.", code="job_failed",
    )  # fmt: skip


def _link(result: Path, kept: Path) -> None:
    """Link a result under another name: the job's own is deleted when it expires."""
    kept.unlink(missing_ok=True)
    os.link(result, kept)


def _number_of(job: Job) -> int:
    return int((job.client_ref or "0").partition(".")[0])


def _tries_of(job: Job) -> int:
    return int((job.client_ref or "0.1").partition(".")[2] or "1")
