"""`ArchiveRun`: one archive from its first page to the finished file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from upscaled.archives import assembly
from upscaled.archives.assembly import Assembly
from upscaled.archives.entries import Bounds, shown
from upscaled.archives.errors import UnusableArchiveError
from upscaled.archives.kinds import Kind, kind_named
from upscaled.archives.plan import Planned, pages_of, plan
from upscaled.archives.reading import open_archive
from upscaled.archives.tar_reader import TarReader
from upscaled.archives.zip_reader import ZipReader
from upscaled.errors import OUT_OF_SPACE, UpscaledError, is_shortage
from upscaled.files import sha256_of
from upscaled.jobs.archive_records import ArchivePage, ArchiveRecord, PageState
from upscaled.service.archive_pages import PageJobs, PageOutcome
from upscaled.service.uninterrupted import Uninterrupted

log = logging.getLogger(__name__)

T = TypeVar("T")

ORIGINAL = "original"
"""Name of the uploaded archive in its folder."""
_AGAIN_SECONDS = 5.0
"""Until a write is tried again that found the disk full."""
_CHUNK = 1 << 18


class PageFailedError(UpscaledError):
    """A page can't be upscaled, and its original is not to be kept."""

    code = "page_failed"
    status = 422


@dataclass(frozen=True)
class OpenArchive:
    """An archive that was checked."""

    reader: ZipReader | TarReader
    kind: Kind
    planned: list[Planned]

    @classmethod
    def open(cls, folder: Path, kind: Kind, bounds: Bounds, format_: str | None) -> OpenArchive:
        """Open the original in ``folder``; blocking.

        Raises:
            UnusableArchiveError: it is broken or dangerous, or has no picture.
            ArchiveTooLargeError: a bound is exceeded.
            OSError: the disk is full.
        """
        reader = open_archive(folder / ORIGINAL, kind, folder, bounds)
        try:
            planned = plan(reader, kind, format_)
            if not any(one.page for one in planned):
                raise UnusableArchiveError(
                    "There is no picture in the archive that can be upscaled; archives in it are "
                    "not opened."
                )
        except BaseException:
            reader.__exit__(None, None, None)
            raise
        return cls(reader, kind, planned)

    def close(self) -> None:
        """Close it; blocking."""
        self.reader.__exit__(None, None, None)

    def extract(self, one: Planned, target: Path) -> None:
        """Write an entry's content to a file; blocking."""
        with self.reader.open(one.entry) as content, target.open("wb") as file:
            while piece := content.read(_CHUNK):
                file.write(piece)


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
        """Set at the next change; there is another one after that."""
        self.jobs = jobs
        self._folder = folder
        self._bounds = bounds
        self._width = width
        self._archive = archive
        self._new: Assembly[ArchivePage] | None = None
        self._deleting: set[asyncio.Task[None]] = set()
        self._writes = Uninterrupted()

    async def run(self) -> ArchiveRecord:
        """Do all pages; return the record of an archive whose result is there.

        When it is cancelled, a later run goes on behind the last page that is in the new archive.

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
        return [one.entry.name for one in pages_of(self._archive.planned)] if self._archive else []

    async def _assemble(self) -> None:
        archive, new = await self._stored(self._begin)
        self._count_all(new.pages)
        new.pages.clear()
        await self.jobs.take_up(self.record.done)
        await self._append_all(archive, new)
        await self._stored(new.finish)

    def _begin(self) -> tuple[OpenArchive, Assembly[ArchivePage]]:
        """Open the archive and what an earlier run made of it; blocking."""
        if self._archive is None:
            kind, format_ = kind_named(self.record.kind), self.record.fields.get("format")
            self._archive = OpenArchive.open(self._folder, kind, self._bounds, format_)
        archive = self._archive
        if self._new is None:
            self._new = Assembly(
                self._folder, archive.reader, archive.kind, archive.planned, ArchivePage
            )
        self._new.resume()
        return archive, self._new

    async def _append_all(self, archive: OpenArchive, new: Assembly[ArchivePage]) -> None:
        first = len(new.written)
        rest = iter([at for at, one in enumerate(archive.planned) if one.page and at >= first])
        ahead: dict[int, asyncio.Task[PageOutcome]] = {}
        numbers = self._numbers()
        try:
            for at in range(first, len(archive.planned)):
                self._look_ahead(archive, ahead, rest, numbers)
                one = archive.planned[at]
                if one.page is None:
                    await self._stored(new.append)
                    continue
                outcome = await ahead[at]
                del ahead[at]
                await self._append(new, one, outcome)
        finally:
            for task in ahead.values():
                task.cancel()
            await asyncio.gather(*ahead.values(), *self._deleting, return_exceptions=True)

    def _numbers(self) -> Iterator[int]:
        """Yield the numbers of the pages that are not done."""
        yield from range(self.record.done + 1, self.record.pages + 1)

    def _look_ahead(
        self,
        archive: OpenArchive,
        ahead: dict[int, asyncio.Task[PageOutcome]],
        rest: Iterator[int],
        numbers: Iterator[int],
    ) -> None:
        """Submit the next pages, so that memory and disk stay the same however many there are."""
        while len(ahead) < self._width and (at := next(rest, None)) is not None:
            number, one = next(numbers), archive.planned[at]

            def extract(target: Path, one: Planned = one) -> None:
                archive.extract(one, target)

            ahead[at] = asyncio.create_task(
                self.jobs.upscale(number, one, extract),
                name=f"archive-{self.record.id}-{number}",
            )

    async def _append(self, new: Assembly[ArchivePage], one: Planned, outcome: PageOutcome) -> None:
        if outcome.state is PageState.FAILED and not self.record.keeps_failed:
            raise PageFailedError(
                f"The page {shown(one.entry.name)} can't be upscaled: {outcome.error} "
                "(on_bad_page=keep keeps such pages as they are.)"
            )
        page = ArchivePage(
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

    def _count_all(self, pages: Sequence[ArchivePage]) -> None:
        """Count what an earlier run did."""
        self.record = counted(self.record, pages)
        self.tell()

    def _count(self, page: ArchivePage) -> None:
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
            assembly.read_pages, self._folder, ArchivePage, 0, skip=0, limit=self.record.pages
        )
        self._count_all(pages)

    async def _result(self) -> ArchiveRecord:
        """Return the record with what is known of the result.

        Raises:
            PageFailedError: no page could be upscaled.
        """
        if self.record.failed and not self.record.upscaled:
            pages, _ = await asyncio.to_thread(
                assembly.read_pages, self._folder, ArchivePage, 0, skip=0, limit=self.record.pages
            )
            bad = next(page for page in pages if page.state is PageState.FAILED)
            raise PageFailedError(
                f"No page could be upscaled; the first one, {shown(bad.name)}: {bad.error}"
            )
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


def counted(record: ArchiveRecord, pages: Sequence[ArchivePage]) -> ArchiveRecord:
    """Return a record of an archive of which these pages are done."""
    states = Counter(page.state for page in pages)
    return replace(
        record,
        upscaled=states[PageState.UPSCALED],
        kept=states[PageState.KEPT],
        failed=states[PageState.FAILED],
    )


def keep_only_result(folder: Path) -> None:
    """Delete everything of an ended archive but its result and its journal; blocking."""
    with contextlib.suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if path.name not in {assembly.RESULT, assembly.JOURNAL}:
                path.unlink(missing_ok=True)
