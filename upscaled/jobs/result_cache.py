"""The cache of results: finished pictures that answer the same request again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled import files, serial

log = logging.getLogger(__name__)

_FACTS = ".json"
_BLOCK = 4096
"""Both files of an entry count as whole blocks of this size, so that small results are bounded in
number too."""


@dataclass(frozen=True)
class CachedResult:
    """The facts about a result in the cache. A format on disk: fields may be added only."""

    receipt: Mapping[str, Any]
    """Of the job that did the work."""

    @property
    def sha256(self) -> str:
        """Of the result's file."""
        return str(self.receipt["output"]["sha256"])

    @property
    def file_size_bytes(self) -> int:
        """The length of the result's file."""
        return int(self.receipt["output"]["file_size_bytes"])


@dataclass(frozen=True)
class _Entry:
    size: int
    stored: float
    """Seconds since the epoch."""


class ResultCache:
    """Keeps results by the digest of their work, bounded in bytes and age.

    An entry is the result, as a hard link to the job's own file where the file system has them,
    and a file with its facts. The facts' modification time is when the entry was stored, their
    access time when it was last used. The least recently used entry is deleted first.

    Args:
        folder: holds the entries; created by `open`.
        max_bytes: most bytes of all entries; 0: nothing is kept.
        max_age: seconds after which an entry is deleted.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age: float) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._changing = asyncio.Lock()
        self.bytes = 0
        """Bytes of all entries."""
        self.hits = 0
        """How often a result was found."""
        self.misses = 0
        """How often none was found."""
        self.corrupted = 0
        """How many entries were deleted because their content had changed."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    async def open(self) -> None:
        """Find the entries of an earlier run; delete those that are too many, too old or
        incomplete.

        Raises:
            OSError: the folder can't be made or read.
        """
        if not self._max_bytes:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            return
        found = await asyncio.to_thread(_scan, self._folder)
        for key, entry in found:
            self._entries[key] = entry
            self.bytes += entry.size
        await self.expire(time.time())

    async def take(self, key: str, target: Path) -> CachedResult | None:
        """Put the result of ``key`` at ``target``; None if there is none.

        Its content is checked. An entry whose content has changed is deleted.
        """
        entry = self._entries.get(key)
        if entry is not None and not 0 <= time.time() - entry.stored < self._max_age:
            await self.drop(key)
            entry = None
        if entry is None:
            self.misses += bool(self._max_bytes)
            return None
        try:
            found = await asyncio.to_thread(self._take, key, target)
        except OSError as error:
            log.warning("cached result can't be read", extra={"reason": str(error)})
            found = None
        except ValueError as error:
            log.warning("cached result is damaged", extra={"reason": str(error)})
            self.corrupted += 1
            found = None
        if found is None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(target.unlink, missing_ok=True)
            await self.drop(key)
            self.misses += 1
            return None
        if key in self._entries:
            self._entries.move_to_end(key)
        self.hits += 1
        return found

    def _take(self, key: str, target: Path) -> CachedResult:
        """Link and check an entry.

        Raises:
            OSError: it can't be read, or ``target`` can't be written.
            ValueError: its content is not what was stored.
        """
        facts = self._facts(key)
        found = serial.decode(facts.read_bytes(), CachedResult)
        try:
            share(self._folder / key, target)
            sha256, expected = files.sha256_of(target), found.sha256
        except (KeyError, TypeError):
            raise ValueError("its facts lack the digest") from None
        if sha256 != expected:
            raise ValueError("its digest is another one")
        with contextlib.suppress(OSError):  # only the order of deletion depends on it
            os.utime(facts, ns=(time.time_ns(), facts.stat().st_mtime_ns))
        return found

    async def store(self, key: str, result: Path, receipt: Mapping[str, Any]) -> None:
        """Add the finished picture at ``result``; never raises `OSError`."""
        if not self._max_bytes:
            return
        async with self._changing:
            if key in self._entries:
                await self._remove(key)
            try:
                size = await asyncio.to_thread(self._store, key, result, CachedResult(receipt))
            except OSError as error:
                log.warning("result can't be cached", extra={"reason": str(error)})
                return
            if size is not None:
                self._entries[key] = _Entry(size, time.time())
                self.bytes += size
            await self._shrink(self._max_bytes)

    def _store(self, key: str, result: Path, facts: CachedResult) -> int | None:
        content = serial.encode(facts)
        size = _blocks(result.stat().st_size) + _blocks(len(content))
        if size > self._max_bytes:
            return None
        share(result, self._folder / key)
        try:
            files.replace(self._facts(key), content)
        except OSError:
            (self._folder / key).unlink(missing_ok=True)
            raise
        return size

    async def drop(self, key: str) -> None:
        """Delete an entry, if there is one."""
        async with self._changing:
            await self._remove(key)

    async def expire(self, now: float) -> None:
        """Delete the entries that are too old at ``now`` (seconds since the epoch)."""
        old = [key for key, entry in self._entries.items() if now - entry.stored >= self._max_age]
        for key in old:
            await self.drop(key)
        async with self._changing:
            await self._shrink(self._max_bytes)

    async def free(self, count: int) -> bool:
        """Delete entries of at least ``count`` bytes, or all, to make room on the disk.

        Deleting an entry whose job still has its result frees no room.

        Returns:
            Whether there was an entry.
        """
        async with self._changing:
            before = self.bytes
            await self._shrink(max(0, before - count))
            if self.bytes < before:
                log.info("cached results deleted to make room",
                         extra={"bytes": before - self.bytes})  # fmt: skip
            return self.bytes < before

    async def _shrink(self, most: int) -> None:
        while self.bytes > most:
            await self._remove(next(iter(self._entries)))

    async def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size
            await asyncio.to_thread(self._unlink, key)

    def _unlink(self, key: str) -> None:
        for path in (self._facts(key), self._folder / key):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the next start deletes it
                log.warning("%s can't be deleted: %s", path, error.strerror)

    def _facts(self, key: str) -> Path:
        return self._folder / (key + _FACTS)


def share(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, else a copy of it; blocking.

    An existing ``target`` is replaced. Neither file may be written to afterwards.

    Raises:
        OSError: the disk is full, or ``source`` can't be read.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without links, or too many of them
        try:
            _copy(source, target)
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _copy(source: Path, target: Path) -> None:
    """Copy a file; where the file system can, both share their blocks."""
    with source.open("rb") as reading, target.open("xb") as writing:
        left = os.fstat(reading.fileno()).st_size
        try:
            while left and (count := os.copy_file_range(reading.fileno(), writing.fileno(), left)):
                left -= count
        except OSError:  # a kernel or file system without it
            reading.seek(0)
            writing.seek(0)
            writing.truncate()
            shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _scan(folder: Path) -> list[tuple[str, _Entry]]:
    """Return the complete entries in ``folder``, the one that was used longest ago first."""
    folder.mkdir(mode=0o700, exist_ok=True)
    files.make_private(folder)
    found: list[tuple[int, str, _Entry]] = []
    present = {item.name: item for item in os.scandir(folder)}
    for name, item in present.items():
        facts = present.get(name + _FACTS)
        if facts is None:
            if not (name.endswith(_FACTS) and name.removesuffix(_FACTS) in present):
                Path(item.path).unlink(missing_ok=True)  # torn, or its sidecar's partner is gone
            continue
        stat = facts.stat()
        size = _blocks(item.stat().st_size) + _blocks(stat.st_size)
        found.append((stat.st_atime_ns, name, _Entry(size, stat.st_mtime)))
    return [(name, entry) for _, name, entry in sorted(found, key=lambda row: row[0])]
