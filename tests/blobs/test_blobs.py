from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from testkit.blobs_contract import BlobsContract
from testkit.ports import free_port
from upscaled.blobs.blobs import Blobs, digest
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


class TestMarkedFolder(BlobsContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "blobs"
        self._folder.mkdir()
        (self._folder / "mark").touch()

    def make_blobs(self) -> MarkedBlobs:
        return MarkedBlobs(FolderBlobs(self._folder), "mark")

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
        import aiohttp

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
