"""Callers who do not read and uploads that do not say how long they are: both have bounds."""

from __future__ import annotations

import asyncio
import contextlib
import select
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.waiting import until
from upscaled.api import connections

ASSET = b"GET /api/v1/docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def never_reading(
    server: Server, count: int, window: int = 2048
) -> AsyncIterator[list[socket.socket]]:
    """Connect, ask for more than the network holds, and read nothing."""
    loop = asyncio.get_running_loop()
    sockets = []
    try:
        for _ in range(count):
            connection = socket.socket()
            sockets.append(connection)
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await loop.sock_connect(connection, ("127.0.0.1", server.port))
            await loop.sock_sendall(connection, ASSET * 6)
        yield sockets
    finally:
        for connection in sockets:
            connection.close()


async def ended(connection: socket.socket) -> bool:
    """Wait until the connection was broken off, without reading from it."""
    poll = select.poll()
    poll.register(connection, 0)  # errors are told in any case
    return bool(await asyncio.to_thread(poll.poll, 30_000))


async def test_callers_who_never_read_make_room_for_others(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REPLACED_AFTER_SECONDS", 0.5)
    small = serve(server__max_connections="5")
    async with never_reading(small, 5):
        async with asyncio.timeout(30):
            while True:
                async with Api(small) as api:
                    with contextlib.suppress(AssertionError):  # 503 until they count as stalled
                        assert (await api.get("/models")).status == 200
                        break


async def test_a_response_that_is_not_taken_is_given_up(serve: Callable[..., Server]) -> None:
    strict = serve(server__send_timeout_seconds="0.5")
    async with never_reading(strict, 1) as (connection,):
        assert await ended(connection)


async def test_a_caller_who_reads_slowly_but_steadily_gets_it_all(
    serve: Callable[..., Server],
) -> None:
    strict = serve(server__send_timeout_seconds="2")
    loop = asyncio.get_running_loop()
    async with never_reading(strict, 1, window=1 << 16) as (connection,):
        received = 0
        async with asyncio.timeout(60):
            while received < 2_000_000:
                piece = await loop.sock_recv(connection, 65536)
                assert piece, "the server gave up"
                received += len(piece)
                await asyncio.sleep(0.01)  # reading slowly is what is tested


async def test_idle_connections_make_room_for_new_ones(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REPLACED_AFTER_SECONDS", 0.0)
    small = serve(server__max_connections="1")
    async with Api(small) as first, Api(small) as second:
        for _ in range(3):
            assert (await first.get("/models")).status == 200
            assert (await second.get("/models")).status == 200


HEAD = (
    b"POST /api/v1/upscale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


async def chunked_upload(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEAD + chunk(PART))
    return reader, writer


async def test_a_chunked_upload_ends_where_the_disk_does(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    room = (64 << 20) + (10 << 20)  # the reserve, and ten MiB

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=room - sum(path.stat().st_size for path in server.uploads()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    reader, writer = await chunked_upload(server)
    with contextlib.suppress(ConnectionError):
        for _ in range(30):
            writer.write(chunk(bytes(1 << 20)))
            await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 507")
    writer.transport.abort()
    await until(lambda: not server.uploads())
    monkeypatch.undo()
    async with Api(server) as api:
        assert (await api.upscale(a_picture(), {"model_name": FAST_MODEL})).status == 202


async def test_uploads_in_progress_count_for_the_disk_before_they_have_come(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    usage = SimpleNamespace(total=1 << 30, used=0, free=(64 << 20) + (150 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /api/v1/upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" % (149 << 20) + PART
    )
    await writer.drain()
    async with asyncio.timeout(20), Api(server) as api:
        await until(lambda: server.service.submissions.uploading)
        answer = await api.upscale(a_picture(), {"model_name": FAST_MODEL})
        assert (answer.status, answer.json["code"]) == (507, "insufficient_storage")
        writer.transport.abort()
        while (answer := await api.upscale(a_picture(), {"model_name": FAST_MODEL})).status == 507:
            pass
        assert answer.status == 202
    assert reader.exception() is None


@pytest.mark.parametrize("trusted", ["127.0.0.1"])
async def test_one_client_leaves_places_for_others(
    serve: Callable[..., Server], trusted: str
) -> None:
    server = serve(limits__max_queue_size="10", server__trusted_proxies=trusted)
    held = []
    for _ in range(5):
        _, writer = await chunked_upload(server)
        held.append(writer)
    async with Api(server) as api:
        async with asyncio.timeout(20):
            while (answer := await api.upscale(a_picture())).status == 202:
                await api.post(f"/cancel/{answer.json['job_id']}")
        assert (answer.status, answer.json["code"]) == (503, "queue_full")
        assert answer.json["error"].startswith("You have 5 uploads in progress")
        assert answer.headers["retry-after"] == "5"
        other = await api.post(
            "/upscale",
            data=PART + a_picture() + b"\r\n--b--\r\n",
            headers={
                "Content-Type": "multipart/form-data; boundary=b",
                "X-Forwarded-For": "198.51.100.7",
            },
        )
        assert other.status == 202
    for writer in held:
        writer.transport.abort()
