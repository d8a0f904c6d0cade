"""Archives through the client, against the real server."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from testkit.books import a_book, a_page, packed
from testkit.running import FAST_MODEL, Server
from upscaled.client import (
    ArchiveFailedError,
    ArchivePage,
    AsyncClient,
    Client,
    NoSuchJobError,
    PictureRefusedError,
)

FAST = {"model_name": FAST_MODEL, "scale": 2}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.cbz"
    path.write_bytes(a_book(7))
    return path


async def test_an_archive_goes_there_and_comes_back(
    client: AsyncClient, book: Path, tmp_path: Path
) -> None:
    told: list[ArchivePage] = []
    target = tmp_path / "large.cbz"
    status = await client.archives.upscale(book, target, FAST, on_page=told.append)
    assert (status.status, status.kind, status.pages_upscaled) == ("completed", "cbz", 7)
    assert [page.number for page in told] == [1, 2, 3, 4, 5, 6, 7]
    content = target.read_bytes()
    assert hashlib.sha256(content).hexdigest() == status.sha256
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [page.name for page in told]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.cbz", "large.cbz"]


async def test_a_stream_of_events_is_taken_up_behind_the_last_page(client: AsyncClient) -> None:
    archive_id = await client.archives.submit(a_book(5), FAST, name="book.cbz")
    await client.archives.wait(archive_id)
    rest = [
        page and page.number
        async for page in client.archives._events(archive_id, 3)  # what a broken stream leads to
    ]
    assert rest == [4, 5, None]
    polled = [page.number async for page in client.archives._done(archive_id, 2, 5)]
    assert polled == [3, 4, 5]


async def test_refusals_and_failures_are_errors(client: AsyncClient) -> None:
    with pytest.raises(PictureRefusedError, match="leads out of its folder"):
        await client.archives.submit(packed([("../1.png", a_page(1))]), FAST)
    bad = packed([("1.png", a_page(1)), ("2.png", a_page(2)[:60])])
    archive_id = await client.archives.submit(bad, FAST)
    with pytest.raises(ArchiveFailedError, match=r"The page '2.png' can't be upscaled") as ended:
        await client.archives.wait(archive_id)
    assert ended.value.archive.code == "page_failed"
    await client.archives.delete(archive_id)
    await client.archives.delete(archive_id)
    with pytest.raises(NoSuchJobError):
        await client.archives.status(archive_id)


def test_the_plain_client_has_the_same(server: Server, book: Path, tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        archive_id = client.archives.submit(book, {**FAST, "client_ref": "shelf"})
        assert client.archives.wait(archive_id).client_ref == "shelf"
        assert archive_id in [one.archive_id for one in client.archives.list()]
        assert [page.status for page in client.archives.pages(archive_id)] == ["upscaled"] * 7
        done = client.archives.download(archive_id, tmp_path / "out.cbz")
        assert done.sha256 == client.archives.status(archive_id).sha256
