"""The file that an upload's picture is written to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

_WRITE_BYTES = 256 * 1024  # gathered before a thread is asked to write them


class PictureFile:
    """The file that a picture is written to, `_WRITE_BYTES` at a time.

    Most pictures are smaller: their file is made, written and closed in one step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: AsyncFileIO | None = None
        self._waiting = bytearray()

    async def take(self, piece: bytes) -> None:
        """Add to the file.

        Raises:
            OSError: the disk takes no more.
        """
        self._waiting += piece
        if len(self._waiting) >= _WRITE_BYTES:
            if self._file is None:
                self._file = await aiofiles.open(self._path, "wb", buffering=0)
            await self._write(self._file)

    async def end(self) -> None:
        """Write the rest and close the file.

        Raises:
            OSError: the disk is full. A write first takes what still fits; the next one fails.
        """
        if self._file is None:
            await asyncio.to_thread(self._path.write_bytes, self._waiting)
        else:
            await self._write(self._file)
            await self._file.close()

    async def _write(self, file: AsyncFileIO) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        rest = memoryview(waiting)
        while rest:
            rest = rest[await file.write(rest) :]

    async def close(self) -> None:
        """Close the file, however far it got."""
        if self._file is not None:
            await self._file.close()
