"""The client against servers that are busy, break off, or are none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from upscaled.client import (
    AccessRefusedError,
    AsyncClient,
    BusyError,
    DamagedDownloadError,
    FieldRefusedError,
    PictureRefusedError,
    Retries,
    UnexpectedAnswerError,
    UnreachableError,
)

JOB = "1769781953720134401"
CONTENT = bytes(range(256)) * 2000
QUICK = Retries(total_seconds=5, first_seconds=0.01, longest_seconds=0.02)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(**handlers: Handler):  # type: ignore[no-untyped-def]
    """Run a server whose paths begin with the names of ``handlers``; yield a client of it."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_route("*", f"/api/v1/{name}{{rest:.*}}", handler)
    async with (
        TestServer(app) as server,
        AsyncClient(str(server.make_url("")), token="secret", retries=QUICK) as client,
    ):
        yield client


def refusal(status: int, code: str, **headers: str) -> web.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    content = {"success": False, "error": f"This is {code}.", "code": code}
    return web.json_response(content, status=status, headers=sent)


async def test_a_repeated_submission_waits_as_told_and_has_one_key() -> None:
    keys, moments = [], []

    async def upscale(request: web.Request) -> web.Response:
        keys.append(request.headers["Idempotency-Key"])
        moments.append(asyncio.get_running_loop().time())
        form = await request.post()
        picture = form["image"]
        assert isinstance(picture, web.FileField)
        assert picture.file.read() == b"picture"
        if len(keys) == 1:
            return refusal(503, "queue_full", Retry_After="1")
        if len(keys) == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"success": True, "job_id": JOB}, status=202)

    async with serving(upscale=upscale) as client:
        assert await client.submit(b"picture") == JOB
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert moments[1] - moments[0] >= 1


