"""`ArchiveUpscaler`: what makes the results of a run that has archives among its pictures."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self

from upscaled.archives.assembly import RESULT
from upscaled.archives.kinds import suffix_of
from upscaled.batch.archive_task import ArchiveTask
from upscaled.batch.events import Report
from upscaled.batch.outputs import OutputError, as_sentence, place
from upscaled.batch.page_upscaler import PageUpscaler
from upscaled.batch.upscaler import Made, OnPercent, Task, Upscaler
from upscaled.pictures import Size, SizeLimit


def is_archive(path: PurePath) -> bool:
    """Tell whether a file is treated as an archive, by its name."""
    return suffix_of(path.name) is not None


class ArchiveUpscaler:
    """An `Upscaler` that takes archives too, and leaves pictures to another one.

    Unfinished archives are kept in ``work`` and in the upscaler's own folder. A later run with the
    same task continues behind the last entry that was appended.

    Args:
        inner: upscales the pictures.
        work: for archives under way, best on the disk of the results.
        size_of: reads the size of a picture.
        only_below: pages that are not below it stay as they are.
        report: called with what became of each page.
    """

    def __init__(
        self,
        inner: Upscaler,
        work: Path,
        size_of: Callable[[Path], Awaitable[Size]],
        only_below: SizeLimit | None,
        report: Report,
    ) -> None:
        self._inner = inner
        self._work = work
        self._pages = PageUpscaler(inner, size_of, only_below)
        self._report = report

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:  # what remains there belongs to no task of this run
            await asyncio.to_thread(shutil.rmtree, self._work, ignore_errors=True)

    @property
    def parallel(self) -> int:
        """How many tasks it needs at a time."""
        return self._inner.parallel

    async def completed(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Return ``fields`` with defaults, see `Upscaler`."""
        return await self._inner.completed(fields)

    async def estimate(self, size: Size, fields: Mapping[str, str]) -> tuple[Size, float]:
        """Return the size of a picture's result, and its seconds, see `Upscaler`."""
        return await self._inner.estimate(size, fields)

    async def recorded(self, task: Task) -> None:
        """Delete what was kept of a task."""
        if not is_archive(task.source):
            await self._inner.recorded(task)
            return
        await asyncio.to_thread(shutil.rmtree, self._folder(task), ignore_errors=True)

    async def upscale(self, task: Task, on_percent: OnPercent) -> Made:
        """Make one result; see `Upscaler`."""
        if not is_archive(task.source):
            return await self._inner.upscale(task, on_percent)
        folder = self._folder(task)
        with as_sentence(folder, OutputError):
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        made = await ArchiveTask(task, folder, self._pages, self._report).run(on_percent)
        with as_sentence(task.target, OutputError):
            await asyncio.to_thread(place, folder / RESULT, task.target)
        return made

    def _folder(self, task: Task) -> Path:
        return self._work / (task.key or "one")
