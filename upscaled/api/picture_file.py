"""The file that an upload's picture is written to."""

from __future__ import annotations

import asyncio
import hashlib
from io import FileIO
from pathlib import Path

from upscaled import files

_WRITE_BYTES = 256 * 1024  # collected before a thread writes them


class PictureFile:
    """The file that a picture is written to, `_WRITE_BYTES` at a time, and its digest.

    Most pictures are smaller: their file is made, written and closed in one step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._digest = hashlib.sha256()
        self._waiting = bytearray()

    async def take(self, piece: bytes) -> None:
        """Add to the file.

        Raises:
            OSError: the disk takes no more.
        """
        self._waiting += piece
        if len(self._waiting) >= _WRITE_BYTES:
            waiting, self._waiting = self._waiting, bytearray()
            await files.in_thread(self._write, waiting)

    async def end(self) -> str:
        """Write the rest and close the file; return its SHA-256 in hexadecimal.

        Raises:
            OSError: the disk is full. A write first takes what still fits; the next one fails.
        """
        return await files.in_thread(self._end)

    async def close(self) -> None:
        """Close the file, however far it got."""
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    def _write(self, content: bytearray) -> None:
        if self._file is None:
            self._file = FileIO(self._path, "w")
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._digest.update(content)

    def _end(self) -> str:
        self._write(self._waiting)
        assert self._file is not None  # noqa: S101 - `_write` made it
        self._file.close()
        return self._digest.hexdigest()
