"""`planned_archive`: what would become of an archive; in dry runs."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from upscaled.archives.assembly import no_page_upscaled
from upscaled.archives.kinds import recognised
from upscaled.archives.opened import OpenArchive
from upscaled.archives.plan import page_fields
from upscaled.batch.archive_task import BOUNDS
from upscaled.batch.events import PlannedResult
from upscaled.batch.outputs import OutputError, as_sentence
from upscaled.batch.upscaler import Task, Upscaler
from upscaled.errors import UpscaledError
from upscaled.pictures import Size, SizeLimit


async def planned_archive(
    task: Task,
    upscaler: Upscaler,
    size_of: Callable[[Path], Awaitable[Size]],
    only_below: SizeLimit | None,
) -> PlannedResult:
    """Look at all pages of an archive without upscaling any; the sizes are those of the first one.

    Raises:
        UpscaledError: the archive can't be done, or none of its pages can be upscaled.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="upscaled-"))
    try:
        with as_sentence(task.source):
            archive = await asyncio.to_thread(_opened, task, folder)
        try:
            return await _Pages(task, archive, folder, upscaler, size_of, only_below).planned()
        finally:
            await asyncio.to_thread(archive.close)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _opened(task: Task, folder: Path) -> OpenArchive:
    kind = recognised(task.source, task.source.name)
    return OpenArchive.open(task.source, kind, folder, BOUNDS, task.fields.get("format"))


class _Pages:
    """Adds up what the pages of an archive would take."""

    def __init__(
        self,
        task: Task,
        archive: OpenArchive,
        folder: Path,
        upscaler: Upscaler,
        size_of: Callable[[Path], Awaitable[Size]],
        only_below: SizeLimit | None,
    ) -> None:
        self._task = task
        self._archive = archive
        self._page = folder / "page"
        self._upscaler = upscaler
        self._size_of = size_of
        self._only_below = only_below
        self._known: dict[tuple[Size, str], tuple[Size, float]] = {}
        """Estimates by size and format: most pages of a book are alike."""

    async def planned(self) -> PlannedResult:
        """Return what would become of the archive."""
        upscaled: list[tuple[Size, Size, float]] = []
        large: list[Size] = []
        failed: list[tuple[str, UpscaledError]] = []
        for one in self._archive.pages:
            with as_sentence(self._page, OutputError):
                await asyncio.to_thread(self._archive.extract, one, self._page)
            try:
                size = await self._size_of(self._page)
                if self._only_below and not self._only_below.takes(size):
                    large.append(size)
                    continue
                fields = page_fields(self._task.fields, one.result)
                if (size, one.result.name) not in self._known:
                    made = await self._upscaler.estimate(size, fields)
                    self._known[size, one.result.name] = made
                upscaled.append((size, *self._known[size, one.result.name]))
            except UpscaledError as error:
                failed.append((one.entry.name, error))
        if failed and not upscaled and not large:
            name, first = failed[0]
            refused = UpscaledError(no_page_upscaled(name, first.message))
            refused.code = first.code
            raise refused
        source, result = upscaled[0][:2] if upscaled else (large[0], large[0])
        seconds = sum(seconds for _, _, seconds in upscaled)
        return PlannedResult(
            self._task.source, self._task.target, source, result, seconds,
            pages=len(upscaled), large_pages=len(large), failed_pages=len(failed),
        )  # fmt: skip
