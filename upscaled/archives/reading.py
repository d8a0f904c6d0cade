"""`Reader`: an archive that is open, and `open_archive`, which checks it first."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from upscaled.archives.entries import Bounds, Entry
from upscaled.archives.kinds import Kind
from upscaled.archives.tar_reader import TarReader
from upscaled.archives.zip_reader import ZipReader


class Reader(Protocol):
    """An open archive; a context manager. Its methods block."""

    entries: tuple[Entry, ...]
    """In the archive's order."""

    def open(self, entry: Entry) -> IO[bytes]:
        """Open an entry's content.

        Reading raises `UnusableArchiveError` where the content is damaged, and never gives more
        than the entry's size.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_archive(file: Path, kind: Kind, work: Path, bounds: Bounds) -> ZipReader | TarReader:
    """Open an archive and check all its entries; blocking.

    Args:
        file: the archive.
        kind: what it is, see `kinds.recognised`.
        work: a folder where a compressed TAR file is unpacked, as far as the bounds allow.
        bounds: how much it may hold.

    Raises:
        UnusableArchiveError: it is broken, encrypted, or an entry is dangerous.
        ArchiveTooLargeError: a bound is exceeded.
        OSError: the disk is full, or the file can't be read.
    """
    if kind.is_tar:
        return TarReader(file, kind, work, bounds)
    return ZipReader(file, bounds)
