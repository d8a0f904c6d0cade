"""`Content`: the bytes of a result while it is sent, wherever they are."""

from __future__ import annotations

import asyncio
import os
from io import FileIO
from pathlib import Path
from typing import Protocol


class Content(Protocol):
    """An open result."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def modified(self) -> float:
        """When it was written, in seconds since the epoch."""
        ...

    @property
    def version(self) -> str:
        """A text that is another one for other bytes."""
        ...

    async def read(self, start: int, count: int) -> bytes | memoryview:
        """Return up to ``count`` bytes from ``start`` on; none at the end.

        Raises:
            OSError: they can't be read.
            StoreUnavailableError: for now.
        """
        ...

    async def close(self) -> None:
        """Give up what is held."""
        ...


class FileContent:
    """A result in a file, which stays readable after the file was deleted."""

    def __init__(self, file: FileIO, facts: os.stat_result) -> None:
        self._file = file
        self.size = facts.st_size
        self.modified = facts.st_mtime
        self.version = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"

    @classmethod
    async def open(cls, path: Path) -> FileContent:
        """Open a file.

        Raises:
            FileNotFoundError: it is not there.
        """
        return await asyncio.to_thread(cls._open, path)

    @classmethod
    def _open(cls, path: Path) -> FileContent:
        file = FileIO(path)
        return cls(file, os.fstat(file.fileno()))

    async def read(self, start: int, count: int) -> bytes | memoryview:
        """Return bytes; at once if they are in the page cache, else by a thread.

        Most results are fetched as soon as they are written, and a change of thread takes longer
        than copying them.
        """
        buffer = bytearray(count)
        try:
            found = os.preadv(self._file.fileno(), [buffer], start, os.RWF_NOWAIT)
        except OSError:  # it would block (EAGAIN), or the file system does not support the flag
            return await asyncio.to_thread(os.pread, self._file.fileno(), count, start)
        return memoryview(buffer)[:found]

    async def close(self) -> None:
        await asyncio.to_thread(self._file.close)
