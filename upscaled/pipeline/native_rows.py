"""The file of the enlarged rows: room for those to come, and given back once they are encoded."""

from __future__ import annotations

import logging

from upscaled import files
from upscaled.imaging import ResultProgress
from upscaled.jobs.workspace import claim
from upscaled.pictures import RawImage
from upscaled.pipeline.footprint import native_bytes

log = logging.getLogger(__name__)


class NativeRows:
    """Keeps the enlarged rows of a large picture from being on the disk all at once.

    A result that is written in strips needs few rows after they are encoded. So the engine does no
    more rows ahead than `ahead`, and room is given back band by band.

    Args:
        native: the file.
        source_height: rows of the source.
        format_name: of the result.
    """

    def __init__(self, native: RawImage, source_height: int, format_name: str) -> None:
        self._native = native
        self._row_bytes = native.total_bytes // source_height
        self._most = native_bytes(native.size, source_height, format_name)
        self._gives_back = False
        self._needed = 0
        """Bytes before this are needed no more, …"""
        self._freed = 0
        """… and those before this have no room any more."""
        self.ahead = source_height
        """How many rows of the source may be enlarged and not encoded."""

    async def claim(self, written: ResultProgress, *, keep: bool) -> None:
        """Make the file, with room for as many rows as may be in it.

        Args:
            written: how far the result is.
            keep: keep what is in the file.

        Raises:
            NoSpaceError: the disk has too little room.
        """
        total, room = self._native.total_bytes, None
        if self._most < total and await files.in_thread(files.can_free, self._native.path):
            self._gives_back = True
            # The rest is for bands that are done.
            self.ahead = self._most // self._row_bytes * 3 // 4
            self._needed = self._first_needed(written)
            await self._free()
            room = (self._freed, min(self._most, total - self._freed))
        await claim(self._native.path, total, keep=keep, room=room)

    async def encoded(self, written: ResultProgress) -> None:
        """Give back the room of rows that are needed no more.

        Those of the last band stay until the next one is encoded: they may be on their way to the
        blobs.
        """
        if self._gives_back:
            await self._free()
            self._needed = self._first_needed(written)

    async def _free(self) -> None:
        if self._needed > self._freed:
            try:
                await files.in_thread(files.free, self._native.path, self._freed, self._needed)
            except OSError as error:
                log.warning("room can't be given back", extra={"reason": str(error)})
            self._freed = self._needed

    def _first_needed(self, written: ResultProgress) -> int:
        name = self._native.path.name
        kept = [piece.offset for piece in written.pieces if piece.name == name]
        return min(kept, default=written.source_rows * self._row_bytes)
