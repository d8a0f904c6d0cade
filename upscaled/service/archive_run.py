"""`ArchiveRun`: one archive from its first page to the finished file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from upscaled.archives import assembly
from upscaled.archives.assembly import Assembly, no_page_upscaled
from upscaled.archives.entries import Bounds, shown
from upscaled.archives.kinds import kind_named
from upscaled.archives.lookahead import in_order
from upscaled.archives.opened import OpenArchive
from upscaled.archives.plan import Planned
from upscaled.errors import OUT_OF_SPACE, UpscaledError, is_shortage
from upscaled.files import sha256_of
from upscaled.jobs.archive_records import ArchiveRecord, PageRecord, PageState
from upscaled.service.archive_pages import PageJobs, PageOutcome
from upscaled.service.uninterrupted import Uninterrupted

log = logging.getLogger(__name__)

T = TypeVar("T")

ORIGINAL = "original"
"""Name of the uploaded archive in its folder."""
_AGAIN_SECONDS = 5.0
"""Pause before a write is repeated after the disk was full."""


class PageFailedError(UpscaledError):
    """A page can't be upscaled, and its original is not to be kept."""

    code = "page_failed"
    status = 422


class ArchiveRun:
    """Upscales the pages of one archive and writes the new one.

    Args:
        record: the archive.
        folder: holds the original and everything else.
        jobs: does the pages.
        bounds: how much it may hold.
        width: how many pages are submitted ahead.
        archive: if it is open already; the run closes it.
    """

    def __init__(
        self,
        record: ArchiveRecord,
        folder: Path,
        jobs: PageJobs,
        bounds: Bounds,
        width: int,
        archive: OpenArchive | None = None,
    ) -> None:
        self.record = record
        """As it is now."""
        self.news = asyncio.Event()
        """Set at the next change; replaced by a new one then."""
        self.jobs = jobs
        self._folder = folder
        self._bounds = bounds
        self._width = width
        self._archive = archive
        self._new: Assembly[PageRecord] | None = None
        self._deleting: set[asyncio.Task[None]] = set()
        self._writes = Uninterrupted()

    async def run(self) -> ArchiveRecord:
        """Upscale all pages; return the record with the result's size and digest.

        When it is cancelled, a later run continues behind the last page of the new archive.

        Raises:
            UpscaledError: the archive can't be done.
        """
        try:
            if not await asyncio.to_thread((self._folder / assembly.RESULT).exists):
                await self._assemble()
            else:  # the server died before it could record the end
                await self._recount()
            return await self._result()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the files; also those that were handed over to a run that never began."""
        await self._writes.done()
        if self._new is not None:
            await asyncio.to_thread(self._new.close)
        if self._archive is not None:
            await asyncio.to_thread(self._archive.close)

    @property
    def page_names(self) -> list[str]:
        """The names of all pages; none before the archive is open."""
        return [one.entry.name for one in self._archive.pages] if self._archive else []

    async def _assemble(self) -> None:
        archive, new = await self._stored(self._begin)
        self._count_all(new.pages)
        new.pages.clear()
        await self.jobs.take_up(self.record.done)
        await self._append_all(archive, new)
        await self._stored(new.finish)

    def _begin(self) -> tuple[OpenArchive, Assembly[PageRecord]]:
        """Open the archive and what an earlier run made of it; blocking."""
        if self._archive is None:
            kind, format_ = kind_named(self.record.kind), self.record.fields.get("format")
            self._archive = OpenArchive.open(
                self._folder / ORIGINAL, kind, self._folder, self._bounds, format_
            )
        archive = self._archive
        if self._new is None:
            self._new = Assembly(self._folder, archive, PageRecord)
        self._new.resume()
        return archive, self._new

    async def _append_all(self, archive: OpenArchive, new: Assembly[PageRecord]) -> None:
        def upscale(number: int, one: Planned) -> Coroutine[Any, Any, PageOutcome]:
            return self.jobs.upscale(number, one, lambda target: archive.extract(one, target))

        entries = in_order(
            archive.planned, len(new.written), self._width, upscale, f"archive-{self.record.id}"
        )
        try:
            async with contextlib.aclosing(entries):
                async for one, _, outcome in entries:
                    if outcome is None:
                        await self._stored(new.append)
                    else:
                        await self._append(new, one, outcome)
        finally:
            await asyncio.gather(*self._deleting, return_exceptions=True)

    async def _append(self, new: Assembly[PageRecord], one: Planned, outcome: PageOutcome) -> None:
        if outcome.state is PageState.FAILED and not self.record.keeps_failed:
            raise PageFailedError(
                f"The page {shown(one.entry.name)} can't be upscaled: {outcome.error} "
                "(on_bad_page=keep keeps such pages as they are.)"
            )
        page = PageRecord(
            self.record.done + 1, one.entry.name, outcome.state, 100, outcome.input_size,
            outcome.output_size, outcome.device, outcome.error, outcome.code,
        )  # fmt: skip
        await self._stored(lambda: new.append(outcome.path, page))
        self._count(page)
        if outcome.path is not None:
            await asyncio.to_thread(outcome.path.unlink, missing_ok=True)
        if outcome.job_id is not None:
            await self._delete_behind(outcome.job_id)

    async def _delete_behind(self, job_id: str) -> None:
        """Delete a page's job while the next page is appended."""
        while len(self._deleting) >= self._width:
            await asyncio.wait(self._deleting, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self.jobs.delete(job_id), name=f"delete-{job_id}")
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    def _count_all(self, pages: Sequence[PageRecord]) -> None:
        """Count what an earlier run did."""
        self.record = counted(self.record, pages)
        self.tell()

    def _count(self, page: PageRecord) -> None:
        record = self.record
        match page.state:
            case PageState.UPSCALED:
                self.record = replace(record, upscaled=record.upscaled + 1)
            case PageState.KEPT:
                self.record = replace(record, kept=record.kept + 1)
            case _:
                self.record = replace(record, failed=record.failed + 1)
        self.tell()

    def tell(self) -> None:
        """Wake those who wait for a change."""
        told, self.news = self.news, asyncio.Event()
        told.set()

    async def _recount(self) -> None:
        pages, _ = await asyncio.to_thread(
            assembly.read_pages, self._folder, PageRecord, 0, skip=0, limit=self.record.pages
        )
        self._count_all(pages)

    async def _result(self) -> ArchiveRecord:
        """Return the record with what is known of the result.

        Raises:
            PageFailedError: no page could be upscaled.
        """
        if self.record.failed and not self.record.upscaled:
            pages, _ = await asyncio.to_thread(
                assembly.read_pages, self._folder, PageRecord, 0, skip=0, limit=self.record.pages
            )
            bad = next(page for page in pages if page.state is PageState.FAILED)
            raise PageFailedError(no_page_upscaled(bad.name, bad.error))
        result = self._folder / assembly.RESULT
        digest = await asyncio.to_thread(sha256_of, result)
        size = (await asyncio.to_thread(result.stat)).st_size
        return replace(self.record, sha256=digest, size_bytes=size)

    async def _stored(self, work: Callable[[], T]) -> T:
        """Do work on files to its end; while the disk is full, try again and again."""
        while True:
            try:
                return await self._writes.run(
                    asyncio.to_thread(work), f"archive-files-{self.record.id}"
                )
            except OSError as error:
                if error.errno not in OUT_OF_SPACE and not is_shortage(error):
                    raise
                log.warning(
                    "archive waits for room on the disk",
                    extra={"archive": self.record.id, "reason": str(error)},
                )
            await asyncio.sleep(_AGAIN_SECONDS)


def counted(record: ArchiveRecord, pages: Sequence[PageRecord]) -> ArchiveRecord:
    """Return a record of an archive of which these pages are done."""
    states = Counter(page.state for page in pages)
    return replace(
        record,
        upscaled=states[PageState.UPSCALED],
        kept=states[PageState.KEPT],
        failed=states[PageState.FAILED],
    )


def keep_only_result(folder: Path) -> None:
    """Delete all files of an ended archive except its result and its journal; blocking."""
    with contextlib.suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if path.name not in {assembly.RESULT, assembly.JOURNAL}:
                path.unlink(missing_ok=True)
