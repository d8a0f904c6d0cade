"""Local copies of blobs, for decoders that need a file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from weakref import WeakValueDictionary

from upscaled import files
from upscaled.blobs.blobs import Blobs, fetch

_MOST_BYTES = 2 << 30
"""Bytes of all copies besides the latest; the least recently used ones are deleted first."""


class Copies:
    """Copies blobs to this machine's disk. Blobs in a folder need no copy.

    Args:
        blobs: the blobs; they never change under a key.
        folder: where copies go.
    """

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs = blobs
        self._folder = folder
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def of(self, key: str) -> Path:
        """Return the file with a blob's content.

        Raises:
            BlobMissingError: there is no such blob.
            StoreUnavailableError: the blobs don't answer.
        """
        if (local := self._blobs.local(key)) is not None:
            await self._blobs.head(key)
            return local
        path = self._folder / hashlib.sha256(key.encode()).hexdigest()
        lock = self._locks.setdefault(path.name, asyncio.Lock())
        async with lock:
            if not await asyncio.to_thread(_used, path):
                await asyncio.to_thread(self._make_room, path)
                part = path.with_suffix(".part")
                await fetch(self._blobs, key, part)
                await asyncio.to_thread(part.replace, path)
        return path

    def _make_room(self, wanted: Path) -> None:
        files.make_folder(self._folder, 0o700)
        found = [(path.stat().st_mtime, path) for path in self._folder.iterdir()]
        kept = 0
        for _, path in sorted(found, reverse=True):
            kept += path.stat().st_size
            if kept > _MOST_BYTES and path != wanted:
                path.unlink(missing_ok=True)


def _used(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        path.touch(exist_ok=True) if path.exists() else None
        return path.exists()
    return False
