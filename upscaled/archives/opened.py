"""`OpenArchive`: an archive that was checked, and what becomes of its entries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from upscaled.archives.entries import Bounds
from upscaled.archives.errors import UnusableArchiveError
from upscaled.archives.kinds import Kind
from upscaled.archives.plan import Planned, plan
from upscaled.archives.reading import open_archive
from upscaled.archives.tar_reader import TarReader
from upscaled.archives.zip_reader import ZipReader

_CHUNK = 1 << 18


@dataclass(frozen=True)
class OpenArchive:
    """An archive with at least one page. Its methods block."""

    reader: ZipReader | TarReader
    kind: Kind
    planned: list[Planned]
    """All entries in the order in which they are written."""

    @classmethod
    def open(cls, file: Path, kind: Kind, work: Path, bounds: Bounds, format_: str | None) -> Self:
        """Open an archive and check all its entries.

        Args:
            file: the archive.
            kind: what it is, see `kinds.recognised`.
            work: a folder where a compressed TAR file is unpacked.
            bounds: how much it may hold.
            format_: of all results; None: pages keep their own.

        Raises:
            UnusableArchiveError: it is broken or dangerous, or has no picture.
            ArchiveTooLargeError: a bound is exceeded.
            OSError: the disk is full, or the file can't be read.
        """
        reader = open_archive(file, kind, work, bounds)
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

    @property
    def pages(self) -> list[Planned]:
        """The entries that are to be upscaled."""
        return [one for one in self.planned if one.page is not None]

    def close(self) -> None:
        """Close the file."""
        self.reader.__exit__(None, None, None)

    def extract(self, one: Planned, target: Path) -> None:
        """Write an entry's content to a file.

        Raises:
            UnusableArchiveError: the entry is damaged.
            OSError: the disk is full.
        """
        with self.reader.open(one.entry) as content, target.open("wb") as file:
            while piece := content.read(_CHUNK):
                file.write(piece)
