"""Archives in a run: their pages are upscaled like pictures and appended to a new archive."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, BinaryIO, Self

from upscaled import files, serial
from upscaled.archives.entries import Bounds, shown
from upscaled.archives.errors import UnusableArchiveError
from upscaled.archives.kinds import Kind, recognised, suffix_of
from upscaled.archives.plan import Planned, package_document, plan
from upscaled.archives.reading import open_archive
from upscaled.archives.tar_reader import TarReader
from upscaled.archives.writing import TarWriter, Written, ZipWriter, compress
from upscaled.archives.zip_reader import ZipReader
from upscaled.batch.events import Page, Report
from upscaled.batch.outputs import OutputError, as_sentence, place
from upscaled.batch.upscaler import Made, OnPercent, Task, Upscaler
from upscaled.errors import NoMemoryError, UpscaledError
from upscaled.formats import result_format
from upscaled.pictures import Size, SizeLimit

_BOUNDS = Bounds(entries=50_000, entry_bytes=2 << 30, total_bytes=64 << 30, ratio=200)
_NO_FAULT = frozenset(
    {"insufficient_storage", "queue_full", "rate_limited", "shutting_down", "too_many_connections",
     "output_failed", "local_file", "unreachable", "unauthorized", "unexpected_answer",
     "forbidden_host"}
)  # fmt: skip
"""Codes of errors that are no fault of a page: the archive waits for another run."""
_CHUNK = 1 << 18
_JOURNAL = "journal.jsonl"
_PART = "part"
_PACKED = "packed"
_RESULT = "result"


def is_archive(path: PurePath) -> bool:
    """Tell whether a file is treated as an archive, by its name."""
    return suffix_of(path.name) is not None


@dataclass(frozen=True)
class _Outcome:
    """What became of a page."""

    path: Path | None
    """Its result; None: the page stays as it is."""
    task: Task | None = None
    made: Made | None = None
    error: UpscaledError | None = None


@dataclass(frozen=True)
class _Line:
    """A line of the journal: an entry that is in the new archive."""

    written: Written
    page: Page | None = None


@dataclass
class _Book:
    """An archive under way."""

    task: Task
    folder: Path
    reader: ZipReader | TarReader
    kind: Kind
    planned: list[Planned]
    changed: list[Planned] = field(default_factory=list)
    """Pages whose results have another format."""


class ArchiveUpscaler:
    """An `Upscaler` that takes archives too, and leaves pictures to another one.

    What is done of an archive lies in ``work`` and in the upscaler's own folder. A later run with
    the same task goes on behind the last entry that was appended.

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
        self._size_of = size_of
        self._only_below = only_below
        self._report = report
        self._places = asyncio.Semaphore(inner.parallel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:  # what is left there belongs to no picture of this run
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
        async with _opened(task, folder) as book:
            made = await self._made(book, on_percent)
        with as_sentence(task.target, OutputError):
            await asyncio.to_thread(place, folder / _RESULT, task.target)
        return made

    def _folder(self, task: Task) -> Path:
        return self._work / (task.key or "one")

    async def _made(self, book: _Book, on_percent: OnPercent) -> Made:
        """Write the new archive; go on where an earlier run was stopped."""
        part = book.folder / _PART
        if await asyncio.to_thread((book.folder / _RESULT).exists):
            # It may have its place already, so it must not change.
            lines, _ = await asyncio.to_thread(_lines_of, book)
            return _summary_of(lines)
        with as_sentence(part, OutputError):
            file = await asyncio.to_thread(_open_part, part)
        try:
            lines = await asyncio.to_thread(_journal, book, file)
            await self._append_all(book, file, lines, on_percent)
            with as_sentence(part, OutputError):
                await asyncio.to_thread(_finish, book, file, [line.written for line in lines])
        finally:
            await asyncio.to_thread(file.close)
        return _summary_of(lines)

    async def _append_all(
        self, book: _Book, file: BinaryIO, lines: list[_Line], on_percent: OnPercent
    ) -> None:
        pages = [at for at, one in enumerate(book.planned) if one.page and at >= len(lines)]
        total = sum(one.page is not None for one in book.planned)
        waiting = iter(pages)
        ahead: dict[int, asyncio.Task[_Outcome]] = {}
        done = total - len(pages)

        def look_ahead() -> None:
            while len(ahead) < self.parallel and (at := next(waiting, None)) is not None:
                ahead[at] = asyncio.create_task(
                    self._page(book, book.planned[at]), name=f"page-{at}"
                )

        journal = await asyncio.to_thread((book.folder / _JOURNAL).open, "ab", 0)
        try:
            for at in range(len(lines), len(book.planned)):
                look_ahead()
                one, outcome = book.planned[at], None
                if at in ahead:
                    outcome = await ahead[at]
                    del ahead[at]
                    done += 1
                page = _page_event(book, one, outcome, done, total) if outcome else None
                with as_sentence(book.folder, OutputError):
                    line = await asyncio.to_thread(_append, book, file, journal, one, outcome, page)
                lines.append(line)
                if outcome is not None and outcome.path is not None:
                    assert outcome.task is not None  # noqa: S101 - it made the result
                    await asyncio.to_thread(outcome.path.unlink)
                    await self._inner.recorded(outcome.task)
                if page is not None:
                    self._report(page)
                    on_percent(100 * done // total)
        finally:
            for task in ahead.values():
                task.cancel()
            await asyncio.gather(*ahead.values(), return_exceptions=True)
            await asyncio.to_thread(journal.close)

    async def _page(self, book: _Book, one: Planned) -> _Outcome:
        """Upscale one page.

        Raises:
            UpscaledError: it can't be done now, which is no fault of the page.
        """
        name = f"{one.entry.number}.{one.result.result_name}"
        source, target = book.folder / f"{name}.source", book.folder / name
        async with self._places:
            try:
                with as_sentence(source, OutputError):
                    await asyncio.to_thread(_extract, book, one, source)
                if self._only_below:
                    size = await self._size_of(source)
                    if not self._only_below.takes(size):
                        return _Outcome(None, made=Made(size, size, "none"))
                fields = {**book.task.fields, "format": one.result.result_name}
                if "format" not in book.task.fields:
                    _drop_foreign(fields)
                task = Task(source, target, fields, f"{book.task.key}-{one.entry.number}")
                made = await self._inner.upscale(task, lambda _: None)
                return _Outcome(target, task, made)
            except UpscaledError as error:
                if isinstance(error, UnusableArchiveError):
                    raise
                if error.code in _NO_FAULT and not isinstance(error, NoMemoryError):
                    raise
                return _Outcome(None, error=error)
            finally:
                await asyncio.to_thread(source.unlink, missing_ok=True)


def _drop_foreign(fields: dict[str, str]) -> None:
    """Leave out ``quality`` and ``lossless`` where a page's own format has none."""
    row = result_format(fields["format"])
    if not row.has_quality:
        fields.pop("quality", None)
    if not row.has_lossless:
        fields.pop("lossless", None)


@contextlib.asynccontextmanager
async def _opened(task: Task, folder: Path) -> AsyncIterator[_Book]:
    """Open an archive for the length of the block.

    Raises:
        UpscaledError: it can't be used.
    """

    def opened() -> _Book:
        with as_sentence(task.source):
            kind = recognised(task.source, task.source.name)
            reader = open_archive(task.source, kind, folder, _BOUNDS)
        try:
            planned = plan(reader, kind, task.fields.get("format"))
            if not any(one.page for one in planned):
                raise UnusableArchiveError(
                    "There is no picture in the archive that can be upscaled; archives in it are "
                    "not opened."
                )
        except BaseException:
            reader.__exit__(None, None, None)
            raise
        changed = [one for one in planned if one.page and one.page is not one.result]
        return _Book(task, folder, reader, kind, planned, changed)

    book = await asyncio.to_thread(opened)
    try:
        yield book
    finally:
        await asyncio.to_thread(book.reader.__exit__, None, None, None)


def _open_part(part: Path) -> BinaryIO:
    return open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")  # noqa: PTH123 - a descriptor


def _lines_of(book: _Book) -> tuple[list[_Line], int]:
    """Return the journal's lines, and how many bytes of it they take; blocking.

    A line that was written only in part, and what follows it, does not count.
    """
    lines: list[_Line] = []
    good = end = 0
    path = book.folder / _JOURNAL
    for text in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            line = serial.decode(text, _Line)
        except ValueError:
            break
        at = len(lines)
        fits = at < len(book.planned) and line.written.start == end
        if not (fits and text.endswith(b"\n") and _is_of(line.written, book.planned[at])):
            break
        lines.append(line)
        good += len(text)
        end = line.written.end
    return lines, good


def _journal(book: _Book, file: BinaryIO) -> list[_Line]:
    """Return what an earlier run appended, and set ``file`` to the end of it; blocking."""
    lines, good = _lines_of(book)
    end = lines[-1].written.end if lines else 0
    if file.seek(0, io.SEEK_END) < end:  # the disk lost what the journal has
        lines, good, end = [], 0, 0
    with contextlib.suppress(FileNotFoundError):
        os.truncate(book.folder / _JOURNAL, good)
    file.seek(end)
    file.truncate()
    return lines


def _is_of(written: Written, one: Planned) -> bool:
    return written.number == one.entry.number and written.name in {one.name, one.entry.name}


def _extract(book: _Book, one: Planned, target: Path) -> None:
    """Write an entry's content to a file; blocking."""
    with book.reader.open(one.entry) as content, target.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)


def _append(
    book: _Book,
    file: BinaryIO,
    journal: IO[bytes],
    one: Planned,
    outcome: _Outcome | None,
    page: Page | None,
) -> _Line:
    """Append an entry and record it; blocking."""
    content: IO[bytes]
    name, size = one.name, one.entry.size
    if outcome is not None and outcome.path is not None:
        content = outcome.path.open("rb")
        size = outcome.path.stat().st_size
    else:
        # A page that stays as it is keeps its name.
        name = one.entry.name
        document = package_document(book.reader, one, _changed(book)) if not one.page else None
        content = io.BytesIO(document) if document is not None else book.reader.open(one.entry)
        size = size if document is None else len(document)
    with content:
        written = _writer(book, file).append(one.entry.number, name, content, size)
    file.flush()
    os.fdatasync(file.fileno())
    line = _Line(written, page)
    journal.write(serial.encode(line) + b"\n")
    return line


def _changed(book: _Book) -> list[Planned]:
    return book.changed if book.kind.name == "epub" else []


def _writer(book: _Book, file: BinaryIO) -> ZipWriter | TarWriter:
    if isinstance(book.reader, TarReader):
        return TarWriter(file, book.reader)
    return ZipWriter(file, book.reader)


def _finish(book: _Book, file: BinaryIO, written: list[Written]) -> None:
    """Append the end, and bring the whole archive to the disk; blocking."""
    _writer(book, file).finish(written)
    file.flush()
    os.fsync(file.fileno())
    part = book.folder / _PART
    if book.kind.packed:
        compress(part, book.kind, book.folder / _PACKED)
        part = book.folder / _PACKED
        files.sync(part)
    part.replace(book.folder / _RESULT)


def _page_event(book: _Book, one: Planned, outcome: _Outcome, number: int, total: int) -> Page:
    state = "done" if outcome.path else "failed" if outcome.error else "large"
    made = outcome.made
    return Page(
        book.task.source, one.entry.name, number, total, state,
        input_size=made.input_size if made else None,
        output_size=made.output_size if made else None,
        device=made.device if made else None,
        code=outcome.error.code if outcome.error else None,
        error=outcome.error.message if outcome.error else None,
    )  # fmt: skip


def _summary_of(lines: list[_Line]) -> Made:
    """Return the sizes of the first page that was upscaled.

    Raises:
        UpscaledError: none was.
    """
    pages = [line.page for line in lines if line.page is not None]
    failed = [page for page in pages if page.error is not None]
    for page in sorted(pages, key=lambda page: page.state != "done"):
        if page.input_size is not None and page.output_size is not None:
            return Made(page.input_size, page.output_size, page.device or "?", len(failed))
    if failed:
        first = UpscaledError(
            f"No page could be upscaled; the first one, {shown(failed[0].name)}: {failed[0].error}"
        )
        first.code = failed[0].code or first.code
        raise first
    raise AssertionError("an archive without pages is refused")
