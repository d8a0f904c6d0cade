"""The cache of results: bounded, in order of use, never serving what has changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from upscaled.jobs.result_cache import ResultCache, share

HOUR = 3600.0
ENTRY = 3 * 4096
"""What a result of 5,000 bytes counts, with its facts."""


def receipt_of(content: bytes) -> dict[str, Any]:
    """Return the part of a receipt that the cache reads."""
    digest = hashlib.sha256(content).hexdigest()
    return {"output": {"sha256": digest, "file_size_bytes": len(content)}}


class Folder:
    """A folder with a cache in it, and the results of jobs beside that."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def cache(self, max_bytes: int = 1 << 20, max_age: float = HOUR) -> ResultCache:
        """Return a new cache over the same entries."""
        cache = ResultCache(self.path / "cache", max_bytes, max_age)
        await cache.open()
        return cache

    async def store(self, cache: ResultCache, key: str, content: bytes = b"x" * 5000) -> Path:
        """Store a result of a job; return the job's own file."""
        file = self.path / f"result of {key}"
        file.write_bytes(content)
        await cache.store(key, file, receipt_of(content))
        return file

    async def take(self, cache: ResultCache, key: str) -> bytes | None:
        """Return what the cache has for a key."""
        target = self.path / "taken"
        target.unlink(missing_ok=True)
        found = await cache.take(key, target)
        if found is None:
            assert not target.exists()
            return None
        assert found.file_size_bytes == target.stat().st_size
        return target.read_bytes()

    def files(self) -> list[str]:
        """Return the names of the cache's files."""
        return sorted(file.name for file in (self.path / "cache").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_a_result_is_kept_without_copying_it_and_outlives_its_job(folder: Folder) -> None:
    cache = await folder.cache()
    file = await folder.store(cache, "a", b"picture")
    assert (folder.path / "cache" / "a").samefile(file)
    file.unlink()
    assert await folder.take(cache, "a") == b"picture"
    assert (folder.path / "taken").samefile(folder.path / "cache" / "a")
    assert await folder.take(cache, "b") is None
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)


async def test_the_cache_outlives_the_run_that_filled_it(folder: Folder) -> None:
    earlier = await folder.cache()
    await folder.store(earlier, "a", b"picture")
    cache = await folder.cache()
    assert cache.bytes == earlier.bytes == 2 * 4096
    assert await folder.take(cache, "a") == b"picture"


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_used_longest_ago_goes_first(folder: Folder, restarted: bool) -> None:
    cache = await folder.cache(4 * ENTRY)
    for key in "abcd":
        await folder.store(cache, key)
    assert await folder.take(cache, "a") is not None
    if restarted:
        cache = await folder.cache(4 * ENTRY)
    await folder.store(cache, "e")
    await folder.store(cache, "f")
    assert [key in cache for key in "abcdef"] == [True, False, False, True, True, True]
    assert cache.bytes == 4 * ENTRY
    assert folder.files() == sorted(["a", "a.json", "d", "d.json", "e", "e.json", "f", "f.json"])


async def test_a_smaller_bound_counts_from_the_next_start(folder: Folder) -> None:
    cache = await folder.cache(4 * ENTRY)
    for key in "abcd":
        await folder.store(cache, key)
    smaller = await folder.cache(2 * ENTRY)
    assert [key in smaller for key in "abcd"] == [False, False, True, True]
    await folder.cache(0)
    assert not (folder.path / "cache").exists()


async def test_a_result_larger_than_the_cache_is_not_kept(folder: Folder) -> None:
    cache = await folder.cache(ENTRY)
    await folder.store(cache, "a")
    await folder.store(cache, "b", b"x" * 20_000)
    assert "b" not in cache
    assert "a" in cache
    off = await folder.cache(0)
    await folder.store(off, "a")
    assert await folder.take(off, "a") is None
    assert (off.bytes, off.misses) == (0, 0)


@pytest.mark.parametrize("damage", ["content", "shorter", "facts", "no facts", "gone"])
async def test_a_damaged_entry_is_deleted_and_never_served(folder: Folder, damage: str) -> None:
    cache = await folder.cache()
    await folder.store(cache, "a")
    entry, facts = folder.path / "cache" / "a", folder.path / "cache" / "a.json"
    if damage == "content":
        entry.write_bytes(b"y" * 5000)
    elif damage == "shorter":
        os.truncate(entry, 4999)
    elif damage == "facts":
        facts.write_bytes(b'{"receipt": {"output": {}}}')
    elif damage == "no facts":
        facts.write_bytes(b"")
    else:
        entry.unlink()
    assert await folder.take(cache, "a") is None
    assert folder.files() == []
    assert (len(cache), cache.bytes, cache.hits) == (0, 0, 0)
    assert cache.corrupted == (damage != "gone")
    await folder.store(cache, "a")
    assert await folder.take(cache, "a") is not None


async def test_entries_are_deleted_for_their_age(folder: Folder) -> None:
    cache = await folder.cache()
    await folder.store(cache, "a")
    assert await folder.take(cache, "a") is not None
    await cache.expire(time.time() + HOUR - 60)
    assert "a" in cache
    await cache.expire(time.time() + HOUR + 60)
    assert folder.files() == []
    await folder.store(cache, "b")
    facts = folder.path / "cache" / "b.json"
    os.utime(facts, (time.time(), time.time() - HOUR - 60))
    assert "b" not in await folder.cache()


async def test_what_a_killed_run_left_half_written_is_deleted(folder: Folder) -> None:
    cache = await folder.cache()
    await folder.store(cache, "a")
    for name in ("b", "c.json", ".d.json.0123.part"):
        (folder.path / "cache" / name).write_bytes(b"half")
    assert len(await folder.cache()) == 1
    assert folder.files() == ["a", "a.json"]


async def test_room_is_made_on_a_full_disk(folder: Folder) -> None:
    cache = await folder.cache()
    for key in "abc":
        await folder.store(cache, key)
    assert await cache.free(ENTRY + 1)
    assert [key in cache for key in "abc"] == [False, False, True]
    assert await cache.free(1 << 40)
    assert not await cache.free(1)
    assert folder.files() == []


@pytest.mark.parametrize("clones", [True, False])
def test_a_file_system_without_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clones: bool
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    if not clones:
        monkeypatch.setattr("os.copy_file_range", no_links)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 9999)
    target.write_bytes(b"before")
    share(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not target.samefile(source)
