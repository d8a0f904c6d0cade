"""Archives through the client, against the real server."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

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


@contextlib.asynccontextmanager
async def through_a_proxy(
    server: Server, *, events: int, asked: list[str | None]
) -> AsyncIterator[AsyncClient]:
    """Yield a client behind a proxy that breaks each stream off after so many numbered events."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        address = f"http://127.0.0.1:{server.port}{request.path_qs}"
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        streams = request.path.endswith("/events")
        if streams:
            asked.append(headers.get("Last-Event-ID"))
        body = await request.read()
        async with (
            ClientSession() as session,
            session.request(request.method, address, data=body, headers=headers) as answer,
        ):
            if not streams:
                kind = answer.headers["Content-Type"].partition(";")[0]
                content = await answer.read()
                return web.Response(body=content, status=answer.status, content_type=kind)
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            seen = 0
            async for line in answer.content:
                if line.startswith(b"id: ") and (seen := seen + 1) > events:
                    break
                await stream.write(line)
            assert request.transport is not None
            request.transport.close()
            return stream

    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{rest:.*}", pass_on)
    async with TestServer(app) as proxy, AsyncClient(str(proxy.make_url(""))) as client:
        yield client


_PASSED = ("Accept", "Content-Type", "Last-Event-ID")


async def test_a_stream_of_events_is_taken_up_behind_the_last_page(server: Server) -> None:
    asked: list[str | None] = []
    async with through_a_proxy(server, events=3, asked=asked) as client:
        archive_id = await client.archives.submit(a_book(7), FAST, name="book.cbz")
        told = [page.number async for page in client.archives.follow(archive_id)]
    assert told == [1, 2, 3, 4, 5, 6, 7]
    assert asked == [None, "6", "12"]  # twice the page's number


async def test_where_no_events_come_through_the_pages_are_asked_for(server: Server) -> None:
    asked: list[str | None] = []
    async with through_a_proxy(server, events=0, asked=asked) as client:
        archive_id = await client.archives.submit(a_book(5), FAST, name="book.cbz")
        told = [page.number async for page in client.archives.follow(archive_id)]
    assert told == [1, 2, 3, 4, 5]
    assert asked == [None, None]


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
