"""The contract of every `Blobs`. A store's tests subclass `BlobsContract`."""

from __future__ import annotations

import asyncio
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from upscaled.blobs.blobs import CHUNK, BlobMissingError, Blobs, digest, fetch


class BlobsContract(ABC):
    """Tests for a store of blobs. A subclass names itself ``Test…`` and makes the store."""

    @abstractmethod
    def make_blobs(self) -> Blobs:
        """Return a store, not opened yet; each call of a test one over the same blobs."""

    @pytest.fixture
    async def blobs(self) -> AsyncIterator[Blobs]:
        """Open an empty store for the length of a test."""
        blobs = self.make_blobs()
        await blobs.open()
        yield blobs
        await blobs.close()

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """A file of many pieces: 20 MB, so that it takes several parts."""
        path = tmp_path / "file"
        path.write_bytes(os.urandom(20 * CHUNK + 17))
        return path

    async def test_a_blob_is_read_back_as_it_was_put(
        self, blobs: Blobs, file: Path, tmp_path: Path
    ) -> None:
        await blobs.put("results/1/2", file)
        content = file.read_bytes()
        wanted = hashlib.sha256(content).hexdigest()
        assert (await blobs.head("results/1/2")).size == len(content)
        assert await digest(blobs, "results/1/2") == wanted
        assert await fetch(blobs, "results/1/2", tmp_path / "copy") == wanted
        assert (tmp_path / "copy").read_bytes() == content

    async def test_an_empty_blob_is_one_too(self, blobs: Blobs, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        await blobs.put("empty", tmp_path / "empty")
        assert (await blobs.head("empty")).size == 0
        assert await digest(blobs, "empty") == hashlib.sha256().hexdigest()

    async def test_a_range_is_streamed(self, blobs: Blobs, file: Path) -> None:
        await blobs.put("a", file)
        content = file.read_bytes()
        for start, stop in ((0, 1), (5, 3 * CHUNK), (len(content) - 3, None), (7, 7)):
            pieces = [bytes(piece) async for piece in blobs.stream("a", start, stop)]
            assert b"".join(pieces) == content[start:stop]

    async def test_a_blob_is_replaced_as_a_whole(self, blobs: Blobs, tmp_path: Path) -> None:
        for content in (b"first and longer", b"second"):
            (tmp_path / "file").write_bytes(content)
            await blobs.put("a", tmp_path / "file")
        assert b"".join([bytes(piece) async for piece in blobs.stream("a")]) == b"second"

    async def test_what_is_not_there_is_told_so(self, blobs: Blobs, tmp_path: Path) -> None:
        with pytest.raises(BlobMissingError):
            await blobs.head("nothing/here")
        with pytest.raises(BlobMissingError):
            await digest(blobs, "nothing/here")
        with pytest.raises(BlobMissingError):
            await fetch(blobs, "nothing/here", tmp_path / "copy")

    async def test_a_deleted_blob_is_gone_and_deleting_it_again_does_nothing(
        self, blobs: Blobs, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"x")
        for key in ("jobs/1/a", "jobs/1/b"):
            await blobs.put(key, tmp_path / "file")
        for _ in range(2):
            await blobs.delete("jobs/1/a")
            with pytest.raises(BlobMissingError):
                await blobs.head("jobs/1/a")
        assert (await blobs.head("jobs/1/b")).size == 1

    async def test_blobs_are_listed_below_a_prefix(self, blobs: Blobs, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"xyz")
        keys = ["uploads/1", "uploads/2", "results/1/1", "results/1/2"]
        for key in keys:
            await blobs.put(key, tmp_path / "file")
        for prefix in ("uploads", "results", "results/1", "none"):
            found = {info.key: info.size async for info in blobs.list(prefix)}
            assert found == {key: 3 for key in keys if key.startswith(f"{prefix}/")}

    async def test_blobs_outlive_the_store_that_wrote_them(
        self, blobs: Blobs, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"xyz")
        await blobs.put("a", tmp_path / "file")
        await blobs.close()
        again = self.make_blobs()
        await again.open()
        assert (await again.head("a")).size == 3
        await again.close()

    async def test_blobs_that_are_put_at_once_are_each_whole(
        self, blobs: Blobs, tmp_path: Path
    ) -> None:
        for number in range(20):
            (tmp_path / str(number)).write_bytes(bytes([number]) * 1000)
        await asyncio.gather(*(blobs.put("same", tmp_path / str(n)) for n in range(20)))
        content = b"".join([bytes(piece) async for piece in blobs.stream("same")])
        assert len(content) == 1000
        assert len(set(content)) == 1

    @pytest.mark.parametrize("key", ["", "../a", "a/../b", "/a", "a//b", ".hidden", "a b", "a\0"])
    async def test_what_is_no_key_is_refused(self, blobs: Blobs, key: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="not a key"):
            await blobs.put(key, tmp_path / "file")
        with pytest.raises(ValueError, match="not a key"):
            await digest(blobs, key)
