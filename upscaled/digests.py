"""SHA-256 of files that seldom change, such as models and programs."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path

from upscaled.files import sha256_of

_KEPT = 256
"""Number of digests kept: a few for each installed model. The oldest is removed first."""


class Digests:
    """Reads a file once, and again only after its size or modification time changed."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[int, int, str]] = OrderedDict()

    async def of(self, path: Path) -> str:
        """Return the file's SHA-256 in hexadecimal.

        Raises:
            OSError: it can't be read.
        """
        stat = await asyncio.to_thread(path.stat)
        known = self._known.get(path)
        if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
            self._known.move_to_end(path)
            return known[2]
        digest = await asyncio.to_thread(sha256_of, path)
        self._known[path] = (stat.st_size, stat.st_mtime_ns, digest)
        self._known.move_to_end(path)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return digest
