"""`Archives`: archives as their callers use them, from the upload to the download."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from upscaled.archives import assembly
from upscaled.archives.opened import OpenArchive
from upscaled.callers import Caller
from upscaled.config.settings import Config
from upscaled.engines.pool import EnginePool
from upscaled.errors import (
    QueueFullError,
    ShuttingDownError,
    UnknownArchiveError,
    UnknownJobError,
    WrongStateError,
)
from upscaled.files import make_folder
from upscaled.jobs.archive_records import (
    ArchiveRecord,
    ArchiveStore,
    PageRecord,
    archive_of,
)
from upscaled.jobs.job import is_job_id
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.store import KeyTakenError, SubmissionKey
from upscaled.jobs.webhook_messages import Message
from upscaled.jobs.workspace import Workspace
from upscaled.service.admission import Admission
from upscaled.service.archive_admission import ArchiveAdmission
from upscaled.service.archive_pages import PageJobs
from upscaled.service.archive_results import ArchiveResults
from upscaled.service.archive_run import ArchiveRun, counted
from upscaled.service.archive_runs import ArchiveRuns
from upscaled.service.idempotency import KeyClaim, fingerprint, key_in_use
from upscaled.service.job_access import JobAccess
from upscaled.service.submission import Submissions
from upscaled.service.uninterrupted import Uninterrupted

log = logging.getLogger(__name__)

_NO_SUCH_ARCHIVE = "There is no archive with this id; it may have been forgotten by now."
_RETRY_SECONDS = 30


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
        self._submissions = submissions
        self._jobs = jobs
        self._registry = registry
        self._beginning: Counter[str] = Counter()
        self._changes = Uninterrupted()
        self._admission = ArchiveAdmission(config, admission, workspace)

        def run_of(record: ArchiveRecord, archive: OpenArchive | None) -> ArchiveRun:
            at = self._folder / record.id
            pages = PageJobs(record, at, submissions, jobs, admission.probe, places)
            return ArchiveRun(record, at, pages, self._admission.bounds, width, archive)

        # The rest of the queue is for single pictures.
        places = asyncio.Semaphore(max(1, config.limits.max_queue_size // 4))
        self._runs = ArchiveRuns(store, self._folder, run_of)
        self.results = ArchiveResults(config, store, self._folder)
        """Of archives that have ended."""

    @property
    def max_bytes(self) -> int:
        """The largest archive that is taken."""
        return self._settings.max_size_mb << 20

    @property
    def models_in_use(self) -> set[str]:
        """The models that unfinished archives want."""
        return {record.model_name or self._default_model for record in self._runs.records}

    async def open(self) -> None:
        """Continue the archives of an earlier run; delete files and jobs that belong to none."""
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
                # Known from the first request on; the run reads the journal itself.
                pages, _ = await self.done_pages(record.id, 0, skip=0, limit=record.pages)
                self._runs.start(counted(record, pages))

    async def close(self) -> None:
        """Stop working on archives; the next start goes on with them."""
        await self._runs.close()
        await self._changes.done()

    def tell_messages(self, notice: Callable[[ArchiveRecord], None]) -> None:
        """Have ``notice`` called with each archive that has new messages in the outbox."""
        self._runs.on_messages = self.results.on_messages = notice

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
        running = Counter(record.client for record in self._runs.records)
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
        links_base: str = "",
        claim: KeyClaim | None = None,
    ) -> ArchiveRecord:
        """Take an archive; it is durable when this returns.

        Args:
            fields: of `FIELD_NAMES`.
            upload: the archive; on success it is moved away.
            filename: the caller's name for it.
            client: the caller.
            sha256: the archive's digest.
            links_base: what links in webhook messages start with.
            claim: the submission's idempotency key.

        Raises:
            UpscaledError: the refusal.
        """
        self.check_room(client)
        self._beginning[client.key] += 1
        try:
            record = await self._admission.record_of(fields, filename, client, links_base)
            folder = self._folder / record.id
            try:
                record, archive = await self._admission.adopt(record, folder, upload)
                await self._recorded(record, archive, claim, fingerprint(_identity(sha256), fields))
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                raise
            self._runs.start(record, archive)
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

    # What callers do with them.

    async def get(self, archive_id: str, owner: str) -> ArchiveRecord:
        """Return an archive.

        Raises:
            UnknownArchiveError: there is none of this id, or it is somebody else's.
        """
        record = None
        if (run := self._runs.of(archive_id)) is not None:
            record = run.record
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
        return [run.record if (run := self._runs.of(record.id)) else record for record in found]

    def news(self, archive_id: str) -> asyncio.Event | None:
        """Return an event that the next change of an archive sets; None: it has ended."""
        run = self._runs.of(archive_id)
        return None if run is None else run.news

    async def wait(self, archive_id: str) -> None:
        """Wait for the end of an archive; at once if there is none."""
        while (news := self.news(archive_id)) is not None:
            await news.wait()

    async def done_pages(
        self, archive_id: str, offset: int, *, skip: int, limit: int
    ) -> tuple[list[PageRecord], int]:
        """Return pages that are in the new archive, see `assembly.read_pages`."""
        try:
            return await asyncio.to_thread(
                assembly.read_pages, self._folder / archive_id, PageRecord, offset,
                skip=skip, limit=limit,
            )  # fmt: skip
        except FileNotFoundError:
            return [], offset

    async def pages(self, record: ArchiveRecord, after: int, limit: int) -> list[PageRecord]:
        """Return the pages of an archive behind the first ``after``, ``limit`` at most.

        For a failed archive they end with the last finished page.
        """
        found, _ = await self.done_pages(record.id, 0, skip=after, limit=limit)
        run = self._runs.of(record.id)
        if run is None:
            return found
        done = after + len(found) if found else max(after, run.record.done)
        names = run.page_names[done : after + limit]
        for number, name in enumerate(names, start=done + 1):
            state, progress = await run.jobs.stage_of(number)
            found.append(PageRecord(number, name, state, progress))
        return found

    async def messages(self, archive_id: str, owner: str) -> tuple[ArchiveRecord, list[Message]]:
        """Return an archive and its webhook messages.

        Raises:
            UnknownArchiveError: there is none of this id, or it is somebody else's.
        """
        return await self.get(archive_id, owner), await self._store.messages_of(archive_id)

    async def delete(self, archive_id: str, owner: str) -> None:
        """Delete an archive; cancel it first if it has not ended.

        Raises:
            UnknownArchiveError: there is none of this id, or it is somebody else's.
        """
        await self.get(archive_id, owner)
        await self._changes.run(self._delete(archive_id), f"archive-delete-{archive_id}")

    async def _delete(self, archive_id: str) -> None:
        await self._runs.stop(archive_id)
        await self.results.forget(archive_id)
        await self._runs.drop(archive_id)
        log.info("archive deleted", extra={"archive": archive_id})


def _identity(sha256: str) -> str:
    """Return an archive's identity for the comparison of requests."""
    return f"archive {sha256}"


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
    """Return the service's archives; None if the store keeps no archives."""
    if store is None:
        return None
    # As many pages as keep all slots and their decoders busy.
    width = 2 * pool.most_at_once + 2
    return Archives(config, store, workspace, admission, submissions, jobs, registry, width)
