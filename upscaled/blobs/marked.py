"""`MarkedBlobs`: tells a blob that is not there from a store that is not there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from upscaled.blobs.blobs import BlobInfo, BlobMissingError, Blobs
from upscaled.errors import StoreUnavailableError


class MarkedBlobs:
    """Blobs among which one is always there, the mark.

    A folder that is not mounted is an empty folder, and a bucket that was deleted has no blobs. To
    believe them would end jobs for the lack of their upload, so the mark is looked for first.

    Args:
        blobs: the store.
        mark: key of the blob that is always there once the store is in use.
    """

    def __init__(self, blobs: Blobs, mark: str) -> None:
        self.unchecked = blobs
        """The store itself, for whoever makes the mark."""
        self._mark = mark

    async def check(self) -> None:
        """Look for the mark.

        Raises:
            StoreUnavailableError: it is not there, or the store does not answer.
        """
        try:
            await self.unchecked.head(self._mark)
        except BlobMissingError as error:
            raise StoreUnavailableError(
                "The shared files are not there now; the folder may not be mounted, or the bucket "
                "is gone. Try again in 30 s.",
                headers={"Retry-After": "30"},
            ) from error

    async def open(self) -> None:
        await self.unchecked.open()

    async def close(self) -> None:
        await self.unchecked.close()

    def local(self, key: str) -> Path | None:
        return self.unchecked.local(key)

    async def put(self, key: str, file: Path) -> None:
        await self.unchecked.put(key, file)
        if self.local(key) is not None:  # a bucket that is gone takes nothing
            try:
                await self.check()
            except StoreUnavailableError:
                await self.unchecked.delete(key)
                raise

    async def head(self, key: str) -> BlobInfo:
        try:
            return await self.unchecked.head(key)
        except BlobMissingError:
            await self.check()
            raise

    async def stream(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes | memoryview]:
        try:
            async with aclosing(self.unchecked.stream(key, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
        except BlobMissingError:
            await self.check()
            raise

    async def delete(self, key: str) -> None:
        await self.unchecked.delete(key)

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        return self.unchecked.list(prefix)
