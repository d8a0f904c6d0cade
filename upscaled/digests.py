"""Digests: SHA-256 of files."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path


async def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal.

    Raises:
        OSError: it can't be read.
    """
    return await asyncio.to_thread(_sha256, path)


class Digests:
    """SHA-256 of files that seldom change (models, programs): read once while they do not."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    async def of(self, path: Path) -> str:
        """Return the file's SHA-256 in hexadecimal.

        Raises:
            OSError: it can't be read.
        """
        stat = await asyncio.to_thread(path.stat)
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._known:
            self._known[key] = await sha256_of(path)
        return self._known[key]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
