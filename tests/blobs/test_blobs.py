from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from moto.server import ThreadedMotoServer

from testkit.blobs_contract import BlobsContract, Pieces
from testkit.faulty_s3 import Fault, FaultyS3
from testkit.ports import free_port
from upscaled.blobs.blobs import CHUNK, Blobs, digest
from upscaled.blobs.folder import FolderBlobs
from upscaled.blobs.marked import MarkedBlobs
from upscaled.blobs.object_store import ObjectStoreBlobs
from upscaled.errors import ConfigError, StoreUnavailableError


class TestFolderBlobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "shared" / "blobs"

    def make_blobs(self) -> FolderBlobs:
        return FolderBlobs(self._folder)

    async def left_behind(self) -> int:
        return len(list((self._folder / ".parts").iterdir()))


class TestMarkedFolder(BlobsContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "blobs"
        self._folder.mkdir()
        (self._folder / "mark").touch()

    def make_blobs(self) -> MarkedBlobs:
        return MarkedBlobs(FolderBlobs(self._folder), "mark")

    async def left_behind(self) -> int:
        return len(list((self._folder / ".parts").iterdir()))

    async def test_without_the_mark_nothing_is_believed_and_nothing_is_put(
        self, blobs: Blobs, file: Path, tmp_path: Path
    ) -> None:
        await blobs.put("a", file)
        there = self._folder.rename(tmp_path / "elsewhere")
        self._folder.mkdir()
        for parts in (False, True):
            if parts:
                await blobs.open()  # as by a process that starts now
            with pytest.raises(StoreUnavailableError, match="may not be mounted"):
                await blobs.head("a")
            with pytest.raises(StoreUnavailableError, match="may not be mounted"):
                await digest(blobs, "a")
            with pytest.raises(StoreUnavailableError, match="not there now"):
                await blobs.put("b", file)
            with pytest.raises(StoreUnavailableError, match="not there now"):
                await blobs.put_pieces("b", Pieces([b"x"]).run())
            assert [path for path in self._folder.rglob("*") if path.is_file()] == []
        shutil.rmtree(self._folder)
        there.rename(self._folder)
        assert (await blobs.head("a")).size == file.stat().st_size


class TestFolderByObstore(BlobsContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "blobs"

    def make_blobs(self) -> ObjectStoreBlobs:
        return ObjectStoreBlobs(f"file://{self._folder}")

    async def left_behind(self) -> int:
        return len([path for path in self._folder.rglob("*#*") if path.is_file()])


async def uploads_under_way(bucket: str) -> int:
    """Return how many uploads of parts an S3 server has in the bucket at this URL."""
    async with aiohttp.ClientSession() as session, session.get(f"{bucket}?uploads") as answer:
        answer.raise_for_status()
        return len(re.findall("<UploadId>", await answer.text()))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server; the URL of its endpoint."""
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestS3(BlobsContract):
    @pytest.fixture(autouse=True)
    async def bucket(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._s3 = s3
        self._bucket = f"bucket-{uuid.uuid4().hex}"
        async with aiohttp.ClientSession() as session:
            (await session.put(f"{s3}/{self._bucket}")).raise_for_status()
        for name, value in {
            "AWS_ENDPOINT_URL": s3,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)

    def make_blobs(self) -> ObjectStoreBlobs:
        return ObjectStoreBlobs(f"s3://{self._bucket}/some/prefix")

    async def left_behind(self) -> int:
        return await uploads_under_way(f"{self._s3}/{self._bucket}")


@pytest.mark.parametrize("url", ["nonsense", "gopher://x/y"])
async def test_a_url_that_is_none_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.blobs"):
        await ObjectStoreBlobs(url).open()


async def test_a_folder_that_can_t_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cluster\.blobs"):
        await FolderBlobs(tmp_path / "file" / "blobs").open()


async def test_a_store_that_does_not_answer_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr("upscaled.blobs.object_store._RETRIES", {"max_retries": 0})
    with pytest.raises(StoreUnavailableError):
        await ObjectStoreBlobs("s3://bucket").open()


@pytest.fixture
async def faulty(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyS3]:
    """An S3 server that can fail, with a client that does not wait for it."""
    monkeypatch.setattr("upscaled.blobs.object_store._RETRIES", {"max_retries": 0})
    monkeypatch.setattr("upscaled.blobs.object_store._TIMEOUTS", {"timeout": timedelta(seconds=1)})
    async with FaultyS3().running() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.parametrize("fault", [Fault.ERRORS, Fault.SILENCE])
async def test_a_store_that_takes_no_parts_gets_few_and_keeps_none(
    faulty: FaultyS3, fault: Fault
) -> None:
    blobs = ObjectStoreBlobs(faulty.url)
    await blobs.open()
    pieces = Pieces([bytes(CHUNK)] * 200)
    with faulty.failing(fault, ("PUT",)), pytest.raises(StoreUnavailableError):
        await blobs.put_pieces("a", pieces.run())
    assert pieces.closed
    assert 5 <= pieces.taken < 30  # two parts are under way, and one is being filled
    assert await uploads_under_way(faulty.bucket_url) == 0
    await blobs.put_pieces("a", Pieces([bytes(CHUNK)] * 12).run())
    assert (await blobs.head("a")).size == 12 * CHUNK
    await blobs.close()
