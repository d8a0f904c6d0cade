"""`ArchiveTask`: one archive of a run, from its first page to the new file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from upscaled.archives.assembly import RESULT, Assembly, no_page_upscaled, read_pages
from upscaled.archives.entries import Bounds
from upscaled.archives.kinds import recognised
from upscaled.archives.lookahead import in_order
from upscaled.archives.opened import OpenArchive
from upscaled.archives.plan import Planned
from upscaled.batch.events import Page, Report
from upscaled.batch.outputs import OutputError, as_sentence
from upscaled.batch.page_upscaler import PageResult, PageUpscaler
from upscaled.batch.upscaler import Made, OnPercent, Task
from upscaled.errors import UpscaledError
from upscaled.service.uninterrupted import Uninterrupted

T = TypeVar("T")

BOUNDS = Bounds(entries=50_000, entry_bytes=2 << 30, total_bytes=64 << 30, ratio=200)
"""Of archives on a user's own machine."""


class ArchiveTask:
    """Upscales the pages of one archive and writes the new one.

    A later run continues behind the last entry of the new archive.

    Args:
        task: the archive.
        folder: for everything that is not done yet; it is there.
        pages: upscales pages.
        report: called with what became of each page.
    """

    def __init__(self, task: Task, folder: Path, pages: PageUpscaler, report: Report) -> None:
        self._task = task
        self._folder = folder
        self._page_upscaler = pages
        self._report = report
        self._archive: OpenArchive | None = None
        self._new: Assembly[Page] | None = None
        self._writes = Uninterrupted()

    async def run(self, on_percent: OnPercent) -> Made:
        """Do all pages; return the sizes of the first page that was upscaled.

        The new archive is the file `RESULT` in the folder.

        Raises:
            UpscaledError: the archive can't be done, or no page could be upscaled.
        """
        try:
            # A result may be linked to its target already, so it must not change.
            if not await asyncio.to_thread((self._folder / RESULT).exists):
                await self._assemble(on_percent)
        finally:
            await self._writes.done()
            await asyncio.to_thread(self._close)
        pages, _ = await asyncio.to_thread(
            read_pages, self._folder, Page, 0, skip=0, limit=BOUNDS.entries
        )
        return _summary_of(pages)

    async def _assemble(self, on_percent: OnPercent) -> None:
        with as_sentence(self._task.source):
            archive = await self._finished(self._open)
        new = await self._stored(lambda: self._begin(archive))
        done = len(new.pages)
        new.pages.clear()

        def upscale(_: int, one: Planned) -> Coroutine[Any, Any, PageResult]:
            return self._page_upscaler.upscale(self._task, archive, self._folder, one)

        width = self._page_upscaler.parallel
        entries = in_order(archive.planned, len(new.written), width, upscale, "page")
        total = len(archive.pages)
        async with contextlib.aclosing(entries):
            async for one, number, result in entries:
                if result is None:
                    await self._stored(new.append)
                    continue
                done += 1
                page = self._told(one, result, number, total)
                await self._append(new, result, page)
                on_percent(100 * done // total)
        await self._stored(new.finish)

    def _open(self) -> OpenArchive:
        source = self._task.source
        self._archive = OpenArchive.open(
            source, recognised(source, source.name), self._folder, BOUNDS,
            self._task.fields.get("format"),
        )  # fmt: skip
        return self._archive

    def _begin(self, archive: OpenArchive) -> Assembly[Page]:
        self._new = Assembly(self._folder, archive, Page)
        self._new.resume()
        return self._new

    def _close(self) -> None:
        if self._new is not None:
            self._new.close()
        if self._archive is not None:
            self._archive.close()

    async def _append(self, new: Assembly[Page], result: PageResult, page: Page) -> None:
        await self._stored(lambda: new.append(result.path, page))
        await self._page_upscaler.recorded(result)
        self._report(page)

    async def _stored(self, work: Callable[[], T]) -> T:
        with as_sentence(self._folder, OutputError):
            return await self._finished(work)

    async def _finished(self, work: Callable[[], T]) -> T:
        """Do work on files to its end, even if the run is stopped meanwhile."""
        return await self._writes.run(asyncio.to_thread(work), "archive-files")

    def _told(self, one: Planned, result: PageResult, number: int, total: int) -> Page:
        made, error = result.made, result.error
        return Page(
            self._task.source, one.entry.name, number, total,
            "done" if result.path else "failed" if error else "large",
            input_size=made.input_size if made else None,
            output_size=made.output_size if made else None,
            device=made.device if made else None,
            code=error.code if error else None,
            error=error.message if error else None,
        )  # fmt: skip


def _summary_of(pages: list[Page]) -> Made:
    """Return the sizes of the first page that was upscaled.

    Raises:
        UpscaledError: none was.
    """
    failed = [page for page in pages if page.error is not None]
    for page in sorted(pages, key=lambda page: page.state != "done"):
        if page.input_size is not None and page.output_size is not None:
            return Made(page.input_size, page.output_size, page.device or "?", len(failed))
    if failed:
        first = UpscaledError(no_page_upscaled(failed[0].name, failed[0].error))
        first.code = failed[0].code or first.code
        raise first
    raise AssertionError("an archive without pages is refused")
