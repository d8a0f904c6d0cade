"""`Assembly`: an unfinished new archive, which a later process can continue after a kill."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Generic, TypeVar

from upscaled import files, serial
from upscaled.archives.entries import shown
from upscaled.archives.kinds import EPUB
from upscaled.archives.opened import OpenArchive
from upscaled.archives.plan import Planned, package_document
from upscaled.archives.tar_reader import TarReader
from upscaled.archives.writing import TarWriter, Written, ZipWriter, compress

JOURNAL = "journal.jsonl"
RESULT = "result"
_PART = "part"
_PACKED = "packed"

P = TypeVar("P")


_TAB = b"\t"


@dataclass(frozen=True)
class _Line:
    """A line of the journal: an entry that is in the new archive.

    As text it is `Written` in JSON, a tab, and what is recorded with a page, in JSON too.
    """

    written: Written
    page: bytes

    @classmethod
    def of(cls, text: bytes) -> _Line:
        """Return the line that ``text`` holds.

        Raises:
            ValueError: it is not a whole line.
        """
        written, tab, page = text.partition(_TAB)
        if not tab or not page.endswith(b"\n"):
            raise ValueError("the line is cut off")
        return cls(serial.decode(written, Written), page.rstrip(b"\n"))

    @property
    def text(self) -> bytes:
        """What `of` reads."""
        return serial.encode(self.written) + _TAB + self.page + b"\n"


class Assembly(Generic[P]):
    """Appends entries to a new archive and keeps a journal of them. Its methods block.

    An entry is on the disk before its line is in the journal. The next process continues behind the
    last whole line, and cuts off what was appended after it.

    Args:
        folder: holds the new archive, its journal and at the end the result.
        archive: the original.
        page_type: what is recorded with a page.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, folder: Path, archive: OpenArchive, page_type: type[P]) -> None:
        self._folder = folder
        self._reader = archive.reader
        self._kind = archive.kind
        self._planned = archive.planned
        self._page_type = page_type
        changed = [one for one in archive.pages if one.page is not one.result]
        self._changed = changed if archive.kind is EPUB else []
        self._file: BinaryIO = _open(folder / _PART)
        try:
            self._journal = (folder / JOURNAL).open("ab", 0)
        except BaseException:
            self._file.close()
            raise
        self.written: list[Written] = []
        """The entries that are in the new archive."""
        self.pages: list[P] = []
        """What earlier processes recorded with pages; the reader empties it."""

    def resume(self) -> None:
        """Read the journal of an earlier process, and cut off what is not in it.

        Raises:
            OSError: the folder can't be written.
        """
        self.written, self.pages = [], []
        good = end = 0
        for text in (self._folder / JOURNAL).read_bytes().splitlines(keepends=True):
            line = self._parsed(text, len(self.written), end)
            if line is None:
                break
            if line.page:
                self.pages.append(serial.decode(line.page, self._page_type))
            self.written.append(line.written)
            good, end = good + len(text), line.written.end
        if self._file.seek(0, io.SEEK_END) < end:  # the disk lost what the journal has
            self.written, self.pages, good, end = [], [], 0, 0
        self._journal.truncate(good)
        self._cut(end)

    def _parsed(self, text: bytes, at: int, end: int) -> _Line | None:
        """Return a line; None if it was written only in part or does not belong here."""
        try:
            line = _Line.of(text)
        except ValueError:
            return None
        if at >= len(self._planned):
            return None
        one, written = self._planned[at], line.written
        ours = written.number == one.entry.number and written.name in {one.name, one.entry.name}
        return line if ours and written.start == end else None

    def append(self, result: Path | None = None, page: P | None = None) -> None:
        """Append the next entry, and record it.

        Args:
            result: the upscaled page; None: the entry is copied and keeps its name.
            page: recorded with a page.

        Raises:
            UnusableArchiveError: the entry is damaged.
            OSError: the disk is full; nothing was appended, so it can be tried again.
        """
        one = self._planned[len(self.written)]
        end = self._end
        try:
            with self._content(one, result) as (name, content, size):
                written = self._writer().append(one.entry.number, name, content, size)
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._record(_Line(written, b"" if page is None else serial.encode(page)))
        except BaseException:
            self._cut(end)
            raise
        self.written.append(written)

    @property
    def _end(self) -> int:
        return self.written[-1].end if self.written else 0

    def _record(self, line: _Line) -> None:
        size = self._journal.seek(0, io.SEEK_END)
        try:
            if self._journal.write(line.text) != len(line.text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            self._journal.truncate(size)
            raise

    @contextlib.contextmanager
    def _content(self, one: Planned, result: Path | None) -> Iterator[tuple[str, IO[bytes], int]]:
        """Open what an entry becomes: its name, its content and how many bytes that has."""
        if result is not None:
            with result.open("rb") as content:
                yield one.name, content, os.fstat(content.fileno()).st_size
            return
        document = None
        if one.page is None:
            document = package_document(self._reader, one, self._changed)
        if document is not None:
            yield one.entry.name, io.BytesIO(document), len(document)
            return
        with self._reader.open(one.entry) as content:
            yield one.entry.name, content, one.entry.size

    def _writer(self) -> ZipWriter | TarWriter:
        if isinstance(self._reader, TarReader):
            return TarWriter(self._file, self._reader)
        return ZipWriter(self._file, self._reader)

    def _cut(self, end: int) -> None:
        # What is buffered may not reach a full disk; a new object has nothing buffered.
        descriptor = os.dup(self._file.fileno())
        with contextlib.suppress(OSError):
            self._file.close()
        os.truncate(descriptor, end)
        self._file = open(descriptor, "r+b")  # noqa: PTH123, SIM115 - a descriptor; see `close`
        self._file.seek(end)

    def finish(self) -> Path:
        """Append the archive's end, and sync all of it; return the result.

        Raises:
            OSError: the disk is full; it can be tried again.
        """
        self._cut(self._end)  # an earlier try may have failed half-way
        self._writer().finish(self.written)
        self._file.flush()
        os.fsync(self._file.fileno())
        os.fsync(self._journal.fileno())  # a result is of no use without the journal
        part = self._folder / _PART
        if self._kind.packed:
            compress(part, self._kind, self._folder / _PACKED)
            part = self._folder / _PACKED
            files.sync(part)
        target = self._folder / RESULT
        part.replace(target)
        files.sync(self._folder)
        return target

    def close(self) -> None:
        """Close the files."""
        self._journal.close()
        self._file.close()


def _open(part: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    return open(os.open(part, flags, 0o666), "r+b")  # noqa: PTH123 - a descriptor


def read_pages(
    folder: Path, page_type: type[P], offset: int, *, skip: int, limit: int
) -> tuple[list[P], int]:
    """Read what a journal has of pages; blocking.

    Args:
        folder: of the assembly, which may be under way.
        page_type: what is recorded with a page.
        offset: where to begin in the journal; 0, or where an earlier call ended.
        skip: pages to leave out at first.
        limit: how many to return at most.

    Returns:
        The pages, and where to go on.

    Raises:
        FileNotFoundError: there is no journal.
    """
    found: list[P] = []
    with (folder / JOURNAL).open("rb") as journal:
        journal.seek(offset)
        for text in journal:
            if len(found) == limit or not text.endswith(b"\n"):  # this one is being written
                break
            offset += len(text)
            page = text.partition(_TAB)[2].strip()
            if page and skip:
                skip -= 1
            elif page:
                found.append(serial.decode(page, page_type))
    return found, offset


def no_page_upscaled(name: str, error: str | None) -> str:
    """Return the sentence about an archive whose pages all failed.

    Args:
        name: of the first page.
        error: why it failed, as a sentence.
    """
    return f"No page could be upscaled; the first one, {shown(name)}: {error}"
