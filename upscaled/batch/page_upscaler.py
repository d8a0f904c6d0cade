"""`PageUpscaler`: pages of archives, upscaled like pictures of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from upscaled.archives.errors import UnusableArchiveError
from upscaled.archives.opened import OpenArchive
from upscaled.archives.plan import Planned, page_fields
from upscaled.batch.outputs import OutputError, as_sentence
from upscaled.batch.upscaler import Made, Task, Upscaler
from upscaled.errors import NoMemoryError, UpscaledError
from upscaled.pictures import Size, SizeLimit

_NO_FAULT = frozenset(
    {"insufficient_storage", "queue_full", "rate_limited", "shutting_down", "too_many_connections",
     "output_failed", "local_file", "unreachable", "unauthorized", "unexpected_answer",
     "forbidden_host"}
)  # fmt: skip
"""Codes of errors that a page did not cause: the archive waits for another run."""


@dataclass(frozen=True)
class PageResult:
    """What became of a page."""

    path: Path | None = None
    """The upscaled page; None: the page stays as it is."""
    task: Task | None = None
    """What upscaled it."""
    made: Made | None = None
    error: UpscaledError | None = None


class PageUpscaler:
    """Upscales pages of all archives of a run.

    Args:
        inner: upscales pictures.
        size_of: reads the size of a picture.
        only_below: pages that are not below it stay as they are.
    """

    def __init__(
        self,
        inner: Upscaler,
        size_of: Callable[[Path], Awaitable[Size]],
        only_below: SizeLimit | None,
    ) -> None:
        self._inner = inner
        self._size_of = size_of
        self._only_below = only_below
        self._places = asyncio.Semaphore(inner.parallel)

    @property
    def parallel(self) -> int:
        """How many pages are upscaled at a time."""
        return self._inner.parallel

    async def upscale(
        self, of: Task, archive: OpenArchive, folder: Path, one: Planned
    ) -> PageResult:
        """Upscale one page.

        Args:
            of: the task of its archive.
            archive: its archive.
            folder: for the page and its result.
            one: its entry.

        Raises:
            UpscaledError: it can't be done now, which is no fault of the page.
        """
        name = f"{one.entry.number}.{one.result.result_name}"
        source, target = folder / f"{name}.source", folder / name
        async with self._places:
            try:
                with as_sentence(source, OutputError):
                    await asyncio.to_thread(archive.extract, one, source)
                if self._only_below:
                    size = await self._size_of(source)
                    if not self._only_below.takes(size):
                        return PageResult(made=Made(size, size, "none"))
                fields = page_fields(of.fields, one.result)
                task = Task(source, target, fields, f"{of.key}-{one.entry.number}")
                made = await self._inner.upscale(task, lambda _: None)
                return PageResult(target, task, made)
            except UpscaledError as error:
                if isinstance(error, UnusableArchiveError):
                    raise
                if error.code in _NO_FAULT and not isinstance(error, NoMemoryError):
                    raise
                return PageResult(error=error)
            finally:
                await asyncio.to_thread(source.unlink, missing_ok=True)

    async def recorded(self, result: PageResult) -> None:
        """Delete an upscaled page that is in the new archive."""
        if result.path is not None and result.task is not None:
            await asyncio.to_thread(result.path.unlink, missing_ok=True)
            await self._inner.recorded(result.task)