async def test_a_pause_that_is_longer_than_the_patience_ends_at_once() -> None:
    asked = []

    async def upscale(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return refusal(429, "rate_limited", Retry_After="3600")

    async with serving(upscale=upscale) as client:
        with pytest.raises(BusyError, match="This is rate_limited") as told:
            await client.submit(b"picture")
    assert (told.value.code, told.value.retry_after, len(asked)) == ("rate_limited", 3600, 1)


async def test_a_wrong_token_is_not_tried_again() -> None:
    asked = []

    async def status(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        return refusal(401, "unauthorized")

    async with serving(status=status) as client:
        with pytest.raises(AccessRefusedError):
            await client.status(JOB)
    assert asked == ["Bearer secret"]


@pytest.mark.parametrize("how", ["none", "breaks", "another kind"])
async def test_where_no_events_come_through_the_status_is_polled(how: str) -> None:
    asked = 0

    async def events(request: web.Request) -> web.StreamResponse:
        if how == "none":
            return refusal(503, "too_many_connections", Retry_After="5")
        if how == "another kind":
            return web.Response(text="<html>")
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"retry: 10\n\n: comment\n\nid: 2\nda")
        assert request.transport is not None
        request.transport.abort()
        return stream

    async def status(_request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        state = {"status": "processing", "progress": 50}
        if asked == 2:
            state = {"status": "completed", "progress": 100}
        return web.json_response({"job_id": JOB, **state})

    async with serving(events=events, status=status) as client:
        told: list[int | None] = []
        done = await client.wait(JOB, lambda one: told.append(one.progress))
    assert (done.status, told) == ("completed", [50, 100])


async def test_a_stream_that_breaks_goes_on_after_its_last_event() -> None:
    last = []

    async def events(request: web.Request) -> web.StreamResponse:
        last.append(request.headers.get("Last-Event-ID"))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        state = '"processing","progress":7' if len(last) == 1 else '"completed","progress":100'
        await stream.write(b'id: 14\nevent: update\ndata: {"job_id":"1","status":%b}\n\n'
                           % state.encode())  # fmt: skip
        if len(last) == 1:
            assert request.transport is not None
            request.transport.close()
        return stream

    async with serving(events=events) as client:
        told = [status.progress async for status in client.follow(JOB)]
    assert told == [7, 100]
    assert last == [None, "14"]


async def test_streams_that_break_off_without_news_are_not_opened_without_end() -> None:
    opened = 0

    async def events(request: web.Request) -> web.StreamResponse:
        nonlocal opened
        opened += 1
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b'id: 14\ndata: {"job_id":"1","status":"processing","progress":7}\n\n')
        assert request.transport is not None
        request.transport.close()
        return stream

    async def status(_request: web.Request) -> web.Response:
        return web.json_response({"job_id": JOB, "status": "completed", "progress": 100})

    async with serving(events=events, status=status) as client, asyncio.timeout(20):
        assert (await client.wait(JOB)).status == "completed"
    assert opened == 2  # the second one had no event with another id


def sends(content: bytes, piece: int, digest_of: bytes = CONTENT, asked: list[str] | None = None):  # type: ignore[no-untyped-def]
    """Return a handler that breaks every download off after ``piece`` bytes."""
    digest = base64.b64encode(hashlib.sha256(digest_of).digest()).decode()

    async def download(request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        if asked is not None:
            asked.append(wanted or "")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            return refusal(416, "range_not_satisfiable")
        answer = web.StreamResponse(
            status=206 if wanted else 200,
            headers={
                "Content-Length": str(len(content) - start),
                "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}",
                "Repr-Digest": f"sha-256=:{digest}:",
            },
        )
        await answer.prepare(request)
        await answer.write(content[start : start + piece])
        if start + piece < len(content):
            assert request.transport is not None
            request.transport.close()
        return answer

    return download


async def test_a_download_that_breaks_off_is_continued(tmp_path: Path) -> None:
    asked: list[str] = []
    async with serving(download=sends(CONTENT, 150_000, asked=asked)) as client:
        done = await client.download(JOB, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == CONTENT
    assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert asked[0] == ""
    assert asked[-1].startswith("bytes=")
    assert len(asked) >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


async def test_a_later_run_continues_what_a_killed_one_left(tmp_path: Path) -> None:
    asked: list[str] = []
    (tmp_path / f".out.png.{JOB}.part").write_bytes(CONTENT[:1000])
    async with serving(download=sends(CONTENT, len(CONTENT), asked=asked)) as client:
        await client.download(JOB, tmp_path / "out.png")
    assert asked == ["bytes=999-"]
    assert (tmp_path / "out.png").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"longer" * 9])
async def test_what_is_left_of_something_else_is_dropped(tmp_path: Path, left: bytes) -> None:
    (tmp_path / f".out.png.{JOB}.part").write_bytes(left)
    async with serving(download=sends(CONTENT, len(CONTENT))) as client:
        await client.download(JOB, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == CONTENT


async def test_a_damaged_download_takes_no_files_place(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"before")
    async with serving(download=sends(CONTENT, len(CONTENT), digest_of=b"other")) as client:
        with pytest.raises(DamagedDownloadError):
            await client.download(JOB, tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"before"


async def test_a_proxy_that_refuses_a_large_picture_is_no_end_of_the_server() -> None:
    async def upscale(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=413, text="<html>413 Request Entity Too Large</html>")

    async with serving(upscale=upscale) as client:
        with pytest.raises(PictureRefusedError, match="larger than a proxy") as told:
            await client.submit(b"picture")
    assert told.value.code == "too_large"


async def test_what_is_no_server_gets_its_sentence() -> None:
    async def other(_request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>")

    async def elsewhere(_request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": "https://example.org/"})

    async with serving(models=other, status=elsewhere) as client:
        with pytest.raises(UnexpectedAnswerError, match="check the address"):
            await client.models()
        with pytest.raises(UnexpectedAnswerError, match="redirects to https"):
            await client.status(JOB)
    with pytest.raises(FieldRefusedError, match="it must be one such as"):
        AsyncClient("localhost:8089")
    async with AsyncClient("http://127.0.0.1:9", retries=Retries(0)) as nobody:
        with pytest.raises(UnreachableError, match="can't be reached"):
            await nobody.health()
