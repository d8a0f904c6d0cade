"""The caller's own picture, as the answer when there is no result in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from aiohttp import web

from upscaled import files
from upscaled.formats import by_signature

_CHUNK = 256 * 1024
_HEAD = 80  # bytes that every signature fits into


class Original:
    """An upload that stays readable after its file was moved or deleted."""

    def __init__(self, file: FileIO, size: int, head: bytes) -> None:
        self._file = file
        self._size = size
        known = by_signature(head)
        self._media_type = known.media_type if known else "application/octet-stream"

    @classmethod
    async def open(cls, path: Path) -> Original:
        """Open an upload.

        Raises:
            OSError: it is not there, or there are no descriptors left.
        """
        return await files.acquired_in_thread(
            lambda: cls._open(path), lambda opened: opened._file.close()
        )

    @classmethod
    def _open(cls, path: Path) -> Original:
        file = FileIO(path)
        return cls(file, os.fstat(file.fileno()).st_size, os.pread(file.fileno(), _HEAD, 0))

    async def close(self) -> None:
        """Close the file; its disk space is free when the last open descriptor is closed."""
        await asyncio.to_thread(self._file.close)

    async def send(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Answer ``request`` with the picture, byte for byte as it was received."""
        response = web.StreamResponse(
            headers={"Content-Type": self._media_type, "Cache-Control": "no-store", **headers}
        )
        response.content_length = self._size
        await response.prepare(request)
        sent = 0
        while sent < self._size:
            chunk = await asyncio.to_thread(os.pread, self._file.fileno(), _CHUNK, sent)
            if not chunk:
                raise EOFError(f"an upload ended {self._size - sent} bytes early")
            await response.write(chunk)
            sent += len(chunk)
        await response.write_eof()
        return response
