"""A result that is sent from the blobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from upscaled.blobs.blobs import BlobInfo, BlobMissingError, Blobs


class BlobContent:
    """A result in the blobs, read as a stream that fetches ahead.

    Args:
        blobs: where it is.
        info: what is known of it.
        version: a text that differs for other bytes, such as their digest.
    """

    def __init__(self, blobs: Blobs, info: BlobInfo, version: str) -> None:
        self._blobs = blobs
        self._key = info.key
        self.size = info.size
        self.modified = info.modified
        self.version = version
        self._stream: AsyncGenerator[bytes | memoryview] | None = None
        self._next = 0
        self._rest: bytes | memoryview = b""

    async def read(self, start: int, count: int) -> bytes | memoryview:
        """Return up to ``count`` bytes from ``start`` on.

        Raises:
            EOFError: the blob was deleted meanwhile.
            StoreUnavailableError: the blobs don't answer.
        """
        if self._stream is None or start != self._next:
            await self.close()
            self._stream = self._blobs.stream(self._key, start, self.size)
            self._next, self._rest = start, b""
        if not self._rest:
            try:
                self._rest = await anext(self._stream, b"")
            except BlobMissingError as error:
                raise EOFError(error.message) from error
        piece, self._rest = self._rest[:count], self._rest[count:]
        self._next += len(piece)
        return piece

    async def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None
