"""`Archives`: archives as their callers use them, from the upload to the download."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from upscaled.archives import assembly
from upscaled.archives.opened import OpenArchive
from upscaled.callers import Caller
from upscaled.config.settings import Config
from upscaled.engines.pool import EnginePool
from upscaled.errors import (
    NoSpaceError,
    QueueFullError,
    ShuttingDownError,
    UnknownArchiveError,
    UnknownJobError,
    UpscaledError,
    WrongStateError,
)
from upscaled.files import make_folder
from upscaled.jobs.archive_records import (
    ArchivePage,
    ArchiveRecord,
    ArchiveState,
    ArchiveStore,
    archive_of,
)
from upscaled.jobs.job import is_job_id
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.store import KeyTakenError, SubmissionKey
from upscaled.jobs.workspace import Workspace
from upscaled.service.admission import Admission
from upscaled.service.archive_admission import ArchiveAdmission
from upscaled.service.archive_pages import PageJobs
from upscaled.service.archive_results import ArchiveResults
from upscaled.service.archive_run import ArchiveRun, counted, keep_only_result
from upscaled.service.idempotency import KeyClaim, fingerprint, key_in_use
from upscaled.service.job_access import JobAccess
from upscaled.service.submission import Submissions
from upscaled.service.uninterrupted import Uninterrupted

log = logging.getLogger(__name__)

_NO_SUCH_ARCHIVE = "There is no archive with this id; it may have been forgotten by now."
_RETRY_SECONDS = 30
_AGAIN_SECONDS = 1.0


@dataclass
class _UnderWay:
    """An archive that is worked on."""

    run: ArchiveRun
    task: asyncio.Task[None]
    ending: bool = False
    """Its end is being recorded."""


class Archives:
    """Takes archives, lets their pages be upscaled as jobs, and keeps the results.

    Args:
        config: the settings.
        store: records archives.
        workspace: of the jobs; archives have folders beside it.
        admission: checks fields and sizes.
        submissions: takes pages in.
        jobs: has what becomes of pages.
        registry: has the pages that an earlier run left.
        width: how many pages of an archive are submitted ahead.
    """

    def __init__(
        self,
        config: Config,
        store: ArchiveStore,
        workspace: Workspace,
        admission: Admission,
        submissions: Submissions,
        jobs: JobAccess,
        registry: JobRegistry,
        width: int,
    ) -> None:
        self._settings = config.archives
        self._default_model = config.upscaler.default_model
        self._store = store
        self._folder = workspace.data_dir / "archives"
        self._probe = admission.probe
        self._submissions = submissions
        self._jobs = jobs
        self._registry = registry
        self._width = width
        self._under_way: dict[str, _UnderWay] = {}
        self._beginning: Counter[str] = Counter()
        self._changes = Uninterrupted()
        # The rest of the queue is for everybody else.
        self._places = asyncio.Semaphore(max(1, config.limits.max_queue_size // 4))
        self._admission = ArchiveAdmission(config, admission, workspace, self._changes)
        self.results = ArchiveResults(config, store, self._folder)
        """Of archives that have ended."""

    @property
    def max_bytes(self) -> int:
        """The largest archive that is taken."""
        return self._settings.max_size_mb << 20

    @property
    def models_in_use(self) -> set[str]:
        """The models that unfinished archives want."""
        return {
            one.run.record.model_name or self._default_model for one in self._under_way.values()
        }

    # Taking archives.

    def check_room(self, client: Caller) -> None:
        """Refuse early, before an archive is received.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: too many archives are worked on.
        """
        if not self._submissions.open:
            raise ShuttingDownError("The server is stopping; try again in a minute.",
                                    headers={"Retry-After": "60"})  # fmt: skip
        running = Counter(one.run.record.client for one in self._under_way.values())
        running += self._beginning
        headers = {"Retry-After": str(_RETRY_SECONDS)}
        if running[client.key] >= self._settings.max_per_client:
            raise QueueFullError(
                f"{running[client.key]} of your archives are being worked on, as many as one "
                "client may have (archives.max_per_client); wait until one has ended.",
                headers=headers,
            )
        if running.total() >= self._settings.max_under_way:
            raise QueueFullError(
                f"{running.total()} archives are being worked on, as many as the server takes "
                "(archives.max_under_way); try again later.",
                headers=headers,
            )

    async def begin(
        self,
        fields: Mapping[str, str],
        upload: Path,
        filename: str,
        client: Caller,
        *,
        sha256: str,
        claim: KeyClaim | None = None,
    ) -> ArchiveRecord:
        """Take an archive; it is durable when this returns.

        Args:
            fields: of `FIELD_NAMES`.
            upload: the archive; on success it is moved away.
            filename: the caller's name for it.
            client: the caller.
            sha256: the archive's digest.
            claim: the submission's idempotency key.

        Raises:
            UpscaledError: the refusal.
        """
        self.check_room(client)
        self._beginning[client.key] += 1
        try:
            record = await self._admission.record_of(fields, filename, client)
            folder = self._folder / record.id
            try:
                record, archive = await self._admission.adopt(record, folder, upload)
                await self._recorded(record, archive, claim, fingerprint(_identity(sha256), fields))
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                raise
            self._start(record, archive)
        finally:
            self._beginning[client.key] -= 1
            self._beginning += Counter()  # removes the zeros
        log.info(
            "archive submitted",
            extra={"archive": record.id, "file": record.filename, "pages": record.pages},
        )
        return record

    async def _recorded(
        self, record: ArchiveRecord, archive: OpenArchive, claim: KeyClaim | None, whole: str
    ) -> None:
        key = claim.record(whole, record.id) if claim else None
        try:
            await self._store.put(record, key)
        except BaseException as error:
            await asyncio.to_thread(archive.close)
            # The record may be written anyway, but no caller gets the archive's id.
            await asyncio.shield(self._store.delete(record.id))
            if isinstance(error, KeyTakenError):
                raise key_in_use() from None
            raise

    async def repeated(
        self, claim: KeyClaim, earlier: SubmissionKey, fields: Mapping[str, str], sha256: str
    ) -> ArchiveRecord:
        """Return the archive of the ``earlier`` submission that has the same idempotency key.

        Raises:
            KeyReusedError: it is another archive, or its fields are others.
            KeyInUseError: it is being deleted.
        """
        claim.check(fingerprint(_identity(sha256), fields))
        try:
            return await self.get(earlier.job_id, claim.owner)
        except UnknownArchiveError:
            raise key_in_use() from None

    # Working on them.

    async def open(self) -> None:
        """Go on with the archives of an earlier run; delete what belongs to none."""
        await asyncio.to_thread(make_folder, self._folder, 0o700)
        records = {record.id: record for record in await self._store.all_of()}
        for name in await asyncio.to_thread(os.listdir, self._folder):
            if name not in records:
                await self.results.remove_folder(name)
        for job in self._registry.active():
            archive_id = archive_of(job.owner)
            if archive_id is not None:
                record = records.get(archive_id)
                if record is None or record.ended:
                    with contextlib.suppress(UnknownJobError, WrongStateError):
                        await self._jobs.cancel(job.id)
        for record in records.values():
            if record.ended:
                await self.results.take_up(record)
            else:
                # Told from the first request on; the run reads the journal itself.
                pages, _ = await self.done_pages(record.id, 0, skip=0, limit=record.pages)
                self._start(counted(record, pages))

    def _start(self, record: ArchiveRecord, archive: OpenArchive | None = None) -> None:
        folder = self._folder / record.id
        pages = PageJobs(record, folder, self._submissions, self._jobs, self._probe, self._places)
        run = ArchiveRun(record, folder, pages, self._admission.bounds, self._width, archive)
        task = asyncio.create_task(self._work(run), name=f"archive-{record.id}")
        self._under_way[record.id] = _UnderWay(run, task)

    async def _work(self, run: ArchiveRun) -> None:
        """Let a run go on to its end, and record that."""
        try:
            record = replace(await run.run(), state=ArchiveState.COMPLETED)
        except UpscaledError as error:
            record = _failed(run.record, error.message, error.code)
        except Exception:
            log.exception("an archive ended unexpectedly", extra={"archive": run.record.id})
            words = "Something went wrong in the server; its log tells what."
            record = _failed(run.record, words, UpscaledError.code)
        finally:
            await run.close()
        self._under_way[record.id].ending = True
        await self._end(run, replace(record, client="", finished=time.time()))

    async def _end(self, run: ArchiveRun, record: ArchiveRecord) -> None:
        while True:
            try:
                await self._store.put(record)
                break
            except NoSpaceError as error:
                log.error(
                    "archive's end can't be recorded yet",
                    extra={"archive": record.id, "reason": error.message},
                )
                if not self._submissions.open:  # the next start does it
                    return
            await asyncio.sleep(_AGAIN_SECONDS)
        await run.jobs.drop_all()
        folder = self._folder / record.id
        if not record.has_result:
            await asyncio.to_thread((folder / assembly.RESULT).unlink, missing_ok=True)
        await asyncio.to_thread(keep_only_result, folder)
        run.record = record
        del self._under_way[record.id]
        run.tell()
        log.info(
            "archive ended",
            extra={"archive": record.id, "state": record.state.value, "pages": record.done},
        )

    async def close(self) -> None:
        """Stop working on archives; the next start goes on with them."""
        await asyncio.gather(*(self._stop(one) for one in list(self._under_way.values())))
        await self._changes.done()

    async def _stop(self, one: _UnderWay) -> None:
        """Stop a run, unless it is recording its end."""
        if not one.ending:
            one.task.cancel()
        await asyncio.wait([one.task])

    # What callers do with them.

    async def get(self, archive_id: str, owner: str) -> ArchiveRecord:
        """Return an archive.

        Raises:
            UnknownArchiveError: there is none of this id, or it is somebody else's.
        """
        record = None
        if (one := self._under_way.get(archive_id)) is not None:
            record = one.run.record
        elif is_job_id(archive_id):
            record = await self._store.get(archive_id)
        if record is None or record.owner != owner:
            raise UnknownArchiveError(_NO_SUCH_ARCHIVE)
        return record

    async def page(
        self, owner: str, after: tuple[float, str] | None, limit: int
    ) -> list[ArchiveRecord]:
        """Return an owner's archives, newest first."""
        found = await self._store.page(owner, after, limit)
        return [
            one.run.record if (one := self._under_way.get(record.id)) else record
            for record in found
        ]

    def news(self, archive_id: str) -> asyncio.Event | None:
        """Return what is set at the next change of an archive; None: it has ended."""
        one = self._under_way.get(archive_id)
        return None if one is None else one.run.news

    async def wait(self, archive_id: str) -> None:
        """Wait for the end of an archive; at once if there is none."""
        while (news := self.news(archive_id)) is not None:
            await news.wait()

    async def done_pages(
        self, archive_id: str, offset: int, *, skip: int, limit: int
    ) -> tuple[list[ArchivePage], int]:
        """Return pages that are in the new archive, see `assembly.read_pages`."""
        try:
            return await asyncio.to_thread(
                assembly.read_pages, self._folder / archive_id, ArchivePage, offset,
                skip=skip, limit=limit,
            )  # fmt: skip
        except FileNotFoundError:
            return [], offset

    async def pages(self, record: ArchiveRecord, after: int, limit: int) -> list[ArchivePage]:
        """Return the pages of an archive behind the first ``after``, ``limit`` at most.

        Those of an archive that failed end with the last one that was done.
        """
        found, _ = await self.done_pages(record.id, 0, skip=after, limit=limit)
        one = self._under_way.get(record.id)
        if one is None:
            return found
        done = after + len(found) if found else max(after, one.run.record.done)
        names = one.run.page_names[done : after + limit]
        for number, name in enumerate(names, start=done + 1):
            state, progress = await one.run.jobs.stage_of(number)
            found.append(ArchivePage(number, name, state, progress))
        return found

    async def delete(self, archive_id: str, owner: str) -> None:
        """Delete an archive; cancel it first if it has not ended.

        Raises:
            UnknownArchiveError: there is none of this id, or it is somebody else's.
        """
        await self.get(archive_id, owner)
        await self._changes.run(self._delete(archive_id), f"archive-delete-{archive_id}")

    async def _delete(self, archive_id: str) -> None:
        one = self._under_way.get(archive_id)
        if one is not None:
            await self._stop(one)
        await self.results.forget(archive_id)
        if one is not None:
            await one.run.jobs.drop_all()
            if self._under_way.pop(archive_id, None) is not None:
                one.run.tell()
        log.info("archive deleted", extra={"archive": archive_id})


def _identity(sha256: str) -> str:
    """Return what stands for an archive when requests are compared."""
    return f"archive {sha256}"


def _failed(record: ArchiveRecord, sentence: str, code: str) -> ArchiveRecord:
    return replace(record, state=ArchiveState.FAILED, error=sentence, code=code)


def make_archives(
    config: Config,
    store: ArchiveStore | None,
    workspace: Workspace,
    admission: Admission,
    submissions: Submissions,
    jobs: JobAccess,
    registry: JobRegistry,
    pool: EnginePool,
) -> Archives | None:
    """Return what takes archives; None where their records have no store."""
    if store is None:
        return None
    # As many pages as keep all slots and their decoders busy.
    width = 2 * pool.most_at_once + 2
    return Archives(config, store, workspace, admission, submissions, jobs, registry, width)
