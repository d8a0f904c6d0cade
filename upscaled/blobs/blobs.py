"""`Blobs`: the interface of a store of files that several machines share."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from upscaled.errors import UpscaledError

CHUNK = 1 << 20
"""Bytes of a piece that is streamed."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,7}")


class BlobMissingError(UpscaledError):
    """There is no blob of this key."""


@dataclass(frozen=True)
class BlobInfo:
    """What is known of a blob without reading it."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch, by the store's clock."""


class Blobs(Protocol):
    """A store of files. A blob is there whole or not at all, and durable when `put` returns.

    Keys are names separated by slashes. Every method may raise `StoreUnavailableError`.
    """

    async def open(self) -> None:
        """Check that the store can be used.

        Raises:
            ConfigError: the settings are wrong.
        """
        ...

    async def close(self) -> None:
        """Give up what the store holds."""
        ...

    def local(self, key: str) -> Path | None:
        """Return the file that a blob is, or would be, on this machine; None: it is elsewhere."""
        ...

    async def put(self, key: str, file: Path) -> None:
        """Store a file's content, in place of a blob of the same key.

        Raises:
            NoSpaceError: the store is full.
        """
        ...

    async def head(self, key: str) -> BlobInfo:
        """Return what is known of a blob.

        Raises:
            BlobMissingError: there is none.
        """
        ...

    def stream(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes | memoryview]:
        """Yield the bytes from ``start`` (included) to ``stop`` (excluded; None: the end).

        Raises:
            BlobMissingError: there is no such blob.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete a blob; nothing happens if there is none."""
        ...

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield the blobs below ``prefix``, which is a whole name or several."""
        ...


def check_key(key: str) -> str:
    """Return ``key`` if it is one.

    Raises:
        ValueError: it must not become part of a path or an address.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a key: {key!r}")
    return key


async def digest(blobs: Blobs, key: str) -> str:
    """Read a blob and return its SHA-256 in hexadecimal.

    Raises:
        BlobMissingError: there is none.
    """
    found = hashlib.sha256()
    async with aclosing(blobs.stream(key)) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(found.update, piece)
    return found.hexdigest()


async def delete_below(blobs: Blobs, prefix: str) -> None:
    """Delete all blobs below ``prefix``."""
    async for blob in blobs.list(prefix):
        await blobs.delete(blob.key)


async def fetch(blobs: Blobs, key: str, file: Path) -> str:
    """Write a blob to a new file and return its SHA-256 in hexadecimal.

    Raises:
        BlobMissingError: there is none.
        OSError: the file can't be written.
    """
    found = hashlib.sha256()
    target = await asyncio.to_thread(file.open, "wb")
    try:
        async with aclosing(blobs.stream(key)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(target.write, piece)
                await asyncio.to_thread(found.update, piece)
    finally:
        await asyncio.to_thread(target.close)
    return found.hexdigest()
